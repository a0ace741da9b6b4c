//! What a bridge must not forward between its ports, where the ports' own isolation is
//! too coarse: some may reach each other, or what was sent to a published port is sent on
//! by the bridge. A table of `nf_tables` of the bridge's own.

use std::{collections::BTreeMap, fmt};

use super::bridge_table::{self, Rule, Verdict};
use crate::{
    error::{Context as _, Result},
    net::netfilter,
    topology::LinkName,
};

/// The mark of packets that were sent to a published port and that the bridge forwards, on
/// their way through it: no other way to tell them is known to a bridge. (ASCII: `nbpf`.)
pub const PUBLISHED_MARK: u32 = 0x6e62_7066;

/// What the names of its chains begin with.
const CHAIN: &str = "forward-";

/// After `NF_BR_PRI_BRNF`, at which iptables has marked what it may.
const PRIORITY: u32 = 1;

/// What a bridge forwards from and to some of its ports.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Apart {
    /// The ports, from and to which nothing else is forwarded.
    pub ports: Vec<LinkName>,
    /// The pairs of them between which all is forwarded.
    pub pairs: Vec<[LinkName; 2]>,
    /// Whether what carries the mark [`PUBLISHED_MARK`] is.
    pub marked: bool,
}

/// In words: `nothing from and to a, b, but between a and b`.
impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports: Vec<&str> = self.ports.iter().map(LinkName::as_str).collect();
        write!(f, "nothing from or to {}", ports.join(", "))?;
        let pairs = self.pairs.iter().map(|[one, other]| format!("between {one} and {other}"));
        let marked = self.marked.then(|| "to published ports".to_owned());
        let but: Vec<String> = pairs.chain(marked).collect();
        if but.is_empty() { Ok(()) } else { write!(f, ", but {}", but.join(", ")) }
    }
}

impl Apart {
    /// Whether there is nothing to be said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// The name of the chain that says so: it tells one from another.
    #[must_use]
    pub fn chain(&self) -> String {
        // FNV-1a: the name must be the same in every run.
        let hash = self.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{CHAIN}{hash:016x}")
    }

    fn rules(&self) -> impl Iterator<Item = Rule> {
        let between = |one, other| {
            bridge_table::rule([bridge_table::from(one), bridge_table::to(other)], Verdict::Accept)
        };
        let pairs = self.pairs.iter();
        let pairs = pairs.flat_map(move |[a, b]| [between(a, b), between(b, a)]);
        let marked = || bridge_table::rule([bridge_table::marked(PUBLISHED_MARK)], Verdict::Accept);
        let ports = self.ports.iter().flat_map(|port| {
            let ways = [bridge_table::from(port), bridge_table::to(port)];
            ways.map(|way| bridge_table::rule([way], Verdict::Drop))
        });
        pairs.chain(self.marked.then(marked)).chain(ports)
    }
}

/// The name of a bridge's table: with a slash, which no bridge has in its own name, so that
/// it is no other bridge's.
pub(super) fn table(bridge: &LinkName) -> String {
    format!("{}{bridge}/apart", bridge_table::PREFIX)
}

/// The name that it had before, which may be another bridge's: of one called `...-apart`.
/// Whose it is, is told by its chain.
pub(super) fn former_table(bridge: &LinkName) -> String {
    format!("{}{bridge}-apart", bridge_table::PREFIX)
}

/// Whether a chain is one of these tables', and not of those that drop what would be sent back.
fn is_own(chain: &str) -> bool {
    chain.starts_with(CHAIN)
}

/// The chains by which those of the bridges say so that do.
pub fn chains<'a>(bridges: impl Iterator<Item = &'a LinkName>) -> BTreeMap<LinkName, String> {
    if !netfilter::has_nf_tables() {
        return BTreeMap::new();
    }
    let all: BTreeMap<String, String> =
        bridge_table::chains().unwrap_or_default().into_iter().collect();
    let found = |bridge: &LinkName| {
        let former = || all.get(&former_table(bridge)).filter(|chain| is_own(chain));
        Some((bridge.clone(), all.get(&table(bridge)).or_else(former)?.clone()))
    };
    bridges.filter_map(found).collect()
}

/// Has a bridge forward no more than that, in one step.
///
/// # Errors
/// The kernel's: it has no `nf_tables`, or not for bridges.
pub fn set(bridge: &LinkName, apart: &Apart) -> Result<()> {
    bridge_table::replace(&table(bridge), (&apart.chain(), PRIORITY), apart.rules())
        .context(format!("cannot say which ports of {bridge} reach each other"))
        .map_err(|error| {
            error.hint("the kernel needs nf_tables for bridges (CONFIG_NF_TABLES_BRIDGE)")
        })?;
    clear_former(bridge)
}

/// Undoes it. A table that is gone is no error.
///
/// # Errors
/// The kernel's.
pub fn clear(bridge: &LinkName) -> Result<()> {
    bridge_table::clear(&table(bridge))?;
    clear_former(bridge)
}

/// Removes the table under the name that it had before, if there is one.
fn clear_former(bridge: &LinkName) -> Result<()> {
    if !netfilter::has_nf_tables() {
        return Ok(());
    }
    let former = former_table(bridge);
    let all = bridge_table::chains().context(format!("cannot look for the table {former}"))?;
    if all.iter().any(|(table, chain)| *table == former && is_own(chain)) {
        bridge_table::clear(&former)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::ctnetlink::reflection;

    #[test]
    fn no_network_has_the_table_of_another() {
        let name = |text: &str| LinkName::new(text).expect("a name");
        let (one, other) = (name("x"), name("x-apart"));
        assert_eq!(former_table(&one), reflection::table(&other), "the clash that there was");
        assert_ne!(table(&one), reflection::table(&other));
        assert!(LinkName::existing("x/apart").is_err());
        assert!(is_own(&Apart::default().chain()) && !is_own("forward"));
    }
}
