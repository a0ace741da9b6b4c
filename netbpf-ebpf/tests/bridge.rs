//! Bridging between namespaces, and who may say to be whom.

use netbpf_common::{Counter, DropReason, EndpointId, Ipv4, MacAddr, SourceGuard};
use netbpf_ebpf::{
    Outcome, Verdict,
    sim::{
        Sim,
        packet::{self, Addresses},
        testbed::{GATEWAY, PEER, across, endpoint_id, namespace, network, port},
    },
};

const STRANGER: MacAddr = MacAddr::new([2, 9, 9, 9, 9, 9]);
const SPARE: Ipv4 = Ipv4::new([172, 19, 0, 77]);

fn bed() -> Sim {
    network(64)
}

fn set_guard(sim: &mut Sim, n: u8, guard: SourceGuard) {
    sim.tables.endpoints.get_mut(&endpoint_id(n)).unwrap().guard = guard as u8;
}

fn dropped(n: u8, reason: DropReason) -> Outcome {
    Outcome { endpoint: endpoint_id(n), result: Err(reason) }
}

fn passed(n: u8) -> Outcome {
    Outcome { endpoint: endpoint_id(n), result: Ok(Verdict::Pass) }
}

fn into(from: u8, to: u8) -> Outcome {
    Outcome { endpoint: endpoint_id(from), result: Ok(Verdict::Peer { ifindex: port(to) }) }
}

#[test]
fn known_unicast_goes_into_the_other_namespace_untouched() {
    let mut sim = bed();
    let frame = packet::udp(across(1, 2), 1000, 2000, b"hello");
    assert_eq!(sim.from_namespace(1, &frame), into(1, 2));
    assert_eq!(sim.skb.bytes, frame);
    let counters = sim.tables.counters(endpoint_id(1));
    assert_eq!(counters.of(Counter::Forwarded), (1, 33));
    assert_eq!(counters.of(Counter::Passed), (0, 0));
    assert!(sim.tables.flows.is_empty());
}

#[test]
fn any_ethertype_is_bridged_by_mac() {
    let mut sim = bed();
    let mut frame = packet::udp(across(3, 1), 1, 2, b"");
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    assert_eq!(sim.from_namespace(3, &frame), into(3, 1));
}

/// Requirements: nat-13.
#[test]
fn what_a_bridge_floods_goes_up() {
    let mut sim = bed();
    let to = |mac| Addresses { from: namespace(1), to: (mac, namespace(2).1) };
    for mac in [MacAddr::BROADCAST, MacAddr::new([1, 0, 0x5e, 0, 0, 1]), STRANGER] {
        assert_eq!(sim.from_namespace(1, &packet::udp(to(mac), 1, 2, b"")), passed(1));
    }
    let mut tagged = bed();
    tagged.skb.vlan_id = Some(7);
    tagged.skb.ifindex = port(1);
    tagged.skb.bytes = packet::udp(across(1, 2), 1, 2, b"");
    assert_eq!(netbpf_ebpf::from_endpoint(&mut tagged), passed(1));
    // Receivers strip a tag that is a priority only, and see what no guard saw.
    tagged.skb.vlan_id = Some(0);
    let hidden = dropped(1, DropReason::PriorityTag);
    assert_eq!(netbpf_ebpf::from_endpoint(&mut tagged), hidden);
}

/// Requirements: nat-13.
#[test]
fn packets_for_the_gateway_go_up() {
    let mut sim = bed();
    let to_gateway = Addresses { from: namespace(1), to: GATEWAY };
    assert_eq!(sim.from_namespace(1, &packet::echo(to_gateway, true, 7, b"x")), passed(1));
    assert_eq!(sim.tables.counters(endpoint_id(1)).of(Counter::Passed), (1, 29));
}

/// Requirements: nat-12.
#[test]
fn frames_that_do_not_fit_are_dropped_and_trains_are_not() {
    let mut sim = bed();
    sim.tables.endpoints.get_mut(&endpoint_id(2)).unwrap().mtu = 100;
    let frame = packet::udp(across(1, 2), 1, 2, &[0; 73]);
    assert_eq!(sim.from_namespace(1, &frame), dropped(1, DropReason::TooBig));
    assert_eq!(sim.from_namespace(1, &packet::udp(across(1, 2), 1, 2, &[0; 72])), into(1, 2));
    sim.skb.bytes = frame;
    sim.skb.gso_size = 50;
    assert_eq!(netbpf_ebpf::from_endpoint(&mut sim), into(1, 2));
}

#[test]
fn a_frame_never_comes_back_to_its_sender() {
    let mut sim = bed();
    let frame = packet::udp(across(1, 1), 1, 2, b"");
    assert_eq!(sim.from_namespace(1, &frame), dropped(1, DropReason::SameEndpoint));
}

#[test]
fn a_port_that_is_no_endpoint_sends_nothing() {
    let mut sim = bed();
    let outcome = sim.from_namespace(200, &packet::udp(across(1, 2), 1, 2, b""));
    let gone = Outcome { endpoint: EndpointId::NONE, result: Err(DropReason::EndpointGone) };
    assert_eq!(outcome, gone);
}

#[test]
fn macs_of_another_network_are_unknown_here() {
    let mut sim = bed();
    sim.tables.endpoints.get_mut(&endpoint_id(2)).unwrap().bridge_ifindex = 99;
    assert_eq!(sim.from_namespace(1, &packet::udp(across(1, 2), 1, 2, b"")), passed(1));
}

#[test]
fn second_macs_are_learnt_reached_and_forgotten() {
    let mut sim = bed();
    let nested = (STRANGER, SPARE);
    let hello = Addresses { from: nested, to: namespace(2) };
    assert_eq!(sim.from_namespace(1, &packet::udp(hello, 1, 2, b"")), into(1, 2));
    let answer = packet::udp(Addresses { from: namespace(2), to: nested }, 2, 1, b"");
    assert_eq!(sim.from_namespace(2, &answer), into(2, 1));
    // Somebody else cannot take it over while it is in use ...
    let theft = packet::udp(Addresses { from: nested, to: namespace(2) }, 1, 2, b"");
    assert_eq!(sim.from_namespace(3, &theft), dropped(3, DropReason::SourceMac));
    // ... and once it has aged it is unknown, then the next one's.
    sim.wait(301);
    assert_eq!(sim.from_namespace(2, &answer), passed(2));
    assert_eq!(sim.from_namespace(3, &theft), into(3, 2));
    assert_eq!(sim.from_namespace(2, &answer), into(2, 3));
}

/// Requirements: nat-16.
#[test]
fn nobody_sends_as_somebody_else() {
    let (mac1, addr1) = namespace(1);
    let (mac2, addr2) = namespace(2);
    let foreign = Ipv4::new([10, 6, 6, 6]);
    let broadcast = Ipv4::new([172, 19, 0, 255]);
    let network_itself = Ipv4::new([172, 19, 0, 0]);
    for (from, reason) in [
        ((mac2, addr1), DropReason::SourceMac),
        ((GATEWAY.0, addr1), DropReason::SourceMac),
        ((MacAddr::BROADCAST, addr1), DropReason::SourceMac),
        ((MacAddr::ZERO, addr1), DropReason::SourceMac),
        // Its own address, but from a MAC that it does not belong to.
        ((STRANGER, addr1), DropReason::SourceMac),
        ((mac1, addr2), DropReason::SourceAddress),
        ((mac1, GATEWAY.1), DropReason::SourceAddress),
        ((mac1, foreign), DropReason::SourceAddress),
        ((mac1, broadcast), DropReason::SourceAddress),
        ((mac1, network_itself), DropReason::SourceAddress),
        ((mac1, Ipv4::ANY), DropReason::SourceAddress),
    ] {
        for to in [namespace(3), (GATEWAY.0, PEER), (MacAddr::BROADCAST, broadcast)] {
            // Only to everybody, as a host that asks for an address.
            if from.1 == Ipv4::ANY && to.0.is_multicast() {
                continue;
            }
            let mut sim = bed();
            let frame = packet::udp(Addresses { from, to }, 1, 2, b"");
            assert_eq!(sim.from_namespace(1, &frame), dropped(1, reason), "{from:?} to {to:?}");
            assert_eq!(sim.tables.counters(endpoint_id(1)).dropped(reason), 1);
            assert!(sim.tables.flows.is_empty());
        }
    }
}

#[test]
fn new_macs_are_limited_per_endpoint_and_time() {
    let mut sim = bed();
    let hello = |n: u8, i: u16| {
        let [high, low] = i.to_be_bytes();
        let nested = (MacAddr::new([2, 9, 9, n, high, low]), SPARE);
        packet::udp(Addresses { from: nested, to: namespace(2) }, 1, 2, b"")
    };
    for i in 0..256 {
        assert_eq!(sim.from_namespace(1, &hello(1, i)), into(1, 2));
    }
    assert_eq!(sim.from_namespace(1, &hello(1, 256)), dropped(1, DropReason::LearnLimit));
    // Those that are known go on, as does everybody else.
    assert_eq!(sim.from_namespace(1, &hello(1, 0)), into(1, 2));
    assert_eq!(sim.from_namespace(3, &hello(3, 0)), into(3, 2));
    sim.wait(301);
    assert_eq!(sim.from_namespace(1, &hello(1, 256)), into(1, 2));
}

#[test]
fn a_strict_guard_knows_no_second_addresses() {
    let mut sim = bed();
    set_guard(&mut sim, 1, SourceGuard::Strict);
    let own_mac = Addresses { from: (namespace(1).0, SPARE), to: namespace(2) };
    let frame = packet::udp(own_mac, 1, 2, b"");
    assert_eq!(sim.from_namespace(1, &frame), dropped(1, DropReason::SourceAddress));
    let nested = Addresses { from: (STRANGER, SPARE), to: namespace(2) };
    let frame = packet::udp(nested, 1, 2, b"");
    assert_eq!(sim.from_namespace(1, &frame), dropped(1, DropReason::SourceMac));
    assert_eq!(sim.from_namespace(1, &packet::udp(across(1, 2), 1, 2, b"")), into(1, 2));
}

#[test]
fn without_a_guard_anything_goes() {
    let mut sim = bed();
    set_guard(&mut sim, 1, SourceGuard::Off);
    let lie = Addresses { from: (STRANGER, namespace(3).1), to: namespace(2) };
    assert_eq!(sim.from_namespace(1, &packet::udp(lie, 1, 2, b"")), into(1, 2));
}

/// Requirements: nat-16.
#[test]
fn arp_speaks_only_for_oneself() {
    let (mac1, addr1) = namespace(1);
    let (mac2, addr2) = namespace(2);
    let mut sim = bed();
    for sender in [(mac1, addr1), (mac1, Ipv4::ANY), (mac1, SPARE)] {
        let frame = packet::arp(mac1, sender, GATEWAY.1);
        assert_eq!(sim.from_namespace(1, &frame), passed(1), "{sender:?}");
    }
    for sender in [(mac1, addr2), (mac1, GATEWAY.1), (mac2, addr1), (STRANGER, SPARE)] {
        let frame = packet::arp(mac1, sender, addr2);
        assert_eq!(sim.from_namespace(1, &frame), dropped(1, DropReason::ArpSpoof), "{sender:?}");
    }
    let truncated = &packet::arp(mac1, (mac1, addr1), addr2)[..30];
    assert_eq!(sim.from_namespace(1, truncated), dropped(1, DropReason::ArpSpoof));
}

/// Requirements: nat-17.
#[test]
fn frames_that_contradict_themselves_are_dropped() {
    let whole = packet::udp(across(1, 2), 1, 2, b"data");
    for len in 0..14 {
        let mut sim = bed();
        assert_eq!(
            sim.from_namespace(1, &whole[..len]),
            dropped(1, DropReason::Truncated),
            "{len} bytes"
        );
    }
    for len in 14..34 {
        let mut sim = bed();
        assert_eq!(
            sim.from_namespace(1, &whole[..len]),
            dropped(1, DropReason::Truncated),
            "{len} bytes"
        );
    }
    for (offset, value) in [(14, 0x55), (14, 0x44), (14, 0x40), (16, 0xff), (17, 19)] {
        let mut sim = bed();
        let mut frame = whole.clone();
        frame[offset] = value;
        assert_eq!(
            sim.from_namespace(1, &frame),
            dropped(1, DropReason::BadHeader),
            "{value:#x} at {offset}"
        );
    }
}
