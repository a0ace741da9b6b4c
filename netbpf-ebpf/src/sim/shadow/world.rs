//! What the shadow knows of the host around it.

use netbpf_common::{Endpoint, EndpointId, Flow, Ipv4, MacAddr, NextHop, PublishEntry, Uplink};

use super::{Shadow, seconds};
use crate::sim::Sim;

/// A next hop, as it was when the kernel was last asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hop {
    pub(super) addr: Ipv4,
    pub(super) ifindex: u32,
    pub(super) asked: u64,
    /// Its MAC and the uplink's; zero if unknown.
    pub(super) macs: (MacAddr, MacAddr),
    pub(super) mtu: usize,
    /// Whether it is unresolved, and the stack gets the packet: every other one.
    pub(super) is_left_to_stack: bool,
}

/// What the routing table says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) ifindex: u32,
    pub(super) next_hop: Ipv4,
    source: Ipv4,
}

pub(super) fn endpoint(world: &Sim, id: EndpointId) -> Option<&Endpoint> {
    world.tables.endpoints.get(&id)
}

/// Whether the host's own rules say what becomes of its packets.
pub(super) fn has_rules(endpoint: &Endpoint) -> bool {
    endpoint.flags & 2 != 0
}

/// Whether two namespaces are kept apart, as the one that sends has it.
pub(super) fn are_apart(
    world: &Sim,
    (from, endpoint): (EndpointId, &Endpoint),
    to: EndpointId,
) -> bool {
    let is_pair = |ids: [EndpointId; 2]| ids.contains(&from) && ids.contains(&to) && from != to;
    endpoint.flags & 4 != 0 && !world.tables.allowed.iter().any(|pair| is_pair(pair.both()))
}

pub(super) fn uplink(world: &Sim, ifindex: u32) -> Option<&Uplink> {
    world.tables.uplinks.get(&ifindex)
}

pub(super) fn is_private(world: &Sim, addr: Ipv4) -> bool {
    let mut subnets = world.tables.subnets.iter();
    subnets.any(|(subnet, mask)| addr.to_host() & mask.to_host() == subnet.to_host())
}

pub(super) fn owner(world: &Sim, addr: Ipv4) -> Option<EndpointId> {
    world.tables.addresses.get(&addr).copied()
}

/// No host's address.
pub(super) fn is_martian(addr: Ipv4) -> bool {
    let is_group = addr.octets()[0] & 0xf0 == 0xe0;
    is_group || addr.is_loopback() || [Ipv4::ANY, Ipv4::new([255; 4])].contains(&addr)
}

pub(super) fn route(world: &Sim, to: Ipv4) -> Route {
    for (subnet, mask, way) in &world.env.routes {
        if to.to_host() & mask.to_host() == subnet.to_host() {
            let is_on_link = way.next_hop == Ipv4::ANY && way.ifindex != 0;
            let next_hop = if is_on_link { to } else { way.next_hop };
            return Route { ifindex: way.ifindex, next_hop, source: way.source };
        }
    }
    Route { ifindex: 0, next_hop: Ipv4::ANY, source: Ipv4::ANY }
}

impl Route {
    pub(super) fn is_local(&self) -> bool {
        self.ifindex == Flow::LOOPBACK
    }

    /// The address that packets carry which leave by it: only uplinks have one.
    pub(super) fn source(&self, world: &Sim) -> Option<Ipv4> {
        let uplink = uplink(world, self.ifindex)?;
        Some(if self.source == Ipv4::ANY { uplink.addr } else { self.source })
    }
}

/// The published range that a packet is for: one on the very address comes first.
pub(super) fn published(
    world: &Sim,
    (addr, port): (Ipv4, u16),
    ip_proto: u8,
    is_hosts: bool,
) -> Option<&PublishEntry> {
    let on = |host: Ipv4| {
        let fits = move |e: &&PublishEntry| {
            let holds = (e.first()..=e.last).contains(&port);
            e.proto() == ip_proto && e.host_addr() == host && holds
        };
        world.tables.published.iter().find(fits)
    };
    let exact = if is_hosts || !is_martian(addr) { on(addr) } else { None };
    exact.or_else(|| if is_hosts { on(Ipv4::ANY) } else { None })
}

impl Shadow {
    /// The next hop, and whether the kernel has just been asked for it: then it is
    /// the kernel that sends the packet on. Answers are good for half a second.
    pub(super) fn hop(&mut self, world: &Sim, addr: Ipv4, ifindex: u32) -> (Hop, bool) {
        let is_it = |hop: &&Hop| (hop.addr, hop.ifindex) == (addr, ifindex);
        let old = self.hops.iter().find(is_it);
        if let Some(hop) = old
            && self.now - hop.asked < 8
            && hop.macs.0 != MacAddr::ZERO
        {
            return (*hop, false);
        }
        let known = world.env.neighbours.get(&addr).copied().unwrap_or_default();
        let uplink = uplink(world, ifindex);
        // By an uplink that is gone there is no way.
        let (macs, mtu) = match uplink {
            Some(uplink) if known.mtu == 0 => ((known.mac, known.source_mac), uplink.mtu),
            Some(_) => ((known.mac, known.source_mac), known.mtu),
            None => Default::default(),
        };
        let is_unresolved = |hop: &Hop| hop.macs.0 == MacAddr::ZERO && hop.mtu != 0;
        let was_sent = old.is_some_and(|hop| is_unresolved(hop) && !hop.is_left_to_stack);
        let is_left_to_stack = uplink.is_some() && macs.0 == MacAddr::ZERO && was_sent;
        let mtu = mtu as usize;
        let hop = Hop { addr, ifindex, asked: self.now, macs, mtu, is_left_to_stack };
        // There is a place for each, but some have the same one.
        let slot = NextHop::slot(addr, ifindex);
        self.hops.retain(|hop| NextHop::slot(hop.addr, hop.ifindex) != slot);
        self.hops.push(hop);
        (hop, true)
    }

    /// The MACs of a next hop that has just been asked for, and the uplink's, if known.
    pub(super) fn resolved(&self, addr: Ipv4, ifindex: u32) -> Option<(MacAddr, MacAddr)> {
        let hop = self.hops.iter().find(|hop| (hop.addr, hop.ifindex) == (addr, ifindex))?;
        (hop.macs.0 != MacAddr::ZERO).then_some(hop.macs)
    }

    /// The namespace behind which a MAC is: where it belongs, or where it was last
    /// seen, not too long ago.
    pub(super) fn behind(&self, world: &Sim, mac: MacAddr) -> Option<EndpointId> {
        if let Some(entry) = world.tables.fdb.get(&mac) {
            return Some(entry.endpoint);
        }
        let (_, id, last) = self.macs.iter().find(|(known, ..)| *known == mac)?;
        (self.now - last < seconds(300)).then_some(*id)
    }
}
