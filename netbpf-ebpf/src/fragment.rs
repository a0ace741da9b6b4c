//! Fragments: each is translated by itself, whatever order they come in.
//!
//! Only the first fragment of a datagram has its ports. Once it has been seen,
//! the others follow its flow. Those that come before it are held, and sent
//! behind it when it comes; where only the stack can send it they come in once more,
//! to go the same way. Nothing is put together: the receiver does that, and judges
//! overlaps and gaps.

use netbpf_common::{
    Counter, DropReason, EndpointId, Flow, FragmentKey, Fragments, MacAddr, NextHop,
};

use crate::{
    Forward, Stop, Verdict, dnat, parse,
    rare::{Payload, Rare, Read},
    rewrite,
    seam::{Env, FlowEntry, FragmentsEntry, Seam, Skb, Tables},
    snat,
    wire::{eth, ipv4::Header},
};

/// Most fragments that are sent behind a first one.
const MOST_HELD: u32 = 256;
/// Attempts to be the one who changes a chain, before a fragment is dropped.
const ATTEMPTS: u32 = 4;
/// Both MACs of an Ethernet header.
const MACS: usize = 12;

/// What the fragments of a datagram with this header have in common.
#[must_use]
#[inline(always)]
pub fn key(header: &Header) -> FragmentKey {
    FragmentKey {
        saddr: header.saddr,
        daddr: header.daddr,
        id: header.id,
        proto: header.proto,
        pad: 0,
    }
}

/// Finds out where a fragment belongs that is not the first.
///
/// # Errors
/// [`Stop::ToStack`] if the datagram is the stack's; [`DropReason::Fragment`].
#[inline(always)]
pub fn read<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    rare: &mut Rare,
) -> Result<Read, Stop> {
    let known = known(seam, &rare.fragment_key()).ok_or(DropReason::Fragment)?;
    match known.state {
        Fragments::UNKNOWN => Ok(Read::LaterFragment),
        Fragments::TO_STACK => Err(Stop::ToStack),
        _ => {
            rare.packet.tuple = parse::tuple(&rare.packet.header, known.sport, known.dport);
            rare.packet.may_open = false;
            rare.payload = Payload::Opaque;
            Ok(Read::Packet)
        }
    }
}

/// What is known of a datagram: nothing, if all that is is of an older one.
#[inline(always)]
fn known<S, T: Tables, E: Env>(seam: &mut Seam<S, T, E>, key: &FragmentKey) -> Option<Fragments> {
    let now = seam.env.now();
    let mut entry = seam.tables.fragments(key, now)?;
    let known = entry.get();
    if now.since(known.since).0 < seam.tables.timeouts().fragments.0 {
        return Some(known);
    }
    entry.reset(now);
    Some(Fragments { since: now, ..Fragments::default() })
}

/// Keeps a copy of a fragment whose datagram's first is not known; whether it is
/// kept. The first may come at this very moment: ask [`read`] once more.
#[inline(never)]
pub fn hold<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    rare: &Rare,
) -> bool {
    let key = rare.fragment_key();
    let Some(mut entry) = seam.tables.fragments(&key, seam.env.now()) else {
        return false;
    };
    let ticket = seam.tables.next_ticket();
    // Without padding: what goes on later is the packet.
    if !save(seam, &key, ticket, id, rare.packet.len) {
        return false;
    }
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        attempt += 1;
        let previous = entry.get().held;
        seam.tables.with_held(ticket, |slot| {
            slot.previous = previous;
            slot.ticket = ticket;
        });
        if entry.replace_held(previous, ticket) {
            return true;
        }
    }
    false
}

/// Copies the frame in hand, `len` bytes behind its Ethernet header, into a ticket's
/// slot; whether it fits. It is nobody's there before the slot has its ticket.
#[inline(always)]
fn save<S: Skb, T: Tables, E>(
    seam: &mut Seam<S, T, E>,
    key: &FragmentKey,
    ticket: u32,
    id: EndpointId,
    len: u32,
) -> bool {
    let len = len + eth::HEADER_LEN;
    let Seam { skb, tables, .. } = seam;
    let mut displaced = EndpointId::NONE;
    let saved = tables.with_held(ticket, |slot| {
        if slot.ticket != 0 {
            displaced = slot.endpoint;
        }
        slot.ticket = 0;
        slot.key = *key;
        slot.len = len;
        slot.endpoint = id;
        skb.save(&mut slot.frame, len)
    });
    // The oldest of all waits no longer. (One from outside the stack has, too.)
    if displaced != EndpointId::NONE {
        seam.tables.count_drop(displaced, DropReason::Fragment);
    }
    saved.flatten().is_some()
}

/// Makes the frame in hand the one that waits with that ticket, if it still does;
/// returns the ticket before it, and whose it is.
#[inline(always)]
fn restore<S: Skb, T: Tables, E>(
    seam: &mut Seam<S, T, E>,
    key: &FragmentKey,
    ticket: u32,
) -> Option<(u32, EndpointId)> {
    let Seam { skb, tables, .. } = seam;
    tables.with_held(ticket, |slot| {
        if slot.ticket != ticket || slot.key != *key {
            return None;
        }
        slot.ticket = 0;
        skb.restore(&slot.frame, slot.len)?;
        Some((slot.previous, slot.endpoint))
    })?
}

/// Whether [`release`] can send copies of a packet that goes this way: what the
/// kernel's neighbour output would find out has to be known.
#[inline(always)]
pub fn is_copyable<S, T: Tables, E>(seam: &Seam<S, T, E>, verdict: Verdict) -> bool {
    match verdict {
        Verdict::Neighbour { ifindex, next_hop } if ifindex != Flow::LOOPBACK => {
            let next = seam.tables.next_hop(NextHop::slot(next_hop, ifindex));
            next.is(next_hop, ifindex) && next.mac != MacAddr::ZERO
        }
        Verdict::Pass => false,
        _ => true,
    }
}

/// Has the fragments of a datagram that have waited for its first come in again,
/// where it is known now how they go on. What is in hand stays as it is; whether it
/// could.
#[inline(never)]
pub fn readmit<S: Skb, T: Tables, E: Env>(seam: &mut Seam<S, T, E>, rare: &Rare) -> bool {
    let key = rare.fragment_key();
    let Some(chain) = take_chain(seam, &key) else {
        return true;
    };
    // Others take the frame's place meanwhile.
    let aside = seam.tables.next_ticket();
    let len = seam.skb.l3_len();
    if !save(seam, &key, aside, EndpointId::NONE, len) {
        return true;
    }
    seam.tables.with_held(aside, |slot| slot.ticket = aside);
    let device = seam.skb.ifindex();
    let mut ticket = chain;
    E::repeat(MOST_HELD, |_| match readmit_held(seam, &key, ticket, device) {
        Some(previous) => {
            ticket = previous;
            ticket != 0
        }
        None => false,
    });
    restore(seam, &key, aside).is_some()
}

/// Has the held fragment with that ticket come in again where it came from: from its
/// namespace, which may be gone meanwhile, or by `device`; returns the one before it.
#[inline(always)]
fn readmit_held<S: Skb, T: Tables, E>(
    seam: &mut Seam<S, T, E>,
    key: &FragmentKey,
    ticket: u32,
    device: u32,
) -> Option<u32> {
    let (previous, id) = restore(seam, key, ticket)?;
    let ifindex = if id == EndpointId::NONE {
        device
    } else if let Some(endpoint) = seam.tables.endpoint(id) {
        endpoint.ifindex
    } else {
        seam.tables.count_drop(id, DropReason::EndpointGone);
        return Some(previous);
    };
    if !seam.skb.come_in_again(ifindex) {
        seam.tables.count_drop(id, DropReason::Fragment);
    }
    Some(previous)
}

/// Forgets the fragments that have waited for the first of a datagram.
///
/// Not inlined, nor is [`announce`]: behind who calls them [`release`] needs the stack.
#[inline(never)]
pub fn forget<S, T: Tables, E: Env>(seam: &mut Seam<S, T, E>, rare: &Rare) {
    take_chain(seam, &rare.fragment_key());
}

/// Sends the fragments of a datagram that have waited for its first: behind the
/// one in hand, which is translated, unless that is held with them.
///
/// Returns what becomes of the fragment in hand.
#[inline(never)]
pub fn release<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    rare: &Rare,
    forward: Forward,
) -> Verdict {
    let key = rare.fragment_key();
    let is_held = rare.is_held;
    let Some(chain) = take_chain(seam, &key) else {
        return if is_held { Verdict::Held } else { forward.verdict };
    };
    let Some(entry) = dnat::lookup(seam, &rare.packet.tuple) else {
        return forward.verdict;
    };
    let flow = entry.get();
    let Some(verdict) = copyable(seam, &flow, forward.verdict) else {
        return forward.verdict;
    };
    if !is_held && !seam.skb.send_copy(verdict) {
        return forward.verdict;
    }
    let Some(macs) = seam.skb.read::<MACS>(0) else {
        return Verdict::Sent;
    };
    let mut ticket = chain;
    E::repeat(MOST_HELD, |_| {
        match send_held(seam, &key, ticket, &flow, verdict, &macs, forward.counter) {
            Some(previous) => {
                ticket = previous;
                ticket != 0
            }
            None => false,
        }
    });
    if is_held { Verdict::Held } else { Verdict::Sent }
}

/// Tells the fragments of a datagram whose first has come where they belong.
#[inline(never)]
pub fn announce<S, T: Tables, E: Env>(seam: &mut Seam<S, T, E>, rare: &Rare, state: u32) {
    let key = rare.fragment_key();
    if known(seam, &key).is_none() {
        return;
    }
    let now = seam.env.now();
    if let Some(mut entry) = seam.tables.fragments(&key, now) {
        entry.announce(rare.packet.tuple.sport, rare.packet.tuple.dport, state);
    }
}

/// Takes the chain of held fragments, whose first ticket it returns.
#[inline(always)]
fn take_chain<S, T: Tables, E: Env>(seam: &mut Seam<S, T, E>, key: &FragmentKey) -> Option<u32> {
    let now = seam.env.now();
    let mut entry = seam.tables.fragments(key, now)?;
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        attempt += 1;
        let chain = entry.get().held;
        if chain == 0 {
            return None;
        }
        if entry.replace_held(chain, 0) {
            return Some(chain);
        }
    }
    None
}

/// The way that copies of a packet take, if it [`is_copyable`].
#[inline(always)]
fn copyable<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    flow: &Flow,
    verdict: Verdict,
) -> Option<Verdict> {
    match verdict {
        Verdict::Peer { .. }
        | Verdict::Uplink { .. }
        | Verdict::Neighbour { ifindex: Flow::LOOPBACK, .. } => Some(verdict),
        Verdict::Neighbour { ifindex, next_hop } => {
            let next = seam.tables.next_hop(NextHop::slot(next_hop, ifindex));
            if !next.is(flow.next_hop, flow.uplink) || next.mac == MacAddr::ZERO {
                return None;
            }
            rewrite::macs(&mut seam.skb, next.mac, next.source_mac)?;
            Some(Verdict::Uplink { ifindex })
        }
        _ => None,
    }
}

/// The hops that fragments go with the first of a datagram, which is in hand.
#[inline(always)]
fn hops(skb: &impl Skb, flow: &Flow) -> u8 {
    if flow.kind.is_to_endpoint() { dnat::hops(skb) } else { snat::hops(flow) }
}

/// Sends the held fragment with that ticket, if it still waits; returns the one
/// before it.
#[inline(always)]
fn send_held<S: Skb, T: Tables, E>(
    seam: &mut Seam<S, T, E>,
    key: &FragmentKey,
    ticket: u32,
    flow: &Flow,
    verdict: Verdict,
    macs: &[u8; MACS],
    counter: Counter,
) -> Option<u32> {
    let (previous, _) = restore(seam, key, ticket)?;
    let header = Header::load(&seam.skb)?;
    if header.ttl <= 1 && !seam.skb.is_from_host() {
        seam.tables.count_drop(flow.endpoint, DropReason::TtlExceeded);
        return Some(previous);
    }
    let ttl = header.ttl - hops(&seam.skb, flow);
    rewrite::ip_header(&mut seam.skb, &header, flow, ttl)?;
    seam.skb.write(0, *macs)?;
    if seam.skb.send_copy(verdict) {
        let bytes = seam.skb.l3_len();
        seam.tables.count(flow.endpoint, counter, bytes);
    } else {
        seam.tables.count_drop(flow.endpoint, DropReason::Fragment);
    }
    Some(previous)
}
