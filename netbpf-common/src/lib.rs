//! The vocabulary that netbpf's datapath and control plane share.
//!
//! Every type in here has the same layout on both sides of the `bpf(2)` system
//! call: `repr(C)`, padding spelled out, sizes asserted at compile time, no
//! enum, `bool` or `Option` inside a map value. Bytes that came from a packet
//! stay in network order inside newtypes ([`Ipv4`], [`Port`], [`MacAddr`]),
//! which are the only places that convert.
//!
//! [`ABI_VERSION`] names this whole vocabulary: the datapath's `CONFIG` map
//! carries it, and a control plane of another version refuses to touch the maps.

#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

mod addr;
pub mod bench;
mod config;
mod endpoint;
mod fdb;
mod flow;
mod fragment;
mod icmp_error;
mod known;
pub mod maps;
mod next_hop;
mod port_owner;
mod publish;
mod rare;
mod tally;
mod ticks;
mod tuple;
mod uplink;
#[cfg(feature = "user")]
mod user;
mod verdict;

pub use addr::{Ipv4, MacAddr, Port};
pub use config::{ABI_VERSION, Config, Timeouts};
pub use endpoint::{AllowedPair, BridgePort, Endpoint, EndpointId, SourceGuard};
pub use fdb::{FdbEntry, FdbSlot, LearnCount};
pub use flow::{Flow, FlowKind, FlowState, FlowVisit, Seen, Translation};
pub use fragment::{FragmentKey, Fragments, HeldFragment};
pub use icmp_error::ErrorCount;
pub use known::KnownFlow;
pub use next_hop::NextHop;
pub use port_owner::PortOwner;
pub use publish::PublishEntry;
pub use rare::RareProgram;
pub use tally::Tally;
pub use ticks::Ticks;
pub use tuple::{Tuple, proto};
pub use uplink::Uplink;
pub use verdict::{Counter, Counters, DropReason};
