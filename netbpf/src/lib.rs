//! netbpf's control plane: gives network namespaces a network and loads the
//! eBPF datapath that moves their packets.

pub mod bpf;
pub mod commands;
pub mod error;
pub mod names;
pub mod output;
