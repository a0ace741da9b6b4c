//! Ethernet.

use core::mem::{offset_of, size_of};

use netbpf_common::MacAddr;
use network_types::eth::{EthHdr, EtherType};

use crate::seam::Skb;

/// Bytes of the header.
pub const LEN: usize = size_of::<EthHdr>();
/// The same as a number of bytes to calculate with.
pub const HEADER_LEN: u32 = 14;
const DESTINATION: usize = offset_of!(EthHdr, dst_addr);
const SOURCE: usize = offset_of!(EthHdr, src_addr);
const ETHERTYPE: usize = offset_of!(EthHdr, ether_type);

const _: () = assert!(LEN == HEADER_LEN as usize);

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
        Some(Self {
            dst: load_mac(skb, DESTINATION)?,
            src: load_mac(skb, SOURCE)?,
            ethertype: skb.load_u16(ETHERTYPE)?,
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

#[inline(always)]
fn store_mac(skb: &mut impl Skb, offset: usize, mac: MacAddr) -> Option<()> {
    let [first, second, third] = mac.words();
    skb.store_u16(offset, first)?;
    skb.store_u16(offset + 2, second)?;
    skb.store_u16(offset + 4, third)
}

/// Overwrites both MACs.
#[inline(always)]
pub fn store_macs(skb: &mut impl Skb, dst: MacAddr, src: MacAddr) -> Option<()> {
    store_mac(skb, DESTINATION, dst)?;
    store_mac(skb, SOURCE, src)
}
