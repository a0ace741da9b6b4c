//! Frames for tests: written out header by header, checksums by summing up.

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
        proto::UDP => Some(6),
        proto::ICMP => Some(2),
        _ => None,
    }
}

/// Sum over transport header and payload, with the pseudo-header where the
/// protocol has one.
fn l4_sum(frame: &[u8]) -> u16 {
    let segment = &frame[34..];
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

/// Computes all checksums of an IPv4 frame anew, without IP options.
pub fn fix_checksums(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let check = !sum(frame[14..34].iter().copied());
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    let Some(offset) = l4_check(frame[23]).filter(|offset| frame.len() >= 36 + offset) else {
        return;
    };
    frame[34 + offset..36 + offset].fill(0);
    let mut check = !l4_sum(frame);
    if check == 0 && frame[23] == proto::UDP {
        check = 0xffff;
    }
    frame[34 + offset..36 + offset].copy_from_slice(&check.to_be_bytes());
}

/// Whether all checksums of an IPv4 frame are right: a UDP checksum of zero is.
#[must_use]
pub fn has_right_checksums(frame: &[u8]) -> bool {
    let without_udp = frame[23] == proto::UDP && frame[40..42] == [0, 0];
    let header = sum(frame[14..34].iter().copied()) == 0xffff;
    let l4 = l4_check(frame[23]).is_none() || without_udp || l4_sum(frame) == 0xffff;
    header && l4
}
