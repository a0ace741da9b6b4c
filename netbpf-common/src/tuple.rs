//! The five values that name one direction of a flow.

use crate::{Ipv4, Port};

/// IP protocol numbers that the datapath tells apart (IANA "Protocol Numbers").
pub mod proto {
    /// ICMP, RFC 792.
    pub const ICMP: u8 = 1;
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
    /// DCCP, RFC 4340.
    pub const DCCP: u8 = 33;
    /// SCTP, RFC 9260.
    pub const SCTP: u8 = 132;
    /// UDP-Lite, RFC 3828.
    pub const UDP_LITE: u8 = 136;
}

/// Addresses, ports and protocol of a packet as it is seen on the wire: the
/// key of the flow table.
///
/// An ICMP query has its identifier in the place of the port on the side that
/// asked: source port of the request, destination port of the reply. The other
/// port is 0. Protocols without ports have two zeros.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Tuple {
    /// Source address.
    pub saddr: Ipv4,
    /// Destination address.
    pub daddr: Ipv4,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
    /// IP protocol number, such as one of [`proto`].
    pub proto: u8,
    /// 1 for a packet that the host itself sends by its loopback device, otherwise
    /// 0: somebody's packet by the host's own address may look the same.
    pub from_host: u8,
    /// Zero: the kernel hashes these bytes too.
    pub pad: [u8; 2],
}

const _: () = assert!(size_of::<Tuple>() == 16 && align_of::<Tuple>() == 4);

impl Tuple {
    /// The tuple's bytes as words, as the CPU loads them.
    #[must_use]
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        let ([a, b], [c, d]) = (self.sport.bytes(), self.dport.bytes());
        [
            self.saddr.to_be(),
            self.daddr.to_be(),
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([self.proto, self.from_host, self.pad[0], self.pad[1]]),
        ]
    }

    /// The tuple of an answer to this packet.
    #[must_use]
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self {
            saddr: self.daddr,
            daddr: self.saddr,
            sport: self.dport,
            dport: self.sport,
            proto: self.proto,
            from_host: 0,
            pad: [0; 2],
        }
    }
}
