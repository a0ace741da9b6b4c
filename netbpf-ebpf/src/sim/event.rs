//! Events in a network, and the frames among them.

use std::{vec, vec::Vec};

use netbpf_common::{EndpointId, Ipv4, MacAddr, PublishEntry, Ticks, proto};

use super::{
    Frame,
    invariants::Program,
    packet::{self, Addresses, Complaint, Segment},
};

/// Payload of each segment of a train.
const GSO_SIZE: u32 = 100;
/// IP protocol number of GRE.
const GRE: u8 = 47;
/// Where datagrams are cut: behind a TCP header.
const CUT: usize = 24;
/// The option "router alert" (RFC 2113).
const ROUTE_ALERT: [u8; 4] = [0x94, 4, 0, 0];
/// A router that reports.
const TRANSIT: Ipv4 = Ipv4::new([192, 0, 2, 77]);

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// A TCP segment.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// An ICMP message of this type.
    Icmp(u8),
    /// A protocol without ports.
    Gre,
    /// One whose ports stay.
    Sctp,
    /// Another, with a checksum over the addresses.
    UdpLite,
    /// An ARP request.
    Arp,
}

/// Odd things about a frame: a set of bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Twist(pub u16);

impl Twist {
    /// A train of segments.
    pub const GSO: u16 = 1;
    /// The transport checksum is left for a device to finish.
    pub const PARTIAL: u16 = 2;
    /// With a VLAN's tag beside it.
    pub const VLAN: u16 = 4;
    /// Addressed to another host.
    pub const TO_OTHER: u16 = 8;
    /// The first fragment of a datagram.
    pub const FRAGMENT: u16 = 16;
    /// Padded behind the packet.
    pub const PADDED: u16 = 32;
    /// With a time to live that is over.
    pub const LAST_HOP: u16 = 64;
    /// With a byte that is something else. In the header's checksum, that is wrong;
    /// anywhere else in the header it is right all the same.
    pub const MUTATED: u16 = 128;
    /// UDP without checksum.
    pub const UNCHECKED: u16 = 256;
    /// With IP options.
    pub const OPTIONS: u16 = 512;
    /// With a tag beside it that has nothing but a priority.
    pub const PRIORITY: u16 = 1024;
    /// A later fragment of a datagram; with [`Twist::FRAGMENT`] not the last.
    pub const LATER: u16 = 2048;
    /// Of an error: it comes from a router, and quotes no more than it has to.
    pub const TRANSIT: u16 = 4096;

    /// Whether the bit is set.
    #[must_use]
    pub const fn has(self, bit: u16) -> bool {
        self.0 & bit != 0
    }
}

/// What is in a frame, whoever it comes from and goes to.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    /// Sort of frame.
    pub body: Body,
    /// Ports, numbers and flags. An ICMP message has the source port for its
    /// identifier.
    pub segment: Segment,
    /// Bytes of payload.
    pub len: usize,
    /// What is odd.
    pub twist: Twist,
    /// Offset and new value of a byte of a [`Twist::MUTATED`] frame.
    pub mutation: (u8, u8),
}

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A frame comes.
    Frame {
        /// Which program it comes to.
        program: Program,
        /// Interface index of the device that it is at.
        ifindex: u32,
        /// From whom and to whom.
        addresses: Addresses,
        /// What.
        content: Content,
    },
    /// A frame that went on lately is answered.
    Answer {
        /// Which one of them.
        index: usize,
        /// With what, where the answered frame leaves a choice.
        content: Content,
    },
    /// A frame that went on lately gives rise to an ICMP error.
    Error {
        /// Index of that frame.
        index: usize,
        /// What is odd about the error.
        content: Content,
    },
    /// Time goes by.
    Wait(Ticks),
    /// Every flow is visited.
    Sweep,
    /// The flows of an endpoint are ended; everybody's for [`EndpointId::NONE`].
    Flush(EndpointId),
    /// These ports are published and no others. Flows stay.
    Publish(Vec<PublishEntry>),
    /// A namespace is taken down. Flows stay.
    Remove(u8),
    /// A namespace is set up, with this guard.
    Add(u8, u8),
    /// The next hops' MACs are known from now on, or are not.
    Resolve(bool),
    /// The flow table has no room for so many of its entries.
    Shorten(usize),
    /// The second uplink is there from now on, or is not. Flows stay.
    Plug(bool),
    /// The peer is behind the second uplink from now on, or behind the first.
    Reroute(bool),
}

impl Content {
    /// The frame, at the device `ifindex`.
    #[must_use]
    pub fn frame(&self, ifindex: u32, addresses: Addresses) -> Frame {
        let Segment { sport, dport, seq, .. } = self.segment;
        let data = vec![0; self.len];
        let bytes = match self.body {
            Body::Tcp => packet::tcp(addresses, self.segment, &data),
            Body::Udp => packet::udp(addresses, sport, dport, &data),
            Body::Icmp(kind) => {
                let [.., high, low] = seq.to_be_bytes();
                let [id_high, id_low] = sport.to_be_bytes();
                let header = [kind, 0, 0, 0, id_high, id_low, high, low];
                packet::ipv4(addresses, proto::ICMP, &[&header, &*data].concat())
            }
            Body::Gre => packet::ipv4(addresses, GRE, &data),
            Body::Sctp => packet::sctp(addresses, sport, dport, &data),
            Body::UdpLite => packet::udp_lite(addresses, sport, dport, &data),
            Body::Arp => packet::arp(addresses.from.0, addresses.from, addresses.to.1),
        };
        self.twisted(ifindex, bytes)
    }

    /// The answer to an IPv4 frame, at the device `ifindex`.
    #[must_use]
    pub fn answer(&self, ifindex: u32, frame: &[u8]) -> Frame {
        let mut bytes = [&frame[6..12], &frame[..6], &frame[12..]].concat();
        bytes[22] = 64;
        bytes[26..34].rotate_left(4);
        match bytes[23] {
            proto::ICMP => bytes[34] = 0,
            proto::TCP => {
                bytes[34..38].rotate_left(2);
                bytes[38..42].copy_from_slice(&self.segment.seq.to_be_bytes());
                bytes[42..46].copy_from_slice(&self.segment.ack.to_be_bytes());
                bytes[47] = self.segment.flags;
            }
            _ => bytes[34..38].rotate_left(2),
        }
        packet::fix_checksums(&mut bytes);
        self.twisted(ifindex, bytes)
    }

    /// An ICMP error about an IPv4 frame, at the device `ifindex`.
    ///
    /// # Panics
    /// If the frame has no header.
    #[must_use]
    pub fn error(&self, ifindex: u32, frame: &[u8]) -> Frame {
        let mac = |at: usize| MacAddr::new(frame[at..at + 6].try_into().expect("six bytes"));
        let addr = |at: usize| Ipv4::new(frame[at..at + 4].try_into().expect("four bytes"));
        let is_short = self.twist.has(Twist::TRANSIT);
        let reporter = if is_short { TRANSIT } else { addr(30) };
        let addresses = Addresses { from: (mac(0), reporter), to: (mac(6), addr(26)) };
        let complaint = [
            Complaint::PORT_UNREACHABLE,
            Complaint::TIME_EXCEEDED,
            Complaint::fragmentation_needed(68),
            Complaint { kind: self.segment.flags, code: 0, rest: 0 },
        ][usize::from(self.segment.flags & 3)];
        let quote = packet::quote(frame, if is_short { 8 } else { 60 });
        self.twisted(ifindex, packet::error(addresses, complaint, quote))
    }

    /// Cut, as the twist wants it.
    fn cut(&self, bytes: &[u8]) -> Vec<u8> {
        let len = bytes.len() - 34;
        let (is_first, is_later) = (self.twist.has(Twist::FRAGMENT), self.twist.has(Twist::LATER));
        let is_cut = len > CUT && bytes[14] == 0x45;
        match (is_first, is_later) {
            (true, false) if is_cut => packet::fragment(bytes, 0..CUT),
            (true, true) if is_cut => packet::fragment(bytes, CUT..len.min(CUT + 8)),
            (false, true) if is_cut => packet::fragment(bytes, CUT..len),
            _ => bytes.to_vec(),
        }
    }

    fn twisted(&self, ifindex: u32, mut bytes: Vec<u8>) -> Frame {
        let twist = self.twist;
        if bytes[12..14] == [8, 0] {
            bytes = self.cut(&bytes);
            if twist.has(Twist::OPTIONS) && bytes[14] == 0x45 {
                bytes = packet::with_options(&bytes, &ROUTE_ALERT);
            }
            if twist.has(Twist::LAST_HOP) {
                bytes[22] = 1;
                packet::fix_header_checksum(&mut bytes);
            }
            let check = packet::l4_at(&bytes) + 6;
            if let (true, proto::UDP, Some(check)) =
                (twist.has(Twist::UNCHECKED), bytes[23], bytes.get_mut(check..check + 2))
            {
                check.fill(0);
            }
        }
        if twist.has(Twist::PADDED) {
            bytes.extend([0; 6]);
        }
        let (at, value) = self.mutation;
        if let (true, Some(byte)) = (twist.has(Twist::MUTATED), bytes.get_mut(usize::from(at))) {
            *byte = value;
            if !matches!(at, 24 | 25) {
                packet::repair_header_checksum(&mut bytes);
            }
        }
        let is_cut = twist.has(Twist::FRAGMENT | Twist::LATER);
        let vlan_id = match (twist.has(Twist::VLAN), twist.has(Twist::PRIORITY)) {
            (false, false) => None,
            (true, _) => Some(5),
            (false, true) => Some(0),
        };
        Frame {
            bytes,
            ifindex,
            gso_size: if twist.has(Twist::GSO) && !is_cut { GSO_SIZE } else { 0 },
            vlan_id,
            is_to_other: twist.has(Twist::TO_OTHER),
            is_checksum_partial: twist.has(Twist::PARTIAL),
            is_hairpin: false,
            copies: Vec::new(),
            again: Vec::new(),
        }
    }
}
