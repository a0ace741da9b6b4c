//! Outside to namespace: answers to what a namespace opened, and published ports.

use netbpf_common::{
    DropReason, Endpoint, EndpointId, Flow, FlowKind, Ipv4, PublishEntry, Translation, Tuple,
};

use crate::{
    Forward, Stop, Verdict, flow,
    flow::NewFlow,
    parse::{self, Packet, Translate},
    ports, rewrite, route,
    seam::{Env, FlowEntry, InsertError, Route, Seam, Skb, Tables},
    snat,
    wire::ipv4::Header,
};

/// Steps of a binary search over the largest table of published ports.
const SEARCH_STEPS: u32 = 12;

/// Decides about a packet from outside: into a namespace by its flow, whose
/// endpoint `id` becomes.
///
/// # Errors
/// Why it goes nowhere; [`Stop::NeedsFlow`] if there is no flow, [`Stop::Rare`]
/// if [`by_stack`] has to help.
#[inline(always)]
pub fn by_flow<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    what: &impl Translate,
    id: &mut EndpointId,
) -> Result<Forward, Stop> {
    let packet = what.packet();
    // Asked first: between a look-up and the use of what is found, a call would cost more.
    let now = if what.is_rare() { seam.env.now() } else { seam.env.now_at_hand() };
    let mut entry = lookup(seam, &packet.tuple).ok_or(Stop::NeedsFlow)?;
    let flow = entry.get();
    // A tuple that only packets from inside carry: somebody outside pretends.
    if !leads_in(seam, &flow) {
        return Err(Stop::NeedsFlow);
    }
    if flow.kind.is_host() {
        return Err(Stop::Rare);
    }
    *id = flow.endpoint;
    let endpoint = seam.tables.endpoint(flow.endpoint).ok_or(DropReason::EndpointGone)?;
    if flow.is_by_stack() {
        return Err(Stop::Rare);
    }
    deliverable(seam, packet, &endpoint)?;
    if !what.is_error() {
        flow::track(seam, &mut entry, &flow, packet, now);
    }
    rewrite::trim(&mut seam.skb, packet.len).ok_or(DropReason::Rewrite)?;
    let ttl = packet.header.ttl - hops(&seam.skb);
    what.translate(&mut seam.skb, &flow, ttl).ok_or(DropReason::Rewrite)?;
    rewrite::macs(&mut seam.skb, flow.mac, endpoint.gateway_mac).ok_or(DropReason::Rewrite)?;
    Ok(Forward {
        counter: snat::counter(&flow),
        verdict: Verdict::Peer { ifindex: endpoint.ifindex },
    })
}

/// The hops that a packet goes into a namespace: the host sends its own packets, it does
/// not forward them.
#[inline(always)]
pub(crate) fn hops(skb: &impl Skb) -> u8 {
    u8::from(!skb.is_from_host())
}

/// Decides about a packet from outside that the stack is to take on once its
/// addresses and ports are translated: it fragments what is too large, follows
/// IP options, delivers what is the host's own, and has the host's rules look at
/// what is to go by them.
///
/// # Errors
/// As [`by_flow`].
#[inline(always)]
pub fn by_stack<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    what: &impl Translate,
    id: &mut EndpointId,
) -> Result<Forward, Stop> {
    let packet = what.packet();
    let mut entry = lookup(seam, &packet.tuple).ok_or(Stop::NeedsFlow)?;
    let flow = entry.get();
    if !leads_in(seam, &flow) {
        return Err(Stop::NeedsFlow);
    }
    if !flow.kind.is_host() {
        *id = flow.endpoint;
    }
    if !what.is_error() {
        let now = seam.env.now();
        flow::track(seam, &mut entry, &flow, packet, now);
    }
    what.translate(&mut seam.skb, &flow, packet.header.ttl).ok_or(DropReason::Rewrite)?;
    Ok(Forward { counter: snat::counter(&flow), verdict: Verdict::Pass })
}

/// Whether the flow takes the packet in hand into a namespace, or to the host: not if the
/// one is from outside and the other the loopback device's.
#[inline(always)]
pub(crate) fn leads_in<S: Skb, T, E>(seam: &Seam<S, T, E>, flow: &Flow) -> bool {
    let is_elsewhere = flow.uplink == Flow::LOOPBACK && seam.skb.ifindex() != Flow::LOOPBACK;
    flow.kind.is_to_endpoint() && !is_elsewhere
}

/// The flow of a packet from outside or from the host itself.
#[inline(always)]
pub(crate) fn lookup<S: Skb, T: Tables, E>(
    seam: &mut Seam<S, T, E>,
    tuple: &Tuple,
) -> Option<T::Flow> {
    if seam.skb.is_from_host() {
        lookup_from_host(seam, tuple)
    } else {
        seam.tables.flow(&T::key(tuple))
    }
}

/// What the host sends has flows of its own, and answers those of namespaces that
/// have come to it by its own address.
///
/// Not inlined, as it is rare.
#[inline(never)]
fn lookup_from_host<S, T: Tables, E>(seam: &mut Seam<S, T, E>, tuple: &Tuple) -> Option<T::Flow> {
    if let Some(entry) = seam.tables.flow(&Tuple { from_host: 1, ..*tuple }) {
        return Some(entry);
    }
    seam.tables.flow(tuple).filter(|entry| entry.get().kind.is_reply())
}

/// Whether a packet can be taken into the namespace. The stack cannot help as
/// long as it is not translated: to it the packet is one for the host.
#[inline(always)]
fn deliverable<S: Skb, T, E>(
    seam: &Seam<S, T, E>,
    packet: &Packet,
    endpoint: &Endpoint,
) -> Result<(), Stop> {
    if packet.header.ttl <= 1 && !seam.skb.is_from_host() {
        return Err(DropReason::TtlExceeded.into());
    }
    // From the host itself, whose loopback device takes 64 KiB, it goes in whole.
    if !packet.is_longer_than(&seam.skb, endpoint.mtu) || seam.skb.ifindex() == Flow::LOOPBACK {
        return Ok(());
    }
    if packet.header.may_be_fragmented() {
        return Err(Stop::Rare);
    }
    Err(DropReason::TooBig.into())
}

/// What comes from the uplink and belongs to no flow and no published port is
/// the host's, unless it tries to reach a namespace by its own address or says
/// to come from one: [`Stop::ToStack`], or [`DropReason::NotPublished`] and
/// [`DropReason::SourceAddress`]. On the loopback device everything is the host's.
#[inline(always)]
pub fn to_stack<S: Skb, T: Tables, E>(seam: &Seam<S, T, E>, header: &Header) -> Stop {
    if seam.skb.ifindex() == Flow::LOOPBACK {
        Stop::ToStack
    } else if seam.tables.is_private(header.daddr) {
        DropReason::NotPublished.into()
    } else if seam.tables.is_private(header.saddr) {
        DropReason::SourceAddress.into()
    } else {
        Stop::ToStack
    }
}

/// The published range that a packet is for: one on its very address first, and
/// then one on any, if the address is the host's.
#[inline(always)]
pub fn lookup_published<S: Skb, T: Tables, E: Env>(
    seam: &Seam<S, T, E>,
    tuple: &Tuple,
    is_hosts: bool,
) -> Option<T::Ref<PublishEntry>> {
    if !ports::is_published(seam, tuple.proto, tuple.dport) {
        return None;
    }
    let port = tuple.dport.number();
    let exact = PublishEntry::order_of(tuple.proto, tuple.daddr, port);
    let any = PublishEntry::order_of(tuple.proto, Ipv4::ANY, port);
    // What is on the loopback address is for the host alone.
    if (is_hosts || !tuple.daddr.is_martian())
        && let Some(found) = search(seam, exact)
    {
        return Some(found);
    }
    if is_hosts { search(seam, any) } else { None }
}

/// Whether a packet's destination is an address on which "any address" is
/// published: all that the host has, but not its namespaces' gateways as seen
/// from outside. By the loopback device comes nothing else.
#[inline(always)]
fn is_to_host<S: Skb, T: Tables, E: Env>(seam: &mut Seam<S, T, E>, tuple: &Tuple) -> bool {
    let ifindex = seam.skb.ifindex();
    if ifindex == Flow::LOOPBACK {
        return true;
    }
    match seam.tables.uplink(ifindex) {
        Some(uplink) if uplink.is_broadcast(tuple.daddr) => false,
        _ => route::is_local(seam, ifindex, tuple.daddr),
    }
}

/// Binary search for the entry that holds `order`: the last one not above it
/// is the only candidate.
#[inline(always)]
fn search<S, T: Tables, E: Env>(seam: &Seam<S, T, E>, order: u64) -> Option<T::Ref<PublishEntry>> {
    let (mut low, mut len) = seam.tables.published_bounds();
    let mut found = None;
    E::repeat(SEARCH_STEPS, |_| {
        let half = len / 2;
        let Some(entry) = seam.tables.published(low + half).filter(|_| len != 0) else {
            return false;
        };
        if entry.order <= order {
            found = Some(low + half);
            low += half + 1;
            len -= half + 1;
        } else {
            len = half;
        }
        true
    });
    seam.tables.published(found?).filter(|entry| entry.holds(order))
}

/// Makes a flow for a packet that [`by_flow`] found none for, if its port is
/// published; `id` becomes the endpoint that it leads to. The packet is read anew
/// unless it is given.
///
/// # Errors
/// [`Stop::ToStack`] if the packet is the host's, or why it goes nowhere.
#[inline(always)]
pub fn open<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: &mut EndpointId,
    packet: Option<&Packet>,
) -> Result<(), Stop> {
    let mut new = NewFlow::default();
    plan(seam, id, packet, &mut new)?;
    if reserve(seam, &mut new)? {
        ports::allocate(seam, &mut new, false)?;
    }
    new.open(seam)?;
    Ok(())
}

/// Reserves the tuple of the answers; whether the flow needs another source port for
/// that. That is so where the client's has an answer already: it came from the same
/// port by another address or published port of the host, or the namespace has written
/// to it from the very port that is published. The host's own packets come from the
/// gateway's address then, and always do if they are from a loopback address, to which
/// no namespace can answer.
#[inline(always)]
fn reserve<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    new: &mut NewFlow,
) -> Result<bool, DropReason> {
    if !new.translated.saddr.is_loopback() {
        match new.reserve_own(seam) {
            Ok(()) => return Ok(false),
            Err(InsertError::Exists) if new.kind.is_from_host() => {}
            Err(InsertError::Exists) => return Ok(true),
            Err(InsertError::Full) => return Err(DropReason::FlowTableFull),
        }
    }
    let endpoint = seam.tables.endpoint(new.endpoint).ok_or(DropReason::EndpointGone)?;
    new.translated.saddr = endpoint.gateway;
    Ok(true)
}

/// The namespace that a packet is for, by a published port or, where that is
/// asked for, by its own address; `translated` becomes where it goes to.
#[inline(always)]
fn lookup_target<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    tuple: &Tuple,
    translated: &mut Translation,
) -> Option<EndpointId> {
    let is_outside = seam.skb.ifindex() != Flow::LOOPBACK;
    if is_outside && tuple.daddr.is_martian() {
        return None;
    }
    if is_outside && seam.tables.is_private(tuple.daddr) {
        let owner = seam.tables.address_owner(tuple.daddr)?;
        return seam.tables.endpoint(owner)?.is_routed().then_some(owner);
    }
    if !ports::is_published(seam, tuple.proto, tuple.dport) {
        return None;
    }
    let is_hosts = is_to_host(seam, tuple);
    let published = lookup_published(seam, tuple, is_hosts)?;
    translated.daddr = published.target;
    translated.dport = published.target_of(tuple.dport.number());
    Some(published.endpoint)
}

/// What the flow is to be; not inlined, as `snat::plan`.
#[inline(never)]
fn plan<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: &mut EndpointId,
    packet: Option<&Packet>,
    new: &mut NewFlow,
) -> Result<(), Stop> {
    let packet = parse::given_or_read(&seam.skb, packet)?;
    let tuple = packet.tuple;
    let mut translated = Translation::from(tuple);
    match lookup_target(seam, &tuple, &mut translated) {
        Some(target) => *id = target,
        None if flow::is_moving(seam, &tuple) => return Err(DropReason::FlowsMove.into()),
        None => return Err(to_stack(seam, &packet.header)),
    }
    let endpoint = seam.tables.endpoint(*id).ok_or(DropReason::EndpointGone)?;
    let is_inside = seam.skb.ifindex() == Flow::LOOPBACK;
    if !packet.may_open {
        return Err(if is_inside { Stop::ToStack } else { DropReason::NoFlow.into() });
    }
    let is_from_host = seam.skb.is_from_host();
    let way = if is_from_host {
        Route::of(Flow::LOOPBACK, Flow::HOST)
    } else if is_inside {
        Route::LOCAL
    } else {
        if seam.tables.is_private(tuple.saddr) {
            return Err(DropReason::SourceAddress.into());
        }
        // Answers leave where the routing table sends them, which need not be
        // where the question came in. Who cannot be answered by an uplink is the
        // stack's: the host itself, a martian, somebody behind a blackhole.
        let way = seam.env.route(endpoint.bridge_ifindex, &tuple.reversed());
        if tuple.saddr.is_martian() || seam.tables.uplink(way.ifindex).is_none() {
            return Err(Stop::ToStack);
        }
        way
    };
    // Asked here too: what is dropped makes no flow. (With options it is the stack
    // that judges, once it is translated.)
    match deliverable(seam, &packet, &endpoint) {
        Err(stop @ Stop::Dropped(_)) if !packet.header.has_options() => return Err(stop),
        _ => {}
    }
    flow::admit(seam, *id, &endpoint)?;
    let from_host = if is_from_host { FlowKind::FROM_HOST } else { 0 };
    let kind = FlowKind(FlowKind::DNAT_ORIGINAL.0 | from_host);
    *new = NewFlow {
        original: Tuple { from_host: u8::from(is_from_host), ..tuple },
        translated,
        kind: kind.with_narrow(route::is_narrow(seam, &way)).by_stack(endpoint.is_by_stack()),
        endpoint: *id,
        mac: endpoint.mac,
        uplink: way.ifindex,
        next_hop: way.next_hop,
        now: seam.env.now(),
        ..NewFlow::default()
    };
    Ok(())
}
