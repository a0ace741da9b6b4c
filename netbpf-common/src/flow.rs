//! Flows: what the first packet decided, remembered for all that follow.
//!
//! A flow is two entries of the `FLOWS` map, one per direction, each keyed by
//! the tuple that its packets carry when they come in. They are made together
//! and go together; each is 64 bytes, so that an entry of the kernel's hash
//! table (48 bytes of header, 16 of key) is two cache lines.

use crate::{EndpointId, Ipv4, MacAddr, Port, Tally, Ticks, Timeouts, Tuple, proto};

/// What a packet's addresses and ports become.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Translation {
    /// Source address.
    pub saddr: Ipv4,
    /// Destination address.
    pub daddr: Ipv4,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
}

impl Translation {
    /// The translated packet's tuple.
    #[must_use]
    #[inline(always)]
    pub const fn tuple(self, proto: u8) -> Tuple {
        Tuple {
            saddr: self.saddr,
            daddr: self.daddr,
            sport: self.sport,
            dport: self.dport,
            proto,
            from_host: 0,
            pad: [0; 2],
        }
    }
}

impl From<Tuple> for Translation {
    #[inline(always)]
    fn from(t: Tuple) -> Self {
        Self { saddr: t.saddr, daddr: t.daddr, sport: t.sport, dport: t.dport }
    }
}

/// Which direction of which sort of flow an entry is: a set of bits.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowKind(pub u8);

impl FlowKind {
    /// Set in the entry of the answering direction, clear in the opening one.
    pub const REPLY: u8 = 1;
    /// Set when the entry's packets go into a namespace, clear when they go
    /// out by an uplink.
    pub const TO_ENDPOINT: u8 = 2;
    /// Set in both entries of a flow that a published port made, clear in
    /// those of a flow that a namespace opened.
    pub const DNAT: u8 = 4;
    /// Set in both entries of a flow that holds a reference to its outside
    /// port, an element of the `OUTSIDE_PORTS` map.
    pub const OWNS_PORT: u8 = 8;
    /// Set in both entries of a flow of the host itself, which had to give way
    /// to a namespace's flow: what goes "into the namespace" goes to the stack.
    pub const HOST: u8 = 16;
    /// Set in both entries of a flow from the host itself to a published port.
    pub const FROM_HOST: u8 = 32;
    /// Set where the way to the peer takes less than its uplink does: how much has to
    /// be asked for each packet.
    pub const NARROW: u8 = 64;
    /// Set in both entries of a flow of an endpoint whose packets the stack
    /// forwards: [`crate::Endpoint::BY_STACK`].
    pub const BY_STACK: u8 = 128;

    /// A namespace's packets to the outside.
    pub const SNAT_ORIGINAL: Self = Self(0);
    /// Their answers.
    pub const SNAT_REPLY: Self = Self(Self::REPLY | Self::TO_ENDPOINT);
    /// A client's packets to a published port.
    pub const DNAT_ORIGINAL: Self = Self(Self::DNAT | Self::TO_ENDPOINT);
    /// Their answers.
    pub const DNAT_REPLY: Self = Self(Self::DNAT | Self::REPLY);
    /// The host's packets to the outside.
    pub const HOST_ORIGINAL: Self = Self(Self::HOST);

    /// The same of a flow whose packets the stack forwards, if they are such.
    #[must_use]
    #[inline(always)]
    pub const fn by_stack(self, is_so: bool) -> Self {
        if is_so { Self(self.0 | Self::BY_STACK) } else { self }
    }

    /// Whether the entry is the answering direction's.
    #[must_use]
    #[inline(always)]
    pub const fn is_reply(self) -> bool {
        self.0 & Self::REPLY != 0
    }

    /// Whether the entry's packets go into a namespace.
    #[must_use]
    #[inline(always)]
    pub const fn is_to_endpoint(self) -> bool {
        self.0 & Self::TO_ENDPOINT != 0
    }

    /// Whether a published port made the flow.
    #[must_use]
    #[inline(always)]
    pub const fn is_dnat(self) -> bool {
        self.0 & Self::DNAT != 0
    }

    /// Whether the flow is the host's own.
    #[must_use]
    #[inline(always)]
    pub const fn is_host(self) -> bool {
        self.0 & Self::HOST != 0
    }

    /// Whether the host itself opened the flow, to a published port.
    #[must_use]
    #[inline(always)]
    pub const fn is_from_host(self) -> bool {
        self.0 & Self::FROM_HOST != 0
    }

    /// Whether the way to the peer takes less than its uplink does.
    #[must_use]
    #[inline(always)]
    pub const fn is_narrow(self) -> bool {
        self.0 & Self::NARROW != 0
    }

    /// The same, with a way that does or does not.
    #[must_use]
    #[inline(always)]
    pub const fn with_narrow(self, is_narrow: bool) -> Self {
        Self(self.0 & !Self::NARROW | if is_narrow { Self::NARROW } else { 0 })
    }

    /// Whether the flow holds a reference to its outside port.
    #[must_use]
    #[inline(always)]
    pub const fn owns_port(self) -> bool {
        self.0 & Self::OWNS_PORT != 0
    }
}

impl core::fmt::Debug for FlowKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match (self.is_host(), self.is_dnat()) {
            (true, _) => "host",
            (false, true) => "dnat",
            (false, false) => "snat",
        })?;
        f.write_str(if self.is_reply() { "-reply" } else { "-original" })?;
        f.write_str(if self.is_to_endpoint() { "-to-endpoint" } else { "-to-uplink" })
    }
}

/// What has been seen in one direction of a flow: a set of bits that only grows,
/// until a new connection takes over the entry.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Seen(pub u8);

impl Seen {
    /// Any packet at all.
    pub const ANY: u8 = 1;
    /// A TCP SYN.
    pub const SYN: u8 = 2;
    /// A TCP segment with ACK and without SYN.
    pub const ACK: u8 = 4;
    /// A TCP FIN.
    pub const FIN: u8 = 8;
    /// A TCP RST that was inside the window.
    pub const RST: u8 = 16;

    /// Whether one of `bits` is set.
    #[must_use]
    #[inline(always)]
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits != 0
    }
}

/// A direction of a flow: value of the `FLOWS` map, keyed by [`Tuple`].
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Flow {
    /// [`Flow::MOVED`], which moves all the rest.
    #[cfg(feature = "other-layout")]
    pub moved: u64,
    /// What the packet becomes. Reversed, it is the key of the other direction.
    pub translated: Translation,
    /// One's-complement difference that the addresses' translation makes to a
    /// checksum that covers them (RFC 1624), as the CPU loads it.
    pub addr_delta: u16,
    /// The same of the ports.
    pub port_delta: u16,
    /// Packets translated, and bytes of them without link-layer headers.
    pub tally: Tally,
    /// When the flow was made.
    pub created: Ticks,
    /// When a packet in this direction was last seen.
    pub last_seen: Ticks,
    /// The namespace whose flow it is.
    pub endpoint: EndpointId,
    /// MAC of the interface inside the namespace, where frames into it go.
    pub mac: MacAddr,
    /// Next hop on the uplink; unused in entries into a namespace.
    pub next_hop: Ipv4,
    /// Interface index of the uplink; [`Flow::LOOPBACK`] if the other side is
    /// the host itself, or one of its namespaces by the host's address.
    pub uplink: u32,
    /// TCP: the last acknowledgement number sent in this direction, host order:
    /// where the window begins in which the other direction may reset.
    pub tcp_ack: u32,
    /// Which direction of which sort of flow.
    pub kind: FlowKind,
    /// What has been seen in this direction.
    pub seen: Seen,
    /// The [`Flow::epoch`] in which the route was last asked for.
    pub route_epoch: u16,
}

#[cfg(not(feature = "other-layout"))]
const _: () = assert!(size_of::<Flow>() == 64 && align_of::<Flow>() == 8);

/// A reminder that a flow's entry is to be looked at for expiry: element of
/// the `FLOW_QUEUE` map. Each live flow has exactly one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FlowVisit {
    /// Key of the flow's opening direction.
    pub tuple: Tuple,
    /// `Flow::created` of that entry: tells a flow from a later one of the same tuple.
    pub created: Ticks,
    /// Not worth a look before this.
    pub due: Ticks,
}

const _: () = assert!(size_of::<FlowVisit>() == 24 && align_of::<FlowVisit>() == 4);

/// How far a flow is. Derived from what both directions have seen, never stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowState {
    /// All but TCP: no answer so far.
    Unreplied,
    /// All but TCP: answered.
    Replied,
    /// TCP: opened, no answer so far.
    SynSent,
    /// TCP: answered, the opening side has not acknowledged.
    SynReceived,
    /// TCP: both sides have acknowledged.
    Established,
    /// TCP: one side has finished.
    FinWait,
    /// TCP: both sides have finished.
    TimeWait,
    /// TCP: reset.
    Closed,
}

impl FlowState {
    /// The state of a flow from what its two directions have seen.
    #[must_use]
    pub const fn of(ip_proto: u8, original: Seen, reply: Seen) -> Self {
        if ip_proto != proto::TCP {
            return if reply.has(Seen::ANY) { Self::Replied } else { Self::Unreplied };
        }
        if original.has(Seen::RST) || reply.has(Seen::RST) {
            return Self::Closed;
        }
        match (original.has(Seen::FIN), reply.has(Seen::FIN)) {
            (true, true) => Self::TimeWait,
            (true, false) | (false, true) => Self::FinWait,
            (false, false) if !reply.has(Seen::ANY) => Self::SynSent,
            (false, false) if original.has(Seen::ACK) => Self::Established,
            (false, false) => Self::SynReceived,
        }
    }

    /// How long a flow in this state may be idle.
    #[must_use]
    pub const fn timeout(self, ip_proto: u8, timeouts: &Timeouts) -> Ticks {
        match self {
            Self::Unreplied if ip_proto == proto::UDP => timeouts.udp_unreplied,
            Self::Replied if ip_proto == proto::UDP => timeouts.udp,
            Self::Unreplied | Self::Replied if ip_proto == proto::ICMP => timeouts.icmp,
            Self::Unreplied | Self::Replied => timeouts.other,
            Self::Established => timeouts.tcp_established,
            Self::SynSent | Self::SynReceived | Self::FinWait | Self::TimeWait | Self::Closed => {
                timeouts.tcp_transitory
            }
        }
    }

    /// The name that tables show: conntrack's where it has one.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreplied => "UNREPLIED",
            Self::Replied => "REPLIED",
            Self::SynSent => "SYN_SENT",
            Self::SynReceived => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::TimeWait => "TIME_WAIT",
            Self::Closed => "CLOSED",
        }
    }
}

impl Flow {
    /// What moves the rest of a flow, in the layout that tests convert to.
    #[cfg(feature = "other-layout")]
    pub const MOVED: u64 = 0x0102_0304_0506_0708;

    /// Interface index of the loopback device, the same in every namespace
    /// (`LOOPBACK_IFINDEX` of the kernel's `net/flow.h`).
    pub const LOOPBACK: u32 = 1;

    /// The next hop by the loopback device if that is the host itself, and not one
    /// of its namespaces.
    pub const HOST: Ipv4 = Ipv4::new([127, 0, 0, 1]);

    /// The epoch of a point in time, some four seconds: in each of them a flow's
    /// first packet has its route looked up anew.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "epochs are compared for equality only")]
    pub const fn epoch(now: Ticks) -> u16 {
        (now.0 >> 6) as u16
    }

    /// The key of the other direction's entry.
    #[must_use]
    #[inline(always)]
    pub const fn partner(&self, ip_proto: u8) -> Tuple {
        let mut partner = self.translated.tuple(ip_proto).reversed();
        partner.from_host = (self.kind.is_reply() && self.kind.is_from_host()) as u8;
        partner
    }

    /// Whether the stack forwards the entry's packets. By the loopback device, to
    /// whom else in the host, it does not: there it would see their two translations
    /// as two connections, each of one direction.
    #[must_use]
    #[inline(always)]
    pub const fn is_by_stack(&self) -> bool {
        self.kind.0 & FlowKind::BY_STACK != 0 && self.uplink != Self::LOOPBACK
    }

    /// When a packet last kept the flow alive; `self` is the opening direction.
    ///
    /// Packets from outside do not refresh a UDP or ICMP flow that a namespace
    /// opened (RFC 4787 REQ-6): nobody outside can hold a mapping open.
    #[must_use]
    pub const fn last_refreshed(&self, ip_proto: u8, reply: &Self) -> Ticks {
        let inbound_refreshes = ip_proto == proto::TCP || self.kind.is_dnat();
        if inbound_refreshes && reply.last_seen.since(self.last_seen).0 > 0 {
            reply.last_seen
        } else {
            self.last_seen
        }
    }

    /// How long the flow still lives without another packet; zero: expired.
    /// `self` is the opening direction.
    #[must_use]
    pub const fn expires_in(
        &self,
        ip_proto: u8,
        reply: &Self,
        now: Ticks,
        timeouts: &Timeouts,
    ) -> Ticks {
        let timeout = FlowState::of(ip_proto, self.seen, reply.seen).timeout(ip_proto, timeouts);
        let idle = now.since(self.last_refreshed(ip_proto, reply));
        Ticks(timeout.0.saturating_sub(idle.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts::DEFAULT;

    fn seen(original: u8, reply: u8) -> FlowState {
        FlowState::of(proto::TCP, Seen(original), Seen(reply))
    }

    #[test]
    fn a_tcp_flow_goes_through_its_states() {
        let (any, syn, ack, fin) =
            (Seen::ANY, Seen::ANY | Seen::SYN, Seen::ANY | Seen::ACK, Seen::FIN);
        assert_eq!(seen(syn, 0), FlowState::SynSent);
        assert_eq!(seen(syn, syn), FlowState::SynReceived);
        assert_eq!(seen(syn | ack, syn), FlowState::Established);
        assert_eq!(seen(ack, any), FlowState::Established);
        assert_eq!(seen(ack | fin, ack), FlowState::FinWait);
        assert_eq!(seen(ack, ack | fin), FlowState::FinWait);
        assert_eq!(seen(ack | fin, ack | fin), FlowState::TimeWait);
        assert_eq!(seen(ack | fin, ack | Seen::RST), FlowState::Closed);
    }

    #[test]
    fn time_outs_keep_the_rfcs() {
        let secs = |state: FlowState, p| state.timeout(p, &TIMEOUTS).as_millis() / 1000;
        assert!(secs(FlowState::Established, proto::TCP) >= 7440);
        for state in [FlowState::SynSent, FlowState::FinWait, FlowState::TimeWait] {
            assert!(secs(state, proto::TCP) >= 240, "{state:?}");
        }
        assert!(secs(FlowState::Replied, proto::UDP) >= 120);
        assert!(secs(FlowState::Unreplied, proto::ICMP) >= 60);
    }

    #[test]
    fn outside_packets_hold_open_published_flows_but_not_udp_that_a_namespace_opened() {
        let mut original = Flow { last_seen: Ticks(100), seen: Seen(1), ..Flow::default() };
        let reply = Flow { last_seen: Ticks(500), seen: Seen(1), ..Flow::default() };
        assert_eq!(original.last_refreshed(proto::UDP, &reply), Ticks(100));
        assert_eq!(original.last_refreshed(proto::TCP, &reply), Ticks(500));
        original.kind = FlowKind::DNAT_ORIGINAL;
        assert_eq!(original.last_refreshed(proto::UDP, &reply), Ticks(500));
    }
}
