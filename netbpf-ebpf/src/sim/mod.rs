//! The seam over a byte buffer and the standard library's maps: for tests,
//! models and fuzzers.

pub mod decode;
pub mod event;
mod frame;
pub mod invariants;
mod maps;
pub mod packet;
pub mod script;
pub mod shadow;
pub mod testbed;
pub mod vectors;
mod world;

use std::collections::HashMap;

pub use frame::Frame;
pub use maps::{Copied, Datagram, Entry, Maps, Shared};
pub use world::World;

use crate::seam::Seam;

/// A hash table that is the same in each run, so that what a fuzzer has found is
/// found again.
pub type Map<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// A simulated datapath.
pub type Sim = Seam<Frame, Maps, World>;
