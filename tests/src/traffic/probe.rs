//! A UDP socket that hears of errors, as `tracepath` has it (`IP_RECVERR`, ip(7)).

use crate::{Netns, wait};
use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt::Ipv4RecvErr,
    },
};
use std::{
    io::{self, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

/// What a socket was told by an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What the kernel makes of it.
    pub errno: Errno,
    /// Type and code of the message.
    pub icmp: (u8, u8),
    /// The MTU that it tells, if it is about that.
    pub mtu: u32,
    /// Who sent it.
    pub offender: Ipv4Addr,
}

/// A connected UDP socket.
pub struct UdpProbe {
    socket: UdpSocket,
}

impl UdpProbe {
    /// From inside `ns` to an address, without "do not fragment".
    pub fn connect(ns: &Netns, to: SocketAddrV4) -> Self {
        Self::connect_from(ns, 0, to)
    }

    /// The same from a port of one's choice.
    pub fn connect_from(ns: &Netns, port: u16, to: SocketAddrV4) -> Self {
        let bind = || ns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
        // A process that another test starts just now may still hold a closed one.
        let what = format!("UDP port {port} in {} is free", ns.name());
        let socket = wait::until(&what, || match bind() {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => None,
            bound => Some(bound.unwrap_or_else(|e| panic!("UDP in {}: {e}", ns.name()))),
        });
        socket.connect(to).unwrap_or_else(|e| panic!("UDP to {to}: {e}"));
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out");
        let probe = Self { socket };
        probe.set(libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT);
        probe
    }

    /// Whether routers may not fragment what it sends.
    pub fn dont_fragment(&self, yes: bool) -> &Self {
        let discover = if yes { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
        self.set(libc::IP_MTU_DISCOVER, discover);
        self
    }

    /// The payload of each segment that what it sends is cut into, by the last device on
    /// the way that can (`UDP_SEGMENT`, udp(7)), and whether routers may not fragment
    /// these; whatever path MTU the kernel knows of.
    pub fn segments(&self, payload: u16, dont_fragment: bool) -> &Self {
        let discover = if dont_fragment { libc::IP_PMTUDISC_PROBE } else { libc::IP_PMTUDISC_OMIT };
        self.set(libc::IP_MTU_DISCOVER, discover);
        self.set_at(libc::SOL_UDP, libc::UDP_SEGMENT, payload.into());
        self
    }

    /// The time to live of what it sends.
    pub fn ttl(&self, ttl: u32) -> &Self {
        self.socket.set_ttl(ttl).expect("set the TTL");
        self
    }

    /// The port that it is on.
    pub fn port(&self) -> u16 {
        self.socket.local_addr().expect("an address").port()
    }

    /// The path MTU that the kernel knows for it.
    pub fn mtu(&self) -> i32 {
        let (mut mtu, mut len) = (0i32, 4);
        let (fd, value) = (self.socket.as_raw_fd(), (&raw mut mtu).cast());
        // SAFETY: the option's value is an int; it and its length live until the call returns.
        let result =
            unsafe { libc::getsockopt(fd, libc::IPPROTO_IP, libc::IP_MTU, value, &raw mut len) };
        Errno::result(result).expect("the path MTU of a connected socket");
        mtu
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// That of sending, or one that came meanwhile.
    pub fn send(&self, data: &[u8]) -> io::Result<()> {
        self.socket.send(data).map(drop)
    }

    /// The next datagram.
    ///
    /// # Errors
    /// The error that came instead; `WouldBlock` when nothing did.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 1 << 16];
        let mut last = io::ErrorKind::WouldBlock.into();
        for _ in 0..250 {
            match self.socket.recv(&mut buffer) {
                Ok(len) => return Ok(buffer[..len].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Sends a datagram, which must come back as it is.
    #[track_caller]
    pub fn exchange(&self, data: &[u8]) {
        self.send(data).unwrap_or_else(|e| panic!("send {} bytes: {e}", data.len()));
        let answer = self.receive().unwrap_or_else(|e| panic!("{} bytes: {e}", data.len()));
        assert!(answer == data, "an answer of {} bytes to {} bytes", answer.len(), data.len());
    }

    /// Sends a datagram until it comes back as it is.
    ///
    /// For traffic beside a flood: the kernel's queues, which all tests share,
    /// may drop one.
    #[track_caller]
    pub fn persist(&self, data: &[u8]) {
        let mut buffer = vec![0; 1 << 16];
        let what = format!("{} bytes come back", data.len());
        wait::until_true(&what, || {
            self.send(data).unwrap_or_else(|e| panic!("send {} bytes: {e}", data.len()));
            (0..10).any(|_| self.socket.recv(&mut buffer).is_ok_and(|len| buffer[..len] == *data))
        });
    }

    /// Sends a datagram and waits for the error that comes back.
    #[track_caller]
    pub fn hear(&self, data: &[u8]) -> Heard {
        setsockopt(&self.socket, Ipv4RecvErr, &true).expect("IP_RECVERR");
        self.send(data).unwrap_or_else(|e| panic!("send {} bytes: {e}", data.len()));
        wait::until("an ICMP error comes back", || self.error())
    }

    fn error(&self) -> Option<Heard> {
        let mut data = [0; 2048];
        let mut vectors = [IoSliceMut::new(&mut data)];
        let mut control = nix::cmsg_space!([u8; 64]);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let fd = self.socket.as_raw_fd();
        let message = recvmsg::<SockaddrIn>(fd, &mut vectors, Some(&mut control), flags).ok()?;
        message.cmsgs().ok()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4RecvErr(error, Some(offender)) => Some(Heard {
                errno: Errno::from_raw(error.ee_errno.cast_signed()),
                icmp: (error.ee_type, error.ee_code),
                mtu: error.ee_info,
                offender: u32::from_be(offender.sin_addr.s_addr).into(),
            }),
            _ => None,
        })
    }

    fn set(&self, option: i32, value: i32) {
        self.set_at(libc::IPPROTO_IP, option, value);
    }

    fn set_at(&self, level: i32, option: i32, value: i32) {
        let (fd, at) = (self.socket.as_raw_fd(), (&raw const value).cast());
        // SAFETY: the option's value is an int, which lives until the call returns.
        let result = unsafe { libc::setsockopt(fd, level, option, at, 4) };
        Errno::result(result).unwrap_or_else(|e| panic!("option {option} of {level}: {e}"));
    }
}
