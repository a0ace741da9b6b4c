//! Uplinks: the host's interfaces to the outside.

use crate::{Ipv4, MacAddr};

/// Value of the `UPLINKS` map, keyed by interface index.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Uplink {
    /// The address that translated packets carry where the routing table does
    /// not say (before Linux 6.7): the uplink's primary one.
    pub addr: Ipv4,
    /// Largest IP packet that the uplink takes, in bytes.
    pub mtu: u32,
    /// The uplink's own MAC; zero if it has no Ethernet header.
    pub mac: MacAddr,
    /// Prefix length of `addr`'s subnet, 0 to 32.
    pub prefix_len: u8,
    /// A set of bits: [`Uplink::NO_ETHERNET`].
    pub flags: u8,
}

const _: () = assert!(size_of::<Uplink>() == 16 && align_of::<Uplink>() == 4);

impl Uplink {
    /// Packets on the uplink begin with the IP header: a point-to-point device
    /// such as tun.
    pub const NO_ETHERNET: u8 = 1;

    /// Whether packets on the uplink begin with an Ethernet header.
    #[must_use]
    #[inline(always)]
    pub const fn has_ethernet(&self) -> bool {
        self.flags & Self::NO_ETHERNET == 0
    }

    /// Whether the address is the broadcast or network address of the uplink's
    /// subnet, which is nobody's.
    #[must_use]
    #[inline(always)]
    pub const fn is_broadcast(&self, addr: Ipv4) -> bool {
        if self.prefix_len >= 31 {
            return false;
        }
        let mask = Ipv4::mask(self.prefix_len).to_host();
        let host_bits = addr.to_host() & !mask;
        addr.to_host() & mask == self.addr.to_host() & mask
            && (host_bits == 0 || host_bits == !mask)
    }
}
