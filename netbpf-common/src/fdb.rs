//! The forwarding database: which MAC is behind which endpoint.

use crate::{EndpointId, MacAddr, Ticks};

/// Where a MAC is: value of the `FDB` map (static entries, which stay) and of
/// `FDB_LEARNT` (dynamic ones, which age and are evicted least recently used first).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FdbEntry {
    /// The endpoint behind which the MAC is.
    pub endpoint: EndpointId,
    /// Zero.
    pub pad: u16,
    /// When a frame from the MAC was last seen; unused in static entries.
    pub last_seen: Ticks,
}

/// Behind which endpoint a static MAC is: value of the `FDB_SLOTS` array, a direct-mapped
/// short cut past the hash `FDB`, whose look-up is the longest that a bridged frame has. The
/// MACs that netbpf makes end with the namespace's address, so that those of a network meet
/// in no slot; one that finds its slot taken is in the hash alone.
///
/// One word, so that nobody sees the MAC of one with the endpoint of another: the MAC's
/// [words](MacAddr::words) from the lowest bits on, and the endpoint's number above them.
/// 0: slot free.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FdbSlot(pub u64);

impl FdbSlot {
    /// Number of slots, a power of two: a slot for each address of a `/18`.
    pub const SLOTS: u32 = 1 << 14;
    /// A free slot.
    pub const FREE: Self = Self(0);

    /// Where the endpoint's number begins.
    const ENDPOINT: u32 = 48;
    const MAC: u64 = (1 << Self::ENDPOINT) - 1;

    /// The slot of a MAC: its last bits, as they count up from address to address.
    #[must_use]
    #[inline(always)]
    pub const fn index(mac: MacAddr) -> u32 {
        u16::from_be(mac.words()[2]) as u32 & (Self::SLOTS - 1)
    }

    /// What a slot has for a MAC behind an endpoint.
    #[must_use]
    #[inline(always)]
    pub const fn of(mac: MacAddr, endpoint: EndpointId) -> Self {
        Self(Self::bits(mac) | (endpoint.0 as u64) << Self::ENDPOINT)
    }

    #[inline(always)]
    const fn bits(mac: MacAddr) -> u64 {
        let [first, second, third] = mac.words();
        first as u64 | (second as u64) << 16 | (third as u64) << 32
    }

    /// Whether it is this MAC's.
    #[must_use]
    #[inline(always)]
    pub const fn is_of(self, mac: MacAddr) -> bool {
        self.0 & Self::MAC == Self::bits(mac)
    }

    /// The MAC; zero of a free slot.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "the words of which it is made")]
    pub const fn mac(self) -> MacAddr {
        MacAddr::from_words([self.0 as u16, (self.0 >> 16) as u16, (self.0 >> 32) as u16])
    }

    /// The endpoint behind which the MAC is; [`EndpointId::NONE`] of a free slot.
    #[must_use]
    #[inline(always)]
    pub const fn endpoint(self) -> EndpointId {
        EndpointId((self.0 >> Self::ENDPOINT) as u16)
    }
}

const _: () = assert!(size_of::<FdbSlot>() == 8 && align_of::<FdbSlot>() == 8);

/// How many new MACs an endpoint has shown lately: value of the `LEARN_COUNTS`
/// array. A limit on them keeps one namespace from pushing the others' MACs out
/// of the table.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LearnCount {
    /// When the count began.
    pub since: Ticks,
    /// New MACs since then.
    pub count: u32,
}

impl LearnCount {
    /// New MACs that an endpoint may show in the time that one takes to age.
    pub const LIMIT: u32 = 256;

    /// The count with one more new MAC at `now`, if that is within the limit.
    #[must_use]
    #[inline(always)]
    pub const fn one_more(self, now: Ticks, period: Ticks) -> Option<Self> {
        if now.since(self.since).0 >= period.0 || self.count == 0 {
            Some(Self { since: now, count: 1 })
        } else if self.count < Self::LIMIT {
            Some(Self { since: self.since, count: self.count + 1 })
        } else {
            None
        }
    }
}

const _: () = assert!(size_of::<LearnCount>() == 8 && align_of::<LearnCount>() == 4);
const _: () = assert!(size_of::<FdbEntry>() == 8 && align_of::<FdbEntry>() == 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_a_mac_and_its_endpoint() {
        let mac = MacAddr::new([2, 0x6e, 172, 19, 200, 7]);
        let slot = FdbSlot::of(mac, EndpointId(4095));
        assert_eq!((slot.mac(), slot.endpoint()), (mac, EndpointId(4095)));
        assert!(slot.is_of(mac) && !slot.is_of(MacAddr::new([2, 0x6e, 172, 19, 200, 8])));
        assert_eq!((FdbSlot::FREE.mac(), FdbSlot::FREE.endpoint()), Default::default());
    }

    #[test]
    fn macs_of_addresses_in_turn_are_in_slots_in_turn() {
        let index = |a, b| FdbSlot::index(MacAddr::new([2, 0x6e, 10, 0, a, b]));
        assert_eq!(index(0, 2), 2);
        assert_eq!(index(1, 0), index(0, 255) + 1);
        assert_eq!(index(64, 2), index(0, 2));
    }
}
