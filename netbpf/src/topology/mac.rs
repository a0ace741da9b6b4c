//! MAC addresses as people write them, and the ones that netbpf gives out.

use std::net::Ipv4Addr;

use netbpf_common::MacAddr;

use crate::error::{Error, Result};

/// First two bytes of the MACs inside namespaces and of bridges, followed by
/// the IPv4 address: locally administered, unicast, and readable.
const INSIDE: [u8; 2] = [0x02, 0x6e];

/// First two bytes of the MACs of the veths' host sides.
const HOST_SIDE: [u8; 2] = [0x06, 0x6e];

fn with_address(prefix: [u8; 2], addr: Ipv4Addr) -> MacAddr {
    let [a, b, c, d] = addr.octets();
    MacAddr::new([prefix[0], prefix[1], a, b, c, d])
}

/// The MAC of the interface that has this address, unless another is asked for.
#[must_use]
pub fn generated(addr: Ipv4Addr) -> MacAddr {
    with_address(INSIDE, addr)
}

/// The MAC of the host side of the veth of the namespace with this address.
/// It is set in the message that creates the veth, and so tells from the first
/// moment on who made it.
#[must_use]
pub fn host_side(addr: Ipv4Addr) -> MacAddr {
    with_address(HOST_SIDE, addr)
}

/// Whether it is of those that netbpf gives to bridges, and inside namespaces.
#[must_use]
pub fn is_inside(mac: MacAddr) -> bool {
    mac.octets().starts_with(&INSIDE)
}

/// Whether it is of those that netbpf gives to the veths' host sides.
#[must_use]
pub fn is_host_side(mac: MacAddr) -> bool {
    mac.octets().starts_with(&HOST_SIDE)
}

/// Reads `02:00:00:00:00:01` (or with hyphens).
///
/// # Errors
/// A usage error if it is no MAC, or none that an interface can have.
pub fn parse(text: &str) -> Result<MacAddr> {
    let wrong = |why: &str| {
        Error::usage(format!("invalid MAC {text:?}"))
            .because(why)
            .hint("write six bytes, for example 02:00:00:00:00:01")
    };
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut bytes = [0; 6];
    let mut parts = text.split(separator);
    for byte in &mut bytes {
        let part = parts.next().ok_or_else(|| wrong("it has less than six bytes"))?;
        let hex = (1..=2).contains(&part.len()) && part.bytes().all(|c| c.is_ascii_hexdigit());
        *byte = u8::from_str_radix(part, 16)
            .ok()
            .filter(|_| hex)
            .ok_or_else(|| wrong("its bytes are not hexadecimal numbers"))?;
    }
    if parts.next().is_some() {
        return Err(wrong("it has more than six bytes"));
    }
    let mac = MacAddr::new(bytes);
    if mac == MacAddr::ZERO {
        return Err(wrong("no interface can have it"));
    }
    if mac.is_multicast() {
        return Err(wrong("it is a multicast address: the lowest bit of its first byte is set"));
    }
    Ok(mac)
}

/// A MAC in serialised form: its text.
pub mod text {
    use netbpf_common::MacAddr;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes the MAC.
    ///
    /// # Errors
    /// Those of the serialiser.
    pub fn serialize<S: Serializer>(mac: &MacAddr, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(mac)
    }

    /// Reads the MAC.
    ///
    /// # Errors
    /// Those of the deserialiser, and that it is no MAC.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MacAddr, D::Error> {
        super::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_macs_are_local_unicast_and_hold_the_address() {
        let addr = Ipv4Addr::new(172, 19, 0, 2);
        assert_eq!(generated(addr).to_string(), "02:6e:ac:13:00:02");
        assert_eq!(host_side(addr).to_string(), "06:6e:ac:13:00:02");
        for mac in [generated(addr), host_side(addr)] {
            assert!(!mac.is_multicast() && mac.octets()[0] & 2 != 0);
        }
    }

    #[test]
    fn macs_are_read_and_bad_ones_refused() {
        assert_eq!(parse("02:00:00:00:0a:Ff").unwrap(), MacAddr::new([2, 0, 0, 0, 10, 255]));
        assert_eq!(parse("2-0-0-0-a-1").unwrap(), MacAddr::new([2, 0, 0, 0, 10, 1]));
        for (text, why) in [
            ("", "not hexadecimal"),
            ("02:00:00:00:00", "less than six"),
            ("02:00:00:00:00:01:02", "more than six"),
            ("02:00:00:00:00:zz", "not hexadecimal"),
            ("02:00:00:00:00:+1", "not hexadecimal"),
            ("02:00:00:00:00:001", "not hexadecimal"),
            ("00:00:00:00:00:00", "no interface"),
            ("01:00:5e:00:00:01", "multicast"),
            ("ff:ff:ff:ff:ff:ff", "multicast"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }
}
