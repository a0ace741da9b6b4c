//! What the datapath is told of namespaces, gateways, subnets and uplinks.

use netbpf_common::{
    AllowedPair, BridgePort, Counters, Endpoint, EndpointId, FdbEntry, FdbSlot, Ipv4, MacAddr,
    Uplink,
    maps::{
        Addresses, Allowed, BridgePorts, EndpointIds, Endpoints, Fdb, FdbLearnt, FdbSlots, MacKey,
        Stats, SubnetKey, Subnets, Uplinks,
    },
};

use super::{Datapath, PerCpuMap};
use crate::error::Result;

/// A static FDB entry.
fn fixed(endpoint: EndpointId) -> FdbEntry {
    FdbEntry { endpoint, ..FdbEntry::default() }
}

/// Whether it is the same namespace at the same place: all that flows have of it
/// is as it was. By which way they go, they remember.
fn is_same(old: &Endpoint, new: &Endpoint) -> bool {
    let Endpoint { mtu, flow_limit, guard, .. } = *new;
    let any = Endpoint::ROUTED | Endpoint::ISOLATED;
    let flags = (old.flags & !any) | (new.flags & any);
    Endpoint { mtu, flow_limit, guard, flags, ..*old } == *new
}

impl Datapath {
    /// Makes an endpoint known. One that had the number before is forgotten,
    /// its flows and counters with it; the same one keeps them, whatever it may
    /// do from now on: its guard, its limit, its MTU.
    ///
    /// # Errors
    /// What the maps say: that they are full, for example.
    pub fn set_endpoint(&self, id: EndpointId, endpoint: &Endpoint) -> Result<()> {
        let endpoints = self.map::<Endpoints>()?;
        let old = endpoints.get(&id.index())?.unwrap_or_default();
        let is_same = is_same(&old, endpoint);
        if old.ifindex != 0 && !is_same {
            self.clear_endpoint(id)?;
        }
        if !is_same {
            PerCpuMap::<Stats>::open(self.pin_dir())?.set(&id.index(), &Counters::default())?;
        }
        endpoints.set(&id.index(), endpoint)?;
        self.map::<Addresses>()?.set(&endpoint.addr, &id.index())?;
        self.set_mac(endpoint.mac, id)?;
        // Last, because this is where a packet's way begins.
        self.map::<EndpointIds>()?.set(&endpoint.ifindex, &id.index())?;
        let ports = self.map::<BridgePorts>()?;
        let slot = BridgePort::slot(endpoint.ifindex);
        let taken = ports.get(&slot)?.filter(|port| port.ifindex != endpoint.ifindex);
        let has = |port: BridgePort| self.map::<EndpointIds>()?.get(&port.ifindex);
        if taken.map(has).transpose()?.flatten().is_none() {
            let port = BridgePort { ifindex: endpoint.ifindex, endpoint: id, pad: 0 };
            ports.set(&slot, &port)?;
        }
        Ok(())
    }

    /// Makes the datapath forget an endpoint and ends its flows; returns how
    /// many flows that were. A free number is no error.
    ///
    /// # Errors
    /// What the maps say.
    pub fn clear_endpoint(&self, id: EndpointId) -> Result<u64> {
        let endpoints = self.map::<Endpoints>()?;
        let old = endpoints.get(&id.index())?.unwrap_or_default();
        if old.ifindex != 0 {
            self.free_port_slot(old.ifindex)?;
            self.map::<EndpointIds>()?.remove(&old.ifindex)?;
            endpoints.set(&id.index(), &Endpoint::default())?;
            self.forget(id, old.addr, old.mac)?;
        }
        self.forget_learnt(id)?;
        if self.flow_count(id)? == 0 {
            return Ok(0);
        }
        self.flush(|flow| flow.endpoint == id)
    }

    /// Takes a port out of its slot, in favour of one that has found it taken.
    fn free_port_slot(&self, ifindex: u32) -> Result<()> {
        let (ports, slot) = (self.map::<BridgePorts>()?, BridgePort::slot(ifindex));
        if ports.get(&slot)?.is_none_or(|port| port.ifindex != ifindex) {
            return Ok(());
        }
        let mut next = BridgePort::default();
        self.map::<EndpointIds>()?.for_each(|&other, &id| {
            if other != ifindex
                && BridgePort::slot(other) == slot
                && let Ok(id) = u16::try_from(id)
            {
                next = BridgePort { ifindex: other, endpoint: EndpointId(id), pad: 0 };
            }
            Ok(())
        })?;
        ports.set(&slot, &next)
    }

    /// Removes the address and the MAC, if they are the endpoint's.
    fn forget(&self, id: EndpointId, addr: Ipv4, mac: MacAddr) -> Result<()> {
        let addresses = self.map::<Addresses>()?;
        if addresses.get(&addr)? == Some(id.index()) {
            addresses.remove(&addr)?;
        }
        let fdb = self.map::<Fdb>()?;
        if fdb.get(&mac.into())?.is_some_and(|entry| entry.endpoint == id) {
            self.free_slot(mac)?;
            fdb.remove(&mac.into())?;
        }
        Ok(())
    }

    /// Makes a MAC known, of an endpoint or of a bridge.
    fn set_mac(&self, mac: MacAddr, id: EndpointId) -> Result<()> {
        let fdb = self.map::<Fdb>()?;
        fdb.set(&MacKey::from(mac), &fixed(id))?;
        if id == EndpointId::NONE {
            return self.free_slot(mac);
        }
        let (slots, index) = (self.map::<FdbSlots>()?, FdbSlot::index(mac));
        let taken = slots.get(&index)?.filter(|slot| !slot.is_of(mac));
        let has = |slot: FdbSlot| fdb.get(&slot.mac().into());
        if taken.map(has).transpose()?.flatten().is_none() {
            slots.set(&index, &FdbSlot::of(mac, id))?;
        }
        Ok(())
    }

    /// Gives each MAC of an endpoint its slot, where none has one so far.
    pub(super) fn fill_mac_slots(&self) -> Result<()> {
        let mut known = Vec::new();
        self.map::<Fdb>()?.for_each(|key, entry| {
            known.push((key.mac, entry.endpoint));
            Ok(())
        })?;
        known.into_iter().try_for_each(|(mac, id)| self.set_mac(mac, id))
    }

    /// Takes a MAC out of its slot, in favour of one that has found it taken.
    fn free_slot(&self, mac: MacAddr) -> Result<()> {
        let (slots, index) = (self.map::<FdbSlots>()?, FdbSlot::index(mac));
        if !slots.get(&index)?.is_some_and(|slot| slot.is_of(mac)) {
            return Ok(());
        }
        let mut next = FdbSlot::FREE;
        self.map::<Fdb>()?.for_each(|key, entry| {
            let may_have_it = key.mac != mac && entry.endpoint != EndpointId::NONE;
            if may_have_it && FdbSlot::index(key.mac) == index {
                next = FdbSlot::of(key.mac, entry.endpoint);
            }
            Ok(())
        })?;
        slots.set(&index, &next)
    }

    /// Removes the MACs that were learnt behind the endpoint.
    fn forget_learnt(&self, id: EndpointId) -> Result<()> {
        let learnt = self.map::<FdbLearnt>()?;
        let mut behind: Vec<MacKey> = Vec::new();
        learnt.for_each(|mac, entry| {
            if entry.endpoint == id {
                behind.push(*mac);
            }
            Ok(())
        })?;
        for mac in &behind {
            learnt.remove(mac)?;
        }
        Ok(())
    }

    /// Says which isolated endpoints may reach each other: of all pairs with one of these
    /// `endpoints` those, and others besides.
    ///
    /// # Errors
    /// What the map says.
    pub fn set_allowed(&self, endpoints: &[EndpointId], pairs: &[AllowedPair]) -> Result<()> {
        let allowed = self.map::<Allowed>()?;
        for pair in pairs {
            allowed.set(pair, &1)?;
        }
        let mut gone = Vec::new();
        allowed.for_each(|pair, _| {
            if endpoints.iter().any(|&id| pair.has(id)) && !pairs.contains(pair) {
                gone.push(*pair);
            }
            Ok(())
        })?;
        gone.iter().try_for_each(|pair| allowed.remove(pair).map(drop))
    }

    /// Makes a bridge known: its address and MAC, which no endpoint may use.
    ///
    /// # Errors
    /// What the maps say.
    pub fn set_gateway(&self, addr: Ipv4, mac: MacAddr) -> Result<()> {
        self.map::<Addresses>()?.set(&addr, &EndpointId::NONE.index())?;
        self.set_mac(mac, EndpointId::NONE)
    }

    /// Makes the datapath forget a bridge.
    ///
    /// # Errors
    /// What the maps say.
    pub fn clear_gateway(&self, addr: Ipv4, mac: MacAddr) -> Result<()> {
        self.forget(EndpointId::NONE, addr, mac)
    }

    /// Makes a subnet known: its addresses never leave by an uplink.
    /// `prefix_len` is in bits.
    ///
    /// # Errors
    /// What the map says.
    pub fn set_subnet(&self, addr: Ipv4, prefix_len: u8) -> Result<()> {
        self.map::<Subnets>()?.set(&SubnetKey { prefix_len: prefix_len.into(), addr }, &1)
    }

    /// Makes the datapath forget a subnet.
    ///
    /// # Errors
    /// What the map says.
    pub fn clear_subnet(&self, addr: Ipv4, prefix_len: u8) -> Result<()> {
        let key = SubnetKey { prefix_len: prefix_len.into(), addr };
        self.map::<Subnets>()?.remove(&key).map(drop)
    }

    /// Makes an uplink known.
    ///
    /// # Errors
    /// What the map says.
    pub fn set_uplink(&self, ifindex: u32, uplink: &Uplink) -> Result<()> {
        self.map::<Uplinks>()?.set(&ifindex, uplink)
    }

    /// Makes the datapath forget an uplink, and ends the flows that leave by it;
    /// returns how many.
    ///
    /// # Errors
    /// What the maps say.
    pub fn clear_uplink(&self, ifindex: u32) -> Result<u64> {
        self.map::<Uplinks>()?.remove(&ifindex)?;
        self.flush(|flow| flow.uplink == ifindex)
    }
}
