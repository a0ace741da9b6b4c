//! What holds for any frame and after any event.
//!
//! [`run`] gives a frame to a program and looks at all that it did.

mod frame;

use std::collections::{HashMap, HashSet};

use netbpf_common::{
    Counter, Counters, DropReason, EndpointId, Flow, FlowKind, FlowState, MacAddr, PublishEntry,
    Tuple,
};

use super::{Frame, Sim};
use crate::{Outcome, Verdict, seam::Tables as _};

/// The entry points of the datapath.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// [`crate::from_endpoint`].
    FromEndpoint,
    /// [`crate::from_uplink`].
    FromUplink,
    /// [`crate::to_uplink`].
    ToUplink,
}

/// The flow table's entries, copied.
type Flows = HashMap<Tuple, Flow>;

/// The tables before a packet.
struct Before {
    stats: HashMap<EndpointId, Counters>,
    flows: Flows,
}

/// Gives a frame to a program. It is left in `sim.skb` as it goes on.
///
/// # Panics
/// If something does not hold that always has to.
pub fn run(sim: &mut Sim, program: Program, sent: &Frame) -> Outcome {
    let before = Before { stats: sim.tables.stats.clone(), flows: flows(sim) };
    sim.skb = sent.clone();
    let outcome = sim.decide(program);
    assert_ne!(outcome.result, Err(DropReason::Rewrite), "no store fails here");
    let counter = check_counters(sim, &before, program, outcome);
    let is_translated = matches!(counter, Some(Counter::Snat | Counter::Dnat));
    match outcome.result {
        Ok(verdict) if is_translated => {
            frame::check_translation(sim, &before.flows, program, sent, verdict);
            let flow = sim.tables.flows[&frame::tuple(&sent.bytes)].borrow();
            assert_eq!(flow.endpoint, outcome.endpoint, "somebody else's flow");
        }
        _ => assert_eq!(sim.skb, *sent, "changed, though not translated: {outcome:?}"),
    }
    match (program, outcome.result) {
        (Program::FromEndpoint, Ok(verdict)) => {
            frame::check_guard(sim, outcome.endpoint, sent);
            frame::check_bridging(sim, outcome.endpoint, verdict, is_translated);
        }
        (Program::FromUplink, Ok(Verdict::Pass)) => {
            frame::check_passed_in(sim, &before.flows, sent);
        }
        (Program::ToUplink, Ok(verdict)) => {
            assert_eq!(verdict, Verdict::Pass);
            assert!(!frame::is_private_source(sim, &sent.bytes), "a private source leaves");
        }
        _ => {}
    }
    let after = flows(sim);
    let own = is_translated.then(|| frame::tuple(&sent.bytes));
    check_other_flows(sim, &before.flows, &after, program, own);
    check_flows(sim, &after);
    outcome
}

/// Counted once, in the row that fits the outcome, and nowhere else. Returns
/// how it was counted if it was not dropped.
fn check_counters(
    sim: &Sim,
    before: &Before,
    program: Program,
    outcome: Outcome,
) -> Option<Counter> {
    let after = sim.tables.counters(outcome.endpoint);
    let mut expected = before.stats.get(&outcome.endpoint).copied().unwrap_or_default();
    let counter = match outcome.result {
        Err(reason) => {
            expected.0[Counters::drop_row(reason)] += 1;
            None
        }
        // What the host sends of its own is nobody's to count.
        Ok(_) if program == Program::ToUplink => Some(Counter::Passed),
        Ok(verdict) => {
            let counted = |counter: &Counter| after.of(*counter).0 != expected.of(*counter).0;
            let counter = Counter::ALL.into_iter().find(counted).expect("no packet was counted");
            let row = Counters::packets_row(counter);
            expected.0[row] += 1;
            expected.0[row + 1] += sim.skb.bytes.len().saturating_sub(14) as u64;
            match (counter, verdict) {
                (Counter::Passed, Verdict::Pass) | (Counter::Forwarded, Verdict::Peer { .. }) => {}
                (Counter::Snat | Counter::Dnat, verdict) if verdict != Verdict::Pass => {}
                _ => panic!("{verdict:?} is counted as {counter:?}"),
            }
            Some(counter)
        }
    };
    assert_eq!(after, expected, "counted wrongly: {outcome:?}");
    for (id, counters) in &sim.tables.stats {
        let is_as_before = *counters == before.stats.get(id).copied().unwrap_or_default();
        assert!(*id == outcome.endpoint || is_as_before, "counted for {id:?} too: {outcome:?}");
    }
    counter
}

/// A packet makes and changes no flow but its own, and makes one of ports that
/// nobody has. It ends at most one, which is over, or has the tuple of a packet
/// of the host's.
fn check_other_flows(
    sim: &Sim,
    before: &Flows,
    after: &Flows,
    program: Program,
    own: Option<Tuple>,
) {
    let partner = own.map(|own| after[&own].partner(own.proto));
    let is_own = |key: &Tuple| own == Some(*key) || partner == Some(*key);
    for (key, flow) in after {
        let old = before.get(key);
        assert!(is_own(key) || old == Some(flow), "{key:?} is another's");
        if old.is_none() && flow.kind == FlowKind::SNAT_REPLY {
            let (ip_proto, port) = (key.proto, key.dport.number());
            let holds =
                |e: &PublishEntry| e.proto() == ip_proto && (e.first()..=e.last).contains(&port);
            assert!(!sim.tables.published.iter().any(holds), "{port} is published");
            assert!(!sim.env.sockets.contains(&(ip_proto, port)), "{port} is the host's");
        }
    }
    let ended = || originals(before).filter(|(key, _)| !after.contains_key(key));
    assert!(ended().count() <= 1);
    for (key, flow) in ended() {
        let reply = &before[&flow.partner(key.proto)];
        let state = FlowState::of(key.proto, flow.seen, reply.seen);
        let is_over = matches!(state, FlowState::TimeWait | FlowState::Closed)
            || is_expired(sim, before, key, flow);
        let is_hosts = program == Program::ToUplink
            && flow.kind == FlowKind::SNAT_ORIGINAL
            && flow.translated.tuple(key.proto) == frame::tuple(&sim.skb.bytes);
        assert!(is_over || is_hosts, "{key:?} was {state:?}");
    }
}

/// Visits every flow and sees that exactly those end that have expired.
///
/// # Panics
/// If others do, or if tables do not fit each other.
pub fn sweep(sim: &mut Sim) {
    let before = flows(sim);
    sim.sweep();
    let after = flows(sim);
    for (key, flow) in originals(&before) {
        assert_ne!(after.contains_key(key), is_expired(sim, &before, key, flow), "{key:?}");
    }
    check_flows(sim, &after);
}

/// That the tables fit each other.
///
/// # Panics
/// If they do not.
pub fn check_tables(sim: &Sim) {
    check_flows(sim, &flows(sim));
}

fn check_flows(sim: &Sim, flows: &Flows) {
    let mut outside = HashSet::new();
    for (key, flow) in flows {
        let partner = flow.partner(key.proto);
        let back = flows.get(&partner).expect("half a flow");
        assert_eq!(back.partner(key.proto), *key);
        let kinds = back.kind.0 ^ flow.kind.0;
        assert_eq!(kinds, FlowKind::REPLY | FlowKind::TO_ENDPOINT, "both go the same way");
        assert_eq!((back.endpoint, back.created), (flow.endpoint, flow.created));
        let is_new = flow.kind.is_to_endpoint() || outside.insert(flow.translated.tuple(key.proto));
        assert!(is_new, "two flows look the same outside");
    }

    let mut counts: HashMap<EndpointId, u64> = HashMap::new();
    for (key, flow) in originals(flows) {
        *counts.entry(flow.endpoint).or_default() += 1;
        *counts.entry(EndpointId::NONE).or_default() += 1;
        let reminders = sim.tables.queue.iter();
        let live = reminders.filter(|v| v.tuple == *key && v.created == flow.created).count();
        assert_eq!(live, 1, "reminders of {key:?}");
    }
    for id in sim.tables.flow_counts.keys().chain(counts.keys()) {
        let count = counts.get(id).copied().unwrap_or(0);
        assert_eq!(sim.tables.flow_count(*id), count, "flows of {id:?}");
        let limit = match sim.tables.endpoints.get(id) {
            Some(endpoint) => endpoint.flow_limit,
            None => sim.tables.config.max_flows,
        };
        assert!(count <= u64::from(limit), "{id:?} has {count} flows");
    }
    for (mac, entry) in &sim.tables.learnt {
        assert!(!mac.is_multicast() && *mac != MacAddr::ZERO, "learnt {mac}");
        assert_ne!(entry.endpoint, EndpointId::NONE);
    }
}

/// The flow table's entries, as they are now.
fn flows(sim: &Sim) -> Flows {
    sim.tables.flows.iter().map(|(key, flow)| (*key, *flow.borrow())).collect()
}

fn originals(flows: &Flows) -> impl Iterator<Item = (&Tuple, &Flow)> {
    flows.iter().filter(|(_, flow)| !flow.kind.is_reply())
}

fn is_expired(sim: &Sim, flows: &Flows, key: &Tuple, flow: &Flow) -> bool {
    let reply = &flows[&flow.partner(key.proto)];
    flow.expires_in(key.proto, reply, sim.env.now, &sim.tables.config.timeouts).0 == 0
}
