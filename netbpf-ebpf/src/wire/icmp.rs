//! ICMP, RFC 792: queries, whose identifier takes a port's place, and errors.

use core::mem::{offset_of, size_of};

use netbpf_common::Port;
use network_types::icmp::Icmpv4Hdr;

use super::l4;
use crate::seam::Skb;

/// Bytes of the header.
pub const LEN: usize = size_of::<Icmpv4Hdr>();
/// The same as a number of bytes to calculate with.
pub const MIN_LEN: u32 = 8;
/// Offset of the checksum in the header.
pub const CHECK: usize = offset_of!(Icmpv4Hdr, check);
/// Offset of a query's identifier in the header.
pub const ID: usize = CHECK + 2;
/// Offset of a query's sequence number, the end of the header.
const SEQUENCE: usize = ID + 2;

const _: () = assert!(LEN == MIN_LEN as usize && SEQUENCE + 2 == LEN);

/// Message types (IANA "ICMP Type Numbers").
pub mod kind {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Timestamp request.
    pub const TIMESTAMP: u8 = 13;
    /// Timestamp reply.
    pub const TIMESTAMP_REPLY: u8 = 14;
    /// Information request.
    pub const INFORMATION: u8 = 15;
    /// Information reply.
    pub const INFORMATION_REPLY: u8 = 16;
    /// Address mask request (RFC 950).
    pub const ADDRESS_MASK: u8 = 17;
    /// Address mask reply.
    pub const ADDRESS_MASK_REPLY: u8 = 18;
}

/// Codes of [`kind::UNREACHABLE`].
pub mod code {
    /// Fragmentation needed, and forbidden.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Communication administratively prohibited (RFC 1812 section 5.2.7.1).
    pub const PROHIBITED: u8 = 13;
}

/// A query or the answer to one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query {
    /// Whether it asks.
    pub is_request: bool,
    /// The identifier, which takes a port's place.
    pub id: Port,
}

impl Query {
    /// The message of a type with an identifier; `None` if that is no query.
    #[inline(always)]
    #[must_use]
    pub const fn of(kind: u8, id: Port) -> Option<Self> {
        match kind {
            kind::ECHO_REQUEST | kind::TIMESTAMP | kind::INFORMATION | kind::ADDRESS_MASK => {
                Some(Self { is_request: true, id })
            }
            kind::ECHO_REPLY
            | kind::TIMESTAMP_REPLY
            | kind::INFORMATION_REPLY
            | kind::ADDRESS_MASK_REPLY => Some(Self { is_request: false, id }),
            _ => None,
        }
    }

    /// Source and destination port that stand for it in a tuple.
    #[inline(always)]
    #[must_use]
    pub fn ports(self) -> (Port, Port) {
        if self.is_request { (self.id, Port::default()) } else { (Port::default(), self.id) }
    }
}

/// Reads the header of a query; `Some(None)` for any other sort of ICMP.
#[inline(always)]
pub fn query(skb: &impl Skb) -> Option<Option<Query>> {
    skb.load_u16(l4::OFFSET + SEQUENCE)?;
    let id = Port::from_be(skb.load_u16(l4::OFFSET + ID)?);
    Some(Query::of(skb.load_u8(l4::OFFSET)?, id))
}

/// Whether messages of a type report on a packet, which they quote, and reach
/// whoever sent it. (Redirects are for neighbours, and source quenches obsolete,
/// RFC 6633.)
#[must_use]
#[inline(always)]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, kind::UNREACHABLE | kind::TIME_EXCEEDED | kind::PARAMETER_PROBLEM)
}
