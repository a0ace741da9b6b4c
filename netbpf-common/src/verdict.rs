//! What became of a packet, as numbers that the `STATS` map counts.

/// What happened to a packet that was not dropped: the first rows of [`Counters`].
/// Numbers are ABI: append only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Counter {
    /// Bridged straight into another namespace.
    Forwarded = 0,
    /// Translated, either direction of a flow that the namespace opened.
    Snat = 1,
    /// Translated, either direction of a flow to a published port.
    Dnat = 2,
    /// Passed up to the kernel's bridge and stack.
    Passed = 3,
}

impl Counter {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Forwarded, Self::Snat, Self::Dnat, Self::Passed];

    /// The name that tables show.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Snat => "snat",
            Self::Dnat => "dnat",
            Self::Passed => "passed",
        }
    }
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])+ $name:ident = $number:literal, $text:literal;)+) => {
        /// Why a packet was dropped. Numbers are ABI: append only.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])+ $name = $number,)+ }

        impl DropReason {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name that tables and JSON show.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

drop_reasons! {
    /// The packet ends before its headers do.
    Truncated = 0, "truncated";
    /// The IPv4 header contradicts itself or the frame: version, lengths.
    BadHeader = 1, "bad_header";
    /// Source MAC of somebody else, or own address from a foreign MAC.
    SourceMac = 2, "source_mac";
    /// Source address of somebody else, or none of this subnet.
    SourceAddress = 3, "source_address";
    /// Larger than the way out takes, where a bridge drops too.
    TooBig = 4, "too_big";
    /// The flow table is full.
    FlowTableFull = 5, "flow_table_full";
    /// The endpoint has as many flows as it may have.
    FlowLimit = 6, "flow_limit";
    /// No free port was found in the bounded search.
    PortsExhausted = 7, "ports_exhausted";
    /// A private source address was about to leave by an uplink untranslated.
    PrivateSource = 8, "private_source";
    /// A fragment that cannot be translated: too small a first one, one whose
    /// first never came, or more of a datagram than are kept.
    Fragment = 9, "fragment";
    /// A protocol without ports, of which another namespace has the only flow
    /// to that destination.
    Protocol = 10, "protocol";
    /// An ICMP error that belongs to no flow, or a redirect.
    IcmpUnrelated = 11, "icmp_unrelated";
    /// The endpoint that the flow or the port leads to is gone.
    EndpointGone = 12, "endpoint_gone";
    /// From an uplink straight to a namespace's own address.
    NotPublished = 13, "not_published";
    /// The time to live ran out on the way into a namespace.
    TtlExceeded = 14, "ttl_exceeded";
    /// The translated tuple is another flow's already. (No longer: it gets another port.)
    TupleInUse = 15, "tuple_in_use";
    /// A TCP segment that ends a connection that is not known.
    NoFlow = 16, "no_flow";
    /// The packet could not be rewritten.
    Rewrite = 17, "rewrite";
    /// ARP with a sender that the endpoint may not speak for.
    ArpSpoof = 18, "arp_spoof";
    /// Addressed to the very namespace that it comes from.
    SameEndpoint = 19, "same_endpoint";
    /// A VLAN tag of number 0, which receivers strip: the frame inside would
    /// go unseen.
    PriorityTag = 20, "priority_tag";
    /// The endpoint has shown more new MACs than it may in a while.
    LearnLimit = 21, "learn_limit";
    /// A wrong checksum: an ICMP error's, or that of an IPv4 header to be translated.
    BadChecksum = 22, "bad_checksum";
    /// To another namespace of an isolated network.
    Isolated = 23, "isolated";
    /// It would make a flow, or goes by one, while flows move into another table.
    FlowsMove = 24, "flows_move";
}

/// Rows of an endpoint's counters: packets and bytes of each [`Counter`], then
/// packets of each [`DropReason`]. Value of the per-CPU `STATS` array, index
/// [`crate::EndpointId`].
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counters(pub [u64; Counters::ROWS]);

impl Counters {
    /// Number of rows; those that no counter has yet are zero.
    pub const ROWS: usize = 40;
    const FIRST_DROP: usize = 2 * Counter::ALL.len();

    /// Row of the packets counted as `counter`; the row after it has their bytes.
    #[must_use]
    #[inline(always)]
    pub const fn packets_row(counter: Counter) -> usize {
        counter as usize * 2
    }

    /// Row of the packets dropped for `reason`.
    #[must_use]
    #[inline(always)]
    pub const fn drop_row(reason: DropReason) -> usize {
        Self::FIRST_DROP + reason as usize
    }

    /// Packets and bytes counted as `counter`.
    #[must_use]
    pub const fn of(&self, counter: Counter) -> (u64, u64) {
        let row = Self::packets_row(counter);
        (self.0[row], self.0[row + 1])
    }

    /// Packets dropped for `reason`.
    #[must_use]
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.0[Self::drop_row(reason)]
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self([0; Self::ROWS])
    }
}

const _: () = assert!(Counters::FIRST_DROP + DropReason::ALL.len() <= Counters::ROWS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_without_gaps_and_named_once() {
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert!(DropReason::ALL[..i].iter().all(|r| r.name() != reason.name()));
        }
    }
}
