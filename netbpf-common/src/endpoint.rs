//! Endpoints: the namespaces' places on the bridge.

use crate::{Ipv4, MacAddr};

/// Index of an endpoint in the `ENDPOINTS` and `STATS` maps.
///
/// 0 is nobody: packets that belong to no endpoint are counted there.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct EndpointId(pub u16);

impl EndpointId {
    /// No endpoint; also the row of packets that cannot be told to belong to one.
    pub const NONE: Self = Self(0);
    /// The host itself, as the owner of flows: behind the last endpoint.
    pub const HOST: Self = Self(4096);

    /// The index into array maps.
    #[must_use]
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 as u32
    }
}

/// Which endpoint is behind a bridge port: value of the `BRIDGE_PORTS` array, a
/// direct-mapped short cut past the hash `ENDPOINT_IDS`: 5 of the 34 ns that a bridged
/// frame takes longer than one that is redirected without look-up. Interface indexes are
/// given in turn, so that ports rarely meet in a slot; one that finds it taken is in the
/// hash alone.
///
/// The datapath reads it as one word.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BridgePort {
    /// Interface index of the port, the veth's host side. 0: slot free.
    pub ifindex: u32,
    /// The endpoint behind it.
    pub endpoint: EndpointId,
    /// Zero.
    pub pad: u16,
}

const _: () = assert!(size_of::<BridgePort>() == 8);

impl BridgePort {
    /// Number of slots, a power of two.
    pub const SLOTS: u32 = 1 << 14;

    /// The slot of an interface.
    #[must_use]
    #[inline(always)]
    pub const fn slot(ifindex: u32) -> u32 {
        ifindex & (Self::SLOTS - 1)
    }
}

/// Two isolated endpoints that may reach each other, whoever begins: key of the `ALLOWED`
/// map. The lower number is in the high half.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AllowedPair(pub u32);

impl AllowedPair {
    /// The pair of two endpoints, in either order.
    #[must_use]
    #[inline(always)]
    pub const fn of(one: EndpointId, other: EndpointId) -> Self {
        let (low, high) = if one.0 < other.0 { (one.0, other.0) } else { (other.0, one.0) };
        Self((low as u32) << 16 | high as u32)
    }

    /// The two, the lower number first.
    #[must_use]
    pub const fn both(self) -> [EndpointId; 2] {
        let [a, b, c, d] = self.0.to_be_bytes();
        [EndpointId(u16::from_be_bytes([a, b])), EndpointId(u16::from_be_bytes([c, d]))]
    }

    /// Whether the endpoint is one of the two.
    #[must_use]
    pub const fn has(self, id: EndpointId) -> bool {
        let [one, other] = self.both();
        one.0 == id.0 || other.0 == id.0
    }
}

const _: () = assert!(size_of::<AllowedPair>() == 4);

/// What an endpoint may send (`Endpoint::guard`).
///
/// The purpose is that no namespace can impersonate another, the gateway or
/// the host. Numbers are ABI.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum SourceGuard {
    /// Anything.
    Off = 0,
    /// Its own address from its own MAC, and any MAC and any address of the
    /// subnet that belong to nobody else: second addresses and nested bridges
    /// work, as on an ordinary bridge.
    #[default]
    Learn = 1,
    /// Its own address from its own MAC, nothing else.
    Strict = 2,
}

impl SourceGuard {
    /// The guard that a byte of a map stands for; unknown numbers are the strictest.
    #[must_use]
    #[inline(always)]
    pub const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Off,
            1 => Self::Learn,
            _ => Self::Strict,
        }
    }
}

/// All that the datapath knows of a namespace's place on the bridge: value of
/// the `ENDPOINTS` array, index [`EndpointId`]. A slot with `ifindex` 0 is free.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Endpoint {
    /// Interface index of the veth's host side, the bridge port. 0: slot free.
    pub ifindex: u32,
    /// Interface index of the bridge: where routed packets count as received.
    pub bridge_ifindex: u32,
    /// The namespace's address.
    pub addr: Ipv4,
    /// The gateway's address, on the bridge.
    pub gateway: Ipv4,
    /// The network's subnet, host bits zero.
    pub subnet: Ipv4,
    /// The subnet's mask.
    pub mask: Ipv4,
    /// Largest IP packet that the namespace's interface takes, in bytes.
    pub mtu: u32,
    /// Most flows that the endpoint may have at a time.
    pub flow_limit: u32,
    /// MAC of the interface inside the namespace.
    pub mac: MacAddr,
    /// MAC of the bridge: packets to it are routed, not bridged.
    pub gateway_mac: MacAddr,
    /// A [`SourceGuard`] as its number.
    pub guard: u8,
    /// A set of bits: [`Endpoint::ROUTED`], [`Endpoint::BY_STACK`], [`Endpoint::ISOLATED`].
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 2],
}

const _: () = assert!(size_of::<Endpoint>() == 48 && align_of::<Endpoint>() == 4);

impl Endpoint {
    /// The namespace is reachable by its own address from the uplinks' side.
    pub const ROUTED: u8 = 1;
    /// The stack forwards what the namespace sends and gets, and the bridge what
    /// namespaces send one another, so that the host's rules are asked.
    pub const BY_STACK: u8 = 2;
    /// The namespace reaches no other one of its network, but for those with which it
    /// makes an [`AllowedPair`].
    pub const ISOLATED: u8 = 4;

    /// Whether the namespace is reachable by its own address from outside.
    #[must_use]
    #[inline(always)]
    pub const fn is_routed(&self) -> bool {
        self.flags & Self::ROUTED != 0
    }

    /// Whether the stack and the bridge forward the namespace's packets.
    #[must_use]
    #[inline(always)]
    pub const fn is_by_stack(&self) -> bool {
        self.flags & Self::BY_STACK != 0
    }

    /// Whether the namespace is kept apart from others of its network.
    #[must_use]
    #[inline(always)]
    pub const fn is_isolated(&self) -> bool {
        self.flags & Self::ISOLATED != 0
    }

    /// Whether frames to others of its network need no other look: it is neither kept
    /// apart, nor does the bridge forward its frames. One test for both.
    #[must_use]
    #[inline(always)]
    pub const fn is_open(&self) -> bool {
        self.flags & (Self::BY_STACK | Self::ISOLATED) == 0
    }

    /// Whether the address may be another namespace's: it is the network's, and neither the
    /// gateway's nor that of the subnet itself or of all in it.
    #[must_use]
    #[inline(always)]
    pub const fn has_beside(&self, addr: Ipv4) -> bool {
        let host_bits = addr.to_host() & !self.mask.to_host();
        let is_hosts = addr.to_host() == self.gateway.to_host();
        self.has_on_link(addr) && !is_hosts && host_bits != 0 && host_bits != !self.mask.to_host()
    }

    /// Whether the address is the network's: its subnet's, broadcast included.
    #[must_use]
    #[inline(always)]
    pub const fn has_on_link(&self, addr: Ipv4) -> bool {
        addr.is_in(self.subnet, self.mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_the_same_in_either_order() {
        let (a, b, c) = (EndpointId(7), EndpointId(4095), EndpointId(8));
        assert_eq!(AllowedPair::of(a, b), AllowedPair::of(b, a));
        assert_ne!(AllowedPair::of(a, b), AllowedPair::of(a, c));
        assert_eq!(AllowedPair::of(b, a).both(), [a, b]);
        assert!(AllowedPair::of(a, b).has(b) && !AllowedPair::of(a, b).has(c));
    }

    #[test]
    fn beside_a_namespace_are_addresses_of_hosts_but_for_the_gateways() {
        let endpoint = Endpoint {
            gateway: Ipv4::new([10, 0, 0, 1]),
            subnet: Ipv4::new([10, 0, 0, 0]),
            mask: Ipv4::mask(24),
            ..Endpoint::default()
        };
        for (last, is_beside) in [(0, false), (1, false), (2, true), (254, true), (255, false)] {
            assert_eq!(endpoint.has_beside(Ipv4::new([10, 0, 0, last])), is_beside, "{last}");
        }
        assert!(!endpoint.has_beside(Ipv4::new([10, 0, 1, 2])));
    }
}
