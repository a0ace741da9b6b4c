//! Packets and bytes, counted by all CPUs at once and in one step.

/// Packets and bytes of one direction of a flow.
///
/// Several CPUs may carry packets of one flow, and none is to be lost. A step that is one
/// for all CPUs takes some 4 ns, during which a CPU can do nothing else, so there is one
/// for each packet and not two: a word has both, packets in its upper 24 bits and bytes in
/// its lower 40. Each half is full when its highest bit is set. Whoever sets that takes it
/// off again and adds it to the other word, and until then there is as much room again:
/// for 8 million packets, or 512 GiB. Whoever reads in between is wrong for a moment.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// Packets and bytes not carried yet.
    pub recent: u64,
    /// How often each half has been full: upper half for packets, lower half for bytes.
    pub carried: u64,
}

/// Where the packets begin in [`Tally::recent`].
const PACKETS: u32 = 40;
/// Packets of a carry are two to the power of this, and bytes.
const PACKETS_CARRIED: u32 = 64 - PACKETS - 1;
const BYTES_CARRIED: u32 = PACKETS - 1;
/// What the two halves are full with.
const FULL: [u64; 2] = [1 << (PACKETS + PACKETS_CARRIED), 1 << BYTES_CARRIED];
/// Where the packets' carries begin in [`Tally::carried`].
const CARRIES: u32 = 32;

impl Tally {
    /// What a packet of `bytes` adds to [`Tally::recent`].
    #[must_use]
    #[inline(always)]
    pub const fn packet(bytes: u32) -> u64 {
        1 << PACKETS | bytes as u64
    }

    /// What is full in `now` and was not in `before`, the values of [`Tally::recent`]
    /// around a packet; mostly 0.
    #[must_use]
    #[inline(always)]
    pub const fn filled(before: u64, now: u64) -> u64 {
        now & !before & (FULL[0] | FULL[1])
    }

    /// What is to be added to [`Tally::carried`] for what [`Tally::filled`] says, which is
    /// to be taken off [`Tally::recent`].
    #[must_use]
    #[inline(always)]
    pub const fn carry(filled: u64) -> u64 {
        (filled / FULL[0]) << CARRIES | ((filled / FULL[1]) & 1)
    }

    /// So many packets, of so many bytes together.
    #[must_use]
    pub const fn of(packets: u64, bytes: u64) -> Self {
        let (most_packets, most_bytes) = (1 << PACKETS_CARRIED, 1 << BYTES_CARRIED);
        Self {
            recent: ((packets % most_packets) << PACKETS) | (bytes % most_bytes),
            carried: ((packets / most_packets) << CARRIES) | (bytes / most_bytes),
        }
    }

    /// Counts a packet, where nobody else does at the same time.
    pub const fn add(&mut self, bytes: u32) {
        let before = self.recent;
        self.recent = before.wrapping_add(Self::packet(bytes));
        let filled = Self::filled(before, self.recent);
        self.carried = self.carried.wrapping_add(Self::carry(filled));
        self.recent -= filled;
    }

    /// Packets so far.
    #[must_use]
    pub const fn packets(&self) -> u64 {
        (self.recent >> PACKETS) + (self.carried >> CARRIES << PACKETS_CARRIED)
    }

    /// Bytes so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        let recent = self.recent & !(u64::MAX << PACKETS);
        let carried = self.carried & !(u64::MAX << CARRIES);
        recent + (carried << BYTES_CARRIED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_what_it_is_made_of() {
        for packets in [0, 1, (1 << PACKETS_CARRIED) - 1, 1 << PACKETS_CARRIED, 123_456_789] {
            for bytes in [0, 1500, (1 << BYTES_CARRIED) - 1, 1 << BYTES_CARRIED, 1 << 50] {
                let tally = Tally::of(packets, bytes);
                assert_eq!((tally.packets(), tally.bytes()), (packets, bytes));
                assert_eq!(tally.recent & (FULL[0] | FULL[1]), 0, "no half is full");
            }
        }
    }

    #[test]
    fn nothing_is_lost_when_a_half_is_full() {
        let most = 1 << 16;
        let nearly = [(1 << PACKETS_CARRIED) - 1, (1 << BYTES_CARRIED) - 1];
        for (packets, bytes) in [(0, 0), (nearly[0], 0), (0, nearly[1]), (nearly[0], nearly[1])] {
            let mut tally = Tally { recent: packets << PACKETS | bytes, carried: 0 };
            assert_eq!((tally.packets(), tally.bytes()), (packets, bytes));
            for n in 1..=3 {
                tally.add(most);
                let bytes = bytes + n * u64::from(most);
                assert_eq!((tally.packets(), tally.bytes()), (packets + n, bytes), "{tally:?}");
            }
            assert_eq!(tally.recent & (FULL[0] | FULL[1]), 0, "{tally:?}");
        }
    }

    #[test]
    fn packets_before_the_carry_are_not_lost() {
        // One CPU has filled a half, another counts on, and then the first carries.
        let before = ((1 << PACKETS_CARRIED) - 1) << PACKETS;
        let full = before + Tally::packet(1);
        let more = full + Tally::packet(1);
        assert_eq!(Tally::filled(full, more), 0, "that is the first one's to carry");
        let filled = Tally::filled(before, full);
        let tally = Tally { recent: more - filled, carried: Tally::carry(filled) };
        assert_eq!((tally.packets(), tally.bytes()), ((1 << PACKETS_CARRIED) + 1, 2));
    }

    #[test]
    fn carries_add_up() {
        let tally = Tally { recent: Tally::packet(7), carried: 3 << CARRIES | 5 };
        assert_eq!(tally.packets(), 1 + (3 << PACKETS_CARRIED));
        assert_eq!(tally.bytes(), 7 + (5 << BYTES_CARRIED));
    }
}
