//! IPv4 subnets.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use netbpf_common::Ipv4;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// An IPv4 subnet whose host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    addr: Ipv4Addr,
    prefix_len: u8,
}

impl Subnet {
    /// The subnet that `addr` is in.
    #[must_use]
    pub fn containing(addr: Ipv4Addr, prefix_len: u8) -> Self {
        let prefix_len = prefix_len.min(32);
        Self { addr: addr & Ipv4Addr::from(Ipv4::mask(prefix_len)), prefix_len }
    }

    /// Its address: the first one.
    #[must_use]
    pub fn addr(self) -> Ipv4Addr {
        self.addr
    }

    /// Its last address.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        self.addr | !self.mask()
    }

    /// Bits of its prefix.
    #[must_use]
    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// Its mask.
    #[must_use]
    pub fn mask(self) -> Ipv4Addr {
        Ipv4::mask(self.prefix_len).into()
    }

    /// The gateway: the first address that a host can have.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.addr.to_bits().saturating_add(1))
    }

    /// The addresses that namespaces can have: all but the subnet's own, the
    /// gateway and the broadcast address.
    pub fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        let (first, end) =
            (u64::from(self.addr.to_bits()) + 2, u64::from(self.broadcast().to_bits()));
        (first..end).filter_map(|bits| u32::try_from(bits).ok()).map(Ipv4Addr::from_bits)
    }

    /// How many namespaces have room.
    #[must_use]
    pub fn room(self) -> usize {
        let addresses = 1_u64 << (32 - u32::from(self.prefix_len));
        usize::try_from(addresses.saturating_sub(3)).unwrap_or(usize::MAX)
    }

    /// Whether the address is in it.
    #[must_use]
    pub fn holds(self, addr: Ipv4Addr) -> bool {
        addr & self.mask() == self.addr
    }

    /// Whether a namespace can have the address.
    #[must_use]
    pub fn has_host(self, addr: Ipv4Addr) -> bool {
        self.holds(addr) && ![self.addr, self.gateway(), self.broadcast()].contains(&addr)
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.holds(other.addr) || other.holds(self.addr)
    }

    /// The longest prefix with room for so many namespaces.
    #[must_use]
    pub fn prefix_for(namespaces: usize) -> u8 {
        let bits = (namespaces as u64).saturating_add(3).next_power_of_two().trailing_zeros();
        u8::try_from(32_u32.saturating_sub(bits)).unwrap_or(0)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix_len)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::usage(format!("invalid subnet {text:?}"))
                .because(why)
                .hint("write an IPv4 subnet, for example --subnet 10.10.0.0/24")
        };
        if text.contains("::") || text.matches(':').count() > 1 {
            return Err(wrong("IPv6 subnets are not supported yet"));
        }
        let (addr, prefix) =
            text.split_once('/').ok_or_else(|| wrong("it has no /prefix length"))?;
        let addr: Ipv4Addr = addr.parse().map_err(|_| wrong("its address is no IPv4 address"))?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|c| c.is_ascii_digit());
        let prefix_len = prefix
            .parse::<u8>()
            .ok()
            .filter(|&len| digits && len <= 32)
            .ok_or_else(|| wrong("its prefix length is no number from 0 to 32"))?;
        let subnet = Self::containing(addr, prefix_len);
        if subnet.addr != addr {
            return Err(Error::usage(format!("invalid subnet {text:?}"))
                .because(format!("{addr} has bits set beyond the first {prefix_len}"))
                .hint(format!("did you mean --subnet {subnet}?")));
        }
        Ok(subnet)
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_knows_its_addresses() {
        let net = subnet("172.19.0.0/24");
        assert_eq!(net.gateway(), Ipv4Addr::new(172, 19, 0, 1));
        assert_eq!(net.broadcast(), Ipv4Addr::new(172, 19, 0, 255));
        assert_eq!(net.hosts().next(), Some(Ipv4Addr::new(172, 19, 0, 2)));
        assert_eq!(net.hosts().last(), Some(Ipv4Addr::new(172, 19, 0, 254)));
        assert_eq!((net.room(), net.hosts().count()), (253, 253));
        assert!(
            net.holds(Ipv4Addr::new(172, 19, 0, 9)) && !net.holds(Ipv4Addr::new(172, 19, 1, 0))
        );
    }

    #[test]
    fn small_and_large_subnets_have_the_room_they_have() {
        for (text, room) in
            [("10.0.0.0/32", 0), ("10.0.0.0/31", 0), ("10.0.0.0/30", 1), ("10.0.0.0/29", 5)]
        {
            assert_eq!((subnet(text).room(), subnet(text).hosts().count()), (room, room), "{text}");
        }
        assert_eq!(subnet("0.0.0.0/0").room(), (1 << 32) - 3);
        assert_eq!(subnet("255.255.255.248/29").hosts().count(), 5);
        for (count, prefix) in
            [(1, 30), (2, 29), (5, 29), (6, 28), (253, 24), (254, 23), (4095, 19)]
        {
            assert_eq!(Subnet::prefix_for(count), prefix, "{count}");
        }
    }

    #[test]
    fn subnets_overlap_if_one_holds_the_other() {
        for (a, b, overlap) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.1.0.0/16", "10.0.0.0/8", true),
            ("10.1.0.0/16", "10.1.0.0/16", true),
            ("10.1.0.0/16", "10.2.0.0/16", false),
            ("0.0.0.0/0", "10.2.0.0/16", true),
            ("10.0.0.0/25", "10.0.0.128/25", false),
        ] {
            assert_eq!(subnet(a).overlaps(subnet(b)), overlap, "{a} {b}");
        }
    }

    #[test]
    fn bad_subnets_say_why() {
        for (text, why) in [
            ("", "no /prefix"),
            ("172.19.0.0", "no /prefix"),
            ("172.19.0/24", "no IPv4 address"),
            ("172.19.0.0/33", "0 to 32"),
            ("172.19.0.0/-1", "0 to 32"),
            ("172.19.0.0/+4", "0 to 32"),
            ("172.19.0.0/", "0 to 32"),
            ("fd00::/64", "IPv6"),
            ("172.19.0.1/24", "bits set beyond the first 24"),
        ] {
            let error = text.parse::<Subnet>().expect_err(text);
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
        let error = "172.19.0.1/24".parse::<Subnet>().unwrap_err();
        assert_eq!(error.advice(), Some("did you mean --subnet 172.19.0.0/24?"));
    }
}
