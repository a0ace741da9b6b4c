//! Bridging: known unicast goes straight into the other namespace, all else
//! up to the kernel's bridge.

use netbpf_common::{AllowedPair, Counter, DropReason, Endpoint, EndpointId, MacAddr};

use crate::{
    Forward, Stop, Verdict,
    seam::{Env, Seam, Skb, Tables},
    wire::{eth::Eth, ipv4::Header},
};

/// The endpoint behind which a MAC is: static entries first, learnt ones as
/// long as they are fresh. [`EndpointId::NONE`] for a gateway's MAC.
#[inline(always)]
pub fn lookup<S: Skb, T: Tables, E: Env>(seam: &Seam<S, T, E>, mac: MacAddr) -> Option<EndpointId> {
    if let Some(endpoint) = seam.tables.fdb_static(mac) {
        return Some(endpoint);
    }
    let entry = seam.tables.fdb_learnt(mac)?;
    let age = seam.env.now().since(entry.last_seen);
    (age.0 < seam.tables.timeouts().fdb.0).then_some(entry.endpoint)
}

/// Decides about a unicast frame that is not for the gateway.
///
/// # Errors
/// Where a bridge drops too: [`DropReason::SameEndpoint`], [`DropReason::TooBig`]; and
/// [`DropReason::Isolated`].
#[inline(always)]
pub fn forward<S: Skb, T: Tables, E: Env>(
    seam: &Seam<S, T, E>,
    id: EndpointId,
    endpoint: &Endpoint,
    eth: &Eth,
) -> Result<Forward, Stop> {
    let Some(to) = lookup(seam, eth.dst) else {
        return Ok(Forward::PASS);
    };
    if to == id {
        return Err(DropReason::SameEndpoint.into());
    }
    let Some(target) = seam.tables.endpoint(to) else {
        return Ok(Forward::PASS);
    };
    // A MAC of another network is unknown in this one.
    if target.bridge_ifindex != endpoint.bridge_ifindex {
        return Ok(Forward::PASS);
    }
    if !endpoint.is_open() {
        if endpoint.is_isolated() && !may_reach(seam, id, to) {
            return Err(DropReason::Isolated.into());
        }
        if endpoint.is_by_stack() {
            return Ok(Forward::PASS);
        }
    }
    // As the kernel's is_skb_forwardable(): trains are cut later. (Asked last, as it is
    // told behind the packet's bytes.)
    if seam.skb.l3_len() > target.mtu && seam.skb.gso_size() == 0 {
        return Err(DropReason::TooBig.into());
    }
    Ok(Forward { counter: Counter::Forwarded, verdict: Verdict::Peer { ifindex: target.ifindex } })
}

/// Whether an isolated endpoint may reach another one.
///
/// Not inlined, as it is asked of isolated ones only.
#[inline(never)]
fn may_reach<S, T: Tables, E>(seam: &Seam<S, T, E>, from: EndpointId, to: EndpointId) -> bool {
    seam.tables.is_allowed(AllowedPair::of(from, to))
}

/// Whether the stack may route a packet of an isolated endpoint: not back into the network,
/// unless from its own address to that of whom it may reach.
#[inline(always)]
pub fn may_be_routed<S, T: Tables, E>(
    seam: &Seam<S, T, E>,
    id: EndpointId,
    endpoint: &Endpoint,
    header: &Header,
) -> bool {
    let may_reach = |owner| owner != EndpointId::NONE && may_reach(seam, id, owner);
    !endpoint.has_beside(header.daddr)
        || header.saddr == endpoint.addr
            && seam.tables.address_owner(header.daddr).is_some_and(may_reach)
}
