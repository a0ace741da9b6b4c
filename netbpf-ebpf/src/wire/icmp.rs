//! ICMP, RFC 792: echo, the only query that is translated.

use core::mem::{offset_of, size_of};

use netbpf_common::Port;
use network_types::icmp::Icmpv4Hdr;

use super::l4;
use crate::seam::Skb;

/// Bytes of the header.
pub const LEN: usize = size_of::<Icmpv4Hdr>();
/// The same as a number of bytes to calculate with.
pub const MIN_LEN: u32 = 8;
/// Offset of the checksum.
pub const CHECK: usize = l4::OFFSET + offset_of!(Icmpv4Hdr, check);
/// Offset of an echo's identifier.
pub const ID: usize = CHECK + 2;
/// Offset of an echo's sequence number, the end of the header.
const SEQUENCE: usize = ID + 2;

const _: () = assert!(LEN == MIN_LEN as usize && SEQUENCE + 2 == l4::OFFSET + LEN);

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// An echo request or reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Echo {
    /// Whether it is a request.
    pub is_request: bool,
    /// The identifier, which takes a port's place.
    pub id: Port,
}

/// Reads the header of an echo; `Some(None)` for any other sort of ICMP.
#[inline(always)]
pub fn echo(skb: &impl Skb) -> Option<Option<Echo>> {
    skb.load_u16(SEQUENCE)?;
    let [kind, code] = skb.load_u16(l4::OFFSET)?.to_ne_bytes();
    let id = Port::from_be(skb.load_u16(ID)?);
    Some(match (kind, code) {
        (ECHO_REQUEST | ECHO_REPLY, 0) => Some(Echo { is_request: kind == ECHO_REQUEST, id }),
        _ => None,
    })
}
