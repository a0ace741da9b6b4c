//! Fragments: only the first of a datagram has its ports, and it need not come first.

use crate::{EndpointId, Ipv4, Port, Ticks};

/// What all fragments of a datagram have in common (RFC 791): key of the
/// `FRAGMENTS` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct FragmentKey {
    /// Source address.
    pub saddr: Ipv4,
    /// Destination address.
    pub daddr: Ipv4,
    /// Identification, as the CPU loads it.
    pub id: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Zero: the kernel hashes these bytes too.
    pub pad: u8,
}

const _: () = assert!(size_of::<FragmentKey>() == 12 && align_of::<FragmentKey>() == 4);

/// What is known of a fragmented datagram: value of the `FRAGMENTS` map.
///
/// Fragments that come before the first are held. Each links to the one held
/// before it; `held` is where the chain begins. Whoever replaces that word by 0
/// has the chain to himself.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Fragments {
    /// The first fragment's source port.
    pub sport: Port,
    /// Its destination port.
    pub dport: Port,
    /// One of [`Fragments::UNKNOWN`], [`Fragments::IN_FLOW`], [`Fragments::TO_STACK`].
    pub state: u32,
    /// Ticket of the fragment held last; 0: none.
    pub held: u32,
    /// When the first fragment of all to arrive did.
    pub since: Ticks,
}

impl Fragments {
    /// The first fragment has not come.
    pub const UNKNOWN: u32 = 0;
    /// It has; the datagram belongs to a flow.
    pub const IN_FLOW: u32 = 1;
    /// It has; the datagram is the stack's.
    pub const TO_STACK: u32 = 2;
}

const _: () = assert!(size_of::<Fragments>() == 16 && align_of::<Fragments>() == 4);

/// A fragment that waits for the first of its datagram: element of the
/// `HELD_FRAGMENTS` array, a ring in which the newest takes the place of the
/// oldest: there is no more memory for them than that.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldFragment {
    /// The datagram.
    pub key: FragmentKey,
    /// Counts from 1; 0: the slot is free. Its remainder by [`HeldFragment::SLOTS`]
    /// is the slot.
    pub ticket: u32,
    /// Ticket of the fragment of the same datagram that was held before; 0: none.
    pub previous: u32,
    /// Length of the frame in bytes.
    pub len: u32,
    /// The namespace that sent it; [`EndpointId::NONE`] if it came from outside.
    pub endpoint: EndpointId,
    /// Zero.
    pub pad: [u16; 3],
    /// The frame, its Ethernet header included.
    pub frame: [u8; HeldFragment::LEN],
}

impl HeldFragment {
    /// Number of slots, a power of two.
    pub const SLOTS: u32 = 1024;
    /// Longest frame that is held: of uplinks with jumbo frames, too.
    pub const LEN: usize = 9216;
    /// A free slot.
    pub const FREE: Self = Self {
        key: FragmentKey { saddr: Ipv4::ANY, daddr: Ipv4::ANY, id: 0, proto: 0, pad: 0 },
        ticket: 0,
        previous: 0,
        len: 0,
        endpoint: EndpointId::NONE,
        pad: [0; 3],
        frame: [0; Self::LEN],
    };
}

const _: () = assert!(size_of::<HeldFragment>() == 32 + HeldFragment::LEN);
