//! From a frame's bytes to what the logic decides on.

use netbpf_common::{DropReason, Flow, Port, Tuple, proto};

use crate::{
    Stop, rewrite,
    seam::Skb,
    wire::{
        eth, icmp,
        ipv4::{self, Header},
        l4::{self, Tcp},
    },
};

/// An IPv4 packet that can be translated.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Packet {
    /// Addresses, ports and protocol. Of an ICMP error: those of a packet that
    /// goes its way, in the flow that it is about.
    pub tuple: Tuple,
    /// The IPv4 header.
    pub header: Header,
    /// TCP's fields; all zero for other protocols.
    pub tcp: Tcp,
    /// Whether the packet may open a flow. A segment that ends a connection and
    /// an answer to a query may not: there is nothing that they belong to.
    pub may_open: bool,
    /// Length of the IP packet in bytes: of the whole train, if it is a GSO one.
    pub len: u32,
    /// Length of the headers that each packet of a GSO train will have, its own payload
    /// behind them.
    pub headers_len: u32,
}

impl Packet {
    /// Whether the longest IP packet that goes on the wire is longer than `mtu`.
    #[inline(always)]
    pub fn is_longer_than(&self, skb: &impl Skb, mtu: u32) -> bool {
        is_longer_than(skb, self.len, self.headers_len, mtu)
    }
}

/// Whether the longest IP packet that goes on the wire of one of `len` bytes is longer than
/// `mtu`: of a GSO train that is what it is cut into, each piece behind `headers_len` bytes.
/// (What is short enough is not asked whether it is a train: that is told behind the
/// packet's bytes.)
#[inline(always)]
pub fn is_longer_than(skb: &impl Skb, len: u32, headers_len: u32, mtu: u32) -> bool {
    len > mtu
        && match skb.gso_size() {
            0 => true,
            payload => headers_len + payload > mtu,
        }
}

/// A packet, and how its bytes are to be changed.
pub trait Translate {
    /// The packet.
    fn packet(&self) -> &Packet;
    /// Whether it is about a flow instead of being one of it: then it changes
    /// nothing of the flow (RFC 5508 REQ-6).
    fn is_error(&self) -> bool;
    /// Whether [`crate::rare`] decides about it, where there is stack for what is rare.
    fn is_rare(&self) -> bool;
    /// Makes it what its flow says, with a time to live of `ttl`; see [`rewrite`].
    fn translate(&self, skb: &mut impl Skb, flow: &Flow, ttl: u8) -> Option<()>;
}

impl Translate for Packet {
    #[inline(always)]
    fn packet(&self) -> &Packet {
        self
    }

    #[inline(always)]
    fn is_error(&self) -> bool {
        false
    }

    #[inline(always)]
    fn is_rare(&self) -> bool {
        false
    }

    #[inline(always)]
    fn translate(&self, skb: &mut impl Skb, flow: &Flow, ttl: u8) -> Option<()> {
        rewrite::transport(skb, self, flow)?;
        rewrite::ip_header(skb, &self.header, flow, ttl)
    }
}

/// What an IPv4 frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// TCP, UDP or an ICMP query, unfragmented, without IP options.
    Packet(Packet),
    /// Anything else: see [`crate::rare`].
    Rare,
}

/// Reads the IPv4 header and checks it against the frame (RFC 1812 section
/// 5.2.2). Its checksum is judged where a router would: see [`packet`] and
/// [`is_intact`].
///
/// # Errors
/// [`DropReason::Truncated`] or [`DropReason::BadHeader`].
#[inline(always)]
pub fn header(skb: &impl Skb) -> Result<Header, DropReason> {
    let header = Header::load(skb).ok_or(DropReason::Truncated)?;
    if !header.is_version_4() || header.header_len() < ipv4::MIN_LEN {
        return Err(DropReason::BadHeader);
    }
    let mut total_len = u32::from(header.total_len);
    // Linux writes 0 into trains of more than 64 KiB ("BIG TCP").
    if total_len == 0 && skb.gso_size() != 0 {
        total_len = skb.l3_len();
    }
    if total_len < header.header_len() || total_len > skb.l3_len() {
        return Err(DropReason::BadHeader);
    }
    Ok(header)
}

/// Whether the checksum of an IPv4 header is right, options included.
#[inline(always)]
pub fn is_intact(skb: &impl Skb, header: &Header) -> bool {
    if header.has_options() {
        skb.sum(eth::LEN, header.header_len()) == Some(0xffff)
    } else {
        header.adds_up
    }
}

/// Length of the IP packet in bytes. Ethernet pads short frames; what counts is
/// the packet's own length.
#[inline(always)]
pub fn len(skb: &impl Skb, header: &Header) -> u32 {
    match header.total_len {
        0 => skb.l3_len(),
        len => u32::from(len),
    }
}

/// Reads the transport header of a packet whose IPv4 header is `header`. Options
/// are left to whoever reads on: so is the checksum that covers them.
///
/// # Errors
/// [`DropReason::BadChecksum`] if the header's is wrong (RFC 1812 section 5.2.2,
/// `ip_rcv_core()`): a difference added to it would be a lie about the rest.
/// [`DropReason::Truncated`] or [`DropReason::BadHeader`] if the packet ends within
/// its headers.
#[inline(always)]
pub fn packet(skb: &impl Skb, header: Header) -> Result<Parsed, DropReason> {
    if header.has_options() {
        return Ok(Parsed::Rare);
    }
    if !header.adds_up {
        return Err(DropReason::BadChecksum);
    }
    if header.is_fragment() {
        return Ok(Parsed::Rare);
    }
    let len = len(skb, &header);
    let mut tcp = Tcp::default();
    let mut may_open = true;
    let (sport, dport, l4_len) = match header.proto {
        proto::TCP => {
            let (sport, dport) = l4::ports(skb).ok_or(DropReason::Truncated)?;
            tcp = Tcp::load(skb).ok_or(DropReason::Truncated)?;
            if tcp.len < l4::TCP_MIN_LEN {
                return Err(DropReason::BadHeader);
            }
            may_open = tcp.may_open();
            (sport, dport, tcp.len)
        }
        proto::UDP => {
            let (sport, dport) = l4::ports(skb).ok_or(DropReason::Truncated)?;
            (sport, dport, l4::UDP_LEN)
        }
        proto::ICMP => match icmp::query(skb).ok_or(DropReason::Truncated)? {
            Some(query) => {
                may_open = query.is_request;
                let (sport, dport) = query.ports();
                (sport, dport, icmp::MIN_LEN)
            }
            None => return Ok(Parsed::Rare),
        },
        _ => return Ok(Parsed::Rare),
    };
    let headers_len = ipv4::MIN_LEN + l4_len;
    if len < headers_len {
        return Err(DropReason::Truncated);
    }
    let tuple = tuple(&header, sport, dport);
    Ok(Parsed::Packet(Packet { tuple, header, tcp, may_open, len, headers_len }))
}

/// The packet, or if it is not given, the one that there is, read anew.
///
/// # Errors
/// [`Stop::ToStack`] if it is a rare one, or as [`packet`].
#[inline(always)]
pub fn given_or_read(skb: &impl Skb, given: Option<&Packet>) -> Result<Packet, Stop> {
    if let Some(packet) = given {
        return Ok(*packet);
    }
    match packet(skb, header(skb)?)? {
        Parsed::Packet(packet) => Ok(packet),
        Parsed::Rare => Err(Stop::ToStack),
    }
}

/// The addresses of a packet with that header, and its protocol: all that most routes
/// ask for.
#[inline(always)]
#[must_use]
pub fn addresses(header: &Header) -> Tuple {
    tuple(header, Port::default(), Port::default())
}

/// The tuple of a packet with that header and those ports.
#[inline(always)]
#[must_use]
pub fn tuple(header: &Header, sport: Port, dport: Port) -> Tuple {
    Tuple {
        saddr: header.saddr,
        daddr: header.daddr,
        sport,
        dport,
        proto: header.proto,
        from_host: 0,
        pad: [0; 2],
    }
}
