//! Published ports from inside: hairpins, and the host itself.

use netbpf_common::MacAddr;
use netbpf_common::{DropReason, EndpointId, Ipv4, proto};
use netbpf_ebpf::{
    Outcome, Verdict,
    sim::{
        Sim,
        packet::{
            self, Addresses, Complaint, Segment, has_right_checksums,
            tcp_flag::{ACK, FIN, RST, SYN},
        },
        testbed::{
            GATEWAY, HOST, PEER, endpoint_id, inward, namespace, network, outward, port, publish,
        },
    },
};

const LOCALHOST: Ipv4 = Ipv4::new([127, 0, 0, 1]);

fn into(n: u8) -> Outcome {
    Outcome { endpoint: endpoint_id(n), result: Ok(Verdict::Peer { ifindex: port(n) }) }
}

const TO_HOST: Outcome = Outcome { endpoint: EndpointId::NONE, result: Ok(Verdict::Pass) };

/// On the loopback device.
fn local(from: Ipv4, to: Ipv4) -> Addresses {
    Addresses { from: (MacAddr::ZERO, from), to: (MacAddr::ZERO, to) }
}

fn ends(sim: &Sim) -> (Ipv4, u16, Ipv4, u16) {
    assert!(has_right_checksums(&sim.skb.bytes));
    packet::ends(&sim.skb.bytes)
}

/// From a neighbour, and from the publishing namespace itself.
///
/// Requirements: 4787-9, 5382-8, nat-14.
#[test]
fn a_published_port_is_reached_by_the_hosts_address_from_inside() {
    for n in 1..=3 {
        let mut sim = network(64);
        let syn = Segment { sport: 50000, dport: 8080, flags: SYN, seq: 1, ack: 0 };
        assert_eq!(sim.hairpin(n, &packet::tcp(outward(n, HOST.1), syn, b"")), into(1));
        // From the host's address and an outside port, as RFC 4787 wants it.
        assert_eq!(ends(&sim), (HOST.1, 50000, namespace(1).1, 80));
        let answer = Segment { sport: 80, dport: 50000, flags: SYN | 16, seq: 9, ack: 2 };
        assert_eq!(sim.hairpin(1, &packet::tcp(outward(1, HOST.1), answer, b"")), into(n));
        assert_eq!(ends(&sim), (HOST.1, 8080, namespace(n).1, 50000));
        // Two flows: the client's to the outside, and one from there to the port.
        assert_eq!(sim.tables.flows.len(), 4);
    }
}

/// To a mapping instead of a published port: the outside port of a neighbour's
/// flow. Filtering is by address and port, so nobody unasked gets in.
///
/// Requirements: 4787-9, 4787-8.
#[test]
fn neighbours_meet_by_their_mappings() {
    let mut sim = network(64);
    let frame = |n, sport, to, dport| packet::udp(outward(n, to), sport, dport, b"x");
    sim.from_namespace(1, &frame(1, 6001, PEER, 3478)).result.unwrap();
    sim.from_namespace(2, &frame(2, 6002, PEER, 3478)).result.unwrap();
    assert_eq!(sim.hairpin(1, &frame(1, 6001, HOST.1, 6002)), TO_HOST, "not asked for yet");
    assert_eq!(sim.hairpin(2, &frame(2, 6002, HOST.1, 6001)), into(1));
    assert_eq!(ends(&sim), (HOST.1, 6002, namespace(1).1, 6001));
    assert_eq!(sim.hairpin(1, &frame(1, 6001, HOST.1, 6002)), into(2));
    assert_eq!(ends(&sim), (HOST.1, 6001, namespace(2).1, 6002));
}

/// Requirements: nat-14.
#[test]
fn the_gateways_address_leads_to_published_ports_and_else_to_the_host() {
    let mut sim = network(64);
    let to_gateway = Addresses { from: namespace(2), to: GATEWAY };
    assert_eq!(sim.hairpin(2, &packet::udp(to_gateway, 5, 9000, b"")), into(1));
    let outcome = sim.from_namespace(2, &packet::udp(to_gateway, 5, 53, b""));
    assert_eq!(outcome.result, Ok(Verdict::Pass));
}

/// Requirements: nat-14.
#[test]
fn the_host_reaches_a_published_port_by_its_own_address() {
    let mut sim = network(64);
    let asked = packet::udp(local(HOST.1, HOST.1), 5555, 9005, b"hello");
    assert_eq!(sim.from_host(&asked), into(1));
    assert_eq!(ends(&sim), (HOST.1, 5555, namespace(1).1, 7005));
    let answer = packet::udp(outward(1, HOST.1), 7005, 5555, b"yes");
    // There is nobody but the host who gets it.
    assert_eq!(sim.hairpin(1, &answer).result, Ok(Verdict::Pass));
    assert_eq!(ends(&sim), (HOST.1, 9005, HOST.1, 5555));
}

/// A namespace has come by the host's address: what the host itself sends from the same
/// port to the same is not its, whatever it is. To end what it has not opened is the
/// stack's to refuse.
///
/// Requirements: nat-14.
#[test]
fn the_host_does_not_speak_for_a_namespace_that_came_by_its_address() {
    let mut sim = network(64);
    let segment = |flags| Segment { sport: 9000, dport: 8080, flags, seq: 1, ack: 1 };
    assert_eq!(sim.hairpin(2, &packet::tcp(outward(2, HOST.1), segment(SYN), b"")), into(1));
    assert_eq!(ends(&sim), (HOST.1, 9000, namespace(1).1, 80));
    let flows =
        |sim: &Sim| sim.tables.flows.values().map(|flow| *flow.borrow()).collect::<Vec<_>>();
    let before = flows(&sim);

    let own = local(HOST.1, HOST.1);
    for flags in [FIN | ACK, RST, RST | ACK] {
        let frame = packet::tcp(own, segment(flags), b"");
        assert_eq!(sim.from_host(&frame).result, Ok(Verdict::Pass));
        assert_eq!(sim.skb.bytes, frame);
        assert_eq!(flows(&sim), before, "not its");
    }
    // What it opens comes from the gateway's address, so that both work.
    assert_eq!(sim.from_host(&packet::tcp(own, segment(SYN), b"")), into(1));
    assert_eq!(ends(&sim).0, GATEWAY.1);
}

/// Requirements: nat-14.
#[test]
fn the_host_reaches_a_published_port_by_localhost() {
    let mut sim = network(64);
    let asked = packet::udp(local(LOCALHOST, LOCALHOST), 5555, 9005, b"hello");
    assert_eq!(sim.from_host(&asked), into(1));
    // A namespace cannot answer to 127.0.0.1.
    assert_eq!(ends(&sim), (GATEWAY.1, 5555, namespace(1).1, 7005));
    let to_gateway = Addresses { from: namespace(1), to: GATEWAY };
    let outcome = sim.hairpin(1, &packet::udp(to_gateway, 7005, 5555, b"yes"));
    assert_eq!(outcome.result, Ok(Verdict::Pass));
    assert_eq!(ends(&sim), (LOCALHOST, 9005, LOCALHOST, 5555));
    // What is not published stays where it is.
    let own = packet::udp(local(LOCALHOST, LOCALHOST), 5555, 53, b"dns");
    assert_eq!(sim.from_host(&own), TO_HOST);
    assert_eq!(sim.skb.bytes, own);
}

/// RFC 1812 section 5.3.1: a router takes one off, and a host that sends or gets
/// a packet nothing.
#[test]
fn the_host_is_one_hop_between_namespaces_and_none_to_itself() {
    const TTL: usize = 22;
    let mut sim = network(64);
    assert_eq!(sim.hairpin(2, &packet::udp(outward(2, HOST.1), 5, 9000, b"")), into(1));
    assert_eq!(sim.skb.bytes[TTL], 63);
    let mut asked = packet::udp(local(HOST.1, HOST.1), 6, 9000, b"");
    asked[TTL] = 1;
    packet::fix_header_checksum(&mut asked);
    assert_eq!(sim.from_host(&asked), into(1));
    assert_eq!(sim.skb.bytes[TTL], 1);
    let answer = packet::udp(outward(1, HOST.1), 7000, 6, b"");
    assert_eq!(sim.hairpin(1, &answer).result, Ok(Verdict::Pass));
    assert_eq!(sim.skb.bytes[TTL], 64);
}

/// Requirements: nat-14.
#[test]
fn what_is_bound_to_localhost_is_for_the_host_alone() {
    let mut sim = network(64);
    sim.tables.publish([publish(proto::UDP, LOCALHOST, 9000, 9000, (1, 7000))]);
    assert_eq!(sim.from_outside(&packet::udp(inward(PEER), 5, 9000, b"")), TO_HOST);
    let spoofed = Addresses { to: (HOST.0, LOCALHOST), ..inward(PEER) };
    let outcome = sim.from_outside(&packet::udp(spoofed, 5, 9000, b"")).result;
    assert!(!matches!(outcome, Ok(Verdict::Peer { .. })), "{outcome:?}");
    let outcome = sim.from_namespace(2, &packet::udp(outward(2, HOST.1), 5, 9000, b""));
    assert_eq!(outcome.result, Ok(Verdict::Pass));
    assert_eq!(sim.from_host(&packet::udp(local(HOST.1, HOST.1), 5, 9000, b"")), TO_HOST);
    let asked = packet::udp(local(LOCALHOST, LOCALHOST), 5, 9000, b"");
    assert_eq!(sim.from_host(&asked), into(1));
}

/// Requirements: nat-14.
#[test]
fn what_is_bound_to_one_address_is_on_that_one_only() {
    let mut sim = network(64);
    sim.tables.publish([publish(proto::UDP, HOST.1, 9000, 9000, (1, 7000))]);
    assert_eq!(sim.from_outside(&packet::udp(inward(PEER), 5, 9000, b"")), into(1));
    assert_eq!(sim.from_host(&packet::udp(local(HOST.1, HOST.1), 6, 9000, b"")), into(1));
    assert_eq!(sim.from_host(&packet::udp(local(LOCALHOST, LOCALHOST), 7, 9000, b"")), TO_HOST);
    let to_gateway = Addresses { from: namespace(2), to: GATEWAY };
    let frame = packet::udp(to_gateway, 8, 9000, b"");
    assert_eq!(sim.from_namespace(2, &frame).result, Ok(Verdict::Pass));
}

/// Who comes by an uplink and says to be the host, from a port by which a namespace comes:
/// with options as without, it is the stack's, and counted for whom it is for.
///
/// Requirements: nat-14, nat-17.
#[test]
fn from_outside_nobody_speaks_for_a_namespace_that_came_by_the_hosts_address() {
    let mut sim = network(64);
    assert_eq!(sim.hairpin(2, &packet::udp(outward(2, HOST.1), 2000, 9000, b"")), into(1));
    let plain = packet::udp(inward(HOST.1), 2000, 9000, b"");
    for frame in [packet::with_options(&plain, &[0x94, 4, 0, 0]), plain] {
        let expected = Outcome { endpoint: endpoint_id(1), result: Ok(Verdict::Pass) };
        assert_eq!(sim.from_outside(&frame), expected);
        assert_eq!(sim.skb.bytes, frame);
    }
}

/// Requirements: nat-14, nat-17.
#[test]
fn options_do_not_open_a_way_that_is_closed_without() {
    let mut sim = network(64);
    let optional = |addresses, dport| {
        packet::with_options(&packet::udp(addresses, 5, dport, b""), &[0x94, 4, 0, 0])
    };
    let direct = Addresses { to: (HOST.0, namespace(1).1), ..inward(PEER) };
    let reason = |sim: &mut Sim, frame: &[u8]| sim.from_outside(frame).result;
    assert_eq!(reason(&mut sim, &optional(direct, 7000)), Err(DropReason::NotPublished));
    let spoofed = inward(namespace(2).1);
    assert_eq!(reason(&mut sim, &optional(spoofed, 53)), Err(DropReason::SourceAddress));
    // A published one is translated, and the stack follows the options.
    assert_eq!(reason(&mut sim, &optional(inward(PEER), 9000)), Ok(Verdict::Pass));
    assert_eq!(ends(&sim), (PEER, 5, namespace(1).1, 7000));
    assert_eq!(sim.skb.bytes[22], 64, "a hop that the stack counts");
}

/// Its last hop is the host: who asks is told so, by the address that was asked.
///
/// Requirements: nat-9, nat-14.
#[test]
fn a_hairpin_on_its_last_hop_is_told_so_by_the_address_that_it_is_for() {
    let mut sim = network(64);
    let last = |dport| {
        let mut frame = packet::udp(outward(2, HOST.1), 5, dport, b"how far?");
        frame[22] = 1;
        packet::fix_checksums(&mut frame);
        frame
    };
    let asked = last(9000);
    for is_open in [false, true] {
        let over = Outcome { endpoint: endpoint_id(2), result: Err(DropReason::TtlExceeded) };
        assert_eq!(sim.from_namespace(2, &asked), over, "with a flow: {is_open}");
        assert_eq!(sim.env.answered, Some(Verdict::Peer { ifindex: port(2) }));
        assert!(has_right_checksums(&sim.skb.bytes));
        assert_eq!(sim.skb.bytes[34..36], [11, 0]);
        assert_eq!(sim.skb.bytes[26..34], [HOST.1.octets(), namespace(2).1.octets()].concat());
        assert_eq!(sim.skb.bytes[42..], asked[14..42], "what it quotes");
        assert_eq!(sim.tables.flows.is_empty(), !is_open, "it makes no flow");
        let open = packet::udp(outward(2, HOST.1), 5, 9000, b"");
        assert_eq!(sim.hairpin(2, &open), into(1));
    }
    // What is for the host itself has arrived, and so have answers that it waits for.
    assert_eq!(sim.from_namespace(2, &last(53)).result, Ok(Verdict::Pass));
    let asked = packet::udp(local(HOST.1, HOST.1), 5555, 9005, b"hello");
    assert_eq!(sim.from_host(&asked), into(1));
    let mut answer = packet::udp(outward(1, HOST.1), 7005, 5555, b"yes");
    answer[22] = 1;
    packet::fix_checksums(&mut answer);
    assert_eq!(sim.hairpin(1, &answer).result, Ok(Verdict::Pass));
    assert_eq!(ends(&sim), (HOST.1, 9005, HOST.1, 5555));
    assert_eq!(sim.skb.bytes[22], 1);
}

/// The stack follows them once the packet has come in again.
///
/// Requirements: nat-14, nat-17.
#[test]
fn a_published_port_is_reached_from_inside_with_options_too() {
    let mut sim = network(64);
    let optional = |addresses, sport, dport| {
        packet::with_options(&packet::udp(addresses, sport, dport, b""), &[0x94, 4, 0, 0])
    };
    let outcome = sim.hairpin(2, &optional(outward(2, HOST.1), 5, 9000));
    assert_eq!(outcome, Outcome { endpoint: endpoint_id(1), result: Ok(Verdict::Pass) });
    assert_eq!(ends(&sim), (HOST.1, 5, namespace(1).1, 7000));
    assert_eq!(sim.skb.bytes[22], 64, "a hop that the stack counts");
    let outcome = sim.hairpin(1, &optional(outward(1, HOST.1), 7000, 5));
    assert_eq!(outcome, Outcome { endpoint: endpoint_id(2), result: Ok(Verdict::Pass) });
    assert_eq!(ends(&sim), (HOST.1, 9000, namespace(2).1, 5));
    // To the host itself, and out, they are the stack's at once.
    for to in [HOST.1, PEER] {
        let frame = optional(outward(2, to), 5, 53);
        assert_eq!(sim.from_namespace(2, &frame).result, Ok(Verdict::Pass));
        assert_eq!(sim.skb.bytes, frame);
    }
}

/// Its stack has followed the options when it made the packet: translated, and left
/// to it, it would be delivered where it was for before.
///
/// Requirements: nat-14, nat-17.
#[test]
fn the_host_reaches_a_published_port_with_options_too() {
    let mut sim = network(64);
    let asked = packet::udp(local(HOST.1, HOST.1), 5555, 9005, b"hello");
    let asked = packet::with_options(&asked, &[0x94, 4, 0, 0]);
    assert_eq!(sim.from_host(&asked), into(1));
    assert_eq!(ends(&sim), (HOST.1, 5555, namespace(1).1, 7005));
    assert_eq!(sim.skb.bytes[22], 64, "the host is no hop to itself");
    let answer = packet::udp(outward(1, HOST.1), 7005, 5555, b"yes");
    let answer = packet::with_options(&answer, &[0x94, 4, 0, 0]);
    assert_eq!(sim.hairpin(1, &answer).result, Ok(Verdict::Pass));
    assert_eq!(ends(&sim), (HOST.1, 9005, HOST.1, 5555));
}

/// What waits for the first of a datagram belongs to the host's flow, too.
///
/// Requirements: nat-10, nat-14.
#[test]
fn fragments_of_the_hosts_own_go_in_whatever_their_order() {
    let mut sim = network(64);
    let asked = packet::udp(local(LOCALHOST, LOCALHOST), 5555, 9005, &[7; 40]);
    let last = packet::fragment(&asked, 24..48);
    // The stack has it, too: it may be its own.
    assert_eq!(sim.from_host(&last), TO_HOST);
    let outcome = sim.from_host(&packet::fragment(&asked, 0..24));
    assert_eq!(outcome.result, Ok(Verdict::Sent));
    let sent: Vec<Vec<u8>> = sim.skb.copies.iter().map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(sent.len(), 2);
    for bytes in &sent {
        assert_eq!(bytes[26..34], [GATEWAY.1.octets(), namespace(1).1.octets()].concat());
    }
    assert_eq!(sent[1][34..], last[34..]);
}

/// The host complains of an answer to its own address 127.0.0.1: who has sent that
/// is told by the gateway.
///
/// Requirements: nat-8, nat-14.
#[test]
fn what_the_host_complains_of_at_localhost_reaches_the_namespace() {
    let mut sim = network(64);
    let asked = packet::udp(local(LOCALHOST, LOCALHOST), 5555, 9005, b"hello");
    assert_eq!(sim.from_host(&asked), into(1));
    let to_gateway = Addresses { from: namespace(1), to: GATEWAY };
    let answer = packet::udp(to_gateway, 7005, 5555, b"nobody waits for this");
    assert_eq!(sim.hairpin(1, &answer).result, Ok(Verdict::Pass));
    let quote = packet::quote(&sim.skb.bytes, 64).to_vec();
    let complaint = Complaint::PORT_UNREACHABLE;
    assert_eq!(
        sim.from_host(&packet::error(local(LOCALHOST, LOCALHOST), complaint, &quote)),
        into(1)
    );
    assert!(has_right_checksums(&sim.skb.bytes));
    assert_eq!(sim.skb.bytes[26..34], [GATEWAY.1.octets(), namespace(1).1.octets()].concat());
    assert_eq!(sim.skb.bytes[42..], *packet::quote(&answer, 64));
    // About others it stays there.
    let own = packet::udp(local(LOCALHOST, LOCALHOST), 5, 6, b"own");
    let error = packet::error(local(LOCALHOST, LOCALHOST), complaint, packet::quote(&own, 8));
    assert_eq!(sim.from_host(&error), TO_HOST);
    assert_eq!(sim.skb.bytes, error);
}
