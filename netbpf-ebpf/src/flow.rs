//! The flow table: making, following and ending flows.
//!
//! A flow's two entries are made together, the answering direction first: its
//! insertion is what reserves the outside tuple. They go together, the opening
//! direction first: whoever removes that entry owns the removal of the other,
//! and the answering entry keeps the outside tuple taken until then.

use netbpf_common::{
    DropReason, Endpoint, EndpointId, Flow, FlowKind, FlowState, FlowVisit, Ipv4, MacAddr,
    PortOwner, Seen, Tally, Ticks, Translation, Tuple, proto,
};

use crate::{
    checksum,
    parse::Packet,
    seam::{FlowEntry, InsertError, Seam, Tables},
    wire::l4::{Tcp, flag},
};

/// How far beyond the last acknowledged byte a segment may lie and still be
/// believed: larger than most windows, and small against the 2^32 sequence
/// numbers from which somebody would have to guess who does not see them.
const WINDOW: u32 = 1 << 20;

/// What the two entries of a new flow have in common.
#[derive(Clone, Copy, Default, Debug)]
pub struct NewFlow {
    /// The tuple that the opening packet came with.
    pub original: Tuple,
    /// What it becomes.
    pub translated: Translation,
    /// [`FlowKind::SNAT_ORIGINAL`], [`FlowKind::DNAT_ORIGINAL`] or
    /// [`FlowKind::HOST_ORIGINAL`]; with [`FlowKind::OWNS_PORT`] once it does.
    pub kind: FlowKind,
    /// The namespace's endpoint.
    pub endpoint: EndpointId,
    /// MAC of the interface inside the namespace.
    pub mac: MacAddr,
    /// The uplink, or [`Flow::LOOPBACK`].
    pub uplink: u32,
    /// The way to the outside peer.
    pub next_hop: Ipv4,
    /// Now.
    pub now: Ticks,
    /// 0: what is between the fields is read by the verifier, too.
    pub pad: [u8; 3],
}

impl NewFlow {
    #[inline(always)]
    fn entry(&self, key: &Tuple, translated: Translation, kind: FlowKind) -> Flow {
        Flow {
            #[cfg(feature = "other-layout")]
            moved: Flow::MOVED,
            translated,
            addr_delta: checksum::addresses_delta(key, &translated),
            port_delta: checksum::ports_delta(key, &translated),
            tally: Tally::default(),
            created: self.now,
            last_seen: self.now,
            endpoint: self.endpoint,
            mac: self.mac,
            next_hop: self.next_hop,
            uplink: self.uplink,
            tcp_ack: 0,
            kind,
            seen: Seen(0),
            route_epoch: Flow::epoch(self.now),
        }
    }

    /// Key of the answering direction: the packet that an answer comes as.
    #[must_use]
    #[inline(always)]
    pub fn reply_key(&self) -> Tuple {
        self.translated.tuple(self.original.proto).reversed()
    }

    /// Reserves the flow's outside tuple: inserts the answering direction's entry.
    ///
    /// # Errors
    /// [`InsertError::Exists`] if another flow has it; [`InsertError::Full`].
    #[inline(always)]
    pub fn reserve<S, T: Tables, E>(&self, seam: &mut Seam<S, T, E>) -> Result<(), InsertError> {
        let key = self.reply_key();
        let kind = FlowKind(self.kind.0 ^ (FlowKind::REPLY | FlowKind::TO_ENDPOINT));
        let entry = self.entry(&key, self.original.reversed().into(), kind);
        seam.tables.insert_flow(&key, &entry)
    }

    /// [`NewFlow::reserve`], not inlined: for where that is rare.
    ///
    /// # Errors
    /// The same.
    #[inline(never)]
    pub fn reserve_own<S, T: Tables, E>(
        &self,
        seam: &mut Seam<S, T, E>,
    ) -> Result<(), InsertError> {
        self.reserve(seam)
    }

    /// Makes the reserved flow live: inserts the opening direction's entry and
    /// the reminder to look for its expiry, and counts it. On failure the
    /// reservation is undone. It is no failure if another CPU has just made a
    /// flow of the same tuple: that one serves.
    ///
    /// # Errors
    /// [`DropReason::FlowTableFull`].
    #[inline(never)]
    pub fn open<S, T: Tables, E>(&self, seam: &mut Seam<S, T, E>) -> Result<(), DropReason> {
        let entry = self.entry(&self.original, self.translated, self.kind);
        // Counted first: once the entry is there, anybody may end the flow, and
        // whoever does takes it off again.
        seam.tables.add_flow_count(self.endpoint, 1);
        if let Err(error) = seam.tables.insert_flow(&self.original, &entry) {
            seam.tables.add_flow_count(self.endpoint, -1);
            seam.tables.remove_flow(&self.reply_key());
            give_port(seam, &entry, self.original.proto);
            return match error {
                InsertError::Exists => Ok(()),
                InsertError::Full => Err(DropReason::FlowTableFull),
            };
        }
        let visit = FlowVisit { tuple: self.original, created: self.now, due: self.now };
        if seam.tables.push_visit(&visit).is_err() {
            // Nobody would look for its end.
            remove(seam, &self.original);
            return Err(DropReason::FlowTableFull);
        }
        Ok(())
    }
}

/// How many flows the table holds.
///
/// # Errors
/// [`DropReason::FlowsMove`]: none is to be made for the moment.
#[inline(always)]
pub(crate) fn size<S, T: Tables, E>(seam: &Seam<S, T, E>) -> Result<u64, DropReason> {
    match seam.tables.max_flows() {
        0 => Err(DropReason::FlowsMove),
        most => Ok(most),
    }
}

/// Whether a packet from outside may belong to a flow that is not in this table yet: its
/// port is somebody's. The host would refuse it, and so end the flow.
#[inline(always)]
pub(crate) fn is_moving<S, T: Tables, E>(seam: &Seam<S, T, E>, tuple: &Tuple) -> bool {
    size(seam).is_err()
        && PortOwner::index(tuple.proto, tuple.dport.number())
            .is_some_and(|index| seam.tables.port_owner(index).flows() != 0)
}

/// Whether the endpoint may have another flow, and there is room for one.
///
/// # Errors
/// [`DropReason::FlowLimit`], [`DropReason::FlowTableFull`], [`DropReason::FlowsMove`].
#[inline(always)]
pub fn admit<S, T: Tables, E>(
    seam: &Seam<S, T, E>,
    id: EndpointId,
    endpoint: &Endpoint,
) -> Result<(), DropReason> {
    let most = size(seam)?;
    if seam.tables.flow_count(id) >= u64::from(endpoint.flow_limit) {
        return Err(DropReason::FlowLimit);
    }
    let all = seam.tables.flow_count(EndpointId::NONE);
    if all >= most {
        return Err(DropReason::FlowTableFull);
    }
    // The last eighth is for those that have less than an eighth: limits of
    // several networks may add up to more than there is.
    let eighth = most / 8;
    if all >= most - eighth && seam.tables.flow_count(id) >= eighth {
        return Err(DropReason::FlowLimit);
    }
    Ok(())
}

/// Removes a flow by its opening direction's key. Whether it was there, and
/// nobody else was quicker.
#[inline(always)]
pub fn remove<S, T: Tables, E>(seam: &mut Seam<S, T, E>, original: &Tuple) -> bool {
    let Some(entry) = seam.tables.flow(original) else {
        return false;
    };
    let flow = entry.get();
    if flow.kind.is_reply() || !seam.tables.remove_flow(original) {
        return false;
    }
    seam.tables.remove_flow(&flow.partner(original.proto));
    seam.tables.add_flow_count(flow.endpoint, -1);
    give_port(seam, &flow, original.proto);
    true
}

/// Lets go of the outside port of a flow, given its opening direction's entry.
#[inline(always)]
fn give_port<S, T: Tables, E>(seam: &mut Seam<S, T, E>, original: &Flow, ip_proto: u8) {
    let index = PortOwner::index(ip_proto, original.translated.sport.number());
    if let Some(index) = index.filter(|_| original.kind.owns_port()) {
        seam.tables.give_port(index);
    }
}

/// Follows a packet of a known flow: counters, time, and TCP's state.
#[inline(always)]
pub fn track<S, T: Tables, E>(
    seam: &mut Seam<S, T, E>,
    entry: &mut T::Flow,
    flow: &Flow,
    packet: &Packet,
    now: Ticks,
) {
    entry.touch(now, packet.len);
    let mut seen = Seen(flow.seen.0 | Seen::ANY);
    if packet.tuple.proto == proto::TCP {
        // A copy for what is rare: the packet itself has no address, and is in registers.
        let tcp = packet.tcp;
        if tcp.flags & (flag::SYN | flag::FIN | flag::RST) != 0 {
            seen = track_turn(seam, entry, &tcp);
        } else if tcp.flags & flag::ACK != 0 {
            seen = track_ack(entry, flow, &tcp);
        }
    }
    if seen != flow.seen {
        entry.set_seen(seen);
    }
}

/// Follows a segment of the middle of a connection.
#[inline(always)]
fn track_ack(entry: &mut impl FlowEntry, flow: &Flow, tcp: &Tcp) -> Seen {
    let mut seen = flow.seen.0 | Seen::ANY;
    // The first acknowledgement of a side that has opened, or answered, must
    // acknowledge the other's SYN: a forged one cannot, and does not establish.
    let is_first = flow.seen.has(Seen::SYN) && !flow.seen.has(Seen::ACK);
    if is_first && flow.tcp_ack != 0 && tcp.ack.wrapping_sub(flow.tcp_ack) >= WINDOW {
        return Seen(seen);
    }
    entry.set_tcp_ack(tcp.ack);
    seen |= Seen::ACK;
    // A side that goes on has not reset: somebody pretended.
    seen &= !Seen::RST;
    Seen(seen)
}

/// Follows a segment with which a connection takes a turn: SYN, FIN or RST.
///
/// Not inlined, as it is rare.
#[inline(never)]
fn track_turn<S, T: Tables, E>(seam: &mut Seam<S, T, E>, entry: &mut T::Flow, tcp: &Tcp) -> Seen {
    let flow = entry.get();
    let mut seen = flow.seen.0 | Seen::ANY;
    let Some(mut partner) = seam.tables.flow(&flow.partner(proto::TCP)) else {
        return Seen(seen);
    };
    let other = partner.get();
    if tcp.flags & flag::RST != 0 {
        return Seen(if ends(&flow, &other, tcp) { seen | Seen::RST } else { seen });
    }
    if tcp.flags & flag::SYN != 0 {
        let state = FlowState::of(proto::TCP, flow.seen, other.seen);
        if matches!(state, FlowState::TimeWait | FlowState::Closed | FlowState::FinWait)
            && tcp.flags & flag::ACK == 0
        {
            // The same ports again: a new connection, in which the other side
            // has not been seen yet.
            seen = Seen::ANY;
            partner.set_seen(Seen(0));
            partner.set_tcp_ack(0);
            entry.set_tcp_ack(0);
        }
        // What the other side will have to acknowledge first.
        if !other.seen.has(Seen::ACK) || other.seen.has(Seen::FIN | Seen::RST) {
            partner.set_tcp_ack(tcp.seq.wrapping_add(1));
        }
        return Seen(seen | Seen::SYN);
    }
    if tcp.flags & flag::ACK != 0 {
        seen |= track_ack(entry, &flow, tcp).0;
    }
    if ends(&flow, &other, tcp) {
        seen |= Seen::FIN;
    }
    Seen(seen)
}

/// Whether a FIN or RST is believed. A namespace ends only its own flows. From
/// outside it must hit the window that the namespace has announced by its last
/// acknowledgement, which somebody who does not see the connection can only
/// guess; in the opening handshake nothing is announced yet, and a refusal is
/// taken as it comes (RFC 9293 section 3.10.7.3).
#[inline(always)]
fn ends(flow: &Flow, other: &Flow, tcp: &Tcp) -> bool {
    !flow.kind.is_to_endpoint()
        || !other.seen.has(Seen::ACK)
        || tcp.seq.wrapping_sub(other.tcp_ack) < WINDOW
}
