//! IPv4 packets put on the wire at either end of the box, and taken from it.

use crate::{
    Host, Netns,
    packet::{self, IPV4, Mac},
    traffic::{Frame, FrameSocket},
};
use std::{net::Ipv4Addr, time::Duration};

/// How long to wait for what must not come, when nothing that must come follows it.
const BRIEFLY: Duration = Duration::from_millis(300);

/// One end of a way through the box: what is sent goes to the box, what is
/// received came from it.
///
/// Whole packets, byte for byte, only on a host without offloads.
pub struct Wire {
    frames: FrameSocket,
    own: Mac,
    peer: Mac,
}

impl Wire {
    /// Between a namespace and its gateway.
    pub fn inside(host: &Host, ns: &Netns) -> Self {
        Self::open(ns, "eth0", host.netns().mac("netbpf0"))
    }

    /// Between the outside and the uplink.
    pub fn outside(host: &Host) -> Self {
        Self::open(host.outside(), "out0", host.netns().mac("up0"))
    }

    fn open(ns: &Netns, interface: &str, peer: Mac) -> Self {
        Self { frames: FrameSocket::open(ns, interface), own: ns.mac(interface), peer }
    }

    /// The frame with this packet to the box.
    pub fn frame(&self, ip: &[u8]) -> Vec<u8> {
        packet::ethernet(self.peer, self.own, IPV4, ip)
    }

    /// Sends a packet to the box.
    #[track_caller]
    pub fn send(&self, ip: &[u8]) {
        let len = ip.len();
        self.frames.send(&self.frame(ip)).unwrap_or_else(|e| panic!("send {len} bytes: {e}"));
    }

    /// The socket, for frames of one's own making.
    pub fn frames(&self) -> &FrameSocket {
        &self.frames
    }

    /// Waits for the next packet from the box that is wanted; others are dropped.
    #[track_caller]
    pub fn receive(&self, what: &str, mut wanted: impl FnMut(&Packet) -> bool) -> Packet {
        self.frames.find(what, |frame| Packet::arrived(frame).filter(|packet| wanted(packet)))
    }

    /// Nothing that is unwanted has come, nor does in a moment.
    #[track_caller]
    pub fn receives_none(&self, what: &str, mut unwanted: impl FnMut(&Packet) -> bool) {
        let found = self
            .frames
            .find_within(BRIEFLY, |frame| Packet::arrived(frame).filter(|packet| unwanted(packet)));
        assert!(found.is_none(), "{what}: {found:02x?}");
    }

    /// Everything that has come so far.
    pub fn received(&self) -> Vec<Packet> {
        self.frames.captured().iter().filter_map(Packet::arrived).collect()
    }
}

/// An IPv4 packet that came from the box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// All of it, padding of the frame cut off.
    pub bytes: Vec<u8>,
    /// What is in it.
    pub seen: packet::Seen,
}

impl Packet {
    fn arrived(frame: &Frame) -> Option<Self> {
        if frame.outgoing { None } else { Self::in_frame(&frame.bytes) }
    }

    fn in_frame(frame: &[u8]) -> Option<Self> {
        let seen = packet::Seen::parse(frame)?;
        let ip = &frame[14..];
        let header_len = usize::from(ip[0] & 0xf) * 4;
        let bytes = ip[..header_len + seen.payload.len()].to_vec();
        Some(Self { bytes, seen })
    }

    /// Whether it is of this protocol and goes between these addresses.
    pub fn is(&self, proto: u8, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        (self.seen.proto, self.seen.src, self.seen.dst) == (proto, src, dst)
    }

    /// Type and code, if it is an ICMP error or redirect with right checksums.
    pub fn error(&self) -> Option<(u8, u8)> {
        let payload = &self.seen.payload;
        let is_error = self.seen.proto == packet::ICMP
            && matches!(payload.first(), Some(3 | 4 | 5 | 11 | 12))
            && self.seen.checksums_ok();
        is_error.then(|| (payload[0], payload[1]))
    }

    /// What an ICMP message has from its fifth byte on: the rest of its
    /// header, and the packet that it quotes.
    #[track_caller]
    pub fn quote(&self) -> ([u8; 4], &[u8]) {
        let rest = self.seen.payload.get(4..).and_then(<[u8]>::split_first_chunk);
        let (rest, quote) = rest.unwrap_or_else(|| panic!("no ICMP header in {self:02x?}"));
        (*rest, quote)
    }

    /// The beginning of it that an error quotes: header and `len` bytes.
    pub fn beginning(&self, len: usize) -> &[u8] {
        let header_len = self.bytes.len() - self.seen.payload.len();
        &self.bytes[..(header_len + len).min(self.bytes.len())]
    }
}

/// The packet as it is `hops` routers later.
pub fn later(ip: &[u8], hops: u8) -> Vec<u8> {
    let mut ip = ip.to_vec();
    let header_len = usize::from(ip[0] & 0xf) * 4;
    ip[8] -= hops;
    ip[10..12].fill(0);
    let sum = packet::checksum(&ip[..header_len]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip
}
