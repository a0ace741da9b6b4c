//! The flow table: states, time-outs, limits, ends.

use netbpf_common::{DropReason, EndpointId, FlowState, SourceGuard, Ticks, Tuple, proto};
use netbpf_ebpf::{
    Verdict,
    expire::Look,
    flow,
    seam::FlowEntry as _,
    seam::Tables as _,
    sim::{
        Frame, Sim,
        invariants::Program,
        packet::{
            self, Addresses, Segment,
            tcp_flag::{ACK, FIN, RST, SYN},
        },
        shadow::Shadow,
        testbed::{HOST, PEER, UPLINK, endpoint_id, inward, namespace, network, outward, port},
    },
};

const CLIENT: u16 = 40000;
const SERVER: u16 = 443;

/// The tuple of the connection that these tests follow, as its client opens it.
fn tuple() -> Tuple {
    Tuple {
        saddr: namespace(1).1,
        daddr: PEER,
        sport: netbpf_common::Port::new(CLIENT),
        dport: netbpf_common::Port::new(SERVER),
        proto: proto::TCP,
        from_host: 0,
        pad: [0; 2],
    }
}

fn client(sim: &mut Sim, flags: u8, seq: u32, ack: u32) -> Result<Verdict, DropReason> {
    let segment = Segment { sport: CLIENT, dport: SERVER, flags, seq, ack };
    sim.from_namespace(1, &packet::tcp(outward(1, PEER), segment, b"")).result
}

fn server(sim: &mut Sim, flags: u8, seq: u32, ack: u32) -> Result<Verdict, DropReason> {
    let segment = Segment { sport: SERVER, dport: CLIENT, flags, seq, ack };
    sim.from_outside(&packet::tcp(inward(PEER), segment, b"")).result
}

fn state(sim: &mut Sim) -> Option<FlowState> {
    let original = sim.tables.flow(&tuple())?.get();
    let reply = sim.tables.flow(&original.partner(proto::TCP))?.get();
    Some(FlowState::of(proto::TCP, original.seen, reply.seen))
}

/// A connection after its handshake.
fn connected() -> Sim {
    let mut sim = network(64);
    client(&mut sim, SYN, 100, 0).unwrap();
    server(&mut sim, SYN | ACK, 900, 101).unwrap();
    client(&mut sim, ACK, 101, 901).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::Established));
    sim
}

fn datagram(sim: &mut Sim, n: u8, sport: u16) -> Result<Verdict, DropReason> {
    sim.from_namespace(n, &packet::udp(outward(n, PEER), sport, 53, b"")).result
}

fn flows(sim: &Sim) -> u64 {
    let count = sim.tables.flow_count(EndpointId::NONE);
    assert_eq!(sim.tables.flows.len() as u64, 2 * count, "entries go in pairs");
    count
}

/// Requirements: nat-7, 5382-2, 5382-5, nat-5.
#[test]
fn a_connection_goes_through_its_states() {
    let mut sim = network(64);
    client(&mut sim, SYN, 100, 0).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::SynSent));
    server(&mut sim, SYN | ACK, 900, 101).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::SynReceived));
    client(&mut sim, ACK, 101, 901).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::Established));
    client(&mut sim, FIN | ACK, 101, 901).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::FinWait));
    // Half closed: the server goes on sending for as long as it likes.
    for _ in 0..10 {
        sim.wait(200);
        sim.sweep();
        server(&mut sim, ACK, 901, 102).unwrap();
    }
    assert_eq!(state(&mut sim), Some(FlowState::FinWait));
    server(&mut sim, FIN | ACK, 901, 102).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::TimeWait));
    client(&mut sim, ACK, 102, 902).unwrap();
    sim.wait(239);
    sim.sweep();
    assert_eq!(state(&mut sim), Some(FlowState::TimeWait));
    sim.wait(20);
    sim.sweep();
    assert_eq!(flows(&sim), 0);
}

/// Requirements: 5382-2.
#[test]
fn simultaneous_open_becomes_established() {
    let mut sim = network(64);
    client(&mut sim, SYN, 100, 0).unwrap();
    server(&mut sim, SYN, 900, 0).unwrap();
    client(&mut sim, SYN | ACK, 100, 901).unwrap();
    server(&mut sim, SYN | ACK, 900, 101).unwrap();
    client(&mut sim, ACK, 101, 901).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::Established));
}

/// Requirements: 5382-5, nat-7.
#[test]
fn an_idle_connection_lives_for_two_hours_and_four_minutes() {
    let mut sim = connected();
    sim.wait(7439);
    sim.sweep();
    assert_eq!(state(&mut sim), Some(FlowState::Established));
    server(&mut sim, ACK, 901, 101).unwrap();
    sim.wait(7439);
    sim.sweep();
    client(&mut sim, ACK, 101, 901).unwrap();
    assert_eq!(flows(&sim), 1);
    sim.wait(7470);
    sim.sweep();
    assert_eq!(flows(&sim), 0);
}

/// Requirements: nat-7.
#[test]
fn a_reset_counts_only_inside_the_window() {
    for far in [900_u32.wrapping_sub(10), 901 + (1 << 20), 901 + (1 << 31)] {
        let mut sim = connected();
        // The client has acknowledged up to 901.
        server(&mut sim, RST, far, 0).unwrap();
        assert_eq!(state(&mut sim), Some(FlowState::Established), "{far}");
    }
    for near in [901, 901 + 60_000] {
        let mut sim = connected();
        server(&mut sim, RST, near, 0).unwrap();
        assert_eq!(state(&mut sim), Some(FlowState::Closed), "{near}");
    }
    let mut sim = network(64);
    client(&mut sim, SYN, 100, 0).unwrap();
    server(&mut sim, RST | ACK, 0, 101).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::Closed), "a refused connection");
}

/// Requirements: 5382-5.
#[test]
fn a_forged_acknowledgement_establishes_nothing() {
    use netbpf_ebpf::sim::testbed::inward;
    let mut sim = network(64);
    let mut segment = Segment { sport: 5, dport: 8080, flags: SYN, seq: 1, ack: 0 };
    sim.from_outside(&packet::tcp(inward(PEER), segment, b"")).result.unwrap();
    let answer = Segment { sport: 80, dport: 5, flags: SYN | ACK, seq: 0x5eed_0000, ack: 2 };
    sim.from_namespace(1, &packet::tcp(outward(1, PEER), answer, b"")).result.unwrap();
    segment = Segment { flags: ACK, seq: 2, ack: 12345, ..segment };
    let forged = packet::tcp(inward(PEER), segment, b"");
    sim.from_outside(&forged).result.unwrap();
    sim.wait(260);
    sim.sweep();
    assert_eq!(flows(&sim), 0);
}

#[test]
fn a_fin_from_outside_counts_only_inside_the_window() {
    let mut sim = connected();
    server(&mut sim, FIN | ACK, 901 + (1 << 24), 101).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::Established));
    server(&mut sim, FIN | ACK, 901, 101).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::FinWait));
}

#[test]
fn a_side_that_goes_on_has_not_reset() {
    let mut sim = connected();
    server(&mut sim, RST, 901 + 5000, 0).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::Closed));
    server(&mut sim, ACK, 901, 101).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::Established));
}

#[test]
fn a_namespace_ends_its_own_flows_as_it_likes() {
    let mut sim = connected();
    client(&mut sim, RST, 101 + (1 << 24), 0).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::Closed));
}

#[test]
fn room_is_made_in_the_own_share_only() {
    let mut sim = network(64);
    sim.tables.endpoints.get_mut(&endpoint_id(2)).unwrap().flow_limit = 2;
    client(&mut sim, SYN, 100, 0).unwrap();
    server(&mut sim, RST | ACK, 0, 101).unwrap();
    for sport in 1..=2 {
        datagram(&mut sim, 2, sport).unwrap();
    }
    assert_eq!(datagram(&mut sim, 2, 3), Err(DropReason::FlowLimit));
    assert_eq!(state(&mut sim), Some(FlowState::Closed), "somebody else's");
}

/// A namespace without a guard has spoken to itself as a client outside. What that has
/// left is over, and makes room for the client, whose flow has the very same tuple.
#[test]
fn who_is_spoken_for_gets_the_room_of_who_did() {
    let mut sim = network(64);
    let mut shadow = Shadow::new(sim.env.now);
    let endpoint = sim.tables.endpoints.get_mut(&endpoint_id(1)).unwrap();
    (endpoint.guard, endpoint.flow_limit) = (SourceGuard::Off as u8, 1);
    let mut comes = |sim: &mut Sim, program, ifindex, bytes| {
        let frame = Frame { bytes, ifindex, ..Frame::default() };
        let outcome = sim.run(program, ifindex, &frame.bytes);
        shadow.see(sim, program, &frame, outcome);
        shadow.wait(Ticks::from_secs(30));
        sim.wait(30);
        outcome.result
    };
    let as_client = Addresses { from: (namespace(1).0, PEER), ..outward(1, HOST.1) };
    let lie = packet::udp(as_client, 2000, 9000, b"");
    let back = comes(&mut sim, Program::FromEndpoint, port(1), lie);
    assert!(matches!(back, Ok(Verdict::Neighbour { ifindex: 1, .. })), "{back:?}");
    let question = packet::udp(inward(PEER), 2000, 9000, b"");
    let into = comes(&mut sim, Program::FromUplink, UPLINK, question);
    assert_eq!(into, Ok(Verdict::Peer { ifindex: port(1) }));
    assert_eq!(sim.tables.flow_count(endpoint_id(1)), 1);
}

#[test]
fn the_last_eighth_is_for_those_that_have_little() {
    let mut sim = network(64);
    for sport in 2000..2056 {
        datagram(&mut sim, 1, sport).unwrap();
    }
    assert_eq!(datagram(&mut sim, 1, 3000), Err(DropReason::FlowLimit));
    for sport in 2000..2008 {
        datagram(&mut sim, 2, sport).unwrap();
    }
    assert_eq!(datagram(&mut sim, 2, 3000), Err(DropReason::FlowTableFull));
}

/// Requirements: 7857-2, nat-7.
#[test]
fn a_reset_flow_stays_for_the_transitory_time() {
    let mut sim = connected();
    client(&mut sim, RST, 101, 0).unwrap();
    sim.wait(239);
    sim.sweep();
    assert_eq!(state(&mut sim), Some(FlowState::Closed));
    sim.wait(20);
    sim.sweep();
    assert_eq!(flows(&sim), 0);
}

#[test]
fn the_same_ports_open_a_new_connection_over_a_finished_one() {
    let mut sim = connected();
    client(&mut sim, FIN | ACK, 101, 901).unwrap();
    server(&mut sim, FIN | ACK, 901, 102).unwrap();
    client(&mut sim, SYN, 70_000, 0).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::SynSent));
    server(&mut sim, SYN | ACK, 80_000, 70_001).unwrap();
    client(&mut sim, ACK, 70_001, 80_001).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::Established));
    // The same where the other side died without finishing.
    let mut sim = connected();
    client(&mut sim, FIN | ACK, 101, 901).unwrap();
    client(&mut sim, SYN, 70_000, 0).unwrap();
    server(&mut sim, SYN | ACK, 80_000, 70_001).unwrap();
    client(&mut sim, ACK, 70_001, 80_001).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::Established));
    // But a SYN does nothing to a connection that lives.
    let mut sim = connected();
    server(&mut sim, SYN, 5, 0).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::Established));
}

#[test]
fn a_connection_that_was_there_before_us_is_taken_up() {
    let mut sim = network(64);
    client(&mut sim, ACK, 101, 901).unwrap();
    server(&mut sim, ACK, 901, 101).unwrap();
    assert_eq!(state(&mut sim), Some(FlowState::Established));
}

/// Requirements: 4787-5, 4787-6, nat-7.
#[test]
fn datagrams_live_by_whether_they_were_answered() {
    let mut sim = network(64);
    datagram(&mut sim, 1, 5000).unwrap();
    sim.wait(29);
    sim.sweep();
    assert_eq!(flows(&sim), 1);
    sim.wait(3);
    sim.sweep();
    assert_eq!(flows(&sim), 0);

    datagram(&mut sim, 1, 5000).unwrap();
    let answer = packet::udp(inward(PEER), 53, 5000, b"");
    sim.from_outside(&answer).result.unwrap();
    sim.wait(119);
    sim.sweep();
    assert_eq!(flows(&sim), 1);
    // Answers alone do not keep it (RFC 4787 REQ-6).
    sim.from_outside(&answer).result.unwrap();
    sim.wait(17);
    sim.sweep();
    assert_eq!(flows(&sim), 0);
}

/// Requirements: 5508-2, nat-7.
#[test]
fn echoes_live_for_a_minute() {
    let mut sim = network(64);
    sim.from_namespace(1, &packet::echo(outward(1, PEER), true, 7, b"")).result.unwrap();
    sim.wait(59);
    sim.sweep();
    assert_eq!(flows(&sim), 1);
    sim.wait(17);
    sim.sweep();
    assert_eq!(flows(&sim), 0);
}

/// Requirements: nat-15.
#[test]
fn late_segments_of_a_flow_that_is_gone_do_not_leave() {
    let mut sim = connected();
    assert!(flow::remove(&mut sim, &tuple()));
    assert_eq!(client(&mut sim, FIN | ACK, 101, 901), Err(DropReason::NoFlow));
    assert_eq!(client(&mut sim, RST, 101, 0), Err(DropReason::NoFlow));
    assert_eq!(flows(&sim), 0);
}

/// Requirements: nat-1.
#[test]
fn a_flow_is_removed_once_and_with_both_halves() {
    let mut sim = connected();
    let reply = sim.tables.flow(&tuple()).unwrap().get().partner(proto::TCP);
    assert_eq!(reply.daddr, HOST.1);
    assert!(!flow::remove(&mut sim, &reply), "by its opening direction only");
    assert_eq!(flows(&sim), 1);
    assert!(flow::remove(&mut sim, &tuple()));
    assert!(!flow::remove(&mut sim, &tuple()));
    assert_eq!(flows(&sim), 0);
    assert_eq!(sim.tables.flow_count(endpoint_id(1)), 0);
    // Its reminder is thrown away, a new flow of the same tuple has its own.
    sim.env.now = Ticks(sim.env.now.0 + 1);
    client(&mut sim, SYN, 100, 0).unwrap();
    assert_eq!(sim.tables.queue.len(), 2);
    sim.sweep();
    assert_eq!(sim.tables.queue.len(), 1);
    assert_eq!(flows(&sim), 1);
}

/// Requirements: nat-1.
#[test]
fn reminders_of_flows_that_were_ended_make_way() {
    let mut sim = network(128);
    for sport in 2000..2060 {
        datagram(&mut sim, 1, sport).unwrap();
    }
    sim.sweep();
    let keys: Vec<Tuple> = sim.tables.flows.keys().copied().collect();
    assert_eq!(keys.iter().filter(|key| flow::remove(&mut sim, key)).count(), 60);
    datagram(&mut sim, 1, 3000).unwrap();
    // The sweeper has no reason to look at them yet.
    sim.sweep();
    assert_eq!(sim.tables.queue.len(), 61);
    sim.visit_all(Look::All);
    assert_eq!((sim.tables.queue.len(), flows(&sim)), (1, 1));
}

/// Requirements: nat-2.
#[test]
fn one_endpoint_cannot_take_the_others_share() {
    let mut sim = network(64);
    for n in 1..=2 {
        sim.tables.endpoints.get_mut(&endpoint_id(n)).unwrap().flow_limit = 10;
    }
    for sport in 2000..2010 {
        datagram(&mut sim, 1, sport).unwrap();
    }
    for sport in 2010..2020 {
        assert_eq!(datagram(&mut sim, 1, sport), Err(DropReason::FlowLimit));
    }
    assert_eq!(sim.tables.counters(endpoint_id(1)).dropped(DropReason::FlowLimit), 10);
    datagram(&mut sim, 2, 2000).unwrap();
    datagram(&mut sim, 1, 2000).unwrap();
    assert_eq!(flows(&sim), 11);
}

/// Requirements: nat-1, nat-2.
#[test]
fn a_full_table_refuses_the_new_and_keeps_the_living() {
    let mut sim = network(7);
    for sport in 2000..2007 {
        datagram(&mut sim, 1, sport).unwrap();
    }
    for sport in 2008..2020 {
        assert_eq!(datagram(&mut sim, 2, sport), Err(DropReason::FlowTableFull));
    }
    assert_eq!(flows(&sim), 7);
    assert_eq!(sim.tables.queue.len(), 7);
    for sport in 2000..2007 {
        datagram(&mut sim, 1, sport).unwrap();
    }
    // It recovers by itself, without the sweeper.
    sim.wait(31);
    datagram(&mut sim, 2, 2008).unwrap();
    assert_eq!(flows(&sim), 7);
}

#[test]
fn a_full_table_lets_go_of_closed_connections_early() {
    let mut sim = network(2);
    client(&mut sim, SYN, 100, 0).unwrap();
    server(&mut sim, RST | ACK, 0, 101).unwrap();
    datagram(&mut sim, 2, 1).unwrap();
    datagram(&mut sim, 2, 2).unwrap();
    assert_eq!(state(&mut sim), None);
    assert_eq!(datagram(&mut sim, 2, 3), Err(DropReason::FlowTableFull));
}

/// When room is made, all is decided again, by the way of what is rare: a train is no
/// longer there than elsewhere.
#[test]
fn a_train_fits_as_well_when_room_has_been_made_for_it() {
    let mut sim = network(1);
    let train = Frame {
        bytes: packet::echo(outward(1, PEER), true, 7, &[0; 3000]),
        ifindex: port(1),
        gso_size: 1400,
        ..Frame::default()
    };
    client(&mut sim, SYN, 100, 0).unwrap();
    server(&mut sim, RST | ACK, 0, 101).unwrap();
    sim.skb = train;
    let result = sim.decide(Program::FromEndpoint).result;
    assert!(matches!(result, Ok(Verdict::Uplink { .. })), "{result:?}");
    assert_eq!(flows(&sim), 1);
}

/// Requirements: nat-3, nat-1.
#[test]
fn a_table_without_room_for_the_second_half_undoes_the_first() {
    let mut sim = network(64);
    for (entries, queue) in [(0, 64), (1, 64), (128, 0)] {
        sim.tables.flow_entries = entries;
        sim.tables.queue_len = queue;
        assert_eq!(datagram(&mut sim, 1, 5000), Err(DropReason::FlowTableFull));
        assert_eq!(flows(&sim), 0);
    }
}

#[test]
fn a_run_of_taken_ports_does_not_exhaust_them() {
    // Clients choose their ports in runs, and two of them the same one.
    let mut sim = network(100_000);
    for sport in 20_000..23_000 {
        datagram(&mut sim, 1, sport).unwrap();
    }
    for sport in 20_000..23_000 {
        datagram(&mut sim, 2, sport).unwrap();
    }
}

#[test]
fn nearly_all_ports_are_given_before_anybody_is_refused() {
    let mut sim = network(100_000);
    // Nine in ten of the ports there are, for one destination.
    for sport in 20_000..40_000 {
        for n in 1..=3 {
            datagram(&mut sim, n, sport).unwrap();
        }
    }
}

/// Requirements: 4787-3, 7857-5.
#[test]
fn exhausted_ports_are_a_reason_and_pass() {
    let mut sim = network(100_000);
    // One destination, all from one port of different namespaces' addresses:
    // everybody but the first needs another port, until none is left.
    let everybody = (1024..23_100).flat_map(|sport| [(1, sport), (2, sport), (3, sport)]);
    for (n, sport) in everybody {
        match datagram(&mut sim, n, sport) {
            Ok(_) => {}
            Err(reason) => assert_eq!(reason, DropReason::PortsExhausted),
        }
    }
    let given = flows(&sim);
    assert!(given <= 65_536 - 1024 - 11, "{given}");
    assert!(given > 64_000, "{given}");
    sim.wait(31);
    sim.sweep();
    assert_eq!(flows(&sim), 0);
    datagram(&mut sim, 2, 1024).unwrap();
}
