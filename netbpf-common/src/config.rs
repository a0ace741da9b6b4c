//! What the control plane tells the datapath once for all packets.

use crate::Ticks;

/// Number of the layout of every map in this crate, raised with each change to
/// any of them. So it is with the marks that programs leave on packets for each other:
/// while programs are replaced by those of another build, old and new ones meet by both.
pub const ABI_VERSION: u32 = if cfg!(feature = "other-layout") { 9 } else { 8 };

/// How long flows in each state may be idle.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP, established: at least 2 h 4 min (RFC 5382 REQ-5).
    pub tcp_established: Ticks,
    /// TCP, opening, closing or reset: at least 4 min (RFC 5382 REQ-5, RFC 7857 section 2).
    pub tcp_transitory: Ticks,
    /// UDP, answered: at least 2 min (RFC 4787 REQ-5).
    pub udp: Ticks,
    /// UDP, not answered so far.
    pub udp_unreplied: Ticks,
    /// ICMP queries: at least 60 s (RFC 5508 REQ-2).
    pub icmp: Ticks,
    /// Protocols that are translated by address alone, and SCTP.
    pub other: Ticks,
    /// The fragments of a datagram, from the first to the last that arrives: at
    /// least 15 s (RFC 1122 section 3.3.2 asks for 60 of who reassembles).
    pub fragments: Ticks,
    /// Learnt MACs: the bridge's own default is 300 s.
    pub fdb: Ticks,
}

impl Timeouts {
    /// What the RFCs ask for, and Linux's value where they leave it open.
    pub const DEFAULT: Self = Self {
        tcp_established: Ticks::from_secs(7440),
        tcp_transitory: Ticks::from_secs(240),
        udp: Ticks::from_secs(120),
        udp_unreplied: Ticks::from_secs(30),
        icmp: Ticks::from_secs(60),
        other: Ticks::from_secs(600),
        fragments: Ticks::from_secs(15),
        fdb: Ticks::from_secs(300),
    };
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The only element of the `CONFIG` array.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// [`ABI_VERSION`] of the datapath that made the maps. It stays the first field, in
    /// all versions: by it others are known.
    pub abi_version: u32,
    /// Where in the `PUBLISH` array the live entries begin: 0 or half its
    /// size. A change writes the other half and then this word.
    pub publish_base: u32,
    /// How many live entries there are.
    pub publish_len: u32,
    /// Flows that the table holds (`--max-flows`), both directions of a flow being one.
    /// 0: it is held, while flows move into it. No flow is made then, and none expires;
    /// those that are there go on.
    pub max_flows: u32,
    /// A random number that nobody else knows, from which the outside ports
    /// follow (RFC 6056 section 3.3.3): low half, high half.
    pub port_secret: [u32; 2],
    /// Idle time-outs.
    pub timeouts: Timeouts,
}

const _: () = assert!(size_of::<Config>() == 56 && align_of::<Config>() == 4);

impl Default for Config {
    fn default() -> Self {
        Self {
            abi_version: ABI_VERSION,
            publish_base: 0,
            publish_len: 0,
            max_flows: crate::maps::DEFAULT_MAX_FLOWS,
            port_secret: [0; 2],
            timeouts: Timeouts::DEFAULT,
        }
    }
}
