//! All that the datapath has been told, as its maps have it, to be compared with what it
//! should have been told.

use std::collections::HashMap;

use aya::Pod;
use netbpf_common::{
    AllowedPair, BridgePort, Endpoint, EndpointId, FdbEntry, FdbSlot, Ipv4, MacAddr, RareProgram,
    Timeouts, Uplink,
    maps::{
        Addresses, Allowed, BridgePorts, EndpointIds, Endpoints, Fdb, FdbSlots, MapDef, Programs,
        PublishedPorts, SubnetKey, Subnets, Uplinks,
    },
};

use super::{Datapath, Hook, attach, publish::bits};
use crate::error::{Context as _, Result};

/// The contents of the maps that are filled from here.
#[derive(Clone, Default, Debug)]
pub struct Image {
    /// `ENDPOINTS`, without free rows.
    pub endpoints: HashMap<u16, Endpoint>,
    /// `ENDPOINT_IDS`.
    pub ports: HashMap<u32, u32>,
    /// `BRIDGE_PORTS`, without free slots.
    pub slots: HashMap<u32, BridgePort>,
    /// `ADDRESSES`.
    pub addresses: HashMap<Ipv4, u32>,
    /// `FDB`.
    pub macs: HashMap<MacAddr, EndpointId>,
    /// `FDB_SLOTS`, without free slots.
    pub mac_slots: HashMap<u32, FdbSlot>,
    /// `ALLOWED`.
    pub allowed: Vec<AllowedPair>,
    /// `UPLINKS`.
    pub uplinks: HashMap<u32, Uplink>,
    /// `SUBNETS`: addresses and bits of their prefixes.
    pub subnets: Vec<(Ipv4, u32)>,
    /// Attachments that are pinned.
    pub pins: Vec<(Hook, u32)>,
}

impl Datapath {
    /// What the maps and pins have.
    ///
    /// # Errors
    /// What they say.
    pub fn image(&self) -> Result<Image> {
        let mut image = Image::default();
        let endpoints = self.contents::<Endpoints>()?;
        let taken = endpoints.into_iter().filter(|(_, row)| row.ifindex != 0);
        image.endpoints = taken.filter_map(|(id, row)| Some((id.try_into().ok()?, row))).collect();
        image.ports = self.contents::<EndpointIds>()?.into_iter().collect();
        let slots = self.contents::<BridgePorts>()?.into_iter();
        image.slots = slots.filter(|(_, port)| *port != BridgePort::default()).collect();
        image.addresses = self.contents::<Addresses>()?.into_iter().collect();
        let macs = self.contents::<Fdb>()?.into_iter();
        image.macs = macs.map(|(key, FdbEntry { endpoint, .. })| (key.mac, endpoint)).collect();
        let slots = self.contents::<FdbSlots>()?.into_iter();
        image.mac_slots = slots.filter(|(_, slot)| *slot != FdbSlot::FREE).collect();
        image.allowed = self.contents::<Allowed>()?.into_iter().map(|(pair, _)| pair).collect();
        image.uplinks = self.contents::<Uplinks>()?.into_iter().collect();
        let subnets = self.contents::<Subnets>()?.into_iter();
        image.subnets =
            subnets.map(|(SubnetKey { prefix_len, addr }, _)| (addr, prefix_len)).collect();
        image.pins = attach::pinned(self.pin_dir())?.iter().map(attach::Pin::place).collect();
        Ok(image)
    }

    fn contents<D: MapDef<Key: Pod, Value: Pod>>(&self) -> Result<Vec<(D::Key, D::Value)>> {
        let mut entries = Vec::new();
        self.map::<D>()?.for_each(|key, value| {
            entries.push((*key, *value));
            Ok(())
        })?;
        Ok(entries)
    }

    /// Whether flows may be idle for as long as they should.
    ///
    /// # Errors
    /// What the map says.
    pub fn has_timeouts(&self) -> Result<bool> {
        Ok(self.config()?.timeouts == Timeouts::DEFAULT)
    }

    /// Whether the bits of published ports are those of the published ports.
    ///
    /// # Errors
    /// What the maps say.
    pub fn has_published_bits(&self) -> Result<bool> {
        let wanted = bits(&self.published()?);
        let mut is_right = true;
        self.map::<PublishedPorts>()?.for_each(|word, &has| {
            is_right &= has == wanted.get(word).copied().unwrap_or_default();
            Ok(())
        })?;
        Ok(is_right)
    }

    /// Whether what is rare is handed over to the programs for it.
    ///
    /// # Errors
    /// What the map says, or a program cannot be asked.
    pub fn has_programs(&self) -> Result<bool> {
        let programs = self.map::<Programs>()?;
        for rare in RareProgram::ALL {
            let Some(program) = self.program_if_any(rare.name())? else { continue };
            let id = program.info().context("cannot ask about the datapath's programs")?.id();
            if programs.get(&(rare as u32))? != Some(id) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
