//! Numbers as people read them.

use std::{fmt, time::Duration};

/// A number of bytes: `734B`, `1.5KiB`, `64.0MiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{}B", self.0);
        }
        // In tenths, rounded, without floating point: 1.0KiB to 1023.9KiB.
        let mut unit = 0;
        let mut shift = 10;
        while tenths(self.0, shift) >= 10_240 && unit + 1 < UNITS.len() {
            unit += 1;
            shift += 10;
        }
        let tenths = tenths(self.0, shift);
        write!(f, "{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// Tenths of `2^shift` bytes, rounded to the nearest.
fn tenths(bytes: u64, shift: u32) -> u128 {
    (u128::from(bytes) * 10 + (1 << (shift - 1))) >> shift
}

/// A span of time: `0s`, `59s`, `2m05s`, `1h04m`, `3d07h`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0.as_secs();
        match secs {
            0..60 => write!(f, "{secs}s"),
            60..3600 => write!(f, "{}m{:02}s", secs / 60, secs % 60),
            3600..86400 => write!(f, "{}h{:02}m", secs / 3600, secs / 60 % 60),
            _ => write!(f, "{}d{:02}h", secs / 86400, secs / 3600 % 24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_or_four_digits_and_a_unit() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KiB"),
            (1536, "1.5KiB"),
            (64 << 20, "64.0MiB"),
            ((1 << 20) - 1, "1.0MiB"),
            (u64::MAX, "16.0EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text, "{bytes}");
        }
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (secs, text) in [
            (0, "0s"),
            (59, "59s"),
            (125, "2m05s"),
            (3600, "1h00m"),
            (7440, "2h04m"),
            (86_400 * 3 + 7 * 3600, "3d07h"),
        ] {
            assert_eq!(Span(Duration::from_secs(secs)).to_string(), text, "{secs}");
        }
    }
}
