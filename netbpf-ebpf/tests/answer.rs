//! What is dropped for a reason that its sender should know, and how it is told.

use netbpf_common::{DropReason, ErrorCount};
use netbpf_ebpf::{
    Verdict,
    sim::{
        Frame, Sim,
        invariants::Program,
        packet::{self, Complaint, has_right_checksums},
        testbed::{
            GATEWAY, HOST, PEER, ROUTER, UPLINK, endpoint_id, inward, namespace, network, outward,
            port,
        },
    },
};

/// The error about a frame, byte for byte, as a router sends it.
fn expected(addresses: packet::Addresses, complaint: Complaint, about: &[u8]) -> Vec<u8> {
    let mut frame = packet::error(addresses, complaint, packet::quote(about, 8));
    frame[15] = 0xc0;
    frame[18..22].fill(0);
    packet::fix_checksums(&mut frame);
    frame
}

/// To the outside, from the address that the packet was for.
fn back_outside() -> packet::Addresses {
    packet::Addresses { from: HOST, to: (ROUTER.0, PEER) }
}

/// Requirements: 5508-10, nat-9.
#[test]
fn a_packet_on_its_last_hop_is_answered_with_time_exceeded() {
    let mut sim = network(64);
    let mut asked = packet::udp(inward(PEER), 1234, 9000, b"hello");
    asked[22] = 1;
    packet::fix_checksums(&mut asked);
    assert_eq!(sim.from_outside(&asked).result, Err(DropReason::TtlExceeded));
    assert_eq!(sim.env.answered, Some(Verdict::Uplink { ifindex: UPLINK }));
    assert!(has_right_checksums(&sim.skb.bytes));
    assert_eq!(sim.skb.bytes, expected(back_outside(), Complaint::TIME_EXCEEDED, &asked));
}

/// Requirements: 4787-13, nat-9.
#[test]
fn a_packet_too_big_for_the_namespace_is_answered_with_its_mtu() {
    let mut sim = network(64);
    sim.tables.endpoints.get_mut(&endpoint_id(1)).unwrap().mtu = 1280;
    let asked = packet::udp(inward(PEER), 1234, 9000, &[0; 1253]);
    assert_eq!(sim.from_outside(&asked).result, Err(DropReason::TooBig));
    assert_eq!(sim.env.answered, Some(Verdict::Uplink { ifindex: UPLINK }));
    let complaint = Complaint::fragmentation_needed(1280);
    assert_eq!(sim.skb.bytes, expected(back_outside(), complaint, &asked));
    assert!(has_right_checksums(&sim.skb.bytes));

    // One that may be fragmented is the stack's, translated.
    let mut asked = asked;
    asked[20] = 0;
    packet::fix_checksums(&mut asked);
    assert_eq!(sim.from_outside(&asked).result, Ok(Verdict::Pass));
    assert_eq!(packet::ends(&sim.skb.bytes), (PEER, 1234, namespace(1).1, 7000));
    assert!(has_right_checksums(&sim.skb.bytes));
}

/// A checksum that a device would finish, or a train's, would be written into what
/// is quoted.
///
/// Requirements: nat-9, nat-11.
#[test]
fn no_device_has_anything_left_to_do_for_an_answer() {
    let mut sim = network(64);
    let mut asked = packet::udp(inward(PEER), 1234, 9000, &[0; 4000]);
    asked[22] = 1;
    packet::fix_checksums(&mut asked);
    let mut train = packet::udp(inward(PEER), 1234, 9000, &[0; 4000]);
    train[18] = 7;
    packet::fix_checksums(&mut train);
    for (frame, reason, complaint) in [
        (asked, DropReason::TtlExceeded, Complaint::TIME_EXCEEDED),
        (train, DropReason::TooBig, Complaint::fragmentation_needed(1500)),
    ] {
        let (gso_size, is_checksum_partial) = (1473, true);
        let (bytes, ifindex) = (frame.clone(), UPLINK);
        sim.skb = Frame { bytes, ifindex, gso_size, is_checksum_partial, ..Frame::default() };
        assert_eq!(sim.decide(Program::FromUplink).result, Err(reason));
        assert_eq!(sim.env.answered, Some(Verdict::Uplink { ifindex: UPLINK }));
        let bytes = expected(back_outside(), complaint, &frame);
        assert_eq!(sim.skb, Frame { bytes, ifindex, ..Frame::default() });
    }
}

/// Requirements: 4787-13, nat-9.
#[test]
fn a_train_too_long_for_the_namespace_that_may_be_cut_up_is_the_stacks() {
    let mut sim = network(64);
    let mut asked = packet::udp(inward(PEER), 1234, 9000, &[0; 4000]);
    asked[20] = 0;
    packet::fix_checksums(&mut asked);
    for (gso_size, verdict) in [(1473, Verdict::Pass), (1472, Verdict::Peer { ifindex: port(1) })] {
        let (bytes, ifindex) = (asked.clone(), UPLINK);
        sim.skb = Frame { bytes, ifindex, gso_size, ..Frame::default() };
        assert_eq!(sim.decide(Program::FromUplink).result, Ok(verdict));
        assert_eq!(packet::ends(&sim.skb.bytes), (PEER, 1234, namespace(1).1, 7000));
        assert_eq!((sim.skb.gso_size, sim.skb.bytes.len()), (gso_size, asked.len()));
    }
}

/// With IP options the stack answers, about a packet that is translated already; and
/// that is not told.
///
/// Requirements: 5508-10, nat-9, nat-15.
#[test]
fn with_options_the_stack_answers_and_tells_nothing_of_the_inside() {
    let mut sim = network(64);
    let mut asked = packet::udp(inward(PEER), 1234, 9000, b"hello");
    asked[22] = 1;
    let asked = packet::with_options(&asked, &[1, 1, 1, 1]);
    // The first packet of its flow, and another.
    for _ in 0..2 {
        assert_eq!(sim.from_outside(&asked).result, Ok(Verdict::Pass));
        let inside = sim.skb.bytes.clone();
        assert_eq!(inside[30..34], namespace(1).1.octets());
        assert!(has_right_checksums(&inside));
        let back = packet::Addresses { from: HOST, to: (ROUTER.0, PEER) };
        let quote = packet::quote(&inside, 8);
        let error = packet::error(back, Complaint::TIME_EXCEEDED, quote);
        assert_eq!(sim.from_stack(&error).result, Ok(Verdict::Pass));
        assert!(has_right_checksums(&sim.skb.bytes));
        assert_eq!(&sim.skb.bytes[42..], packet::quote(&asked, 8));
    }
}

fn refused(sim: &mut Sim, sport: u16) -> Vec<u8> {
    let frame = packet::udp(outward(1, PEER), sport, 53, b"");
    assert_eq!(sim.from_namespace(1, &frame).result, Err(DropReason::FlowLimit));
    frame
}

fn limited() -> Sim {
    let mut sim = network(64);
    sim.tables.endpoints.get_mut(&endpoint_id(1)).unwrap().flow_limit = 0;
    sim
}

/// Requirements: 5508-8, nat-2.
#[test]
fn a_flow_that_cannot_be_is_answered_with_prohibited() {
    let mut sim = limited();
    let frame = refused(&mut sim, 40000);
    assert_eq!(sim.env.answered, Some(Verdict::Peer { ifindex: port(1) }));
    let complaint = Complaint { kind: 3, code: 13, rest: 0 };
    let back = packet::Addresses { from: GATEWAY, to: namespace(1) };
    assert_eq!(sim.skb.bytes, expected(back, complaint, &frame));
    assert!(has_right_checksums(&sim.skb.bytes));
    assert_eq!(sim.tables.counters(endpoint_id(1)).dropped(DropReason::FlowLimit), 1);
}

/// Requirements: 5508-8.
#[test]
fn answers_are_limited_and_drops_counted_all_the_same() {
    let mut sim = limited();
    let mut answered = 0;
    for sport in 1..=200 {
        let frame = refused(&mut sim, sport);
        answered += u32::from(sim.env.answered.is_some());
        assert_eq!(sim.env.answered.is_none(), sim.skb.bytes == frame);
    }
    assert_eq!(answered, ErrorCount::LIMIT);
    assert_eq!(sim.tables.counters(endpoint_id(1)).dropped(DropReason::FlowLimit), 200);
    sim.wait(2);
    refused(&mut sim, 1);
    assert!(sim.env.answered.is_some());
}

/// RFC 1122 section 3.2.2: no error about an error, or a fragment but the first,
/// or what went to everybody.
#[test]
fn some_packets_are_never_answered() {
    let mut sim = network(64);
    let asked = packet::udp(inward(PEER), 1234, 9000, &[0; 40]);
    sim.from_outside(&asked).result.unwrap();
    let inside = sim.skb.bytes.clone();
    let answer = packet::udp(outward(1, PEER), 7000, 1234, &[0; 40]);
    sim.from_namespace(1, &answer).result.unwrap();
    let outside = sim.skb.bytes.clone();
    let error = packet::error(inward(PEER), Complaint::TIME_EXCEEDED, packet::quote(&outside, 8));
    sim.from_outside(&packet::fragment(&asked, 0..24)).result.unwrap();
    let later = packet::fragment(&asked, 24..48);
    for mut frame in [error, later] {
        frame[22] = 1;
        packet::fix_header_checksum(&mut frame);
        assert_eq!(sim.from_outside(&frame).result, Err(DropReason::TtlExceeded));
        assert_eq!((sim.env.answered, &sim.skb.bytes), (None, &frame));
    }
    // Nor does a bridge answer.
    sim.tables.endpoints.get_mut(&endpoint_id(2)).unwrap().mtu = 30;
    let across = netbpf_ebpf::sim::testbed::across(1, 2);
    let outcome = sim.from_namespace(1, &packet::udp(across, 1, 2, &[0; 40]));
    assert_eq!(outcome.result, Err(DropReason::TooBig));
    assert_eq!(sim.env.answered, None);
    assert_eq!(inside[30..34], namespace(1).1.octets());
}

/// The type of service is that of the packet (RFC 1812 section 4.3.2.5).
#[test]
fn an_error_has_the_type_of_service_of_what_it_is_about() {
    let mut sim = network(64);
    let mut asked = packet::udp(inward(PEER), 1234, 9000, b"hello");
    (asked[15], asked[22]) = (0xff, 1);
    packet::fix_checksums(&mut asked);
    assert_eq!(sim.from_outside(&asked).result, Err(DropReason::TtlExceeded));
    assert_eq!(sim.skb.bytes[15], 0xde, "no congestion, and another precedence");
    assert!(has_right_checksums(&sim.skb.bytes));
}
