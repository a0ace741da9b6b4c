//! The packets' layout: offsets in the frame, and checked getters.

pub mod arp;
pub mod eth;
pub mod icmp;
pub mod ipv4;
pub mod l4;

/// The two halves of a word that lies in a packet, in the order in which they do.
#[inline(always)]
pub(crate) const fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

/// The inverse of [`halves`].
#[inline(always)]
pub(crate) const fn word([first, second]: [u16; 2]) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}
