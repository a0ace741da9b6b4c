//! To whom the outside ports belong.

use crate::{Ipv4, Port, proto};

/// The owner of an outside port: element of the `OUTSIDE_PORTS` array, index
/// [`PortOwner::index`].
///
/// A namespace's address and port keep one outside port for all their flows,
/// whoever they are with (RFC 4787 REQ-1), and nobody else has it meanwhile
/// (REQ-3). The owner, and how many flows hold the port for it, are one word, so
/// that a CPU takes and gives it in one step.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PortOwner(pub u64);

impl PortOwner {
    /// Nobody's.
    pub const NOBODY: Self = Self(0);
    /// Number of elements: TCP's ports, UDP's, and ICMP's identifiers.
    pub const PORTS: u32 = 3 * 65_536;
    /// Most flows that hold a port.
    const MOST_FLOWS: u64 = 0xffff;

    /// The index of an outside port (host order); nothing for protocols whose
    /// ports are not translated.
    #[must_use]
    #[inline(always)]
    pub const fn index(ip_proto: u8, port: u16) -> Option<u32> {
        match ip_proto {
            proto::TCP => Some(port as u32),
            proto::UDP => Some(65_536 + port as u32),
            proto::ICMP => Some(2 * 65_536 + port as u32),
            _ => None,
        }
    }

    /// A namespace's address and port, held by no flow so far.
    #[must_use]
    #[inline(always)]
    pub const fn new(addr: Ipv4, port: Port) -> Self {
        Self((addr.to_host() as u64) << 32 | (port.number() as u64) << 16)
    }

    /// Flows that hold the port.
    #[must_use]
    #[inline(always)]
    pub const fn flows(self) -> u64 {
        self.0 & Self::MOST_FLOWS
    }

    /// Whether the port is this owner's, or nobody's.
    #[must_use]
    #[inline(always)]
    pub const fn is(self, owner: Self) -> bool {
        self.0 >> 16 == owner.0 >> 16
    }

    /// The word with one flow more for `owner`; nothing if the port is somebody
    /// else's, or held by too many already.
    #[must_use]
    #[inline(always)]
    pub const fn taken_by(self, owner: Self) -> Option<Self> {
        if self.flows() == 0 {
            Some(Self(owner.0 + 1))
        } else if self.is(owner) && self.flows() < Self::MOST_FLOWS {
            Some(Self(self.0 + 1))
        } else {
            None
        }
    }

    /// The word with one flow less; with the last one it is nobody's.
    #[must_use]
    #[inline(always)]
    pub const fn given_back(self) -> Self {
        match self.flows() {
            0 | 1 => Self::NOBODY,
            _ => Self(self.0 - 1),
        }
    }
}

const _: () = assert!(size_of::<PortOwner>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_its_owners_until_the_last_flow_is_over() {
        let owner = PortOwner::new(Ipv4::new([172, 19, 0, 2]), Port::new(5000));
        let other = PortOwner::new(Ipv4::new([172, 19, 0, 3]), Port::new(5000));
        let once = PortOwner::NOBODY.taken_by(owner).unwrap();
        let twice = once.taken_by(owner).unwrap();
        assert_eq!((twice.flows(), twice.is(owner), twice.is(other)), (2, true, false));
        assert_eq!(twice.taken_by(other), None);
        assert_eq!(twice.given_back(), once);
        assert_eq!(once.given_back(), PortOwner::NOBODY);
        assert_eq!(once.given_back().taken_by(other).unwrap().flows(), 1);
    }

    #[test]
    fn a_port_is_held_by_a_bounded_number_of_flows() {
        let owner = PortOwner::new(Ipv4::new([172, 19, 0, 2]), Port::new(5000));
        assert_eq!(PortOwner(owner.0 | 0xffff).taken_by(owner), None);
    }
}
