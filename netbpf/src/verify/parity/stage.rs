//! The stage that scenarios are played on: the same network on both datapaths.
//!
//! `ns1` and `ns2` are ordinary namespaces, whose kernels answer. `ns3`, `ns4` and
//! `ns5` have no way back to anybody: their kernels are silent, so that a scenario
//! can say every word of both ends of a connection; `ns5` leaves checksums and
//! segmentation to others. Outside it is the address that
//! decides: the machine there has one, and all others are silent, each scenario
//! having a far one of its own, so that no scenario meets what another has left. To
//! some of them leads a path that is narrower than the wire, which takes more than
//! the namespaces do. There is another such stage, on which the namespaces are isolated.

use std::net::Ipv4Addr;

use netbpf_common::MacAddr;

use crate::topology::Subnet;

/// Namespaces on the stage.
pub const NAMESPACES: u8 = 5;

/// The namespace that sends trains of segments, for others to cut.
pub const TRAINS: u8 = 5;

/// Where namespaces are isolated: those that may reach each other.
pub const ALLOWED: &str = "ns3:ns4";

/// Largest packet on the path to [`far_narrow`] addresses.
pub const NARROW_MTU: u32 = 1400;

/// The gateway of the namespaces, on the bridge.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 19, 0, 1);

/// An address of the subnet that nobody has.
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(172, 19, 0, 200);

/// The subnet's own address, which nobody has either.
pub const NETWORK_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 19, 0, 0);

/// The address that the uplink has.
pub const UPLINK: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// The broadcast address of the uplink's subnet.
pub const BROADCAST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 255);

/// The machine outside, whose kernel answers.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// The address of a namespace.
#[must_use]
pub const fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 19, 0, 1 + number)
}

/// The far address of a scenario, silent in every respect.
#[must_use]
pub const fn far(scenario: u16) -> Ipv4Addr {
    let [high, low] = scenario.to_be_bytes();
    Ipv4Addr::new(198, 18, high, low)
}

/// Another far address of a scenario: kernels in `ns1` and `ns2` answer to it.
#[must_use]
pub const fn far_answered(scenario: u16) -> Ipv4Addr {
    let [high, low] = scenario.to_be_bytes();
    Ipv4Addr::new(198, 19, high, low)
}

/// A far address of a scenario behind a narrow path: kernels answer to it.
#[must_use]
pub const fn far_narrow(scenario: u16) -> Ipv4Addr {
    let [high, low] = scenario.to_be_bytes();
    Ipv4Addr::new(198, 20, high, low)
}

/// All [`far_narrow`] addresses.
#[must_use]
pub fn narrow_subnet() -> Subnet {
    Subnet::containing(far_narrow(0), 16)
}

/// Whether an address is one of the namespaces' subnet.
#[must_use]
pub const fn is_inside(addr: Ipv4Addr) -> bool {
    matches!(addr.octets(), [172, 19, 0, _])
}

/// The scenario that an address is a far one of.
#[must_use]
pub const fn scenario_of(addr: Ipv4Addr) -> Option<u16> {
    match addr.octets() {
        [198, 18..=20, high, low] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}

/// A port on which a kernel's TCP listens and a UDP socket answers each datagram,
/// in `ns1`, on the host and outside.
pub const OPEN: u16 = 7;

/// A port that nobody has.
pub const CLOSED: u16 = 9;

/// What is published, of TCP and of UDP alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Published {
    /// The first port of the host.
    pub port: u16,
    /// How many there are.
    pub count: u16,
    /// The namespace's number.
    pub ns: u8,
    /// The first port there.
    pub target: u16,
    /// Whether it is on 127.0.0.1 only.
    pub on_loopback: bool,
}

/// A published port on which a kernel answers.
pub const PUBLISHED_OPEN: u16 = 8007;
/// A published port behind which a kernel says that nobody is there.
pub const PUBLISHED_CLOSED: u16 = 8009;
/// The first of the ports of silent `ns3` that published ones lead to.
pub const SILENT: u16 = 7000;
/// The first of a hundred published ports of silent `ns3`, each leading to the
/// port 2000 below it.
pub const PUBLISHED_SILENT: u16 = 9000;
/// A published port of silent `ns4`, which it keeps.
pub const PUBLISHED_OTHER: u16 = 9500;
/// A port of silent `ns3` that is published on 127.0.0.1 only.
pub const PUBLISHED_LOOPBACK: u16 = 9600;

/// Everything that is published.
pub const PUBLISHED: [Published; 5] = [
    Published { port: PUBLISHED_OPEN, count: 1, ns: 1, target: OPEN, on_loopback: false },
    Published { port: PUBLISHED_CLOSED, count: 1, ns: 1, target: CLOSED, on_loopback: false },
    Published { port: PUBLISHED_SILENT, count: 100, ns: 3, target: SILENT, on_loopback: false },
    Published { port: PUBLISHED_OTHER, count: 1, ns: 4, target: 9500, on_loopback: false },
    Published { port: PUBLISHED_LOOPBACK, count: 1, ns: 3, target: 96, on_loopback: true },
];

impl Published {
    /// As `--publish` takes it, once for each protocol.
    #[must_use]
    pub fn specs(&self) -> [String; 2] {
        let host = if self.on_loopback { "127.0.0.1:" } else { "" };
        let range = |first: u16| match self.count {
            1 => first.to_string(),
            count => format!("{first}-{}", first + (count - 1)),
        };
        let (port, target) = (range(self.port), range(self.target));
        ["tcp", "udp"].map(|proto| format!("{host}{port}:ns{}:{target}/{proto}", self.ns))
    }
}

/// Where frames are put on the wire and captured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// A namespace's `eth0`.
    Ns(u8),
    /// The machine outside, at its end of the wire.
    Outside,
    /// The host: what its own processes send and get, as IP packets.
    Host,
}

impl Place {
    /// All places.
    pub const ALL: [Self; 7] = [
        Self::Ns(1),
        Self::Ns(2),
        Self::Ns(3),
        Self::Ns(4),
        Self::Ns(5),
        Self::Outside,
        Self::Host,
    ];
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ns(number) => write!(f, "ns{number}"),
            Self::Outside => f.write_str("outside"),
            Self::Host => f.write_str("host"),
        }
    }
}

/// Whose MAC: the numbers differ from sandbox to sandbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Station {
    /// A namespace's `eth0`.
    Ns(u8),
    /// The bridge.
    Gateway,
    /// The uplink.
    Uplink,
    /// The machine outside.
    Outside,
    /// This very MAC.
    Other(MacAddr),
}

impl Station {
    /// All that have names.
    pub const NAMED: [Self; 8] = [
        Self::Ns(1),
        Self::Ns(2),
        Self::Ns(3),
        Self::Ns(4),
        Self::Ns(5),
        Self::Gateway,
        Self::Uplink,
        Self::Outside,
    ];

    /// Everybody.
    pub const BROADCAST: Self = Self::Other(MacAddr::new([0xff; 6]));
}

impl std::fmt::Display for Station {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ns(number) => write!(f, "ns{number}"),
            Self::Gateway => f.write_str("gateway"),
            Self::Uplink => f.write_str("uplink"),
            Self::Outside => f.write_str("outside"),
            Self::Other(mac) => write!(f, "{mac}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_said_as_the_command_line_takes_it() {
        assert_eq!(PUBLISHED[0].specs()[0], "8007:ns1:7/tcp");
        assert_eq!(PUBLISHED[2].specs()[1], "9000-9099:ns3:7000-7099/udp");
        assert_eq!(PUBLISHED[4].specs()[0], "127.0.0.1:9600:ns3:96/tcp");
    }

    #[test]
    fn a_far_address_tells_its_scenario() {
        assert_eq!(scenario_of(far(0x1234)), Some(0x1234));
        assert_eq!(scenario_of(far_answered(7)), Some(7));
        assert_eq!(scenario_of(far_narrow(7)), Some(7));
        assert_eq!(scenario_of(OUTSIDE), None);
    }
}
