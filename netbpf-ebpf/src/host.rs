//! The host's own connections: where one has the very tuple of a namespace's
//! flow, it is the host's that gets another port.
//!
//! So both work, whichever was first: the choice of a port for a namespace looks
//! at the host's sockets, and what the host sends later is looked at here.

use netbpf_common::{DropReason, EndpointId, FlowKind, Ipv4, MacAddr, Translation, Tuple};

use crate::{
    Stop,
    flow::{self, NewFlow},
    parse::Packet,
    seam::{Env, FlowEntry, Seam, Skb, Tables},
};

/// Whether a packet that the host sends has to be translated: it has the tuple
/// of a namespace's flow, or once had.
#[inline(always)]
pub fn is_translated<S, T: Tables, E>(seam: &mut Seam<S, T, E>, tuple: &Tuple) -> bool {
    if seam.tables.flow_count(EndpointId::HOST) != 0 && seam.tables.flow(tuple).is_some() {
        return true;
    }
    match seam.tables.flow(&tuple.reversed()) {
        Some(entry) => {
            let kind = entry.get().kind;
            kind.is_reply() && kind.is_to_endpoint() && !kind.is_dnat() && !kind.is_host()
        }
        None => false,
    }
}

/// What a flow of the host's own is to be, for a packet that it sends by an uplink.
///
/// # Errors
/// Why there can be none.
#[inline(never)]
pub fn plan<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    packet: &Packet,
    new: &mut NewFlow,
) -> Result<(), Stop> {
    let tuple = packet.tuple;
    let uplink = seam.skb.ifindex();
    let row = seam.tables.uplink(uplink).ok_or(DropReason::PrivateSource)?;
    if seam.tables.flow_count(EndpointId::NONE) >= flow::size(seam)? {
        return Err(DropReason::FlowTableFull.into());
    }
    let saddr = if seam.tables.is_private(tuple.saddr) { row.addr } else { tuple.saddr };
    *new = NewFlow {
        original: tuple,
        translated: Translation { saddr, ..tuple.into() },
        kind: FlowKind::HOST_ORIGINAL,
        endpoint: EndpointId::HOST,
        mac: MacAddr::ZERO,
        uplink,
        next_hop: Ipv4::ANY,
        now: seam.env.now(),
        ..NewFlow::default()
    };
    Ok(())
}
