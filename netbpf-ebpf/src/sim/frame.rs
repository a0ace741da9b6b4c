//! A packet: bytes, and what the kernel knows about them.

use std::vec::Vec;

use netbpf_common::{Flow, HeldFragment};

use crate::{
    Verdict, checksum,
    seam::{Covered, Skb},
    wire::eth,
};

/// A frame as bytes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Frame {
    /// The bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// The device's interface index.
    pub ifindex: u32,
    /// Payload of each segment, if the frame is a train.
    pub gso_size: u32,
    /// The VLAN tag beside the frame.
    pub vlan_id: Option<u16>,
    /// Whether the frame is for another host.
    pub is_to_other: bool,
    /// Whether the checksum is left for a device to finish: it then covers the
    /// pseudo-header only.
    pub is_checksum_partial: bool,
    /// Whether the frame comes in again by the loopback device.
    pub is_hairpin: bool,
    /// Copies of it that were sent, as they were then, and where to.
    pub copies: Vec<(Verdict, Vec<u8>)>,
    /// Copies of it that come in again, and by which device.
    pub again: Vec<(u32, Vec<u8>)>,
}

impl Frame {
    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(offset..offset + N)?.try_into().ok()
    }

    fn overwrite(&mut self, offset: usize, bytes: &[u8]) -> Option<()> {
        self.bytes.get_mut(offset..offset + bytes.len())?.copy_from_slice(bytes);
        Some(())
    }
}

impl Skb for Frame {
    fn l3_len(&self) -> u32 {
        u32::try_from(self.bytes.len().saturating_sub(eth::LEN)).unwrap_or(u32::MAX)
    }

    fn gso_size(&self) -> u32 {
        self.gso_size
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn is_to_us(&self) -> bool {
        !self.is_to_other
    }

    fn is_from_host(&self) -> bool {
        self.ifindex == Flow::LOOPBACK && !self.is_hairpin
    }

    fn vlan_id(&self) -> Option<u16> {
        self.vlan_id
    }

    fn load_u8(&self, offset: usize) -> Option<u8> {
        self.bytes.get(offset).copied()
    }

    fn load_u16(&self, offset: usize) -> Option<u16> {
        Some(u16::from_ne_bytes(self.array(offset)?))
    }

    fn load_u32(&self, offset: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.array(offset)?))
    }

    fn load_words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let bytes = self.bytes.get(offset..offset + 4 * N)?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().ok()?);
        }
        Some(words)
    }

    fn store_u16(&mut self, offset: usize, value: u16) -> Option<()> {
        self.overwrite(offset, &value.to_ne_bytes())
    }

    fn store_words<const N: usize>(&mut self, offset: usize, words: [u32; N]) -> Option<()> {
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        self.overwrite(offset, &bytes)
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.array(offset)
    }

    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.overwrite(offset, &bytes)
    }

    fn sum(&self, offset: usize, len: u32) -> Option<u16> {
        let bytes = self.bytes.get(offset..)?.get(..usize::try_from(len).ok()?)?;
        let word = |pair: &[u8]| match *pair {
            [a, b] => u64::from(u16::from_ne_bytes([a, b])),
            [a] => u64::from(u16::from_ne_bytes([a, 0])),
            _ => 0,
        };
        let mut sum: u64 = bytes.chunks(2).map(word).sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).ok()
    }

    fn resize(&mut self, len: u32) -> Option<()> {
        self.bytes.resize(len as usize, 0);
        self.gso_size = 0;
        Some(())
    }

    fn start_afresh(&mut self, len: u32) -> Option<()> {
        self.bytes.get_mut(eth::LEN..)?.fill(0);
        self.is_checksum_partial = false;
        self.resize(len)
    }

    fn save(&self, into: &mut [u8; HeldFragment::LEN], len: u32) -> Option<()> {
        into.get_mut(..len as usize)?.copy_from_slice(self.bytes.get(..len as usize)?);
        Some(())
    }

    fn restore(&mut self, from: &[u8; HeldFragment::LEN], len: u32) -> Option<()> {
        self.bytes = from.get(..len as usize)?.to_vec();
        Some(())
    }

    fn send_copy(&mut self, verdict: Verdict) -> bool {
        self.copies.push((verdict, self.bytes.clone()));
        true
    }

    fn come_in_again(&mut self, ifindex: u32) -> bool {
        self.again.push((ifindex, self.bytes.clone()));
        true
    }

    /// As `inet_proto_csum_replace_by_diff()` of `net/core/utils.c` does.
    fn fix_l4_checksum(
        &mut self,
        offset: usize,
        delta: u16,
        covered: Covered,
        keep_zero: bool,
    ) -> Option<()> {
        let old = self.load_u16(offset)?;
        if keep_zero && old == 0 {
            return Some(());
        }
        let mut new = old;
        if !self.is_checksum_partial {
            new = checksum::apply(old, u32::from(delta));
        } else if covered == Covered::PseudoHeader {
            new = checksum::fold(u32::from(old) + u32::from(delta));
        }
        if keep_zero && new == 0 {
            new = 0xffff;
        }
        self.store_u16(offset, new)
    }
}
