//! How full the maps are.

use aya::Pod;
use netbpf_common::{
    EndpointId, FdbSlot, MacAddr,
    maps::{
        Addresses, Allowed, BridgePorts, Clock, ConfigMap, EndpointIds, Endpoints, ErrorCounts,
        Fdb, FdbLearnt, FdbSlots, FlowCounts, FlowQueue, Flows, FragmentsMap, HeldFragments,
        HeldTickets, LearnCounts, MapDef, NextHops, OutsidePorts, Programs, Publish,
        PublishedPorts, Rare, Stats, Subnets, Sweeper, Uplinks,
    },
};

use super::{Datapath, PerCpuMap, load::LOG_MAP, pins, shape};
use crate::error::Result;

/// How full a map is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapUsage {
    /// The map's name.
    pub name: &'static str,
    /// What it is for, in a few words.
    pub about: &'static str,
    /// Entries in use: of an array those that are not empty. Nothing for the
    /// log, which has no entries.
    pub entries: Option<u64>,
    /// The most entries; bytes for the log.
    pub capacity: u32,
    /// Bytes of kernel memory.
    pub memory: u64,
}

impl Datapath {
    /// How full each map is.
    ///
    /// # Errors
    /// What the maps say.
    pub fn usage(&self) -> Result<Vec<MapUsage>> {
        let mut all = Vec::new();
        for shape in shape::ALL {
            let found = shape::find(self.pin_dir(), shape.name)?;
            all.push(MapUsage {
                name: shape.name,
                about: shape.about,
                entries: Some(self.entries(shape.name)?),
                capacity: found.size.2,
                memory: found.memory,
            });
        }
        // A datapath that never logs has no such map.
        if pins::map(self.pin_dir(), LOG_MAP).exists() {
            let found = shape::find(self.pin_dir(), LOG_MAP)?;
            all.push(MapUsage {
                name: LOG_MAP,
                about: "log records that nobody has read",
                entries: None,
                capacity: found.size.2,
                memory: found.memory,
            });
        }
        Ok(all)
    }

    /// Entries of the map that are in use.
    fn entries(&self, name: &str) -> Result<u64> {
        match name {
            Endpoints::NAME => self.count::<Endpoints>(|endpoint| endpoint.ifindex != 0),
            EndpointIds::NAME => self.count::<EndpointIds>(|_| true),
            BridgePorts::NAME => self.count::<BridgePorts>(|port| port.ifindex != 0),
            Allowed::NAME => self.count::<Allowed>(|_| true),
            Addresses::NAME => self.count::<Addresses>(|_| true),
            Fdb::NAME => self.count::<Fdb>(|_| true),
            FdbSlots::NAME => self.count::<FdbSlots>(|slot| *slot != FdbSlot::FREE),
            FdbLearnt::NAME => self.count::<FdbLearnt>(|_| true),
            Flows::NAME => self.count::<Flows>(|_| true),
            // The kernel does not tell how long a queue is; it has an element per flow.
            FlowQueue::NAME => self.flow_count(EndpointId::NONE),
            LearnCounts::NAME => self.count::<LearnCounts>(|learnt| learnt.count != 0),
            FlowCounts::NAME => self.count::<FlowCounts>(|flows| *flows != 0),
            OutsidePorts::NAME => self.count::<OutsidePorts>(|owner| owner.flows() != 0),
            FragmentsMap::NAME => self.count::<FragmentsMap>(|_| true),
            HeldFragments::NAME => self.count::<HeldFragments>(|held| held.ticket != 0),
            HeldTickets::NAME => self.count::<HeldTickets>(|next| *next != 0),
            ErrorCounts::NAME => self.count::<ErrorCounts>(|errors| errors.count != 0),
            Publish::NAME => Ok(self.config()?.publish_len.into()),
            PublishedPorts::NAME => self.count::<PublishedPorts>(|word| *word != 0),
            Uplinks::NAME => self.count::<Uplinks>(|_| true),
            NextHops::NAME => self.count::<NextHops>(|hop| hop.mac != MacAddr::ZERO),
            Subnets::NAME => self.count::<Subnets>(|_| true),
            Stats::NAME => self.counted(),
            Programs::NAME => Ok(Programs::MAX_ENTRIES.into()),
            ConfigMap::NAME | Rare::NAME | Clock::NAME | Sweeper::NAME => Ok(1),
            _ => Ok(0),
        }
    }

    fn count<D: MapDef<Key: Pod, Value: Pod>>(
        &self,
        used: impl Fn(&D::Value) -> bool,
    ) -> Result<u64> {
        let mut entries = 0;
        self.map::<D>()?.for_each(|_, value| {
            entries += u64::from(used(value));
            Ok(())
        })?;
        Ok(entries)
    }

    /// Endpoints that have counted anything.
    fn counted(&self) -> Result<u64> {
        let stats = PerCpuMap::<Stats>::open(self.pin_dir())?;
        let mut entries = 0;
        for index in 0..Stats::MAX_ENTRIES {
            let rows = stats.get(&index)?.unwrap_or_default();
            entries += u64::from(rows.iter().any(|row| row.0.iter().any(|count| *count != 0)));
        }
        Ok(entries)
    }
}
