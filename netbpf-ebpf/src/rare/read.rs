//! Reading rare packets.

use netbpf_common::{DropReason, Flow, FragmentKey, Port, proto};

use super::Decided;
use crate::{
    Forward, Stop, fragment, icmp_error,
    parse::{self, Packet, Translate},
    rewrite,
    seam::{Env, Seam, Skb, Tables},
    wire::{
        eth,
        icmp::{self, Query},
        ipv4::Header,
        l4::{self, Tcp},
    },
};

/// What of a rare packet is translated beside the addresses in its header.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Payload {
    /// A transport header.
    #[default]
    Transport,
    /// Nothing.
    Opaque,
    /// A packet that an ICMP error quotes.
    Quote,
}

/// A rare packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rare {
    /// What decides about it.
    pub packet: Packet,
    /// What is to be changed.
    pub payload: Payload,
    /// Offset in the frame of what follows the IP header.
    pub offset: usize,
    /// Whether it is the first fragment of a datagram.
    pub is_first_fragment: bool,
    /// Whether it is a fragment that is held, with others, and that goes with them.
    pub is_held: bool,
    /// Whether it is the first fragment of a datagram that the stack is to send on, and
    /// of which it has not had the others that came before.
    pub is_awaited: bool,
    decided: Decided,
}

impl Default for Rare {
    fn default() -> Self {
        Self {
            packet: Packet::default(),
            payload: Payload::Transport,
            offset: 0,
            is_first_fragment: false,
            is_held: false,
            is_awaited: false,
            decided: Err(Stop::ToStack).into(),
        }
    }
}

impl Rare {
    /// What has been decided about it so far.
    #[inline(always)]
    #[must_use]
    pub fn decided(&self) -> &Decided {
        &self.decided
    }

    /// Puts a decision down.
    #[inline(always)]
    pub fn decide(&mut self, decision: Result<Forward, Stop>) {
        self.decided = decision.into();
    }

    /// Puts down that the decision goes on, or why it does not.
    #[inline(always)]
    pub fn go_on(&mut self, result: Result<(), Stop>) {
        self.decide(Err(result.err().unwrap_or(Stop::Rare)));
    }

    /// What the fragments of its datagram have in common.
    #[must_use]
    pub fn fragment_key(&self) -> FragmentKey {
        fragment::key(&self.packet.header)
    }
}

impl Translate for Rare {
    #[inline(always)]
    fn packet(&self) -> &Packet {
        &self.packet
    }

    #[inline(always)]
    fn is_error(&self) -> bool {
        self.payload == Payload::Quote
    }

    #[inline(always)]
    fn is_rare(&self) -> bool {
        true
    }

    #[inline(always)]
    fn translate(&self, skb: &mut impl Skb, flow: &Flow, ttl: u8) -> Option<()> {
        match self.payload {
            Payload::Transport => rewrite::transport_at(skb, &self.packet, self.offset, flow)?,
            Payload::Opaque => {}
            Payload::Quote => return icmp_error::translate(skb, self, flow, ttl),
        }
        rewrite::ip_header(skb, &self.packet.header, flow, ttl)
    }
}

/// What there is to read behind the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// It is in the [`Rare`] now.
    Packet,
    /// Nothing: a fragment that is not the first, of a datagram of which the
    /// first is not known.
    LaterFragment,
}

/// Reads a packet whose IPv4 header is `header`.
///
/// # Errors
/// Why it goes nowhere, or [`Stop::ToStack`] if it is the stack's.
#[inline(always)]
pub fn read<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    header: Header,
    rare: &mut Rare,
) -> Result<Read, Stop> {
    let len = parse::len(&seam.skb, &header);
    rare.offset = eth::LEN + header.header_len() as usize;
    rare.packet.header = header;
    rare.packet.len = len;
    rare.packet.headers_len = len;
    rare.packet.may_open = true;
    if header.is_later_fragment() {
        return fragment::read(seam, rare);
    }
    rare.is_first_fragment = header.is_fragment();
    let l4_len = len.saturating_sub(header.header_len());
    let ports = transport(&seam.skb, rare, l4_len).map_err(|reason| {
        // RFC 1858: nobody sends the header of a datagram in two parts.
        if rare.is_first_fragment { DropReason::Fragment } else { reason }
    })?;
    let Some((sport, dport)) = ports else {
        return icmp_error::read(seam, rare).map(|()| Read::Packet);
    };
    rare.packet.tuple = parse::tuple(&header, sport, dport);
    Ok(Read::Packet)
}

/// Reads the transport header's ports; `None` for ICMP that is no query.
#[inline(always)]
fn transport(
    skb: &impl Skb,
    rare: &mut Rare,
    l4_len: u32,
) -> Result<Option<(Port, Port)>, DropReason> {
    let offset = rare.offset;
    let ip_proto = rare.packet.header.proto;
    let least = match ip_proto {
        proto::TCP => l4::TCP_MIN_LEN,
        proto::UDP | proto::UDP_LITE | proto::DCCP | proto::SCTP => l4::UDP_LEN,
        proto::ICMP => icmp::MIN_LEN,
        _ => {
            rare.payload = Payload::Opaque;
            return Ok(Some((Port::default(), Port::default())));
        }
    };
    if l4_len < least {
        return Err(DropReason::Truncated);
    }
    let first: [u8; 8] = skb.read(offset).ok_or(DropReason::Truncated)?;
    let [a, b, c, d, id_high, id_low, ..] = first;
    let mut ports = (Port::from_bytes([a, b]), Port::from_bytes([c, d]));
    let mut headers_len = rare.packet.header.header_len() + l4::UDP_LEN;
    match ip_proto {
        proto::ICMP => {
            let id = Port::from_bytes([id_high, id_low]);
            let Some(query) = Query::of(a, id) else {
                return Ok(None);
            };
            rare.packet.may_open = query.is_request;
            ports = query.ports();
        }
        proto::TCP => {
            let header: [u8; 20] = skb.read(offset).ok_or(DropReason::Truncated)?;
            let tcp = Tcp::of(&header);
            if tcp.len < l4::TCP_MIN_LEN {
                return Err(DropReason::BadHeader);
            }
            if tcp.len > l4_len {
                return Err(DropReason::Truncated);
            }
            rare.packet.may_open = tcp.may_open();
            rare.packet.tcp = tcp;
            headers_len += tcp.len - l4::UDP_LEN;
        }
        _ => {}
    }
    rare.packet.headers_len = headers_len;
    Ok(Some(ports))
}

/// Whether packets of a protocol have ports, or what stands for them.
#[inline(always)]
#[must_use]
pub const fn has_ports(ip_proto: u8) -> bool {
    matches!(
        ip_proto,
        proto::TCP | proto::UDP | proto::UDP_LITE | proto::DCCP | proto::SCTP | proto::ICMP
    )
}

/// The ports of a quoted packet, from the first eight bytes of its transport
/// header; `None` for an ICMP message that is no query.
#[inline(always)]
#[must_use]
pub fn quoted_ports(ip_proto: u8, first: [u8; 8]) -> Option<(Port, Port)> {
    let [a, b, c, d, id_high, id_low, ..] = first;
    match ip_proto {
        proto::TCP | proto::UDP | proto::UDP_LITE | proto::DCCP | proto::SCTP => {
            Some((Port::from_bytes([a, b]), Port::from_bytes([c, d])))
        }
        proto::ICMP => Some(Query::of(a, Port::from_bytes([id_high, id_low]))?.ports()),
        _ => Some((Port::default(), Port::default())),
    }
}
