//! Frames for tests: written out header by header, checksums by summing up.

use core::ops::Range;
use std::vec::Vec;

use netbpf_common::{Ipv4, MacAddr, proto};

/// TCP flags, spelled as in a header.
pub mod tcp_flag {
    pub use crate::wire::l4::flag::{ACK, FIN, RST, SYN};
}

/// Where a frame comes from and goes to.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// MAC and address of the sender.
    pub from: (MacAddr, Ipv4),
    /// MAC of the next station and address of the receiver.
    pub to: (MacAddr, Ipv4),
}

/// An IPv4 frame with a time to live of 64 around `payload`.
///
/// # Panics
/// If the payload is longer than an IPv4 packet's can be; so do the others.
#[must_use]
pub fn ipv4(addresses: Addresses, ip_proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(34 + payload.len());
    frame.extend(addresses.to.0.octets());
    frame.extend(addresses.from.0.octets());
    frame.extend([0x08, 0x00]);
    let total = u16::try_from(20 + payload.len()).expect("fits an IPv4 packet");
    frame.extend([0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0x12, 0x34, 0x40, 0x00, 64, ip_proto, 0, 0]);
    frame.extend(addresses.from.1.octets());
    frame.extend(addresses.to.1.octets());
    frame.extend(payload);
    fix_checksums(&mut frame);
    frame
}

/// A UDP frame.
///
/// # Panics
/// If the payload is longer than a datagram's can be.
#[must_use]
pub fn udp(addresses: Addresses, sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(sport.to_be_bytes());
    payload.extend(dport.to_be_bytes());
    payload.extend(u16::try_from(8 + data.len()).expect("fits a datagram").to_be_bytes());
    payload.extend([0, 0]);
    payload.extend(data);
    ipv4(addresses, proto::UDP, &payload)
}

/// What is different from segment to segment.
#[derive(Clone, Copy, Default, Debug)]
pub struct Segment {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Flags.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
}

/// A TCP frame without options.
#[must_use]
pub fn tcp(addresses: Addresses, segment: Segment, data: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(segment.sport.to_be_bytes());
    payload.extend(segment.dport.to_be_bytes());
    payload.extend(segment.seq.to_be_bytes());
    payload.extend(segment.ack.to_be_bytes());
    payload.extend([5 << 4, segment.flags, 0xff, 0xff, 0, 0, 0, 0]);
    payload.extend(data);
    ipv4(addresses, proto::TCP, &payload)
}

/// An ICMP echo request or reply.
#[must_use]
pub fn echo(addresses: Addresses, is_request: bool, id: u16, data: &[u8]) -> Vec<u8> {
    let mut payload = Vec::from([if is_request { 8 } else { 0 }, 0, 0, 0]);
    payload.extend(id.to_be_bytes());
    payload.extend([0, 1]);
    payload.extend(data);
    ipv4(addresses, proto::ICMP, &payload)
}

/// A UDP-Lite frame whose checksum covers all of it (RFC 3828).
#[must_use]
pub fn udp_lite(addresses: Addresses, sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(sport.to_be_bytes());
    payload.extend(dport.to_be_bytes());
    payload.extend([0; 4]);
    payload.extend(data);
    ipv4(addresses, proto::UDP_LITE, &payload)
}

/// An SCTP frame (RFC 9260); its checksum, which covers no address and which
/// nobody on the way looks at, is left out.
#[must_use]
pub fn sctp(addresses: Addresses, sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(sport.to_be_bytes());
    payload.extend(dport.to_be_bytes());
    payload.extend([0; 8]);
    payload.extend(data);
    ipv4(addresses, proto::SCTP, &payload)
}

/// What an ICMP error says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Complaint {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The word behind the checksum: an MTU, or a pointer.
    pub rest: u32,
}

impl Complaint {
    /// Port unreachable.
    pub const PORT_UNREACHABLE: Self = Self { kind: 3, code: 3, rest: 0 };
    /// The time to live ran out.
    pub const TIME_EXCEEDED: Self = Self { kind: 11, code: 0, rest: 0 };

    /// Fragmentation needed, and forbidden.
    #[must_use]
    pub const fn fragmentation_needed(mtu: u16) -> Self {
        Self { kind: 3, code: 4, rest: mtu as u32 }
    }
}

/// An ICMP error that quotes an IP packet, or its beginning.
#[must_use]
pub fn error(addresses: Addresses, complaint: Complaint, quote: &[u8]) -> Vec<u8> {
    let mut payload = Vec::from([complaint.kind, complaint.code, 0, 0]);
    payload.extend(complaint.rest.to_be_bytes());
    payload.extend(quote);
    ipv4(addresses, proto::ICMP, &payload)
}

/// What an error quotes of an IPv4 frame: its header and `len` bytes more, or
/// all there are.
#[must_use]
pub fn quote(frame: &[u8], len: usize) -> &[u8] {
    &frame[14..frame.len().min(l4_at(frame) + len)]
}

/// The frame with IP options, padded to whole words.
///
/// # Panics
/// If they are longer than options can be.
#[must_use]
pub fn with_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let mut options = Vec::from(options);
    options.resize(options.len().next_multiple_of(4), 0);
    let mut frame = [&frame[..34], &options, &frame[34..]].concat();
    let words = u8::try_from(options.len() / 4).expect("options fit");
    frame[14] += words;
    let total = u16::from_be_bytes([frame[16], frame[17]]) + u16::from(words) * 4;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    fix_header_checksum(&mut frame);
    frame
}

/// The fragment of a frame without options that has these bytes of its payload,
/// which begin at a multiple of eight.
///
/// # Panics
/// If they do not, or are none.
#[must_use]
pub fn fragment(frame: &[u8], payload: Range<usize>) -> Vec<u8> {
    assert!(payload.start.is_multiple_of(8) && !payload.is_empty());
    let whole = &frame[34..];
    let mut fragment = [&frame[..34], &whole[payload.clone()]].concat();
    let total = u16::try_from(20 + payload.len()).expect("shorter than the whole");
    fragment[16..18].copy_from_slice(&total.to_be_bytes());
    let more = if payload.end < whole.len() { 0x2000 } else { 0 };
    let word = u16::try_from(payload.start / 8).expect("within a datagram") | more;
    fragment[20..22].copy_from_slice(&word.to_be_bytes());
    fix_header_checksum(&mut fragment);
    fragment
}

/// Addresses and ports of an IPv4 frame: the source's, then the destination's.
///
/// # Panics
/// If the frame ends before.
#[must_use]
pub fn ends(frame: &[u8]) -> (Ipv4, u16, Ipv4, u16) {
    let l4 = l4_at(frame);
    let addr = |at: usize| Ipv4::new(frame[at..at + 4].try_into().expect("four bytes"));
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    (addr(26), port(l4), addr(30), port(l4 + 2))
}

/// An ARP request, or reply, of `sender` to everybody.
#[must_use]
pub fn arp(source: MacAddr, sender: (MacAddr, Ipv4), target: Ipv4) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(MacAddr::BROADCAST.octets());
    frame.extend(source.octets());
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(sender.0.octets());
    frame.extend(sender.1.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// The sum of a run of 16-bit words, odd byte padded, folded.
pub(super) fn sum(words: impl IntoIterator<Item = u8>) -> u16 {
    let mut total: u64 = 0;
    for (i, byte) in words.into_iter().enumerate() {
        total += u64::from(byte) << if i % 2 == 0 { 8 } else { 0 };
    }
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).expect("folded")
}

/// Offset of a protocol's checksum in its header.
pub(super) fn l4_check(ip_proto: u8) -> Option<usize> {
    match ip_proto {
        proto::TCP => Some(16),
        proto::UDP | proto::UDP_LITE => Some(6),
        proto::ICMP => Some(2),
        _ => None,
    }
}

/// Offset of what follows the IP header.
pub(super) fn l4_at(frame: &[u8]) -> usize {
    14 + usize::from(frame[14] & 15) * 4
}

/// Whether the frame has a part of a datagram only.
fn is_fragment(frame: &[u8]) -> bool {
    frame[20] & 0x3f != 0 || frame[21] != 0
}

/// Sum over transport header and payload, with the pseudo-header where the
/// protocol has one.
fn l4_sum(frame: &[u8]) -> u16 {
    let segment = &frame[l4_at(frame)..];
    let len = u16::try_from(segment.len()).expect("fits an IPv4 packet").to_be_bytes();
    let mut bytes = Vec::from(segment);
    if frame[23] != proto::ICMP {
        if bytes.len() % 2 == 1 {
            bytes.push(0);
        }
        bytes.extend(&frame[26..34]);
        bytes.extend([0, frame[23], len[0], len[1]]);
    }
    sum(bytes)
}

/// Computes the checksum of an IPv4 frame's header anew.
pub fn fix_header_checksum(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let check = !sum(frame[14..l4_at(frame)].iter().copied());
    frame[24..26].copy_from_slice(&check.to_be_bytes());
}

/// The same of any frame: one that has no whole IPv4 header stays as it is.
pub fn repair_header_checksum(frame: &mut [u8]) {
    let is_ipv4 = frame.get(12..14) == Some(&[8, 0]);
    if is_ipv4 && frame.len() >= 34 && (34..=frame.len()).contains(&l4_at(frame)) {
        fix_header_checksum(frame);
    }
}

/// Computes all checksums of an IPv4 frame anew; of a fragment, the header's.
pub fn fix_checksums(frame: &mut [u8]) {
    fix_header_checksum(frame);
    let l4 = l4_at(frame);
    let check = l4_check(frame[23]).map(|offset| l4 + offset);
    let Some(at) = check.filter(|at| frame.len() >= at + 2 && !is_fragment(frame)) else {
        return;
    };
    frame[at..at + 2].fill(0);
    let mut check = !l4_sum(frame);
    if check == 0 && frame[23] != proto::ICMP && frame[23] != proto::TCP {
        check = 0xffff;
    }
    frame[at..at + 2].copy_from_slice(&check.to_be_bytes());
}

/// Whether all checksums of an IPv4 frame are right: a UDP checksum of zero is.
/// Of a fragment, the header's.
#[must_use]
pub fn has_right_checksums(frame: &[u8]) -> bool {
    let l4 = l4_at(frame);
    let is_without = || frame[23] == proto::UDP && frame[l4 + 6..l4 + 8] == [0, 0];
    let is_left_out = is_fragment(frame) || l4_check(frame[23]).is_none() || is_without();
    sum(frame[14..l4].iter().copied()) == 0xffff && (is_left_out || l4_sum(frame) == 0xffff)
}
