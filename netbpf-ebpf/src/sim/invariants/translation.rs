//! What holds for a frame that is translated.

use std::vec::Vec;

use netbpf_common::{Flow, HeldFragment, Ipv4, MacAddr, Port, Tuple, proto};

use super::{
    Flows, Program,
    frame::is_private_source,
    read::{self, Part, Reading, addr, header_len, mac, tuple},
};
use crate::{
    Verdict,
    seam::{Skb as _, Tables as _},
    sim::{Frame, Sim, packet},
};

/// Translated as its flow says, and nothing else changed; what a checksum was
/// wrong by, zero as a rule, it still is.
pub(super) fn check(
    sim: &Sim,
    before: &Flows,
    reading: &Reading,
    (program, sent): (Program, &Frame),
    (verdict, new): (Verdict, &[u8]),
) {
    let (old, ip_proto) = (&sent.bytes, reading.key.proto);
    let flow = *sim.tables.flows.get(&reading.key).expect("translated without a flow").borrow();
    check_meaning(reading, &flow, old, new);
    let last = before.get(&reading.key).filter(|old| old.created == flow.created);
    if reading.is_error() {
        let last = last.expect("an error opens no flow");
        let (left, right) = (without_route(last), without_route(&flow));
        assert_eq!(left, right, "an error changes a flow");
    } else {
        assert_eq!(flow.tally.packets(), last.map_or(0, |flow| flow.tally.packets()) + 1);
        assert_eq!(flow.last_seen, sim.env.now);
    }
    if verdict == Verdict::Pass {
        assert_eq!(new[..23], old[..23], "the stack has not had it yet");
    } else {
        // On a way by the loopback device there is one hop, and none to or from the host.
        let is_half = matches!(verdict, Verdict::Neighbour { ifindex: Flow::LOOPBACK, .. });
        let hops = u8::from(!is_half && !sent.is_from_host());
        assert_eq!(new[22], old[22].wrapping_sub(hops), "time to live");
        assert!(new[22] != 0 || sent.is_from_host(), "its time to live was over");
    }

    // Straight on goes no padding; the stack cuts that off itself.
    let mut expected = old.clone();
    if verdict != Verdict::Pass && sent.gso_size == 0 {
        expected.truncate(reading.end);
    }
    let mut changes = Vec::from([0..12, 22..23, 24..26, 26..34]);
    match reading.part {
        Part::Opaque => {}
        Part::Transport => changes.extend(transport(ip_proto, reading.l4, reading.end)),
        Part::Quote(at) => {
            changes.extend([reading.l4 + 2..reading.l4 + 4, at + 10..at + 20]);
            changes.extend(transport(ip_proto, at + header_len(old, at), reading.end));
        }
    }
    for changed in changes {
        expected[changed.clone()].copy_from_slice(&new[changed]);
    }
    assert_eq!(new, expected, "changed more than addresses, ports and checksums");
    check_checksums(reading, sent, new);
    check_way(sim, &flow, (program, sent), (verdict, new));
}

/// A flow without what [`crate::route::recheck`] changes of it.
pub(super) fn without_route(flow: &Flow) -> Flow {
    Flow { uplink: 0, next_hop: Ipv4::ANY, route_epoch: 0, ..*flow }
}

/// Addresses and ports are what the flow says, or say so about the quoted packet.
fn check_meaning(reading: &Reading, flow: &Flow, old: &[u8], new: &[u8]) {
    let ip_proto = reading.key.proto;
    let expected = flow.translated.tuple(ip_proto);
    let ports = |at: usize| read::ports(ip_proto, &new[at..]).expect("still of the same sort");
    match reading.part {
        Part::Opaque => assert_eq!(tuple(new, 14, (expected.sport, expected.dport)), expected),
        Part::Transport => {
            assert_eq!(undirected(tuple(new, 14, ports(reading.l4))), undirected(expected));
        }
        Part::Quote(at) => {
            let quoted = undirected(tuple(new, at, ports(at + header_len(new, at))));
            let sent = undirected(expected.reversed());
            assert_eq!(quoted, sent, "the quote is not what its sender sent");
            assert_eq!(addr(new, 30), expected.daddr);
            // A router on the way reports as itself, but none of ours does.
            let is_peers = addr(old, 26) == reading.key.saddr;
            let is_outward = !flow.kind.is_to_endpoint();
            let from = if is_peers || is_outward { expected.saddr } else { addr(old, 26) };
            assert_eq!(addr(new, 26), from);
        }
    }
}

/// The tuple, but for which port an identifier stands for: with an identifier of 0
/// questions and answers have the same one.
fn undirected(tuple: Tuple) -> Tuple {
    if tuple.proto != proto::ICMP {
        return tuple;
    }
    let id = Port::from_be(tuple.sport.to_be() | tuple.dport.to_be());
    Tuple { sport: id, dport: id, ..tuple }
}

/// Where a transport header has its ports and checksum, as far as it is there.
fn transport(ip_proto: u8, at: usize, end: usize) -> Vec<core::ops::Range<usize>> {
    let ports = match ip_proto {
        proto::ICMP => at + 4..at + 6,
        proto::TCP | proto::UDP | proto::UDP_LITE | proto::DCCP | proto::SCTP => at..at + 4,
        _ => return Vec::new(),
    };
    let check = check_at(ip_proto, at).filter(|check| check + 2 <= end);
    [Some(ports), check.map(|check| check..check + 2)].into_iter().flatten().collect()
}

fn check_at(ip_proto: u8, at: usize) -> Option<usize> {
    match ip_proto {
        proto::DCCP => Some(at + 6),
        _ => packet::l4_check(ip_proto).map(|offset| at + offset),
    }
}

fn check_checksums(reading: &Reading, sent: &Frame, new: &[u8]) {
    let (old, ip_proto) = (&sent.bytes, reading.key.proto);
    let Reading { l4, end, .. } = *reading;
    assert_eq!(remainder(&old[14..l4]), remainder(&new[14..l4]), "IPv4 checksum");
    match reading.part {
        Part::Opaque => {}
        Part::Transport => {
            let of =
                |frame| l4_remainder(frame, ip_proto, 26..34, l4..end, sent.is_checksum_partial);
            assert_eq!(of(old), of(new), "transport checksum");
            // Where that is not enough: the checksum of nothing but zeros is not zero.
            let is_zero = |frame: &[u8]| frame[l4..].iter().all(|byte| *byte == 0);
            let is_changed = ip_proto == proto::ICMP && is_zero(new) && !is_zero(old);
            assert!(!is_changed, "ICMP checksum of zeros");
        }
        Part::Quote(at) => {
            let quoted = at + header_len(old, at);
            assert_eq!(remainder(&new[l4..end]), 0, "ICMP checksum");
            assert_eq!(remainder(&old[at..quoted]), remainder(&new[at..quoted]), "quoted header");
            if check_at(ip_proto, quoted).is_some_and(|check| check + 2 <= end) {
                let of =
                    |frame| l4_remainder(frame, ip_proto, at + 12..at + 20, quoted..end, false);
                assert_eq!(of(old), of(new), "quoted transport checksum");
            }
        }
    }
}

/// What a run of 16-bit words lacks to the sum of a right checksum. In this
/// arithmetic both representations of zero are the same.
fn remainder(words: &[u8]) -> u16 {
    packet::sum(words.iter().copied()) % 0xffff
}

/// The same of transport header, payload and pseudo-header; nothing without a
/// checksum. One that a device is to finish is itself the sum over the
/// pseudo-header.
fn l4_remainder(
    frame: &[u8],
    ip_proto: u8,
    addresses: core::ops::Range<usize>,
    l4: core::ops::Range<usize>,
    is_partial: bool,
) -> Option<u16> {
    let check = check_at(ip_proto, l4.start)?;
    if ip_proto == proto::ICMP {
        return Some(remainder(&frame[l4]));
    }
    if ip_proto == proto::UDP && frame[check..check + 2] == [0, 0] {
        return None;
    }
    let mut words = Vec::from(&frame[addresses]);
    if is_partial {
        words.extend([!frame[check], !frame[check + 1]]);
    } else {
        words.extend(&frame[l4]);
    }
    Some(remainder(&words))
}

/// It goes where its flow goes, and fits.
fn check_way(
    sim: &Sim,
    flow: &Flow,
    (program, sent): (Program, &Frame),
    (verdict, new): (Verdict, &[u8]),
) {
    let (dst, src) = (mac(new, 0), mac(new, 6));
    match verdict {
        Verdict::Peer { ifindex } => {
            assert_eq!(program, Program::FromUplink);
            let endpoint = sim.tables.endpoints[&flow.endpoint];
            assert!(!flow.is_by_stack(), "past the host's rules");
            assert_eq!(ifindex, endpoint.ifindex);
            assert_eq!((dst, src), (flow.mac, endpoint.gateway_mac));
            let is_from_host = sent.ifindex == Flow::LOOPBACK;
            assert!(is_from_host || fits(sent, endpoint.mtu), "too big for the namespace");
        }
        Verdict::Neighbour { ifindex: Flow::LOOPBACK, .. } => {
            assert_eq!(program, Program::FromEndpoint);
            assert_eq!((dst, src), (MacAddr::ZERO, MacAddr::ZERO));
            assert!(flow.uplink == Flow::LOOPBACK && !flow.kind.is_to_endpoint());
        }
        Verdict::Uplink { ifindex } | Verdict::Neighbour { ifindex, .. } => {
            assert_eq!(program, Program::FromEndpoint);
            assert!(!flow.is_by_stack(), "past the host's rules");
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
        Verdict::Pass if program == Program::ToUplink => {
            assert!(!is_private_source(sim, new), "a private source leaves");
            assert!(!flow.kind.is_to_endpoint());
            assert!(flow.kind.is_dnat() || flow.uplink == sent.ifindex, "by another uplink");
        }
        Verdict::Pass => {
            assert_eq!(program, Program::FromUplink);
            let is_too_big =
                sim.tables.endpoints.get(&flow.endpoint).is_some_and(|endpoint| {
                    !fits(sent, endpoint.mtu) && sent.bytes[20] & 0x40 == 0
                });
            let has_options = sent.bytes[14] & 15 > 5;
            let is_stacks = flow.kind.is_host() || flow.is_by_stack() || has_options || is_too_big;
            assert!(is_stacks, "the stack is not needed");
        }
        Verdict::Rare | Verdict::Prepare(_) | Verdict::Held | Verdict::Sent => {
            panic!("{verdict:?} of a translation")
        }
    }
}

/// Whether an IPv4 packet is within an MTU; of a train, each of what it is cut into.
fn fits(frame: &Frame, mtu: u32) -> bool {
    longest(frame) <= mtu as usize
}

/// Bytes of the longest packet that goes on the wire.
fn longest(frame: &Frame) -> usize {
    let bytes = &frame.bytes;
    let (header_len, total) = (header_len(bytes, 14), read::total_len(bytes));
    if frame.gso_size == 0 {
        return total;
    }
    let is_plain = header_len == 20 && !read::is_fragment(bytes);
    let l4_len = match bytes[23] {
        _ if read::fragment_offset(bytes, 14) != 0 => return total,
        proto::TCP => usize::from(bytes[14 + header_len + 12] >> 4) * 4,
        proto::UDP | proto::UDP_LITE | proto::DCCP | proto::SCTP => 8,
        proto::ICMP if is_plain && matches!(bytes[34], 0 | 8 | 13..=18) => 8,
        _ => return total,
    };
    header_len + l4_len + frame.gso_size as usize
}

/// A fragment that was held is what the flow makes of it, and goes with the one
/// in front of it: with that one's MACs, as many hops.
pub(super) fn check_released(
    flow: &Flow,
    held: &HeldFragment,
    (sent, first): (&[u8], &[u8]),
    new: &[u8],
) {
    let old = &held.frame[..held.len as usize];
    assert_eq!(new[..12], first[..12], "not where the first goes");
    assert_eq!(old[22] - new[22], sent[22] - first[22], "time to live");
    assert_eq!((addr(new, 26), addr(new, 30)), (flow.translated.saddr, flow.translated.daddr));
    let mut expected = old.to_vec();
    for changed in [0..12, 22..23, 24..34] {
        expected[changed.clone()].copy_from_slice(&new[changed]);
    }
    assert_eq!(new, expected, "changed more than the header");
    let header = 14..14 + header_len(old, 14);
    assert_eq!(remainder(&old[header.clone()]), remainder(&new[header]), "IPv4 checksum");
}
