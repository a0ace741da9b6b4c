//! Does the network do what it should? Asked of a running one
//! ([`connectivity`]), and of the datapath as such, by comparison with the
//! kernel's own bridge and iptables ([`parity`]).

pub mod connectivity;
pub mod parity;
