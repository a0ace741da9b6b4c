//! netbpf's control plane: gives network namespaces a network and loads the
//! eBPF datapath that moves their packets.
//!
//! `up` goes through [`spec`] (what is asked for), [`topology`] (the same, validated), [`observe`] (what
//! there is), [`plan`] (the steps in between) and [`apply`] (runs them); `down`
//! is the same with nothing wanted. [`net`] and [`bpf`] speak to the kernel and
//! know nothing of each other.

pub mod apply;
pub mod bench;
pub mod bpf;
pub mod cli;
pub mod commands;
pub mod datapath;
pub mod doctor;
pub mod drift;
pub mod error;
pub mod firewall;
pub mod gc;
pub mod host;
mod interrupt;
mod mounts;
pub mod names;
pub mod namespace;
pub mod net;
pub mod network;
pub mod observe;
pub mod output;
pub mod plan;
mod progress;
pub mod sandbox;
pub mod session;
pub mod spec;
pub mod state;
pub mod topology;
pub mod verify;
