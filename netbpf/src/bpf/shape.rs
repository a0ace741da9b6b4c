//! The maps' shapes, as their definitions say and as the kernel has them. aya
//! compares nothing when it opens a pinned map.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::maps::MapData;
use netbpf_common::maps::{
    Addresses, Allowed, BridgePorts, Clock, ConfigMap, EndpointIds, Endpoints, ErrorCounts, Fdb,
    FdbLearnt, FdbSlots, FlowCounts, FlowQueue, Flows, FragmentsMap, HeldFragments, HeldTickets,
    LearnCounts, MapDef, NextHops, OutsidePorts, Programs, Publish, PublishedPorts, Rare, Stats,
    Subnets, Sweeper, Uplinks, flow_queue_len,
};

use super::pins;
use crate::error::{Context as _, Result};

/// What a map is, without its types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// Bytes of a key and of a value, and the most entries.
    size: (usize, usize, u32),
}

/// The maps, in the order in which they are listed.
pub(super) const ALL: &[Shape] = &[
    Shape::of::<ConfigMap>(),
    Shape::of::<Endpoints>(),
    Shape::of::<EndpointIds>(),
    Shape::of::<BridgePorts>(),
    Shape::of::<Allowed>(),
    Shape::of::<Addresses>(),
    Shape::of::<Fdb>(),
    Shape::of::<FdbSlots>(),
    Shape::of::<FdbLearnt>(),
    Shape::of::<LearnCounts>(),
    Shape::of::<Flows>(),
    Shape::of::<FlowQueue>(),
    Shape::of::<FlowCounts>(),
    Shape::of::<OutsidePorts>(),
    Shape::of::<FragmentsMap>(),
    Shape::of::<HeldFragments>(),
    Shape::of::<HeldTickets>(),
    Shape::of::<ErrorCounts>(),
    Shape::of::<Publish>(),
    Shape::of::<PublishedPorts>(),
    Shape::of::<Uplinks>(),
    Shape::of::<NextHops>(),
    Shape::of::<Subnets>(),
    Shape::of::<Stats>(),
    Shape::of::<Programs>(),
    Shape::of::<Rare>(),
    Shape::of::<Clock>(),
    Shape::of::<Sweeper>(),
];

impl Shape {
    const fn of<D: MapDef>() -> Self {
        Self {
            name: D::NAME,
            about: D::ABOUT,
            size: (size_of::<D::Key>(), size_of::<D::Value>(), D::MAX_ENTRIES),
        }
    }

    /// The sizes in a datapath with a table of so many flows.
    fn size_in(&self, max_flows: u32) -> (usize, usize, u32) {
        let (key, value, entries) = self.size;
        let entries = match self.name {
            Flows::NAME => max_flows.saturating_mul(2),
            FlowQueue::NAME => flow_queue_len(max_flows),
            _ => entries,
        };
        (key, value, entries)
    }
}

/// What the kernel says of a pinned map.
pub(super) struct Found {
    /// Bytes of a key and of a value, and the most entries.
    pub(super) size: (usize, usize, u32),
    /// Bytes of kernel memory.
    pub(super) memory: u64,
}

/// Asks the kernel about a pinned map.
pub(super) fn find(pin_dir: &Path, name: &str) -> Result<Found> {
    let map = MapData::from_pin(pins::map(pin_dir, name)).map_err(|error| {
        pins::damaged(pin_dir, &format!("its map {name} cannot be opened: {error}"))
    })?;
    let info = map.info().context(format!("cannot ask about map {name}"))?;
    let fdinfo = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = fs::read_to_string(&fdinfo).context(format!("cannot read {fdinfo}"))?;
    Ok(Found {
        size: (info.key_size() as usize, info.value_size() as usize, info.max_entries()),
        memory: memory(&text).unwrap_or_default(),
    })
}

/// The most entries of a pinned map.
pub(super) fn entries(pin_dir: &Path, name: &str) -> Result<u32> {
    find(pin_dir, name).map(|found| found.size.2)
}

/// The memory of a map in the text of its `/proc/<pid>/fdinfo/<fd>`.
fn memory(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

/// Compares key, value and number of entries of every map, in a table of so many flows.
pub(super) fn verify(pin_dir: &Path, max_flows: u32) -> Result<()> {
    for shape in ALL {
        let (found, expected) = (find(pin_dir, shape.name)?.size, shape.size_in(max_flows));
        if found != expected {
            return Err(pins::other_version(
                pin_dir,
                &format!(
                    "its map {} has (key bytes, value bytes, entries) {found:?}, \
                     this netbpf's {expected:?}",
                    shape.name
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_is_listed() {
        let mut listed: Vec<&str> = ALL.iter().map(|shape| shape.name).collect();
        let mut defined = netbpf_common::maps::NAMES.to_vec();
        listed.sort_unstable();
        defined.sort_unstable();
        assert_eq!(listed, defined);
    }

    #[test]
    fn the_flow_maps_follow_the_number_of_flows() {
        assert_eq!(Shape::of::<Flows>().size_in(1000), (16, 64, 2000));
        assert_eq!(Shape::of::<FlowQueue>().size_in(1000), (0, 24, flow_queue_len(1000)));
        assert_eq!(Shape::of::<ConfigMap>().size_in(1000).2, 1);
    }

    #[test]
    fn the_memory_is_read_from_fdinfo() {
        let text = "pos:\t0\nmap_type:\t1\nmemlock:\t65536\nmap_id:\t7\n";
        assert_eq!(memory(text), Some(65536));
        assert_eq!(memory("pos:\t0\n"), None);
    }
}
