//! Protocols other than TCP, UDP and ICMP queries: translated by address.

use netbpf_common::{DropReason, Ipv4};
use netbpf_ebpf::{
    Outcome, Verdict,
    sim::{
        Sim,
        packet::{self, Addresses, has_right_checksums},
        testbed::{HOST, PEER, endpoint_id, inward, namespace, network, outward, port},
    },
};

const GRE: u8 = 47;
const OTHER_PEER: Ipv4 = Ipv4::new([198, 51, 100, 10]);

fn into(n: u8) -> Outcome {
    Outcome { endpoint: endpoint_id(n), result: Ok(Verdict::Peer { ifindex: port(n) }) }
}

fn frames(addresses: Addresses, sport: u16, dport: u16) -> [Vec<u8>; 3] {
    [
        packet::sctp(addresses, sport, dport, b"chunk"),
        packet::udp_lite(addresses, sport, dport, b"lite!"),
        packet::ipv4(addresses, GRE, b"tunnel"),
    ]
}

/// What leaves has changed its addresses and nothing else behind the header but a
/// checksum over them.
fn goes_out(sim: &mut Sim, n: u8, frame: &[u8]) {
    let outcome = sim.from_namespace(n, frame);
    assert!(matches!(outcome.result, Ok(Verdict::Neighbour { .. } | Verdict::Uplink { .. })));
    let got = &sim.skb.bytes;
    assert!(has_right_checksums(got));
    assert_eq!(got[26..30], HOST.1.octets());
    assert_eq!(got[34..38], frame[34..38], "ports stay");
    assert_eq!(got[42.min(got.len())..], frame[42.min(frame.len())..]);
}

#[test]
fn other_protocols_go_out_and_come_back() {
    let mut sim = network(64);
    let answers = frames(inward(PEER), 36412, 5000);
    for (sent, answer) in frames(outward(1, PEER), 5000, 36412).iter().zip(answers) {
        goes_out(&mut sim, 1, sent);
        assert_eq!(sim.from_outside(&answer), into(1));
        assert!(has_right_checksums(&sim.skb.bytes));
        assert_eq!(sim.skb.bytes[26..30], PEER.octets());
        assert_eq!(sim.skb.bytes[30..34], namespace(1).1.octets());
    }
}

/// The ports cannot be changed, or there are none: who is second has to wait.
#[test]
fn a_second_namespace_with_the_same_tuple_is_dropped_as_protocol() {
    let mut sim = network(64);
    let [first, second] = [1, 2].map(|n| frames(outward(n, PEER), 5000, 36412));
    for (first, second) in first.iter().zip(&second) {
        goes_out(&mut sim, 1, first);
        let refused = Outcome { endpoint: endpoint_id(2), result: Err(DropReason::Protocol) };
        assert_eq!(sim.from_namespace(2, second), refused);
    }
    assert_eq!(sim.tables.counters(endpoint_id(2)).dropped(DropReason::Protocol), 3);
    // With other ports, or to somebody else, there is no clash.
    goes_out(&mut sim, 2, &packet::sctp(outward(2, PEER), 5001, 36412, b""));
    goes_out(&mut sim, 2, &packet::ipv4(outward(2, OTHER_PEER), GRE, b"tunnel"));
    sim.wait(601);
    sim.sweep();
    goes_out(&mut sim, 2, &second[2]);
}

#[test]
fn unasked_they_are_the_hosts() {
    let mut sim = network(64);
    for frame in frames(inward(PEER), 36412, 5000) {
        assert_eq!(sim.from_outside(&frame).result, Ok(Verdict::Pass));
        assert_eq!(sim.skb.bytes, frame);
    }
    let direct = Addresses { to: (HOST.0, namespace(1).1), ..inward(PEER) };
    for frame in frames(direct, 36412, 5000) {
        assert_eq!(sim.from_outside(&frame).result, Err(DropReason::NotPublished));
    }
}
