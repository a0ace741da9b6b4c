//! How many ICMP errors the datapath sends.

use crate::Ticks;

/// How many ICMP errors have been sent lately to an endpoint, or to the outside:
/// value of the `ERROR_COUNTS` array (RFC 1812 section 4.3.2.8).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ErrorCount {
    /// When the count began.
    pub since: Ticks,
    /// Errors since then.
    pub count: u32,
}

impl ErrorCount {
    /// Most errors in a [`ErrorCount::PERIOD`].
    pub const LIMIT: u32 = 100;
    /// The time for which errors are counted.
    pub const PERIOD: Ticks = Ticks::from_secs(1);

    /// The count with one more error at `now`, if that is within the limit.
    #[must_use]
    #[inline(always)]
    pub const fn one_more(self, now: Ticks) -> Option<Self> {
        if now.since(self.since).0 >= Self::PERIOD.0 || self.count == 0 {
            Some(Self { since: now, count: 1 })
        } else if self.count < Self::LIMIT {
            Some(Self { since: self.since, count: self.count + 1 })
        } else {
            None
        }
    }
}

const _: () = assert!(size_of::<ErrorCount>() == 8 && align_of::<ErrorCount>() == 4);
