//! Ways that change under living flows, and time that passes.

use netbpf_common::{DropReason, Ipv4, MacAddr, Uplink, proto};
use netbpf_ebpf::{
    Verdict,
    seam::{Neighbour, Route},
    sim::{
        Sim,
        packet::{
            self, Segment,
            tcp_flag::{ACK, SYN},
        },
        testbed::{HOST, PEER, ROUTER, UPLINK, inward, network, outward},
    },
};

const OTHER_UPLINK: u32 = 3;
const OTHER_ADDRESS: Ipv4 = Ipv4::new([198, 18, 0, 1]);
const OTHER_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 2, 1]);
/// Seconds after which a way has been looked up anew, whenever it was.
const EPOCH: u32 = 5;

fn bed() -> Sim {
    let mut sim = network(64);
    let other = Uplink { addr: OTHER_ADDRESS, mtu: 1500, mac: OTHER_MAC, prefix_len: 24, flags: 0 };
    sim.tables.uplinks.insert(OTHER_UPLINK, other);
    sim
}

/// Sends a datagram: by which uplink it leaves, and from where.
fn way(sim: &mut Sim) -> (u32, Ipv4) {
    let frame = packet::udp(outward(1, PEER), 40000, 53, b"");
    let from = |sim: &Sim| packet::ends(&sim.skb.bytes).0;
    match sim.from_namespace(1, &frame).result {
        Ok(Verdict::Neighbour { ifindex, .. } | Verdict::Uplink { ifindex }) => {
            (ifindex, from(sim))
        }
        other => panic!("{other:?}"),
    }
}

fn by_other_uplink(sim: &mut Sim) {
    let route =
        Route { source: OTHER_ADDRESS, ..Route::of(OTHER_UPLINK, Ipv4::new([198, 18, 0, 2])) };
    sim.env.routes.insert(0, (PEER, Ipv4::mask(32), route));
    let neighbour = Neighbour { mac: OTHER_MAC, source_mac: OTHER_MAC, mtu: 0 };
    sim.env.neighbours.insert(route.next_hop, neighbour);
}

#[test]
fn a_changed_route_ends_the_flow_and_begins_another() {
    let mut sim = bed();
    assert_eq!(way(&mut sim), (UPLINK, HOST.1));
    by_other_uplink(&mut sim);
    sim.wait(EPOCH);
    assert_eq!(way(&mut sim), (OTHER_UPLINK, OTHER_ADDRESS));
    assert_eq!(sim.tables.flows.len(), 2, "the first is over");
    // What still comes to the old address belongs to nobody.
    let late = packet::udp(inward(PEER), 53, 40000, b"");
    assert_eq!(sim.from_outside(&late).result, Ok(Verdict::Pass));
}

#[test]
fn a_source_address_that_is_gone_ends_the_flow() {
    let mut sim = bed();
    let new = Ipv4::new([203, 0, 113, 55]);
    assert_eq!(way(&mut sim), (UPLINK, HOST.1));
    for (_, _, route) in &mut sim.env.routes {
        if route.ifindex == UPLINK {
            route.source = new;
        }
    }
    // As long as the old one is the host's, the flow stays with it.
    sim.wait(EPOCH);
    assert_eq!(way(&mut sim), (UPLINK, HOST.1));
    sim.env.routes.retain(|(addr, ..)| *addr != HOST.1);
    sim.wait(EPOCH);
    assert_eq!(way(&mut sim), (UPLINK, new));
    assert_eq!(sim.tables.flows.len(), 2);
}

#[test]
fn a_moved_next_hop_is_followed_by_the_same_flow() {
    let mut sim = bed();
    way(&mut sim);
    let new = Ipv4::new([203, 0, 113, 77]);
    let mac = MacAddr::new([2, 7, 7, 7, 7, 7]);
    sim.env.neighbours.insert(new, Neighbour { mac, source_mac: HOST.0, mtu: 0 });
    let last = sim.env.routes.len() - 1;
    sim.env.routes[last].2.next_hop = new;
    sim.wait(EPOCH);
    assert_eq!(way(&mut sim), (UPLINK, HOST.1));
    way(&mut sim);
    assert_eq!(sim.skb.bytes[..6], mac.octets());
    assert_eq!(sim.tables.flows.len(), 2);
    assert_eq!(sim.tables.queue.len(), 1, "it is the same one");
}

#[test]
fn without_a_way_out_the_flow_waits_and_the_stack_says_why() {
    let mut sim = bed();
    way(&mut sim);
    sim.env.routes.insert(0, (PEER, Ipv4::mask(32), Route::STACK));
    sim.wait(EPOCH);
    let frame = packet::udp(outward(1, PEER), 40000, 53, b"");
    assert_eq!(sim.from_namespace(1, &frame).result, Ok(Verdict::Pass));
    assert_eq!(sim.skb.bytes, frame);
    sim.env.routes.remove(0);
    assert_eq!(way(&mut sim), (UPLINK, HOST.1));
    assert_eq!(sim.tables.queue.len(), 1, "the same one as before");
}

#[test]
fn an_uplink_that_is_back_is_used_at_once() {
    let mut sim = bed();
    by_other_uplink(&mut sim);
    let (mac, source_mac) = (MacAddr::new([2, 0, 0, 0, 2, 2]), OTHER_MAC);
    let router = Ipv4::new([198, 18, 0, 2]);
    sim.env.neighbours.insert(router, Neighbour { mac, source_mac, mtu: 0 });
    way(&mut sim);
    let other = sim.tables.uplinks.remove(&OTHER_UPLINK).unwrap();
    sim.wait(1);
    let frame = packet::udp(outward(1, PEER), 40000, 53, b"");
    assert_eq!(sim.from_namespace(1, &frame).result, Ok(Verdict::Pass));
    sim.tables.uplinks.insert(OTHER_UPLINK, other);
    assert_eq!(way(&mut sim), (OTHER_UPLINK, OTHER_ADDRESS));
}

/// Requirements: 5382-5, nat-7.
#[test]
fn in_two_hours_of_silence_an_established_connection_stays_and_an_opening_one_goes() {
    let mut sim = bed();
    let sent = |sport, flags, seq, ack| {
        packet::tcp(outward(1, PEER), Segment { sport, dport: 443, flags, seq, ack }, b"")
    };
    for sport in [2000, 2001] {
        sim.from_namespace(1, &sent(sport, SYN, 100, 0)).result.unwrap();
    }
    let answer = Segment { sport: 443, dport: 2000, flags: SYN | ACK, seq: 900, ack: 101 };
    sim.from_outside(&packet::tcp(inward(PEER), answer, b"")).result.unwrap();
    sim.from_namespace(1, &sent(2000, ACK, 101, 901)).result.unwrap();
    let ports = |sim: &Sim| {
        let originals = sim.tables.flows.iter().filter(|(_, flow)| !flow.borrow().kind.is_reply());
        let mut ports: Vec<_> = originals.map(|(key, _)| (key.proto, key.sport.number())).collect();
        ports.sort_unstable();
        ports
    };
    sim.wait(239);
    sim.sweep();
    assert_eq!(ports(&sim), [(proto::TCP, 2000), (proto::TCP, 2001)]);
    for _ in 0..24 {
        sim.wait(291);
        sim.sweep();
    }
    assert_eq!(ports(&sim), [(proto::TCP, 2000)]);
}

/// A route that takes less than the uplink: what is too large is the stack's, which
/// fragments it, or says that it would have to (RFC 1191).
///
/// Requirements: nat-9.
#[test]
fn a_narrow_path_is_narrow_for_every_packet_of_a_flow() {
    let mut sim = network(64);
    let narrow = Route { mtu: 1400, ..Route::of(UPLINK, ROUTER.1) };
    sim.env.routes.insert(0, (PEER, Ipv4::mask(32), narrow));
    let fits = |sim: &mut Sim, frame: &[u8]| match sim.from_namespace(1, frame).result {
        Ok(Verdict::Neighbour { .. } | Verdict::Uplink { .. }) => true,
        Ok(Verdict::Pass) => {
            assert_eq!(sim.skb.bytes, frame, "it is the stack's as it came");
            false
        }
        other => panic!("{other:?}"),
    };
    let asked = |len| packet::udp(outward(1, PEER), 40000, 53, &vec![0; len]);
    for _ in 0..2 {
        for (len, is_small) in [(0, true), (1372, true), (1373, false), (1472, false)] {
            assert_eq!(fits(&mut sim, &asked(len)), is_small, "{len} bytes");
        }
        sim.wait(EPOCH);
    }
    // So it is for what a published port answers.
    assert!(sim.from_outside(&packet::udp(inward(PEER), 5, 9000, b"?")).result.is_ok());
    let answer = |len| packet::udp(outward(1, PEER), 7000, 5, &vec![0; len]);
    for (len, is_small) in [(1372, true), (1373, false)] {
        assert_eq!(fits(&mut sim, &answer(len)), is_small, "{len} bytes");
    }
    // The path becomes wider, and narrow again: flows follow.
    sim.env.routes[0].2.mtu = 1500;
    sim.wait(EPOCH);
    assert!(fits(&mut sim, &asked(1472)) && fits(&mut sim, &answer(1472)));
    sim.env.routes[0].2.mtu = 1400;
    sim.wait(EPOCH);
    assert!(!fits(&mut sim, &asked(1472)) && !fits(&mut sim, &answer(1472)));
    assert!(fits(&mut sim, &asked(1372)) && fits(&mut sim, &answer(1372)));
}

/// An uplink that was removed may be back under its name, which nothing guards yet.
///
/// Requirements: nat-15.
#[test]
fn while_an_uplink_is_gone_no_other_interface_gets_what_is_not_translated() {
    let mut sim = bed();
    assert_eq!(way(&mut sim), (UPLINK, HOST.1));
    let unknown = Route::of(77, PEER);
    sim.env.routes.insert(0, (PEER, Ipv4::mask(32), unknown));
    sim.wait(EPOCH);
    let known = packet::udp(outward(1, PEER), 40000, 53, b"");
    let new = packet::udp(outward(1, PEER), 40001, 53, b"");
    let options = packet::with_options(&new, &[1, 1, 1, 1]);
    let first = packet::fragment(&packet::udp(outward(1, PEER), 1, 2, &[0; 64]), 0..40);
    let to_host = packet::udp(outward(1, HOST.1), 40001, 53, b"");
    let all = [&known, &new, &options, &first];
    for frame in all {
        let outcome = sim.from_namespace(1, frame);
        assert_eq!(outcome.result, Ok(Verdict::Pass), "as of any interface");
    }
    sim.env.gone.push(UPLINK);
    for frame in all {
        let outcome = sim.from_namespace(1, frame);
        assert_eq!(outcome.result, Err(DropReason::PrivateSource), "{frame:02x?}");
    }
    assert_eq!(sim.from_namespace(1, &to_host).result, Ok(Verdict::Pass));
    by_other_uplink(&mut sim);
    assert_eq!(way(&mut sim), (OTHER_UPLINK, OTHER_ADDRESS), "the others are as they were");
}
