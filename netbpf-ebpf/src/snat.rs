//! Namespace to outside: the packet leaves with the uplink's address.

use netbpf_common::{
    Counter, DropReason, Endpoint, EndpointId, Flow, FlowKind, Ipv4, MacAddr, PortOwner,
    Translation, Tuple, proto,
};

use crate::{
    Forward, Stop, Verdict, dnat, flow,
    flow::NewFlow,
    next_hop,
    parse::{self, Packet, Translate},
    ports, rewrite, route,
    seam::{Env, FlowEntry, Seam, Skb, Tables},
    wire::eth::Eth,
};

/// Decides about a packet to the gateway's MAC: out by its flow.
///
/// # Errors
/// Why it goes nowhere; [`Stop::NeedsFlow`] if it is the first of its flow,
/// [`Stop::NeedsRoute`] if [`crate::route::recheck`] is due.
#[inline(always)]
pub fn by_flow<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    what: &impl Translate,
) -> Result<Forward, Stop> {
    let packet = what.packet();
    if packet.header.ttl <= 1 {
        if !what.is_rare() {
            return Err(Stop::Rare);
        }
        // The stack answers with "time exceeded", unless to it that is the host's.
        match back_in(seam, id, packet) {
            BackIn::No => return Ok(Forward::PASS),
            BackIn::Namespace => return Err(DropReason::TtlExceeded.into()),
            BackIn::Host => {}
        }
    }
    // Asked first: between a look-up and the use of what is found, a call would cost more.
    let now = if what.is_rare() { seam.env.now() } else { seam.env.now_at_hand() };
    let key = T::key(&packet.tuple);
    let mut entry = seam.tables.flow(&key).ok_or(Stop::NeedsFlow)?;
    let flow = entry.get();
    // A tuple that only packets from outside carry: not a flow of ours.
    if flow.kind.is_to_endpoint() {
        return Ok(Forward::PASS);
    }
    if flow.endpoint != id {
        return Err(DropReason::SourceAddress.into());
    }
    if flow.route_epoch != Flow::epoch(now) && !what.is_error() {
        return Err(Stop::NeedsRoute);
    }
    // And sends it by `to_uplink`, with the namespace's address so far.
    if flow.is_by_stack() {
        return Ok(Forward::PASS);
    }
    let hop = next_hop::find(seam, &flow, now);
    // The stack fragments it or answers with "fragmentation needed", or resolves the
    // next hop.
    let is_too_large = packet.is_longer_than(&seam.skb, hop.mtu)
        || flow.kind.is_narrow()
            // (The packet itself has no address, and is in registers.)
            && route::is_too_narrow(seam, flow.endpoint, &key, packet.len, packet.headers_len);
    if is_too_large {
        return Ok(Forward::PASS);
    }
    if !what.is_error() {
        flow::track(seam, &mut entry, &flow, packet, now);
    }
    rewrite::trim(&mut seam.skb, packet.len).ok_or(DropReason::Rewrite)?;
    let ttl = packet.header.ttl.saturating_sub(hops(&flow));
    what.translate(&mut seam.skb, &flow, ttl).ok_or(DropReason::Rewrite)?;
    let verdict = next_hop::send(&mut seam.skb, &flow, &hop)?;
    Ok(Forward { counter: counter(&flow), verdict })
}

/// Decides about a packet that the stack has forwarded and that is about to
/// leave by an uplink: it stays as it is, but for addresses and ports.
///
/// # Errors
/// As [`by_flow`].
#[inline(always)]
pub fn by_stack<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    what: &impl Translate,
) -> Result<Forward, Stop> {
    let packet = what.packet();
    let mut entry = seam.tables.flow(&packet.tuple).ok_or(Stop::NeedsFlow)?;
    let flow = entry.get();
    if flow.kind.is_to_endpoint() {
        return Err(DropReason::PrivateSource.into());
    }
    // The stack's way is the newer one.
    if flow.uplink != seam.skb.ifindex() && !flow.kind.is_dnat() {
        flow::remove(seam, &packet.tuple);
        return Err(Stop::NeedsFlow);
    }
    if !what.is_error() {
        let now = seam.env.now();
        flow::track(seam, &mut entry, &flow, packet, now);
    }
    what.translate(&mut seam.skb, &flow, packet.header.ttl).ok_or(DropReason::Rewrite)?;
    Ok(Forward { counter: counter(&flow), verdict: Verdict::Pass })
}

/// The hops that packets go out by a flow: what comes in again by the loopback device is
/// forwarded there, if it is not the host's.
#[inline(always)]
pub(crate) fn hops(flow: &Flow) -> u8 {
    u8::from(flow.uplink != Flow::LOOPBACK)
}

/// The row in which packets of this flow are counted.
#[must_use]
#[inline(always)]
pub fn counter(flow: &Flow) -> Counter {
    if flow.kind.is_dnat() { Counter::Dnat } else { Counter::Snat }
}

/// Makes a flow for a packet that [`by_flow`] found none for, if it is one that
/// leaves by an uplink or comes back in by the host's own address. The packet is
/// read anew unless it is given.
///
/// # Errors
/// [`Stop::ToStack`] if the packet is the stack's, or why it goes nowhere.
#[inline(always)]
pub fn open<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    packet: Option<&Packet>,
) -> Result<(), Stop> {
    let mut new = NewFlow::default();
    plan(seam, id, packet, &mut new)?;
    ports::allocate(seam, &mut new, true)?;
    new.open(seam)?;
    Ok(())
}

/// What the flow is to be. Reads the packet anew: the first of a flow pays for
/// that, and all the others have a smaller stack frame. (Not inlined: so the
/// frames of the steps that make a flow do not add up.)
#[inline(never)]
pub(crate) fn plan<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    packet: Option<&Packet>,
    new: &mut NewFlow,
) -> Result<(), Stop> {
    let endpoint = seam.tables.endpoint(id).ok_or(DropReason::EndpointGone)?;
    let packet = parse::given_or_read(&seam.skb, packet)?;
    let Packet { tuple, may_open, .. } = packet;
    if is_stacks(seam, &endpoint, &tuple) {
        return Err(Stop::ToStack);
    }
    let way = seam.env.route(endpoint.bridge_ifindex, &tuple);
    let source = if way.ifindex == Flow::LOOPBACK {
        if !may_open || !leads_back_in(seam, &tuple) {
            return Err(Stop::ToStack);
        }
        // It comes from the address that it goes to (RFC 4787 REQ-9).
        tuple.daddr
    } else {
        let uplink = seam.tables.uplink(way.ifindex).ok_or(Stop::ToStack)?;
        let mtu = if way.mtu == 0 { uplink.mtu } else { way.mtu };
        // It ends or answers what nobody knows: it must not open a flow, nor
        // leave untranslated.
        if !may_open {
            return Err(DropReason::NoFlow.into());
        }
        if packet.is_longer_than(&seam.skb, mtu) && seam.skb.ifindex() != way.ifindex {
            return Err(Stop::ToStack);
        }
        if way.source == Ipv4::ANY { uplink.addr } else { way.source }
    };
    flow::admit(seam, id, &endpoint)?;
    // The flow is made when the host's rules have let the packet by.
    let is_at_port = seam.skb.ifindex() == endpoint.ifindex;
    if endpoint.is_by_stack() && is_at_port && way.ifindex != Flow::LOOPBACK {
        return Err(Stop::ToStack);
    }
    *new = NewFlow {
        original: tuple,
        translated: Translation { saddr: source, ..tuple.into() },
        kind: FlowKind::SNAT_ORIGINAL
            .with_narrow(route::is_narrow(seam, &way))
            .by_stack(endpoint.is_by_stack()),
        endpoint: id,
        mac: source_mac(seam, &endpoint).ok_or(DropReason::Truncated)?,
        uplink: way.ifindex,
        next_hop: way.next_hop,
        now: seam.env.now(),
        ..NewFlow::default()
    };
    Ok(())
}

/// To whom a packet of a namespace is that comes in again by the loopback device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum BackIn {
    /// Nobody: it does not.
    No,
    /// A namespace.
    Namespace,
    /// The host, which had asked.
    Host,
}

/// Whether a packet of a namespace is to an address of the host and comes in again
/// by the loopback device: there is a flow by which it does, or one would be made.
///
/// Not inlined, as it is rare.
#[inline(never)]
pub(crate) fn back_in<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    packet: &Packet,
) -> BackIn {
    if let Some(entry) = seam.tables.flow(&packet.tuple) {
        let flow = entry.get();
        let is_own = flow.endpoint == id && !flow.kind.is_to_endpoint();
        return match flow.next_hop {
            _ if !is_own || flow.uplink != Flow::LOOPBACK => BackIn::No,
            Flow::HOST => BackIn::Host,
            _ => BackIn::Namespace,
        };
    }
    let Some(endpoint) = seam.tables.endpoint(id) else {
        return BackIn::No;
    };
    let bridge = endpoint.bridge_ifindex;
    let is_hairpin = packet.may_open
        && !is_stacks(seam, &endpoint, &packet.tuple)
        && seam.env.route(bridge, &packet.tuple).ifindex == Flow::LOOPBACK
        && leads_back_in(seam, &packet.tuple);
    if is_hairpin { BackIn::Namespace } else { BackIn::No }
}

/// Whether no flow leads to where a packet is for, however it is routed.
#[inline(always)]
fn is_stacks<S: Skb, T: Tables, E>(
    seam: &Seam<S, T, E>,
    endpoint: &Endpoint,
    tuple: &Tuple,
) -> bool {
    let is_to_gateway = tuple.daddr == endpoint.gateway;
    tuple.daddr.is_martian()
        || is_to_gateway && !ports::is_published(seam, tuple.proto, tuple.dport)
}

/// Whether a packet to an address of the host is for a published port, or for
/// the outside port of a namespace.
#[inline(always)]
fn leads_back_in<S: Skb, T: Tables, E: Env>(seam: &Seam<S, T, E>, tuple: &Tuple) -> bool {
    let mapped = PortOwner::index(tuple.proto, tuple.dport.number())
        .filter(|_| tuple.proto != proto::ICMP)
        .is_some_and(|index| seam.tables.port_owner(index).flows() != 0);
    mapped || dnat::lookup_published(seam, tuple, true).is_some()
}

/// The MAC of whoever in the namespace sends this: on a nested bridge there are
/// several. What the stack has forwarded does not tell any more.
#[inline(always)]
fn source_mac<S: Skb, T, E>(seam: &Seam<S, T, E>, endpoint: &Endpoint) -> Option<MacAddr> {
    if seam.skb.ifindex() != endpoint.ifindex {
        return Some(endpoint.mac);
    }
    Eth::load(&seam.skb).map(|eth| eth.src)
}
