//! ARP for IPv4 over Ethernet, RFC 826.

use core::mem::{offset_of, size_of};

use netbpf_common::{Ipv4, MacAddr};
use network_types::arp::ArpHdr;

use super::eth;
use crate::seam::Skb;

/// Offset in the frame of hardware type and protocol type.
const TYPES: usize = eth::LEN + offset_of!(ArpHdr, htype);
/// Ethernet and IPv4, as the CPU loads them.
const ETHERNET_IPV4: u32 = u32::from_ne_bytes([0, 1, 8, 0]);
/// Offset in the frame of the lengths of both sorts of address.
const LENGTHS: usize = eth::LEN + offset_of!(ArpHdr, hlen);
/// Ethernet's and IPv4's, as the CPU loads them.
const SIX_AND_FOUR: u16 = u16::from_ne_bytes([6, 4]);
/// Offset in the frame of the sender's MAC.
const SENDER_MAC: usize = eth::LEN + offset_of!(ArpHdr, sha);
/// Offset in the frame of the sender's address.
const SENDER_ADDRESS: usize = eth::LEN + offset_of!(ArpHdr, spa);

const _: () = assert!(offset_of!(ArpHdr, plen) == offset_of!(ArpHdr, hlen) + 1);
const _: () = assert!(size_of::<ArpHdr>() == 28);

/// Who says to be speaking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender {
    /// The MAC.
    pub mac: MacAddr,
    /// The address; 0.0.0.0 in probes (RFC 5227).
    pub addr: Ipv4,
}

/// Reads the sender; `None` if the packet is truncated or of another sort of ARP.
#[inline(always)]
pub fn sender(skb: &impl Skb) -> Option<Sender> {
    if skb.load_u32(TYPES)? != ETHERNET_IPV4 || skb.load_u16(LENGTHS)? != SIX_AND_FOUR {
        return None;
    }
    Some(Sender {
        mac: eth::load_mac(skb, SENDER_MAC)?,
        addr: Ipv4::from_be(skb.load_u32(SENDER_ADDRESS)?),
    })
}
