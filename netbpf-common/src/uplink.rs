//! Uplinks: the host's interfaces to the outside.

use crate::{Ipv4, MacAddr};

/// Value of the `UPLINKS` map, keyed by interface index.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Uplink {
    /// The address that translated packets carry: the uplink's primary one.
    pub addr: Ipv4,
    /// Largest IP packet that the uplink takes, in bytes.
    pub mtu: u32,
    /// The uplink's own MAC.
    pub mac: MacAddr,
    /// Zero.
    pub pad: u16,
}

const _: () = assert!(size_of::<Uplink>() == 16 && align_of::<Uplink>() == 4);
