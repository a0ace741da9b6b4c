//! Raw sockets: frames at an interface, IP packets at the host.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    libc::{self, sockaddr_in, sockaddr_ll},
    net::if_::if_nametoindex,
};

use super::{decode::Link, packet::proto, scenario::VLAN};

// linux/if_packet.h
const PACKET_AUXDATA: libc::c_int = 8;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const TP_STATUS_CSUMNOTREADY: u32 = 1 << 3;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;

/// Bytes that a socket may keep back for us.
const BUFFER: libc::c_int = 16 << 20;

/// Longest frame that is captured.
const LONGEST: usize = 1 << 17;

/// `struct tpacket_auxdata`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct AuxData {
    status: u32,
    len: u32,
    snaplen: u32,
    mac: u16,
    net: u16,
    vlan_tci: u16,
    vlan_tpid: u16,
}

/// What was captured: the frame's own part if it was a frame, what was in it,
/// and whether its checksum is still to be completed.
pub type Captured = (Option<Link>, Vec<u8>, bool);

/// Sends and captures frames of one interface, or IP packets of a host.
#[derive(Debug)]
pub enum Tap {
    /// All frames of an interface but those that it sends itself.
    Frames(OwnedFd),
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
        let fd = open(libc::AF_PACKET, 0)?;
        set(&fd, libc::SOL_PACKET, PACKET_AUXDATA, 1)?;
        set(&fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)?;
        // SAFETY: all-zero bytes are valid for the structure.
        let mut address: sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap_or_default();
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
        address.sll_ifindex = if_nametoindex(interface)?.cast_signed();
        // SAFETY: the address lives until the call returns and has that length.
        let bound = unsafe {
            libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length::<sockaddr_ll>())
        };
        Errno::result(bound)?;
        Ok(Self::Frames(fd))
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
            Self::Frames(fd) => std::slice::from_ref(fd),
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
            Self::Frames(fd) => unsafe {
                libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0)
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
                        length::<sockaddr_in>(),
                    )
                }
            }
        };
        Errno::result(sent)?;
        Ok(())
    }

    /// Everything that has come.
    #[must_use]
    pub fn captured(&self) -> Vec<Captured> {
        let frames = matches!(self, Self::Frames(_));
        let mut all = Vec::new();
        for socket in self.sockets() {
            while let Some((bytes, aux)) = receive(socket) {
                all.push(if frames { in_frame(&bytes, aux) } else { (None, bytes, false) });
            }
        }
        all
    }
}

/// A frame taken apart.
fn in_frame(bytes: &[u8], aux: AuxData) -> Captured {
    let mac = |at: usize| bytes.get(at..at + 6).and_then(|mac| mac.try_into().ok());
    let mut link = Link {
        dst: mac(0).unwrap_or_default(),
        src: mac(6).unwrap_or_default(),
        tags: Vec::new(),
        ethertype: super::decode::half(bytes, 12),
    };
    // The kernel has taken the outermost tag off.
    if aux.status & TP_STATUS_VLAN_VALID != 0 {
        link.tags.push(aux.vlan_tci);
    }
    let mut at = 14;
    while link.ethertype == VLAN && bytes.len() >= at + 4 {
        link.tags.push(super::decode::half(bytes, at));
        link.ethertype = super::decode::half(bytes, at + 2);
        at += 4;
    }
    let rest = bytes.get(at..).unwrap_or_default().to_vec();
    (Some(link), rest, aux.status & TP_STATUS_CSUMNOTREADY != 0)
}

fn open(domain: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers are passed.
    let fd = Errno::result(unsafe { libc::socket(domain, kind, protocol) })?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set(
    fd: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the option's value is an int, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            length::<libc::c_int>(),
        )
    };
    Errno::result(result)?;
    Ok(())
}

/// The next frame or packet, if one has come.
fn receive(socket: BorrowedFd<'_>) -> Option<(Vec<u8>, AuxData)> {
    let mut bytes = vec![0u8; LONGEST];
    let mut control = [0u64; 16];
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero bytes are valid for the structure.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in `message` is to a live buffer of the length beside it.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    bytes.truncate(usize::try_from(len).ok()?);
    // SAFETY: the kernel has filled `message` in; its control buffer is live.
    let aux = unsafe { aux_data(&message) };
    Some((bytes, aux))
}

/// What the kernel says of a frame beside its bytes.
///
/// # Safety
/// `message` was filled in by a successful `recvmsg`, its buffers are live.
unsafe fn aux_data(message: &libc::msghdr) -> AuxData {
    // SAFETY: the CMSG macros walk the control buffer within its length, and the
    // kernel's message of this type is an `AuxData`.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_PACKET && (*header).cmsg_type == PACKET_AUXDATA {
                return libc::CMSG_DATA(header).cast::<AuxData>().read_unaligned();
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    AuxData::default()
}

fn internet_address(addr: Ipv4Addr) -> sockaddr_in {
    sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default(),
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(addr).to_be() },
        sin_zero: [0; 8],
    }
}

/// Size of an option or address, as system calls take it.
fn length<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default()
}
