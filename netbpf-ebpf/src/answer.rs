//! ICMP errors about packets that the datapath drops and the stack has never seen
//! (RFC 1812 section 4.3).

use netbpf_common::{DropReason, EndpointId, Ipv4, MacAddr, proto};

use crate::{
    Verdict, checksum,
    seam::{Env, Seam, Skb, Tables},
    wire::{
        eth::{self, Eth},
        icmp::{self, code, kind},
        ipv4::{self, Header},
        l4,
    },
};

/// Bytes of the dropped packet that are quoted: a header without options and the
/// eight bytes behind it (RFC 792).
const QUOTE: usize = ipv4::LEN + 8;
/// Bytes of the error as an IP packet.
const PACKET: u16 = 56;
const _: () = assert!(PACKET as usize == ipv4::LEN + icmp::LEN + QUOTE);

/// Precedence: internetwork control; the type of service is that of the dropped
/// packet (RFC 1812 section 4.3.2.5, `icmp_send()` of the kernel).
const PRECEDENCE: u8 = 0xc0;
/// The bits of the type of service.
const TOS: u8 = 0x1e;
/// The error's time to live.
const TTL: u8 = 64;

/// What an error says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Message {
    kind: u8,
    code: u8,
    /// The next hop's MTU (RFC 1191), where it matters.
    mtu: u32,
}

/// Whether packets dropped for a reason may be answered.
#[must_use]
#[inline(always)]
pub const fn is_answered(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::TtlExceeded
            | DropReason::TooBig
            | DropReason::FlowTableFull
            | DropReason::FlowLimit
            | DropReason::PortsExhausted
    )
}

/// Makes of a dropped packet the error about it, which goes back to where it
/// came from; `id` is the endpoint whose packet it was.
#[inline(always)]
pub fn dropped<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    reason: DropReason,
) -> Option<Verdict> {
    let ifindex = seam.skb.ifindex();
    let eth = Eth::load(&seam.skb)?;
    let header = Header::load(&seam.skb)?;
    // RFC 1122 section 3.2.2, and what has options is left alone.
    let is_askers = header.version_ihl == 0x45
        && !header.is_later_fragment()
        && !header.saddr.is_martian()
        && !eth.dst.is_multicast()
        && eth.ethertype == eth::IPV4;
    if !is_askers || header.proto == proto::ICMP && !is_query(&seam.skb)? {
        return None;
    }
    let endpoint = seam.tables.endpoint(id)?;
    let is_from_endpoint = endpoint.ifindex == ifindex;
    let message = match reason {
        DropReason::TtlExceeded => Message { kind: kind::TIME_EXCEEDED, code: 0, mtu: 0 },
        DropReason::TooBig if !is_from_endpoint => {
            let (kind, code) = (kind::UNREACHABLE, code::FRAGMENTATION_NEEDED);
            Message { kind, code, mtu: endpoint.mtu }
        }
        DropReason::FlowTableFull | DropReason::FlowLimit | DropReason::PortsExhausted
            if is_from_endpoint =>
        {
            Message { kind: kind::UNREACHABLE, code: code::PROHIBITED, mtu: 0 }
        }
        _ => return None,
    };
    let (whose, source, verdict) = if is_from_endpoint {
        // Who is spoken to at an address of the host answers from there.
        let is_hairpin = reason == DropReason::TtlExceeded;
        let source = if is_hairpin { header.daddr } else { endpoint.gateway };
        (id, source, Verdict::Peer { ifindex })
    } else {
        seam.tables.uplink(ifindex)?;
        (EndpointId::NONE, header.daddr, Verdict::Uplink { ifindex })
    };
    let now = seam.env.now();
    if !seam.tables.may_answer(whose, now) {
        return None;
    }
    write(&mut seam.skb, (eth.src, eth.dst), source, &header, message)?;
    Some(verdict)
}

#[inline(always)]
fn is_query(skb: &impl Skb) -> Option<bool> {
    Some(icmp::query(skb)?.is_some())
}

/// Overwrites the packet by the error about it.
#[inline(always)]
fn write(
    skb: &mut impl Skb,
    (dst, src): (MacAddr, MacAddr),
    source: Ipv4,
    dropped: &Header,
    message: Message,
) -> Option<()> {
    let quote: [u8; QUOTE] = skb.read(eth::LEN)?;
    skb.start_afresh(eth::HEADER_LEN + u32::from(PACKET))?;
    eth::store_macs(skb, dst, src)?;

    let [len_high, len_low] = PACKET.to_be_bytes();
    let tos = PRECEDENCE | quote[1] & TOS;
    let mut header = [0x45, tos, len_high, len_low, 0, 0, 0, 0, TTL, proto::ICMP, 0, 0];
    let mut sum = words(&header) + words(&source.octets()) + words(&dropped.saddr.octets());
    [header[10], header[11]] = (!checksum::fold(sum)).to_ne_bytes();
    skb.write(eth::LEN, header)?;
    skb.write(ipv4::SOURCE, source.octets())?;
    skb.write(ipv4::DESTINATION, dropped.saddr.octets())?;

    let [_, _, mtu_high, mtu_low] = message.mtu.to_be_bytes();
    let mut header = [message.kind, message.code, 0, 0, 0, 0, mtu_high, mtu_low];
    sum = words(&header) + words(&quote);
    [header[2], header[3]] = (!checksum::fold(sum)).to_ne_bytes();
    skb.write(l4::OFFSET, header)?;
    skb.write(l4::OFFSET + icmp::LEN, quote)
}

/// Sum of the 16-bit words, as the CPU loads them; unfolded.
#[inline(always)]
fn words<const N: usize>(bytes: &[u8; N]) -> u32 {
    let mut sum = 0;
    let mut at = 0;
    while at + 1 < N {
        sum += u32::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
        at += 2;
    }
    sum
}
