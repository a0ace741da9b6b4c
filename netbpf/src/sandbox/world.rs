//! What a sandbox is to be like.

use std::net::Ipv4Addr;

use crate::error::{Error, Result};

/// Smallest MTU with which an interface has IPv4 (`IPV4_MIN_MTU` of the kernel).
const LEAST_MTU: u32 = 68;

/// Largest MTU of a veth (`ETH_MAX_MTU` of the kernel).
const LARGEST_MTU: u32 = 65_535;

/// What a sandbox is like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct World {
    /// The wires between host and outside. Both ends of the first are called
    /// `eth0`, those of the second `eth1`, and so on. By the first one goes the
    /// host's default route.
    pub wires: Vec<Wire>,
    /// Largest IP packet on the wires, in bytes.
    pub mtu: u32,
    /// Whether both ends leave checksums and segmentation to each other, as
    /// network cards do. Without, all checksums are real, verified on arrival,
    /// and no frame is larger than the MTU.
    pub offloads: bool,
}

/// A wire between host and outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wire {
    /// Address of the host's end: of an uplink.
    pub host: Ipv4Addr,
    /// Address of the other end.
    pub outside: Ipv4Addr,
    /// Bits of the prefix that both are in.
    pub prefix_len: u8,
}

impl Wire {
    /// The first wire of a world that is not told otherwise: of the network that
    /// RFC 5737 reserves for documentation as TEST-NET-3.
    pub const FIRST: Self = Self {
        host: Ipv4Addr::new(203, 0, 113, 1),
        outside: Ipv4Addr::new(203, 0, 113, 2),
        prefix_len: 24,
    };

    /// A second one, of TEST-NET-2.
    pub const SECOND: Self = Self {
        host: Ipv4Addr::new(198, 51, 100, 1),
        outside: Ipv4Addr::new(198, 51, 100, 2),
        prefix_len: 24,
    };
}

/// One wire ([`Wire::FIRST`]) of Ethernet's MTU, with offloads.
impl Default for World {
    fn default() -> Self {
        Self { wires: vec![Wire::FIRST], mtu: 1500, offloads: true }
    }
}

impl World {
    /// Checks that there can be such a world.
    ///
    /// # Errors
    /// A usage error if there cannot.
    pub(super) fn validate(&self) -> Result<()> {
        if !(LEAST_MTU..=LARGEST_MTU).contains(&self.mtu) {
            return Err(Error::usage(format!("{} is no MTU of a wire", self.mtu))
                .hint(format!("choose one from {LEAST_MTU} to {LARGEST_MTU}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wire_has_a_sensible_mtu() {
        assert!(World::default().validate().is_ok());
        for mtu in [0, 67, 65_536] {
            assert!(World { mtu, ..World::default() }.validate().is_err(), "{mtu}");
        }
    }

    #[test]
    fn the_ends_of_a_wire_are_in_one_subnet_and_those_of_two_are_not() {
        use crate::topology::Subnet;
        let subnets = [Wire::FIRST, Wire::SECOND].map(|wire| {
            let subnet = Subnet::containing(wire.host, wire.prefix_len);
            assert_eq!(subnet, Subnet::containing(wire.outside, wire.prefix_len));
            subnet
        });
        assert_ne!(subnets[0], subnets[1]);
    }
}
