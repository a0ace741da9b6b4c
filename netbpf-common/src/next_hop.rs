//! Resolved next hops on the uplinks.

use crate::{Ipv4, MacAddr, Ticks};

/// The link-layer addresses with which frames reach a next hop: value of the
/// `NEXT_HOPS` array, a direct-mapped cache that all flows share, so that a
/// gateway's new MAC is followed by every flow at once.
///
/// The slot is [`NextHop::slot`]; `addr` and `ifindex` tell whose it is at
/// present. A MAC of zero means: not resolved.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NextHop {
    /// Address of the next hop: the gateway's, or the destination's own on link.
    pub addr: Ipv4,
    /// Interface index of the uplink.
    pub ifindex: u32,
    /// MAC of the next hop; zero while unresolved.
    pub mac: MacAddr,
    /// Zero: with `mac` one word of eight bytes, written at once.
    pub pad: u16,
    /// MAC of the uplink, the frames' source.
    pub source_mac: MacAddr,
    /// Zero.
    pub pad2: u16,
    /// When the MACs were last asked for.
    pub checked: Ticks,
    /// Largest IP packet that the uplink takes, in bytes.
    pub mtu: u32,
}

const _: () = assert!(size_of::<NextHop>() == 32 && align_of::<NextHop>() == 8);

impl NextHop {
    /// Number of slots in the cache, a power of two.
    pub const SLOTS: u32 = 1024;

    /// The slot of a next hop: Fibonacci hashing of address and interface.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "ten bits are left")]
    pub const fn slot(addr: Ipv4, ifindex: u32) -> u16 {
        let mixed = (addr.to_host() ^ ifindex.rotate_left(16)).wrapping_mul(0x9e37_79b9);
        (mixed >> (32 - Self::SLOTS.trailing_zeros())) as u16
    }
}
