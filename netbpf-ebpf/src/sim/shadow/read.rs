//! Frames as the shadow reads them: with nothing of the datapath's parser.

use netbpf_common::{DropReason, Ipv4, MacAddr, proto};

use super::session::Pair;
use crate::sim::{Frame, packet};

/// What an IPv4 header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// Bytes of the header.
    pub(super) len: usize,
    /// Bytes of the packet.
    pub(super) total: usize,
    pub(super) ttl: u8,
    pub(super) proto: u8,
    pub(super) src: Ipv4,
    pub(super) dst: Ipv4,
    pub(super) id: u16,
    /// In units of eight bytes.
    pub(super) fragment_offset: u16,
    pub(super) has_more: bool,
    pub(super) may_be_fragmented: bool,
    /// Whether its checksum is right; of a quoted one nobody asks.
    pub(super) is_intact: bool,
}

impl Header {
    /// Reads the header of the packet at an offset, whatever it says.
    fn at(bytes: &[u8], at: usize) -> Option<Self> {
        let header = bytes.get(at..at + 20)?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        Some(Self {
            len: usize::from(header[0] & 15) * 4,
            total: word(2).into(),
            ttl: header[8],
            proto: header[9],
            src: addr(header, 12),
            dst: addr(header, 16),
            id: word(4),
            fragment_offset: word(6) & 0x1fff,
            has_more: word(6) & 0x2000 != 0,
            may_be_fragmented: word(6) & 0x4000 == 0,
            is_intact: false,
        })
    }

    /// The header of a frame; nothing if it is none, or contradicts the frame.
    pub(super) fn of(frame: &Frame) -> Option<Self> {
        let bytes = &frame.bytes;
        let mut header = Self::at(bytes, 14)?;
        if header.total == 0 && frame.gso_size != 0 {
            header.total = bytes.len() - 14;
        }
        let is_sound = bytes[14] >> 4 == 4
            && header.len >= 20
            && (header.len..=bytes.len() - 14).contains(&header.total);
        if is_sound {
            header.is_intact = packet::sum(bytes[14..14 + header.len].iter().copied()) == 0xffff;
        }
        is_sound.then_some(header)
    }

    pub(super) fn has_options(&self) -> bool {
        self.len > 20
    }

    pub(super) fn is_fragment(&self) -> bool {
        self.has_more || self.fragment_offset != 0
    }
}

/// What connection tracking wants of a TCP header.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Tcp {
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
}

/// Which sort of packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    /// With ports, or an identifier, in front.
    Transport,
    /// Without: a later fragment, or a protocol that has none.
    Opaque,
    /// An ICMP error, with the packet that it quotes from this offset on.
    Error(usize),
}

/// A packet that can belong to a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) header: Header,
    pub(super) sort: Sort,
    /// By which it finds its session. Of an error: as an answer to what it quotes
    /// would have it.
    pub(super) pair: Pair,
    pub(super) tcp: Option<Tcp>,
    pub(super) may_open: bool,
    /// Bytes of the longest packet that goes on the wire.
    pub(super) wire_len: usize,
}

impl Packet {
    pub(super) fn is_error(&self) -> bool {
        matches!(self.sort, Sort::Error(_))
    }

    pub(super) fn is_first_fragment(&self) -> bool {
        self.header.has_more && self.header.fragment_offset == 0
    }
}

/// What is behind an IPv4 header.
#[derive(Clone, Copy, Debug)]
pub(super) enum Inside {
    Packet(Packet),
    /// A fragment that is not the first.
    Later,
    /// ICMP that asks, answers and reports nothing.
    OtherIcmp,
    /// An error that quotes no packet that its receiver can have sent.
    BadQuote,
    BadChecksum,
    /// It ends before its own header does.
    Malformed,
}

impl Inside {
    /// Why it is dropped where nobody else is to judge it; nothing for what makes sense.
    pub(super) fn reasons(&self, header: &Header) -> &'static [DropReason] {
        match self {
            Self::Packet(_) | Self::Later | Self::OtherIcmp => &[],
            Self::BadQuote => &[DropReason::IcmpUnrelated, DropReason::Truncated],
            Self::BadChecksum => &[DropReason::BadChecksum],
            Self::Malformed if header.is_fragment() => &[DropReason::Fragment],
            Self::Malformed => &[DropReason::Truncated, DropReason::BadHeader],
        }
    }
}

/// Bytes of a transport header at least; nothing for protocols without ports.
fn least(ip_proto: u8) -> Option<usize> {
    match ip_proto {
        proto::TCP => Some(20),
        proto::UDP | proto::UDP_LITE | proto::DCCP | proto::SCTP | proto::ICMP => Some(8),
        _ => None,
    }
}

/// The ports at the beginning of a transport header; an identifier is the port of
/// who asks.
pub(super) fn ports(ip_proto: u8, l4: &[u8]) -> Option<(u16, u16)> {
    let port = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
    if least(ip_proto).is_none() {
        return Some((0, 0));
    }
    match (ip_proto, l4[0]) {
        (proto::ICMP, 8 | 13 | 15 | 17) => Some((port(4), 0)),
        (proto::ICMP, 0 | 14 | 16 | 18) => Some((0, port(4))),
        (proto::ICMP, _) => None,
        _ => Some((port(0), port(2))),
    }
}

/// Reads what follows the header.
pub(super) fn inside(frame: &Frame, header: &Header) -> Inside {
    let at = 14 + header.len;
    let payload = &frame.bytes[at..14 + header.total];
    if header.fragment_offset != 0 {
        return Inside::Later;
    }
    let found = |sort, (sport, dport): (u16, u16)| Packet {
        header: *header,
        sort,
        pair: Pair { proto: header.proto, src: (header.src, sport), dst: (header.dst, dport) },
        tcp: None,
        may_open: true,
        wire_len: header.total,
    };
    let Some(least) = least(header.proto) else {
        return Inside::Packet(found(Sort::Opaque, (0, 0)));
    };
    if payload.len() < least {
        return Inside::Malformed;
    }
    let Some(ports) = ports(header.proto, payload) else {
        return error(frame, header);
    };
    let mut packet = found(Sort::Transport, ports);
    let mut headers_len = header.len + least;
    match header.proto {
        proto::TCP => {
            let word =
                |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
            let data_at = usize::from(payload[12] >> 4) * 4;
            if data_at < 20 || data_at > payload.len() {
                return Inside::Malformed;
            }
            headers_len = header.len + data_at;
            packet.tcp = Some(Tcp { flags: payload[13], seq: word(4), ack: word(8) });
            // Neither FIN nor RST; but SYN or ACK.
            packet.may_open = payload[13] & 5 == 0 && payload[13] & 0x12 != 0;
        }
        proto::ICMP => packet.may_open = matches!(payload[0], 8 | 13 | 15 | 17),
        _ => {}
    }
    if frame.gso_size != 0 {
        packet.wire_len = header.total.min(headers_len + frame.gso_size as usize);
    }
    Inside::Packet(packet)
}

/// Reads an ICMP message that is no query.
fn error(frame: &Frame, header: &Header) -> Inside {
    let at = 14 + header.len;
    let message = &frame.bytes[at..14 + header.total];
    if !matches!(message[0], 3 | 11 | 12) {
        return Inside::OtherIcmp;
    }
    if header.is_fragment() {
        return Inside::Malformed;
    }
    let Some(quoted) = Header::at(message, 8).filter(|_| message[8] >> 4 == 4) else {
        return Inside::BadQuote;
    };
    // Of a protocol without ports there may be less, or nothing.
    let quoted_least = least(quoted.proto).map_or(0, |_| 8);
    let Some(l4) = message.get(8 + quoted.len..).filter(|l4| l4.len() >= quoted_least) else {
        return Inside::BadQuote;
    };
    let ports = ports(quoted.proto, l4);
    let is_consistent = quoted.len >= 20 && quoted.fragment_offset == 0 && quoted.src == header.dst;
    let Some((sport, dport)) = ports.filter(|_| is_consistent) else {
        return Inside::BadQuote;
    };
    if packet::sum(message.iter().copied()) != 0xffff {
        return Inside::BadChecksum;
    }
    let quoted = Pair { proto: quoted.proto, src: (quoted.src, sport), dst: (quoted.dst, dport) };
    Inside::Packet(Packet {
        header: *header,
        sort: Sort::Error(at + 8),
        pair: quoted.turned(),
        tcp: None,
        may_open: false,
        wire_len: header.total,
    })
}

pub(super) fn addr(bytes: &[u8], at: usize) -> Ipv4 {
    Ipv4::new(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn mac(bytes: &[u8], at: usize) -> MacAddr {
    MacAddr::new(bytes[at..at + 6].try_into().expect("six bytes"))
}
