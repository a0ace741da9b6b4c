//! Bridging: known unicast goes straight into the other namespace, all else
//! up to the kernel's bridge.

use netbpf_common::{Counter, DropReason, Endpoint, EndpointId, MacAddr};

use crate::{
    Forward, Stop, Verdict,
    seam::{Env, Seam, Skb, Tables},
    wire::eth::Eth,
};

/// The endpoint behind which a MAC is: static entries first, learnt ones as
/// long as they are fresh. [`EndpointId::NONE`] for a gateway's MAC.
#[inline(always)]
pub fn lookup<S: Skb, T: Tables, E: Env>(seam: &Seam<S, T, E>, mac: MacAddr) -> Option<EndpointId> {
    if let Some(entry) = seam.tables.fdb_static(mac) {
        return Some(entry.endpoint);
    }
    let entry = seam.tables.fdb_learnt(mac)?;
    let age = seam.env.now().since(entry.last_seen);
    (age.0 < seam.tables.timeouts().fdb.0).then_some(entry.endpoint)
}

/// Decides about a unicast frame that is not for the gateway.
///
/// # Errors
/// Where a bridge drops too: [`DropReason::SameEndpoint`], [`DropReason::TooBig`].
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
    if target.bridge_ifindex != endpoint.bridge_ifindex || endpoint.is_by_stack() {
        return Ok(Forward::PASS);
    }
    // As the kernel's is_skb_forwardable(): trains are cut later. (Asked last, as it is
    // told behind the packet's bytes.)
    if seam.skb.l3_len() > target.mtu && seam.skb.gso_size() == 0 {
        return Err(DropReason::TooBig.into());
    }
    Ok(Forward { counter: Counter::Forwarded, verdict: Verdict::Peer { ifindex: target.ifindex } })
}
