//! Random histories against a naive NAT.
//!
//! The model is what one would write in an evening: a list of sessions, walked
//! from end to end, without packets, checksums, tables or queues. What the
//! datapath does must be what it does, but for the choice of a port.

use netbpf_common::DropReason;
use netbpf_ebpf::{
    Verdict,
    sim::{
        Sim, packet,
        testbed::{PEER, inward, namespace, network, outward, port},
    },
};
use proptest::{collection::vec, prelude::*};

/// Flows that the table holds.
const MAX_FLOWS: usize = 12;
/// Flows that an endpoint may have.
const LIMIT: usize = 6;
const PUBLISHED: u16 = 9000;
const TARGET: u16 = 7000;

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    /// The n-th namespace sends a datagram to a port of the peer's.
    Out { n: u8, sport: u16, dport: u16 },
    /// The peer sends one to the host: an index of the sessions, or a wild port.
    In { session: usize, wild: Option<(u16, u16)> },
    /// The peer sends one to the published port.
    Ask { sport: u16 },
    /// Time goes by and every flow is visited.
    Wait { seconds: u32 },
}

fn event() -> impl Strategy<Value = Event> {
    let (sport, dport) = (2000_u16..2004, 53_u16..55);
    prop_oneof![
        5 => (1_u8..=3, sport, dport).prop_map(|(n, sport, dport)| Event::Out { n, sport, dport }),
        3 => (0_usize..8, proptest::option::weighted(0.2, (50_u16..60, 1990_u16..2010)))
            .prop_map(|(session, wild)| Event::In { session, wild }),
        2 => (100_u16..104).prop_map(|sport| Event::Ask { sport }),
        3 => (1_u32..60).prop_map(|seconds| Event::Wait { seconds }),
    ]
}

/// A session of the model.
#[derive(Clone, Debug)]
struct Session {
    n: u8,
    is_published: bool,
    inside: u16,
    outside: u16,
    peer: u16,
    replied: bool,
    idle: u32,
}

#[derive(Default)]
struct Naive(Vec<Session>);

impl Naive {
    fn room_for(&self, n: u8) -> Result<(), DropReason> {
        if self.0.iter().filter(|s| s.n == n).count() >= LIMIT {
            Err(DropReason::FlowLimit)
        } else if self.0.len() >= MAX_FLOWS {
            Err(DropReason::FlowTableFull)
        } else if self.0.len() >= MAX_FLOWS - MAX_FLOWS / 8
            && self.0.iter().filter(|s| s.n == n).count() >= MAX_FLOWS / 8
        {
            // The last eighth is for those that have less than one.
            Err(DropReason::FlowLimit)
        } else {
            Ok(())
        }
    }

    /// Whether somebody else than a namespace's port has an outside port.
    fn is_taken(&self, n: u8, inside: u16, outside: u16) -> bool {
        let is_its = |s: &&Session| !s.is_published && (s.n, s.inside) == (n, inside);
        self.0.iter().any(|s| s.outside == outside && !is_its(&s))
    }

    /// The outside port that a namespace's port has to get: one for all that it
    /// talks to, and its own number where that is free.
    fn mapping(&self, n: u8, inside: u16) -> Option<u16> {
        let is_its = |s: &&Session| !s.is_published && (s.n, s.inside) == (n, inside);
        let known = self.0.iter().find(is_its).map(|session| session.outside);
        known.or_else(|| (!self.is_taken(n, inside, inside)).then_some(inside))
    }

    /// Sessions go when they have been idle: published ones count all packets,
    /// the others only the namespace's.
    fn wait(&mut self, seconds: u32) {
        for session in &mut self.0 {
            session.idle += seconds;
        }
        self.0.retain(|s| s.idle < if s.replied { 120 } else { 30 });
    }
}

fn ports(sim: &Sim) -> (u16, u16) {
    let at = |at: usize| u16::from_be_bytes(sim.skb.bytes[at..at + 2].try_into().unwrap());
    (at(34), at(36))
}

/// One event, to both; any difference is an error.
fn step(sim: &mut Sim, model: &mut Naive, event: &Event) -> Result<(), TestCaseError> {
    match *event {
        Event::Out { n, sport, dport } => {
            let frame = packet::udp(outward(n, PEER), sport, dport, b"x");
            let result = sim.from_namespace(n, &frame).result;
            let known = model.0.iter_mut().find(|s| {
                let is_answer = s.is_published && s.inside == sport && s.peer == dport;
                s.n == n && (is_answer || !s.is_published && (s.inside, s.peer) == (sport, dport))
            });
            if let Some(session) = known {
                prop_assert!(result.is_ok());
                prop_assert_eq!(ports(sim), (session.outside, session.peer));
                session.idle = 0;
                session.replied |= session.is_published;
                return Ok(());
            }
            if let Err(reason) = model.room_for(n) {
                prop_assert_eq!(result, Err(reason));
                return Ok(());
            }
            prop_assert!(result.is_ok(), "{:?}", result);
            let (outside, _) = ports(sim);
            let wanted = model.mapping(n, sport);
            prop_assert!(wanted.is_none_or(|port| port == outside), "{:?} is {}", wanted, outside);
            prop_assert!(!model.is_taken(n, sport, outside), "port {} is taken", outside);
            let session = Session {
                n,
                is_published: false,
                inside: sport,
                outside,
                peer: dport,
                replied: false,
                idle: 0,
            };
            model.0.push(session);
        }
        Event::In { session, wild } => {
            let (peer, outside) = match (wild, model.0.get(session)) {
                (Some(ports), _) => ports,
                (None, Some(session)) => (session.peer, session.outside),
                (None, None) => return Ok(()),
            };
            let result = sim.from_outside(&packet::udp(inward(PEER), peer, outside, b"x")).result;
            let known = model.0.iter_mut().find(|s| (s.peer, s.outside) == (peer, outside));
            let Some(session) = known else {
                prop_assert_eq!(result, Ok(Verdict::Pass));
                return Ok(());
            };
            prop_assert_eq!(result, Ok(Verdict::Peer { ifindex: port(session.n) }));
            prop_assert_eq!(ports(sim), (peer, session.inside));
            prop_assert_eq!(&sim.skb.bytes[30..34], &namespace(session.n).1.octets());
            if session.is_published {
                session.idle = 0;
            } else {
                session.replied = true;
            }
        }
        Event::Ask { sport } => {
            let result =
                sim.from_outside(&packet::udp(inward(PEER), sport, PUBLISHED, b"x")).result;
            let known = model.0.iter_mut().find(|s| s.is_published && s.peer == sport);
            if let Some(session) = known {
                session.idle = 0;
            } else if let Err(reason) = model.room_for(1) {
                prop_assert_eq!(result, Err(reason));
                return Ok(());
            } else {
                let session = Session {
                    n: 1,
                    is_published: true,
                    inside: TARGET,
                    outside: PUBLISHED,
                    peer: sport,
                    replied: false,
                    idle: 0,
                };
                model.0.push(session);
            }
            prop_assert_eq!(result, Ok(Verdict::Peer { ifindex: port(1) }));
            prop_assert_eq!(ports(sim), (sport, TARGET));
        }
        Event::Wait { seconds } => {
            // A visit may come as late as the longest span between two of them:
            // let all that are due be looked at.
            sim.wait(seconds);
            model.wait(seconds);
            let now = sim.env.now;
            for _ in 0..sim.tables.queue.len() {
                let visit = sim.tables.queue.pop_front().expect("counted");
                sim.tables.queue.push_back(netbpf_common::FlowVisit { due: now, ..visit });
                let last = sim.tables.queue.pop_back().expect("just pushed");
                sim.tables.queue.push_front(last);
                netbpf_ebpf::expire::visit(sim, now, None);
            }
        }
    }
    prop_assert_eq!(sim.tables.flows.len(), 2 * model.0.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    /// Requirements: nat-1, nat-7.
    #[test]
    fn the_datapath_does_what_a_naive_nat_does(events in vec(event(), 1..80)) {
        let mut sim = network(u32::try_from(MAX_FLOWS).unwrap());
        for endpoint in sim.tables.endpoints.values_mut() {
            endpoint.flow_limit = u32::try_from(LIMIT).unwrap();
        }
        let mut model = Naive::default();
        for event in &events {
            step(&mut sim, &mut model, event)?;
        }
    }
}
