//! The datapath's clock.

use core::fmt;

/// A point in time, or a span, in units of 2^26 ns (about 67 ms) since boot.
///
/// Coarse on purpose: a shift instead of a division on the packet path, and
/// four bytes instead of eight in a flow entry, at a resolution that no
/// time-out of a NAT needs to beat. It wraps after nine years; differences are
/// taken modulo 2^32, so a wrap is harmless.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ticks(pub u32);

impl Ticks {
    /// log2 of the nanoseconds in a tick.
    pub const SHIFT: u32 = 26;
    /// Nanoseconds in a tick.
    pub const NANOS: u64 = 1 << Self::SHIFT;

    /// The tick in which `nanos` (of `CLOCK_MONOTONIC`) falls.
    #[must_use]
    #[inline(always)]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the clock wraps by design, differences are modular"
    )]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self((nanos >> Self::SHIFT) as u32)
    }

    /// The span of `secs` seconds, rounded up: a time-out is never shorter than asked for.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "bounded by the min() before it")]
    pub const fn from_secs(secs: u32) -> Self {
        let ticks = (secs as u64 * 1_000_000_000).div_ceil(Self::NANOS);
        Self(if ticks > u32::MAX as u64 { u32::MAX } else { ticks as u32 })
    }

    /// The span in milliseconds, for people.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 as u64 * Self::NANOS / 1_000_000
    }

    /// The span from `earlier` to `self`. Zero if `earlier` is in fact a
    /// little later, as another CPU's clock may be.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::cast_possible_wrap, reason = "the sign of the modular difference is the point")]
    pub const fn since(self, earlier: Self) -> Self {
        let span = self.0.wrapping_sub(earlier.0);
        Self(if (span as i32) < 0 { 0 } else { span })
    }
}

impl fmt::Debug for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_survive_the_wrap_and_never_go_negative() {
        assert_eq!(Ticks(3).since(Ticks(u32::MAX - 1)), Ticks(5));
        assert_eq!(Ticks(3).since(Ticks(4)), Ticks(0));
    }

    #[test]
    fn seconds_round_up() {
        assert!(Ticks::from_secs(1).as_millis() >= 1000);
        assert!(Ticks::from_secs(7440).as_millis() >= 7_440_000);
        assert_eq!(Ticks::from_secs(0), Ticks(0));
    }
}
