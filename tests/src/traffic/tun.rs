//! A point-to-point interface whose other end is the test.

use crate::{
    Netns,
    packet::{self, Seen},
    wait,
};
use nix::{errno::Errno, libc};
use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::fd::AsRawFd,
    os::unix::fs::OpenOptionsExt,
};

/// A `tun` interface: IP packets without Ethernet headers. It goes when dropped.
pub struct Tun {
    device: File,
}

impl Tun {
    /// Makes an interface of this name in `ns`, and switches it on.
    pub fn new(ns: &Netns, name: &str) -> Self {
        let device = ns.run(|| open(name)).unwrap_or_else(|e| panic!("tun {name}: {e}"));
        ns.ip(&format!("link set {name} up"));
        Self { device }
    }

    /// Sends an IP packet into the interface, as from the other end.
    #[track_caller]
    pub fn send(&self, ip: &[u8]) {
        let sent = (&self.device).write(ip).expect("write to the tun device");
        assert_eq!(sent, ip.len(), "a packet goes whole");
    }

    /// Waits for a packet out of the interface for which `wanted` gives something;
    /// others are dropped.
    #[track_caller]
    pub fn find<T>(&self, what: &str, mut wanted: impl FnMut(&Seen) -> Option<T>) -> T {
        wait::until(what, || {
            let mut buffer = vec![0; 1 << 16];
            let len = (&self.device).read(&mut buffer).ok()?;
            let frame = packet::ethernet([0; 6], [0; 6], packet::IPV4, &buffer[..len]);
            Seen::parse(&frame).as_ref().and_then(&mut wanted)
        })
    }
}

fn open(name: &str) -> nix::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    let device = options.open("/dev/net/tun").expect("open /dev/net/tun");
    // SAFETY: ifreq is plain data for which all-zero bytes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(name.len() < request.ifr_name.len(), "interface name too long");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).expect("16 bits");
    // SAFETY: TUNSETIFF takes an ifreq, which lives until the call returns.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    Errno::result(result)?;
    Ok(device)
}
