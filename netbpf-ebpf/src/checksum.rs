//! One's-complement arithmetic for checksums that change by a difference.
//!
//! # Byte order
//! The Internet checksum does not care in which byte order its 16-bit words
//! are summed, as long as it is the same throughout (RFC 1071 section 2 B). So
//! everything here is in the order in which this CPU loads words from the
//! packet: addresses, ports and checksums go in as loaded and come out as they
//! are to be stored. Nothing in this file swaps bytes.
//!
//! # Differences
//! A word that changes from `old` to `new` changes the sum by `~old + new`
//! (RFC 1624, equation 3). Differences of several words add up, and one that
//! was computed once per flow serves all its packets. The checksum in the
//! packet is the complement of the sum.

use netbpf_common::{Ipv4, Port, Translation, Tuple};

/// Folds a sum of up to 2^16 words into one word.
#[must_use]
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "two folds leave 16 bits")]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The folded sum of words of 32 bits, of which the halves count alike.
#[must_use]
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "one fold leaves little more than 16 bits")]
pub const fn sum<const N: usize>(words: [u32; N]) -> u16 {
    let mut sum: u64 = 0;
    let mut at = 0;
    while at < N {
        sum += words[at] as u64;
        at += 1;
    }
    fold(((sum & 0xffff) + (sum >> 16)) as u32)
}

/// The difference that a word's change makes, unfolded: to be added to others.
#[must_use]
#[inline(always)]
pub const fn word_delta(old: u16, new: u16) -> u32 {
    !old as u32 + new as u32
}

/// The difference that an address's change makes, unfolded.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "takes the two halves apart")]
const fn address(old: Ipv4, new: Ipv4) -> u32 {
    let (old, new) = (old.to_be(), new.to_be());
    word_delta(old as u16, new as u16) + word_delta((old >> 16) as u16, (new >> 16) as u16)
}

/// The difference that translating the addresses of `from` makes to every
/// checksum that covers them; 0 if they stay as they are.
#[must_use]
#[inline(always)]
pub fn addresses_delta(from: &Tuple, to: &Translation) -> u16 {
    let source = if from.saddr == to.saddr { 0 } else { address(from.saddr, to.saddr) };
    let destination = if from.daddr == to.daddr { 0 } else { address(from.daddr, to.daddr) };
    fold(source + destination)
}

/// The difference that translating the ports of `from` makes; 0 if they stay.
#[must_use]
#[inline(always)]
pub fn ports_delta(from: &Tuple, to: &Translation) -> u16 {
    let port =
        |old: Port, new: Port| if old == new { 0 } else { word_delta(old.to_be(), new.to_be()) };
    fold(port(from.sport, to.sport) + port(from.dport, to.dport))
}

/// The checksum `check` after a change by `delta`, which may be unfolded.
#[must_use]
#[inline(always)]
pub const fn apply(check: u16, delta: u32) -> u16 {
    !fold(!check as u32 + delta)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1624 section 4's example, in which equation 2 goes wrong: a header
    /// word changes from 0x5555 to 0x3285, checksum 0xdd2f becomes 0x0000.
    #[test]
    fn rfc_1624_example() {
        assert_eq!(apply(0xdd2f, word_delta(0x5555, 0x3285)), 0x0000);
    }

    #[test]
    fn halves_of_words_count_alike_whatever_is_carried() {
        let bytes = |word: u32| word.to_ne_bytes();
        for words in [[0; 5], [u32::MAX; 5], [0xffff, 1, 0x8000_0000, 0x0001_ffff, 0xfffe_0001]] {
            let halves = words.into_iter().flat_map(|word| {
                let [a, b, c, d] = bytes(word);
                [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
            });
            assert_eq!(sum(words), fold(halves.map(u32::from).sum()), "{words:x?}");
        }
    }

    #[test]
    fn what_stays_makes_no_difference() {
        let tuple = Tuple { saddr: Ipv4::new([10, 0, 0, 1]), ..Tuple::default() };
        assert_eq!(addresses_delta(&tuple, &tuple.into()), 0);
        assert_eq!(ports_delta(&tuple, &tuple.into()), 0);
    }
}
