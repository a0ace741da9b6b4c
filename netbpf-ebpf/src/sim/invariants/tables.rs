//! What holds for the tables.

use std::vec::Vec;

use netbpf_common::{
    EndpointId, Flow, FlowKind, FlowState, MacAddr, PortOwner, PublishEntry, Tally, Tuple,
};

use super::{Flows, Program, read::Reading, translation::without_route};
use crate::{
    seam::Tables as _,
    sim::{Frame, Map, Sim},
};

/// A packet makes and changes no flow but its own; one that is not translated
/// changes nothing but the way of its own, and makes none but if the stack is to
/// resolve the next hop first. A flow that is made has a port that nobody has. Those
/// that end are over, or lead elsewhere now.
pub(super) fn check_changes(
    sim: &Sim,
    before: &Flows,
    sent: (Program, &Frame),
    reading: Option<&Reading>,
    is_translated: bool,
) {
    let after = flows(sim);
    let own = reading.map(|reading| reading.key);
    let entry = own.and_then(|own| after.get(&own).or_else(|| before.get(&own)));
    let partner = own.zip(entry).map(|(own, entry)| entry.partner(own.proto));
    let is_own = |key: &Tuple| own == Some(*key) || partner == Some(*key);
    let may_change = is_translated && reading.is_some_and(|reading| !reading.is_error());
    for (key, flow) in &after {
        let old = before.get(key);
        let is_new = flow.tally == Tally::default() && flow.created == sim.env.now;
        let is_opened = sent.0 == Program::FromEndpoint && is_new;
        if is_own(key) && !may_change && !is_opened {
            assert_eq!(old.map(without_route), Some(without_route(flow)), "{key:?} is changed");
        } else {
            assert!(is_own(key) || old == Some(flow), "{key:?} is another's");
        }
        if old.is_none() && flow.kind.is_to_endpoint() && !flow.kind.is_dnat() {
            check_new_port(sim, key);
        }
    }
    let ended = || originals(before).filter(|(key, _)| !after.contains_key(key));
    let mut others = 0;
    for (key, flow) in ended() {
        let reply = &before[&flow.partner(key.proto)];
        let state = FlowState::of(key.proto, flow.seen, reply.seen);
        let is_over = matches!(state, FlowState::TimeWait | FlowState::Closed)
            || is_expired(sim, before, key, flow);
        let is_rerouted = own == Some(*key) || own == Some(flow.partner(key.proto));
        assert!(
            is_over || is_rerouted && is_moved(sim, sent, flow, reply),
            "{key:?} was {state:?}"
        );
        others += usize::from(!is_rerouted);
    }
    assert!(others <= 1, "more than room for one flow was wanted");
    check_flows(sim, &after);
}

/// Whether a flow may have ended because its way has changed: that is asked for
/// anew in each epoch, and the stack knows it.
fn is_moved(sim: &Sim, (program, sent): (Program, &Frame), flow: &Flow, reply: &Flow) -> bool {
    let epoch = Flow::epoch(sim.env.now);
    match program {
        Program::FromEndpoint => [flow, reply].iter().any(|flow| flow.route_epoch != epoch),
        Program::FromUplink => false,
        Program::ToUplink => flow.uplink != sent.ifindex && !flow.kind.is_dnat(),
    }
}

/// A port that a flow gets, if it can be any: nobody has it.
fn check_new_port(sim: &Sim, reply: &Tuple) {
    let (ip_proto, port) = (reply.proto, reply.dport.number());
    if PortOwner::index(ip_proto, port).is_none() {
        return;
    }
    let holds = |e: &PublishEntry| e.proto() == ip_proto && (e.first()..=e.last).contains(&port);
    assert!(!sim.tables.published.iter().any(holds), "{port} is published");
    assert!(!sim.env.sockets.contains(&(ip_proto, port)), "{port} is the host's");
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
    let mut outside: Vec<Tuple> = Vec::new();
    for (key, flow) in flows {
        let partner = flow.partner(key.proto);
        let back = flows.get(&partner).expect("half a flow");
        assert_eq!(back.partner(key.proto), *key);
        let kinds = back.kind.0 ^ flow.kind.0;
        assert_eq!(kinds, FlowKind::REPLY | FlowKind::TO_ENDPOINT, "both go the same way");
        assert_eq!((back.endpoint, back.created), (flow.endpoint, flow.created));
        // (The host's own sockets and what comes in again do not meet.)
        let from_host = u8::from(flow.kind.is_from_host());
        let looks = Tuple { from_host, ..flow.translated.tuple(key.proto) };
        if !flow.kind.is_to_endpoint() {
            assert!(!outside.contains(&looks), "two flows look the same outside");
            outside.push(looks);
        }
    }

    let mut counts: Map<EndpointId, u64> = Map::default();
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
            // A table that is held says so in its place.
            None if sim.tables.config.max_flows == 0 => u32::MAX,
            None => sim.tables.config.max_flows,
        };
        assert!(count <= u64::from(limit), "{id:?} has {count} flows");
    }
    check_port_owners(sim, flows);
    for (mac, entry) in &sim.tables.learnt {
        assert!(!mac.is_multicast() && *mac != MacAddr::ZERO, "learnt {mac}");
        assert_ne!(entry.endpoint, EndpointId::NONE);
    }
}

/// A port belongs to one inside address and port, and to as many flows as hold it.
fn check_port_owners(sim: &Sim, flows: &Flows) {
    let mut owners: Map<u32, PortOwner> = Map::default();
    for (key, flow) in originals(flows).filter(|(_, flow)| flow.kind.owns_port()) {
        let port = flow.translated.sport.number();
        let index = PortOwner::index(key.proto, port).expect("a protocol whose ports change");
        let owner = owners.entry(index).or_default();
        let taken = owner.taken_by(PortOwner::new(key.saddr, key.sport));
        *owner = taken.unwrap_or_else(|| panic!("{port} has two owners"));
    }
    for index in sim.tables.port_owners.keys().chain(owners.keys()) {
        let owner = owners.get(index).copied().unwrap_or_default();
        assert_eq!(sim.tables.port_owner(*index), owner, "owner of {index}");
    }
}

/// The flow table's entries, as they are now.
pub(super) fn flows(sim: &Sim) -> Flows {
    sim.tables.flows.iter().map(|(key, flow)| (*key, *flow.borrow())).collect()
}

fn originals(flows: &Flows) -> impl Iterator<Item = (&Tuple, &Flow)> {
    flows.iter().filter(|(_, flow)| !flow.kind.is_reply())
}

fn is_expired(sim: &Sim, flows: &Flows, key: &Tuple, flow: &Flow) -> bool {
    let reply = &flows[&flow.partner(key.proto)];
    flow.expires_in(key.proto, reply, sim.env.now, &sim.tables.config.timeouts).0 == 0
}
