//! The only writer: makes a packet what its flow says.

use netbpf_common::{DropReason, Flow, MacAddr, proto};

use crate::{
    checksum,
    parse::Packet,
    seam::{Covered, Skb},
    wire::{eth, icmp, ipv4, l4},
};

/// Translates addresses and ports and takes one off the time to live, with
/// every checksum that covers them.
///
/// # Errors
/// [`DropReason::Rewrite`] if the kernel refuses a store; the packet may be
/// half changed and must not go anywhere.
#[inline(always)]
pub fn translate(skb: &mut impl Skb, packet: &Packet, flow: &Flow) -> Result<(), DropReason> {
    l4_checksum(skb, packet, flow).ok_or(DropReason::Rewrite)?;
    ip_header(skb, packet, flow).ok_or(DropReason::Rewrite)?;
    l4_header(skb, packet, flow).ok_or(DropReason::Rewrite)
}

/// Gives the frame its MACs.
///
/// # Errors
/// As [`translate`].
#[inline(always)]
pub fn macs(skb: &mut impl Skb, dst: MacAddr, src: MacAddr) -> Result<(), DropReason> {
    eth::store_macs(skb, dst, src).ok_or(DropReason::Rewrite)
}

/// First, because the helper behind it may move the packet.
#[inline(always)]
fn l4_checksum(skb: &mut impl Skb, packet: &Packet, flow: &Flow) -> Option<()> {
    let (offset, keep_zero) = match packet.tuple.proto {
        proto::TCP => (l4::TCP_CHECK, false),
        proto::UDP => (l4::UDP_CHECK, true),
        _ => return Some(()),
    };
    skb.fix_l4_checksum(offset, flow.addr_delta, Covered::PseudoHeader, keep_zero)?;
    if flow.port_delta != 0 {
        skb.fix_l4_checksum(offset, flow.port_delta, Covered::Directly, keep_zero)?;
    }
    Some(())
}

#[inline(always)]
fn ip_header(skb: &mut impl Skb, packet: &Packet, flow: &Flow) -> Option<()> {
    let ttl = packet.header.ttl - 1;
    let ttl_delta = checksum::word_delta(
        u16::from_ne_bytes([packet.header.ttl, packet.header.proto]),
        u16::from_ne_bytes([ttl, packet.header.proto]),
    );
    let check = checksum::apply(packet.header.check, ttl_delta + u32::from(flow.addr_delta));
    skb.store_u8(ipv4::TTL_AND_PROTO, ttl)?;
    skb.store_u16(ipv4::CHECK, check)?;
    skb.store_u32(ipv4::SOURCE, flow.translated.saddr.to_be())?;
    skb.store_u32(ipv4::DESTINATION, flow.translated.daddr.to_be())
}

#[inline(always)]
fn l4_header(skb: &mut impl Skb, packet: &Packet, flow: &Flow) -> Option<()> {
    if flow.port_delta == 0 {
        return Some(());
    }
    let (sport, dport) = (flow.translated.sport.to_be(), flow.translated.dport.to_be());
    if packet.tuple.proto != proto::ICMP {
        skb.store_u16(l4::SOURCE_PORT, sport)?;
        return skb.store_u16(l4::DESTINATION_PORT, dport);
    }
    // No pseudo-header, and no device that finishes ICMP's checksum.
    let check = skb.load_u16(icmp::CHECK)?;
    let check = checksum::apply(check, u32::from(flow.port_delta));
    // The checksum of nothing but zeros is not zero; for all else the two are the same.
    skb.store_u16(icmp::CHECK, if check == 0 { 0xffff } else { check })?;
    // One of the two ports is the identifier, the other is 0.
    skb.store_u16(icmp::ID, sport | dport)
}
