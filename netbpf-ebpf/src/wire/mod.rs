//! The packets' layout: offsets in the frame, and checked getters.

pub mod arp;
pub mod eth;
pub mod icmp;
pub mod ipv4;
pub mod l4;
