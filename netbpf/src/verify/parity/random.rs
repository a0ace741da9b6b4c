//! Numbers that look random and are the same for the same seed, in every
//! version: a seed that somebody reports must stay worth something.

/// A generator (`SplitMix64`, Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of the scenario of that number in a run with that seed.
    #[must_use]
    pub fn new(seed: u64, number: u32) -> Self {
        let mut mixed = Self(seed);
        let seed = mixed.number();
        Self(seed ^ u64::from(number).wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of 32 bits.
    pub fn word(&mut self) -> u32 {
        let bytes = self.number().to_be_bytes();
        u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// A number of 16 bits.
    pub fn half(&mut self) -> u16 {
        let bytes = self.number().to_be_bytes();
        u16::from_be_bytes([bytes[0], bytes[1]])
    }

    /// A number of 8 bits.
    pub fn byte(&mut self) -> u8 {
        self.number().to_be_bytes()[0]
    }

    /// A number from 0 to `end` - 1; 0 if `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        // The remainder is less than `end`, so it fits.
        usize::try_from((self.number() >> 8) % (end.max(1) as u64)).unwrap_or_default()
    }

    /// Whether, once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of several, of which there is at least one.
    pub fn pick<T: Copy, const N: usize>(&mut self, all: [T; N]) -> T {
        const { assert!(N > 0, "something to pick from") };
        all[self.below(N)]
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }

    /// Puts `all` into another order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for end in (1..all.len()).rev() {
            all.swap(end, self.below(end + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same() {
        let some = |seed, number| Random::new(seed, number).number();
        assert_eq!(some(1, 2), some(1, 2));
        assert_ne!(some(1, 2), some(1, 3));
        assert_ne!(some(1, 2), some(2, 2));
        // The published sequence of seed 0.
        assert_eq!(Random(0).number(), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn numbers_stay_below_their_end() {
        let mut random = Random::new(1, 1);
        for end in [1, 2, 3, 1000] {
            assert!((0..100).all(|_| random.below(end) < end));
        }
        assert_eq!(random.below(0), 0);
    }
}
