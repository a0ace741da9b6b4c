//! What holds for a frame and what became of it.
//!
//! Frames are read at fixed offsets, with nothing of the datapath's parser, so
//! that the two do not share a mistake.

use std::vec::Vec;

use netbpf_common::{EndpointId, Ipv4, MacAddr, Port, SourceGuard, Tuple, proto};

use super::{Flows, Program};
use crate::{
    Verdict,
    seam::Tables as _,
    sim::{Frame, Sim, packet},
};

/// Translated as the flow says, and nothing else changed; what a checksum was
/// wrong by, zero as a rule, it still is.
pub(super) fn check_translation(
    sim: &Sim,
    before: &Flows,
    program: Program,
    sent: &Frame,
    verdict: Verdict,
) {
    let (old, new) = (&sent.bytes, &sim.skb.bytes);
    let (key, ip_proto) = (tuple(old), old[23]);
    let flow = *sim.tables.flows.get(&key).expect("translated without a flow").borrow();
    assert_eq!(tuple(new), flow.translated.tuple(ip_proto), "not what the flow says");
    assert_eq!(flow.packets, before.get(&key).map_or(0, |flow| flow.packets) + 1);
    assert_eq!(flow.last_seen, sim.env.now);
    assert_eq!(new[22], old[22].wrapping_sub(1), "time to live");
    assert_ne!(new[22], 0, "its time to live was over");

    let mut expected = old.clone();
    let l4 = if ip_proto == proto::ICMP { 36..40 } else { 34..38 };
    let check = packet::l4_check(ip_proto).expect("a protocol that is translated") + 34;
    for changed in [0..12, 22..23, 24..34, l4, check..check + 2] {
        expected[changed.clone()].copy_from_slice(&new[changed]);
    }
    assert_eq!(*new, expected, "changed more than addresses and checksums");
    assert_eq!(remainder(&old[14..34]), remainder(&new[14..34]), "IPv4 checksum");
    assert_eq!(l4_remainder(sent), l4_remainder(&sim.skb), "transport checksum");
    // Where that is not enough: the checksum of nothing but zeros is not zero.
    let is_zero = |frame: &[u8]| ip_proto == proto::ICMP && frame[34..].iter().all(|b| *b == 0);
    assert!(!is_zero(new) || is_zero(old), "ICMP checksum of zeros");

    let (dst, src) = (mac(new, 0), mac(new, 6));
    match verdict {
        Verdict::Peer { ifindex } => {
            assert_eq!(program, Program::FromUplink);
            let endpoint = sim.tables.endpoints[&flow.endpoint];
            assert_eq!(ifindex, endpoint.ifindex);
            assert_eq!((dst, src), (flow.mac, endpoint.gateway_mac));
            assert!(fits(sent, endpoint.mtu), "too big for the namespace");
        }
        Verdict::Uplink { ifindex } | Verdict::Neighbour { ifindex, .. } => {
            assert_eq!(program, Program::FromEndpoint);
            assert!(!is_private_source(sim, new), "a private source leaves");
            assert!(!sim.tables.is_private(addr(new, 30)), "for a private address, and leaves");
            assert!(!addr(new, 30).is_martian(), "to no host");
            // One that is gone is noticed when the next hop is asked for again.
            if let Some(uplink) = sim.tables.uplinks.get(&ifindex) {
                assert!(flow.kind.is_dnat() || addr(new, 26) == uplink.addr, "not the uplink's");
                assert!(matches!(verdict, Verdict::Neighbour { .. }) || src == uplink.mac);
                assert!(fits(sent, uplink.mtu), "too big for the uplink");
            }
            assert_ne!(dst, MacAddr::ZERO);
        }
        _ => {}
    }
}

/// What an endpoint may send on is its own, or at least nobody else's.
pub(super) fn check_guard(sim: &Sim, id: EndpointId, frame: &Frame) {
    let endpoint = sim.tables.endpoints[&id];
    let guard = SourceGuard::from_u8(endpoint.guard);
    if guard == SourceGuard::Off {
        return;
    }
    let (bytes, src) = (&frame.bytes, mac(&frame.bytes, 6));
    let owner = sim.tables.fdb.get(&src).map(|entry| entry.endpoint);
    assert!(owner.is_none_or(|owner| owner == id), "{src} is {owner:?}'s");
    assert!(!src.is_multicast() && src != MacAddr::ZERO, "{src} is nobody's");
    assert!(guard == SourceGuard::Learn || src == endpoint.mac, "{src} under a strict guard");
    if frame.vlan_id.is_some() {
        assert_ne!(frame.vlan_id, Some(0), "receivers strip the tag");
        return;
    }
    let is_asking = addr_at(bytes, 26) == Some(Ipv4::ANY) && bytes[0] & 1 != 0;
    let sender = match bytes.get(12..14) {
        Some([8, 0]) if !is_asking => addr(bytes, 26),
        Some([8, 6]) if addr(bytes, 28) != Ipv4::ANY => {
            assert_eq!(mac(bytes, 22), src);
            addr(bytes, 28)
        }
        _ => return,
    };
    if sender == endpoint.addr {
        assert_eq!(src, endpoint.mac);
        return;
    }
    assert_eq!(guard, SourceGuard::Learn, "{sender} under a strict guard");
    assert!(endpoint.has_on_link(sender), "{sender} is none of the subnet's");
    assert_eq!(sim.tables.address_owner(sender), None, "{sender} is somebody else's");
}

/// Bridged is only what fits through another port of the same bridge.
pub(super) fn check_bridging(sim: &Sim, id: EndpointId, verdict: Verdict, is_translated: bool) {
    if let (Verdict::Peer { ifindex }, false) = (verdict, is_translated) {
        let to = sim.tables.endpoint_id(ifindex).expect("into nowhere");
        assert_ne!(to, id);
        let (from, to) = (sim.tables.endpoints[&id], sim.tables.endpoints[&to]);
        assert_eq!(from.bridge_ifindex, to.bridge_ifindex);
        let is_train = sim.skb.gso_size != 0;
        assert!(is_train || sim.skb.bytes.len() <= 14 + to.mtu as usize, "too big");
    }
}

/// What the stack gets from outside it must not route into a namespace, nor
/// take for a namespace's: it does so whatever follows a sound IPv4 header. And
/// it must not get what belongs to a flow.
pub(super) fn check_passed_in(sim: &Sim, before: &Flows, frame: &Frame) {
    let bytes = &frame.bytes;
    let is_tagged = frame.vlan_id.is_some_and(|id| id != 0);
    if is_tagged || bytes.len() < 34 || bytes[12..14] != [8, 0] {
        return;
    }
    let header_len = usize::from(bytes[14] & 15) * 4;
    let total_len = total_len(bytes);
    if bytes[14] >> 4 != 4
        || header_len < 20
        || !(header_len..=bytes.len() - 14).contains(&total_len)
    {
        return;
    }
    assert!(!sim.tables.is_private(addr(bytes, 26)), "a private source comes in");
    assert!(!sim.tables.is_private(addr(bytes, 30)), "for a private address, and comes in");

    let is_whole = match bytes[23] {
        proto::TCP => total_len >= 40 && bytes[46] >> 4 == 5,
        proto::UDP => total_len >= 28,
        proto::ICMP => total_len >= 28 && bytes[34..36] == [0, 0],
        _ => false,
    };
    let is_fragment = bytes[20] & 0x3f != 0 || bytes[21] != 0;
    if is_whole && header_len == 20 && !is_fragment && !frame.is_to_other {
        let flow = before.get(&tuple(bytes));
        assert!(flow.is_none_or(|flow| !flow.kind.is_to_endpoint()), "{flow:?} is passed up");
    }
}

/// Whether the frame is IPv4 or ARP, with a whole header, from an address of the
/// networks'.
pub(super) fn is_private_source(sim: &Sim, frame: &[u8]) -> bool {
    let sender = match frame.get(12..14) {
        Some([8, 0]) if frame.len() >= 34 => addr(frame, 26),
        Some([8, 6]) if frame.len() >= 42 && frame[14..20] == [0, 1, 8, 0, 6, 4] => addr(frame, 28),
        _ => return false,
    };
    sim.tables.is_private(sender)
}

/// Length of an IPv4 packet, as it says itself.
fn total_len(frame: &[u8]) -> usize {
    u16::from_be_bytes([frame[16], frame[17]]).into()
}

/// Whether an IPv4 packet is within an MTU; trains are cut later.
fn fits(frame: &Frame, mtu: u32) -> bool {
    frame.gso_size != 0 || total_len(&frame.bytes) <= mtu as usize
}

fn addr_at(frame: &[u8], at: usize) -> Option<Ipv4> {
    frame.get(at..at + 4)?.try_into().map(Ipv4::new).ok()
}

fn addr(frame: &[u8], at: usize) -> Ipv4 {
    addr_at(frame, at).expect("the frame has an address there")
}

fn mac(frame: &[u8], at: usize) -> MacAddr {
    MacAddr::new(frame[at..at + 6].try_into().expect("six bytes"))
}

/// Key of the flow table for an IPv4 frame without options.
pub(super) fn tuple(frame: &[u8]) -> Tuple {
    let port = |at: usize| Port::from_bytes([frame[at], frame[at + 1]]);
    let (sport, dport) = match (frame[23], frame[34]) {
        (proto::ICMP, 8) => (port(38), Port::default()),
        (proto::ICMP, _) => (Port::default(), port(38)),
        _ => (port(34), port(36)),
    };
    let (saddr, daddr) = (addr(frame, 26), addr(frame, 30));
    Tuple { saddr, daddr, sport, dport, proto: frame[23], from_host: 0, pad: [0; 2] }
}

/// What a run of 16-bit words lacks to the sum of a right checksum. In this
/// arithmetic both representations of zero are the same.
fn remainder(words: &[u8]) -> u16 {
    packet::sum(words.iter().copied()) % 0xffff
}

/// The same of transport header, payload and pseudo-header; nothing for UDP
/// without checksum. The checksum that a device is to finish is itself the sum
/// over the pseudo-header.
fn l4_remainder(frame: &Frame) -> Option<u16> {
    let bytes = &frame.bytes;
    if bytes[23] == proto::ICMP {
        return Some(remainder(&bytes[34..]));
    }
    let check = packet::l4_check(bytes[23]).expect("TCP or UDP") + 34;
    if bytes[23] == proto::UDP && bytes[check..check + 2] == [0, 0] {
        return None;
    }
    let mut words = Vec::from(&bytes[26..34]);
    if frame.is_checksum_partial {
        words.extend([!bytes[check], !bytes[check + 1]]);
    } else {
        words.extend(&bytes[34..]);
    }
    Some(remainder(&words))
}
