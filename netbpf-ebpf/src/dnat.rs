//! Outside to namespace: answers to what a namespace opened, and published ports.

use netbpf_common::{DropReason, Endpoint, EndpointId, FlowKind, Ipv4, PublishEntry, Translation};

use crate::{
    Forward, Stop, Verdict, flow,
    flow::NewFlow,
    parse::{self, Packet, Parsed},
    ports, rewrite,
    seam::{Env, FlowEntry, Seam, Skb, Tables},
    snat,
    wire::ipv4::Header,
};

/// Steps of a binary search over the largest table of published ports.
const SEARCH_STEPS: u32 = 12;

/// Decides about a packet from the uplink: into a namespace by its flow, whose
/// endpoint `id` becomes.
///
/// # Errors
/// Why it goes nowhere; [`Stop::NeedsFlow`] if there is no flow.
#[inline(always)]
pub fn by_flow<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    packet: &Packet,
    id: &mut EndpointId,
) -> Result<Forward, Stop> {
    let mut entry = seam.tables.flow(&packet.tuple).ok_or(Stop::NeedsFlow)?;
    let flow = entry.get();
    // A tuple that only packets from inside carry: somebody outside pretends.
    if !flow.kind.is_to_endpoint() {
        return Err(Stop::NeedsFlow);
    }
    *id = flow.endpoint;
    let endpoint = seam.tables.endpoint(flow.endpoint).ok_or(DropReason::EndpointGone)?;
    deliverable(packet, &endpoint)?;
    let now = seam.env.now();
    flow::track(seam, &mut entry, &flow, packet, now);
    rewrite::translate(&mut seam.skb, packet, &flow)?;
    rewrite::macs(&mut seam.skb, flow.mac, endpoint.gateway_mac)?;
    Ok(Forward {
        counter: snat::counter(&flow),
        verdict: Verdict::Peer { ifindex: endpoint.ifindex },
    })
}

/// Whether a packet can be taken into the namespace. The stack cannot help: to
/// it the packet is one for the host.
#[inline(always)]
fn deliverable(packet: &Packet, endpoint: &Endpoint) -> Result<(), DropReason> {
    if packet.header.ttl <= 1 {
        Err(DropReason::TtlExceeded)
    } else if packet.wire_len > endpoint.mtu {
        Err(DropReason::TooBig)
    } else {
        Ok(())
    }
}

/// What comes from the uplink and belongs to no flow and no published port is
/// the host's, unless it tries to reach a namespace by its own address or says
/// to come from one: [`Stop::ToStack`], or [`DropReason::NotPublished`] and
/// [`DropReason::SourceAddress`].
#[inline(always)]
pub fn to_stack<S, T: Tables, E>(seam: &Seam<S, T, E>, header: &Header) -> Stop {
    if seam.tables.is_private(header.daddr) {
        DropReason::NotPublished.into()
    } else if seam.tables.is_private(header.saddr) {
        DropReason::SourceAddress.into()
    } else {
        Stop::ToStack
    }
}

/// The published range that the packet is for: one on its very address first,
/// and then, if that is the address of the uplink that it came by, one on any.
#[inline(always)]
fn lookup_published<S: Skb, T: Tables, E>(
    seam: &Seam<S, T, E>,
    packet: &Packet,
) -> Option<T::Ref<PublishEntry>> {
    if !ports::is_published(seam, packet.tuple.proto, packet.tuple.dport) {
        return None;
    }
    let port = packet.tuple.dport.number();
    let exact = PublishEntry::order_of(packet.tuple.proto, packet.tuple.daddr, port);
    let any = PublishEntry::order_of(packet.tuple.proto, Ipv4::ANY, port);
    if let Some(found) = search(seam, exact) {
        return Some(found);
    }
    let uplink = seam.tables.uplink(seam.skb.ifindex())?;
    if uplink.addr == packet.tuple.daddr { search(seam, any) } else { None }
}

/// Binary search for the entry that holds `order`: the last one not above it
/// is the only candidate.
#[inline(always)]
fn search<S, T: Tables, E>(seam: &Seam<S, T, E>, order: u64) -> Option<T::Ref<PublishEntry>> {
    let (mut low, mut len) = seam.tables.published_bounds();
    let mut found = None;
    let mut step = 0;
    while step < SEARCH_STEPS && len > 0 {
        step += 1;
        let half = len / 2;
        let entry = seam.tables.published(low + half)?;
        if entry.order <= order {
            found = Some(entry);
            low += half + 1;
            len -= half + 1;
        } else {
            len = half;
        }
    }
    found.filter(|entry| entry.holds(order))
}

/// Makes a flow for a packet that [`by_flow`] found none for, if its port is
/// published; `id` becomes the endpoint that it leads to.
///
/// # Errors
/// [`Stop::ToStack`] if the packet is the host's, or why it goes nowhere.
#[inline(always)]
pub fn open<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: &mut EndpointId,
) -> Result<(), Stop> {
    let mut new = NewFlow::default();
    plan(seam, id, &mut new)?;
    new.reserve(seam)?;
    new.open(seam)?;
    Ok(())
}

/// What the flow is to be; not inlined, as `snat::plan`.
#[inline(never)]
fn plan<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: &mut EndpointId,
    new: &mut NewFlow,
) -> Result<(), Stop> {
    let header = parse::header(&seam.skb)?;
    let Parsed::Packet(packet) = parse::packet(&seam.skb, header)? else {
        return Err(Stop::ToStack);
    };
    let Some(published) = lookup_published(seam, &packet) else {
        return Err(to_stack(seam, &header));
    };
    *id = published.endpoint;
    if !packet.may_open {
        return Err(DropReason::NoFlow.into());
    }
    let endpoint = seam.tables.endpoint(*id).ok_or(DropReason::EndpointGone)?;
    if seam.tables.is_private(packet.tuple.saddr) {
        return Err(DropReason::SourceAddress.into());
    }
    // Answers leave where the routing table sends them, which need not be where
    // the question came in. Who cannot be answered by an uplink is the stack's:
    // the host itself, a martian, somebody behind a blackhole.
    let route = seam.env.route(endpoint.bridge_ifindex, &packet.tuple.reversed());
    if packet.tuple.saddr.is_martian() || seam.tables.uplink(route.ifindex).is_none() {
        return Err(Stop::ToStack);
    }
    // Asked here too: what is dropped makes no flow.
    deliverable(&packet, &endpoint)?;
    flow::admit(seam, *id, &endpoint)?;
    *new = NewFlow {
        original: packet.tuple,
        translated: Translation {
            daddr: published.target,
            dport: published.target_of(packet.tuple.dport.number()),
            ..packet.tuple.into()
        },
        kind: FlowKind::DNAT_ORIGINAL,
        endpoint: *id,
        mac: endpoint.mac,
        uplink: route.ifindex,
        next_hop: route.next_hop,
        now: seam.env.now(),
    };
    Ok(())
}
