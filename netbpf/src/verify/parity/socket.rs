//! Raw sockets: frames at an interface, IP packets at the host.

use std::{
    io,
    net::{Ipv4Addr, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    libc::{self, sockaddr_in},
};

use super::{decode::Link, packet::proto, scenario::VLAN};
use crate::net::packet_socket::{Received, ask_for_details, bind, receive, set};

// linux/if_packet.h
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

// linux/tcp.h
const TCP_REPAIR: libc::c_int = 19;
// linux/virtio_net.h
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_UDP_L4: u8 = 5;

/// Bytes that a socket may keep back for us.
const BUFFER: libc::c_int = 16 << 20;

/// What was captured: the frame's own part if it was a frame, what was in it,
/// and whether its checksum is still to be completed.
pub type Captured = (Option<Link>, Vec<u8>, bool);

/// Sends and captures frames of one interface, or IP packets of a host.
#[derive(Debug)]
pub enum Tap {
    /// All frames of an interface but those that it sends itself.
    Frames {
        /// Sends and captures them.
        frames: OwnedFd,
        /// Sends trains of segments.
        trains: OwnedFd,
    },
    /// What a host's processes get of some protocols; and what is sent is the
    /// host's own.
    Packets {
        /// A socket per protocol.
        receive: Vec<OwnedFd>,
        /// Takes whole packets.
        send: OwnedFd,
    },
}

impl Tap {
    /// Opens it on an interface of the namespace that this thread is in.
    ///
    /// # Errors
    /// The kernel's.
    pub fn frames(interface: &str) -> io::Result<Self> {
        // Protocol 0: nothing is captured before the interface is named.
        let frames = open(libc::AF_PACKET, 0)?;
        ask_for_details(&frames)?;
        set(&frames, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        set(&frames, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)?;
        bind(&frames, interface, libc::ETH_P_ALL)?;
        let trains = open(libc::AF_PACKET, 0)?;
        set(&trains, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        bind(&trains, interface, 0)?;
        Ok(Self::Frames { frames, trains })
    }

    /// Opens it for the host that this thread is in.
    ///
    /// # Errors
    /// The kernel's.
    pub fn packets() -> io::Result<Self> {
        let receive = [proto::ICMP, proto::TCP, proto::UDP].map(|number| {
            let fd = open(libc::AF_INET, number.into())?;
            set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)?;
            Ok(fd)
        });
        let receive = receive.into_iter().collect::<io::Result<_>>()?;
        // Of this protocol it only sends, with headers as they are given.
        Ok(Self::Packets { receive, send: open(libc::AF_INET, libc::IPPROTO_RAW)? })
    }

    /// The sockets that it captures with.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let all = match self {
            Self::Frames { frames, .. } => std::slice::from_ref(frames),
            Self::Packets { receive, .. } => receive,
        };
        all.iter().map(AsFd::as_fd)
    }

    /// Sends a frame, or where packets are sent, a packet.
    ///
    /// # Errors
    /// It is too long, or the kernel does not want to.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = match self {
            // SAFETY: pointer and length are those of a live slice.
            Self::Frames { frames, .. } => unsafe {
                libc::send(frames.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0)
            },
            Self::Packets { send, .. } => {
                let dst = super::decode::addr(bytes, 16);
                let address = internet_address(dst);
                // SAFETY: pointers and lengths are those of a live slice and a
                // live structure.
                unsafe {
                    libc::sendto(
                        send.as_raw_fd(),
                        bytes.as_ptr().cast(),
                        bytes.len(),
                        0,
                        (&raw const address).cast(),
                        libc::socklen_t::try_from(size_of::<sockaddr_in>()).unwrap_or_default(),
                    )
                }
            }
        };
        Errno::result(sent)?;
        Ok(())
    }

    /// Sends a frame with a train of segments with `size` bytes of data each: TCP's
    /// or UDP's, without IP options.
    ///
    /// # Errors
    /// Only packets are sent here, or the kernel does not want to.
    pub fn send_train(&self, frame: &[u8], size: u16) -> io::Result<()> {
        const TRANSPORT: usize = 14 + 20;
        let Self::Frames { trains, .. } = self else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let is_tcp = frame.get(14 + 9) == Some(&proto::TCP);
        let (kind, header, check) = if is_tcp { (GSO_TCPV4, 20, 16) } else { (GSO_UDP_L4, 8, 6) };
        let mut bytes = vec![NEEDS_CSUM, kind];
        for number in [TRANSPORT + header, usize::from(size), TRANSPORT, check] {
            bytes.extend(u16::try_from(number).unwrap_or_default().to_ne_bytes());
        }
        bytes.extend(frame);
        // In the checksum's place is the sum of the pseudo header, for the device.
        let at = bytes.len() - frame.len() + TRANSPORT + check;
        if let (Some(packet), Some(place)) = (frame.get(14..), bytes.get_mut(at..at + 2)) {
            place.copy_from_slice(&super::packet::pseudo_sum(packet).to_be_bytes());
        }
        // SAFETY: pointer and length are those of a live slice.
        let sent = unsafe { libc::send(trains.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        Errno::result(sent)?;
        Ok(())
    }

    /// Everything that has come.
    #[must_use]
    pub fn captured(&self) -> Vec<Captured> {
        let frames = matches!(self, Self::Frames { .. });
        let mut all = Vec::new();
        for socket in self.sockets() {
            while let Some(received) = receive(&socket) {
                all.push(if frames { in_frame(&received) } else { (None, received.bytes, false) });
            }
        }
        all
    }
}

/// Ends a connection without a word to the other side: its number is left to it.
///
/// # Errors
/// The kernel's.
pub fn forget(stream: &TcpStream) -> io::Result<()> {
    set(stream, libc::IPPROTO_TCP, TCP_REPAIR, 1)
}

/// A frame taken apart.
fn in_frame(received: &Received) -> Captured {
    let bytes = &received.bytes;
    let mac = |at: usize| bytes.get(at..at + 6).and_then(|mac| mac.try_into().ok());
    let mut link = Link {
        dst: mac(0).unwrap_or_default(),
        src: mac(6).unwrap_or_default(),
        tags: Vec::new(),
        ethertype: super::decode::half(bytes, 12),
    };
    // The kernel has taken the outermost tag off.
    link.tags.extend(received.vlan.map(|(_, tci)| tci));
    let mut at = 14;
    while link.ethertype == VLAN && bytes.len() >= at + 4 {
        link.tags.push(super::decode::half(bytes, at));
        link.ethertype = super::decode::half(bytes, at + 2);
        at += 4;
    }
    let rest = bytes.get(at..).unwrap_or_default().to_vec();
    (Some(link), rest, received.checksum_pending)
}

fn open(domain: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers are passed.
    let fd = Errno::result(unsafe { libc::socket(domain, kind, protocol) })?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn internet_address(addr: Ipv4Addr) -> sockaddr_in {
    sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default(),
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(addr).to_be() },
        sin_zero: [0; 8],
    }
}
