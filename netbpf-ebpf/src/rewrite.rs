//! The only writer: makes a packet what its flow says.
//!
//! All functions return `None` if the kernel refuses a store; the packet may be
//! half changed then and must not go anywhere.

use netbpf_common::{Flow, MacAddr, proto};

use crate::{
    checksum,
    parse::Packet,
    seam::{Covered, Skb},
    wire::{
        eth, icmp,
        ipv4::{self, Header},
        l4,
    },
};

/// Cuts off what a frame has behind its IP packet of `len` bytes, as `ip_rcv_core()`
/// does: Ethernet pads short ones, and padding is nobody's to forward.
#[inline(always)]
pub fn trim(skb: &mut impl Skb, len: u32) -> Option<()> {
    if skb.l3_len() == len { Some(()) } else { cut(skb, len) }
}

/// Not inlined, as it is rare.
#[inline(never)]
fn cut(skb: &mut impl Skb, len: u32) -> Option<()> {
    // A train would be none any more.
    if skb.gso_size() != 0 { Some(()) } else { skb.resize(eth::HEADER_LEN + len) }
}

/// Translates the ports of a packet without IP options, and every checksum in
/// the transport header. To be called before [`ip_header`], because the helper
/// behind it may move the packet.
#[inline(always)]
pub fn transport(skb: &mut impl Skb, packet: &Packet, flow: &Flow) -> Option<()> {
    l4_checksum(skb, packet.tuple.proto, l4::OFFSET, flow)?;
    ports(skb, packet, flow)
}

/// The same with the transport header at any offset.
#[inline(always)]
pub fn transport_at(skb: &mut impl Skb, packet: &Packet, offset: usize, flow: &Flow) -> Option<()> {
    l4_checksum(skb, packet.tuple.proto, offset, flow)?;
    ports_at(skb, packet, offset, flow)
}

/// Gives the frame its MACs.
#[inline(always)]
pub fn macs(skb: &mut impl Skb, dst: MacAddr, src: MacAddr) -> Option<()> {
    eth::store_macs(skb, dst, src)
}

/// Adjusts a checksum that covers the addresses.
#[inline(always)]
fn l4_checksum(skb: &mut impl Skb, ip_proto: u8, offset: usize, flow: &Flow) -> Option<()> {
    let (check, keep_zero) = match ip_proto {
        proto::TCP => (offset + l4::TCP_CHECK, false),
        proto::UDP => (offset + l4::UDP_CHECK, true),
        proto::UDP_LITE | proto::DCCP => (offset + l4::UDP_CHECK, false),
        _ => return Some(()),
    };
    skb.fix_l4_checksum(check, flow.addr_delta, Covered::PseudoHeader, keep_zero)?;
    if flow.port_delta != 0 {
        skb.fix_l4_checksum(check, flow.port_delta, Covered::Directly, keep_zero)?;
    }
    Some(())
}

/// Translates the addresses and sets the time to live, and adjusts the
/// header's checksum.
#[inline(always)]
pub fn ip_header(skb: &mut impl Skb, header: &Header, flow: &Flow, ttl: u8) -> Option<()> {
    let ttl_delta = checksum::word_delta(
        u16::from_ne_bytes([header.ttl, header.proto]),
        u16::from_ne_bytes([ttl, header.proto]),
    );
    let check = checksum::apply(header.check, ttl_delta + u32::from(flow.addr_delta));
    let [first, second] = check.to_ne_bytes();
    let (saddr, daddr) = (flow.translated.saddr.to_be(), flow.translated.daddr.to_be());
    let ttl_to_check = u32::from_ne_bytes([ttl, header.proto, first, second]);
    skb.store_words(ipv4::TTL_AND_PROTO, [ttl_to_check, saddr, daddr])
}

#[inline(always)]
fn ports(skb: &mut impl Skb, packet: &Packet, flow: &Flow) -> Option<()> {
    if flow.port_delta == 0 {
        return Some(());
    }
    let (sport, dport) = (flow.translated.sport, flow.translated.dport);
    if packet.tuple.proto != proto::ICMP {
        return l4::store_ports(skb, sport, dport);
    }
    let check = icmp_check(skb.load_u16(l4::OFFSET + icmp::CHECK)?, flow);
    skb.store_u16(l4::OFFSET + icmp::CHECK, check)?;
    // One of the two ports is the identifier, the other is 0.
    skb.store_u16(l4::OFFSET + icmp::ID, sport.to_be() | dport.to_be())
}

#[inline(always)]
fn ports_at(skb: &mut impl Skb, packet: &Packet, offset: usize, flow: &Flow) -> Option<()> {
    if flow.port_delta == 0 {
        return Some(());
    }
    let (sport, dport) = (flow.translated.sport, flow.translated.dport);
    if packet.tuple.proto != proto::ICMP {
        skb.write(offset, sport.bytes())?;
        return skb.write(offset + 2, dport.bytes());
    }
    let check = u16::from_ne_bytes(skb.read(offset + icmp::CHECK)?);
    skb.write(offset + icmp::CHECK, icmp_check(check, flow).to_ne_bytes())?;
    skb.write(offset + icmp::ID, (sport.to_be() | dport.to_be()).to_ne_bytes())
}

/// The checksum of an ICMP query: no pseudo-header, and no device that finishes it.
#[inline(always)]
fn icmp_check(check: u16, flow: &Flow) -> u16 {
    // The checksum of nothing but zeros is not zero; for all else the two are the same.
    match checksum::apply(check, u32::from(flow.port_delta)) {
        0 => 0xffff,
        check => check,
    }
}
