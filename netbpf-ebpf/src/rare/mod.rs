//! Packets that are rare: fragments, ICMP errors, IP options, protocols other
//! than TCP, UDP and ICMP queries, and what needs the stack's help.
//!
//! They are read, with more effort, into the same [`Packet`](crate::parse::Packet)
//! that decides about all others; what is special about them is how their bytes
//! are changed. In the kernel they have programs of their own, to which the
//! others hand over, so that those stay small. What is read has a place outside
//! of the stack there, which is too small for it.

mod decided;
mod read;
mod step;

use netbpf_common::{DropReason, EndpointId, Fragments, Tuple, proto};

pub use decided::Decided;
pub use read::{Payload, Rare, Read, has_ports, quoted_ports, read};
pub use step::Step;

use crate::{
    Forward, Stop, Verdict, dnat,
    flow::NewFlow,
    fragment, guard, host,
    parse::{self, Translate as _},
    ports, route,
    seam::{Env, FlowEntry, Seam, Skb, Tables},
    snat::{self, BackIn},
    wire::{
        icmp,
        ipv4::{self, Header},
    },
};

/// A rare frame from a namespace to the gateway's MAC. That it may send it has
/// been found out. Returns whose it is; what was decided is in the [`Rare`].
#[inline(always)]
pub fn from_endpoint<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    rare: &mut Rare,
) -> EndpointId {
    let id = seam.tables.endpoint_id(seam.skb.ifindex()).unwrap_or(EndpointId::NONE);
    S::take_step(seam, Step::Outward, id, rare);
    if rare.decided().is_read() {
        S::take_step(seam, Step::OutwardByFlow, id, rare);
    }
    if rare.decided().needs_route() {
        S::take_step(seam, Step::OutwardWay, id, rare);
        if rare.decided().is_read() {
            S::take_step(seam, Step::OutwardByFlow, id, rare);
        }
    }
    if rare.decided().needs_flow() {
        S::take_step(seam, Step::OutwardOpen, id, rare);
        if rare.decided().is_read() {
            S::take_step(seam, Step::OutwardByFlow, id, rare);
        }
    }
    if rare.decided().is_left_as_it_is() {
        S::take_step(seam, Step::OutwardStack, id, rare);
    }
    S::take_step(seam, Step::Finish, id, rare);
    id
}

/// Leaves it to the stack.
#[inline(never)]
fn leave_to_stack<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    rare: &mut Rare,
) {
    if let Err(reason) = guard::check_way_out(seam, id) {
        rare.decide(Err(reason.into()));
    } else if rare.is_first_fragment {
        rare.is_awaited = is_out(seam, id, &rare.packet.header);
    }
}

#[inline(never)]
fn recheck<S: Skb, T: Tables, E: Env>(seam: &mut Seam<S, T, E>, rare: &mut Rare) {
    let done = route::recheck(seam, &rare.packet.tuple);
    rare.go_on(done);
}

/// Whose packet it is. (A function that returned nothing might leave an address of its
/// own stack where results are, which the verifier refuses.)
#[inline(never)]
fn outward<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    rare: &mut Rare,
) -> EndpointId {
    let decision = decide_outward(seam, id, rare);
    rare.decide(decision);
    id
}

#[inline(always)]
fn decide_outward<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    rare: &mut Rare,
) -> Result<Forward, Stop> {
    let header = parse::header(&seam.skb)?;
    // The stack follows options and forwards; `to_uplink` translates. To an address
    // of its own it does so once the packet has come in again.
    if header.has_options() {
        let is_back = parse::is_intact(&seam.skb, &header)
            && !header.is_fragment()
            && read(seam, header, rare) == Ok(Read::Packet)
            && snat::back_in(seam, id, &rare.packet) != BackIn::No;
        return if is_back { Err(Stop::Rare) } else { Ok(Forward::PASS) };
    }
    let what = match read(seam, header, rare) {
        // What it cannot make sense of, and is not to leave, the stack judges. (Not what
        // ends before a message begins: as of other protocols, whatever it is padded with.)
        Err(Stop::Dropped(_))
            if header.proto == proto::ICMP
                && (header.is_fragment() || rare.packet.len >= ipv4::MIN_LEN + icmp::MIN_LEN)
                && !is_out(seam, id, &header) =>
        {
            return Ok(Forward::PASS);
        }
        what => what?,
    };
    if what == Read::LaterFragment {
        let is_out = is_out(seam, id, &header);
        if fragment::hold(seam, id, rare) {
            if read(seam, header, rare)? == Read::LaterFragment {
                // To the host: it may be the stack's.
                return Ok(if is_out { Forward::HELD } else { Forward::PASS });
            }
            rare.is_held = true;
        } else if is_out {
            return Err(DropReason::Fragment.into());
        } else {
            return Ok(Forward::PASS);
        }
    }
    Err(Stop::Rare)
}

#[inline(never)]
fn outward_by_flow<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    rare: &mut Rare,
) {
    let decision = snat::by_flow(seam, id, rare);
    rare.decide(decision);
}

#[inline(never)]
fn open_outward<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    rare: &mut Rare,
) {
    let opened = try_open_outward(seam, id, rare);
    rare.go_on(opened);
}

#[inline(always)]
fn try_open_outward<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    rare: &Rare,
) -> Result<(), Stop> {
    if rare.is_error() {
        let is_out = is_out(seam, id, &rare.packet.header);
        return Err(if is_out { DropReason::IcmpUnrelated.into() } else { Stop::ToStack });
    }
    snat::open(seam, id, Some(&rare.packet))
}

/// Whether a packet of a namespace leaves by an uplink.
#[inline(never)]
fn is_out<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    header: &Header,
) -> bool {
    let Some(endpoint) = seam.tables.endpoint(id) else {
        return false;
    };
    let way = seam.env.route(endpoint.bridge_ifindex, &parse::addresses(header));
    seam.tables.uplink(way.ifindex).is_some()
}

/// A rare frame from outside, or from the host itself, to the host's MAC. As
/// [`from_endpoint`].
#[inline(always)]
pub fn from_uplink<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    rare: &mut Rare,
) -> EndpointId {
    let mut id = EndpointId::NONE;
    id = S::take_step(seam, Step::Inward, id, rare);
    if rare.decided().is_read() {
        id = S::take_step(seam, Step::InwardByFlow, id, rare);
    }
    if rare.decided().needs_flow() {
        id = S::take_step(seam, Step::InwardOpen, id, rare);
        if rare.decided().is_read() {
            id = S::take_step(seam, Step::InwardByFlow, id, rare);
        }
    }
    if rare.decided().is_read() {
        id = S::take_step(seam, Step::InwardByStack, id, rare);
    }
    S::take_step(seam, Step::Finish, id, rare);
    id
}

#[inline(never)]
fn inward<S: Skb, T: Tables, E: Env>(seam: &mut Seam<S, T, E>, rare: &mut Rare) {
    let decision = decide_inward(seam, rare);
    rare.decide(decision);
}

#[inline(always)]
fn decide_inward<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    rare: &mut Rare,
) -> Result<Forward, Stop> {
    // What is malformed the stack counts and drops itself.
    let Ok(header) = parse::header(&seam.skb) else {
        return Ok(Forward::PASS);
    };
    if !parse::is_intact(&seam.skb, &header) {
        return Err(dnat::to_stack(seam, &header));
    }
    match read(seam, header, rare) {
        Ok(Read::Packet) => {}
        Ok(Read::LaterFragment) => {
            // It may be the stack's: that gets it in any case.
            let is_kept = fragment::hold(seam, EndpointId::NONE, rare);
            if !is_kept || read(seam, header, rare) != Ok(Read::Packet) {
                return Err(dnat::to_stack(seam, &header));
            }
            rare.is_held = true;
        }
        Err(Stop::Dropped(DropReason::BadChecksum)) => return Err(DropReason::BadChecksum.into()),
        Err(_) => return Err(dnat::to_stack(seam, &header)),
    }
    Err(Stop::Rare)
}

#[inline(never)]
fn inward_by_flow<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: &mut EndpointId,
    rare: &mut Rare,
) {
    // The host has followed the options of its own packets when it made them.
    let decision = if !rare.packet.header.has_options() || seam.skb.is_from_host() {
        dnat::by_flow(seam, rare, id)
    } else if leads_in(seam, &rare.packet.tuple) {
        Err(Stop::Rare)
    } else {
        Err(Stop::NeedsFlow)
    };
    rare.decide(decision);
}

/// Whether there is a flow that takes a packet into a namespace.
#[inline(always)]
fn leads_in<S: Skb, T: Tables, E>(seam: &mut Seam<S, T, E>, tuple: &Tuple) -> bool {
    dnat::lookup(seam, tuple).is_some_and(|entry| dnat::leads_in(seam, &entry.get()))
}

#[inline(never)]
fn inward_by_stack<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: &mut EndpointId,
    rare: &mut Rare,
) {
    let decision = dnat::by_stack(seam, rare, id);
    rare.decide(decision);
}

#[inline(never)]
fn open_inward<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: &mut EndpointId,
    rare: &mut Rare,
) {
    let opened = try_open_inward(seam, id, rare);
    rare.go_on(opened);
}

#[inline(always)]
fn try_open_inward<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: &mut EndpointId,
    rare: &Rare,
) -> Result<(), Stop> {
    if rare.is_error() || !rare.packet.may_open && rare.payload == Payload::Opaque {
        return Err(dnat::to_stack(seam, &rare.packet.header));
    }
    dnat::open(seam, id, Some(&rare.packet))
}

/// A frame that the host is about to send by an uplink, and that is not to leave
/// as it is. As [`from_endpoint`].
#[inline(always)]
pub fn to_uplink<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    rare: &mut Rare,
) -> EndpointId {
    let id = S::take_step(seam, Step::Stack, EndpointId::NONE, rare);
    if rare.decided().is_read() {
        S::take_step(seam, Step::StackByFlow, id, rare);
    } else if rare.decided().is_forwarded() {
        // The host's own, as it is.
        return EndpointId::NONE;
    }
    if rare.decided().needs_flow() {
        S::take_step(seam, Step::StackOpen, id, rare);
        if rare.decided().is_read() {
            S::take_step(seam, Step::StackByFlow, id, rare);
        }
    }
    if rare.decided().is_for_stack() {
        // It has decided already.
        rare.decide(Err(DropReason::PrivateSource.into()));
    }
    S::take_step(seam, Step::Finish, id, rare);
    id
}

#[inline(never)]
fn out_by_stack<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: &mut EndpointId,
    rare: &mut Rare,
) {
    let decision = decide_out_by_stack(seam, id, rare);
    rare.decide(decision);
}

#[inline(always)]
fn decide_out_by_stack<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: &mut EndpointId,
    rare: &mut Rare,
) -> Result<Forward, Stop> {
    let header = parse::header(&seam.skb)?;
    let is_intact = parse::is_intact(&seam.skb, &header);
    if !seam.tables.is_private(header.saddr) {
        // The host's own, whatever it is; but what it complains of may have been
        // translated before, and is not to be told as it is then.
        let is_changed = is_intact
            && read(seam, header, rare) == Ok(Read::Packet)
            && if rare.is_error() {
                seam.tables.is_private(rare.packet.tuple.saddr)
            } else {
                host::is_translated(seam, &rare.packet.tuple)
            };
        return if is_changed { Err(Stop::Rare) } else { Ok(Forward::PASS) };
    }
    *id = seam.tables.address_owner(header.saddr).unwrap_or(EndpointId::NONE);
    if !is_intact {
        return Err(DropReason::BadChecksum.into());
    }
    match read(seam, header, rare)? {
        Read::Packet => Err(Stop::Rare),
        Read::LaterFragment => Err(DropReason::Fragment.into()),
    }
}

#[inline(never)]
fn by_stack<S: Skb, T: Tables, E: Env>(seam: &mut Seam<S, T, E>, rare: &mut Rare) {
    let decision = snat::by_stack(seam, rare);
    rare.decide(decision);
}

#[inline(never)]
fn open_out<S: Skb, T: Tables, E: Env>(seam: &mut Seam<S, T, E>, id: EndpointId, rare: &mut Rare) {
    let opened = try_open_out(seam, id, rare);
    rare.go_on(opened);
}

#[inline(always)]
fn try_open_out<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    rare: &Rare,
) -> Result<(), Stop> {
    let tuple = &rare.packet.tuple;
    let is_private = seam.tables.is_private(tuple.saddr);
    if rare.is_error() {
        return Err(if is_private { DropReason::IcmpUnrelated.into() } else { Stop::ToStack });
    }
    let is_gateways = seam.tables.address_owner(tuple.saddr) == Some(EndpointId::NONE);
    let mut new = NewFlow::default();
    if !is_private || is_gateways {
        host::plan(seam, &rare.packet, &mut new)?;
    } else if id == EndpointId::NONE {
        return Err(DropReason::PrivateSource.into());
    } else {
        snat::plan(seam, id, Some(&rare.packet), &mut new)?;
    }
    ports::allocate(seam, &mut new, true)?;
    new.open(seam)?;
    Ok(())
}

/// Sees to the other fragments of the datagram, if there are any, and counts what
/// became of the packet.
#[inline(never)]
fn finish<S: Skb, T: Tables, E: Env>(seam: &mut Seam<S, T, E>, id: EndpointId, rare: &mut Rare) {
    // Behind it others may be sent, from its place.
    let bytes = seam.skb.l3_len();
    if rare.is_first_fragment || rare.is_held {
        let decision = with_fragments(seam, rare);
        rare.decide(decision);
    }
    rare.decided().count(seam, id, bytes);
}

/// After the first fragment of a datagram the others know where they belong, and
/// those that have waited are sent.
#[inline(always)]
fn with_fragments<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    rare: &Rare,
) -> Result<Forward, Stop> {
    let decision: Result<Forward, Stop> = rare.decided().into();
    let is_flows = match decision {
        Ok(forward) => forward != Forward::PASS,
        Err(Stop::ToStack) => false,
        Err(_) => return decision,
    };
    if rare.is_first_fragment {
        let state = if is_flows { Fragments::IN_FLOW } else { Fragments::TO_STACK };
        fragment::announce(seam, rare, state);
    }
    // Else the stack has had them already.
    if !is_flows && !rare.is_awaited {
        fragment::forget(seam, rare);
        return decision;
    }
    match decision {
        Ok(forward) if fragment::is_copyable(seam, forward.verdict) => {
            let verdict = fragment::release(seam, rare, forward);
            Ok(Forward { verdict, ..forward })
        }
        _ if !fragment::readmit(seam, rare) => Err(DropReason::Fragment.into()),
        // It comes in again with the others.
        Ok(forward) if rare.is_held => Ok(Forward { verdict: Verdict::Held, ..forward }),
        _ => decision,
    }
}
