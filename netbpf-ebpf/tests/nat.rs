//! Translation: out by the uplink, back, and in by published ports.

use netbpf_common::{Counter, DropReason, EndpointId, Ipv4, MacAddr, proto};
use netbpf_ebpf::{
    Outcome, Verdict,
    seam::{Neighbour, Route},
    sim::{
        Frame, Sim,
        invariants::Program,
        packet::{
            self, Addresses, Segment, has_right_checksums,
            tcp_flag::{self, SYN},
        },
        testbed::{
            GATEWAY, HOST, PEER, ROUTER, UPLINK, endpoint_id, inward, namespace, network, outward,
            port, publish,
        },
    },
};

const TO_ROUTER: Verdict = Verdict::Neighbour { ifindex: UPLINK, next_hop: ROUTER.1 };

fn went(endpoint: u8, verdict: Verdict) -> Outcome {
    Outcome { endpoint: endpoint_id(endpoint), result: Ok(verdict) }
}

fn out() -> Verdict {
    Verdict::Uplink { ifindex: UPLINK }
}

fn peer(n: u8) -> Verdict {
    Verdict::Peer { ifindex: port(n) }
}

fn dropped(n: u8, reason: DropReason) -> Outcome {
    Outcome { endpoint: endpoint_id(n), result: Err(reason) }
}

/// Addresses and ports of the frame in hand.
fn seen(sim: &Sim) -> (Ipv4, u16, Ipv4, u16) {
    let frame = &sim.skb.bytes;
    let addr = |at: usize| Ipv4::new(frame[at..at + 4].try_into().unwrap());
    let port = |at: usize| u16::from_be_bytes(frame[at..at + 2].try_into().unwrap());
    (addr(26), port(34), addr(30), port(36))
}

/// Sends a first datagram of the first namespace, so that the way is known.
fn warmed_up() -> Sim {
    let mut sim = network(1024);
    let frame = packet::udp(outward(1, PEER), 1, 1, b"");
    assert_eq!(sim.from_namespace(1, &frame), went(1, TO_ROUTER));
    sim
}

#[test]
fn a_datagram_goes_out_and_its_answer_comes_back() {
    let mut sim = warmed_up();
    let frame = packet::udp(outward(1, PEER), 40000, 53, b"question");
    assert_eq!(sim.from_namespace(1, &frame), went(1, out()));
    assert_eq!(seen(&sim), (HOST.1, 40000, PEER, 53));
    assert_eq!(sim.skb.bytes[..6], ROUTER.0.octets());
    assert_eq!(sim.skb.bytes[6..12], HOST.0.octets());
    assert_eq!(sim.skb.bytes[22], 63);
    assert!(has_right_checksums(&sim.skb.bytes));

    let answer = packet::udp(inward(PEER), 53, 40000, b"answer");
    assert_eq!(sim.from_outside(&answer), went(1, peer(1)));
    assert_eq!(seen(&sim), (PEER, 53, namespace(1).1, 40000));
    assert_eq!(sim.skb.bytes[..6], namespace(1).0.octets());
    assert_eq!(sim.skb.bytes[6..12], GATEWAY.0.octets());
    assert_eq!(sim.skb.bytes[22], 63);
    assert!(has_right_checksums(&sim.skb.bytes));
    let counters = sim.tables.counters(endpoint_id(1));
    assert_eq!(counters.of(Counter::Snat), (3, 28 + 36 + 34));
    assert_eq!(counters.of(Counter::Dnat), (0, 0));
}

#[test]
fn the_first_packet_to_a_next_hop_goes_by_the_kernel_which_resolves_it() {
    let mut sim = network(64);
    sim.env.neighbours.clear();
    let frame = packet::udp(outward(1, PEER), 40000, 53, b"");
    // As long as the next hop is not resolved, every packet: by the neighbour output, for
    // which nobody has rules, or by the stack, which tells if it never is.
    for _ in 0..3 {
        assert_eq!(sim.from_namespace(1, &frame), went(1, TO_ROUTER));
        assert_eq!(seen(&sim), (HOST.1, 40000, PEER, 53));
        assert_eq!(sim.from_namespace(1, &frame), went(1, Verdict::Pass));
        assert_eq!(sim.skb.bytes, frame, "the stack is told who sends it");
        assert_eq!(sim.from_stack(&frame).result, Ok(Verdict::Pass));
        assert_eq!(seen(&sim), (HOST.1, 40000, PEER, 53));
    }
    let neighbour = Neighbour { mac: ROUTER.0, source_mac: HOST.0, mtu: 0 };
    sim.env.neighbours.insert(ROUTER.1, neighbour);
    assert_eq!(sim.from_namespace(1, &frame), went(1, TO_ROUTER));
    assert_eq!(sim.from_namespace(1, &frame), went(1, out()));
}

/// Requirements: nat-12.
#[test]
fn a_new_mac_of_the_next_hop_is_followed_within_a_second() {
    let mut sim = warmed_up();
    let frame = packet::udp(outward(1, PEER), 40000, 53, b"");
    assert_eq!(sim.from_namespace(1, &frame), went(1, out()));
    let new = MacAddr::new([2, 5, 5, 5, 5, 5]);
    sim.env.neighbours.insert(ROUTER.1, Neighbour { mac: new, source_mac: HOST.0, mtu: 0 });
    sim.wait(1);
    assert_eq!(sim.from_namespace(1, &frame), went(1, TO_ROUTER));
    assert_eq!(sim.from_namespace(1, &frame), went(1, out()));
    assert_eq!(sim.skb.bytes[..6], new.octets());
}

#[test]
fn next_hops_that_share_a_slot_do_not_share_a_mac() {
    let mut sim = warmed_up();
    let frame = packet::udp(outward(1, PEER), 40000, 53, b"");
    assert_eq!(sim.from_namespace(1, &frame), went(1, out()));
    for hop in sim.tables.next_hops.values_mut() {
        hop.addr = Ipv4::new([203, 0, 113, 99]);
    }
    assert_eq!(sim.from_namespace(1, &frame), went(1, TO_ROUTER));
}

/// Requirements: 5508-1.
#[test]
fn echo_is_translated_by_its_identifier() {
    let mut sim = warmed_up();
    // Both clients use the same identifier to the same destination.
    let ping = |n| packet::echo(outward(n, PEER), true, 0x1234, b"ping");
    assert_eq!(sim.from_namespace(1, &ping(1)), went(1, out()));
    let id = |sim: &Sim| u16::from_be_bytes(sim.skb.bytes[38..40].try_into().unwrap());
    assert_eq!(id(&sim), 0x1234);
    assert!(has_right_checksums(&sim.skb.bytes));
    assert_eq!(sim.from_namespace(2, &ping(2)), went(2, out()));
    let second = id(&sim);
    assert_ne!(second, 0x1234);
    assert!(has_right_checksums(&sim.skb.bytes));
    let pong = packet::echo(inward(PEER), false, second, b"ping");
    assert_eq!(sim.from_outside(&pong), went(2, peer(2)));
    assert_eq!(id(&sim), 0x1234);
    assert!(has_right_checksums(&sim.skb.bytes));
    // An answer that nobody asked for is the host's.
    let stray = packet::echo(inward(PEER), false, 0x4321, b"");
    let outcome = Outcome { endpoint: EndpointId::NONE, result: Ok(Verdict::Pass) };
    assert_eq!(sim.from_outside(&stray), outcome);
}

/// Requirements: 4787-3, 4787-4.
#[test]
fn the_clients_port_is_kept_while_free_and_its_parity_and_class_if_not() {
    let mut sim = warmed_up();
    for own in [40000, 40001, 999] {
        let frame = |n| packet::udp(outward(n, PEER), own, 53, b"");
        assert_eq!(sim.from_namespace(1, &frame(1)), went(1, out()));
        assert_eq!(seen(&sim).1, own);
        assert_eq!(sim.from_namespace(2, &frame(2)), went(2, out()));
        let other = seen(&sim).1;
        assert_ne!(other, own);
        assert_eq!(other % 2, own % 2);
        assert_eq!(other < 1024, own < 1024);
        assert!(has_right_checksums(&sim.skb.bytes));
        let answer = packet::udp(inward(PEER), 53, other, b"");
        assert_eq!(sim.from_outside(&answer), went(2, peer(2)));
        assert_eq!(seen(&sim), (PEER, 53, namespace(2).1, own));
    }
}

/// Requirements: nat-4.
#[test]
fn ports_that_somebody_has_are_not_given_away() {
    let mut sim = warmed_up();
    sim.env.sockets.push((proto::UDP, 5000));
    let port_for = |sim: &mut Sim, frame: &[u8]| {
        assert_eq!(sim.from_namespace(1, frame), went(1, out()));
        seen(sim).1
    };
    let udp = |own| packet::udp(outward(1, PEER), own, 53, b"");
    assert_ne!(port_for(&mut sim, &udp(5000)), 5000);
    for published in 9000..=9010 {
        let got = port_for(&mut sim, &udp(published));
        assert!(!(9000..=9010).contains(&got), "{got}");
    }
    // Published for TCP, free for UDP.
    assert_eq!(port_for(&mut sim, &udp(8080)), 8080);
}

#[test]
fn a_published_port_leads_into_the_namespace_and_keeps_the_client() {
    let mut sim = network(64);
    let syn = Segment { sport: 50000, dport: 8080, flags: SYN, seq: 1, ack: 0 };
    assert_eq!(sim.from_outside(&packet::tcp(inward(PEER), syn, b"")), went(1, peer(1)));
    assert_eq!(seen(&sim), (PEER, 50000, namespace(1).1, 80));
    assert!(has_right_checksums(&sim.skb.bytes));

    let answer = Segment { sport: 80, dport: 50000, ..syn };
    let frame = packet::tcp(outward(1, PEER), answer, b"");
    assert_eq!(sim.from_namespace(1, &frame), went(1, TO_ROUTER));
    assert_eq!(seen(&sim), (HOST.1, 8080, PEER, 50000));
    assert!(has_right_checksums(&sim.skb.bytes));
    assert_eq!(sim.tables.counters(endpoint_id(1)).of(Counter::Dnat), (2, 80));
    assert_eq!(sim.tables.flow_counts[&endpoint_id(1)], 1);
}

#[test]
fn a_range_leads_to_its_range_in_step() {
    let mut sim = network(64);
    for step in [0, 5, 10] {
        let frame = packet::udp(inward(PEER), 1234, 9000 + step, b"");
        assert_eq!(sim.from_outside(&frame), went(1, peer(1)));
        assert_eq!(seen(&sim).3, 7000 + step);
    }
    let beside = packet::udp(inward(PEER), 1234, 9011, b"");
    assert_eq!(sim.from_outside(&beside).result, Ok(Verdict::Pass));
}

#[test]
fn the_most_exact_published_address_wins() {
    let mut sim = network(64);
    let other = Ipv4::new([203, 0, 113, 7]);
    sim.tables.publish([
        publish(proto::TCP, Ipv4::ANY, 80, 80, (1, 80)),
        publish(proto::TCP, HOST.1, 81, 90, (2, 80)),
        publish(proto::TCP, other, 443, 443, (3, 443)),
        publish(proto::TCP, Ipv4::ANY, 90, 95, (3, 90)),
        publish(proto::UDP, HOST.1, 80, 80, (3, 80)),
    ]);
    let syn = |to, dport| {
        let addresses = Addresses { to: (HOST.0, to), ..inward(PEER) };
        packet::tcp(addresses, Segment { sport: 5, dport, flags: SYN, ..Segment::default() }, b"")
    };
    assert_eq!(sim.from_outside(&syn(HOST.1, 80)), went(1, peer(1)));
    assert_eq!(sim.from_outside(&syn(HOST.1, 90)), went(2, peer(2)));
    assert_eq!(sim.from_outside(&syn(HOST.1, 91)), went(3, peer(3)));
    assert_eq!(sim.from_outside(&syn(other, 443)), went(3, peer(3)));
    assert_eq!(sim.from_outside(&syn(HOST.1, 443)).result, Ok(Verdict::Pass));
    // What the host only routes is not published on "any address" of it, nor
    // are loopback, broadcast or the gateway.
    for to in [PEER, other, Ipv4::new([127, 0, 0, 1]), Ipv4::new([203, 0, 113, 255])] {
        assert_eq!(sim.from_outside(&syn(to, 80)).result, Ok(Verdict::Pass));
    }
    let to_gateway = sim.from_outside(&syn(GATEWAY.1, 80)).result;
    assert_eq!(to_gateway, Err(DropReason::NotPublished));
}

/// Requirements: nat-14.
#[test]
fn namespaces_are_not_reachable_by_their_own_addresses() {
    let mut sim = network(64);
    let direct = Addresses { to: (HOST.0, namespace(1).1), ..inward(PEER) };
    let nobody = |reason| Outcome { endpoint: EndpointId::NONE, result: Err(reason) };
    for dport in [80, 8080] {
        let segment = Segment { sport: 5, dport, flags: SYN, ..Segment::default() };
        let frame = packet::tcp(direct, segment, b"");
        assert_eq!(sim.from_outside(&frame), nobody(DropReason::NotPublished));
    }
    let fragment = {
        let mut frame = packet::udp(direct, 1, 2, b"12345678");
        frame[20] = 0x20;
        packet::fix_checksums(&mut frame);
        frame
    };
    assert_eq!(sim.from_outside(&fragment), nobody(DropReason::NotPublished));
    // Nor does one of their addresses come from outside.
    let spoofed = packet::udp(inward(namespace(2).1), 1, 9000, b"");
    assert_eq!(sim.from_outside(&spoofed), dropped(1, DropReason::SourceAddress));
    assert!(sim.tables.flows.is_empty());
}

/// RFC 1812 section 5.2.2: a router drops what was damaged. A bridge does not look.
///
/// Requirements: nat-11, nat-17.
#[test]
fn a_wrong_header_checksum_goes_nowhere_and_makes_no_flow() {
    let mut sim = network(64);
    let damaged = |frame: Vec<u8>| {
        let mut frame = frame;
        frame[25] ^= 1;
        frame
    };
    let options = |frame: Vec<u8>| packet::with_options(&frame, &[7, 7, 4, 0, 0, 0, 0, 0]);
    let udp = packet::udp(outward(1, PEER), 40000, 53, &[0; 32]);
    for frame in [udp.clone(), packet::fragment(&udp, 0..16), packet::fragment(&udp, 16..40)] {
        let outcome = sim.from_namespace(1, &damaged(frame));
        assert_eq!(outcome, dropped(1, DropReason::BadChecksum));
    }
    // The stack drops its own: options, and all that comes from outside.
    let frame = damaged(options(udp.clone()));
    assert_eq!(sim.from_namespace(1, &frame), went(1, Verdict::Pass));
    let asked = packet::udp(inward(PEER), 40000, 9000, b"hello");
    for frame in [damaged(asked.clone()), damaged(options(asked.clone()))] {
        let outcome = Outcome { endpoint: EndpointId::NONE, result: Ok(Verdict::Pass) };
        assert_eq!(sim.from_outside(&frame), outcome);
        assert_eq!(sim.skb.bytes, frame, "as it came");
    }
    let leak = Addresses { from: (HOST.0, namespace(2).1), to: (ROUTER.0, PEER) };
    for frame in [packet::udp(leak, 1, 2, b""), options(packet::udp(leak, 1, 2, b""))] {
        assert_eq!(sim.from_stack(&damaged(frame)), dropped(2, DropReason::BadChecksum));
    }
    assert!(sim.tables.flows.is_empty());
    let across = packet::udp(netbpf_ebpf::sim::testbed::across(1, 2), 1, 2, b"");
    assert_eq!(sim.from_namespace(1, &damaged(across)), went(1, peer(2)));
}

/// As `ip_rcv_core()` trims it.
///
/// Requirements: 4787-10.
#[test]
fn padding_of_a_frame_is_not_forwarded_nor_counted() {
    let mut sim = warmed_up();
    let padded = |frame: &[u8], by: usize| [frame, &vec![0x5a; by]].concat();
    let out_again = packet::udp(outward(1, PEER), 40000, 53, b"odd");
    // As much as would not fit the uplink, too.
    for by in [1, 15, 1500] {
        assert_eq!(sim.from_namespace(1, &padded(&out_again, by)), went(1, out()));
        assert_eq!(sim.skb.bytes.len(), out_again.len());
        assert!(has_right_checksums(&sim.skb.bytes));
    }
    let answer = packet::udp(inward(PEER), 53, 40000, b"odd");
    assert_eq!(sim.from_outside(&padded(&answer, 15)), went(1, peer(1)));
    assert_eq!(sim.skb.bytes.len(), answer.len());
    assert!(has_right_checksums(&sim.skb.bytes));
    let counters = sim.tables.counters(endpoint_id(1));
    assert_eq!(counters.of(Counter::Snat), (5, 28 + 4 * 31));
}

/// What the stack sends into a VLAN beside the uplink leaves by another interface.
#[test]
fn a_vlan_beside_the_uplink_is_another_network() {
    let mut sim = network(64);
    let frame = packet::udp(outward(2, PEER), 1, 2, b"");
    for (vlan_id, source) in [(Some(5), namespace(2).1), (Some(0), HOST.1), (None, HOST.1)] {
        sim.skb = Frame { bytes: frame.clone(), ifindex: UPLINK, vlan_id, ..Frame::default() };
        assert_eq!(sim.decide(Program::ToUplink).result, Ok(Verdict::Pass));
        assert_eq!(seen(&sim).0, source, "{vlan_id:?}");
    }
}

#[test]
fn outsiders_cannot_use_the_inside_of_a_flow() {
    let mut sim = warmed_up();
    let frame = packet::udp(outward(1, PEER), 40000, 53, b"");
    assert_eq!(sim.from_namespace(1, &frame), went(1, out()));
    // The same tuple as the flow's opening direction, from the wrong side.
    assert_eq!(sim.from_outside(&frame).result, Err(DropReason::SourceAddress));
    // Another namespace cannot send into it.
    let mut stolen = frame.clone();
    stolen[6..12].copy_from_slice(&namespace(2).0.octets());
    assert_eq!(sim.from_namespace(2, &stolen), dropped(2, DropReason::SourceAddress));
}

/// Requirements: nat-15.
#[test]
fn nothing_private_leaves_by_the_stack() {
    let mut sim = network(64);
    let forwarded = packet::udp(outward(2, PEER), 1, 2, b"");
    assert_eq!(sim.from_stack(&forwarded), went(2, Verdict::Pass));
    assert_eq!(seen(&sim), (HOST.1, 1, PEER, 2));
    assert_eq!(sim.skb.bytes[22], 64, "the stack has counted the hop");
    assert!(has_right_checksums(&sim.skb.bytes));
    // Nobody knows whose these are, or what they belong to.
    let second = Ipv4::new([172, 19, 0, 200]);
    let addresses = Addresses { from: (HOST.0, second), to: (ROUTER.0, PEER) };
    let outcome = sim.from_stack(&packet::ipv4(addresses, 132, b"sctp"));
    assert_eq!(outcome.result, Err(DropReason::Truncated));
    let outcome = sim.from_stack(&packet::udp(addresses, 1, 2, b""));
    assert_eq!(outcome.result, Err(DropReason::PrivateSource));
    let reset = Segment { sport: 7, dport: 8, flags: tcp_flag::RST, ..Segment::default() };
    let late = packet::tcp(outward(2, PEER), reset, b"");
    assert_eq!(sim.from_stack(&late), dropped(2, DropReason::NoFlow));
    let own = Addresses { from: HOST, to: (ROUTER.0, PEER) };
    assert_eq!(sim.from_stack(&packet::udp(own, 3, 4, b"")).result, Ok(Verdict::Pass));
    assert_eq!(sim.tables.counters(endpoint_id(2)).of(Counter::Snat), (1, 28));
    assert_eq!(sim.tables.counters(endpoint_id(2)).dropped(DropReason::NoFlow), 1);
}

#[test]
fn what_cannot_be_translated_is_left_to_the_stack() {
    let mut sim = warmed_up();
    let pass = went(1, Verdict::Pass);
    let options = packet::with_options(&packet::udp(outward(1, PEER), 1, 2, b""), &[7, 4, 4, 0]);
    assert_eq!(sim.from_namespace(1, &options), pass);
    for ttl in [0, 1] {
        let mut last_hop = packet::udp(outward(1, PEER), 1, 2, b"");
        last_hop[22] = ttl;
        packet::fix_checksums(&mut last_hop);
        assert_eq!(sim.from_namespace(1, &last_hop), pass);
    }
    let to_host = packet::udp(outward(1, HOST.1), 3, 2, b"");
    assert_eq!(sim.from_namespace(1, &to_host), pass);
    assert_eq!(sim.tables.flows.len(), 2, "only the warm-up's");
}

/// Requirements: nat-9.
#[test]
fn packets_larger_than_the_uplink_takes_are_the_stacks() {
    let mut sim = warmed_up();
    let big = packet::udp(outward(1, PEER), 40000, 53, &[0; 1473]);
    assert_eq!(sim.from_namespace(1, &big), went(1, Verdict::Pass));
    let fits = packet::udp(outward(1, PEER), 40000, 53, &[0; 1472]);
    assert_eq!(sim.from_namespace(1, &fits), went(1, out()));
    assert_eq!(sim.from_namespace(1, &big), went(1, Verdict::Pass));
    // A train of segments that fit one by one goes out whole.
    sim.skb.bytes = big;
    sim.skb.gso_size = 1472;
    assert_eq!(sim.decide(Program::FromEndpoint), went(1, out()));
}

/// Requirements: nat-11.
#[test]
fn a_checksum_left_to_the_device_covers_the_pseudo_header_alone() {
    let mut sim = warmed_up();
    // Somebody else has the port, so that both address and port change.
    let frame = packet::udp(outward(2, PEER), 40000, 53, b"data");
    assert_eq!(sim.from_namespace(2, &frame), went(2, out()));
    let mut frame = packet::udp(outward(1, PEER), 40000, 53, b"data");
    let pseudo = |frame: &[u8]| -> u16 {
        let words = [26, 28, 30, 32].map(|at| u16::from_be_bytes([frame[at], frame[at + 1]]));
        let sum = words.iter().map(|word| u32::from(*word)).sum::<u32>()
            + u32::from(proto::UDP)
            + u32::from(u16::from_be_bytes([frame[38], frame[39]]));
        netbpf_ebpf::checksum::fold(sum)
    };
    let check = pseudo(&frame).to_be_bytes();
    frame[40..42].copy_from_slice(&check);
    sim.skb.is_checksum_partial = true;
    sim.skb.bytes = frame;
    sim.skb.ifindex = port(1);
    assert_eq!(sim.decide(Program::FromEndpoint), went(1, out()));
    assert_ne!(seen(&sim).1, 40000);
    assert_eq!(sim.skb.bytes[40..42], pseudo(&sim.skb.bytes).to_be_bytes());
}

/// Requirements: nat-11.
#[test]
fn a_udp_checksum_of_zero_stays_zero() {
    let mut sim = warmed_up();
    let mut frame = packet::udp(outward(1, PEER), 40000, 53, b"data");
    frame[40..42].fill(0);
    assert_eq!(sim.from_namespace(1, &frame), went(1, out()));
    assert_eq!(sim.skb.bytes[40..42], [0, 0]);
    assert!(has_right_checksums(&sim.skb.bytes));
}

#[test]
fn a_namespace_that_is_gone_gets_nothing() {
    let mut sim = warmed_up();
    let frame = packet::udp(outward(2, PEER), 40000, 53, b"");
    assert_eq!(sim.from_namespace(2, &frame), went(2, out()));
    sim.tables.endpoints.remove(&endpoint_id(2));
    let answer = packet::udp(inward(PEER), 53, 40000, b"");
    assert_eq!(sim.from_outside(&answer), dropped(2, DropReason::EndpointGone));
}

/// Requirements: nat-15, 5382-2.
#[test]
fn what_ends_or_answers_the_unknown_opens_nothing() {
    use packet::tcp_flag::{ACK, FIN, RST};
    let mut sim = warmed_up();
    for flags in [RST, FIN | ACK, RST | ACK, 0] {
        let segment = Segment { sport: 7, dport: 8080, flags, ..Segment::default() };
        let late = packet::tcp(outward(1, PEER), segment, b"");
        assert_eq!(sim.from_namespace(1, &late), dropped(1, DropReason::NoFlow));
        let late = packet::tcp(inward(PEER), segment, b"");
        assert_eq!(sim.from_outside(&late), dropped(1, DropReason::NoFlow));
    }
    let answer = packet::echo(outward(1, PEER), false, 9, b"");
    assert_eq!(sim.from_namespace(1, &answer), dropped(1, DropReason::NoFlow));
    assert_eq!(sim.tables.flows.len(), 2, "only the warm-up's");
}

#[test]
fn a_client_of_two_published_ports_that_lead_to_one_is_told_apart_by_its_port() {
    let mut sim = network(64);
    sim.tables.publish([
        publish(proto::UDP, Ipv4::ANY, 9000, 9000, (1, 7000)),
        publish(proto::UDP, Ipv4::ANY, 9001, 9001, (1, 7000)),
    ]);
    let to = |dport| packet::udp(inward(PEER), 1234, dport, b"");
    assert_eq!(sim.from_outside(&to(9000)), went(1, peer(1)));
    assert_eq!(seen(&sim), (PEER, 1234, namespace(1).1, 7000));
    assert_eq!(sim.from_outside(&to(9001)), went(1, peer(1)));
    let (client, port, ..) = seen(&sim);
    assert_eq!((client, port % 2), (PEER, 0), "the client itself, from a port like its own");
    assert_ne!(port, 1234);
    assert_eq!(sim.tables.flows.len(), 4);
    for (to_port, from_port, verdict) in [(1234, 9000, TO_ROUTER), (port, 9001, out())] {
        let answer = packet::udp(outward(1, PEER), 7000, to_port, b"");
        assert_eq!(sim.from_namespace(1, &answer), went(1, verdict));
        assert_eq!(seen(&sim), (HOST.1, from_port, PEER, 1234));
    }
}

/// The server writes first, from the port that is published.
#[test]
fn a_published_port_is_reached_by_whom_its_server_has_written_to() {
    let mut sim = network(64);
    sim.tables.publish([publish(proto::UDP, Ipv4::ANY, 9000, 9000, (1, 7000))]);
    let written = packet::udp(outward(1, PEER), 7000, 1234, b"");
    assert_eq!(sim.from_namespace(1, &written), went(1, TO_ROUTER));
    assert_eq!(seen(&sim), (HOST.1, 7000, PEER, 1234));
    assert_eq!(sim.from_outside(&packet::udp(inward(PEER), 1234, 9000, b"")), went(1, peer(1)));
    let (_, port, ..) = seen(&sim);
    assert_ne!(port, 1234);
    let answer = packet::udp(outward(1, PEER), 7000, port, b"");
    assert_eq!(sim.from_namespace(1, &answer), went(1, out()));
    assert_eq!(seen(&sim), (HOST.1, 9000, PEER, 1234));
}

#[test]
fn who_cannot_be_answered_by_an_uplink_is_the_stacks() {
    let mut sim = network(64);
    let blackholed = Ipv4::new([198, 51, 100, 66]);
    let elsewhere = Ipv4::new([10, 9, 9, 9]);
    let other_device = Route::of(77, elsewhere);
    sim.env.routes.insert(0, (blackholed, Ipv4::mask(32), Route::STACK));
    sim.env.routes.insert(0, (elsewhere, Ipv4::mask(32), other_device));
    let loopback = Ipv4::new([127, 0, 0, 1]);
    let multicast = Ipv4::new([224, 0, 0, 1]);
    for from in [HOST.1, blackholed, elsewhere, loopback, multicast, Ipv4::ANY] {
        let outcome = sim.from_outside(&packet::udp(inward(from), 1, 9000, b""));
        assert_eq!(outcome.result, Ok(Verdict::Pass), "{from}");
    }
    for to in [loopback, multicast, Ipv4::new([255; 4]), Ipv4::ANY] {
        let frame = packet::udp(outward(1, to), 1, 2, b"");
        assert_eq!(sim.from_namespace(1, &frame), went(1, Verdict::Pass), "{to}");
    }
    assert!(sim.tables.flows.is_empty());
}

/// 0/8 and 240/4 are reserved, and Linux routes them all the same.
#[test]
fn what_linux_routes_is_translated() {
    let mut sim = network(64);
    for to in [Ipv4::new([0, 0, 0, 5]), Ipv4::new([240, 0, 0, 1]), Ipv4::new([255, 1, 1, 1])] {
        let outcome = sim.from_namespace(1, &packet::udp(outward(1, to), 1, 2, b""));
        assert!(!matches!(outcome.result, Ok(Verdict::Pass) | Err(_)), "{to}: {outcome:?}");
        assert_eq!(packet::ends(&sim.skb.bytes), (HOST.1, 1, to, 2));
    }
}

#[test]
fn nothing_gets_by_as_malformed_or_to_everybody() {
    let mut sim = network(64);
    let direct = Addresses { to: (HOST.0, namespace(1).1), ..inward(PEER) };
    let short = packet::ipv4(direct, proto::UDP, &[0; 4]);
    assert_eq!(sim.from_outside(&short).result, Err(DropReason::NotPublished));
    let spoofed = Addresses { to: (MacAddr::BROADCAST, HOST.1), ..inward(namespace(1).1) };
    sim.skb.bytes = packet::udp(spoofed, 1, 2, b"");
    sim.skb.ifindex = UPLINK;
    sim.skb.is_to_other = true;
    let outcome = sim.decide(Program::FromUplink);
    assert_eq!(outcome.result, Err(DropReason::SourceAddress));
    // A priority alone is no VLAN; what is tagged inside of it could be anything.
    sim.skb.is_to_other = false;
    sim.skb.vlan_id = Some(0);
    assert_eq!(sim.decide(Program::FromUplink).result, Err(DropReason::SourceAddress));
    sim.skb.bytes[12..14].copy_from_slice(&[0x81, 0]);
    assert_eq!(sim.decide(Program::FromUplink).result, Err(DropReason::PriorityTag));
}

#[test]
fn the_host_does_not_speak_for_the_network() {
    let mut sim = network(64);
    let asks = |addr| packet::arp(HOST.0, (HOST.0, addr), ROUTER.1);
    assert_eq!(sim.from_stack(&asks(GATEWAY.1)).result, Err(DropReason::PrivateSource));
    assert_eq!(sim.from_stack(&asks(HOST.1)).result, Ok(Verdict::Pass));
}

#[test]
fn what_is_dropped_on_the_way_in_makes_no_flow() {
    let mut sim = network(64);
    let mut last_hop = packet::udp(inward(PEER), 1, 9000, b"");
    last_hop[22] = 1;
    packet::fix_checksums(&mut last_hop);
    assert_eq!(sim.from_outside(&last_hop), dropped(1, DropReason::TtlExceeded));
    sim.tables.endpoints.get_mut(&endpoint_id(1)).unwrap().mtu = 100;
    let big = packet::udp(inward(PEER), 1, 9000, &[0; 100]);
    assert_eq!(sim.from_outside(&big), dropped(1, DropReason::TooBig));
    assert!(sim.tables.flows.is_empty());
}
