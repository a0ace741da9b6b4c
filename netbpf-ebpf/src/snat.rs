//! Namespace to outside: the packet leaves with the uplink's address.

use netbpf_common::{Counter, DropReason, EndpointId, Flow, FlowKind, Translation};

use crate::{
    Forward, Stop, flow,
    flow::NewFlow,
    next_hop,
    parse::{self, Packet, Parsed},
    ports, rewrite,
    seam::{Env, FlowEntry, Seam, Skb, Tables},
    wire::eth::Eth,
};

/// Decides about a packet to the gateway's MAC that is not for the gateway:
/// out by its flow.
///
/// # Errors
/// Why it goes nowhere; [`Stop::NeedsFlow`] if it is the first of its flow.
#[inline(always)]
pub fn by_flow<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    packet: &Packet,
) -> Result<Forward, Stop> {
    // The stack answers with "time exceeded".
    if packet.header.ttl <= 1 {
        return Ok(Forward::PASS);
    }
    let mut entry = seam.tables.flow(&packet.tuple).ok_or(Stop::NeedsFlow)?;
    let flow = entry.get();
    // A tuple that only packets from outside carry: not a flow of ours.
    if flow.kind.is_to_endpoint() {
        return Ok(Forward::PASS);
    }
    if flow.endpoint != id {
        return Err(DropReason::SourceAddress.into());
    }
    let now = seam.env.now();
    let hop = next_hop::find(seam, &flow, now);
    // The stack fragments it or answers with "fragmentation needed".
    if packet.wire_len > hop.mtu {
        return Ok(Forward::PASS);
    }
    flow::track(seam, &mut entry, &flow, packet, now);
    rewrite::translate(&mut seam.skb, packet, &flow)?;
    let verdict = next_hop::send(&mut seam.skb, &flow, &hop)?;
    Ok(Forward { counter: counter(&flow), verdict })
}

/// The row in which packets of this flow are counted.
#[must_use]
#[inline(always)]
pub fn counter(flow: &Flow) -> Counter {
    if flow.kind.is_dnat() { Counter::Dnat } else { Counter::Snat }
}

/// Makes a flow for a packet that [`by_flow`] found none for, if it is one that
/// leaves by an uplink.
///
/// # Errors
/// [`Stop::ToStack`] if the packet is the stack's, or why it goes nowhere.
#[inline(always)]
pub fn open<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
) -> Result<(), Stop> {
    let mut new = NewFlow::default();
    plan(seam, id, &mut new)?;
    ports::allocate(seam, &mut new)?;
    new.open(seam)?;
    Ok(())
}

/// What the flow is to be. Reads the packet anew: the first of a flow pays for
/// that, and all the others have a smaller stack frame. (Not inlined: so the
/// frames of the steps that make a flow do not add up.)
#[inline(never)]
fn plan<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    new: &mut NewFlow,
) -> Result<(), Stop> {
    let endpoint = seam.tables.endpoint(id).ok_or(DropReason::EndpointGone)?;
    let eth = Eth::load(&seam.skb).ok_or(DropReason::Truncated)?;
    let header = parse::header(&seam.skb)?;
    let Parsed::Packet(packet) = parse::packet(&seam.skb, header)? else {
        return Err(Stop::ToStack);
    };
    if packet.tuple.daddr.is_martian() {
        return Err(Stop::ToStack);
    }
    let route = seam.env.route(endpoint.bridge_ifindex, &packet.tuple);
    let uplink = seam.tables.uplink(route.ifindex).ok_or(Stop::ToStack)?;
    // It ends or answers what nobody knows: it must not open a flow, nor leave
    // untranslated.
    if !packet.may_open {
        return Err(DropReason::NoFlow.into());
    }
    if packet.wire_len > uplink.mtu {
        return Err(Stop::ToStack);
    }
    flow::admit(seam, id, &endpoint)?;
    *new = NewFlow {
        original: packet.tuple,
        translated: Translation { saddr: uplink.addr, ..packet.tuple.into() },
        kind: FlowKind::SNAT_ORIGINAL,
        endpoint: id,
        mac: eth.src,
        uplink: route.ifindex,
        next_hop: route.next_hop,
        now: seam.env.now(),
    };
    Ok(())
}
