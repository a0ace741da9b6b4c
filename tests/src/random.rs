//! Numbers that look random and are the same in every run.

/// A generator (xorshift64) that is its seed and nothing else.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of this seed, which must not be 0.
    pub const fn new(seed: u64) -> Self {
        assert!(seed != 0, "xorshift never leaves 0");
        Self(seed)
    }

    /// The next number.
    pub const fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number from 0 to `end` - 1.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from((self.number() >> 16) % (end as u64)).expect("below a usize")
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.number().to_be_bytes()[2]
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// Puts `all` into another order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for end in (1..all.len()).rev() {
            all.swap(end, self.below(end + 1));
        }
    }
}
