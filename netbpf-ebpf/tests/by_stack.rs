//! Namespaces whose packets the stack forwards, so that the host's rules are asked:
//! they are translated at the uplink only, in both directions.

use netbpf_common::{Counter, DropReason, Endpoint, EndpointId, Ipv4};
use netbpf_ebpf::{
    Outcome, Verdict,
    seam::Tables as _,
    sim::{
        Frame, Sim,
        invariants::{self, Program},
        packet::{
            self, Addresses, Complaint, Segment, has_right_checksums,
            tcp_flag::{ACK, SYN},
        },
        testbed::{
            HOST, PEER, ROUTER, UPLINK, across, endpoint_id, inward, namespace, network, outward,
            port,
        },
    },
};

fn by_stack(max_flows: u32) -> Sim {
    let mut sim = network(max_flows);
    for endpoint in sim.tables.endpoints.values_mut() {
        endpoint.flags = Endpoint::BY_STACK;
    }
    sim
}

fn passed(n: u8) -> Outcome {
    Outcome { endpoint: endpoint_id(n), result: Ok(Verdict::Pass) }
}

/// What a namespace has sent goes up to the stack as it is.
fn goes_up(sim: &mut Sim, n: u8, frame: &[u8]) {
    assert_eq!(sim.from_namespace(n, frame), passed(n));
    assert_eq!(sim.skb.bytes, frame, "up to the stack, and changed");
}

/// From the first namespace, as the stack sends it by the uplink.
fn forwarded(to: Ipv4) -> Addresses {
    Addresses { from: (HOST.0, namespace(1).1), to: (ROUTER.0, to) }
}

fn question(addresses: Addresses) -> Vec<u8> {
    packet::udp(addresses, 5353, 53, b"question")
}

/// The first namespace asks, and the stack lets it by.
fn asks(sim: &mut Sim) {
    goes_up(sim, 1, &question(outward(1, PEER)));
    assert_eq!(sim.from_stack(&question(forwarded(PEER))), passed(1));
    assert_eq!(packet::ends(&sim.skb.bytes), (HOST.1, 5353, PEER, 53));
    assert!(has_right_checksums(&sim.skb.bytes));
}

#[test]
fn what_the_rules_refuse_makes_no_flow_and_what_they_let_by_does_at_the_uplink() {
    let mut sim = by_stack(16);
    for _ in 0..3 {
        goes_up(&mut sim, 1, &question(outward(1, PEER)));
    }
    assert!(sim.tables.flows.is_empty());
    asks(&mut sim);
    assert_eq!(sim.tables.flow_count(endpoint_id(1)), 1);
    assert_eq!(sim.tables.counters(endpoint_id(1)).of(Counter::Snat).0, 1);
    // The next packet, of a flow that is known, is the stack's as well.
    asks(&mut sim);
    assert_eq!(sim.tables.counters(endpoint_id(1)).of(Counter::Snat).0, 2);
}

#[test]
fn answers_come_to_the_stack_with_the_namespaces_address() {
    let mut sim = by_stack(16);
    asks(&mut sim);
    let answer = packet::udp(inward(PEER), 53, 5353, b"answer");
    assert_eq!(sim.from_outside(&answer), passed(1));
    assert_eq!(packet::ends(&sim.skb.bytes), (PEER, 53, namespace(1).1, 5353));
    assert!(has_right_checksums(&sim.skb.bytes));
    assert_eq!(sim.skb.bytes[..12], answer[..12], "the stack is yet to route it");
    assert_eq!(sim.skb.bytes[22], answer[22], "and to take a hop off");
}

/// A packet without ports may have nothing behind its header, and so may what quotes it;
/// what it is sent with, options here, is quoted and stepped over.
///
/// Requirements: nat-8.
#[test]
fn an_error_about_a_packet_of_nothing_comes_to_the_stack_with_the_namespaces_address() {
    for len in [0, 6] {
        let mut sim = by_stack(16);
        let data = vec![0x5a; len];
        let sent = |to| packet::with_options(&packet::ipv4(to, 121, &data), &[0x94, 4, 0, 0]);
        goes_up(&mut sim, 1, &sent(outward(1, PEER)));
        let leaving = sent(forwarded(PEER));
        assert_eq!(sim.from_stack(&leaving), passed(1));
        let outside = sim.skb.bytes.clone();
        assert_eq!(outside[26..30], HOST.1.octets());
        let complaint = Complaint { kind: 3, code: 2, rest: 0 };
        let bytes = packet::error(inward(PEER), complaint, &outside[14..]);
        let error = Frame { bytes, ifindex: UPLINK, ..Frame::default() };
        assert_eq!(invariants::run(&mut sim, Program::FromUplink, &error), passed(1), "{len}");
        assert!(has_right_checksums(&sim.skb.bytes));
        assert_eq!(sim.skb.bytes[30..34], namespace(1).1.octets());
        assert_eq!(sim.skb.bytes[42..], leaving[14..]);
    }
}

#[test]
fn a_published_ports_packets_go_both_ways_by_the_stack() {
    let mut sim = by_stack(16);
    let segment = |sport, dport, flags, ack| Segment { sport, dport, flags, seq: 1, ack };
    let syn = packet::tcp(inward(PEER), segment(6000, 8080, SYN, 0), b"");
    assert_eq!(sim.from_outside(&syn), passed(1));
    assert_eq!(packet::ends(&sim.skb.bytes), (PEER, 6000, namespace(1).1, 80));
    let reply = segment(80, 6000, SYN | ACK, 2);
    goes_up(&mut sim, 1, &packet::tcp(outward(1, PEER), reply, b""));
    assert_eq!(sim.from_stack(&packet::tcp(forwarded(PEER), reply, b"")), passed(1));
    assert_eq!(packet::ends(&sim.skb.bytes), (HOST.1, 8080, PEER, 6000));
    // A refusal of the host's own, of what it got translated, tells of what was sent.
    let got = Addresses { from: (ROUTER.0, PEER), to: (HOST.0, namespace(1).1) };
    let quoted = packet::tcp(got, segment(6000, 80, SYN, 0), b"");
    let own = Addresses { from: HOST, to: (ROUTER.0, PEER) };
    let refusal = packet::error(own, Complaint::PORT_UNREACHABLE, packet::quote(&quoted, 8));
    assert_eq!(sim.from_stack(&refusal).result, Ok(Verdict::Pass));
    assert_eq!(sim.skb.bytes[26..30], HOST.1.octets());
    let quote = &[&[0; 14][..], &sim.skb.bytes[42..]].concat();
    assert_eq!(packet::ends(quote), (PEER, 6000, HOST.1, 8080));
    assert!(has_right_checksums(&sim.skb.bytes));
}

#[test]
fn namespaces_speak_to_each_other_by_the_hosts_bridge() {
    let mut sim = by_stack(16);
    goes_up(&mut sim, 1, &packet::udp(across(1, 2), 1, 2, b"bridged"));
    // Guarded all the same.
    let lie = Addresses { from: namespace(3), ..across(1, 2) };
    let outcome = sim.from_namespace(1, &packet::udp(lie, 1, 2, b""));
    assert_eq!(outcome.result, Err(DropReason::SourceMac));
}

#[test]
fn by_the_hosts_own_address_they_meet_without_the_stack() {
    let mut sim = by_stack(16);
    let into = Outcome { endpoint: endpoint_id(1), result: Ok(Verdict::Peer { ifindex: port(1) }) };
    for n in [1, 2] {
        let hello = packet::udp(outward(n, HOST.1), 1234, 9005, b"hello");
        assert_eq!(sim.hairpin(n, &hello), into);
        let (_, seen, ..) = packet::ends(&sim.skb.bytes);
        let back = packet::udp(outward(1, HOST.1), 7005, seen, b"and back");
        assert!(matches!(sim.hairpin(1, &back).result, Ok(Verdict::Peer { .. })));
    }
    // And so does the host itself, whose own rules are those for what it sends.
    let own = Addresses { from: (ROUTER.0, HOST.1), to: (HOST.0, HOST.1) };
    assert_eq!(sim.from_host(&packet::udp(own, 1235, 9005, b"hello")), into);
}

#[test]
fn fragments_that_come_early_wait_and_all_go_up_to_the_stack() {
    let mut sim = by_stack(16);
    let whole = packet::udp(outward(1, PEER), 5353, 53, &[0x5a; 41]);
    let (first, later) = (packet::fragment(&whole, 0..24), packet::fragment(&whole, 24..49));
    assert_eq!(sim.from_namespace(1, &later).result, Ok(Verdict::Held));
    goes_up(&mut sim, 1, &first);
    let again = std::mem::take(&mut sim.skb.again);
    assert_eq!(again, [(port(1), later.clone())], "it comes in again");
    goes_up(&mut sim, 1, &later);
    // Translated one by one on the way out ...
    let whole = packet::udp(forwarded(PEER), 5353, 53, &[0x5a; 41]);
    for piece in [0..24, 24..49] {
        assert_eq!(sim.from_stack(&packet::fragment(&whole, piece)), passed(1));
        assert_eq!(sim.skb.bytes[26..30], HOST.1.octets());
    }
    // ... and on the way in, where the stack has had the early one as it came.
    let whole = packet::udp(inward(PEER), 53, 5353, &[0xa5; 41]);
    let (first, later) = (packet::fragment(&whole, 0..24), packet::fragment(&whole, 24..49));
    assert_eq!(sim.from_outside(&later).endpoint, EndpointId::NONE);
    assert_eq!(sim.from_outside(&first), passed(1));
    assert_eq!(sim.skb.again.len(), 1);
    for piece in [&first, &later] {
        assert_eq!(sim.from_outside(piece), passed(1));
        assert_eq!(sim.skb.bytes[30..34], namespace(1).1.octets());
    }
}

#[test]
fn who_has_too_many_flows_is_told_before_the_rules_are_asked() {
    let mut sim = by_stack(16);
    sim.tables.endpoints.get_mut(&endpoint_id(1)).expect("the first").flow_limit = 1;
    asks(&mut sim);
    let outcome = sim.from_namespace(1, &packet::udp(outward(1, PEER), 5354, 53, b"one more"));
    assert_eq!(outcome.result, Err(DropReason::FlowLimit));
    assert_eq!(sim.env.answered, Some(Verdict::Peer { ifindex: port(1) }));
}

#[test]
fn a_flow_whose_address_is_gone_ends_as_any_other() {
    let mut sim = by_stack(16);
    asks(&mut sim);
    let other = Ipv4::new([203, 0, 113, 99]);
    for (_, _, route) in &mut sim.env.routes {
        if route.source == HOST.1 {
            route.source = other;
        }
    }
    sim.env.routes.retain(|(addr, ..)| *addr != HOST.1);
    sim.wait(5);
    goes_up(&mut sim, 1, &question(outward(1, PEER)));
    assert!(sim.tables.flows.is_empty());
    assert_eq!(sim.from_stack(&question(forwarded(PEER))), passed(1));
    assert_eq!(packet::ends(&sim.skb.bytes).0, other);
}
