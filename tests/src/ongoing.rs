//! What is to go on while programs are replaced: flows and streams.

use crate::{Host, Netns, OUTSIDE, at, sample, traffic::TcpClient, wait};
use netbpf::bpf::{Attachment, Datapath, Hook};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
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
