//! `netbpf switch`: the same network from one datapath to the other and back, and what
//! becomes of the connections that it has.

use netbpf_tests::{
    Host, Netns, OUTSIDE, UPLINK, at,
    recipe::{ARGUMENTS, with_each_fault, works},
    sample,
    traffic::{Echo, TcpClient, TcpServer, UdpClient, UdpServer, connect, connect_from, ping},
    truth::tells_the_truth,
    wait,
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

/// The port that both namespaces connect from: one of them gets another one outside.
const SAME: u16 = 5555;

fn up(host: &Host, datapath: &str) {
    host.netbpf(&format!("up --datapath {datapath} --uplink up0 {ARGUMENTS}")).ok();
}

fn switch(host: &Host, datapath: &str) {
    host.netbpf(&format!("switch netbpf0 --datapath {datapath}")).ok().says(datapath);
}

/// Connections of each kind that a network has.
struct Live {
    /// What they are, each with its connection and with whom the server takes it for.
    tcp: Vec<(&'static str, TcpClient, SocketAddr)>,
    out: UdpClient,
    into: UdpClient,
    dns: UdpServer,
    published: UdpServer,
    _servers: [TcpServer; 2],
}

impl Live {
    fn begin(host: &Host, ns1: &Netns, ns2: &Netns) -> Self {
        let servers = [TcpServer::start(ns1, 80), TcpServer::start(host.outside(), 443)];
        let from = |port| at(Ipv4Addr::UNSPECIFIED, port);
        let open: [(&'static str, io::Result<TcpClient>); 7] = [
            ("outwards", connect(ns1, at(OUTSIDE, 443))),
            ("outwards from the same port", connect_from(ns1, from(SAME), at(OUTSIDE, 443))),
            ("outwards by another port", connect_from(ns2, from(SAME), at(OUTSIDE, 443))),
            ("inwards", connect(host.outside(), at(UPLINK, 8080))),
            ("hairpinned", connect(ns2, at(UPLINK, 8080))),
            ("hairpinned to itself", connect(ns1, at(UPLINK, 8080))),
            ("localhost", connect(host.netns(), at(Ipv4Addr::LOCALHOST, 8080))),
        ];
        let mut tcp = Vec::new();
        for (name, client) in open {
            let mut client = client.unwrap_or_else(|e| panic!("{name}: {e}"));
            let seen_as = client.who_am_i().unwrap_or_else(|e| panic!("{name}: {e}"));
            tcp.push((name, client, seen_as));
        }
        let (dns, published) = (UdpServer::start(host.outside(), 53), UdpServer::start(ns1, 7000));
        let (out, into) = (UdpClient::on_port(ns2, 5000), UdpClient::new(host.outside()));
        let live = Self { tcp, out, into, dns, published, _servers: servers };
        live.datagrams();
        live
    }

    /// Datagrams go to and fro, in what is one flow to both servers.
    fn datagrams(&self) {
        self.out.exchange(at(OUTSIDE, 53), b"outwards");
        self.into.exchange(at(UPLINK, 9000), b"inwards");
        assert_eq!(self.dns.peers().len(), 1, "{:?}", self.dns.peers());
        assert_eq!(self.published.peers().len(), 1, "{:?}", self.published.peers());
    }

    /// All of them go on, as those that they were.
    fn goes_on(&mut self) {
        for (name, client, seen_as) in &mut self.tcp {
            client.echo(&sample(50_000)).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(client.who_am_i().expect("an answer"), *seen_as, "{name}");
        }
        self.datagrams();
    }
}

/// Outwards, inwards, hairpinned, from localhost; those that had kept their port and
/// those that had not.
#[test]
fn idle_connections_live_on() {
    let host = Host::new();
    for (from, to) in [("ebpf", "iptables"), ("iptables", "ebpf")] {
        up(&host, from);
        let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
        let mut live = Live::begin(&host, &ns1, &ns2);
        for kind in [to, from, to] {
            switch(&host, kind);
            live.goes_on();
            host.netbpf(&format!("up --uplink up0 {ARGUMENTS}")).ok().complains("nothing to do");
        }
        drop(live);
        works(&host);
        host.netbpf("down --all").ok();
        host.assert_as_before();
    }
}

/// What comes first after a switch comes from outside: an answer that was long in
/// coming, and what the client of a published port has to say.
#[test]
fn the_first_packet_after_a_switch_may_come_from_outside() {
    let host = Host::new();
    up(&host, "iptables");
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let udp = UdpServer::start(host.outside(), 53);
    let client = UdpClient::on_port(&ns2, 5000);
    let taken = UdpClient::on_port(&ns1, 5000);
    taken.exchange(at(OUTSIDE, 53), b"mine");
    client.exchange(at(OUTSIDE, 53), b"before");
    let peers = udp.peers();
    let to = peers.iter().find(|peer| peer.port() != 5000).copied();
    drop(udp);
    let to = to.unwrap_or_else(|| panic!("one of them has another port: {peers:?}"));
    let SocketAddr::V4(to) = to else { panic!("{to} is of IPv4") };
    for kind in ["ebpf", "iptables", "ebpf"] {
        switch(&host, kind);
        let server = UdpClient::on_port(host.outside(), 53);
        server.send(to, kind.as_bytes()).expect("sent");
        let (data, from) = client.receive().unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!((data.as_slice(), from), (kind.as_bytes(), at(OUTSIDE, 53).into()));
    }
}

/// A connection on which data never ceases to go to and fro.
struct Stream {
    name: &'static str,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<io::Result<()>>,
}

impl Stream {
    fn begin(name: &'static str, mut client: TcpClient) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = thread::spawn(move || {
            let data = sample(8_000);
            while !stopped.load(Ordering::Relaxed) {
                client.echo(&data)?;
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Self { name, stop, rounds, thread }
    }

    /// Waits until a few more rounds are done.
    fn goes_on(&self, when: &str) {
        let enough = self.rounds.load(Ordering::Relaxed) + 20;
        let what = format!("{} goes on {when}", self.name);
        wait::until_true(&what, || {
            assert!(!self.thread.is_finished(), "{} has broken {when}", self.name);
            self.rounds.load(Ordering::Relaxed) >= enough
        });
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let done = self.thread.join().expect("no panic");
        done.unwrap_or_else(|e| panic!("{}: {e}", self.name));
    }
}

#[test]
fn streams_go_on_through_many_switches() {
    let host = Host::new();
    up(&host, "iptables");
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let live = Live::begin(&host, &ns1, &ns2);
    let Live { tcp, _servers, .. } = live;
    let streams: Vec<Stream> =
        tcp.into_iter().map(|(name, client, _)| Stream::begin(name, client)).collect();
    for kind in ["ebpf", "iptables", "ebpf", "iptables", "ebpf"] {
        for stream in &streams {
            stream.goes_on(&format!("before {kind}"));
        }
        switch(&host, kind);
        for stream in &streams {
            stream.goes_on(&format!("after {kind}"));
        }
    }
    streams.into_iter().for_each(Stream::end);
}

#[test]
fn a_switch_that_fails_or_is_killed_is_mended_by_up_and_by_down() {
    let host = Host::new();
    for (from, to) in [("ebpf", "iptables"), ("iptables", "ebpf")] {
        let build = format!("up --datapath {from} --uplink up0 {ARGUMENTS}");
        let switch = format!("switch netbpf0 --datapath {to}");
        for fault in ["kill", "fail"] {
            host.netbpf(&build).ok();
            with_each_fault(&host, &switch, fault, |step, outcome| {
                assert_ne!(outcome.code, Some(0));
                let when = format!("{from} to {to}, {fault} at step {step}");
                eprintln!("{when}");
                tells_the_truth(&host, &when);
                match step % 3 {
                    0 => drop(host.netbpf(&switch).ok()),
                    1 => drop(host.netbpf(&format!("up --uplink up0 {ARGUMENTS}")).ok()),
                    _ => {}
                }
                if step % 3 < 2 {
                    assert!(ping(&host.ns("ns1"), OUTSIDE, Echo::default()).is_reply());
                    let status = host.netbpf("status").ok();
                    assert!(!status.stdout.contains("differ"), "{status}");
                }
                host.netbpf("down --all").ok();
                host.assert_as_before();
                host.netbpf(&build).ok();
            });
            works(&host);
            host.netbpf("down --all").ok();
        }
    }
}

/// There and back, with a network of either kind beside it.
#[test]
fn switching_leaves_other_networks_alone() {
    let host = Host::new();
    host.netbpf("up --uplink up0 --name e --ns-prefix e --subnet 172.20.0.0/24 --namespaces 1")
        .ok();
    host.netbpf(
        "up --datapath iptables --uplink up0 --name i --ns-prefix i --subnet 172.21.0.0/24 \
         --namespaces 1",
    )
    .ok();
    host.netbpf(&format!("up --uplink up0 {ARGUMENTS}")).ok();
    for kind in ["iptables", "ebpf", "iptables"] {
        host.netbpf(&format!("switch netbpf0 --datapath {kind}")).ok();
        for name in ["e1", "i1"] {
            let ns = host.ns(name);
            assert!(ping(&ns, OUTSIDE, Echo::default()).is_reply(), "{name} with {kind}");
        }
        works(&host);
    }
}
