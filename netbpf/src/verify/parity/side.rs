//! One of the two networks that are compared: a sandbox, the network in it, and
//! everybody who speaks and listens there.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, BorrowedFd},
    process::Command,
};

use netbpf_common::MacAddr;

use super::{
    answer,
    capture::Arrival,
    normalise::{Stations, id_of_step},
    scenario::{Frame, IPV4, Scenario, VLAN, What},
    socket::{self, Tap},
    stage::{self, Place, Station},
    tracker::Tracker,
};
use crate::{
    error::{Context as _, Error, Result},
    namespace::Namespace,
    net::{Netlink, ethtool},
    sandbox::{Sandbox, World},
    session::block_on,
    topology::{INSIDE, Subnet},
};

/// The bridge of the network, and its name.
const NETWORK: &str = "netbpf0";

/// The uplink.
const UPLINK: &str = "eth0";

/// Sysctls by which kernels answer everything, at once, and say nothing that
/// they have not been asked for. Those that a kernel lacks it does not need.
const SYSCTLS: [(&str, &str); 18] = [
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv4/icmp_msgs_per_sec", "1000000"),
    ("ipv4/icmp_msgs_burst", "1000000"),
    ("ipv4/tcp_invalid_ratelimit", "0"),
    ("ipv4/tcp_timestamps", "0"),
    ("ipv4/tcp_synack_retries", "0"),
    ("ipv4/tcp_syncookies", "0"),
    ("ipv4/igmp_link_local_mcast_reports", "0"),
    // How many redirects there are depends on what there was before.
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/eth0/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    // What is not whole is not told of minutes later.
    ("ipv4/ipfrag_time", "7200"),
    ("ipv4/ipfrag_high_thresh", "67108864"),
    // What is bridged is not what rules are about.
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
    ("bridge/bridge-nf-call-arptables", "0"),
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
];

/// Largest packet on the wire to outside: more than namespaces take.
const WIRE_MTU: u32 = 1700;

/// The MAC of the addresses that nobody has.
const NOBODYS: [u8; 6] = [2, 0, 0, 0, 0, 0xc8];

/// Begins what a server of ours answers, so that two of them do not answer each
/// other.
const ANSWER: &[u8] = b"re:";

/// A network, and everybody in it.
#[derive(Debug)]
pub struct Side {
    /// The datapath that moves its packets.
    pub datapath: &'static str,
    /// Whose MAC is which.
    pub stations: Stations,
    /// What has come in this scenario.
    pub arrivals: Vec<Arrival>,
    /// What has come too late: it is of an earlier scenario.
    pub late: usize,
    /// The IP packets that were sent in this scenario, by step.
    pub sent: Vec<Option<Vec<u8>>>,
    sandbox: Sandbox,
    taps: Vec<(Place, Tap)>,
    echoes: Vec<UdpSocket>,
    listeners: Vec<TcpListener>,
    /// Who has connected: it is acknowledged what they say, and nothing said.
    connected: Vec<TcpStream>,
    tracker: Tracker,
}

impl Side {
    /// Builds the network in a sandbox of its own, with namespaces that are isolated or not.
    ///
    /// # Errors
    /// What went wrong.
    pub fn build(datapath: &'static str, isolate: bool) -> Result<Self> {
        let world = World { offloads: false, mtu: WIRE_MTU, ..World::default() };
        let sandbox = Sandbox::new(&world)?;
        // Before there are interfaces, which would have what was set before.
        for namespace in [sandbox.host(), sandbox.outside()] {
            calm(namespace)?;
        }
        bring_up(&sandbox, datapath, isolate)?;
        let tracker = sandbox.host().run(Tracker::open)??;
        let mut side = Self {
            datapath,
            stations: Stations::new(),
            arrivals: Vec::new(),
            late: 0,
            sent: Vec::new(),
            taps: Vec::new(),
            echoes: Vec::new(),
            listeners: Vec::new(),
            connected: Vec::new(),
            tracker,
            sandbox,
        };
        side.furnish()?;
        Ok(side)
    }

    /// The sandbox's host, for whoever wants to change something there.
    #[must_use]
    pub fn host(&self) -> &Namespace {
        self.sandbox.host()
    }

    /// The namespace that is in a place.
    fn namespace(&self, place: Place) -> Result<Namespace> {
        match place {
            Place::Host => Ok(self.sandbox.host().clone()),
            Place::Outside => Ok(self.sandbox.outside().clone()),
            Place::Ns(number) => self.sandbox.namespace(&format!("ns{number}")),
        }
    }

    /// Lets everybody know everybody, and opens all sockets.
    fn furnish(&mut self) -> Result<()> {
        for place in Place::ALL {
            let namespace = self.namespace(place)?;
            calm(&namespace)?;
            let links = namespace.run(|| prepare_links(place))??;
            for (name, mac) in links {
                self.stations.extend(station(place, &name).map(|station| (mac.octets(), station)));
            }
        }
        let stations = self.stations.clone();
        for place in Place::ALL {
            let namespace = self.namespace(place)?;
            namespace.run(|| introduce(place, &stations))??;
            let what = || format!("cannot listen at {place} of a sandbox");
            let tap = namespace.run(|| match place {
                Place::Host => Tap::packets(),
                Place::Ns(_) | Place::Outside => Tap::frames(INSIDE),
            })?;
            self.taps.push((place, tap.context(what())?));
            for addr in served(place) {
                let at = SocketAddrV4::new(addr, stage::OPEN);
                let (udp, tcp) = namespace.run(|| (echo(at), listen(at)))?;
                self.echoes.push(udp.context(what())?);
                self.listeners.push(tcp.context(what())?);
            }
        }
        Ok(())
    }

    /// Begins a scenario: nothing of an earlier one counts any more.
    ///
    /// # Errors
    /// A connection cannot be given up without a word.
    pub fn begin(&mut self) -> Result<()> {
        for stream in self.connected.drain(..) {
            socket::forget(&stream).context("cannot give a connection up")?;
        }
        self.arrivals.clear();
        self.sent.clear();
        Ok(())
    }

    /// Sends what a step says: an answer, or an error, is about `arrival`. Whether
    /// there was something to send.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn send(
        &mut self,
        scenario: &Scenario,
        number: usize,
        arrival: Option<&Arrival>,
    ) -> io::Result<bool> {
        let Some(step) = scenario.steps.get(number) else { return Ok(false) };
        let (link, packet) = match (&step.what, arrival) {
            (What::Frame(frame), _) => (Some(self.header(frame)), frame.payload.clone()),
            (What::Packet(packet) | What::Train { packet, .. }, _) => {
                (self.usual_header(step.from), packet.clone())
            }
            (What::Answer(_) | What::Error(_), Some(arrival)) => {
                let id = id_of_step(scenario, number);
                let Some(packet) = answer::build(&step.what, id, arrival) else {
                    return Ok(false);
                };
                let back = arrival.link.as_ref().map(|link| {
                    let other = |mac| Station::Other(MacAddr::new(mac));
                    self.header(&Frame::new(other(link.src), other(link.dst), IPV4, Vec::new()))
                });
                (back, packet)
            }
            (What::Answer(_) | What::Error(_), None) => return Ok(false),
        };
        let Some((_, tap)) = self.taps.iter().find(|(place, _)| *place == step.from) else {
            return Ok(false);
        };
        let bytes = [&link.unwrap_or_default()[..], &packet].concat();
        self.sent.resize(number, None);
        self.sent.push(Some(packet));
        match step.what {
            What::Train { size, .. } => tap.send_train(&bytes, size)?,
            _ => tap.send(&bytes)?,
        }
        Ok(true)
    }

    /// How many packets the host's connection tracking has taken for invalid, ever.
    ///
    /// # Errors
    /// It does not say.
    pub fn invalid(&self) -> Result<u64> {
        self.tracker.invalid()
    }

    /// The header of the frame that takes a packet to the gateway; a host's packets
    /// have none.
    fn usual_header(&self, from: Place) -> Option<Vec<u8>> {
        let (dst, src) = match from {
            Place::Ns(ns) => (Station::Gateway, Station::Ns(ns)),
            Place::Outside => (Station::Uplink, Station::Outside),
            Place::Host => return None,
        };
        Some(self.header(&Frame::new(dst, src, IPV4, Vec::new())))
    }

    fn header(&self, frame: &Frame) -> Vec<u8> {
        let mut bytes = [self.mac(frame.dst), self.mac(frame.src)].concat();
        for tag in &frame.tags {
            bytes.extend(VLAN.to_be_bytes());
            bytes.extend(tag.to_be_bytes());
        }
        bytes.extend(frame.ethertype.to_be_bytes());
        bytes
    }

    fn mac(&self, station: Station) -> [u8; 6] {
        match station {
            Station::Other(mac) => mac.octets(),
            named => {
                let found = self.stations.iter().find(|(_, other)| *other == named);
                found.map_or([0; 6], |(mac, _)| *mac)
            }
        }
    }

    /// The sockets that something may come by.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let taps = self.taps.iter().flat_map(|(_, tap)| tap.sockets());
        let listeners = self.listeners.iter().map(|socket| socket.as_fd());
        taps.chain(self.echoes.iter().map(|socket| socket.as_fd())).chain(listeners)
    }

    /// Takes what has come; how much it was. Servers answer.
    pub fn collect(&mut self, scenario: u16, step: usize) -> usize {
        let mut count = self.serve();
        for (place, tap) in &self.taps {
            for (link, bytes, pending) in tap.captured() {
                count += 1;
                let arrival =
                    Arrival { step, place: *place, link, bytes, pending, in_parts: false };
                match arrival.scenario() {
                    Some(other) if other != scenario => self.late += 1,
                    Some(_) | None => self.arrivals.push(arrival),
                }
            }
        }
        count
    }

    fn serve(&mut self) -> usize {
        let mut count = 0;
        for listener in &self.listeners {
            while let Ok((stream, _)) = listener.accept() {
                count += 1;
                self.connected.push(stream);
            }
        }
        let mut bytes = vec![0; 1 << 16];
        for socket in &self.echoes {
            // An ICMP error that has come for the socket is an error of it, once.
            while let Some(received) = match socket.recv_from(&mut bytes) {
                Ok(received) => Some(Some(received)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(_) => Some(None),
            } {
                count += 1;
                let Some((len, peer)) = received else { continue };
                if !bytes[..len].starts_with(ANSWER) {
                    // Who cannot be answered is not: the same on the other side.
                    let _ = socket.send_to(&[ANSWER, &bytes[..len]].concat(), peer);
                }
            }
        }
        count
    }
}

/// Runs `netbpf up` in the sandbox.
fn bring_up(sandbox: &Sandbox, datapath: &str, isolate: bool) -> Result<()> {
    let count = stage::NAMESPACES.to_string();
    let mut arguments = vec!["--quiet", "up", "--name", NETWORK, "--uplink", UPLINK];
    arguments.extend(["--mtu", "1500"]);
    arguments.extend(["--namespaces", &count, "--datapath", datapath]);
    if isolate {
        arguments.extend(["--isolate", "--allow", stage::ALLOWED]);
    }
    let specs: Vec<String> = stage::PUBLISHED.iter().flat_map(stage::Published::specs).collect();
    for spec in &specs {
        arguments.extend(["--publish", spec]);
    }
    let mut command: Command = sandbox.netbpf(&arguments);
    let output = command.output().context("cannot start netbpf in a sandbox")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("error: ");
    Err(Error::failed(format!("there is no network on the {datapath} datapath"))
        .because(said.lines().map(str::trim).collect::<Vec<_>>().join("; ")))
}

/// Sets the namespace's sysctls.
fn calm(namespace: &Namespace) -> Result<()> {
    namespace.run(|| {
        for (name, value) in SYSCTLS {
            match fs::write(format!("/proc/sys/net/{name}"), value) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(error).context(format!("cannot set {name} to {value}"))?;
                }
                _ => {}
            }
        }
        Ok(())
    })?
}

/// Switches offloads off at all interfaces of the namespace that this thread is
/// in; which there are.
fn prepare_links(place: Place) -> Result<Vec<(String, MacAddr)>> {
    let links = block_on(async { Netlink::here()?.links().await })?;
    let mut found = Vec::new();
    for link in links.into_iter().filter(|link| !link.loopback) {
        // A bridge has those of its ports.
        // (One namespace sends trains of segments.)
        if link.kind.as_deref() == Some("veth") && place != Place::Ns(stage::TRAINS) {
            ethtool::switch_offloads_off(&link.name)?;
        }
        found.extend(link.mac.map(|mac| (link.name, mac)));
    }
    Ok(found)
}

/// Whose MAC the interface's is.
fn station(place: Place, interface: &str) -> Option<Station> {
    match (place, interface) {
        (Place::Ns(number), INSIDE) => Some(Station::Ns(number)),
        (Place::Outside, INSIDE) => Some(Station::Outside),
        (Place::Host, UPLINK) => Some(Station::Uplink),
        (Place::Host, NETWORK) => Some(Station::Gateway),
        _ => None,
    }
}

/// Tells the namespace that this thread is in who has which MAC, so that nobody
/// asks; and whom it has no way back to.
fn introduce(place: Place, stations: &Stations) -> Result<()> {
    block_on(async {
        let netlink = Netlink::here()?;
        let (inside, uplink) = match place {
            Place::Host => (Some(NETWORK), Some(UPLINK)),
            Place::Ns(_) => (Some(INSIDE), None),
            Place::Outside => (None, Some(INSIDE)),
        };
        for (mac, station) in stations {
            let (addr, interface) = match station {
                Station::Ns(number) => (stage::address(*number), inside),
                Station::Gateway => (stage::GATEWAY, inside),
                Station::Uplink => (stage::UPLINK, uplink),
                Station::Outside => (stage::OUTSIDE, uplink),
                Station::Other(_) => continue,
            };
            let own = matches!((place, station), (Place::Ns(a), Station::Ns(b)) if a == *b)
                || matches!((place, station), (Place::Host, Station::Gateway | Station::Uplink))
                || matches!((place, station), (Place::Outside, Station::Outside));
            if let (Some(interface), false) = (interface, own) {
                let index = netlink.index(interface).await?;
                netlink.set_neighbour(index, addr, MacAddr::new(*mac)).await?;
            }
        }
        // Nobody is not asked for either: that would go on for seconds.
        for (addr, interface) in [(stage::NOBODY, inside), (stage::NETWORK_ADDRESS, inside)] {
            let Some(interface) = interface else { continue };
            let index = netlink.index(interface).await?;
            netlink.set_neighbour(index, addr, MacAddr::new(NOBODYS)).await?;
        }
        if let (Place::Host, Some(uplink)) = (place, uplink) {
            let index = netlink.index(uplink).await?;
            let (to, mtu) = (stage::narrow_subnet(), stage::NARROW_MTU);
            netlink.add_narrow_route(to, stage::OUTSIDE, index, mtu).await?;
        }
        let Place::Ns(number) = place else { return Ok(()) };
        for silent in silent_to(number) {
            netlink.add_blackhole(silent).await?;
        }
        Ok(())
    })
}

/// To whom the kernel of a namespace is silent: routes longer than those that
/// it has.
fn silent_to(number: u8) -> Vec<Subnet> {
    let net = |a, b, d, len| Subnet::containing(Ipv4Addr::new(a, b, 0, d), len);
    if number <= 2 {
        vec![net(198, 18, 0, 16)]
    } else {
        vec![net(0, 0, 0, 1), net(128, 0, 0, 1), net(172, 19, 0, 25), net(172, 19, 128, 25)]
    }
}

/// The addresses at which there are servers.
fn served(place: Place) -> Vec<Ipv4Addr> {
    match place {
        Place::Ns(1) => vec![stage::address(1)],
        Place::Outside => vec![stage::OUTSIDE],
        Place::Host => vec![stage::UPLINK, stage::GATEWAY, Ipv4Addr::LOCALHOST],
        Place::Ns(_) => Vec::new(),
    }
}

fn echo(at: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(at)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listen(at: SocketAddrV4) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
