//! TCP: a server that echoes, takes, gives and tells who asks; and its client.

use crate::{Netns, wait};
use nix::sys::{
    socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect as connect_socket, setsockopt,
        socket, sockopt,
    },
    time::{TimeVal, TimeValLike},
};
use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::{fd::AsRawFd, linux::net::TcpStreamExt},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

/// Length of a block of the pattern that bulk transfers consist of.
const BLOCK: usize = 1 << 16;

/// Serves any number of connections, each in its own thread, until dropped.
///
/// A request is a letter and a number of eight bytes: `W` who am I; `E` echo
/// that many bytes; `U` take that many bytes of pattern and tell how many were
/// right; `D` give that many bytes of pattern.
pub struct TcpServer {
    listener: TcpListener,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl TcpServer {
    /// Listens inside `ns` on all addresses; port 0 takes a free one.
    pub fn start(ns: &Netns, port: u16) -> Self {
        let listener = ns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
        let listener = listener.unwrap_or_else(|e| panic!("TCP port {port} in {}: {e}", ns.name()));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let accepting = listener.try_clone().expect("a second handle");
        let accepted = Arc::clone(&streams);
        let thread = thread::spawn(move || {
            // Ends with the error that shutting the listener down gives.
            while let Ok((stream, peer)) = accepting.accept() {
                let kept = stream.try_clone().expect("a second handle");
                accepted.lock().expect("no panic in here").push(kept);
                thread::spawn(move || serve(stream, peer));
            }
        });
        Self { listener, streams, thread: Some(thread) }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().expect("an address").port()
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        // SAFETY: shuts down a descriptor that `self.listener` owns; Linux then
        // ends a blocking accept, and std has no word for it.
        unsafe { nix::libc::shutdown(self.listener.as_raw_fd(), nix::libc::SHUT_RDWR) };
        let joined = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || !matches!(joined, Some(Err(_))), "a TCP server panicked");
        for stream in self.streams.lock().expect("no panic in the server").drain(..) {
            // Already closed by the other side: fine.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Serves a connection to its end; a broken one is the client's to complain about.
fn serve(mut stream: TcpStream, peer: SocketAddr) {
    let pattern = pattern();
    let _ = (|| -> io::Result<()> {
        loop {
            let mut request = [0; 9];
            stream.read_exact(&mut request)?;
            let count = number(&request[1..]);
            match request[0] {
                b'W' => stream.write_all(format!("{peer:>40}").as_bytes())?,
                b'E' => {
                    let mut data = vec![0; usize::try_from(count).expect("fits")];
                    stream.read_exact(&mut data)?;
                    stream.write_all(&data)?;
                }
                b'U' => {
                    let right = take(&mut stream, &pattern, count)?;
                    stream.write_all(&right.to_be_bytes())?;
                }
                b'D' => give(&mut stream, &pattern, count)?,
                other => panic!("unknown request {other}"),
            }
        }
    })();
    // The handle that the server keeps would hold the connection open.
    let _ = stream.shutdown(Shutdown::Both);
}

/// A connection to a [`TcpServer`].
pub struct TcpClient {
    stream: TcpStream,
}

/// Connects from inside `ns`.
///
/// # Errors
/// That of connecting: refused, timed out.
pub fn connect(ns: &Netns, to: SocketAddrV4) -> io::Result<TcpClient> {
    connect_from(ns, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), to)
}

/// Connects from an address and port of one's choice.
///
/// # Errors
/// That of binding or connecting.
pub fn connect_from(ns: &Netns, from: SocketAddrV4, to: SocketAddrV4) -> io::Result<TcpClient> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = ns.run(|| socket(AddressFamily::Inet, SockType::Stream, flags, None))?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    let patience = TimeVal::seconds(i64::try_from(wait::DEADLINE.as_secs()).expect("short"));
    setsockopt(&socket, sockopt::SendTimeout, &patience)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(from))?;
    connect_socket(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(TcpClient { stream })
}

impl TcpClient {
    /// The address on this side.
    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("an address")
    }

    fn request(&mut self, letter: u8, count: u64) -> io::Result<()> {
        let mut request = [letter; 9];
        request[1..].copy_from_slice(&count.to_be_bytes());
        self.stream.write_all(&request)
    }

    /// The address that the server sees.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn who_am_i(&mut self) -> io::Result<SocketAddr> {
        self.request(b'W', 0)?;
        let mut answer = [0; 40];
        self.stream.read_exact(&mut answer)?;
        let text = String::from_utf8_lossy(&answer);
        Ok(text.trim().parse().unwrap_or_else(|e| panic!("address {text}: {e}")))
    }

    /// Sends bytes, which must come back unchanged.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn echo(&mut self, data: &[u8]) -> io::Result<()> {
        self.request(b'E', data.len() as u64)?;
        self.stream.write_all(data)?;
        let mut answer = vec![0; data.len()];
        self.stream.read_exact(&mut answer)?;
        assert!(answer == data, "an echo over TCP differs from what was sent");
        Ok(())
    }

    /// Acknowledges now what was received, which is otherwise done up to 40 ms later
    /// (`TCP_DELACK_MIN`): afterwards no packet is under way.
    ///
    /// # Errors
    /// That of the socket.
    pub fn acknowledge(&self) -> io::Result<()> {
        self.stream.set_quickack(true)
    }

    /// Sends `count` bytes, all of which must arrive intact.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn upload(&mut self, count: u64) -> io::Result<()> {
        self.request(b'U', count)?;
        give(&mut self.stream, &pattern(), count)?;
        let mut answer = [0; 8];
        self.stream.read_exact(&mut answer)?;
        assert_eq!(number(&answer), count, "bytes that arrived intact");
        Ok(())
    }

    /// Receives `count` bytes, all of which must be intact.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn download(&mut self, count: u64) -> io::Result<()> {
        self.request(b'D', count)?;
        let right = take(&mut self.stream, &pattern(), count)?;
        assert_eq!(right, count, "bytes that arrived intact");
        Ok(())
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("eight bytes"))
}

/// A block of bytes without any regularity (xorshift64).
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(BLOCK);
    while block.len() < BLOCK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend(state.to_le_bytes());
    }
    block
}

/// The stream of pattern is the block over and over, each begun with its number.
fn give(stream: &mut TcpStream, pattern: &[u8], count: u64) -> io::Result<()> {
    let mut block = pattern.to_vec();
    for (index, len) in blocks(count) {
        block[..8].copy_from_slice(&index.to_le_bytes());
        stream.write_all(&block[..len])?;
    }
    Ok(())
}

/// Reads `count` bytes and tells how many were in blocks that were right.
fn take(stream: &mut TcpStream, pattern: &[u8], count: u64) -> io::Result<u64> {
    let mut expected = pattern.to_vec();
    let mut block = vec![0; BLOCK];
    let mut right = 0;
    for (index, len) in blocks(count) {
        stream.read_exact(&mut block[..len])?;
        expected[..8].copy_from_slice(&index.to_le_bytes());
        if block[..len] == expected[..len] {
            right += len as u64;
        }
    }
    Ok(right)
}

/// Numbers and lengths of the blocks that `count` bytes consist of.
fn blocks(count: u64) -> impl Iterator<Item = (u64, usize)> {
    let block = BLOCK as u64;
    let len = move |index: u64| (count - index * block).min(block);
    (0..count.div_ceil(block)).map(move |i| (i, usize::try_from(len(i)).expect("a block")))
}
