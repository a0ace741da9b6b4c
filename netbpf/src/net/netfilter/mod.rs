//! The host's own firewall, as far as it sees what is forwarded: `nf_tables` by
//! netlink, the older iptables by `getsockopt`. Looking changes nothing: no table
//! is made by it, no module loaded.

mod legacy;
mod nft;

use std::{collections::BTreeMap, fs, path::Path};

use crate::error::Result;

/// A table with a chain for what is forwarded.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Table {
    /// Its name as its own tool says it, for example "inet firewalld".
    pub name: String,
    /// The command that lists it.
    pub listing: String,
    /// Its chains of IPv4 filters by name.
    pub chains: BTreeMap<String, Chain>,
}

/// A chain of rules.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Chain {
    /// What becomes of a forwarded packet at its end; nothing if only other
    /// chains lead to it.
    pub policy: Option<Policy>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// What becomes of a packet that no rule has judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// It goes on.
    Accept,
    /// It goes nowhere.
    Drop,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// What its own tool calls it by: its handle, or its number in the chain.
    pub id: u64,
    /// Interfaces that the packet has to come in by, or must not.
    pub incoming: Vec<Interface>,
    /// Interfaces that the packet has to leave by, or must not.
    pub outgoing: Vec<Interface>,
    /// Whether it asks for more, of whatever kind.
    pub is_conditional: bool,
    /// What it does to packets that are meant.
    pub verdict: Verdict,
}

/// What a rule does.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Verdict {
    /// Nothing that decides: it counts, logs, marks.
    #[default]
    None,
    /// The packet goes on.
    Accept,
    /// The packet goes nowhere.
    Drop,
    /// The same, and its sender is told.
    Reject,
    /// The rules of another chain come next, and then this one's again.
    Jump(String),
    /// The rules of another chain come next, and no more of this one's.
    Goto(String),
    /// No more rules of this chain.
    Return,
    /// Something that cannot be told: a map of verdicts, a program that is asked.
    Unknown,
}

/// A condition on an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Which one.
    pub which: Which,
    /// Whether it has to be any other.
    pub negated: bool,
}

/// Which interface is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Which {
    /// The one of that name.
    Named(String),
    /// All whose names begin so.
    Beginning(String),
    /// The one of that index.
    Index(u32),
}

impl Rule {
    fn new(id: u64) -> Self {
        Self {
            id,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            is_conditional: false,
            verdict: Verdict::None,
        }
    }
}

impl Which {
    /// An interface's name as rules hold it: ended by a zero, or the beginning of
    /// a name; nothing if it may be any.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(name).into_owned();
        match (name.len(), bytes.len()) {
            (0, _) => None,
            (name, all) if name < all => Some(Self::Named(text)),
            _ => Some(Self::Beginning(text)),
        }
    }
}

/// All tables of the host with a chain for what is forwarded, and those chains
/// that lead from there.
///
/// # Errors
/// The kernel's, or that it says what cannot be understood.
pub fn tables() -> Result<Vec<Table>> {
    let mut tables = if has_nf_tables() { nft::tables()? } else { Vec::new() };
    tables.extend(legacy::tables()?);
    tables.retain(|table| table.chains.values().any(|chain| chain.policy.is_some()));
    Ok(tables)
}

/// Whether there may be tables of `nf_tables`: looking does not load it.
#[must_use]
pub fn has_nf_tables() -> bool {
    is_loaded("nf_tables")
}

/// Whether a part of the kernel is there already, so that asking it does not load
/// it: it is a module and loaded, or no module.
fn is_loaded(module: &str) -> bool {
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let modules = format!("/lib/modules/{release}/modules.dep");
    Path::new("/sys/module").join(module).exists()
        || !fs::read_to_string(modules)
            .is_ok_and(|modules| modules.contains(&format!("/{module}.ko")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interfaces_end_or_are_beginnings() {
        let named = |text: &str| Some(Which::Named(text.to_owned()));
        assert_eq!(Which::from_bytes(b"eth0\0\0\0"), named("eth0"));
        assert_eq!(Which::from_bytes(b"eth0\0"), named("eth0"));
        assert_eq!(Which::from_bytes(b"eth"), Some(Which::Beginning("eth".to_owned())));
        assert_eq!(Which::from_bytes(b""), None);
        assert_eq!(Which::from_bytes(b"\0\0"), None);
    }

    #[test]
    fn what_is_no_module_is_asked() {
        assert!(is_loaded("there_is_no_such_module"));
    }
}
