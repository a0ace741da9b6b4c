//! Frames as the invariants read them: with nothing of the datapath's parser, so
//! that the two do not share a mistake.

use netbpf_common::{FragmentKey, Fragments, Ipv4, MacAddr, Port, Tuple, proto};

use crate::{
    seam::Skb as _,
    sim::{Frame, Sim, packet},
};

/// What of an IPv4 packet is translated behind its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// A transport header.
    Transport,
    /// Nothing: a later fragment, or a protocol without ports.
    Opaque,
    /// The IP packet that an ICMP error quotes from this offset on.
    Quote(usize),
}

/// An IPv4 packet that could belong to a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Key of the flow table's entry that it goes by.
    pub(super) key: Tuple,
    /// Where what follows the IP header begins.
    pub(super) l4: usize,
    /// Where the packet ends.
    pub(super) end: usize,
    /// What is translated.
    pub(super) part: Part,
}

impl Reading {
    pub(super) fn is_error(&self) -> bool {
        matches!(self.part, Part::Quote(_))
    }
}

/// Reads a frame. Where a later fragment belongs only the tables know, and whether
/// a flow of the host's own is what the host's packet goes by.
pub(super) fn read(sim: &Sim, frame: &Frame) -> Option<Reading> {
    let reading = read_bytes(sim, frame)?;
    let own = Tuple { from_host: 1, ..reading.key };
    let is_own = frame.is_from_host() && sim.tables.flows.contains_key(&own);
    Some(if is_own { Reading { key: own, ..reading } } else { reading })
}

fn read_bytes(sim: &Sim, frame: &Frame) -> Option<Reading> {
    let bytes = &frame.bytes;
    if bytes.len() < 34 || bytes[12..14] != [8, 0] || bytes[14] >> 4 != 4 {
        return None;
    }
    let is_big_train = total_len(bytes) == 0 && frame.gso_size != 0;
    let len = if is_big_train { bytes.len() - 14 } else { total_len(bytes) };
    let header_len = header_len(bytes, 14);
    if header_len < 20 || !(header_len..=bytes.len() - 14).contains(&len) {
        return None;
    }
    // What was damaged on the way belongs to nothing (RFC 1812 section 5.2.2).
    if packet::sum(bytes[14..14 + header_len].iter().copied()) != 0xffff {
        return None;
    }
    let (l4, end) = (14 + header_len, 14 + len);
    let bare = tuple(bytes, 14, (Port::default(), Port::default()));
    let reading = |key, part| Some(Reading { key, l4, end, part });
    if fragment_offset(bytes, 14) != 0 {
        let known = *sim.tables.fragments.get(&fragment_key(bytes))?.borrow();
        let key = Tuple { sport: known.sport, dport: known.dport, ..bare };
        return if known.state == Fragments::IN_FLOW { reading(key, Part::Opaque) } else { None };
    }
    let Some(least) = least_len(bytes[23]) else {
        return reading(bare, Part::Opaque);
    };
    if end - l4 < least || bytes[23] == proto::TCP && bytes[l4 + 12] >> 4 < 5 {
        return None;
    }
    if let Some(ports) = ports(bytes[23], &bytes[l4..]) {
        return reading(tuple(bytes, 14, ports), Part::Transport);
    }
    let (is_error, at) = (matches!(bytes[l4], 3 | 11 | 12), l4 + 8);
    if !is_error || is_fragment(bytes) || end < at + 20 || bytes[at] >> 4 != 4 {
        return None;
    }
    let (quoted, quoted_proto) = (at + self::header_len(bytes, at), bytes[at + 9]);
    // Eight bytes are what has to be there of a transport header (RFC 792). A packet
    // without ports may have had less behind its header, or nothing.
    let least = if least_len(quoted_proto).is_some() { 8 } else { 0 };
    if quoted < at + 20 || end < quoted + least || fragment_offset(bytes, at) != 0 {
        return None;
    }
    let key = tuple(bytes, at, ports(quoted_proto, &bytes[quoted..])?).reversed();
    let is_consistent = key.daddr == addr(bytes, 30);
    if is_consistent { reading(key, Part::Quote(at)) } else { None }
}

/// The tuple of the IP packet at `at`, with these ports.
pub(super) fn tuple(frame: &[u8], at: usize, (sport, dport): (Port, Port)) -> Tuple {
    let (saddr, daddr) = (addr(frame, at + 12), addr(frame, at + 16));
    Tuple { saddr, daddr, sport, dport, proto: frame[at + 9], from_host: 0, pad: [0; 2] }
}

/// Bytes that a transport header has at least; nothing for protocols without
/// ports.
fn least_len(ip_proto: u8) -> Option<usize> {
    match ip_proto {
        proto::TCP => Some(20),
        proto::UDP | proto::UDP_LITE | proto::DCCP | proto::SCTP | proto::ICMP => Some(8),
        _ => None,
    }
}

/// The ports at the beginning of a transport header; nothing for an ICMP message
/// that is no query. Protocols without ports have two zeros.
pub(super) fn ports(ip_proto: u8, l4: &[u8]) -> Option<(Port, Port)> {
    if least_len(ip_proto).is_none() {
        return Some((Port::default(), Port::default()));
    }
    let port = |at: usize| Port::from_bytes([l4[at], l4[at + 1]]);
    match (ip_proto, l4.first()?) {
        (proto::ICMP, 8 | 13 | 15 | 17) => Some((port(4), Port::default())),
        (proto::ICMP, 0 | 14 | 16 | 18) => Some((Port::default(), port(4))),
        (proto::ICMP, _) => None,
        _ => Some((port(0), port(2))),
    }
}

/// What all fragments of a datagram have in common.
pub(super) fn fragment_key(frame: &[u8]) -> FragmentKey {
    FragmentKey {
        saddr: addr(frame, 26),
        daddr: addr(frame, 30),
        id: u16::from_ne_bytes([frame[18], frame[19]]),
        proto: frame[23],
        pad: 0,
    }
}

/// Length of the header of the IP packet at `at`.
pub(super) fn header_len(frame: &[u8], at: usize) -> usize {
    usize::from(frame[at] & 15) * 4
}

/// Length of an IPv4 packet, as it says itself.
pub(super) fn total_len(frame: &[u8]) -> usize {
    u16::from_be_bytes([frame[16], frame[17]]).into()
}

/// The fragment offset of the IP packet at `at`, in units of eight bytes.
pub(super) fn fragment_offset(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at + 6], frame[at + 7]]) & 0x1fff
}

/// Whether a frame has a part of a datagram only.
pub(super) fn is_fragment(frame: &[u8]) -> bool {
    frame[20] & 0x20 != 0 || fragment_offset(frame, 14) != 0
}

pub(super) fn addr_at(frame: &[u8], at: usize) -> Option<Ipv4> {
    frame.get(at..at + 4)?.try_into().map(Ipv4::new).ok()
}

pub(super) fn addr(frame: &[u8], at: usize) -> Ipv4 {
    addr_at(frame, at).expect("the frame has an address there")
}

pub(super) fn mac(frame: &[u8], at: usize) -> MacAddr {
    MacAddr::new(frame[at..at + 6].try_into().expect("six bytes"))
}
