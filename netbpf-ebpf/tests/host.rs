//! The host's own connections beside those of its namespaces.

use netbpf_common::{DropReason, EndpointId, proto};
use netbpf_ebpf::{
    Outcome, Verdict,
    seam::Tables as _,
    sim::{
        Sim,
        packet::{self, Addresses, has_right_checksums},
        testbed::{HOST, PEER, ROUTER, endpoint_id, inward, namespace, network, outward, port},
    },
};

const TO_HOST: Outcome = Outcome { endpoint: EndpointId::NONE, result: Ok(Verdict::Pass) };

fn into(n: u8) -> Outcome {
    Outcome { endpoint: endpoint_id(n), result: Ok(Verdict::Peer { ifindex: port(n) }) }
}

fn namespaces(sim: &mut Sim) {
    let frame = packet::udp(outward(1, PEER), 5353, 53, b"question");
    let outcome = sim.from_namespace(1, &frame);
    assert!(outcome.result.is_ok(), "{outcome:?}");
    assert_eq!(packet::ends(&sim.skb.bytes), (HOST.1, 5353, PEER, 53));
}

/// The host sends from port 5353 to the peer: the port that it leaves by.
fn hosts(sim: &mut Sim) -> u16 {
    let own = Addresses { from: HOST, to: (ROUTER.0, PEER) };
    assert_eq!(sim.from_stack(&packet::udp(own, 5353, 53, b"mine")), TO_HOST);
    assert!(has_right_checksums(&sim.skb.bytes));
    assert_eq!(sim.skb.bytes[22], 64, "its own packet is on its first hop");
    let (from, sport, to, dport) = packet::ends(&sim.skb.bytes);
    assert_eq!((from, to, dport), (HOST.1, PEER, 53));
    sport
}

fn answer(dport: u16) -> Vec<u8> {
    packet::udp(inward(PEER), 53, dport, b"answer")
}

/// Requirements: nat-4.
#[test]
fn a_host_connection_opened_later_on_a_flows_tuple_works_beside_it() {
    let mut sim = network(64);
    namespaces(&mut sim);
    let sport = hosts(&mut sim);
    assert_ne!(sport, 5353, "the namespace's");
    assert_eq!(hosts(&mut sim), sport, "one port for all of it");
    // Each gets its own answers.
    assert_eq!(sim.from_outside(&answer(5353)), into(1));
    assert_eq!(packet::ends(&sim.skb.bytes), (PEER, 53, namespace(1).1, 5353));
    assert_eq!(sim.from_outside(&answer(sport)), TO_HOST);
    assert_eq!(packet::ends(&sim.skb.bytes), (PEER, 53, HOST.1, 5353));
    assert!(has_right_checksums(&sim.skb.bytes));
    assert_eq!(sim.tables.flow_count(EndpointId::HOST), 1);
    namespaces(&mut sim);
}

/// What is rare about its packets changes nothing of that, the first of them or not:
/// options, fragments, another protocol (of which ports stay, so that it clashes).
///
/// Requirements: nat-4, nat-17.
#[test]
fn a_rare_packet_of_the_host_on_a_flows_tuple_is_no_exception() {
    let own = Addresses { from: HOST, to: (ROUTER.0, PEER) };
    let whole = packet::udp(own, 5353, 53, &[0x5a; 24]);
    let optioned = packet::with_options(&whole, &[7, 7, 4, 0, 0, 0, 0, 0]);
    let first = packet::fragment(&whole, 0..16);
    for frame in [&optioned, &first] {
        let mut sim = network(64);
        namespaces(&mut sim);
        assert_eq!(sim.from_stack(frame), TO_HOST);
        let (from, sport, to, dport) = packet::ends(&sim.skb.bytes);
        assert_eq!((from, to, dport), (HOST.1, PEER, 53));
        assert_ne!(sport, 5353, "the namespace's");
        assert_eq!(sim.from_outside(&answer(sport)), TO_HOST);
        assert_eq!(packet::ends(&sim.skb.bytes), (PEER, 53, HOST.1, 5353));
        assert_eq!(sim.from_outside(&answer(5353)), into(1));
    }

    let mut sim = network(64);
    sim.from_namespace(1, &packet::sctp(outward(1, PEER), 5353, 53, b"")).result.unwrap();
    let clash = sim.from_stack(&packet::sctp(own, 5353, 53, b""));
    assert_eq!(clash, Outcome { result: Err(DropReason::Protocol), ..TO_HOST });
    let frame = packet::sctp(own, 5354, 53, b"");
    assert_eq!(sim.from_stack(&frame), TO_HOST);
    assert_eq!(sim.skb.bytes, frame, "another's tuple");
}

/// Requirements: nat-4.
#[test]
fn it_survives_the_end_of_the_flow() {
    let mut sim = network(64);
    namespaces(&mut sim);
    let sport = hosts(&mut sim);
    sim.from_outside(&answer(sport));
    for _ in 0..4 {
        sim.wait(25);
        sim.sweep();
        assert_eq!(hosts(&mut sim), sport);
    }
    assert_eq!(sim.tables.flow_count(endpoint_id(1)), 0, "the namespace has gone silent");
    assert_eq!(sim.from_outside(&answer(sport)), TO_HOST);
    assert_eq!(packet::ends(&sim.skb.bytes), (PEER, 53, HOST.1, 5353));
    sim.wait(140);
    sim.sweep();
    assert_eq!(sim.tables.flow_count(EndpointId::HOST), 0);
    assert_eq!(hosts(&mut sim), 5353, "nobody is in the way any more");
}

/// Requirements: nat-4.
#[test]
fn a_socket_of_the_host_keeps_its_port() {
    let mut sim = network(64);
    sim.env.sockets.push((proto::UDP, 5353));
    sim.from_namespace(1, &packet::udp(outward(1, PEER), 5353, 53, b"")).result.unwrap();
    assert_ne!(packet::ends(&sim.skb.bytes).1, 5353);
    assert_eq!(hosts(&mut sim), 5353);
    assert_eq!(sim.from_outside(&answer(5353)), TO_HOST);
}

#[test]
fn what_the_host_sends_to_others_stays_as_it_is() {
    let mut sim = network(64);
    namespaces(&mut sim);
    let own = Addresses { from: HOST, to: (ROUTER.0, PEER) };
    for (sport, dport) in [(5353, 54), (5354, 53)] {
        let frame = packet::udp(own, sport, dport, b"");
        assert_eq!(sim.from_stack(&frame), TO_HOST);
        assert_eq!(sim.skb.bytes, frame);
    }
    assert_eq!(sim.tables.flow_count(EndpointId::HOST), 0);
}
