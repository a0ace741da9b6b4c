//! The maps: one definition each of name, key, value and size. No other place
//! spells a map's name, but for the datapath's statics, which a test compares.

use crate::{
    AllowedPair, BridgePort, Config, Counters, Endpoint, ErrorCount, FdbEntry, FdbSlot, Flow,
    FlowVisit, FragmentKey, Fragments, HeldFragment, Ipv4, LearnCount, MacAddr, NextHop, PortOwner,
    PublishEntry, RareProgram, Tuple, Uplink,
};

/// Flows that the table holds unless `--max-flows` says otherwise.
pub const DEFAULT_MAX_FLOWS: u32 = 262_144;

/// A map of the datapath.
pub trait MapDef {
    /// The name, at most 15 characters: the kernel cuts the rest off.
    const NAME: &'static str;
    /// Most entries. Those of the flow maps follow `--max-flows` at load.
    const MAX_ENTRIES: u32;
    /// What the map is for, in a few words, for people.
    const ABOUT: &'static str;
    /// The key's type; `()` for queues.
    type Key;
    /// The value's type.
    type Value;
}

macro_rules! maps {
    ($($(#[$doc:meta])+ $type:ident $name:literal: $key:ty => $value:ty, $max:expr, $about:literal;)+) => {
        $(
            $(#[$doc])+
            #[derive(Clone, Copy, Debug)]
            pub struct $type;

            impl MapDef for $type {
                const NAME: &'static str = $name;
                const MAX_ENTRIES: u32 = $max;
                const ABOUT: &'static str = $about;
                type Key = $key;
                type Value = $value;
            }

            const _: () = assert!($name.len() <= 15);
        )+

        /// The names of all maps.
        pub const NAMES: &[&str] = &[$($name),+];
    };
}

maps! {
    /// Array with one element.
    ConfigMap "CONFIG": u32 => Config, 1, "configuration";
    /// Array, index [`crate::EndpointId`]; element 0 stays empty.
    Endpoints "ENDPOINTS": u32 => Endpoint, 4096, "namespaces on the bridge";
    /// Hash: interface index of the host-side veth to [`crate::EndpointId`] (as u32).
    EndpointIds "ENDPOINT_IDS": u32 => u32, 4096, "bridge port to endpoint";
    /// Array, index [`BridgePort::slot`]: most of the same.
    BridgePorts "BRIDGE_PORTS": u32 => BridgePort, BridgePort::SLOTS, "the same, at hand";
    /// Hash: pairs of isolated endpoints that may reach each other; the value is 1.
    Allowed "ALLOWED": AllowedPair => u32, 65_536, "isolated pairs that are allowed";
    /// Hash: an endpoint's address to its [`crate::EndpointId`] (as u32); the
    /// gateway's to 0, so that nobody else can use it.
    Addresses "ADDRESSES": Ipv4 => u32, 8192, "address to endpoint";
    /// Hash: static MACs; the bridge's with endpoint 0.
    Fdb "FDB": MacKey => FdbEntry, 8192, "static MACs";
    /// Array, index [`FdbSlot::index`]: most of the same, but for the bridges'.
    FdbSlots "FDB_SLOTS": u32 => FdbSlot, FdbSlot::SLOTS, "the same, at hand";
    /// LRU hash: dynamic MACs.
    FdbLearnt "FDB_LEARNT": MacKey => FdbEntry, 16_384, "learnt MACs";
    /// Array, index [`crate::EndpointId`].
    LearnCounts "LEARN_COUNTS": u32 => LearnCount, 4096, "new MACs per endpoint";
    /// Hash, preallocated, two entries a flow.
    Flows "FLOWS": Tuple => Flow, 2 * DEFAULT_MAX_FLOWS, "flows, an entry per direction";
    /// Queue: one element per live flow.
    FlowQueue "FLOW_QUEUE": () => FlowVisit, flow_queue_len(DEFAULT_MAX_FLOWS), "flows to be looked at for expiry";
    /// Array, index [`crate::EndpointId`]: live flows of the endpoint; of all
    /// endpoints together at index 0, the host's own behind them.
    FlowCounts "FLOW_COUNTS": u32 => u64, 4097, "live flows per endpoint";
    /// Array, index [`PortOwner::index`]: to whom the outside ports belong.
    OutsidePorts "OUTSIDE_PORTS": u32 => PortOwner, PortOwner::PORTS, "owners of outside ports";
    /// LRU hash: datagrams of which fragments have been seen.
    FragmentsMap "FRAGMENTS": FragmentKey => Fragments, 8192, "fragmented datagrams";
    /// Array, a ring: fragments that came before the first of their datagram.
    HeldFragments "HELD_FRAGMENTS": u32 => HeldFragment, HeldFragment::SLOTS, "fragments that wait";
    /// Array with one element: fragments held so far, the next one's ticket.
    HeldTickets "HELD_TICKETS": u32 => u64, 1, "tickets of fragments that wait";
    /// Array, index [`crate::EndpointId`]; 0 for errors to the outside.
    ErrorCounts "ERROR_COUNTS": u32 => ErrorCount, 4096, "ICMP errors sent";
    /// Array in two halves, see `Config::publish_base`.
    Publish "PUBLISH": u32 => PublishEntry, 4096, "published port ranges";
    /// Array of bits: the ports that are published on any address, TCP's first
    /// and UDP's after them; the index is [`published_word`]. Tells in one
    /// look-up that a packet is for no published port, and that a port may not
    /// be given to a flow.
    PublishedPorts "PUBLISHED_PORTS": u32 => u64, 2 * 1024, "published ports as bits";
    /// Hash, key: interface index.
    Uplinks "UPLINKS": u32 => Uplink, 64, "uplinks";
    /// Array, direct-mapped cache, index [`NextHop::slot`].
    NextHops "NEXT_HOPS": u32 => NextHop, NextHop::SLOTS, "resolved next hops";
    /// LPM trie: the networks' subnets, whose addresses never leave by an uplink.
    Subnets "SUBNETS": SubnetKey => u32, 256, "subnets";
    /// Per-CPU array, index [`crate::EndpointId`].
    Stats "STATS": u32 => Counters, 4096, "counters per endpoint";
    /// Array of programs, index [`RareProgram`].
    Programs "PROGRAMS": u32 => u32, RareProgram::COUNT, "programs for what is rare";
    /// Per-CPU array with one element: the rare packet that a CPU is at; the
    /// datapath's own.
    Rare "RARE": u32 => [u64; 20], 1, "room for rare packets";
    /// Array with one element: the time as it was asked for last, above it the jiffy in
    /// which; the datapath's own.
    Clock "CLOCK": u32 => u64, 1, "the time, at hand";
    /// Array with one element: the timer that visits flows. Its value is the
    /// kernel's own (`struct bpf_timer`).
    Sweeper "SWEEPER": u32 => [u64; 2], 1, "expiry timer";
}

/// Elements of the `FLOW_QUEUE` for a table of so many flows: some to spare, for
/// reminders of flows that were ended before their time.
#[must_use]
pub const fn flow_queue_len(max_flows: u32) -> u32 {
    max_flows.saturating_add(1024)
}

/// Most keys that one run of the `flush_flows` program takes.
pub const FLUSH_BATCH: u32 = 64;
/// Reminders that a run of it without the key of a flow looks through.
pub const PURGE_BATCH: u32 = 4096;

/// Index of the `PUBLISHED_PORTS` word that has the bit `port % 64` of a port
/// (host order); nothing for protocols without ports.
#[must_use]
#[inline(always)]
pub const fn published_word(ip_proto: u8, port: u16) -> Option<u32> {
    match ip_proto {
        crate::proto::TCP => Some(port as u32 / 64),
        crate::proto::UDP => Some(1024 + port as u32 / 64),
        _ => None,
    }
}

/// Key of the FDB maps: a MAC, padded.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct MacKey {
    /// The MAC.
    pub mac: MacAddr,
    /// Zero: the kernel hashes these bytes too.
    pub pad: u16,
}

const _: () = assert!(size_of::<MacKey>() == 8);

impl From<MacAddr> for MacKey {
    #[inline(always)]
    fn from(mac: MacAddr) -> Self {
        Self { mac, pad: 0 }
    }
}

/// Key of the `SUBNETS` trie: `struct bpf_lpm_trie_key` with an IPv4 address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct SubnetKey {
    /// Bits of the prefix, host order.
    pub prefix_len: u32,
    /// The subnet's address.
    pub addr: Ipv4,
}

const _: () = assert!(size_of::<SubnetKey>() == 8);
