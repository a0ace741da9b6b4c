//! Namespaces that are kept apart: whom they reach all the same, and by which ways not.

use netbpf_common::{AllowedPair, Counter, DropReason, Endpoint, Ipv4, MacAddr, proto};
use netbpf_ebpf::{
    Outcome, Verdict,
    sim::{
        Sim,
        packet::{self, Addresses},
        testbed::{
            GATEWAY, HOST, NAMESPACES, PEER, across, endpoint_id, inward, namespace, network,
            outward, port, publish,
        },
    },
};

/// The network, isolated but for the first namespace and the third.
fn bed() -> Sim {
    flagged(Endpoint::ISOLATED)
}

fn flagged(flags: u8) -> Sim {
    let mut sim = network(64);
    for n in 1..=NAMESPACES {
        sim.tables.endpoints.get_mut(&endpoint_id(n)).unwrap().flags = flags;
    }
    sim
}

fn dropped(n: u8) -> Outcome {
    Outcome { endpoint: endpoint_id(n), result: Err(DropReason::Isolated) }
}

fn passed(n: u8) -> Outcome {
    Outcome { endpoint: endpoint_id(n), result: Ok(Verdict::Pass) }
}

fn into(from: u8, to: u8) -> Outcome {
    Outcome { endpoint: endpoint_id(from), result: Ok(Verdict::Peer { ifindex: port(to) }) }
}

/// From a namespace to another one's address, by the gateway.
fn routed(from: u8, to: Ipv4) -> Addresses {
    Addresses { from: namespace(from), to: (GATEWAY.0, to) }
}

#[test]
fn isolated_namespaces_are_not_bridged_and_allowed_ones_are_in_both_directions() {
    let mut sim = bed();
    for (from, to) in [(1, 2), (2, 1), (2, 3), (3, 2)] {
        let frame = packet::udp(across(from, to), 1, 2, b"");
        assert_eq!(sim.from_namespace(from, &frame), dropped(from));
        assert_eq!(sim.skb.bytes, frame);
    }
    for (from, to) in [(1, 3), (3, 1)] {
        let frame = packet::udp(across(from, to), 1, 2, b"");
        assert_eq!(sim.from_namespace(from, &frame), into(from, to));
    }
    let counters = sim.tables.counters(endpoint_id(2));
    assert_eq!(counters.dropped(DropReason::Isolated), 2);
    assert_eq!(counters.of(Counter::Forwarded), (0, 0));
    assert_eq!(sim.tables.counters(endpoint_id(1)).of(Counter::Forwarded), (1, 28));
}

#[test]
fn any_ethertype_is_kept_apart() {
    let mut sim = bed();
    for ethertype in [[0x86, 0xdd], [0x88, 0xb5], [0x00, 0x2e]] {
        for (to, outcome) in [(2, dropped(1)), (3, into(1, 3))] {
            let mut frame = packet::udp(across(1, to), 1, 2, b"");
            frame[12..14].copy_from_slice(&ethertype);
            assert_eq!(sim.from_namespace(1, &frame), outcome);
        }
    }
}

#[test]
fn second_macs_are_kept_apart_as_the_first_ones_are() {
    let mut sim = bed();
    let (mac, addr) = (MacAddr::new([2, 9, 9, 9, 9, 9]), Ipv4::new([172, 19, 0, 77]));
    // Nobody has said where it is: the bridge looks for it, and keeps apart itself.
    let to = |n| Addresses { from: namespace(n), to: (mac, addr) };
    assert_eq!(sim.from_namespace(1, &packet::udp(to(1), 1, 2, b"")), passed(1));
    let from = Addresses { from: (mac, addr), to: namespace(1) };
    assert_eq!(sim.from_namespace(3, &packet::udp(from, 1, 2, b"")), into(3, 1));
    assert_eq!(sim.from_namespace(2, &packet::udp(to(2), 1, 2, b"")), dropped(2));
    assert_eq!(sim.from_namespace(1, &packet::udp(to(1), 1, 2, b"")), into(1, 3));
}

#[test]
fn what_a_bridge_floods_still_goes_up() {
    let mut sim = bed();
    let arp = packet::arp(namespace(1).0, namespace(1), namespace(2).1);
    assert_eq!(sim.from_namespace(1, &arp), passed(1));
    let to = (MacAddr::BROADCAST, Ipv4::new([172, 19, 0, 255]));
    let all = Addresses { from: namespace(1), to };
    assert_eq!(sim.from_namespace(1, &packet::udp(all, 1, 2, b"")), passed(1));
}

#[test]
fn the_stack_routes_nothing_back_into_the_network() {
    let mut sim = bed();
    let nobody = Ipv4::new([172, 19, 0, 200]);
    for to in [namespace(2).1, namespace(1).1, nobody] {
        assert_eq!(sim.from_namespace(1, &packet::udp(routed(1, to), 1, 2, b"")), dropped(1));
        let ping = packet::echo(routed(1, to), true, 7, b"");
        assert_eq!(sim.from_namespace(1, &ping), dropped(1));
    }
    // With options it would be the stack's all the same, and so are fragments.
    let mut fragment = packet::udp(routed(1, namespace(2).1), 1, 2, &[0; 64]);
    for offset in [[0x20, 0], [0, 8]] {
        fragment[20..22].copy_from_slice(&offset);
        packet::repair_header_checksum(&mut fragment);
        assert_eq!(sim.from_namespace(1, &fragment), dropped(1));
    }
    assert_eq!(
        sim.from_namespace(1, &packet::udp(routed(1, namespace(3).1), 1, 2, b"")),
        passed(1)
    );
    // By its own address only: by the bridge any of its addresses reaches whom it may.
    let second = (namespace(1).0, Ipv4::new([172, 19, 0, 77]));
    let by_second = Addresses { from: second, to: (GATEWAY.0, namespace(3).1) };
    assert_eq!(sim.from_namespace(1, &packet::udp(by_second, 1, 2, b"")), dropped(1));
    // To the host, and to all of the subnet, which is the host's, too.
    for to in [GATEWAY.1, HOST.1, Ipv4::new([172, 19, 0, 255])] {
        assert_eq!(sim.from_namespace(1, &packet::udp(routed(1, to), 1, 2, b"")), passed(1));
    }
    // The stack does not forward it, but says why.
    let mut last = packet::udp(routed(1, namespace(2).1), 1, 2, b"");
    last[22] = 1;
    packet::repair_header_checksum(&mut last);
    assert_eq!(sim.from_namespace(1, &last), passed(1));
    assert!(sim.tables.flows.is_empty());
}

#[test]
fn the_outside_is_reached_and_reaches_published_ports() {
    let mut sim = bed();
    let out = sim.from_namespace(2, &packet::udp(outward(2, PEER), 4000, 53, b""));
    assert!(matches!(out.result, Ok(Verdict::Neighbour { .. })), "{out:?}");
    let outcome = sim.from_outside(&packet::udp(inward(PEER), 53, 4000, b""));
    assert_eq!(outcome.result, Ok(Verdict::Peer { ifindex: port(2) }));
    let outcome = sim.from_outside(&packet::udp(inward(PEER), 53, 9000, b""));
    assert_eq!(outcome.result, Ok(Verdict::Peer { ifindex: port(1) }));
}

/// What is published is public.
#[test]
fn a_published_port_is_reached_by_the_hosts_address() {
    let mut sim = bed();
    sim.tables.publish([publish(proto::UDP, Ipv4::ANY, 9000, 9000, (1, 7000))]);
    let outcome = sim.hairpin(2, &packet::udp(outward(2, HOST.1), 4000, 9000, b""));
    assert_eq!(outcome.result, Ok(Verdict::Peer { ifindex: port(1) }));
    let answer = Addresses { from: namespace(1), to: (GATEWAY.0, HOST.1) };
    let outcome = sim.hairpin(1, &packet::udp(answer, 7000, 4000, b""));
    assert_eq!(outcome.result, Ok(Verdict::Peer { ifindex: port(2) }));
}

/// The bridge forwards for them whom it may, and the host's rules are asked about those.
#[test]
fn who_has_the_stack_forward_is_kept_apart_before() {
    let mut sim = flagged(Endpoint::ISOLATED | Endpoint::BY_STACK);
    assert_eq!(sim.from_namespace(1, &packet::udp(across(1, 2), 1, 2, b"")), dropped(1));
    assert_eq!(sim.from_namespace(1, &packet::udp(across(1, 3), 1, 2, b"")), passed(1));
    let by_gateway = packet::udp(routed(1, namespace(2).1), 1, 2, b"");
    assert_eq!(sim.from_namespace(1, &by_gateway), dropped(1));
}

#[test]
fn a_pair_is_allowed_from_the_next_frame_on_and_no_longer() {
    let mut sim = bed();
    let frame = packet::udp(across(2, 1), 1, 2, b"");
    sim.tables.allowed.push(AllowedPair::of(endpoint_id(1), endpoint_id(2)));
    assert_eq!(sim.from_namespace(2, &frame), into(2, 1));
    sim.tables.allowed.clear();
    assert_eq!(sim.from_namespace(2, &frame), dropped(2));
    assert_eq!(sim.from_namespace(1, &packet::udp(across(1, 3), 1, 2, b"")), dropped(1));
}
