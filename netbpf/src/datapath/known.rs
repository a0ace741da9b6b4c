//! What the eBPF datapath's maps and pins should have, as far as it follows from the
//! recorded networks; and what is there besides.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
};

use netbpf_common::{
    AllowedPair, BridgePort, Endpoint, EndpointId, FdbSlot, MacAddr,
    maps::{Addresses, BridgePorts, EndpointIds, Fdb, FdbSlots, MapDef as _},
};

use super::Kind;
use crate::{
    bpf::{Hook, Image, Places, Stray},
    observe::Observed,
    topology::{LOOPBACK, mac},
};

/// An endpoint of a network.
struct Place {
    addr: Ipv4Addr,
    mac: MacAddr,
    /// Index of the host side of its veth; nothing if that is gone.
    ifindex: Option<u32>,
}

/// What belongs to networks, those that are being changed with all that they had.
#[derive(Default)]
pub(super) struct Known {
    endpoints: HashMap<u16, Place>,
    gateways: Vec<(Ipv4Addr, MacAddr)>,
    subnets: HashSet<(Ipv4Addr, u32)>,
    /// Indexes of uplinks; of those that are gone the last one.
    uplinks: HashSet<u32>,
    /// Those by which the datapath was told of uplinks.
    noted: HashSet<u32>,
    pins: HashSet<(Hook, u32)>,
}

impl Known {
    /// What belongs to the host's networks of eBPF.
    pub(super) fn of(observed: &Observed) -> Self {
        let mut known = Self::default();
        let index = |name: &str| observed.link(name).map(|link| link.index);
        for network in observed.networks_of(Kind::Ebpf) {
            let topology = &network.topology;
            for subnet in topology.all_subnets() {
                let gateway = subnet.gateway();
                known.subnets.insert((subnet.addr(), subnet.prefix_len().into()));
                known.gateways.push((gateway, mac::generated(gateway)));
            }
            for endpoint in topology.all_endpoints() {
                let (addr, mac) = (endpoint.addr, endpoint.mac);
                let ifindex = index(endpoint.link.as_str());
                known.pins.extend(ifindex.map(|index| (Hook::FromEndpoint, index)));
                known.endpoints.insert(endpoint.id, Place { addr, mac, ifindex });
            }
            for uplink in topology.uplinks.iter().chain(&topology.leaving.uplinks) {
                // One that is gone may be back, and is guarded until then if it has but
                // another name.
                let noted = network.journal.links.get(&uplink.name).copied();
                known.noted.extend(noted);
                let Some(index) = index(uplink.name.as_str()).or(noted) else { continue };
                known.uplinks.insert(index);
                known.pins.extend(uplink.hooks().map(|hook| (hook, index)));
            }
        }
        if !known.endpoints.is_empty() {
            known.pins.extend(index(LOOPBACK).map(|index| (Hook::FromHost, index)));
        }
        known
    }

    /// The gateways that are in both maps of addresses.
    pub(super) fn gateways(&self, image: &Image) -> HashSet<Ipv4Addr> {
        let is_there = |(addr, mac): &&(Ipv4Addr, MacAddr)| {
            image.addresses.get(&(*addr).into()) == Some(&EndpointId::NONE.index())
                && image.macs.get(mac) == Some(&EndpointId::NONE)
        };
        self.gateways.iter().filter(is_there).map(|(addr, _)| *addr).collect()
    }

    /// The endpoints that are not found by all that a row of theirs has, each with a map
    /// in which that is so.
    pub(super) fn skewed(&self, image: &Image) -> HashMap<u16, &'static str> {
        let rows = image.endpoints.iter().filter(|(id, _)| self.endpoints.contains_key(id));
        rows.filter_map(|(&id, row)| Some((id, skew(EndpointId(id), row, image)?))).collect()
    }

    /// Where flows may lead: those of one that is gone go when it is back, or removed.
    pub(super) fn places(&self, image: &Image) -> Places {
        Places {
            endpoints: self.endpoints.keys().chain(image.endpoints.keys()).copied().collect(),
            uplinks: (self.uplinks.iter().chain(&self.noted).chain(image.uplinks.keys()))
                .copied()
                .collect(),
        }
    }

    /// What belongs to none of them.
    pub(super) fn strays(&self, image: &Image) -> Vec<Stray> {
        let mut strays = Vec::new();
        let nobody = image.endpoints.keys().filter(|id| !self.endpoints.contains_key(id));
        strays.extend(nobody.map(|&id| Stray::Endpoint(id)));
        // What has a row is that row's, whatever else it is.
        let row = |id: u32| image.endpoints.get(&u16::try_from(id).ok()?);
        let place = |id: u32| self.endpoints.get(&u16::try_from(id).ok()?);
        let is_port = |index: u32, id: u32| {
            row(id).is_some_and(|row| row.ifindex == index)
                || place(id).is_some_and(|place| place.ifindex == Some(index))
        };
        let ports = image.ports.iter().filter(|&(&index, &id)| !is_port(index, id));
        strays.extend(ports.map(|(&index, _)| Stray::Port(index)));
        let has_slot =
            |slot: u32| image.endpoints.values().any(|row| BridgePort::slot(row.ifindex) == slot);
        let is_slot = |slot: u32, port: &BridgePort| {
            is_port(port.ifindex, port.endpoint.index()) || has_slot(slot)
        };
        let slots = image.slots.iter().filter(|&(&slot, port)| !is_slot(slot, port));
        strays.extend(slots.map(|(&slot, _)| Stray::Slot(slot)));
        let is_gateways = |addr: Ipv4Addr| self.gateways.iter().any(|(of, _)| *of == addr);
        let is_address = |addr: Ipv4Addr, id: u32| {
            row(id).is_some_and(|row| row.addr == addr.into())
                // Whoever has it gets it back.
                || self.endpoints.values().any(|place| place.addr == addr)
                || is_gateways(addr)
        };
        let addresses = image.addresses.iter().map(|(&addr, &id)| (Ipv4Addr::from(addr), id));
        let addresses = addresses.filter(|&(addr, id)| !is_address(addr, id));
        strays.extend(addresses.map(|(addr, _)| Stray::Address(addr)));
        let is_mac = |mac: MacAddr, id: EndpointId| {
            row(id.index()).is_some_and(|row| row.mac == mac)
                || self.endpoints.values().any(|place| place.mac == mac)
                || self.gateways.iter().any(|(_, of)| *of == mac)
        };
        let macs = image.macs.iter().filter(|&(&mac, &id)| !is_mac(mac, id));
        strays.extend(macs.map(|(&mac, _)| Stray::Mac(mac)));
        let has_mac_slot =
            |index: u32| image.endpoints.values().any(|row| FdbSlot::index(row.mac) == index);
        let is_mac_slot = |index: u32, slot: &FdbSlot| {
            has_mac_slot(index) || self.endpoints.values().any(|place| slot.is_of(place.mac))
        };
        let slots = image.mac_slots.iter().filter(|&(&index, slot)| !is_mac_slot(index, slot));
        strays.extend(slots.map(|(&index, _)| Stray::MacSlot(index)));
        // Those with one of a network's are that network's to say.
        let is_nobodys =
            |pair: &AllowedPair| pair.both().iter().all(|id| !self.endpoints.contains_key(&id.0));
        let pairs = image.allowed.iter().filter(|pair| is_nobodys(pair));
        strays.extend(pairs.map(|&pair| Stray::Pair(pair)));
        let uplinks = image.uplinks.keys().filter(|index| !self.uplinks.contains(index));
        strays.extend(uplinks.map(|&index| Stray::Uplink(index)));
        let subnets = image.subnets.iter().map(|&(addr, len)| (Ipv4Addr::from(addr), len));
        let subnets = subnets.filter(|subnet| !self.subnets.contains(subnet));
        strays.extend(
            subnets.filter_map(|(addr, len)| Some(Stray::Subnet(addr, len.try_into().ok()?))),
        );
        let pins = image.pins.iter().filter(|pin| !self.pins.contains(pin));
        strays.extend(pins.map(|&(hook, index)| Stray::Pin(hook, index)));
        strays.sort_by_key(ToString::to_string);
        strays
    }
}

/// A map in which an endpoint is not found as its row says.
fn skew(id: EndpointId, row: &Endpoint, image: &Image) -> Option<&'static str> {
    if image.addresses.get(&row.addr) != Some(&id.index()) {
        return Some(Addresses::NAME);
    }
    if image.macs.get(&row.mac) != Some(&id) {
        return Some(Fdb::NAME);
    }
    let slot = image.mac_slots.get(&FdbSlot::index(row.mac));
    let is_right = slot.is_some_and(|slot| {
        if slot.is_of(row.mac) {
            return slot.endpoint() == id;
        }
        // Who has found it taken is in the hash alone.
        image.macs.contains_key(&slot.mac())
    });
    if !is_right {
        return Some(FdbSlots::NAME);
    }
    if image.ports.get(&row.ifindex) != Some(&id.index()) {
        return Some(EndpointIds::NAME);
    }
    let slot = image.slots.get(&BridgePort::slot(row.ifindex));
    let is_right = slot.is_some_and(|port| {
        if port.ifindex == row.ifindex {
            return port.endpoint == id;
        }
        // Who has found it taken is in the hash alone.
        image.ports.contains_key(&port.ifindex)
    });
    (!is_right).then_some(BridgePorts::NAME)
}
