//! A scenario: who sends what, one frame after another.

use std::net::Ipv4Addr;

use super::stage::{Place, Station};

/// `EtherType` of IPv4.
pub const IPV4: u16 = 0x0800;
/// `EtherType` of ARP.
pub const ARP: u16 = 0x0806;
/// `EtherType` of a VLAN tag.
pub const VLAN: u16 = 0x8100;
/// `EtherType` of IPv6.
pub const IPV6: u16 = 0x86dd;

/// A short list of frames, sent one after another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// Its number in the run.
    pub number: u32,
    /// Its slot on the stage, from which addresses and ports of its own follow.
    pub slot: u16,
    /// What it is about, in words.
    pub name: String,
    /// Its frames.
    pub steps: Vec<Step>,
}

/// A frame, and who sends it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Who sends it.
    pub from: Place,
    /// What is sent.
    pub what: What,
}

/// What is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// This frame.
    Frame(Frame),
    /// This IP packet, the way packets of the sender usually go: to its gateway.
    Packet(Vec<u8>),
    /// This IP packet, as a train that somebody else is to cut.
    Train {
        /// It: longer than any wire takes.
        packet: Vec<u8>,
        /// Bytes of data in each of its segments.
        size: u16,
    },
    /// An answer to the last packet that has come to the sender by both datapaths.
    Answer(Answer),
    /// An ICMP error about that packet.
    Error(IcmpError),
}

/// An Ethernet frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// To whom.
    pub dst: Station,
    /// From whom.
    pub src: Station,
    /// VLAN tags (TCI), outermost first.
    pub tags: Vec<u16>,
    /// What is in it.
    pub ethertype: u16,
    /// That.
    pub payload: Vec<u8>,
}

/// An answer: addresses and ports are those of the packet that it answers,
/// exchanged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// An answer to an ICMP query.
    Echo,
    /// A UDP datagram.
    Udp(Vec<u8>),
    /// A TCP segment with these numbers; without an acknowledgement number, the
    /// one that acknowledges what is answered.
    Tcp {
        /// Flags.
        flags: u8,
        /// Sequence number; that which the other side expects if there is none.
        seq: Option<u32>,
        /// Acknowledgement number; that of all that has come if there is none.
        ack: Option<u32>,
        /// Data.
        data: Vec<u8>,
    },
    /// The payload of the packet as it is, back to where it came from: for
    /// protocols without ports.
    Same,
}

/// An ICMP error about a packet (RFC 792).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IcmpError {
    /// Who says so; the address that the packet went to if nobody else.
    pub by: Option<Ipv4Addr>,
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The rest of the header.
    pub rest: [u8; 4],
    /// Bytes of the packet's payload that are quoted.
    pub quote: usize,
}

/// What of a frame belongs to no packet: addresses, tags and type.
impl Frame {
    /// A frame without tags.
    #[must_use]
    pub fn new(dst: Station, src: Station, ethertype: u16, payload: Vec<u8>) -> Self {
        Self { dst, src, tags: Vec::new(), ethertype, payload }
    }
}

impl Step {
    /// This packet.
    #[must_use]
    pub fn packet(from: Place, packet: Vec<u8>) -> Self {
        Self { from, what: What::Packet(packet) }
    }

    /// This frame.
    #[must_use]
    pub fn frame(from: Place, frame: Frame) -> Self {
        Self { from, what: What::Frame(frame) }
    }

    /// This answer.
    #[must_use]
    pub fn answer(from: Place, answer: Answer) -> Self {
        Self { from, what: What::Answer(answer) }
    }

    /// This error.
    #[must_use]
    pub fn error(from: Place, error: IcmpError) -> Self {
        Self { from, what: What::Error(error) }
    }

    /// This train of segments with so much data each.
    #[must_use]
    pub fn train(from: Place, packet: Vec<u8>, size: u16) -> Self {
        Self { from, what: What::Train { packet, size } }
    }

    /// The IPv4 packet that is sent, if it is one that does not depend on what
    /// was captured.
    #[must_use]
    pub fn ip(&self) -> Option<&[u8]> {
        match &self.what {
            What::Packet(packet) | What::Train { packet, .. } => Some(packet),
            What::Frame(frame) if frame.ethertype == IPV4 => Some(&frame.payload),
            What::Frame(_) | What::Answer(_) | What::Error(_) => None,
        }
    }
}
