//! Mappings: which outside port an inside address and port gets, and keeps.

use std::collections::HashSet;

use netbpf_common::{Ipv4, PortOwner, proto};
use netbpf_ebpf::{
    seam::Tables as _,
    sim::{
        Sim, packet,
        testbed::{HOST, PEER, endpoint_id, inward, namespace, network, outward},
    },
};

const PEERS: [Ipv4; 3] = [PEER, Ipv4::new([198, 51, 100, 10]), Ipv4::new([192, 0, 2, 1])];

/// The outside port of a datagram.
fn mapped(sim: &mut Sim, n: u8, sport: u16, to: Ipv4, dport: u16) -> u16 {
    let frame = packet::udp(outward(n, to), sport, dport, b"");
    let outcome = sim.from_namespace(n, &frame);
    assert!(outcome.result.is_ok(), "{outcome:?}");
    let (from, port, ..) = packet::ends(&sim.skb.bytes);
    assert_eq!(from, HOST.1);
    port
}

fn owner(sim: &Sim, port: u16) -> PortOwner {
    sim.tables.port_owner(PortOwner::index(proto::UDP, port).unwrap())
}

/// Requirements: 4787-1, 4787-3, nat-6.
#[test]
fn a_port_that_is_free_is_kept_for_all_destinations() {
    let mut sim = network(64);
    for to in PEERS {
        for dport in [53, 54] {
            assert_eq!(mapped(&mut sim, 1, 40000, to, dport), 40000);
        }
    }
    assert_eq!(owner(&sim, 40000).flows(), 6);
}

/// Requirements: 4787-1, 4787-3, 4787-4, 5382-7, nat-3, nat-6.
#[test]
fn after_a_clash_the_mapping_is_another_and_the_same_for_all() {
    for own in [40000, 40001, 1024, 65_535, 1023, 700] {
        let mut sim = network(64);
        assert_eq!(mapped(&mut sim, 1, own, PEER, 53), own);
        // To somebody else altogether: the port is the first's all the same.
        let other = mapped(&mut sim, 2, own, PEERS[1], 53);
        assert_ne!(other, own, "overloaded");
        assert_eq!((other % 2, other < 1024), (own % 2, own < 1024), "{own} became {other}");
        for to in PEERS {
            assert_eq!(mapped(&mut sim, 2, own, to, 99), other);
            assert_eq!(mapped(&mut sim, 1, own, to, 99), own);
        }
        let third = mapped(&mut sim, 3, own, PEER, 53);
        assert!(third != own && third != other);
    }
}

/// Whose port it is, is told by protocol: TCP's and UDP's are two.
#[test]
fn protocols_do_not_share_their_ports() {
    let mut sim = network(64);
    assert_eq!(mapped(&mut sim, 1, 5000, PEER, 53), 5000);
    let segment = packet::Segment { sport: 5000, dport: 53, flags: 2, seq: 0, ack: 0 };
    sim.from_namespace(2, &packet::tcp(outward(2, PEER), segment, b"")).result.unwrap();
    assert_eq!(packet::ends(&sim.skb.bytes).1, 5000);
}

/// Requirements: 4787-1, 4787-11, nat-1.
#[test]
fn the_port_is_given_back_with_the_last_flow() {
    let mut sim = network(64);
    mapped(&mut sim, 1, 40000, PEER, 53);
    sim.wait(20);
    mapped(&mut sim, 1, 40000, PEER, 54);
    sim.wait(15);
    sim.sweep();
    assert_eq!(owner(&sim, 40000).flows(), 1);
    assert_ne!(mapped(&mut sim, 2, 40000, PEERS[1], 53), 40000, "one is left");
    sim.wait(31);
    sim.sweep();
    assert!(sim.tables.flows.is_empty());
    assert!(sim.tables.port_owners.values().all(|owner| *owner == PortOwner::NOBODY));
    assert_eq!(mapped(&mut sim, 2, 40000, PEER, 53), 40000);
}

/// Requirements: 4787-3, 5382-7, 7857-5, nat-4.
#[test]
fn ports_are_not_shared_while_there_are_others() {
    let mut sim = network(10_000);
    let mut outside = HashSet::new();
    for sport in 2000..4000 {
        for n in 1..=3 {
            let to = PEERS[usize::from(n - 1)];
            assert!(outside.insert(mapped(&mut sim, n, sport, to, 53)), "{n} {sport}");
        }
    }
}

/// Where an identifier is somebody's, pings get another, for all destinations.
///
/// Requirements: 5508-1, 4787-1.
#[test]
fn identifiers_are_mapped_like_ports() {
    let mut sim = network(64);
    let mut id = |n: u8, to| {
        sim.from_namespace(n, &packet::echo(outward(n, to), true, 77, b"")).result.unwrap();
        u16::from_be_bytes([sim.skb.bytes[38], sim.skb.bytes[39]])
    };
    assert_eq!(id(1, PEER), 77);
    let other = id(2, PEERS[1]);
    assert_ne!(other, 77);
    assert_eq!(id(2, PEER), other);
}

/// Timestamp, information and address mask are asked for as echoes are, and answered
/// by the next type.
///
/// Requirements: 5508-1.
#[test]
fn every_sort_of_query_is_translated() {
    for kind in [8, 13, 15, 17] {
        let mut sim = network(64);
        let query = |addresses, kind| {
            let mut frame = packet::echo(addresses, true, 77, &[0; 12]);
            frame[34] = kind;
            packet::fix_checksums(&mut frame);
            frame
        };
        sim.from_namespace(1, &query(outward(1, PEER), kind)).result.unwrap();
        assert_eq!(packet::ends(&sim.skb.bytes).0, HOST.1, "{kind}");
        assert!(packet::has_right_checksums(&sim.skb.bytes));
        let answer = if kind == 8 { 0 } else { kind + 1 };
        sim.from_outside(&query(inward(PEER), answer)).result.unwrap();
        assert_eq!(packet::ends(&sim.skb.bytes).2, namespace(1).1, "{kind}");
    }
}

/// In another run the choice is another: it follows from the secret.
///
/// Requirements: 6056, 7857-5.
#[test]
fn the_choice_follows_from_a_secret() {
    let choices: HashSet<u16> = (0..16)
        .map(|secret| {
            let mut sim = network(64);
            sim.tables.config.port_secret = [secret, secret ^ 0x5555];
            mapped(&mut sim, 1, 40000, PEER, 53);
            mapped(&mut sim, 2, 40000, PEER, 53)
        })
        .collect();
    assert!(choices.len() >= 14, "{choices:?}");
}

/// Requirements: nat-5.
#[test]
fn a_flow_that_is_removed_gives_its_port_back_once() {
    let mut sim = network(64);
    mapped(&mut sim, 1, 40000, PEER, 53);
    mapped(&mut sim, 1, 40000, PEER, 54);
    let originals: Vec<_> =
        sim.tables.flows.iter().map(|(key, flow)| (*key, flow.borrow().kind)).collect();
    for (key, kind) in originals {
        let is_removed = netbpf_ebpf::flow::remove(&mut sim, &key);
        assert_eq!(is_removed, !kind.is_reply());
    }
    assert_eq!(owner(&sim, 40000), PortOwner::NOBODY);
    assert_eq!(sim.tables.flow_count(endpoint_id(1)), 0);
}
