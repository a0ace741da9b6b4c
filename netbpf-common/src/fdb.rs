//! The forwarding database: which MAC is behind which endpoint.

use crate::{EndpointId, Ticks};

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
