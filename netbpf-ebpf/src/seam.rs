//! The seam: everything the packet logic asks of the world.
//!
//! Behind it is the kernel (`glue/`) or a byte buffer and some maps of the
//! standard library (`sim`). It is narrow so that what is proved natively
//! holds in the kernel.

use core::ops::Deref;

use netbpf_common::{
    AllowedPair, Counter, DropReason, Endpoint, EndpointId, FdbEntry, Flow, FlowKind, FlowVisit,
    FragmentKey, Fragments, HeldFragment, Ipv4, MacAddr, NextHop, Port, PortOwner, PublishEntry,
    Seen, Ticks, Timeouts, Tuple, Uplink,
};

use crate::{
    Stop, Verdict,
    flow::NewFlow,
    ports::{self, Claim},
    prepare,
    rare::{Decided, Rare, Step},
};

/// A packet, and with it the tables and the surroundings that decide about it.
#[derive(Clone)]
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
///
/// `load_` and `store_` are for offsets that are known when this is compiled, in
/// the headers without options; [`Skb::read`] and [`Skb::write`] are for all
/// others, and slower.
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
    /// Whether the host itself sends it by its loopback device, and no packet of
    /// a namespace comes in again there.
    fn is_from_host(&self) -> bool;
    /// Number of the VLAN whose tag goes beside the frame, if there is one; 0 is
    /// a tag that has a priority only, which receivers strip.
    fn vlan_id(&self) -> Option<u16>;
    /// The byte at `offset`, or `None` if the frame ends before.
    fn load_u8(&self, offset: usize) -> Option<u8>;
    /// The two bytes at `offset` as the CPU loads them.
    fn load_u16(&self, offset: usize) -> Option<u16>;
    /// The four bytes at `offset` as the CPU loads them.
    fn load_u32(&self, offset: usize) -> Option<u32>;
    /// The words of four bytes from `offset` on: one look at where the frame ends.
    fn load_words<const N: usize>(&self, offset: usize) -> Option<[u32; N]>;
    /// Overwrites the two bytes at `offset`, the inverse of [`Skb::load_u16`].
    fn store_u16(&mut self, offset: usize, value: u16) -> Option<()>;
    /// Overwrites the words from `offset` on, the inverse of [`Skb::load_words`].
    fn store_words<const N: usize>(&mut self, offset: usize, words: [u32; N]) -> Option<()>;
    /// The bytes at any offset, or `None` if the frame ends before.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
    /// Overwrites the bytes at any offset; `None` if the frame ends before.
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;
    /// The one's-complement sum of `len` bytes, an odd one padded with a zero,
    /// as the CPU loads its words; `None` if the frame ends before.
    fn sum(&self, offset: usize, len: u32) -> Option<u16>;
    /// Cuts the frame off, or fills it up with zeros, to `len` bytes.
    fn resize(&mut self, len: u32) -> Option<()>;
    /// Makes the frame one of zeros behind its MACs, of `len` bytes, for which no device
    /// has anything left to do: neither a checksum to finish nor segments to cut.
    fn start_afresh(&mut self, len: u32) -> Option<()>;
    /// Copies the frame's first `len` bytes to where they are held.
    fn save(&self, into: &mut [u8; HeldFragment::LEN], len: u32) -> Option<()>;
    /// Makes the frame one that was held, of `len` bytes.
    fn restore(&mut self, from: &[u8; HeldFragment::LEN], len: u32) -> Option<()>;
    /// Sends a copy of the frame as it is now; whether it could be.
    fn send_copy(&mut self, verdict: Verdict) -> bool;
    /// Has a copy of the frame as it is now come in again, later, by the device with
    /// this interface index; whether it could.
    fn come_in_again(&mut self, ifindex: u32) -> bool;
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

    // What follows is not asked of the packet, and has nothing to do but what it
    // does by default. In the kernel each is a function that the verifier looks at
    // by itself, and not once more for each way that leads to it.

    /// [`prepare::outward`], put down by [`Decided::so_far`].
    #[inline(always)]
    fn prepare_outward<T: Tables, E: Env>(
        seam: &mut Seam<Self, T, E>,
        id: EndpointId,
        has_flow: bool,
    ) -> Decided
    where
        Self: Sized,
    {
        Decided::so_far(prepare::outward(seam, id, has_flow))
    }

    /// [`prepare::inward`].
    ///
    /// # Errors
    /// The same.
    #[inline(always)]
    fn prepare_inward<T: Tables, E: Env>(
        seam: &mut Seam<Self, T, E>,
        id: &mut EndpointId,
    ) -> Result<(), Stop>
    where
        Self: Sized,
    {
        prepare::inward(seam, id)
    }

    /// [`ports::try_port`].
    ///
    /// # Errors
    /// The same.
    #[inline(always)]
    fn try_port<T: Tables, E: Env>(
        seam: &mut Seam<Self, T, E>,
        flow: &mut NewFlow,
        owner: PortOwner,
        claim: Claim,
    ) -> Result<(), InsertError>
    where
        Self: Sized,
    {
        ports::try_port(seam, flow, owner, claim)
    }

    /// [`Step::take`].
    #[inline(always)]
    fn take_step<T: Tables, E: Env>(
        seam: &mut Seam<Self, T, E>,
        step: Step,
        id: EndpointId,
        rare: &mut Rare,
    ) -> EndpointId
    where
        Self: Sized,
    {
        step.take(seam, id, rare)
    }
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
    /// Replaces the way that this direction's packets take, as of an epoch; `kind` says
    /// whether it is a narrow one.
    fn set_route(&mut self, uplink: u32, next_hop: Ipv4, kind: FlowKind, epoch: u16);
}

/// What is known of a fragmented datagram. Others may be changing it at the
/// same time.
pub trait FragmentsEntry {
    /// The entry as it is now.
    fn get(&self) -> Fragments;
    /// Starts over, for another datagram of the same key.
    fn reset(&mut self, since: Ticks);
    /// Tells what the first fragment has told: its ports, then the state.
    fn announce(&mut self, sport: Port, dport: Port, state: u32);
    /// Replaces the chain's beginning in one step, if it is `old`; whether it was.
    fn replace_held(&mut self, old: u32, new: u32) -> bool;
}

/// The maps. See [`netbpf_common::maps`] for what each holds.
pub trait Tables {
    /// A flow table's entry, found.
    type Flow: FlowEntry;
    /// A fragmented datagram's entry, found.
    type Fragments: FragmentsEntry;
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
    /// Whether two isolated endpoints may reach each other.
    fn is_allowed(&self, pair: AllowedPair) -> bool;
    /// Whose address this is; [`EndpointId::NONE`] for a gateway's.
    fn address_owner(&self, addr: Ipv4) -> Option<EndpointId>;
    /// The endpoint behind which a static MAC is; [`EndpointId::NONE`] for a gateway's.
    fn fdb_static(&self, mac: MacAddr) -> Option<EndpointId>;
    /// Dynamic FDB entry of a MAC, however old.
    fn fdb_learnt(&self, mac: MacAddr) -> Option<Self::Ref<FdbEntry>>;
    /// Whether the endpoint may show another new MAC; if so, it is counted.
    fn may_learn(&mut self, id: EndpointId, now: Ticks) -> bool;
    /// Makes or replaces a dynamic FDB entry.
    fn learn(&mut self, mac: MacAddr, entry: FdbEntry);

    /// The flow table's entry for a tuple.
    fn flow(&mut self, key: &Tuple) -> Option<Self::Flow>;
    /// A copy of a tuple that is quick to look up: for the path of every packet.
    #[inline(always)]
    #[must_use]
    fn key(tuple: &Tuple) -> Tuple {
        *tuple
    }
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

    /// To whom an outside port belongs, by [`PortOwner::index`].
    fn port_owner(&self, index: u32) -> PortOwner;
    /// Has one more flow of `owner` hold an outside port; whether it is its to hold.
    fn take_port(&mut self, index: u32, owner: PortOwner) -> bool;
    /// Has one flow less hold an outside port.
    fn give_port(&mut self, index: u32);
    /// The key of outside ports: what nobody outside knows.
    fn port_secret(&self) -> u64;

    /// The entry of a fragmented datagram; made if there is none.
    fn fragments(&mut self, key: &FragmentKey, now: Ticks) -> Option<Self::Fragments>;
    /// A number that no other held fragment has, never 0.
    fn next_ticket(&mut self) -> u32;
    /// Gives the slot of a held fragment to `f`.
    fn with_held<R>(&mut self, ticket: u32, f: impl FnOnce(&mut HeldFragment) -> R) -> Option<R>;

    /// Whether another ICMP error may be sent to an endpoint, or to the outside
    /// ([`EndpointId::NONE`]); if so, it is counted.
    fn may_answer(&mut self, id: EndpointId, now: Ticks) -> bool;

    /// The uplink with this interface index.
    fn uplink(&self, ifindex: u32) -> Option<Self::Ref<Uplink>>;
    /// Whether `is_it` says so of any uplink's interface index.
    fn any_uplink<F: FnMut(u32) -> bool>(&self, is_it: F) -> bool;
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
    /// Index of the interface that it leaves by. [`Flow::LOOPBACK`]: it is for
    /// the host itself, or for everybody, or there is no way at all. 0: into a
    /// blackhole, or by an IPv6 router; the stack knows what to do.
    pub ifindex: u32,
    /// The next hop's address: a gateway's or the destination itself.
    pub next_hop: Ipv4,
    /// The address that the host itself would send from; 0.0.0.0 if the kernel
    /// does not say.
    pub source: Ipv4,
    /// Largest IP packet on the way, in bytes; 0 if the kernel does not say.
    pub mtu: u32,
}

impl Route {
    /// To the stack.
    pub const STACK: Self = Self::of(0, Ipv4::ANY);
    /// To the host itself.
    pub const LOCAL: Self = Self::of(Flow::LOOPBACK, Ipv4::ANY);

    /// A route of which nothing else is known.
    #[must_use]
    #[inline(always)]
    pub const fn of(ifindex: u32, next_hop: Ipv4) -> Self {
        Self { ifindex, next_hop, source: Ipv4::ANY, mtu: 0 }
    }
}

/// MACs that take a frame to a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Neighbour {
    /// The next hop's; zero if it is not resolved.
    pub mac: MacAddr,
    /// The uplink's own.
    pub source_mac: MacAddr,
    /// Largest IP packet that the uplink takes, in bytes; 0 if the kernel does
    /// not say.
    pub mtu: u32,
}

/// What the logic asks of the kernel beside packet and maps.
pub trait Env {
    /// The time.
    fn now(&self) -> Ticks;
    /// The time, or that of a few milliseconds ago: for the path of every packet.
    #[inline(always)]
    fn now_at_hand(&self) -> Ticks {
        self.now()
    }
    /// A number that nobody outside can predict (RFC 6056).
    fn random(&mut self) -> u32;
    /// Asks the routing table about a packet that comes in by `ifindex`.
    fn route(&mut self, ifindex: u32, tuple: &Tuple) -> Route;
    /// Asks the neighbour table for a next hop on the uplink `ifindex`.
    fn resolve(&mut self, ifindex: u32, next_hop: Ipv4) -> Neighbour;
    /// Calls `step` with 0, 1, ... until it returns `false` or has been called
    /// `times` times. For loops that the verifier would not follow to the end.
    fn repeat<F: FnMut(u32) -> bool>(times: u32, step: F);
    /// Whether the host has an interface of this index.
    fn has_interface(&mut self, ifindex: u32) -> bool;
    /// Whether a socket of the host would take a packet with this tuple.
    fn has_socket(&mut self, tuple: &Tuple) -> bool;
}
