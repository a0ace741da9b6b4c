//! The way out of a flow, and how a new one is noticed.

use netbpf_common::{DropReason, EndpointId, Flow, Ipv4, Tuple};

use crate::{
    Stop, flow, parse,
    seam::{Env, FlowEntry, Route, Seam, Skb, Tables},
};

/// Looks up the way of a flow's packets anew, once in an epoch. A flow of which
/// the source address is gone, or would be another now, ends.
///
/// # Errors
/// [`Stop::NeedsFlow`] if it has ended, [`Stop::ToStack`] if there is no way
/// out just now.
#[inline(always)]
pub fn recheck<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    tuple: &Tuple,
) -> Result<(), Stop> {
    let mut entry = seam.tables.flow(tuple).ok_or(Stop::NeedsFlow)?;
    let flow = entry.get();
    let endpoint = seam.tables.endpoint(flow.endpoint).ok_or(DropReason::EndpointGone)?;
    let way = seam.env.route(endpoint.bridge_ifindex, tuple);
    let epoch = Flow::epoch(seam.env.now());
    let saddr = flow.translated.saddr;
    if flow.uplink == Flow::LOOPBACK && way.ifindex == Flow::LOOPBACK {
        entry.set_route(flow.uplink, flow.next_hop, flow.kind, epoch);
        return Ok(());
    }
    let Some(source) = source(seam, &way) else {
        // The stack knows why, and says so. The flow may be wanted again.
        return Err(Stop::ToStack);
    };
    let is_moved = way.ifindex != flow.uplink && !flow.kind.is_dnat();
    if is_moved || saddr != source && !is_local(seam, endpoint.bridge_ifindex, saddr) {
        let original = if flow.kind.is_reply() { flow.partner(tuple.proto) } else { *tuple };
        flow::remove(seam, &original);
        return Err(Stop::NeedsFlow);
    }
    let kind = flow.kind.with_narrow(is_narrow(seam, &way));
    entry.set_route(way.ifindex, way.next_hop, kind, epoch);
    Ok(())
}

/// The address that packets carry which leave by a way; nothing if that does not
/// lead over an uplink.
#[inline(always)]
pub fn source<S, T: Tables, E>(seam: &Seam<S, T, E>, way: &Route) -> Option<Ipv4> {
    let uplink = seam.tables.uplink(way.ifindex)?;
    Some(if way.source == Ipv4::ANY { uplink.addr } else { way.source })
}

/// Whether a way takes less than its uplink does: a route may have an MTU of its own,
/// and the kernel may have learnt a path's.
#[inline(always)]
pub fn is_narrow<S, T: Tables, E>(seam: &Seam<S, T, E>, way: &Route) -> bool {
    way.mtu != 0 && seam.tables.uplink(way.ifindex).is_some_and(|uplink| way.mtu < uplink.mtu)
}

/// Whether a packet of a flow whose way is narrow is too large for it.
///
/// Not inlined, as it is rare.
#[inline(never)]
pub fn is_too_narrow<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    tuple: &Tuple,
    len: u32,
    headers_len: u32,
) -> bool {
    let Some(endpoint) = seam.tables.endpoint(id) else {
        return false;
    };
    let mtu = seam.env.route(endpoint.bridge_ifindex, tuple).mtu;
    mtu != 0 && parse::is_longer_than(&seam.skb, len, headers_len, mtu)
}

/// Whether the address is one of the host's.
#[inline(always)]
pub fn is_local<S, T, E: Env>(seam: &mut Seam<S, T, E>, bridge_ifindex: u32, addr: Ipv4) -> bool {
    let tuple = Tuple { daddr: addr, ..Tuple::default() };
    seam.env.route(bridge_ifindex, &tuple).ifindex == Flow::LOOPBACK
}
