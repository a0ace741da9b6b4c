//! Parity: both datapaths do the same.
//!
//! Two sandboxes hold the same network ([`stage`]), one on the kernel's bridge and
//! iptables, one on eBPF ([`side`]). The same frames are put on both wires
//! ([`scenario`]: those of a [`catalogue`], and those that [`generate`] makes of a
//! seed), and everything that comes out anywhere is captured ([`capture`]), taken
//! apart ([`decode`]), freed of what may differ ([`normalise`]) and compared
//! ([`compare`]). What differs is a bug, or one of the intended differences
//! ([`known`]).

pub mod answer;
pub mod capture;
pub mod catalogue;
pub mod compare;
pub mod decode;
pub mod generate;
pub mod known;
pub mod normalise;
pub mod packet;
pub mod random;
pub mod report;
pub mod run;
pub mod scenario;
pub mod script;
pub mod side;
pub mod socket;
pub mod stage;
pub mod tracker;
