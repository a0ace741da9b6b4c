//! Flows that the kernel's connection tracking has followed so far: a network that
//! is switched over goes on with them.

use netbpf_common::{Endpoint, EndpointId, Flow, FlowKind, KnownFlow, PortOwner, Seen, Tuple};

use crate::{
    flow,
    flow::NewFlow,
    seam::{Env, FlowEntry, Route, Seam, Tables},
};

/// Makes the flow, with the translation that it has, if it could be one of this
/// datapath: it is of a namespace, by an uplink or to the host itself, there is
/// room, and nobody else has its tuples. Whether it did.
#[inline(always)]
pub fn adopt<S, T: Tables, E: Env>(seam: &mut Seam<S, T, E>, known: &KnownFlow) -> bool {
    let mut new = NewFlow::default();
    if !plan(seam, known, &mut new) || new.reserve_own(seam).is_err() {
        give_port(seam, &new);
        return false;
    }
    // It gives the port back itself.
    if new.open(seam).is_err() {
        return false;
    }
    see(seam, &known.original, known.seen);
    see(seam, &new.reply_key(), known.reply_seen);
    true
}

/// What the flow is to be, its port taken; whether it can be.
#[inline(never)]
fn plan<S, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    known: &KnownFlow,
    new: &mut NewFlow,
) -> bool {
    let KnownFlow { original, translated, .. } = *known;
    if seam.tables.flow(&original).is_some() {
        return false;
    }
    let from = owner(seam, original.saddr);
    let Some(id) = from.or_else(|| owner(seam, translated.daddr)) else {
        return false;
    };
    let Some(endpoint) = seam.tables.endpoint(id) else {
        return false;
    };
    if flow::admit(seam, id, &endpoint).is_err() {
        return false;
    }
    let Some(way) = way(seam, &original, from.is_some(), &endpoint) else {
        return false;
    };
    let kind = match (from, original.from_host) {
        (Some(_), _) => FlowKind::SNAT_ORIGINAL,
        (None, 0) => FlowKind::DNAT_ORIGINAL,
        (None, _) => FlowKind(FlowKind::DNAT_ORIGINAL.0 | FlowKind::FROM_HOST),
    };
    *new = NewFlow {
        original,
        translated,
        kind: kind.by_stack(endpoint.is_by_stack()),
        endpoint: id,
        mac: endpoint.mac,
        uplink: way.ifindex,
        next_hop: way.next_hop,
        now: seam.env.now(),
        ..NewFlow::default()
    };
    // The port may be somebody else's as well, with another peer.
    let index = PortOwner::index(original.proto, translated.sport.number());
    if let Some(index) = index.filter(|_| from.is_some())
        && seam.tables.take_port(index, PortOwner::new(original.saddr, original.sport))
    {
        new.kind = FlowKind(new.kind.0 | FlowKind::OWNS_PORT);
    }
    true
}

/// The way to the outside peer; nothing if that is no way of this datapath.
#[inline(always)]
fn way<S, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    original: &Tuple,
    is_outward: bool,
    endpoint: &Endpoint,
) -> Option<Route> {
    if original.from_host != 0 {
        return Some(Route::of(Flow::LOOPBACK, Flow::HOST));
    }
    let to_peer = if is_outward { *original } else { original.reversed() };
    let way = seam.env.route(endpoint.bridge_ifindex, &to_peer);
    if way.ifindex == Flow::LOOPBACK {
        // The other half of what a namespace sends by the host's address.
        return Some(Route::LOCAL);
    }
    seam.tables.uplink(way.ifindex).is_some().then_some(way)
}

/// The namespace that has the address.
#[inline(always)]
fn owner<S, T: Tables, E>(seam: &Seam<S, T, E>, addr: netbpf_common::Ipv4) -> Option<EndpointId> {
    seam.tables.address_owner(addr).filter(|&id| id != EndpointId::NONE)
}

/// Lets go of the port of a flow that was not made.
#[inline(always)]
fn give_port<S, T: Tables, E>(seam: &mut Seam<S, T, E>, new: &NewFlow) {
    let index = PortOwner::index(new.original.proto, new.translated.sport.number());
    if let Some(index) = index.filter(|_| new.kind.owns_port()) {
        seam.tables.give_port(index);
    }
}

#[inline(always)]
fn see<S, T: Tables, E>(seam: &mut Seam<S, T, E>, key: &Tuple, seen: Seen) {
    if let Some(mut entry) = seam.tables.flow(key) {
        entry.set_seen(seen);
    }
}
