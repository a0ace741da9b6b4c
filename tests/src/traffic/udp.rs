//! UDP: a server that echoes and remembers who asked, and a client.

use crate::{Netns, wait};
use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

const TICK: Duration = Duration::from_millis(50);

/// Sends every datagram back to where it came from, until dropped.
pub struct UdpServer {
    stop: Arc<AtomicBool>,
    peers: Arc<Mutex<BTreeSet<SocketAddr>>>,
    thread: Option<JoinHandle<()>>,
    port: u16,
}

impl UdpServer {
    /// Listens inside `ns` on all addresses; port 0 takes a free one.
    pub fn start(ns: &Netns, port: u16) -> Self {
        Self::start_on(ns, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))
    }

    /// Listens inside `ns` on one address, and so answers from that one, where
    /// the kernel would choose that of the way out.
    pub fn start_on(ns: &Netns, address: SocketAddrV4) -> Self {
        let socket = bind(ns, address);
        let port = socket.local_addr().expect("an address").port();
        let stop = Arc::new(AtomicBool::new(false));
        let peers = Arc::new(Mutex::new(BTreeSet::new()));
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&peers));
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                seen.lock().expect("no panic in here").insert(from);
                // A client that has gone is not the server's concern.
                let _ = socket.send_to(&buffer[..len], from);
            }
        });
        Self { stop, peers, thread: Some(thread), port }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Everybody who sent something so far.
    pub fn peers(&self) -> BTreeSet<SocketAddr> {
        self.peers.lock().expect("no panic in the server").clone()
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || !matches!(joined, Some(Err(_))), "a UDP server panicked");
    }
}

/// A socket inside `ns` on this address, which answers within a tick.
///
/// One that was just closed may live on for a moment, in a child that another test
/// has forked and that has not started its program yet.
fn bind(ns: &Netns, address: SocketAddrV4) -> UdpSocket {
    let what = format!("UDP {address} in {} is free", ns.name());
    let socket = wait::until(&what, || match ns.run(|| UdpSocket::bind(address)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
        other => Some(other.unwrap_or_else(|e| panic!("UDP {address} in {}: {e}", ns.name()))),
    });
    socket.set_read_timeout(Some(TICK)).expect("a time-out");
    socket
}

/// A socket that asks and waits for the very same bytes to come back.
pub struct UdpClient {
    socket: UdpSocket,
}

impl UdpClient {
    /// A socket inside `ns`, on a free port.
    pub fn new(ns: &Netns) -> Self {
        Self::on_port(ns, 0)
    }

    /// A socket inside `ns` on this port.
    pub fn on_port(ns: &Netns, port: u16) -> Self {
        Self::bound(ns, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))
    }

    /// A socket inside `ns` on this address.
    pub fn bound(ns: &Netns, address: SocketAddrV4) -> Self {
        Self { socket: bind(ns, address) }
    }

    /// The port that it is on.
    pub fn port(&self) -> u16 {
        self.socket.local_addr().expect("an address").port()
    }

    /// Sends without waiting.
    ///
    /// # Errors
    /// That of sending.
    pub fn send(&self, to: SocketAddrV4, data: &[u8]) -> io::Result<()> {
        self.socket.send_to(data, to).map(drop)
    }

    /// Waits a few seconds for one datagram.
    ///
    /// # Errors
    /// `WouldBlock` when nothing came.
    pub fn receive(&self) -> io::Result<(Vec<u8>, SocketAddr)> {
        let mut buffer = vec![0; 1 << 16];
        let tries = 5_000 / u32::try_from(TICK.as_millis()).expect("short");
        for _ in 0..tries {
            match self.socket.recv_from(&mut buffer) {
                Ok((len, from)) => return Ok((buffer[..len].to_vec(), from)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Sends `data` to an echoing server, which must answer from the same
    /// address with the same bytes.
    #[track_caller]
    pub fn exchange(&self, to: SocketAddrV4, data: &[u8]) {
        self.send(to, data).unwrap_or_else(|e| panic!("send {} bytes to {to}: {e}", data.len()));
        let (answer, from) = self
            .receive()
            .unwrap_or_else(|e| panic!("no answer from {to} to {} bytes: {e}", data.len()));
        assert_eq!(from, SocketAddr::V4(to), "who answers");
        assert!(answer == data, "the answer from {to} differs from the question");
    }

    /// One datagram, if one comes in a moment.
    pub fn receive_brief(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 1 << 16];
        let (len, _) = self.socket.recv_from(&mut buffer).ok()?;
        Some(buffer[..len].to_vec())
    }
}
