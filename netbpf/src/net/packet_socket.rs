//! Packet sockets (`AF_PACKET`): whole frames, below everything else. What every one
//! of them needs.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use nix::{
    errno::Errno,
    libc::{self, sockaddr_ll},
    net::if_::if_nametoindex,
};

// linux/if_packet.h
const PACKET_AUXDATA: libc::c_int = 8;
const TP_STATUS_CSUMNOTREADY: u32 = 1 << 3;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;

/// Longest frame that is taken.
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

/// What a socket has taken.
#[derive(Clone, Debug)]
pub struct Received {
    /// The bytes; of a packet socket's, without the outermost VLAN tag.
    pub bytes: Vec<u8>,
    /// That tag's ethertype and what is in it, host order, if there was one.
    pub vlan: Option<(u16, u16)>,
    /// Whether the interface has sent it; else it has arrived.
    pub outgoing: bool,
    /// Whether its checksum is still to be completed by the device.
    pub checksum_pending: bool,
}

/// Sets an option of a socket that is a number.
///
/// # Errors
/// The kernel's.
pub fn set(
    fd: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the option's value is an int, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(fd, level, option, (&raw const value).cast(), length::<libc::c_int>())
    };
    Errno::result(result)?;
    Ok(())
}

/// Has the kernel tell of each frame what [`receive`] gives beside its bytes.
///
/// # Errors
/// The kernel's.
pub fn ask_for_details(fd: &impl AsFd) -> io::Result<()> {
    set(fd, libc::SOL_PACKET, PACKET_AUXDATA, 1)
}

/// Binds a packet socket to an interface, to take packets of that protocol
/// (`ETH_P_ALL`: all, 0: none).
///
/// # Errors
/// There is no such interface, or the kernel's.
pub fn bind(fd: &impl AsFd, interface: &str, protocol: libc::c_int) -> io::Result<()> {
    // SAFETY: all-zero bytes are valid for the structure.
    let mut address: sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap_or_default();
    address.sll_protocol = u16::try_from(protocol).unwrap_or_default().to_be();
    address.sll_ifindex = if_nametoindex(interface)?.cast_signed();
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the address lives until the call returns and has that length.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), length::<sockaddr_ll>()) };
    Errno::result(bound)?;
    Ok(())
}

/// The next frame, or packet of another kind of socket, if one has come; does not wait.
#[must_use]
pub fn receive(socket: &impl AsFd) -> Option<Received> {
    let mut bytes = vec![0u8; LONGEST];
    let mut control = [0u64; 16];
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero bytes are valid for both structures.
    let (mut from, mut message): (sockaddr_ll, libc::msghdr) = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = length::<sockaddr_ll>();
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: every pointer in `message` is to a live buffer of the length beside it.
    let len = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_DONTWAIT) };
    bytes.truncate(usize::try_from(len).ok()?);
    // SAFETY: the kernel has filled `message` in; its control buffer is live.
    let aux = unsafe { aux_data(&message) };
    let has = |status| aux.status & status != 0;
    let is_frame = i32::from(from.sll_family) == libc::AF_PACKET;
    Some(Received {
        bytes,
        vlan: has(TP_STATUS_VLAN_VALID).then_some((aux.vlan_tpid, aux.vlan_tci)),
        outgoing: is_frame && from.sll_pkttype == libc::PACKET_OUTGOING,
        checksum_pending: has(TP_STATUS_CSUMNOTREADY),
    })
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

/// Size of an option or address, as system calls take it.
fn length<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default()
}
