//! TCP (RFC 9293) and UDP (RFC 768): ports first in both.

use core::mem::{offset_of, size_of};

use netbpf_common::Port;
use network_types::{tcp::TcpHdr, udp::UdpHdr};

use super::{eth, halves, ipv4, word};
use crate::seam::Skb;

/// Offset of the transport header in the frame, where there are no IP options.
pub const OFFSET: usize = eth::LEN + ipv4::LEN;
/// Offset of both ports, the source's first.
const PORTS: usize = OFFSET + offset_of!(UdpHdr, src);
/// Offset of TCP's checksum in its header.
pub const TCP_CHECK: usize = 16;
/// Offset of UDP's checksum in its header, and of UDP-Lite's and DCCP's.
pub const UDP_CHECK: usize = offset_of!(UdpHdr, check);
/// Bytes of TCP's header without options.
pub const TCP_MIN_LEN: u32 = 20;
/// Bytes of UDP's header.
pub const UDP_LEN: u32 = 8;

const _: () = assert!(offset_of!(UdpHdr, dst) == offset_of!(UdpHdr, src) + 2);
const _: () = assert!(size_of::<TcpHdr>() == TCP_MIN_LEN as usize);
const _: () = assert!(size_of::<UdpHdr>() == UDP_LEN as usize);

/// Source and destination port of TCP or UDP.
#[inline(always)]
pub fn ports(skb: &impl Skb) -> Option<(Port, Port)> {
    let [sport, dport] = halves(skb.load_u32(PORTS)?);
    Some((Port::from_be(sport), Port::from_be(dport)))
}

/// Overwrites both ports.
#[inline(always)]
pub fn store_ports(skb: &mut impl Skb, sport: Port, dport: Port) -> Option<()> {
    skb.store_words(PORTS, [word([sport.to_be(), dport.to_be()])])
}

/// TCP's flags, as bits of the header's 14th byte.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// The acknowledgement field is significant.
    pub const ACK: u8 = 16;
}

/// What connection tracking reads of a TCP header.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tcp {
    /// Sequence number, host order.
    pub seq: u32,
    /// Acknowledgement number, host order.
    pub ack: u32,
    /// Bytes of the header, options included.
    pub len: u32,
    /// [`flag`] bits.
    pub flags: u8,
}

impl Tcp {
    /// From the header's 20 bytes.
    #[must_use]
    #[inline(always)]
    pub fn of(header: &[u8; 20]) -> Self {
        let word = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        Self { seq: word(4), ack: word(8), len: u32::from(header[12] >> 4) * 4, flags: header[13] }
    }

    /// Reads the header behind the ports; `None` if the frame ends before its 20 bytes do.
    #[inline(always)]
    pub fn load(skb: &impl Skb) -> Option<Self> {
        let [seq, ack, offset_and_flags, _] = skb.load_words(OFFSET + 4)?;
        let [offset, flags, ..] = offset_and_flags.to_ne_bytes();
        Some(Self {
            seq: u32::from_be(seq),
            ack: u32::from_be(ack),
            len: u32::from(offset >> 4) * 4,
            flags,
        })
    }

    /// Whether a segment may be the first that is seen of a connection: not one
    /// that ends it, nor one that neither begins it nor acknowledges anything.
    #[must_use]
    #[inline(always)]
    pub fn may_open(self) -> bool {
        self.flags & (flag::FIN | flag::RST) == 0 && self.flags & (flag::SYN | flag::ACK) != 0
    }
}
