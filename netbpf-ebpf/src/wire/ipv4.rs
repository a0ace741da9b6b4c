//! The IPv4 header, RFC 791.

use core::mem::{offset_of, size_of};

use netbpf_common::Ipv4;
use network_types::ip::Ipv4Hdr;

use super::eth;
use crate::{checksum, seam::Skb};

/// Bytes of the header without options.
pub const LEN: usize = size_of::<Ipv4Hdr>();
/// The same as a number of bytes to calculate with.
pub const MIN_LEN: u32 = 20;
/// Offset of time to live and protocol in the frame: one word of the checksum.
pub const TTL_AND_PROTO: usize = eth::LEN + offset_of!(Ipv4Hdr, ttl);
/// Offset of the source address.
pub const SOURCE: usize = eth::LEN + offset_of!(Ipv4Hdr, src_addr);
/// Offset of the destination address.
pub const DESTINATION: usize = eth::LEN + offset_of!(Ipv4Hdr, dst_addr);

const _: () = assert!(LEN == MIN_LEN as usize);
const _: () = assert!(
    offset_of!(Ipv4Hdr, tot_len) == 2
        && offset_of!(Ipv4Hdr, id) == 4
        && offset_of!(Ipv4Hdr, frags) == 6
        && offset_of!(Ipv4Hdr, ttl) == 8
        && offset_of!(Ipv4Hdr, proto) == 9
        && offset_of!(Ipv4Hdr, check) == 10
        && offset_of!(Ipv4Hdr, src_addr) == 12
        && offset_of!(Ipv4Hdr, dst_addr) == 16
);

/// Flag "more fragments" in the word of flags and fragment offset.
const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset's bits.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Flag "don't fragment" in the same word.
const DONT_FRAGMENT: u16 = 0x4000;

/// The header's fields that the datapath looks at.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Header {
    /// Version and header length, as they stand in the packet.
    pub version_ihl: u8,
    /// Length of the packet in bytes, header included.
    pub total_len: u16,
    /// Identification, as the CPU loads it.
    pub id: u16,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number.
    pub proto: u8,
    /// The checksum, as the CPU loads it.
    pub check: u16,
    /// Whether that is right, of a header without options: then these 20 bytes, with
    /// the checksum among them, add up to all ones.
    pub adds_up: bool,
    /// Source address.
    pub saddr: Ipv4,
    /// Destination address.
    pub daddr: Ipv4,
}

impl Header {
    /// Reads the header; `None` if the frame ends before.
    #[inline(always)]
    pub fn load(skb: &impl Skb) -> Option<Self> {
        skb.load_words(eth::LEN).map(Self::of_words)
    }

    /// From the header's 20 bytes.
    #[must_use]
    #[inline(always)]
    pub fn of(header: &[u8; LEN]) -> Self {
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        Self::of_words([word(0), word(4), word(8), word(12), word(16)])
    }

    /// From the header's words, as the CPU loads them.
    #[inline(always)]
    fn of_words(words: [u32; LEN / 4]) -> Self {
        let [lengths, fragments, check, saddr, daddr] = words;
        let [version_ihl, _, l0, l1] = lengths.to_ne_bytes();
        let [i0, i1, f0, f1] = fragments.to_ne_bytes();
        let [ttl, proto, c0, c1] = check.to_ne_bytes();
        Self {
            version_ihl,
            total_len: u16::from_be_bytes([l0, l1]),
            id: u16::from_ne_bytes([i0, i1]),
            fragment: u16::from_be_bytes([f0, f1]),
            ttl,
            proto,
            check: u16::from_ne_bytes([c0, c1]),
            adds_up: checksum::sum(words) == 0xffff,
            saddr: Ipv4::from_be(saddr),
            daddr: Ipv4::from_be(daddr),
        }
    }

    /// Bytes of the header, options included.
    #[must_use]
    #[inline(always)]
    pub const fn header_len(&self) -> u32 {
        (self.version_ihl & 0xf) as u32 * 4
    }

    /// Whether the version is 4.
    #[must_use]
    #[inline(always)]
    pub const fn is_version_4(&self) -> bool {
        self.version_ihl >> 4 == 4
    }

    /// Whether the header has options.
    #[must_use]
    #[inline(always)]
    pub const fn has_options(&self) -> bool {
        self.version_ihl & 0xf > 5
    }

    /// Whether the packet is a fragment, the first included.
    #[must_use]
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Whether the packet is a fragment and not the first: it has no ports.
    #[must_use]
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment & FRAGMENT_OFFSET != 0
    }

    /// Whether routers may fragment the packet.
    #[must_use]
    #[inline(always)]
    pub const fn may_be_fragmented(&self) -> bool {
        self.fragment & DONT_FRAGMENT == 0
    }
}
