//! Trying whether somebody is reached: by ping, TCP and UDP.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, connect, recv,
        sendto, socket,
    },
};

use super::{
    servers::{Served, Token, inside},
    ways::{Net, Way},
};
use crate::{
    error::{Context as _, Result},
    verify::parity::packet::checksum,
};

/// Namespaces that are tried from at the same time.
const CONCURRENT: usize = 8;

/// Ways that are tried at the same time from one namespace.
const BATCH: usize = 64;

/// What is not answered is asked so often.
const ATTEMPTS: u32 = 4;

/// What came of a probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// There was an answer, after this time.
    Answered(Duration),
    /// There was none.
    Silent,
    /// Somebody said no.
    Refused,
    /// It could not even be tried, or was answered by an error.
    Failed(String),
}

/// Of a way, by ping, TCP and UDP.
type Three = [Option<Outcome>; 3];

/// Tries all ways, those from the same namespace together.
///
/// # Errors
/// No thread can be started, or a namespace cannot be entered.
pub fn run(nets: &[Net], ways: &[Way], token: Token, patience: Duration) -> Result<Vec<Three>> {
    let outcomes = Mutex::new(vec![Three::default(); ways.len()]);
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        loop {
            let Some(net) = nets.get(next.fetch_add(1, Ordering::Relaxed)) else { return Ok(()) };
            let own: Vec<usize> = (0..ways.len()).filter(|&n| ways[n].from == net.name).collect();
            for batch in own.chunks(BATCH) {
                let these: Vec<&Way> = batch.iter().map(|&n| &ways[n]).collect();
                let found = inside(net, || try_all(&these, token, patience))??;
                let mut all = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                for (&n, found) in batch.iter().zip(found) {
                    all[n] = found;
                }
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CONCURRENT.min(nets.len()))
            .map(|_| {
                let builder = thread::Builder::new().name("probe".into());
                builder.spawn_scoped(scope, work).context("cannot start a thread")
            })
            .collect::<Result<_>>()?;
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    // From a namespace that is gone nothing was tried.
    for (way, outcomes) in ways.iter().zip(&mut outcomes) {
        if !nets.iter().any(|net| net.name == way.from) {
            let gone = || Some(Outcome::Failed("the namespace is gone".to_owned()));
            *outcomes = [
                way.ping.then(gone).flatten(),
                way.tcp.and_then(|_| gone()),
                way.udp.and_then(|_| gone()),
            ];
        }
    }
    Ok(outcomes)
}

/// A probe under way.
struct Probe {
    /// Which of the ways it is about, and which of its three it is.
    place: (usize, usize),
    kind: Kind,
    asked: Instant,
    outcome: Option<Outcome>,
}

enum Kind {
    Ping { addr: Ipv4Addr },
    Tcp { stream: TcpStream, connected: bool, ours: bool },
    Udp { socket: UdpSocket },
}

/// Tries ways from the namespace that this thread is in.
fn try_all(ways: &[&Way], token: Token, patience: Duration) -> Result<Vec<Three>> {
    let icmp = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::Icmp,
    );
    let icmp = icmp.context("cannot open a socket for pings")?;
    let mut outcomes = vec![Three::default(); ways.len()];
    let mut probes = Vec::new();
    for (n, way) in ways.iter().enumerate() {
        let mut add = |which: usize, kind: io::Result<Kind>| match kind {
            Ok(kind) => {
                probes.push(Probe {
                    place: (n, which),
                    kind,
                    asked: Instant::now(),
                    outcome: None,
                });
            }
            Err(error) => outcomes[n][which] = Some(failure(&error)),
        };
        if way.ping {
            add(0, Ok(Kind::Ping { addr: way.addr }));
        }
        if let Some(served) = way.tcp {
            add(1, begin_tcp(way.addr, served));
        }
        if let Some(served) = way.udp {
            add(2, begin_udp(way.addr, served));
        }
    }
    let begin = Instant::now();
    let mut attempts = 0;
    loop {
        if begin.elapsed() >= patience * attempts / ATTEMPTS && attempts < ATTEMPTS {
            attempts += 1;
            ask(&mut probes, &icmp, token);
        }
        let until = patience * attempts / ATTEMPTS;
        let left = until.saturating_sub(begin.elapsed());
        wait(&probes, icmp.as_fd(), left)?;
        hear_pings(&mut probes, &icmp, token);
        for probe in &mut probes {
            hear(probe, token);
        }
        if probes.iter().all(|probe| probe.outcome.is_some()) || begin.elapsed() >= patience {
            break;
        }
    }
    for probe in probes {
        let (way, which) = probe.place;
        outcomes[way][which] = Some(probe.outcome.unwrap_or(Outcome::Silent));
    }
    Ok(outcomes)
}

fn begin_tcp(addr: Ipv4Addr, served: Served) -> io::Result<Kind> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    match connect(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(addr, served.port))) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Kind::Tcp { stream: fd.into(), connected: false, ours: served.ours })
}

fn begin_udp(addr: Ipv4Addr, served: Served) -> io::Result<Kind> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((addr, served.port))?;
    socket.set_nonblocking(true)?;
    Ok(Kind::Udp { socket })
}

/// Asks all that have not answered yet; TCP asks again by itself.
fn ask(probes: &mut [Probe], icmp: &OwnedFd, token: Token) {
    for (n, probe) in probes.iter_mut().enumerate().filter(|(_, probe)| probe.outcome.is_none()) {
        let sent = match &probe.kind {
            Kind::Tcp { .. } => continue,
            Kind::Ping { addr } => {
                let to = SockaddrIn::from(SocketAddrV4::new(*addr, 0));
                let message = echo_request(n, token);
                sendto(icmp.as_raw_fd(), &message, &to, MsgFlags::empty()).map_err(Into::into)
            }
            Kind::Udp { socket } => socket.send(&token),
        };
        probe.asked = Instant::now();
        if let Err(error) = sent {
            probe.outcome = Some(failure(&error));
        }
    }
}

/// An echo request (RFC 792) with the probe's number and the token in it.
fn echo_request(number: usize, token: Token) -> Vec<u8> {
    let sequence = u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
    let mut message = vec![8, 0, 0, 0, token[0], token[1], sequence[0], sequence[1]];
    message.extend(token);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Takes the answers to pings.
fn hear_pings(probes: &mut [Probe], icmp: &OwnedFd, token: Token) {
    let mut bytes = [0; 256];
    while let Ok(len) = recv(icmp.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
        let packet = &bytes[..len];
        let header_len = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
        let Some(message) = packet.get(header_len..).filter(|message| message.len() >= 16) else {
            continue;
        };
        if message[0] != 0 || message[4..6] != token[..2] || message[8..16] != token {
            continue;
        }
        let number = usize::from(u16::from_be_bytes([message[6], message[7]]));
        if let Some(probe) = probes.get_mut(number).filter(|probe| probe.outcome.is_none()) {
            probe.outcome = Some(Outcome::Answered(probe.asked.elapsed()));
        }
    }
}

/// Looks whether a probe has been answered.
fn hear(probe: &mut Probe, token: Token) {
    if probe.outcome.is_some() {
        return;
    }
    let answered = match &mut probe.kind {
        Kind::Ping { .. } => return,
        Kind::Udp { socket } => {
            let mut bytes = [0; 64];
            socket.recv(&mut bytes).map(|len| bytes[..len] == token)
        }
        Kind::Tcp { stream, connected, ours } => {
            if !*connected {
                *connected = match stream.take_error() {
                    Ok(Some(error)) | Err(error) => {
                        probe.outcome = Some(failure(&error));
                        return;
                    }
                    Ok(None) => stream.peer_addr().is_ok(),
                };
            }
            let mut bytes = Token::default();
            match (*connected, *ours) {
                (false, _) => return,
                (true, false) => Ok(true),
                // A few bytes of one segment: all or nothing.
                (true, true) => stream.read(&mut bytes).map(|_| bytes == token),
            }
        }
    };
    probe.outcome = match answered {
        Ok(true) => Some(Outcome::Answered(probe.asked.elapsed())),
        Ok(false) => Some(Outcome::Failed("somebody else answers".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => Some(failure(&error)),
    };
}

fn failure(error: &io::Error) -> Outcome {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED | Errno::ECONNRESET) => Outcome::Refused,
        Some(errno) => Outcome::Failed(errno.desc().to_lowercase()),
        None => Outcome::Failed(error.to_string()),
    }
}

/// Waits until something has come, or the time is over.
fn wait(probes: &[Probe], icmp: BorrowedFd<'_>, left: Duration) -> Result<()> {
    let mut all = vec![PollFd::new(icmp, PollFlags::POLLIN)];
    for probe in probes.iter().filter(|probe| probe.outcome.is_none()) {
        match &probe.kind {
            Kind::Ping { .. } => {}
            Kind::Udp { socket } => all.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN)),
            Kind::Tcp { stream, connected, .. } => {
                let events = if *connected { PollFlags::POLLIN } else { PollFlags::POLLOUT };
                all.push(PollFd::new(stream.as_fd(), events));
            }
        }
    }
    // Rounded up: not to come back before the time.
    let millis = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
    match poll(&mut all, PollTimeout::from(millis)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error).context("cannot wait for answers"),
    }
}
