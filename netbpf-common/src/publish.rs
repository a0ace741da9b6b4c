//! Published ports.

use crate::{EndpointId, Ipv4, Port};

/// A published range of ports: element of the `PUBLISH` array.
///
/// The array's live part (`Config::publish_base` and `publish_len`) is sorted
/// by [`PublishEntry::order`], ranges of one protocol and address do not
/// overlap, and so a binary search finds the only entry that can match.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PublishEntry {
    /// Sort key: see [`PublishEntry::order_of`].
    pub order: u64,
    /// Last port of the range, host order.
    pub last: u16,
    /// Port in the namespace that the first one leads to, host order; the
    /// others follow in step.
    pub target_port: u16,
    /// The namespace's address.
    pub target: Ipv4,
    /// The endpoint it leads to.
    pub endpoint: EndpointId,
    /// Zero.
    pub pad: [u16; 3],
}

const _: () = assert!(size_of::<PublishEntry>() == 24 && align_of::<PublishEntry>() == 8);

impl PublishEntry {
    /// The sort key: protocol, then address, then port, as one number.
    #[must_use]
    #[inline(always)]
    pub const fn order_of(proto: u8, addr: Ipv4, port: u16) -> u64 {
        (proto as u64) << 48 | (addr.to_host() as u64) << 16 | port as u64
    }

    /// The first published port, host order.
    #[must_use]
    #[inline(always)]
    pub const fn first(&self) -> u16 {
        (self.order & 0xffff) as u16
    }

    /// The host's address that the port is published on; [`Ipv4::ANY`] for all.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "the middle 32 bits are the address")]
    pub const fn host_addr(&self) -> Ipv4 {
        Ipv4::from_host((self.order >> 16) as u32)
    }

    /// The IP protocol.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "eight bits are left")]
    pub const fn proto(&self) -> u8 {
        (self.order >> 48) as u8
    }

    /// Whether the packet that [`PublishEntry::order_of`] gave `order` for is
    /// for this entry.
    #[must_use]
    #[inline(always)]
    pub const fn holds(&self, order: u64) -> bool {
        self.order >> 16 == order >> 16
            && order >= self.order
            && (order & 0xffff) as u16 <= self.last
    }

    /// The namespace's port that the published port `port` leads to.
    #[must_use]
    #[inline(always)]
    pub const fn target_of(&self, port: u16) -> Port {
        Port::new(self.target_port.wrapping_add(port.wrapping_sub(self.first())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_holds_its_range_and_nothing_else() {
        let addr = Ipv4::new([203, 0, 113, 1]);
        let entry = PublishEntry {
            order: PublishEntry::order_of(6, addr, 8000),
            last: 8010,
            target_port: 80,
            ..PublishEntry::default()
        };
        assert_eq!((entry.proto(), entry.host_addr(), entry.first()), (6, addr, 8000));
        for (port, held) in [(7999, false), (8000, true), (8010, true), (8011, false)] {
            assert_eq!(entry.holds(PublishEntry::order_of(6, addr, port)), held, "{port}");
        }
        assert!(!entry.holds(PublishEntry::order_of(17, addr, 8000)));
        assert!(!entry.holds(PublishEntry::order_of(6, Ipv4::ANY, 8000)));
        assert_eq!(entry.target_of(8003).number(), 83);
    }
}
