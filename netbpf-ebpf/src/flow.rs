//! The flow table: making, following and ending flows.
//!
//! A flow's two entries are made together, the answering direction first: its
//! insertion is what reserves the outside tuple. They go together, the opening
//! direction first: whoever removes that entry owns the removal of the other,
//! and the answering entry keeps the outside tuple taken until then.

use netbpf_common::{
    DropReason, Endpoint, EndpointId, Flow, FlowKind, FlowState, FlowVisit, Ipv4, MacAddr, NextHop,
    Seen, Ticks, Translation, Tuple, proto,
};

use crate::{
    checksum,
    parse::Packet,
    seam::{FlowEntry, InsertError, Seam, Tables},
    wire::l4::{Tcp, flag},
};

/// How far beyond the last acknowledged byte a RST may lie and still count: a
/// window of this size is larger than most, and small against the 2^32
/// sequence numbers that a blind attacker would have to guess from.
const RST_WINDOW: u32 = 1 << 20;

/// What the two entries of a new flow have in common.
#[derive(Clone, Copy, Default, Debug)]
pub struct NewFlow {
    /// The tuple that the opening packet came with.
    pub original: Tuple,
    /// What it becomes.
    pub translated: Translation,
    /// [`FlowKind::SNAT_ORIGINAL`] or [`FlowKind::DNAT_ORIGINAL`].
    pub kind: FlowKind,
    /// The namespace's endpoint.
    pub endpoint: EndpointId,
    /// MAC of the interface inside the namespace.
    pub mac: MacAddr,
    /// The uplink.
    pub uplink: u32,
    /// The way to the outside peer.
    pub next_hop: Ipv4,
    /// Now.
    pub now: Ticks,
}

impl NewFlow {
    #[inline(always)]
    fn entry(&self, key: &Tuple, translated: Translation, kind: FlowKind) -> Flow {
        Flow {
            translated,
            addr_delta: checksum::addresses_delta(key, &translated),
            port_delta: checksum::ports_delta(key, &translated),
            packets: 0,
            bytes: 0,
            created: self.now,
            last_seen: self.now,
            endpoint: self.endpoint,
            mac: self.mac,
            next_hop: self.next_hop,
            uplink: self.uplink,
            tcp_ack: 0,
            kind,
            seen: Seen(0),
            next_hop_slot: NextHop::slot(self.next_hop, self.uplink),
        }
    }

    /// Key of the answering direction: the packet that an answer comes as.
    #[must_use]
    #[inline(always)]
    pub fn reply_key(&self) -> Tuple {
        self.translated.tuple(self.original.proto).reversed()
    }

    /// The answering direction's entry, but for `port_delta`, which the choice
    /// of the outside port decides.
    #[must_use]
    #[inline(always)]
    pub fn reply_entry(&self) -> Flow {
        let kind = FlowKind(self.kind.0 ^ (FlowKind::REPLY | FlowKind::TO_ENDPOINT));
        self.entry(&self.reply_key(), self.original.reversed().into(), kind)
    }

    /// Reserves the flow's own outside tuple.
    ///
    /// # Errors
    /// [`DropReason::TupleInUse`], [`DropReason::FlowTableFull`].
    #[inline(never)]
    pub fn reserve<S, T: Tables, E>(&self, seam: &mut Seam<S, T, E>) -> Result<(), DropReason> {
        reserve(seam, &self.reply_key(), &mut self.reply_entry()).map_err(|error| match error {
            InsertError::Exists => DropReason::TupleInUse,
            InsertError::Full => DropReason::FlowTableFull,
        })
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
        if let Err(error) = seam.tables.insert_flow(&self.original, &entry) {
            seam.tables.remove_flow(&self.reply_key());
            return match error {
                InsertError::Exists => Ok(()),
                InsertError::Full => Err(DropReason::FlowTableFull),
            };
        }
        let visit = FlowVisit { tuple: self.original, created: self.now, due: self.now };
        if seam.tables.push_visit(&visit).is_err() {
            seam.tables.remove_flow(&self.original);
            seam.tables.remove_flow(&self.reply_key());
            return Err(DropReason::FlowTableFull);
        }
        seam.tables.add_flow_count(self.endpoint, 1);
        Ok(())
    }
}

/// Reserves an outside tuple: inserts the answering direction's entry.
///
/// # Errors
/// [`InsertError::Exists`] if another flow has the tuple.
#[inline(always)]
pub fn reserve<S, T: Tables, E>(
    seam: &mut Seam<S, T, E>,
    key: &Tuple,
    entry: &mut Flow,
) -> Result<(), InsertError> {
    entry.port_delta = checksum::ports_delta(key, &entry.translated);
    seam.tables.insert_flow(key, entry)
}

/// Whether the endpoint may have another flow, and there is room for one.
///
/// # Errors
/// [`DropReason::FlowLimit`], [`DropReason::FlowTableFull`].
#[inline(always)]
pub fn admit<S, T: Tables, E>(
    seam: &Seam<S, T, E>,
    id: EndpointId,
    endpoint: &Endpoint,
) -> Result<(), DropReason> {
    if seam.tables.flow_count(id) >= u64::from(endpoint.flow_limit) {
        return Err(DropReason::FlowLimit);
    }
    if seam.tables.flow_count(EndpointId::NONE) >= seam.tables.max_flows() {
        return Err(DropReason::FlowTableFull);
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
    true
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
    let seen = if packet.tuple.proto == proto::TCP {
        track_tcp(seam, entry, flow.seen, &packet.tcp)
    } else {
        Seen(flow.seen.0 | Seen::ANY)
    };
    if seen != flow.seen {
        entry.set_seen(seen);
    }
}

#[inline(always)]
fn track_tcp<S, T: Tables, E>(
    seam: &mut Seam<S, T, E>,
    entry: &mut T::Flow,
    before: Seen,
    tcp: &Tcp,
) -> Seen {
    let mut seen = before.0 | Seen::ANY;
    if tcp.flags & flag::RST != 0 {
        if is_in_window(seam, entry, tcp.seq) {
            seen |= Seen::RST;
        }
        return Seen(seen);
    }
    if tcp.flags & flag::ACK != 0 {
        entry.set_tcp_ack(tcp.ack);
    }
    if tcp.flags & flag::SYN != 0 {
        seen |= Seen::SYN;
        if before.has(Seen::FIN | Seen::RST) && reopen(seam, entry) {
            seen = Seen::ANY | Seen::SYN;
        }
    } else if tcp.flags & flag::ACK != 0 {
        seen |= Seen::ACK;
    }
    if tcp.flags & flag::FIN != 0 {
        seen |= Seen::FIN;
    }
    Seen(seen)
}

/// Whether a RST hits the window that the other side has announced by its last
/// acknowledgement. Where that is not known yet, in the opening handshake, any
/// RST is taken (RFC 9293 section 3.10.7.3).
///
/// Not inlined, as it is rare.
#[inline(never)]
fn is_in_window<S, T: Tables, E>(seam: &mut Seam<S, T, E>, entry: &T::Flow, seq: u32) -> bool {
    let Some(partner) = seam.tables.flow(&entry.get().partner(proto::TCP)) else {
        return true;
    };
    let partner = partner.get();
    !partner.seen.has(Seen::ACK) || seq.wrapping_sub(partner.tcp_ack) < RST_WINDOW
}

/// Whether a SYN finds its flow over, so that it opens a new connection on the
/// same ports; if so, the other side has not been seen in that yet.
///
/// Not inlined, as it is rare.
#[inline(never)]
fn reopen<S, T: Tables, E>(seam: &mut Seam<S, T, E>, entry: &T::Flow) -> bool {
    let flow = entry.get();
    let Some(mut partner) = seam.tables.flow(&flow.partner(proto::TCP)) else {
        return false;
    };
    let state = FlowState::of(proto::TCP, flow.seen, partner.get().seen);
    let is_over = matches!(state, FlowState::TimeWait | FlowState::Closed);
    if is_over {
        partner.set_seen(Seen(0));
    }
    is_over
}
