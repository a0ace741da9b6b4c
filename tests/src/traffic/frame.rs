//! Whole frames, sent and captured below everything else (`AF_PACKET`).

use crate::{Netns, packet, wait};
use netbpf::net::packet_socket::{self, Received};
use nix::{errno::Errno, libc};
use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

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
        let Received { mut bytes, vlan, outgoing, checksum_pending } =
            packet_socket::receive(&self.fd)?;
        if let Some((tpid, tci)) = vlan {
            bytes.splice(12..12, [tpid, tci].map(u16::to_be_bytes).concat());
        }
        Some(Frame { bytes, outgoing, checksum_pending })
    }
}

fn open(interface: &str) -> io::Result<FrameSocket> {
    // SAFETY: a plain system call; a descriptor that it returns is ours alone.
    let fd = unsafe {
        // Protocol 0: nothing is captured before bind names the interface.
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        OwnedFd::from_raw_fd(Errno::result(fd)?)
    };
    packet_socket::ask_for_details(&fd)?;
    packet_socket::set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20)?;
    packet_socket::bind(&fd, interface, libc::ETH_P_ALL)?;
    Ok(FrameSocket { fd })
}
