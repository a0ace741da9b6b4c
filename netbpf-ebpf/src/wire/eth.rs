//! Ethernet.

use core::mem::{offset_of, size_of};

use netbpf_common::MacAddr;
use network_types::eth::{EthHdr, EtherType};

use super::{halves, word};
use crate::seam::Skb;

/// Bytes of the header.
pub const LEN: usize = size_of::<EthHdr>();
/// The same as a number of bytes to calculate with.
pub const HEADER_LEN: u32 = 14;
const DESTINATION: usize = offset_of!(EthHdr, dst_addr);
const SOURCE: usize = offset_of!(EthHdr, src_addr);
const ETHERTYPE: usize = offset_of!(EthHdr, ether_type);

const _: () = assert!(LEN == HEADER_LEN as usize);
const _: () = assert!(DESTINATION == 0 && SOURCE == 6);

/// Ethertype of ARP, as the CPU loads it.
pub const ARP: u16 = EtherType::Arp as u16;
/// Ethertype of IPv4, as the CPU loads it.
pub const IPV4: u16 = EtherType::Ipv4 as u16;

/// Ethertype of a VLAN tag, as the CPU loads it.
const VLAN: u16 = EtherType::Ieee8021q as u16;
/// Ethertype of a service VLAN's tag (802.1ad), as the CPU loads it.
const SERVICE_VLAN: u16 = EtherType::Ieee8021ad as u16;

/// The header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Eth {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// Ethertype, as the CPU loads it.
    pub ethertype: u16,
}

impl Eth {
    /// Whether a VLAN tag stands in the frame itself.
    #[must_use]
    #[inline(always)]
    pub const fn has_vlan_tag(&self) -> bool {
        self.ethertype == VLAN || self.ethertype == SERVICE_VLAN
    }

    /// Reads the header.
    #[inline(always)]
    pub fn load(skb: &impl Skb) -> Option<Self> {
        let ethertype = skb.load_u16(ETHERTYPE)?;
        let [first, second, third] = skb.load_words(DESTINATION)?.map(halves);
        Some(Self {
            dst: MacAddr::from_words([first[0], first[1], second[0]]),
            src: MacAddr::from_words([second[1], third[0], third[1]]),
            ethertype,
        })
    }
}

/// The MAC at `offset`.
#[inline(always)]
pub fn load_mac(skb: &impl Skb, offset: usize) -> Option<MacAddr> {
    Some(MacAddr::from_words([
        skb.load_u16(offset)?,
        skb.load_u16(offset + 2)?,
        skb.load_u16(offset + 4)?,
    ]))
}

/// Overwrites both MACs.
#[inline(always)]
pub fn store_macs(skb: &mut impl Skb, dst: MacAddr, src: MacAddr) -> Option<()> {
    let (dst, src) = (dst.words(), src.words());
    let words = [word([dst[0], dst[1]]), word([dst[2], src[0]]), word([src[1], src[2]])];
    skb.store_words(DESTINATION, words)
}
