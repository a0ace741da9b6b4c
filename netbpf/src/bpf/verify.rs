//! Whether pinned maps are what their definitions say. aya checks nothing when
//! it opens one.

use std::path::Path;

use aya::maps::MapInfo;
use netbpf_common::{
    Config,
    maps::{
        Addresses, ConfigMap, EndpointIds, Endpoints, Fdb, FdbLearnt, FlowCounts, FlowQueue, Flows,
        MapDef, NextHops, Publish, PublishedPorts, Stats, Subnets, Sweeper, Uplinks,
    },
};

use super::pins;
use crate::error::Result;

/// Compares key, value and number of entries of every map.
pub(super) fn all_maps(pin_dir: &Path, config: &Config) -> Result<()> {
    let check = Check { pin_dir };
    check.map::<ConfigMap>()?;
    check.map::<Endpoints>()?;
    check.map::<EndpointIds>()?;
    check.map::<Addresses>()?;
    check.map::<Fdb>()?;
    check.map::<FdbLearnt>()?;
    check.map_of::<Flows>(config.max_flows.saturating_mul(2))?;
    check.map_of::<FlowQueue>(config.max_flows)?;
    check.map::<FlowCounts>()?;
    check.map::<Publish>()?;
    check.map::<PublishedPorts>()?;
    check.map::<Uplinks>()?;
    check.map::<NextHops>()?;
    check.map::<Subnets>()?;
    check.map::<Stats>()?;
    check.map::<Sweeper>()
}

struct Check<'a> {
    pin_dir: &'a Path,
}

impl Check<'_> {
    fn map<D: MapDef>(&self) -> Result<()> {
        self.map_of::<D>(D::MAX_ENTRIES)
    }

    fn map_of<D: MapDef>(&self, entries: u32) -> Result<()> {
        let info = MapInfo::from_pin(pins::map(self.pin_dir, D::NAME)).map_err(|error| {
            pins::damaged(self.pin_dir, &format!("its map {} cannot be opened: {error}", D::NAME))
        })?;
        let found = (info.key_size() as usize, info.value_size() as usize, info.max_entries());
        let expected = (size_of::<D::Key>(), size_of::<D::Value>(), entries);
        if found == expected {
            return Ok(());
        }
        Err(pins::other_version(
            self.pin_dir,
            &format!(
                "its map {} has (key bytes, value bytes, entries) {found:?}, this netbpf's {expected:?}",
                D::NAME
            ),
        ))
    }
}
