//! Whole frames, sent and captured below everything else (`AF_PACKET`).

use crate::{Netns, packet, wait};
use nix::{
    errno::Errno,
    libc::{self, sockaddr_ll},
    net::if_::if_nametoindex,
};
use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

// linux/if_packet.h
const PACKET_AUXDATA: i32 = 8;
const TP_STATUS_CSUMNOTREADY: u32 = 1 << 3;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;

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

/// A captured frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its bytes, from the destination MAC on; a VLAN tag is put back.
    pub bytes: Vec<u8>,
    /// Whether this interface sent it; else it arrived.
    pub outgoing: bool,
    /// Whether its checksum is still to be filled in.
    pub checksum_pending: bool,
}

impl Frame {
    /// The IPv4 packet in it, if there is one.
    pub fn ip(&self) -> Option<packet::Seen> {
        packet::Seen::parse(&self.bytes)
    }
}

/// Sends and captures whole frames on one interface.
pub struct FrameSocket {
    fd: OwnedFd,
}

impl FrameSocket {
    /// Opens it on an interface of `ns`; capture begins at once.
    pub fn open(ns: &Netns, interface: &str) -> Self {
        ns.run(|| open(interface))
            .unwrap_or_else(|e| panic!("packet socket on {interface} in {}: {e}", ns.name()))
    }

    /// Sends a frame as it is.
    ///
    /// # Errors
    /// That of sending: too large, interface down.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are those of a live slice.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        Errno::result(sent)?;
        Ok(())
    }

    /// The next frame, if one comes within `patience`.
    pub fn next(&self, patience: Duration) -> Option<Frame> {
        let mut ready = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd, which lives until the call returns.
        let count = unsafe { libc::poll(&raw mut ready, 1, millis) };
        (count > 0).then(|| self.receive()).flatten()
    }

    /// Waits for a frame for which `wanted` gives something; others are dropped.
    #[track_caller]
    pub fn find<T>(&self, what: &str, wanted: impl FnMut(&Frame) -> Option<T>) -> T {
        self.find_within(wait::DEADLINE, wanted)
            .unwrap_or_else(|| panic!("waited {:?} in vain for {what}", wait::DEADLINE))
    }

    /// The same, giving up after `patience`.
    pub fn find_within<T>(
        &self,
        patience: Duration,
        mut wanted: impl FnMut(&Frame) -> Option<T>,
    ) -> Option<T> {
        let start = Instant::now();
        loop {
            let left = patience.checked_sub(start.elapsed())?;
            if let Some(found) = self.next(left).as_ref().and_then(&mut wanted) {
                return Some(found);
            }
        }
    }

    /// All frames captured so far.
    pub fn captured(&self) -> Vec<Frame> {
        std::iter::from_fn(|| self.next(Duration::ZERO)).collect()
    }

    fn receive(&self) -> Option<Frame> {
        let mut bytes = vec![0u8; 1 << 16];
        let mut control = [0u64; 16];
        let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: all-zero bytes are valid for both structures.
        let (mut from, mut message): (sockaddr_ll, libc::msghdr) = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = u32::try_from(size_of::<sockaddr_ll>()).expect("small");
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: every pointer in `message` is to a live buffer of the length beside it.
        let len =
            unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        bytes.truncate(usize::try_from(len).ok()?);
        // SAFETY: the kernel has filled `message` in; its control buffer is live.
        let aux = unsafe { aux_data(&message) };
        if aux.status & TP_STATUS_VLAN_VALID != 0 {
            let tag = [aux.vlan_tpid, aux.vlan_tci].map(u16::to_be_bytes).concat();
            bytes.splice(12..12, tag);
        }
        Some(Frame {
            bytes,
            outgoing: from.sll_pkttype == libc::PACKET_OUTGOING,
            checksum_pending: aux.status & TP_STATUS_CSUMNOTREADY != 0,
        })
    }
}

/// What the kernel says of a packet beside its bytes.
///
/// # Safety
/// `message` was filled in by a successful `recvmsg`, its buffers are live.
unsafe fn aux_data(message: &libc::msghdr) -> AuxData {
    // SAFETY: the CMSG macros walk the control buffer within its length.
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

fn open(interface: &str) -> nix::Result<FrameSocket> {
    let every = u16::try_from(libc::ETH_P_ALL).expect("16 bits").to_be();
    // SAFETY: a plain system call; a descriptor that it returns is ours alone.
    let fd = unsafe {
        // Protocol 0: nothing is captured before bind names the interface.
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        OwnedFd::from_raw_fd(Errno::result(fd)?)
    };
    let socket = FrameSocket { fd };
    socket.set_option(libc::SOL_PACKET, PACKET_AUXDATA, 1)?;
    socket.set_option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20)?;
    // SAFETY: all-zero bytes are valid for the structure.
    let mut address: sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).expect("small");
    address.sll_protocol = every;
    address.sll_ifindex = if_nametoindex(interface)?.cast_signed();
    let len = u32::try_from(size_of::<sockaddr_ll>()).expect("small");
    // SAFETY: the address lives until the call returns and has that length.
    let bound = unsafe { libc::bind(socket.fd.as_raw_fd(), (&raw const address).cast(), len) };
    Errno::result(bound)?;
    Ok(socket)
}

impl FrameSocket {
    fn set_option(&self, level: i32, option: i32, value: i32) -> nix::Result<()> {
        // SAFETY: the option's value is an int, which lives until the call returns.
        let result = unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), level, option, (&raw const value).cast(), 4)
        };
        Errno::result(result).map(drop)
    }
}
