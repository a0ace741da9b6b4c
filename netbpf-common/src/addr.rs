//! Addresses as they stand in a packet. Each type owns its byte order.

use core::fmt;

/// An IPv4 address in network byte order.
///
/// Held as the `u32` that a four-byte load from the packet gives, so that it
/// compares and hashes in one instruction and has the alignment of a map key.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ipv4(u32);

impl Ipv4 {
    /// 0.0.0.0: "any address" in a published port, "none" elsewhere.
    pub const ANY: Self = Self(0);

    /// The address `a.b.c.d`, given as `[a, b, c, d]`.
    #[must_use]
    #[inline(always)]
    pub const fn new(octets: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(octets))
    }

    /// The octets in the order in which they stand in the packet.
    #[must_use]
    #[inline(always)]
    pub const fn octets(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    /// The address as a number in host order: 10.0.0.1 is `0x0a00_0001`.
    #[must_use]
    #[inline(always)]
    pub const fn to_host(self) -> u32 {
        u32::from_be(self.0)
    }

    /// The inverse of [`Ipv4::to_host`].
    #[must_use]
    #[inline(always)]
    pub const fn from_host(value: u32) -> Self {
        Self(value.to_be())
    }

    /// The four bytes as the CPU loads them from the packet: what a checksum
    /// sums up and what a kernel structure with a `__be32` wants.
    #[must_use]
    #[inline(always)]
    pub const fn to_be(self) -> u32 {
        self.0
    }

    /// The inverse of [`Ipv4::to_be`].
    #[must_use]
    #[inline(always)]
    pub const fn from_be(value: u32) -> Self {
        Self(value)
    }

    /// Whether the address lies in the network `subnet`/`mask`.
    #[must_use]
    #[inline(always)]
    pub const fn is_in(self, subnet: Self, mask: Self) -> bool {
        self.0 & mask.0 == subnet.0
    }

    /// Whether the address can be neither end of a packet between two hosts: 0.0.0.0,
    /// loopback (127/8), multicast (224/4) and limited broadcast. The stack knows what
    /// to do. (What else RFC 6890 reserves, 0/8 and 240/4, it routes as any other
    /// address: `ipv4_is_zeronet()`, `ipv4_is_lbcast()` of the kernel.)
    #[must_use]
    #[inline(always)]
    pub const fn is_martian(self) -> bool {
        matches!(self.octets(), [127 | 224..=239, ..] | [0, 0, 0, 0] | [255, 255, 255, 255])
    }

    /// Whether the address is one of 127.0.0.0/8.
    #[must_use]
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        self.octets()[0] == 127
    }

    /// The mask of a prefix of `len` bits; above 32 counts as 32.
    #[must_use]
    pub const fn mask(len: u8) -> Self {
        match len {
            0 => Self(0),
            1..=31 => Self::from_host(u32::MAX << (32 - len)),
            _ => Self(u32::MAX),
        }
    }
}

impl From<[u8; 4]> for Ipv4 {
    fn from(octets: [u8; 4]) -> Self {
        Self::new(octets)
    }
}

impl From<core::net::Ipv4Addr> for Ipv4 {
    fn from(addr: core::net::Ipv4Addr) -> Self {
        Self::new(addr.octets())
    }
}

impl From<Ipv4> for core::net::Ipv4Addr {
    fn from(addr: Ipv4) -> Self {
        addr.octets().into()
    }
}

impl fmt::Display for Ipv4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::net::Ipv4Addr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Ipv4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A TCP or UDP port, or an ICMP echo identifier, in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Port(u16);

impl Port {
    /// The port with this number (host order, as people write it).
    #[must_use]
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// The number, in host order.
    #[must_use]
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The two bytes as they stand in the packet.
    #[must_use]
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 2] {
        self.0.to_ne_bytes()
    }

    /// The port whose bytes stand in the packet like this.
    #[must_use]
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; 2]) -> Self {
        Self(u16::from_ne_bytes(bytes))
    }

    /// The two bytes as the CPU loads them from the packet (a `__be16`).
    #[must_use]
    #[inline(always)]
    pub const fn to_be(self) -> u16 {
        self.0
    }

    /// The inverse of [`Port::to_be`].
    #[must_use]
    #[inline(always)]
    pub const fn from_be(value: u16) -> Self {
        Self(value)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A 48-bit Ethernet address, in the order in which it is sent.
///
/// Held as the three words that loads from the frame give: it is compared in
/// three steps instead of six.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MacAddr([u16; 3]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xffff; 3]);
    /// 00:00:00:00:00:00, which no interface has.
    pub const ZERO: Self = Self([0; 3]);

    /// The address with these bytes, in the order in which they are sent.
    #[must_use]
    #[inline(always)]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self::from_words([
            u16::from_ne_bytes([octets[0], octets[1]]),
            u16::from_ne_bytes([octets[2], octets[3]]),
            u16::from_ne_bytes([octets[4], octets[5]]),
        ])
    }

    /// The bytes, in the order in which they are sent.
    #[must_use]
    #[inline(always)]
    pub const fn octets(self) -> [u8; 6] {
        let [first, second, third] =
            [self.0[0].to_ne_bytes(), self.0[1].to_ne_bytes(), self.0[2].to_ne_bytes()];
        [first[0], first[1], second[0], second[1], third[0], third[1]]
    }

    /// The address whose words the CPU loads like this.
    #[must_use]
    #[inline(always)]
    pub const fn from_words(words: [u16; 3]) -> Self {
        Self(words)
    }

    /// The words as the CPU loads them from the frame.
    #[must_use]
    #[inline(always)]
    pub const fn words(self) -> [u16; 3] {
        self.0
    }

    /// Whether the group bit is set: multicast, and broadcast with it.
    #[must_use]
    #[inline(always)]
    pub const fn is_multicast(self) -> bool {
        self.octets()[0] & 1 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.octets().iter().enumerate() {
            let colon = if i == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_the_same_in_every_order() {
        let a = Ipv4::new([172, 19, 0, 2]);
        assert_eq!(a.to_host(), 0xac13_0002);
        assert_eq!(Ipv4::from_host(0xac13_0002), a);
        assert_eq!(a.octets(), [172, 19, 0, 2]);
        assert_eq!(Ipv4::from_be(a.to_be()), a);
    }

    #[test]
    fn masks_cover_their_subnet_and_nothing_else() {
        let net = Ipv4::new([172, 19, 0, 0]);
        assert_eq!(Ipv4::mask(24).octets(), [255, 255, 255, 0]);
        assert_eq!(Ipv4::mask(0), Ipv4::ANY);
        assert_eq!(Ipv4::mask(32).octets(), [255; 4]);
        assert!(Ipv4::new([172, 19, 0, 255]).is_in(net, Ipv4::mask(24)));
        assert!(!Ipv4::new([172, 19, 1, 0]).is_in(net, Ipv4::mask(24)));
    }

    #[test]
    fn martians_are_no_hosts() {
        let is_martian = |octets| Ipv4::new(octets).is_martian();
        for octets in [[0; 4], [127, 0, 0, 1], [224, 0, 0, 251], [239, 255, 0, 1], [255; 4]] {
            assert!(is_martian(octets), "{octets:?}");
        }
        for octets in [[0, 0, 0, 5], [1, 0, 0, 1], [223, 255, 255, 255], [240, 0, 0, 1]] {
            assert!(!is_martian(octets), "{octets:?}");
        }
    }

    #[test]
    fn a_port_is_its_two_bytes_high_byte_first() {
        assert_eq!(Port::new(8080).bytes(), [0x1f, 0x90]);
        assert_eq!(Port::from_bytes([0x1f, 0x90]).number(), 8080);
    }
}
