//! What holds for a frame and what became of it.

use std::vec::Vec;

use netbpf_common::{
    DropReason, EndpointId, Flow, HeldFragment, Ipv4, MacAddr, SourceGuard, proto,
};

use super::{
    Flows,
    read::{Part, addr, addr_at, fragment_key, fragment_offset, header_len, mac, read, total_len},
};
use crate::{
    Verdict,
    seam::{Skb as _, Tables as _},
    sim::{Frame, Sim, packet},
};

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
        assert!(!from.is_by_stack(), "past the host's bridge");
        let is_train = sim.skb.gso_size != 0;
        assert!(is_train || sim.skb.bytes.len() <= 14 + to.mtu as usize, "too big");
    }
}

/// What the stack gets from outside, as it is, it must not route into a namespace,
/// nor take for a namespace's: it does so whatever follows a sound IPv4 header.
/// And it must not get what belongs to a flow. On the loopback device there is
/// nobody from outside.
pub(super) fn check_passed_in(sim: &Sim, before: &Flows, frame: &Frame) {
    let bytes = &frame.bytes;
    let is_tagged = frame.vlan_id.is_some_and(|id| id != 0);
    if is_tagged || bytes.len() < 34 || bytes[12..14] != [8, 0] {
        return;
    }
    let (header_len, total_len) = (header_len(bytes, 14), total_len(bytes));
    if bytes[14] >> 4 != 4
        || header_len < 20
        || !(header_len..=bytes.len() - 14).contains(&total_len)
    {
        return;
    }
    let is_at_loopback = frame.ifindex == Flow::LOOPBACK;
    if !is_at_loopback {
        assert!(!sim.tables.is_private(addr(bytes, 26)), "a private source comes in");
        assert!(!sim.tables.is_private(addr(bytes, 30)), "for a private address, and comes in");
    }
    // What stays on the loopback device for want of a published port needs no flow.
    let is_hosts_own = is_at_loopback && addr(bytes, 26).is_loopback();
    let Some(reading) = read(sim, frame).filter(|_| !frame.is_to_other && !is_hosts_own) else {
        return;
    };
    // (A TCP header that ends behind its packet is malformed.)
    let data_at = reading.l4 + usize::from(bytes.get(reading.l4 + 12).map_or(0, |b| b >> 4)) * 4;
    if bytes[23] == proto::TCP && reading.part == Part::Transport && data_at > reading.end {
        return;
    }
    // Who comes by an uplink is not the host, whatever address he says is his; and what a
    // namespace has opened by the host's address, the host answers, but does not open.
    let is_its = |flow: &&Flow| {
        let is_elsewhere = !is_at_loopback && flow.uplink == Flow::LOOPBACK;
        let is_hosts = flow.kind.is_from_host() || flow.kind.is_reply();
        flow.kind.is_to_endpoint() && !is_elsewhere && (!frame.is_from_host() || is_hosts)
    };
    let flow = before.get(&reading.key).filter(is_its);
    assert!(flow.is_none(), "{flow:?} is passed up, at {}", frame.ifindex);
}

/// A fragment that is held is kept as it came, less padding, to be sent once.
pub(super) fn check_held(sim: &Sim, id: EndpointId, sent: &Frame) {
    assert!(sim.skb.copies.is_empty());
    let is_it = |held: &&HeldFragment| {
        held.ticket != 0 && held.key == fragment_key(&sent.bytes) && held.endpoint == id
    };
    let mut held: Vec<_> = sim.tables.held.values().map(|held| &**held).filter(is_it).collect();
    held.sort_by_key(|held| held.ticket);
    let last = held.last().expect("held, and nowhere");
    assert_eq!(last.ticket, sim.tables.tickets);
    let mut expected = &*sent.bytes;
    // (A long train does not say how long it is.)
    if total_len(expected) != 0 {
        expected = &expected[..14 + total_len(expected)];
    }
    assert_eq!(last.frame[..last.len as usize], *expected);
}

/// An ICMP error about a dropped packet goes back to its sender, quotes it, and is
/// about no error and no fragment but the first (RFC 1122 section 3.2.2).
pub(super) fn check_answer(sim: &Sim, reason: DropReason, sent: &Frame, verdict: Verdict) {
    let (old, new) = (&sent.bytes, &sim.skb.bytes);
    let is_from_namespace = match verdict {
        Verdict::Peer { ifindex } => ifindex == sent.ifindex,
        Verdict::Uplink { ifindex } => {
            assert_eq!(ifindex, sent.ifindex);
            false
        }
        _ => panic!("{verdict:?} of an answer"),
    };
    assert_eq!(new.len(), 14 + 20 + 8 + 28);
    assert!(!sim.skb.is_checksum_partial && sim.skb.gso_size == 0, "left to a device");
    assert!(packet::has_right_checksums(new), "an answer's checksums");
    assert_eq!(new[42..], old[14..42], "what it quotes");
    assert_eq!([&new[..6], &new[6..12]], [&old[6..12], &old[..6]], "its MACs");
    assert_eq!(new[30..34], old[26..30], "its receiver");
    let tos = 0xc0 | old[15] & 0x1e;
    assert_eq!(new[14..24], [0x45, tos, 0, 56, 0, 0, 0, 0, 64, proto::ICMP]);
    let is_query = old[23] != proto::ICMP || matches!(old[34], 0 | 8 | 13..=18);
    assert!(is_query && fragment_offset(old, 14) == 0 && !mac(old, 0).is_multicast());
    assert!(old[14] == 0x45 && !addr(old, 26).is_martian());
    let message = match (is_from_namespace, reason) {
        (_, DropReason::TtlExceeded) => [11, 0],
        (false, DropReason::TooBig) => [3, 4],
        (true, DropReason::FlowTableFull | DropReason::FlowLimit | DropReason::PortsExhausted) => {
            [3, 13]
        }
        _ => panic!("{reason:?} is answered"),
    };
    assert_eq!(new[34..36], message);
    let source = addr(new, 26);
    if is_from_namespace && reason == DropReason::TtlExceeded {
        assert_eq!(source, addr(old, 30), "an answer's source");
    } else {
        let is_private = sim.tables.is_private(source);
        assert_eq!(is_private, is_from_namespace, "an answer's source");
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
