//! ICMP errors: to whoever has sent what they quote, and as that had sent it.

use netbpf_common::{Counter, DropReason, EndpointId, Ipv4, proto};
use netbpf_ebpf::{
    Outcome, Verdict,
    sim::{
        Frame, Sim,
        invariants::{self, Program},
        packet::{self, Addresses, Complaint, Segment, has_right_checksums, tcp_flag::SYN},
        testbed::{
            GATEWAY, HOST, PEER, UPLINK, endpoint_id, inward, namespace, network, outward, port,
        },
    },
};

/// A router on the way to the peer.
const TRANSIT: Ipv4 = Ipv4::new([192, 0, 2, 77]);

const TO_HOST: Outcome = Outcome { endpoint: EndpointId::NONE, result: Ok(Verdict::Pass) };

fn into(n: u8) -> Outcome {
    Outcome { endpoint: endpoint_id(n), result: Ok(Verdict::Peer { ifindex: port(n) }) }
}

fn dropped(n: u8, reason: DropReason) -> Outcome {
    Outcome { endpoint: endpoint_id(n), result: Err(reason) }
}

fn goes_out(outcome: Outcome) {
    let is_out = matches!(
        outcome.result,
        Ok(Verdict::Uplink { ifindex: UPLINK } | Verdict::Neighbour { ifindex: UPLINK, .. })
    );
    assert!(is_out, "{outcome:?}");
}

/// The frame one hop further.
fn aged(mut frame: Vec<u8>) -> Vec<u8> {
    frame[22] -= 1;
    packet::fix_header_checksum(&mut frame);
    frame
}

/// A network in which the first namespace has the ports that the second wants.
fn crowded() -> Sim {
    let mut sim = network(64);
    // (The ports of UDP-Lite stay as they are.)
    for frame in &frames(1)[..3] {
        goes_out(sim.from_namespace(1, frame));
    }
    sim
}

/// A packet of each sort with ports, and a ping.
fn frames(n: u8) -> [Vec<u8>; 4] {
    let to = outward(n, PEER);
    let segment = Segment { sport: 41000, dport: 443, flags: SYN, seq: 7, ack: 0 };
    [
        packet::udp(to, 40000, 53, b"question"),
        packet::tcp(to, segment, b""),
        packet::echo(to, true, 0x1234, b"ping"),
        packet::udp_lite(to, 42000, 9, b"lite!"),
    ]
}

/// What an error quotes, whole or with eight bytes behind the header, comes in as
/// the namespace has sent it, though address and port were others outside.
///
/// Requirements: 5508-4, 4787-12, 5382-9, nat-8.
#[test]
fn an_error_from_outside_quotes_what_the_namespace_has_sent() {
    for (i, sent) in frames(2).into_iter().enumerate() {
        for len in [8, 1000] {
            for (from, complaint) in [
                (TRANSIT, Complaint::TIME_EXCEEDED),
                (TRANSIT, Complaint::fragmentation_needed(1280)),
                (PEER, Complaint::PORT_UNREACHABLE),
            ] {
                let mut sim = crowded();
                goes_out(sim.from_namespace(2, &sent));
                let outside = sim.skb.bytes.clone();
                let is_changed = packet::ends(&outside).1 != packet::ends(&sent).1;
                assert!(is_changed || i >= 2, "another port was wanted");
                let error = packet::error(inward(from), complaint, packet::quote(&outside, len));
                assert_eq!(sim.from_outside(&error), into(2), "{i} {len}");
                let got = &sim.skb.bytes;
                assert!(has_right_checksums(got));
                assert_eq!(got[26..30], from.octets());
                assert_eq!(got[30..34], namespace(2).1.octets());
                assert_eq!(got[34..36], [complaint.kind, complaint.code]);
                assert_eq!(got[38..42], complaint.rest.to_be_bytes());
                assert_eq!(got[42..], *packet::quote(&aged(sent.clone()), len), "{i} {len}");
            }
        }
    }
}

/// Of the two forms of zero a datagram's checksum has the one that does not say that there
/// is none (RFC 768): in a quote as well.
///
/// Requirements: 5508-4, nat-8.
#[test]
fn a_quoted_checksum_does_not_become_none() {
    let frame = |word: u16| packet::udp(outward(2, PEER), 40000, 53, &word.to_be_bytes());
    let mut all = (0..=u16::MAX).map(frame);
    let sent = all.find(|frame| frame[40..42] == [0xff; 2]).unwrap();
    let mut sim = crowded();
    goes_out(sim.from_namespace(2, &sent));
    let outside = sim.skb.bytes.clone();
    let error = packet::error(inward(TRANSIT), Complaint::TIME_EXCEEDED, &outside[14..]);
    assert_eq!(sim.from_outside(&error), into(2));
    assert!(has_right_checksums(&sim.skb.bytes));
    assert_eq!(sim.skb.bytes[42..], aged(sent)[14..]);
}

/// Linux quotes 548 bytes; others all there is (RFC 1812 section 4.3.2.3, RFC 4884).
///
/// Requirements: 5508-4, nat-8.
#[test]
fn an_error_may_quote_all_of_a_long_packet() {
    let mut sim = network(64);
    for endpoint in sim.tables.endpoints.values_mut() {
        endpoint.mtu = 65_535;
    }
    goes_out(sim.from_namespace(2, &frames(2)[0]));
    let long = vec![0xa5; 60_001];
    let outside = packet::udp(Addresses { from: HOST, ..outward(2, PEER) }, 40000, 53, &long);
    let complaint = Complaint::TIME_EXCEEDED;
    let mut error = packet::error(inward(TRANSIT), complaint, packet::quote(&outside, 60_009));
    assert_eq!(sim.from_outside(&error), into(2));
    assert!(has_right_checksums(&sim.skb.bytes));
    let sent = packet::udp(outward(2, PEER), 40000, 53, &long);
    assert_eq!(sim.skb.bytes[42..], *packet::quote(&sent, 60_009));
    *error.last_mut().unwrap() ^= 1;
    assert_eq!(sim.from_outside(&error), dropped(0, DropReason::BadChecksum));
}

/// Requirements: 5508-5, 4787-12, nat-8.
#[test]
fn an_error_from_inside_quotes_what_came_from_outside() {
    let mut sim = crowded();
    goes_out(sim.from_namespace(2, &frames(2)[0]));
    let (_, outside, ..) = packet::ends(&sim.skb.bytes);
    assert_ne!(outside, 40000);
    let answer = packet::udp(inward(PEER), 53, outside, b"answer");
    for len in [8, 1000] {
        assert_eq!(sim.from_outside(&answer), into(2));
        let inside = sim.skb.bytes.clone();
        let complaint = Complaint::PORT_UNREACHABLE;
        let quote = packet::quote(&inside, len);
        goes_out(sim.from_namespace(2, &packet::error(outward(2, PEER), complaint, quote)));
        let got = &sim.skb.bytes;
        assert!(has_right_checksums(got));
        assert_eq!((&got[26..30], &got[30..34]), (&HOST.1.octets()[..], &PEER.octets()[..]));
        assert_eq!(got[42..], *packet::quote(&aged(answer.clone()), len));
    }
}

/// Requirements: 5508-4, 5508-5, nat-8, nat-14.
#[test]
fn errors_about_a_published_port_are_translated_both_ways() {
    let mut sim = network(64);
    let asked = packet::udp(inward(PEER), 5000, 9005, b"hello");
    assert_eq!(sim.from_outside(&asked), into(1));
    let inside = sim.skb.bytes.clone();
    let error =
        packet::error(outward(1, PEER), Complaint::PORT_UNREACHABLE, packet::quote(&inside, 8));
    goes_out(sim.from_namespace(1, &error));
    assert!(has_right_checksums(&sim.skb.bytes));
    assert_eq!(sim.skb.bytes[42..], *packet::quote(&aged(asked), 8));

    let answer = packet::udp(outward(1, PEER), 7005, 5000, b"yes");
    goes_out(sim.from_namespace(1, &answer));
    let outside = sim.skb.bytes.clone();
    let error =
        packet::error(inward(TRANSIT), Complaint::TIME_EXCEEDED, packet::quote(&outside, 8));
    assert_eq!(sim.from_outside(&error), into(1));
    assert_eq!(sim.skb.bytes[42..], *packet::quote(&aged(answer), 8));
    assert_eq!(sim.tables.counters(endpoint_id(1)).of(Counter::Dnat).0, 4);
}

/// Requirements: 5508-3.
#[test]
fn options_in_the_quote_are_stepped_over() {
    let mut sim = crowded();
    goes_out(sim.from_namespace(2, &frames(2)[0]));
    let route_alert = [0x94, 4, 0, 0];
    let outside = packet::with_options(&sim.skb.bytes, &route_alert);
    let error =
        packet::error(inward(TRANSIT), Complaint::TIME_EXCEEDED, packet::quote(&outside, 8));
    assert_eq!(sim.from_outside(&error), into(2));
    let expected = packet::with_options(&aged(frames(2)[0].clone()), &route_alert);
    assert!(has_right_checksums(&sim.skb.bytes));
    assert_eq!(sim.skb.bytes[42..], *packet::quote(&expected, 8));
}

/// What is wrong in the error itself is dropped; what is wrong in the quote is not
/// judged, and stays as wrong as it was.
///
/// Requirements: 5508-3.
#[test]
fn a_bad_checksum_is_dropped_and_one_in_the_quote_is_not_judged() {
    let mut sim = crowded();
    let complain = |frame: &[u8]| {
        packet::error(inward(TRANSIT), Complaint::TIME_EXCEEDED, packet::quote(frame, 8))
    };
    goes_out(sim.from_namespace(2, &frames(2)[0]));
    let outside = sim.skb.bytes.clone();
    let mut bad = complain(&outside);
    bad[37] ^= 1;
    let nobodys = Outcome { endpoint: EndpointId::NONE, result: Err(DropReason::BadChecksum) };
    assert_eq!(sim.from_outside(&bad), nobodys);
    assert_eq!(sim.tables.counters(EndpointId::NONE).dropped(DropReason::BadChecksum), 1);

    let mut garbled = outside.clone();
    garbled[41] ^= 0x55;
    assert_eq!(sim.from_outside(&complain(&garbled)), into(2));
    assert!(has_right_checksums(&sim.skb.bytes));

    let without = {
        let mut frame = outside;
        frame[40..42].fill(0);
        frame
    };
    assert_eq!(sim.from_outside(&complain(&without)), into(2));
    assert!(has_right_checksums(&sim.skb.bytes));
    assert_eq!(sim.skb.bytes[42 + 26..], [0, 0], "no checksum stays none");
}

/// Requirements: 5508-4, 5508-5, nat-15.
#[test]
fn an_error_about_no_flow_goes_nowhere() {
    let mut sim = network(64);
    let strange = packet::udp(outward(1, PEER), 1, 2, b"");
    let quote = packet::quote(&strange, 8);
    // From outside, about what the host may have sent: the host's.
    let own = packet::udp(packet::Addresses { from: HOST, ..outward(1, PEER) }, 1, 2, b"");
    let error = packet::error(inward(PEER), Complaint::PORT_UNREACHABLE, packet::quote(&own, 8));
    assert_eq!(sim.from_outside(&error), TO_HOST);
    // From inside: it would leave with what nobody outside has sent.
    let answer = packet::udp(inward(PEER), 53, 40000, b"");
    let error =
        packet::error(outward(1, PEER), Complaint::PORT_UNREACHABLE, packet::quote(&answer, 8));
    assert_eq!(sim.from_namespace(1, &error), dropped(1, DropReason::IcmpUnrelated));
    // It quotes what its receiver has not sent.
    let error = packet::error(inward(PEER), Complaint::PORT_UNREACHABLE, quote);
    assert_eq!(sim.from_outside(&error), TO_HOST);
    assert!(sim.tables.flows.is_empty());
}

/// Requirements: nat-17.
#[test]
fn what_cannot_be_an_error_is_none() {
    let mut sim = crowded();
    goes_out(sim.from_namespace(2, &frames(2)[0]));
    let outside = sim.skb.bytes.clone();
    let quote = packet::quote(&outside, 8);
    let later = packet::fragment(&outside, 8..16);
    for (kind, quote) in [
        (5, quote),
        (4, quote),
        (3, &quote[..27]),
        (3, &quote[..10]),
        (3, &[][..]),
        (3, packet::quote(&later, 8)),
    ] {
        let complaint = Complaint { kind, code: 0, rest: 0 };
        let error = packet::error(inward(PEER), complaint, quote);
        assert_eq!(sim.from_outside(&error), TO_HOST, "type {kind}, {} bytes", quote.len());
    }
    for (at, value) in [(42, 0x65), (42, 0x44), (42, 0x4f)] {
        let mut error = packet::error(inward(PEER), Complaint::PORT_UNREACHABLE, quote);
        error[at] = value;
        packet::fix_checksums(&mut error);
        assert_eq!(sim.from_outside(&error), TO_HOST, "{value:#x} at {at}");
    }
}

/// Requirements: 5508-6, 4787-12, 5382-10.
#[test]
fn an_error_neither_keeps_nor_ends_a_flow() {
    let mut sim = network(64);
    let sent = &frames(1)[0];
    goes_out(sim.from_namespace(1, sent));
    let error = packet::error(
        inward(PEER),
        Complaint::PORT_UNREACHABLE,
        packet::quote(&sim.skb.bytes.clone(), 8),
    );
    let entries = |sim: &Sim| {
        let mut entries: Vec<_> = sim.tables.flows.values().map(|flow| *flow.borrow()).collect();
        entries.sort_by_key(|flow| flow.kind.0);
        entries
    };
    let before = entries(&sim);
    sim.wait(29);
    assert_eq!(sim.from_outside(&error), into(1));
    assert_eq!(entries(&sim), before);
    sim.sweep();
    assert_eq!(entries(&sim), before);
    sim.wait(3);
    sim.sweep();
    assert!(sim.tables.flows.is_empty(), "it was not refreshed");
}

/// Requirements: 5508-7, 4787-9, nat-8.
#[test]
fn errors_come_back_by_the_hairpin_too() {
    let mut sim = network(64);
    let to_host = outward(2, HOST.1);
    let sent = packet::udp(to_host, 5000, 9005, b"hello");
    assert_eq!(sim.hairpin(2, &sent), into(1));
    let inside = sim.skb.bytes.clone();
    let (from, ..) = packet::ends(&inside);
    assert_eq!(from, HOST.1);
    let error =
        packet::error(outward(1, HOST.1), Complaint::PORT_UNREACHABLE, packet::quote(&inside, 8));
    assert_eq!(sim.hairpin(1, &error), into(2));
    let got = &sim.skb.bytes;
    assert!(has_right_checksums(got));
    assert_eq!(got[26..30], HOST.1.octets());
    assert_eq!(got[30..34], namespace(2).1.octets());
    // The host is one hop, though it went by it twice.
    assert_eq!(got[42..], *packet::quote(&aged(sent), 8));
}

/// The stack gets what has options when it is translated already; what it
/// complains of is told outside as it came from there.
///
/// Requirements: nat-8, nat-15.
#[test]
fn what_the_stack_says_of_a_packet_does_not_tell_of_the_inside() {
    let mut sim = network(64);
    let asked = packet::udp(inward(PEER), 5000, 9005, b"question");
    let asked = packet::with_options(&asked, &[7, 4, 4, 0]);
    assert_eq!(sim.from_outside(&asked).result, Ok(Verdict::Pass));
    let translated = sim.skb.bytes.clone();
    assert_eq!(packet::ends(&translated).2, namespace(1).1);
    let complaint = Complaint { kind: 12, code: 0, rest: 20 << 24 };
    let to_peer = outward(1, PEER);
    let from_host = packet::Addresses { from: HOST, ..to_peer };
    let error = packet::error(from_host, complaint, packet::quote(&translated, 8));
    assert_eq!(sim.from_stack(&error).result, Ok(Verdict::Pass));
    assert!(has_right_checksums(&sim.skb.bytes));
    assert_eq!(sim.skb.bytes[26..30], HOST.1.octets());
    assert_eq!(sim.skb.bytes[42..], *packet::quote(&asked, 8));
}

/// A packet of a protocol without ports may be shorter than what an error quotes at
/// least of others.
///
/// Requirements: nat-8.
#[test]
fn an_error_about_a_packet_without_ports_may_quote_nothing_of_it() {
    for len in [0, 1, 7] {
        let mut sim = network(64);
        let sent = packet::ipv4(outward(1, PEER), 121, &vec![5; len]);
        goes_out(sim.from_namespace(1, &sent));
        let outside = sim.skb.bytes.clone();
        let complaint = Complaint { kind: 3, code: 2, rest: 0 };
        let error = packet::error(inward(PEER), complaint, packet::quote(&outside, 8));
        let arrives = Frame { bytes: error, ifindex: UPLINK, ..Frame::default() };
        let outcome = invariants::run(&mut sim, Program::FromUplink, &arrives);
        assert_eq!(outcome, into(1), "{len} bytes");
        assert!(has_right_checksums(&sim.skb.bytes));
        assert_eq!(sim.skb.bytes[42..], *packet::quote(&aged(sent), 8));
        // The header has to be there.
        let cut = packet::quote(&outside, 8)[..19].to_vec();
        let error = packet::error(inward(PEER), complaint, &cut);
        assert_eq!(sim.from_outside(&error), TO_HOST);
    }
}

/// What is for the host the host judges: it may quote too little, or nothing right.
#[test]
fn what_a_namespace_complains_of_to_the_host_is_the_stacks() {
    let mut sim = network(64);
    let hosts = packet::udp(inward(namespace(1).1), 7, 8, b"the host's");
    let quote = packet::quote(&hosts, 4);
    let to_gateway = packet::Addresses { from: namespace(1), to: GATEWAY };
    let passed = Outcome { endpoint: endpoint_id(1), result: Ok(Verdict::Pass) };
    let error = packet::error(to_gateway, Complaint::PORT_UNREACHABLE, quote);
    assert_eq!(sim.from_namespace(1, &error), passed);
    assert_eq!(sim.skb.bytes, error);
    let mut wrong = packet::error(to_gateway, Complaint::PORT_UNREACHABLE, &hosts[14..]);
    wrong[37] ^= 1;
    assert_eq!(sim.from_namespace(1, &wrong), passed);
    // Who ends before a message begins says nothing, whatever is behind it in the frame.
    for kind in [0, 3, 8, 99] {
        let mut padded = packet::ipv4(to_gateway, proto::ICMP, &[]);
        padded.extend([kind, 0, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 20]);
        let outcome = sim.from_namespace(1, &padded);
        assert_eq!(outcome, dropped(1, DropReason::Truncated), "{kind}");
    }
    // It does not leave.
    let out = packet::error(outward(1, PEER), Complaint::PORT_UNREACHABLE, quote);
    assert_eq!(sim.from_namespace(1, &out), dropped(1, DropReason::IcmpUnrelated));
}
