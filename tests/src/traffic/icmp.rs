//! ICMP echo, as `ping` does it.

use crate::{Netns, packet};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
            setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};
use std::{
    net::Ipv4Addr,
    os::fd::AsRawFd,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

/// An echo request and its patience.
#[derive(Clone, Copy, Debug)]
pub struct Echo {
    /// Length of the whole IP packet.
    pub size: usize,
    /// Time to live.
    pub ttl: u32,
    /// Whether routers may not fragment it.
    pub dont_fragment: bool,
    /// How long to wait for the answer.
    pub patience: Duration,
    /// Its identifier; one that nobody else has if it is left open.
    pub id: Option<u16>,
}

impl Default for Echo {
    /// What `ping` sends: 84 bytes.
    fn default() -> Self {
        Self { size: 84, ttl: 64, dont_fragment: false, patience: Duration::from_secs(5), id: None }
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pong {
    /// The answer: who sent it and with which time to live it arrived.
    Reply(Ipv4Addr, u8),
    /// An error message: who sent it, its type and its code.
    Error(Ipv4Addr, u8, u8),
    /// Sending failed.
    Refused(Errno),
    /// Nothing, in the time given.
    Silence,
}

impl Pong {
    /// Whether it is an answer.
    pub fn is_reply(&self) -> bool {
        matches!(self, Self::Reply(..))
    }
}

/// Sends one echo request from inside `ns` and tells what came back.
///
/// The answer must have the payload of the question, byte for byte.
pub fn ping(ns: &Netns, to: Ipv4Addr, echo: Echo) -> Pong {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let id = echo.id.unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed)).to_be_bytes();
    ns.run(|| exchange(to, echo, [id[0], id[1], 0, 1]))
}

fn exchange(to: Ipv4Addr, echo: Echo, id_and_sequence: [u8; 4]) -> Pong {
    let raw = SockType::Raw;
    let socket = socket(AddressFamily::Inet, raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)
        .expect("a raw socket");
    // IP_PMTUDISC_DO sets "don't fragment", IP_PMTUDISC_DONT clears it.
    set_ip_option(&socket, nix::libc::IP_MTU_DISCOVER, if echo.dont_fragment { 2 } else { 0 });
    setsockopt(&socket, sockopt::Ipv4Ttl, &echo.ttl.cast_signed()).expect("set the TTL");
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).expect("a time-out");

    let payload: Vec<u8> = (0..=255).cycle().take(echo.size.saturating_sub(28)).collect();
    let mut request = [&[8, 0, 0, 0][..], &id_and_sequence, &payload].concat();
    let sum = packet::checksum(&request);
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    let address = SockaddrIn::from(std::net::SocketAddrV4::new(to, 0));
    if let Err(error) = sendto(socket.as_raw_fd(), &request, &address, MsgFlags::empty()) {
        return Pong::Refused(error);
    }

    let start = Instant::now();
    let mut buffer = vec![0; 1 << 16];
    while start.elapsed() < echo.patience {
        let received = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(len) => &buffer[..len],
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(error) => return Pong::Refused(error),
        };
        if let Some(pong) = judge(received, id_and_sequence, &payload) {
            return pong;
        }
    }
    Pong::Silence
}

/// What a received packet is to the one who asked, if it is for them.
fn judge(ip: &[u8], id_and_sequence: [u8; 4], payload: &[u8]) -> Option<Pong> {
    let seen = packet::Seen::parse(&packet::ethernet([0; 6], [0; 6], packet::IPV4, ip))?;
    let icmp = &seen.payload;
    match (*icmp.first()?, *icmp.get(1)?) {
        (0, _) if icmp.get(4..8)? == id_and_sequence => {
            assert_eq!(&icmp[8..], payload, "the payload of an echo reply");
            Some(Pong::Reply(seen.src, seen.ttl))
        }
        (kind @ (3 | 11 | 12), code) => {
            let quote = icmp.get(8..)?;
            let inner = quote.get(usize::from(quote.first()? & 0xf) * 4..)?;
            (inner.get(4..8)? == id_and_sequence).then_some(Pong::Error(seen.src, kind, code))
        }
        _ => None,
    }
}

fn set_ip_option(socket: &impl AsRawFd, option: i32, value: i32) {
    // SAFETY: the option's value is an int, which lives until the call returns.
    let result = unsafe {
        nix::libc::setsockopt(
            socket.as_raw_fd(),
            nix::libc::IPPROTO_IP,
            option,
            (&raw const value).cast(),
            4,
        )
    };
    assert_eq!(result, 0, "set IP option {option}");
}
