//! Fragments: in any order, both ways, and once each.

use netbpf_common::{Counter, DropReason, EndpointId, Flow, HeldFragment, MacAddr, SourceGuard};
use netbpf_ebpf::{
    Outcome, Verdict,
    sim::{
        Sim,
        packet::{self, Addresses, has_right_checksums},
        testbed::{
            HOST, PEER, ROUTER, UPLINK, endpoint_id, inward, namespace, network, outward, port,
        },
    },
};

const OUT: Verdict = Verdict::Uplink { ifindex: UPLINK };
const BACK: Verdict = Verdict::Neighbour { ifindex: Flow::LOOPBACK, next_hop: HOST.1 };

fn went(n: u8, verdict: Verdict) -> Outcome {
    Outcome { endpoint: endpoint_id(n), result: Ok(verdict) }
}

fn into(n: u8) -> Verdict {
    Verdict::Peer { ifindex: port(n) }
}

/// A network in which the way is known, and the port of the second namespace's
/// datagrams is the first's.
fn bed() -> Sim {
    let mut sim = network(64);
    for _ in 0..2 {
        let frame = packet::udp(outward(1, PEER), 40000, 53, b"");
        sim.from_namespace(1, &frame).result.unwrap();
    }
    sim
}

/// A network whose router does not answer; the next packet to it is the stack's to send.
fn unresolved() -> Sim {
    let mut sim = network(64);
    sim.env.neighbours.clear();
    let first = sim.from_namespace(2, &packet::udp(outward(2, PEER), 40001, 53, &[]));
    assert_eq!(first, went(2, Verdict::Neighbour { ifindex: UPLINK, next_hop: ROUTER.1 }));
    sim
}

fn pieces(frame: &[u8]) -> Vec<Vec<u8>> {
    let len = frame.len() - 34;
    (0..len).step_by(16).map(|at| packet::fragment(frame, at..len.min(at + 16))).collect()
}

fn sent() -> Vec<u8> {
    packet::udp(outward(2, PEER), 40000, 53, &[0x5a; 53])
}

/// Puts a datagram together, whatever order its fragments come in.
fn whole(mut fragments: Vec<Vec<u8>>) -> Vec<u8> {
    let at = |frame: &Vec<u8>| u16::from_be_bytes([frame[20] & 0x1f, frame[21]]);
    fragments.sort_by_key(at);
    let mut frame = fragments[0][..34].to_vec();
    for fragment in &fragments {
        assert!(has_right_checksums(fragment));
        assert_eq!(usize::from(at(fragment)) * 8, frame.len() - 34, "a gap");
        frame.extend(&fragment[34..]);
    }
    let total = u16::try_from(frame.len() - 14).unwrap();
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[20..22].copy_from_slice(&[0, 0]);
    packet::fix_header_checksum(&mut frame);
    frame
}

/// Everything that left, in its order.
fn left(sim: &Sim, outcome: Outcome) -> Vec<Vec<u8>> {
    match outcome.result {
        Ok(Verdict::Held) => Vec::new(),
        Ok(Verdict::Sent) => sim.skb.copies.iter().map(|(_, copy)| copy.clone()).collect(),
        Ok(Verdict::Pass) | Err(_) => panic!("{outcome:?}"),
        Ok(_) => vec![sim.skb.bytes.clone()],
    }
}

/// Every order of some things.
fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(n - 1);
    let insert = |order: &Vec<usize>, at: usize| {
        let mut order = order.clone();
        order.insert(at, n - 1);
        order
    };
    shorter.iter().flat_map(|order| (0..n).map(move |at| insert(order, at))).collect()
}

/// Requirements: 4787-14, nat-10, nat-11.
#[test]
fn fragments_leave_in_whatever_order_they_come() {
    let pieces = pieces(&sent());
    for order in orders(pieces.len()) {
        let mut sim = bed();
        let mut got = Vec::new();
        for i in &order {
            let outcome = sim.from_namespace(2, &pieces[*i]);
            got.extend(left(&sim, outcome));
        }
        assert_eq!(got.len(), pieces.len(), "{order:?}: each once");
        let whole = whole(got);
        let (from, sport, to, dport) = packet::ends(&whole);
        assert_eq!((from, to, dport), (HOST.1, PEER, 53), "{order:?}");
        assert_ne!(sport, 40000, "that is somebody else's");
        assert!(has_right_checksums(&whole), "{order:?}");
        assert_eq!(whole[42..], [0x5a; 53]);
        let counters = sim.tables.counters(endpoint_id(2));
        let bytes: usize = pieces.iter().map(|piece| piece.len() - 14).sum();
        assert_eq!(counters.of(Counter::Snat), (5 - 1, bytes as u64), "{order:?}");
        assert_eq!(counters.of(Counter::Passed), (0, 0));
    }
}

/// Requirements: 4787-14, nat-10.
#[test]
fn fragments_come_in_in_whatever_order() {
    let answer = packet::udp(inward(PEER), 53, 40000, &[0xa5; 53]);
    let pieces = pieces(&answer);
    for order in orders(pieces.len()) {
        let mut sim = bed();
        let mut got = Vec::new();
        for i in &order {
            let outcome = sim.from_outside(&pieces[*i]);
            // Before the first, the stack gets them too: they may be the host's.
            if outcome.result != Ok(Verdict::Pass) {
                got.extend(left(&sim, outcome));
            }
        }
        let whole = whole(got);
        assert_eq!(packet::ends(&whole), (PEER, 53, namespace(1).1, 40000), "{order:?}");
        assert!(has_right_checksums(&whole), "{order:?}");
    }
}

#[test]
fn a_reversed_datagram_to_a_published_port_opens_its_flow() {
    let mut sim = network(64);
    let pieces = pieces(&packet::udp(inward(PEER), 1234, 9005, &[1; 30]));
    for piece in pieces[1..].iter().rev() {
        assert_eq!(sim.from_outside(piece).result, Ok(Verdict::Pass));
    }
    assert_eq!(sim.from_outside(&pieces[0]), went(1, Verdict::Sent));
    let got: Vec<_> = sim.skb.copies.clone();
    assert!(got.iter().all(|(verdict, _)| *verdict == into(1)));
    let whole = whole(got.into_iter().map(|(_, copy)| copy).collect());
    assert_eq!(packet::ends(&whole), (PEER, 1234, namespace(1).1, 7005));
    assert!(has_right_checksums(&whole));
}

/// A first fragment that comes twice sends nothing a second time.
///
/// Requirements: 4787-14.
#[test]
fn what_was_held_is_sent_once() {
    let mut sim = bed();
    let pieces = pieces(&sent());
    assert_eq!(sim.from_namespace(2, &pieces[2]), went(2, Verdict::Held));
    assert_eq!(sim.from_namespace(2, &pieces[0]), went(2, Verdict::Sent));
    assert_eq!(sim.skb.copies.len(), 2);
    assert_eq!(sim.from_namespace(2, &pieces[0]), went(2, OUT));
    assert_eq!(sim.from_namespace(2, &pieces[1]), went(2, OUT));
}

/// Requirements: 4787-14, nat-10.
#[test]
fn a_flood_of_fragments_displaces_the_oldest_and_counts_them() {
    let mut sim = bed();
    let hold = |sim: &mut Sim, n: u8, id: u32| {
        let [high, low, ..] = u16::try_from(id).unwrap().to_be_bytes();
        let frame = packet::udp(outward(n, PEER), 40000, 53, &[n; 53]);
        let mut piece = packet::fragment(&frame, 16..32);
        piece[18..20].copy_from_slice(&[high, low]);
        packet::fix_header_checksum(&mut piece);
        assert_eq!(sim.from_namespace(n, &piece), went(n, Verdict::Held));
    };
    let lost = |sim: &Sim, n| sim.tables.counters(endpoint_id(n)).dropped(DropReason::Fragment);
    hold(&mut sim, 1, 0);
    for id in 1..HeldFragment::SLOTS {
        hold(&mut sim, 2, id);
    }
    assert_eq!((lost(&sim, 1), lost(&sim, 2)), (0, 0));
    hold(&mut sim, 3, 5000);
    assert_eq!((lost(&sim, 1), lost(&sim, 2)), (1, 0), "the first's was the oldest");
    assert_eq!(sim.tables.held.len(), HeldFragment::SLOTS as usize, "no more memory than that");
}

/// Requirements: 4787-14.
#[test]
fn after_fifteen_seconds_a_datagram_is_forgotten() {
    let mut sim = bed();
    let pieces = pieces(&sent());
    assert_eq!(sim.from_namespace(2, &pieces[0]), went(2, OUT));
    sim.wait(14);
    assert!(sim.from_namespace(2, &pieces[1]).result.is_ok_and(|verdict| verdict != Verdict::Held));
    sim.wait(2);
    assert_eq!(sim.from_namespace(2, &pieces[2]), went(2, Verdict::Held));
    // What was held for it is not sent with another datagram of the same number.
    sim.wait(16);
    let first = sim.from_namespace(2, &pieces[0]);
    assert_eq!(left(&sim, first).len(), 1);
}

#[test]
fn a_datagram_for_the_host_is_the_stacks_altogether() {
    let mut sim = bed();
    for piece in pieces(&packet::udp(outward(2, HOST.1), 5, 6, &[0; 53])) {
        assert_eq!(sim.from_namespace(2, &piece), went(2, Verdict::Pass));
        assert_eq!(sim.skb.bytes, piece);
    }
    let nobodys = Outcome { endpoint: EndpointId::NONE, result: Ok(Verdict::Pass) };
    for piece in pieces(&packet::udp(inward(PEER), 5, 6, &[0; 53])).iter().rev() {
        assert_eq!(sim.from_outside(piece), nobodys);
        assert_eq!(sim.skb.bytes, *piece);
    }
}

/// RFC 1858: a first fragment without all of the header that is looked at.
#[test]
fn a_first_fragment_that_is_too_small_goes_nowhere() {
    let mut sim = bed();
    let segment = packet::Segment { sport: 1, dport: 2, flags: 2, seq: 0, ack: 0 };
    let frame = packet::tcp(outward(2, PEER), segment, &[0; 30]);
    for len in [8, 16] {
        let outcome = sim.from_namespace(2, &packet::fragment(&frame, 0..len));
        assert_eq!(outcome.result, Err(DropReason::Fragment), "{len} bytes");
    }
    let whole = packet::fragment(&frame, 0..24);
    let mut longer = whole.clone();
    longer[46] = 7 << 4;
    let outcome = sim.from_namespace(2, &longer);
    assert_eq!(outcome.result, Err(DropReason::Fragment), "options of eight bytes, four there");
    let outcome = sim.from_namespace(2, &whole);
    assert!(outcome.result.is_ok(), "{outcome:?}");
}

/// The host's own as well, and those that come in again by its address: each has as many
/// hops behind it as the first, none on the way by the loopback device.
///
/// Requirements: 4787-14, nat-14.
#[test]
fn fragments_on_the_loopback_device_wait_for_their_first() {
    let own = Addresses { from: (MacAddr::ZERO, HOST.1), to: (MacAddr::ZERO, HOST.1) };
    let mut sim = bed();
    let mut pieces = pieces(&packet::udp(own, 5555, 9000, &[0x5a; 53]));
    pieces[1][22] = 1;
    packet::fix_header_checksum(&mut pieces[1]);
    for piece in pieces[1..].iter().rev() {
        assert_eq!(sim.from_host(piece).result, Ok(Verdict::Pass), "it may be the host's");
    }
    assert_eq!(sim.from_host(&pieces[0]), went(1, Verdict::Sent));
    let got: Vec<_> = sim.skb.copies.iter().map(|(_, copy)| copy.clone()).collect();
    assert!(sim.skb.copies.iter().all(|(verdict, _)| *verdict == into(1)));
    assert_eq!(got.iter().map(|piece| piece[22]).collect::<Vec<_>>(), [64, 1, 64, 64]);
    let whole = whole(got);
    assert_eq!(packet::ends(&whole), (HOST.1, 5555, namespace(1).1, 7000));
    assert!(has_right_checksums(&whole));

    let out = self::pieces(&packet::udp(outward(2, HOST.1), 40000, 9000, &[0x5a; 24]));
    assert_eq!(sim.from_namespace(2, &out[1]), went(2, Verdict::Pass), "the host's, too");
    assert_eq!(sim.from_namespace(2, &out[0]), went(2, Verdict::Sent));
    let ttls: Vec<_> = sim.skb.copies.iter().map(|(goes, copy)| (*goes, copy[22])).collect();
    assert_eq!(ttls, [(BACK, 64); 2]);
}

/// What waits for a first that the stack is to send on comes in once more, and goes
/// the same way: here the next hop is unresolved.
///
/// Requirements: 4787-14, nat-10.
#[test]
fn fragments_that_wait_for_one_of_the_stacks_come_in_again() {
    let mut sim = unresolved();
    let pieces = pieces(&sent());
    for piece in pieces[1..].iter().rev() {
        assert_eq!(sim.from_namespace(2, piece), went(2, Verdict::Held));
    }
    assert_eq!(sim.from_namespace(2, &pieces[0]), went(2, Verdict::Pass));
    assert_eq!(sim.skb.bytes, pieces[0], "it stays as it is");
    let again: Vec<_> = pieces[1..].iter().map(|piece| (port(2), piece.clone())).collect();
    assert_eq!(sim.skb.again, again);
    for (_, piece) in again {
        assert_eq!(sim.from_namespace(2, &piece), went(2, Verdict::Pass));
        assert_eq!(sim.skb.bytes, piece);
    }
    let mut got = Vec::new();
    for piece in &pieces {
        assert_eq!(sim.from_stack(piece).result, Ok(Verdict::Pass));
        got.push(sim.skb.bytes.clone());
    }
    let whole = whole(got);
    assert_eq!(packet::ends(&whole), (HOST.1, 40000, PEER, 53));
    assert!(has_right_checksums(&whole));
}

/// Of a namespace that is gone meanwhile none comes in again, and the others do all the
/// same.
///
/// Requirements: 4787-14.
#[test]
fn fragments_that_wait_outlive_the_namespace_of_one_of_them() {
    let mut sim = unresolved();
    // The third speaks for the second.
    sim.tables.endpoints.get_mut(&endpoint_id(3)).unwrap().guard = SourceGuard::Off as u8;
    let pieces = pieces(&sent());
    for (n, piece) in [(2, &pieces[1]), (3, &pieces[2]), (2, &pieces[3])] {
        assert_eq!(sim.from_namespace(n, piece), went(n, Verdict::Held));
    }
    sim.tables.endpoints.remove(&endpoint_id(3));
    assert_eq!(sim.from_namespace(2, &pieces[0]), went(2, Verdict::Pass));
    assert_eq!(sim.skb.bytes, pieces[0], "it stays as it is");
    let again = [&pieces[3], &pieces[1]].map(|piece| (port(2), piece.clone()));
    assert_eq!(sim.skb.again, again);
    let drops = |n| sim.tables.counters(endpoint_id(n)).dropped(DropReason::EndpointGone);
    assert_eq!([drops(2), drops(3)], [0, 1]);
}

/// Options go with the first fragment alone (RFC 791): it is the stack's, the others
/// are not.
///
/// Requirements: 4787-14, nat-10.
#[test]
fn fragments_that_wait_for_one_with_options_follow_it() {
    let record_route = [7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut sim = bed();
    let out = pieces(&sent());
    assert_eq!(sim.from_namespace(2, &out[1]), went(2, Verdict::Held));
    let first = packet::with_options(&out[0], &record_route);
    assert_eq!(sim.from_namespace(2, &first), went(2, Verdict::Pass));
    assert_eq!(sim.from_stack(&first).result, Ok(Verdict::Pass));
    assert_eq!(sim.skb.again, [(port(2), out[1].clone())]);
    assert_eq!(sim.from_namespace(2, &out[1]), went(2, OUT));

    let answer = pieces(&packet::udp(inward(PEER), 53, 40000, &[0xa5; 53]));
    assert_eq!(sim.from_outside(&answer[1]).result, Ok(Verdict::Pass));
    let first = packet::with_options(&answer[0], &record_route);
    assert_eq!(sim.from_outside(&first), went(1, Verdict::Pass));
    assert_eq!(packet::ends(&sim.skb.bytes), (PEER, 53, namespace(1).1, 40000));
    assert_eq!(sim.skb.again, [(UPLINK, answer[1].clone())]);
    assert_eq!(sim.from_outside(&answer[1]), went(1, into(1)));
}

/// Uplinks with jumbo frames have fragments of nine thousand bytes.
///
/// Requirements: 4787-14.
#[test]
fn large_fragments_wait_as_well() {
    let mut sim = bed();
    for uplink in sim.tables.uplinks.values_mut() {
        uplink.mtu = 9000;
    }
    for neighbour in sim.env.neighbours.values_mut() {
        neighbour.mtu = 9000;
    }
    for (_, _, route) in &mut sim.env.routes {
        route.mtu = 9000;
    }
    sim.wait(1);
    let frame = packet::udp(outward(2, PEER), 40000, 53, &[0x5a; 16000]);
    let (first, later) =
        (packet::fragment(&frame, 0..8976), packet::fragment(&frame, 8976..frame.len() - 34));
    assert_eq!(sim.from_namespace(2, &later), went(2, Verdict::Held));
    let outcome = sim.from_namespace(2, &first);
    let whole = whole(left(&sim, outcome));
    assert_eq!(packet::ends(&whole).0, HOST.1);
    assert!(has_right_checksums(&whole));
}
