//! What a packet lacks is seen to, and it is decided once more: its flow is made, or its
//! way looked up anew, or it is found out where the stack would send it.
//!
//! In the kernel this is a program of its own, to which those hand over that are on the
//! way of every packet: what is decided there without a call is decided sooner.

use netbpf_common::{DropReason, EndpointId};

use crate::{
    Lack, Outcome, Stop, Verdict, dnat, expire, guard, judge_from_endpoint, judge_from_uplink,
    parse::{self, Parsed},
    rare::Decided,
    route,
    seam::{Env, Seam, Skb, Tables},
    snat,
};

/// Goes on with a frame from a namespace.
#[inline(always)]
pub fn from_endpoint<S: Skb, T: Tables, E: Env>(seam: &mut Seam<S, T, E>, lack: Lack) -> Outcome {
    let id = seam.tables.endpoint_id(seam.skb.ifindex()).unwrap_or(EndpointId::NONE);
    let mut decided = Decided::so_far(Err(Stop::ToStack));
    if lack != Lack::Look {
        decided = S::prepare_outward(seam, id, lack == Lack::Way);
        if decided.is_forwarded() {
            decided = decide_from_endpoint(seam, id);
        }
    }
    if decided.is_passed_up()
        && let Err(reason) = guard::check_way_out(seam, id)
    {
        decided = Decided::so_far(Err(reason.into()));
    }
    conclude(seam, id, &decided)
}

/// Goes on with a frame from outside.
#[inline(always)]
pub fn from_uplink<S: Skb, T: Tables, E: Env>(seam: &mut Seam<S, T, E>) -> Outcome {
    let mut id = EndpointId::NONE;
    let decided = match S::prepare_inward(seam, &mut id) {
        Ok(()) => decide_from_uplink(seam, &mut id),
        Err(stop) => Decided::from(Err(stop)),
    };
    conclude(seam, id, &decided)
}

/// Counts a decision and makes it an outcome.
#[inline(always)]
fn conclude<S: Skb, T: Tables, E>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    decided: &Decided,
) -> Outcome {
    if decided.is_read() {
        // Whoever decides in the end also counts.
        return Outcome { endpoint: id, result: Ok(Verdict::Rare) };
    }
    let bytes = seam.skb.l3_len();
    decided.count(seam, id, bytes);
    decided.outcome(id)
}

/// Sees to it that there is a flow for a packet from a namespace, and a way:
/// there is one, but its way has to be looked up anew if `has_flow`.
///
/// # Errors
/// Why there is none; [`Stop::Rare`] where there is only now room for one, and
/// all of it is to be decided again.
#[inline(always)]
pub fn outward<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    has_flow: bool,
) -> Result<(), Stop> {
    if has_flow {
        match recheck(seam) {
            Err(Stop::NeedsFlow) => {}
            done => return done,
        }
    }
    let opened = snat::open(seam, id, None);
    if makes_room(seam, id, opened) { Err(Stop::Rare) } else { opened }
}

/// Looks up the way of the packet's flow anew.
///
/// Not inlined: as [`decide_from_endpoint`].
#[inline(never)]
fn recheck<S: Skb, T: Tables, E: Env>(seam: &mut Seam<S, T, E>) -> Result<(), Stop> {
    let header = parse::header(&seam.skb)?;
    match parse::packet(&seam.skb, header)? {
        Parsed::Packet(packet) => route::recheck(seam, &packet.tuple),
        Parsed::Rare => Err(Stop::Rare),
    }
}

/// Not inlined: it is called for once more when a flow has been made, and the
/// frames of the two do not add up on the stack.
#[inline(never)]
fn decide_from_endpoint<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
) -> Decided {
    judge_from_endpoint(seam, id).into()
}

/// Makes a flow for a packet from outside; `id` becomes the endpoint that it
/// leads to.
///
/// # Errors
/// As [`outward`].
#[inline(always)]
pub fn inward<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: &mut EndpointId,
) -> Result<(), Stop> {
    let opened = dnat::open(seam, id, None);
    if makes_room(seam, *id, opened) { Err(Stop::Rare) } else { opened }
}

/// Not inlined: as [`decide_from_endpoint`].
#[inline(never)]
fn decide_from_uplink<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: &mut EndpointId,
) -> Decided {
    judge_from_uplink(seam, id).into()
}

/// Makes room if a flow was not made for want of it; whether it did: from a
/// full table closed connections go early, from a full share its own ones.
#[inline(always)]
fn makes_room<S, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    opened: Result<(), Stop>,
) -> bool {
    match opened {
        Err(Stop::Dropped(DropReason::FlowTableFull)) => expire::reclaim(seam, EndpointId::NONE),
        Err(Stop::Dropped(DropReason::FlowLimit)) => expire::reclaim(seam, id),
        Ok(()) | Err(_) => false,
    }
}
