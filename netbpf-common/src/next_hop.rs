//! Resolved next hops on the uplinks.

use crate::{Ipv4, MacAddr, Ticks};

/// The link-layer addresses with which frames reach a next hop: value of the
/// `NEXT_HOPS` array, a direct-mapped cache that all flows share, so that a
/// gateway's new MAC is followed by every flow at once.
///
/// The slot is [`NextHop::slot`]; `addr` and `ifindex` tell whose it is at
/// present. CPUs write slots without a lock, eight bytes at a time, so each MAC
/// carries a tag of its own in the same word: words of two next hops that got
/// mixed up in a slot do not pass [`NextHop::is`].
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NextHop {
    /// Address of the next hop: the gateway's, or the destination's own on link.
    pub addr: Ipv4,
    /// Interface index of the uplink.
    pub ifindex: u32,
    /// MAC of the next hop; zero while unresolved.
    pub mac: MacAddr,
    /// [`NextHop::tag`] of the next hop that `mac` is of.
    pub tag: u16,
    /// MAC of the uplink, the frames' source.
    pub source_mac: MacAddr,
    /// [`NextHop::tag`] of the next hop that `source_mac` is for.
    pub source_tag: u16,
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
        (Self::mix(addr, ifindex) >> (32 - Self::SLOTS.trailing_zeros())) as u16
    }

    /// The low bits of the same hash, of which [`NextHop::slot`] has the high ones.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "the low bits are meant")]
    pub const fn tag(addr: Ipv4, ifindex: u32) -> u16 {
        Self::mix(addr, ifindex) as u16
    }

    #[inline(always)]
    const fn mix(addr: Ipv4, ifindex: u32) -> u32 {
        (addr.to_host() ^ ifindex.rotate_left(16)).wrapping_mul(0x9e37_79b9)
    }

    /// A next hop with MACs, or without (zero) while it is unresolved.
    #[must_use]
    #[inline(always)]
    pub const fn new(
        (addr, ifindex): (Ipv4, u32),
        (mac, source_mac): (MacAddr, MacAddr),
        checked: Ticks,
        mtu: u32,
    ) -> Self {
        let tag = Self::tag(addr, ifindex);
        Self { addr, ifindex, mac, tag, source_mac, source_tag: tag, checked, mtu }
    }

    /// Whether all of the slot is about this next hop.
    #[must_use]
    #[inline(always)]
    pub const fn is(&self, addr: Ipv4, ifindex: u32) -> bool {
        let tag = Self::tag(addr, ifindex);
        self.addr.to_be() == addr.to_be()
            && self.ifindex == ifindex
            && self.tag == tag
            && self.source_tag == tag
    }
}
