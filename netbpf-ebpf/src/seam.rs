//! The seam: everything the packet logic asks of the world.
//!
//! Behind it is the kernel (`glue/`) or a byte buffer and some maps of the
//! standard library (`sim`). It is narrow so that what is proved natively
//! holds in the kernel.

use core::ops::Deref;

use netbpf_common::{
    Counter, DropReason, Endpoint, EndpointId, FdbEntry, Flow, FlowVisit, Ipv4, MacAddr, NextHop,
    PublishEntry, Seen, Ticks, Timeouts, Tuple, Uplink,
};

/// A packet, and with it the tables and the surroundings that decide about it.
pub struct Seam<S, T, E> {
    /// The packet.
    pub skb: S,
    /// The maps.
    pub tables: T,
    /// Clock, dice, and what the kernel is asked.
    pub env: E,
}

/// How a change of the packet reaches a checksum further on in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Covered {
    /// By the pseudo-header: addresses.
    PseudoHeader,
    /// Directly: ports.
    Directly,
}

/// A frame. Offsets count from its first byte, the Ethernet header's.
pub trait Skb {
    /// Length of the frame in bytes without its Ethernet header; a GSO frame is
    /// longer than any MTU.
    fn l3_len(&self) -> u32;
    /// Payload bytes of each segment of a GSO frame; 0 if it is none.
    fn gso_size(&self) -> u32;
    /// Interface index of the device that the frame is at.
    fn ifindex(&self) -> u32;
    /// Whether the frame was addressed to the device's own MAC.
    fn is_to_us(&self) -> bool;
    /// Number of the VLAN whose tag goes beside the frame, if there is one; 0 is
    /// a tag that has a priority only, which receivers strip.
    fn vlan_id(&self) -> Option<u16>;
    /// The byte at `offset`, or `None` if the frame ends before.
    fn load_u8(&self, offset: usize) -> Option<u8>;
    /// The two bytes at `offset` as the CPU loads them.
    fn load_u16(&self, offset: usize) -> Option<u16>;
    /// The four bytes at `offset` as the CPU loads them.
    fn load_u32(&self, offset: usize) -> Option<u32>;
    /// Overwrites the byte at `offset`; `None` if the frame ends before.
    fn store_u8(&mut self, offset: usize, value: u8) -> Option<()>;
    /// Overwrites the two bytes at `offset`, the inverse of [`Skb::load_u16`].
    fn store_u16(&mut self, offset: usize, value: u16) -> Option<()>;
    /// Overwrites the four bytes at `offset`, the inverse of [`Skb::load_u32`].
    fn store_u32(&mut self, offset: usize, value: u32) -> Option<()>;
    /// Adds `delta` (RFC 1624, as the CPU loads it) to the TCP or UDP checksum
    /// at `offset`.
    ///
    /// Only the owner of the packet knows whether the checksum is complete or
    /// is left for a device to finish (`CHECKSUM_PARTIAL`), where it covers
    /// nothing but the pseudo-header. With `keep_zero` a zero stays zero: UDP
    /// without checksum.
    fn fix_l4_checksum(
        &mut self,
        offset: usize,
        delta: u16,
        covered: Covered,
        keep_zero: bool,
    ) -> Option<()>;
}

/// Why an entry was not inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    /// The key is there already.
    Exists,
    /// The table is full.
    Full,
}

/// An entry of the flow table. Others may be changing it at the same time.
pub trait FlowEntry {
    /// The entry as it is now.
    fn get(&self) -> Flow;
    /// Counts a packet of `bytes` (without link-layer header) seen at `now`.
    fn touch(&mut self, now: Ticks, bytes: u32);
    /// Replaces what has been seen in this direction.
    fn set_seen(&mut self, seen: Seen);
    /// Replaces the last acknowledgement number of this direction.
    fn set_tcp_ack(&mut self, ack: u32);
}

/// The maps. See [`netbpf_common::maps`] for what each holds.
pub trait Tables {
    /// A flow table's entry, found.
    type Flow: FlowEntry;
    /// Any other map's value, found. A pointer in the kernel: a copy of a
    /// value that may not be there would be undefined where it is not, and
    /// that is what compilers of BPF and its verifier disagree about.
    type Ref<V: Copy>: Deref<Target = V>;

    /// The idle time-outs, of `CONFIG`.
    fn timeouts(&self) -> Timeouts;
    /// Most flows, of `CONFIG`.
    fn max_flows(&self) -> u64;
    /// Where in `PUBLISH` the live entries begin and how many they are, of `CONFIG`.
    fn published_bounds(&self) -> (u32, u32);
    /// The endpoint whose bridge port has this interface index.
    fn endpoint_id(&self, ifindex: u32) -> Option<EndpointId>;
    /// The endpoint in this slot, if it is in use.
    fn endpoint(&self, id: EndpointId) -> Option<Self::Ref<Endpoint>>;
    /// Whose address this is; [`EndpointId::NONE`] for a gateway's.
    fn address_owner(&self, addr: Ipv4) -> Option<EndpointId>;
    /// Static FDB entry of a MAC.
    fn fdb_static(&self, mac: MacAddr) -> Option<Self::Ref<FdbEntry>>;
    /// Dynamic FDB entry of a MAC, however old.
    fn fdb_learnt(&self, mac: MacAddr) -> Option<Self::Ref<FdbEntry>>;
    /// Whether the endpoint may show another new MAC; if so, it is counted.
    fn may_learn(&mut self, id: EndpointId, now: Ticks) -> bool;
    /// Makes or replaces a dynamic FDB entry.
    fn learn(&mut self, mac: MacAddr, entry: FdbEntry);

    /// The flow table's entry for a tuple.
    fn flow(&mut self, key: &Tuple) -> Option<Self::Flow>;
    /// Inserts an entry unless the key is there.
    ///
    /// # Errors
    /// [`InsertError`], with nothing changed.
    fn insert_flow(&mut self, key: &Tuple, flow: &Flow) -> Result<(), InsertError>;
    /// Removes an entry; whether it was there and nobody else removed it.
    fn remove_flow(&mut self, key: &Tuple) -> bool;
    /// Appends to the queue of flows to be visited.
    ///
    /// # Errors
    /// [`InsertError::Full`].
    fn push_visit(&mut self, visit: &FlowVisit) -> Result<(), InsertError>;
    /// Takes the first of the queue.
    fn pop_visit(&mut self) -> Option<FlowVisit>;
    /// Live flows of an endpoint; of all together for [`EndpointId::NONE`].
    fn flow_count(&self, id: EndpointId) -> u64;
    /// Adds to the count of an endpoint and to that of all together.
    fn add_flow_count(&mut self, id: EndpointId, delta: i64);

    /// The uplink with this interface index.
    fn uplink(&self, ifindex: u32) -> Option<Self::Ref<Uplink>>;
    /// Whether the address lies in the subnet of one of the networks.
    fn is_private(&self, addr: Ipv4) -> bool;
    /// A slot of the next-hop cache.
    fn next_hop(&self, slot: u16) -> NextHop;
    /// Replaces a slot of the next-hop cache.
    fn set_next_hop(&mut self, slot: u16, next_hop: NextHop);
    /// An element of the `PUBLISH` array.
    fn published(&self, index: u32) -> Option<Self::Ref<PublishEntry>>;
    /// A word of the `PUBLISHED_PORTS` array.
    fn published_word(&self, index: u32) -> u64;

    /// Counts a packet of `bytes` in an endpoint's row.
    fn count(&mut self, id: EndpointId, counter: Counter, bytes: u32);
    /// Counts a dropped packet in an endpoint's row.
    fn count_drop(&mut self, id: EndpointId, reason: DropReason);
}

/// Where the host's routing table sends a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Index of the interface that it leaves by. 0: nowhere that the fast path
    /// goes, but to the host itself, to everybody, into a blackhole, or there is
    /// no way, or none of IPv4; the stack knows what to do.
    pub ifindex: u32,
    /// The next hop's address: a gateway's or the destination itself.
    pub next_hop: Ipv4,
}

impl Route {
    /// To the stack.
    pub const STACK: Self = Self { ifindex: 0, next_hop: Ipv4::ANY };
}

/// MACs that take a frame to a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Neighbour {
    /// The next hop's; zero if it is not resolved.
    pub mac: MacAddr,
    /// The uplink's own.
    pub source_mac: MacAddr,
}

/// What the logic asks of the kernel beside packet and maps.
pub trait Env {
    /// The time.
    fn now(&self) -> Ticks;
    /// A number that nobody outside can predict (RFC 6056).
    fn random(&mut self) -> u32;
    /// Asks the routing table about a packet that comes in by `ifindex`.
    fn route(&mut self, ifindex: u32, tuple: &Tuple) -> Route;
    /// Asks the neighbour table for a next hop on the uplink `ifindex`.
    fn resolve(&mut self, ifindex: u32, next_hop: Ipv4) -> Neighbour;
    /// Calls `step` with 0, 1, ... until it returns `false` or has been called
    /// `times` times. For loops that the verifier would not follow to the end.
    fn repeat<F: FnMut(u32) -> bool>(times: u32, step: F);
    /// Whether a socket of the host would take a packet with this tuple.
    fn has_socket(&mut self, tuple: &Tuple) -> bool;
}
