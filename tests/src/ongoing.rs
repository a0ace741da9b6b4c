//! What is to go on while programs are replaced: datagrams, flows and streams.

use crate::{
    Host, NS2, Netns, OUTSIDE, UPLINK, at, sample,
    traffic::{Metered, Metering, TcpClient, TcpServer, connect},
    wait,
};
use netbpf::bpf::{Attachment, Datapath, Hook};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

/// The source port of the first flow, the next one's is one more, and so on.
const FIRST_PORT: u16 = 20_000;

/// The directory of the host's pins.
pub fn pin_dir(host: &Host) -> PathBuf {
    host.sandbox().run(|| {
        let all = std::fs::read_dir("/sys/fs/bpf/netbpf").expect("pins");
        let mut dirs: Vec<PathBuf> = all.map(|entry| entry.expect("an entry").path()).collect();
        assert_eq!(dirs.len(), 1, "one datapath, and nothing beside it: {dirs:?}");
        dirs.swap_remove(0)
    })
}

/// Has filters on clsact qdiscs in the place of TCX links, as kernels before 6.6 do.
pub fn attach_by_filters(host: &Host) {
    let pin_dir = pin_dir(host);
    host.netns().run(|| {
        let datapath = Datapath::open(&pin_dir).expect("it opens").expect("a datapath");
        let links = std::fs::read_dir(pin_dir.join("links")).expect("links");
        for link in links.map(|link| link.expect("an entry").file_name()) {
            let link = link.into_string().expect("a name");
            let (name, ifindex) = link.rsplit_once('-').expect("a hook and an interface");
            let hook = Hook::ALL.into_iter().find(|hook| hook.name() == name).expect("a hook");
            let ifindex = ifindex.parse().expect("an index");
            Datapath::detach(&pin_dir, hook, ifindex).expect("it detaches");
            datapath.attach_by(Attachment::Filter, hook, ifindex).expect("it attaches");
        }
    });
}

/// Datagrams from each of the namespace's ports, and whom the server outside takes each
/// port for: a flow each.
pub struct Flows {
    ns: Netns,
    count: u16,
    server: UdpSocket,
    to: SocketAddrV4,
    seen_as: BTreeMap<u16, SocketAddrV4>,
}

impl Flows {
    /// Begins so many flows of a namespace to the outside.
    pub fn begin(host: &Host, ns: &Netns, count: u16) -> Self {
        let server = host.outside().run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)));
        let server = server.expect("a server outside");
        server.set_read_timeout(Some(wait::DEADLINE)).expect("a time-out");
        let (ns, to) = (ns.clone(), at(OUTSIDE, 53));
        let mut flows = Self { ns, count, server, to, seen_as: BTreeMap::new() };
        flows.seen_as = flows.look();
        flows
    }

    /// Sends a datagram by each flow, and answers it, which must arrive.
    fn look(&self) -> BTreeMap<u16, SocketAddrV4> {
        let mut seen_as = BTreeMap::new();
        self.ns.run(|| {
            for port in FIRST_PORT..FIRST_PORT + self.count {
                let client = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a free port");
                client.set_read_timeout(Some(wait::DEADLINE)).expect("a time-out");
                client.send_to(&port.to_be_bytes(), self.to).expect("sent");
                let mut data = [0; 4];
                let (len, from) = self.server.recv_from(&mut data).expect("it arrives outside");
                assert_eq!(data[..len], port.to_be_bytes(), "whose it is");
                self.server.send_to(&data[..len], from).expect("answered");
                let (len, answers) = client.recv_from(&mut data).expect("the answer arrives");
                assert_eq!((&data[..len], answers), (&port.to_be_bytes()[..], self.to.into()));
                let std::net::SocketAddr::V4(from) = from else { panic!("{from} is of IPv4") };
                seen_as.insert(port, from);
            }
        });
        seen_as
    }

    /// All of them are what they were.
    pub fn go_on(&self) {
        let now = self.look();
        let broken = self.seen_as.iter().filter(|&(port, seen)| now.get(port) != Some(seen));
        assert_eq!(broken.count(), 0, "flows are broken");
    }
}

/// A connection on which data goes to and fro.
pub struct Stream {
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    thread: JoinHandle<TcpClient>,
}

impl Stream {
    /// Begins with a connection that there is.
    pub fn begin(mut client: TcpClient) -> Self {
        let (stop, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&bytes));
        let thread = thread::spawn(move || {
            let data = sample(50_000);
            while !stopped.load(Ordering::Relaxed) {
                // Each compares what has arrived.
                client.upload(200_000).expect("upload");
                client.download(200_000).expect("download");
                client.echo(&data).expect("echo");
                counted.fetch_add(500_000, Ordering::Relaxed);
                // The other paths want some CPU, too.
                thread::sleep(std::time::Duration::from_millis(10));
            }
            client
        });
        Self { stop, bytes, thread }
    }

    /// Bytes that were carried, and the connection.
    pub fn end(self) -> (u64, TcpClient) {
        self.stop.store(true, Ordering::Relaxed);
        let client = self.thread.join().expect("the stream is not broken");
        (self.bytes.load(Ordering::Relaxed), client)
    }
}

/// Datagrams, a thousand a second on each of three paths: among the namespaces, to the
/// outside, and to `ns1`'s port 7000, which is published as 9000.
pub struct Paths(Vec<(&'static str, Metered)>);

impl Paths {
    /// Begins between `ns1`, `ns2` and the outside.
    pub fn begin(host: &Host) -> Self {
        let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
        let paths = [
            ("among namespaces", (&ns1, at(NS2, 5000)), (&ns2, 5000)),
            ("to the outside", (&ns1, at(OUTSIDE, 5000)), (host.outside(), 5000)),
            ("to a published port", (host.outside(), at(UPLINK, 9000)), (&ns1, 7000)),
        ];
        let begin = |(name, from, to)| (name, Metered::begin(name, from, to, 1_000, 100));
        Self(paths.into_iter().map(begin).collect())
    }

    /// Ends them: none was lost, and none came twice. Returns how many were sent on each.
    #[track_caller]
    pub fn end(self) -> Vec<(&'static str, usize)> {
        let mut sent = Vec::new();
        for (name, metered) in self.0 {
            let metering = metered.end();
            eprintln!("{name}: {metering:?}");
            assert_eq!(metering, Metering { lost: 0, again: 0, ..metering }, "{name}");
            sent.push((name, metering.sent));
        }
        sent
    }
}

/// Flows of `ns1`, a connection of it at rest, a stream from `ns2` to the outside, and one
/// from there to `ns1`'s port 80, which is published as 8080.
pub struct Connections {
    _servers: [TcpServer; 2],
    flows: Flows,
    streams: [(Stream, SocketAddr); 2],
    resting: TcpClient,
}

impl Connections {
    /// Begins with so many flows.
    pub fn begin(host: &Host, flows: u16) -> Self {
        let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
        let servers = [TcpServer::start(host.outside(), 4443), TcpServer::start(&ns1, 80)];
        let flows = Flows::begin(host, &ns1, flows);
        let ends = [(&ns2, at(OUTSIDE, 4443)), (host.outside(), at(UPLINK, 8080))];
        let streams = ends.map(|(from, to)| {
            let mut client = connect(from, to).expect("a connection");
            let seen_as = client.who_am_i().expect("an answer");
            (Stream::begin(client), seen_as)
        });
        let resting = connect(&ns1, at(OUTSIDE, 4443)).expect("a connection");
        Self { _servers: servers, flows, streams, resting }
    }

    /// Ends the streams: all of them are what they were. Returns the bytes of each stream.
    #[track_caller]
    pub fn end(mut self) -> [u64; 2] {
        let bytes = self.streams.map(|(stream, seen_as)| {
            let (bytes, mut client) = stream.end();
            assert_eq!(client.who_am_i().expect("an answer"), seen_as, "the same connection");
            bytes
        });
        self.resting.echo(&sample(5_000)).expect("it goes on");
        self.flows.go_on();
        bytes
    }
}
