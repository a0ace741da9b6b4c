//! A table that is held, while flows move into it from another one.

use netbpf_common::{DropReason, EndpointId};
use netbpf_ebpf::{
    Verdict,
    seam::Tables as _,
    sim::{
        Sim,
        packet::{
            self, Segment,
            tcp_flag::{ACK, SYN},
        },
        testbed::{PEER, inward, network, outward},
    },
};

const CLIENT: u16 = 40000;
const SERVER: u16 = 443;
const PUBLISHED: u16 = 8080;

type Outcome = Result<Verdict, DropReason>;

fn sent(sim: &mut Sim, ns: u8, sport: u16, flags: u8) -> Outcome {
    let segment = Segment { sport, dport: SERVER, flags, seq: 101, ack: 901 };
    sim.from_namespace(ns, &packet::tcp(outward(ns, PEER), segment, b"")).result
}

fn received(sim: &mut Sim, (sport, dport): (u16, u16), flags: u8) -> Outcome {
    let segment = Segment { sport, dport, flags, seq: 901, ack: 101 };
    sim.from_outside(&packet::tcp(inward(PEER), segment, b"")).result
}

/// A network with a connection to the outside, whose table is held from here on.
fn held() -> Sim {
    let mut sim = network(64);
    sent(&mut sim, 1, CLIENT, SYN).unwrap();
    received(&mut sim, (SERVER, CLIENT), SYN | ACK).unwrap();
    sim.tables.config.max_flows = 0;
    sim
}

fn let_go(sim: &mut Sim) {
    sim.tables.config.max_flows = 64;
}

#[test]
fn flows_that_are_in_it_go_on() {
    let mut sim = held();
    assert!(matches!(sent(&mut sim, 1, CLIENT, ACK), Ok(Verdict::Uplink { .. })));
    assert!(matches!(received(&mut sim, (SERVER, CLIENT), ACK), Ok(Verdict::Peer { .. })));
}

#[test]
fn none_is_made_and_none_goes_to_make_room() {
    let mut sim = held();
    assert_eq!(sent(&mut sim, 2, CLIENT, SYN), Err(DropReason::FlowsMove));
    assert_eq!(received(&mut sim, (5000, PUBLISHED), SYN), Err(DropReason::FlowsMove));
    assert_eq!(sim.tables.flow_count(EndpointId::NONE), 1);
    let_go(&mut sim);
    sent(&mut sim, 2, CLIENT, SYN).unwrap();
    received(&mut sim, (5000, PUBLISHED), SYN).unwrap();
}

/// To the host it would be for nobody, and it would say so to the peer.
#[test]
fn what_comes_for_somebodys_port_does_not_go_to_the_host() {
    let mut sim = held();
    let others = (SERVER + 1, CLIENT);
    assert_eq!(received(&mut sim, others, ACK), Err(DropReason::FlowsMove));
    assert_eq!(received(&mut sim, (SERVER, 22), SYN), Ok(Verdict::Pass), "it is the host's");
    let_go(&mut sim);
    assert_eq!(received(&mut sim, others, ACK), Ok(Verdict::Pass));
}
