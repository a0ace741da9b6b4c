//! Somebody who answers, at the end of every way: short-lived sockets of this
//! process, inside the namespaces.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket},
    os::fd::{AsFd as _, OwnedFd},
    thread::{self, JoinHandle},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    unistd::pipe2,
};

use super::ways::Net;
use crate::{
    error::{Context as _, Error, Result},
    topology::{NamespaceName, Proto},
};

/// What a server of ours says to whoever connects, so that nobody else is taken
/// for it.
pub type Token = [u8; 8];

/// A port at which somebody answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Served {
    /// The port.
    pub port: u16,
    /// Whether it is a server of ours, which says the token.
    pub ours: bool,
}

impl Served {
    /// A port of somebody else.
    #[must_use]
    pub fn elsewhere(port: u16) -> Self {
        Self { port, ours: false }
    }
}

/// The servers of a network's host and namespaces.
///
/// Dropped, they are gone.
#[derive(Debug)]
pub struct Servers {
    token: Token,
    ports: BTreeMap<Ipv4Addr, (Served, Served)>,
    published: BTreeMap<(NamespaceName, Proto, u16), Result<Served, String>>,
    /// Closed, it ends the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// The sockets of all servers.
#[derive(Default)]
struct Sockets {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl Servers {
    /// Starts servers in every namespace, on free ports.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(nets: &[Net], published: &[(NamespaceName, Proto, u16)]) -> Result<Self> {
        let mut sockets = Sockets::default();
        let mut servers = Self {
            token: token()?,
            ports: BTreeMap::new(),
            published: BTreeMap::new(),
            stop: None,
            thread: None,
        };
        for net in nets {
            let wanted: Vec<(Proto, u16)> = published
                .iter()
                .filter(|(ns, ..)| net.name.as_ref() == Some(ns))
                .map(|(_, proto, port)| (*proto, *port))
                .collect();
            inside(net, || servers.serve(net, &wanted, &mut sockets))??;
        }
        servers.run(sockets)?;
        Ok(servers)
    }

    /// What servers of ours say.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// The ports of TCP and UDP that are served at an address, if somebody has it.
    #[must_use]
    pub fn at(&self, addr: Ipv4Addr) -> Option<(Served, Served)> {
        self.ports.get(&addr).copied()
    }

    /// Who answers on a port of a namespace that is published.
    ///
    /// # Errors
    /// Why nobody can be asked there.
    pub fn published(&self, ns: &NamespaceName, proto: Proto, port: u16) -> Result<Served, String> {
        match self.published.get(&(ns.clone(), proto, port)) {
            Some(served) => served.clone(),
            // The way fails, and its cause says why.
            None => Ok(Served { port, ours: true }),
        }
    }

    /// Opens the sockets of the namespace that this thread is in.
    fn serve(&mut self, net: &Net, wanted: &[(Proto, u16)], sockets: &mut Sockets) -> Result<()> {
        let what = || match &net.name {
            Some(name) => format!("cannot listen in {name}"),
            None => "cannot listen on the host".to_owned(),
        };
        for &addr in &net.addrs {
            let (tcp, udp) = match (TcpListener::bind((addr, 0)), UdpSocket::bind((addr, 0))) {
                (Ok(tcp), Ok(udp)) => (tcp, udp),
                // The address is gone, which the probes will show.
                (Err(error), _) | (_, Err(error))
                    if error.kind() == io::ErrorKind::AddrNotAvailable =>
                {
                    continue;
                }
                (Err(error), _) | (_, Err(error)) => return Err(error).context(what()),
            };
            let served = |addr: io::Result<SocketAddr>| {
                addr.map(|addr| Served { port: addr.port(), ours: true }).context(what())
            };
            self.ports.insert(addr, (served(tcp.local_addr())?, served(udp.local_addr())?));
            sockets.tcp.push(tcp);
            sockets.udp.push(udp);
        }
        let Some(name) = &net.name else { return Ok(()) };
        for &(proto, port) in wanted {
            let at = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
            let bound = match proto {
                Proto::Tcp => TcpListener::bind(at).map(|socket| sockets.tcp.push(socket)),
                Proto::Udp => UdpSocket::bind(at).map(|socket| sockets.udp.push(socket)),
            };
            let served = match (bound, proto) {
                (Ok(()), _) => Ok(Served { port, ours: true }),
                // Who listens there is connected to, and hung up on.
                (Err(error), Proto::Tcp) if error.kind() == io::ErrorKind::AddrInUse => {
                    Ok(Served { port, ours: false })
                }
                (Err(error), Proto::Udp) if error.kind() == io::ErrorKind::AddrInUse => {
                    Err("somebody has it, who need not answer".to_owned())
                }
                (Err(error), _) => Err(error.to_string()),
            };
            self.published.insert((name.clone(), proto, port), served);
        }
        Ok(())
    }

    /// Serves from now on.
    fn run(&mut self, sockets: Sockets) -> Result<()> {
        let what = "cannot serve";
        let (until, stop) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).context(what)?;
        for socket in &sockets.tcp {
            socket.set_nonblocking(true).context(what)?;
        }
        for socket in &sockets.udp {
            socket.set_nonblocking(true).context(what)?;
        }
        let token = self.token;
        let builder = thread::Builder::new().name("servers".into());
        let thread = builder.spawn(move || serve(&sockets, &until, token)).context(what)?;
        (self.stop, self.thread) = (Some(stop), Some(thread));
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends when it is told to; if it has died, nobody answers any more.
            let _ = thread.join();
        }
    }
}

/// Answers until the other end of `until` is closed.
fn serve(sockets: &Sockets, until: &OwnedFd, token: Token) {
    let tcp = sockets.tcp.iter().map(|socket| socket.as_fd());
    let fds = tcp.chain(sockets.udp.iter().map(|socket| socket.as_fd()));
    let mut all: Vec<PollFd> = std::iter::once(until.as_fd())
        .chain(fds)
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    loop {
        if poll(&mut all, PollTimeout::NONE).is_err() {
            continue;
        }
        let ready = |poll: &PollFd| poll.revents().is_some_and(|events| !events.is_empty());
        if ready(&all[0]) {
            return;
        }
        let (tcp, udp) = all[1..].split_at(sockets.tcp.len());
        for (socket, _) in sockets.tcp.iter().zip(tcp).filter(|(_, poll)| ready(poll)) {
            while let Ok((mut connection, _)) = socket.accept() {
                // Whoever has gone meanwhile needs no token.
                let _ = connection.write_all(&token);
            }
        }
        let mut bytes = [0; 64];
        for (socket, _) in sockets.udp.iter().zip(udp).filter(|(_, poll)| ready(poll)) {
            while let Ok((len, peer)) = socket.recv_from(&mut bytes) {
                if bytes[..len] == token {
                    let _ = socket.send_to(&token, peer);
                }
            }
        }
    }
}

/// Runs `f` in a thread inside.
pub(super) fn inside<T: Send>(net: &Net, f: impl FnOnce() -> T + Send) -> Result<T> {
    let Some(file) = &net.file else { return Ok(f()) };
    thread::scope(|scope| {
        let work = || {
            setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
            Ok(f())
        };
        let builder = thread::Builder::new().name("inside".into());
        let thread = builder.spawn_scoped(scope, work).context("cannot start a thread")?;
        thread.join().map_err(|_| Error::failed("a thread in a network namespace died"))?
    })
}

/// Bytes that nobody else says.
fn token() -> Result<Token> {
    use std::io::Read as _;
    let mut token = Token::default();
    let path = "/dev/urandom";
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut token));
    read.context(format!("cannot read {path}"))?;
    Ok(token)
}
