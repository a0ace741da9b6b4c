//! What the root tests stand on: real network namespaces, real traffic, and a
//! listing of everything that netbpf may have touched.
//!
//! A test makes a [`Host`]: a network namespace that plays the machine, with an
//! uplink to another one that plays the outside. Both live in a [`Sandbox`], a
//! private mount namespace with its own `/run` and its own BPF file system.
//! So tests run side by side, next to whatever the machine does, with the very
//! names that a user would type; and when a test dies, the kernel takes
//! everything away with its last file descriptor. The machine's own interfaces,
//! `/run` and `/sys/fs/bpf` are never touched.
//!
//! Nothing here waits for a time to pass: [`wait::until`] waits for conditions,
//! with a deadline.
//!
//! All of it panics where something is wrong: that is how a test fails.

#![allow(clippy::missing_panics_doc, reason = "a harness fails its test by panicking, everywhere")]
#![allow(clippy::return_self_not_must_use, reason = "assertions are chained, or not")]
#![allow(clippy::must_use_candidate, reason = "a test that drops a value is not a bug")]

mod addresses;
mod another_build;
mod binary;
pub mod drift;
pub mod ethtool;
mod far;
pub mod firewall;
pub mod foreign;
mod fragment;
mod host;
mod kernel_log;
mod listing;
mod lookout;
mod mutation;
mod netns;
pub mod nft;
pub mod ongoing;
mod other_layout;
pub mod packet;
mod process;
mod random;
pub mod recipe;
pub mod reference;
mod sandbox;
pub mod traffic;
pub mod truth;
mod views;
pub mod wait;
mod wire;

pub use addresses::{GATEWAY, NS1, NS2, NS3, OUTSIDE, UPLINK, at, sample};
pub use another_build::AnotherBuild;
pub use binary::binary;
pub use far::{FAR, Far, ROUTER};
pub use fragment::{fragments, udp_fragments};
pub use host::{Host, Options};
pub use kernel_log::KernelLog;
pub use listing::Listing;
pub use lookout::Lookout;
pub use mutation::mutated;
pub use netns::Netns;
pub use other_layout::other_layout;
pub use process::{Outcome, finish, interrupt};
pub use random::Random;
pub use sandbox::Sandbox;
pub use views::FlowLine;
pub use wire::{Packet, Wire, later};
