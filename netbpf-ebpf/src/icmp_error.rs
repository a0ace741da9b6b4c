//! ICMP errors: about a packet of a flow, which they quote (RFC 5508 section 4).
//!
//! An error goes the way that packets go which answer the quoted one. So the
//! quoted tuple, reversed, is the key of the flow's entry that says how, and the
//! quote becomes what the entry's translation turned around makes of it.

use netbpf_common::{DropReason, Flow, FlowKind, Tuple, proto};

use crate::{
    Stop, checksum, parse,
    rare::{self, Rare},
    rewrite,
    seam::{Seam, Skb},
    wire::{
        icmp::{self, is_error},
        ipv4::{self, Header},
        l4,
    },
};

/// Bytes of the quoted packet's transport header that are always there (RFC 792).
const QUOTED: u32 = 8;
/// Offset of the source address in an IPv4 header.
const SOURCE: usize = 12;
/// Offset of the checksum in an IPv4 header.
const CHECK: usize = 10;

/// Reads an error whose IPv4 header is in `rare` already.
///
/// # Errors
/// [`Stop::ToStack`] for messages that are no errors, or why it goes nowhere.
#[inline(always)]
pub fn read<S: Skb, T, E>(seam: &Seam<S, T, E>, rare: &mut Rare) -> Result<(), Stop> {
    let header = rare.packet.header;
    let message_len = rare.packet.len.saturating_sub(header.header_len());
    let [kind] = seam.skb.read(rare.offset).ok_or(DropReason::Truncated)?;
    if !is_error(kind) {
        return Err(Stop::ToStack);
    }
    // It would have to be put together first; no stack sends so large a one.
    if rare.is_first_fragment {
        return Err(DropReason::Fragment.into());
    }
    let at = rare.offset + icmp::LEN;
    let quote: [u8; ipv4::LEN] = seam.skb.read(at).ok_or(DropReason::Truncated)?;
    let quote = Header::of(&quote);
    // Of a protocol without ports nothing is looked at, and packets may be shorter.
    let has_ports = rare::has_ports(quote.proto);
    let quoted_len = icmp::MIN_LEN + quote.header_len() + if has_ports { QUOTED } else { 0 };
    if !quote.is_version_4() || quote.header_len() < ipv4::MIN_LEN || message_len < quoted_len {
        return Err(DropReason::IcmpUnrelated.into());
    }
    let first = if has_ports {
        seam.skb.read(at + quote.header_len() as usize).ok_or(DropReason::Truncated)?
    } else {
        [0; 8]
    };
    let ports = rare::quoted_ports(quote.proto, first);
    let Some((sport, dport)) = ports.filter(|_| !quote.is_later_fragment()) else {
        return Err(DropReason::IcmpUnrelated.into());
    };
    // It goes to who has sent what it quotes.
    if quote.saddr != header.daddr {
        return Err(DropReason::IcmpUnrelated.into());
    }
    if seam.skb.sum(rare.offset, message_len) != Some(0xffff) {
        return Err(DropReason::BadChecksum.into());
    }
    rare.payload = rare::Payload::Quote;
    rare.packet.may_open = false;
    rare.packet.tuple = parse::tuple(&quote, sport, dport).reversed();
    Ok(())
}

/// Translates an error: its own addresses, the quote's addresses and ports, and
/// every checksum that covers them and is there.
#[inline(never)]
pub fn translate(skb: &mut impl Skb, rare: &Rare, flow: &Flow, ttl: u8) -> Option<()> {
    let at = rare.offset + icmp::LEN;
    let [version_ihl] = skb.read(at)?;
    let l4_at = at + usize::from(version_ihl & 0xf) * 4;
    // How the sum over the message changes: of what the message covers, all that
    // changes counts.
    let mut delta = u32::from(flow.addr_delta) + u32::from(flow.port_delta);

    let old = u16::from_ne_bytes(skb.read(at + CHECK)?);
    let new = checksum::apply(old, u32::from(flow.addr_delta));
    skb.write(at + CHECK, new.to_ne_bytes())?;
    delta += checksum::word_delta(old, new);

    if let Some(check_at) = quoted_check(rare, l4_at) {
        let covers_addresses = rare.packet.tuple.proto != proto::ICMP;
        let addr_delta = if covers_addresses { flow.addr_delta } else { 0 };
        let old = u16::from_ne_bytes(skb.read(check_at)?);
        // Zero: a datagram without checksum.
        if old != 0 || rare.packet.tuple.proto != proto::UDP {
            let mut new = checksum::apply(old, u32::from(addr_delta) + u32::from(flow.port_delta));
            // Zero would say that there is none (RFC 768).
            if new == 0 && rare.packet.tuple.proto == proto::UDP {
                new = 0xffff;
            }
            skb.write(check_at, new.to_ne_bytes())?;
            delta += checksum::word_delta(old, new);
        }
    }

    // The quoted packet goes the other way.
    let translated = &flow.translated;
    skb.write(at + SOURCE, translated.daddr.octets())?;
    skb.write(at + SOURCE + 4, translated.saddr.octets())?;
    if rare.packet.tuple.proto == proto::ICMP {
        let id = translated.sport.to_be() | translated.dport.to_be();
        skb.write(l4_at + icmp::ID, id.to_ne_bytes())?;
    } else if flow.port_delta != 0 {
        skb.write(l4_at, translated.dport.bytes())?;
        skb.write(l4_at + 2, translated.sport.bytes())?;
    }

    let old = u16::from_ne_bytes(skb.read(rare.offset + icmp::CHECK)?);
    let check = checksum::apply(old, delta);
    skb.write(rare.offset + icmp::CHECK, check.to_ne_bytes())?;

    // Who reports stays who it is, if it is a router on the way outside.
    let header = &rare.packet.header;
    let is_the_peer = header.saddr == rare.packet.tuple.saddr;
    let saddr = if is_the_peer || !FlowKind::is_to_endpoint(flow.kind) {
        translated.saddr
    } else {
        header.saddr
    };
    let outer = Tuple { saddr: header.saddr, daddr: header.daddr, ..Tuple::default() };
    let mut outer_flow = Flow { translated: outer.into(), ..*flow };
    outer_flow.translated.saddr = saddr;
    outer_flow.translated.daddr = translated.daddr;
    outer_flow.addr_delta = checksum::addresses_delta(&outer, &outer_flow.translated);
    rewrite::ip_header(skb, header, &outer_flow, ttl)
}

/// Offset of the quoted transport header's checksum, if the quote reaches that far.
#[inline(always)]
fn quoted_check(rare: &Rare, l4_at: usize) -> Option<usize> {
    let check_at = l4_at
        + match rare.packet.tuple.proto {
            proto::TCP => l4::TCP_CHECK,
            proto::UDP | proto::UDP_LITE | proto::DCCP => l4::UDP_CHECK,
            proto::ICMP => icmp::CHECK,
            _ => return None,
        };
    let end = rare.offset + (rare.packet.len - rare.packet.header.header_len()) as usize;
    (check_at + 2 <= end).then_some(check_at)
}
