//! What `netbpf bench` and its own programs share. No part of the datapath, nor
//! of its ABI: program and control plane come out of one executable and go together.

use crate::Ipv4;

/// What the generator makes frames of: the one element of the array `GENERATOR`.
///
/// A flow is a source port and one of the two addresses, whose lower half counts
/// up when the ports are through. After `flows` frames it begins anew.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Generator {
    /// The frame (Ethernet, IPv4, UDP, payload), whose words of 64 bits are as
    /// they lie in memory.
    pub frame: [u64; Generator::WORDS],
    /// One's complement sum of the IPv4 header without checksum and without the
    /// lower half of the address that walks; the header's words in host order.
    pub sum: u32,
    /// Lower half of the address of the first flow, host order.
    pub first_addr: u32,
    /// Source port of the first flow, host order.
    pub first_port: u32,
    /// Ports before the next address.
    pub ports: u32,
    /// Flows before it begins anew.
    pub flows: u32,
    /// Not 0 if it is the source's address that walks, not the destination's.
    pub walks_source: u32,
    /// State: addresses, ports since the last address, and flows so far.
    pub at: [u32; 3],
    /// Explicit padding.
    pub pad: u32,
}

impl Generator {
    /// Words of 64 bits in a frame.
    pub const WORDS: usize = 8;
    /// Bytes of a frame.
    pub const FRAME: usize = 8 * Self::WORDS;
    /// Bytes of Ethernet, IPv4 and UDP header, behind which the mark stands.
    pub const HEADERS: usize = 42;
    /// Begins the payload of every frame, by which sinks know it, in memory order.
    pub const MARK: [u8; 4] = *b"nbpf";
}

const _: () = assert!(size_of::<Generator>() == 104);

/// What a sink has counted: the one element of the per-CPU array `ARRIVALS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Arrivals {
    /// Frames of the generator.
    pub packets: u64,
    /// Source address of the last of them.
    pub saddr: Ipv4,
    /// Its destination address.
    pub daddr: Ipv4,
}

const _: () = assert!(size_of::<Arrivals>() == 16);
