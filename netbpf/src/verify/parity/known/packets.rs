//! What is wrong with a packet that was sent.

use super::{
    super::{
        decode::{addr, half},
        packet::{self, MORE_FRAGMENTS, OFFSET, proto},
    },
    Case,
};

/// A packet's protocol and payload, if it has a whole header.
pub(super) fn parts(packet: &[u8]) -> Option<(u8, &[u8])> {
    let header_len = usize::from(packet.first()? & 15) * 4;
    let total = usize::from(half(packet, 2)).clamp(header_len, packet.len().max(header_len));
    let payload = packet.get(header_len..total).filter(|_| header_len >= 20)?;
    Some((packet[9], payload))
}

/// Whether it is a fragment.
pub(super) fn is_fragment(packet: &[u8]) -> bool {
    packet.len() >= 20 && half(packet, 6) & (OFFSET | MORE_FRAGMENTS) != 0
}

/// Whether all fragments of its datagram were sent.
pub(super) fn is_whole(case: &Case<'_>, packet: &[u8]) -> bool {
    let datagram = |packet: &[u8]| (addr(packet, 12), addr(packet, 16), packet[9], half(packet, 4));
    let all = case.sent.iter().filter_map(Option::as_deref);
    let mut all: Vec<&[u8]> =
        all.filter(|other| is_fragment(other) && datagram(other) == datagram(packet)).collect();
    all.sort_by_key(|packet| half(packet, 6) & OFFSET);
    let mut reached = 0;
    let mut is_last = false;
    let is_gapless = all.iter().all(|packet| {
        let begins = usize::from(half(packet, 6) & OFFSET) * 8;
        let fits = begins <= reached;
        reached = begins + packet.len() - usize::from(packet[0] & 15) * 4;
        is_last = half(packet, 6) & MORE_FRAGMENTS == 0;
        fits
    });
    is_gapless && is_last
}

/// Whether a packet ends within its headers, or says something else of its length.
pub(super) fn is_malformed(packet: &[u8]) -> bool {
    let Some(first) = packet.first() else { return true };
    let header_len = usize::from(first & 15) * 4;
    let total = usize::from(half(packet, 2));
    if first >> 4 != 4 || header_len < 20 || total < header_len || packet.len() < total {
        return true;
    }
    let payload = &packet[header_len..total];
    match packet[9] {
        _ if is_fragment(packet) => payload.len() < 8,
        proto::TCP => {
            let tcp_len = payload.get(12).map_or(0, |at| usize::from(at >> 4) * 4);
            payload.len() < 20 || tcp_len < 20 || tcp_len > payload.len()
        }
        proto::UDP | proto::ICMP => payload.len() < 8,
        _ => false,
    }
}

/// Whether its own checksum, or the length that it says that it has, is wrong.
pub(super) fn is_wrong(packet: &[u8]) -> bool {
    let Some((number, payload)) = parts(packet) else { return true };
    let (src, dst) = (addr(packet, 12), addr(packet, 16));
    let sum = || packet::pseudo_checksum(src, dst, number, payload) != 0;
    match number {
        _ if is_fragment(packet) => false,
        proto::TCP => is_malformed(packet) || sum(),
        proto::UDP => {
            payload.len() < 8
                || usize::from(half(payload, 4)) != payload.len()
                || half(payload, 6) != 0 && sum()
        }
        proto::ICMP => payload.len() < 8 || packet::checksum(payload) != 0,
        _ => false,
    }
}

/// The protocol of the packet that an ICMP error quotes.
pub(super) fn quotes(packet: &[u8]) -> Option<u8> {
    quote(packet)?.get(9).copied()
}

/// What an ICMP error quotes.
fn quote(packet: &[u8]) -> Option<&[u8]> {
    let (number, message) = parts(packet)?;
    let is_error = number == proto::ICMP && matches!(message.first(), Some(3 | 11 | 12));
    message.get(8..).filter(|_| is_error)
}

/// Whether it is an error that quotes less than eight bytes of a packet's payload.
pub(super) fn has_tiny_quote(packet: &[u8]) -> bool {
    quote(packet).is_some_and(|quote| {
        let header_len = quote.first().map_or(20, |first| usize::from(first & 15) * 4);
        quote.len() < header_len + 8
    })
}

/// Whether it is a TCP segment with a reset.
pub(super) fn is_reset(packet: &[u8]) -> bool {
    parts(packet).is_some_and(|(number, payload)| {
        number == proto::TCP && payload.get(13).is_some_and(|flags| flags & packet::flag::RST != 0)
    })
}
