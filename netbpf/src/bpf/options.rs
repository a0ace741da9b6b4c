//! What a datapath is loaded with.

use std::fmt;

use clap::ValueEnum;
use netbpf_common::{Flow, FlowVisit, Tuple, maps::DEFAULT_MAX_FLOWS};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much the datapath logs: everything of the level and of those before it.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Debug,
    Default,
    ValueEnum,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing; the code that logs is not even loaded
    #[default]
    Off,
    /// Errors of the datapath itself
    Error,
    /// And each flow that is refused for want of room or ports
    Warn,
    /// At present the same as warn
    Info,
    /// And each dropped packet, with the reason
    Debug,
    /// And what becomes of each packet
    Trace,
}

impl LogLevel {
    const ALL: [Self; 6] =
        [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The number that the datapath's logger compares with.
    pub(super) const fn number(self) -> u8 {
        self as u8
    }

    /// The name, as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// The level of that name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// What a datapath is loaded with; a change needs a new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoadOptions {
    /// Most flows at a time, both directions of a flow being one.
    pub max_flows: u32,
    /// How much the datapath logs.
    pub log_level: LogLevel,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { max_flows: DEFAULT_MAX_FLOWS, log_level: LogLevel::Off }
    }
}

impl fmt::Display for LoadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a table of {} flows, log level {}", self.max_flows, self.log_level.name())
    }
}

/// Bytes of a hash table's element beside key and value: the kernel's `struct htab_elem`.
const HASH_HEADER: u64 = 48;
/// Bytes of a hash table's bucket; there are as many as entries, rounded up to
/// a power of two.
const HASH_BUCKET: u64 = 16;

impl LoadOptions {
    /// Bytes of kernel memory that the flow table takes, all of it allocated
    /// when it is made.
    #[must_use]
    pub fn flow_memory(&self) -> u64 {
        let flows = u64::from(self.max_flows);
        let entry = HASH_HEADER + (size_of::<Tuple>() + size_of::<Flow>()) as u64;
        let buckets = (2 * flows).next_power_of_two();
        2 * flows * entry + buckets * HASH_BUCKET + flows * size_of::<FlowVisit>() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_found_by_its_name() {
        for level in LogLevel::ALL {
            assert_eq!(LogLevel::from_name(level.name()), Some(level));
        }
        assert_eq!(LogLevel::from_name("loud"), None);
    }

    #[test]
    fn the_default_flow_table_takes_78_mib() {
        assert_eq!(LoadOptions::default().flow_memory() >> 20, 78);
    }
}
