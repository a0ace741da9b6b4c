//! What a bridge must not send back by the port that it came by: a table of
//! `nf_tables` of each bridge's own.

use std::collections::BTreeSet;

use netbpf_common::MacAddr;

use super::bridge_table::{self, Verdict};
use crate::{
    error::{Context as _, Result},
    topology::LinkName,
};

/// The chain, and its priority.
const CHAIN: (&str, u32) = ("forward", 0);

/// The name of a bridge's table.
pub(super) fn table(bridge: &LinkName) -> String {
    format!("{}{bridge}", bridge_table::PREFIX)
}

/// Those of the bridges that drop what they would reflect.
pub fn dropping<'a>(bridges: impl Iterator<Item = &'a LinkName>) -> BTreeSet<LinkName> {
    let chains = bridge_table::chains().unwrap_or_default();
    let is_there = |bridge: &&LinkName| chains.iter().any(|(of, _)| *of == table(bridge));
    bridges.filter(is_there).cloned().collect()
}

/// Has a bridge drop what it would send back by one of the ports that it came by,
/// but for what goes to the port's own MAC.
///
/// # Errors
/// The kernel's: it has no `nf_tables`, or not for bridges.
pub fn drop_reflected<'a>(
    bridge: &LinkName,
    ports: impl Iterator<Item = (&'a LinkName, MacAddr)>,
) -> Result<()> {
    let rules = ports.map(|(port, mac)| {
        let back = [bridge_table::from(port), bridge_table::to(port), bridge_table::not_for(mac)];
        bridge_table::rule(back, Verdict::Drop)
    });
    bridge_table::replace(&table(bridge), CHAIN, rules)
        .context(format!("cannot have {bridge} drop what it would reflect"))
}

/// Undoes it. A table that is gone is no error.
///
/// # Errors
/// The kernel's.
pub fn clear(bridge: &LinkName) -> Result<()> {
    bridge_table::clear(&table(bridge))
}
