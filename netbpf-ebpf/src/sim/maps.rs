//! The datapath's maps.

use core::ops::Deref;
use std::{cell::RefCell, collections::VecDeque, rc::Rc, vec::Vec};

use netbpf_common::{
    AllowedPair, Config, Counter, Counters, DropReason, Endpoint, EndpointId, ErrorCount, FdbEntry,
    Flow, FlowKind, FlowVisit, FragmentKey, Fragments, HeldFragment, Ipv4, LearnCount, MacAddr,
    NextHop, Port, PortOwner, PublishEntry, Seen, Ticks, Timeouts, Tuple, Uplink,
    maps::published_word,
};

use super::Map;
use crate::seam::{FlowEntry, FragmentsEntry, InsertError, Tables};

/// A value of a map that others hold, too. A clone is a value of its own, so that
/// one of the maps is.
#[derive(Debug)]
pub struct Shared<V>(Rc<RefCell<V>>);

impl<V> Shared<V> {
    fn new(value: V) -> Self {
        Self(Rc::new(RefCell::new(value)))
    }

    /// The very same value.
    fn share(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<V: Clone> Clone for Shared<V> {
    fn clone(&self) -> Self {
        Self::new(self.0.borrow().clone())
    }
}

impl<V> Deref for Shared<V> {
    type Target = RefCell<V>;

    fn deref(&self) -> &RefCell<V> {
        &self.0
    }
}

/// A flow table's entry, shared with the table.
#[derive(Debug)]
pub struct Entry(Shared<Flow>);

impl FlowEntry for Entry {
    fn get(&self) -> Flow {
        *self.0.borrow()
    }

    fn touch(&mut self, now: Ticks, bytes: u32) {
        let mut flow = self.0.borrow_mut();
        flow.last_seen = now;
        flow.tally.add(bytes);
    }

    fn set_seen(&mut self, seen: Seen) {
        self.0.borrow_mut().seen = seen;
    }

    fn set_tcp_ack(&mut self, ack: u32) {
        self.0.borrow_mut().tcp_ack = ack;
    }

    fn set_route(&mut self, uplink: u32, next_hop: Ipv4, kind: FlowKind, epoch: u16) {
        let mut flow = self.0.borrow_mut();
        flow.uplink = uplink;
        flow.next_hop = next_hop;
        flow.kind = kind;
        flow.route_epoch = epoch;
    }
}

/// A fragmented datagram's entry, shared with the table.
#[derive(Debug)]
pub struct Datagram(Shared<Fragments>);

impl FragmentsEntry for Datagram {
    fn get(&self) -> Fragments {
        *self.0.borrow()
    }

    fn reset(&mut self, since: Ticks) {
        *self.0.borrow_mut() = Fragments { since, ..Fragments::default() };
    }

    fn announce(&mut self, sport: Port, dport: Port, state: u32) {
        let mut known = self.0.borrow_mut();
        known.sport = sport;
        known.dport = dport;
        known.state = state;
    }

    fn replace_held(&mut self, old: u32, new: u32) -> bool {
        let mut known = self.0.borrow_mut();
        let is_old = known.held == old;
        if is_old {
            known.held = new;
        }
        is_old
    }
}

/// The maps.
#[derive(Clone, Default, Debug)]
pub struct Maps {
    /// `CONFIG`.
    pub config: Config,
    /// `ENDPOINTS`, and by their interface index `ENDPOINT_IDS`.
    pub endpoints: Map<EndpointId, Endpoint>,
    /// `ALLOWED`.
    pub allowed: Vec<AllowedPair>,
    /// `ADDRESSES`.
    pub addresses: Map<Ipv4, EndpointId>,
    /// `FDB`, and most of it in `FDB_SLOTS`.
    pub fdb: Map<MacAddr, FdbEntry>,
    /// `FDB_LEARNT`.
    pub learnt: Map<MacAddr, FdbEntry>,
    /// `LEARN_COUNTS`.
    pub learn_counts: Map<EndpointId, LearnCount>,
    /// `FLOWS`.
    pub flows: Map<Tuple, Shared<Flow>>,
    /// Entries that `FLOWS` holds at most.
    pub flow_entries: usize,
    /// `FLOW_QUEUE`.
    pub queue: VecDeque<FlowVisit>,
    /// Elements that `FLOW_QUEUE` holds at most.
    pub queue_len: usize,
    /// `FLOW_COUNTS`.
    pub flow_counts: Map<EndpointId, u64>,
    /// `OUTSIDE_PORTS`.
    pub port_owners: Map<u32, PortOwner>,
    /// `FRAGMENTS`.
    pub fragments: Map<FragmentKey, Shared<Fragments>>,
    /// `HELD_FRAGMENTS`, by slot.
    pub held: Map<u32, Rc<HeldFragment>>,
    /// `HELD_TICKETS`.
    pub tickets: u32,
    /// `ERROR_COUNTS`.
    pub error_counts: Map<EndpointId, ErrorCount>,
    /// `UPLINKS`.
    pub uplinks: Map<u32, Uplink>,
    /// `SUBNETS`: address and mask.
    pub subnets: Vec<(Ipv4, Ipv4)>,
    /// `NEXT_HOPS`.
    pub next_hops: Map<u16, NextHop>,
    /// `PUBLISH`, sorted; `PUBLISHED_PORTS` follows from it.
    pub published: Vec<PublishEntry>,
    /// `STATS`.
    pub stats: Map<EndpointId, Counters>,
}

impl Maps {
    /// Publishes these ranges and no others.
    pub fn publish(&mut self, entries: impl IntoIterator<Item = PublishEntry>) {
        self.published = entries.into_iter().collect();
        self.published.sort_by_key(|entry| entry.order);
        self.config.publish_base = 0;
        self.config.publish_len = u32::try_from(self.published.len()).unwrap_or(u32::MAX);
    }

    /// An endpoint's counters.
    #[must_use]
    pub fn counters(&self, id: EndpointId) -> Counters {
        self.stats.get(&id).copied().unwrap_or_default()
    }
}

/// A copy of a map's value.
#[derive(Clone, Copy, Debug)]
pub struct Copied<V>(V);

impl<V> Deref for Copied<V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.0
    }
}

impl Tables for Maps {
    type Flow = Entry;
    type Fragments = Datagram;
    type Ref<V: Copy> = Copied<V>;

    fn timeouts(&self) -> Timeouts {
        self.config.timeouts
    }

    fn max_flows(&self) -> u64 {
        u64::from(self.config.max_flows)
    }

    fn published_bounds(&self) -> (u32, u32) {
        (self.config.publish_base, self.config.publish_len)
    }

    fn endpoint_id(&self, ifindex: u32) -> Option<EndpointId> {
        self.endpoints.iter().find(|(_, e)| e.ifindex == ifindex).map(|(id, _)| *id)
    }

    fn endpoint(&self, id: EndpointId) -> Option<Copied<Endpoint>> {
        self.endpoints.get(&id).copied().map(Copied)
    }

    fn is_allowed(&self, pair: AllowedPair) -> bool {
        self.allowed.contains(&pair)
    }

    fn address_owner(&self, addr: Ipv4) -> Option<EndpointId> {
        self.addresses.get(&addr).copied()
    }

    fn fdb_static(&self, mac: MacAddr) -> Option<EndpointId> {
        self.fdb.get(&mac).map(|entry| entry.endpoint)
    }

    fn fdb_learnt(&self, mac: MacAddr) -> Option<Copied<FdbEntry>> {
        self.learnt.get(&mac).copied().map(Copied)
    }

    fn may_learn(&mut self, id: EndpointId, now: Ticks) -> bool {
        let count = self.learn_counts.entry(id).or_default();
        let more = count.one_more(now, self.config.timeouts.fdb);
        *count = more.unwrap_or(*count);
        more.is_some()
    }

    fn learn(&mut self, mac: MacAddr, entry: FdbEntry) {
        self.learnt.insert(mac, entry);
    }

    fn flow(&mut self, key: &Tuple) -> Option<Entry> {
        self.flows.get(key).map(|flow| Entry(flow.share()))
    }

    fn insert_flow(&mut self, key: &Tuple, flow: &Flow) -> Result<(), InsertError> {
        if self.flows.contains_key(key) {
            return Err(InsertError::Exists);
        }
        if self.flows.len() >= self.flow_entries {
            return Err(InsertError::Full);
        }
        self.flows.insert(*key, Shared::new(*flow));
        Ok(())
    }

    fn remove_flow(&mut self, key: &Tuple) -> bool {
        self.flows.remove(key).is_some()
    }

    fn push_visit(&mut self, visit: &FlowVisit) -> Result<(), InsertError> {
        if self.queue.len() >= self.queue_len {
            return Err(InsertError::Full);
        }
        self.queue.push_back(*visit);
        Ok(())
    }

    fn pop_visit(&mut self) -> Option<FlowVisit> {
        self.queue.pop_front()
    }

    fn flow_count(&self, id: EndpointId) -> u64 {
        self.flow_counts.get(&id).copied().unwrap_or(0)
    }

    fn add_flow_count(&mut self, id: EndpointId, delta: i64) {
        for id in [id, EndpointId::NONE] {
            let count = self.flow_counts.entry(id).or_default();
            *count = count.wrapping_add_signed(delta);
        }
    }

    fn port_owner(&self, index: u32) -> PortOwner {
        self.port_owners.get(&index).copied().unwrap_or(PortOwner::NOBODY)
    }

    fn take_port(&mut self, index: u32, owner: PortOwner) -> bool {
        let taken = self.port_owner(index).taken_by(owner);
        if let Some(taken) = taken {
            self.port_owners.insert(index, taken);
        }
        taken.is_some()
    }

    fn give_port(&mut self, index: u32) {
        let left = self.port_owner(index).given_back();
        self.port_owners.insert(index, left);
    }

    fn port_secret(&self) -> u64 {
        let [low, high] = self.config.port_secret.map(u64::from);
        high << 32 | low
    }

    fn fragments(&mut self, key: &FragmentKey, now: Ticks) -> Option<Datagram> {
        let new = || Shared::new(Fragments { since: now, ..Fragments::default() });
        Some(Datagram(self.fragments.entry(*key).or_insert_with(new).share()))
    }

    fn next_ticket(&mut self) -> u32 {
        self.tickets += 1;
        self.tickets
    }

    fn with_held<R>(&mut self, ticket: u32, f: impl FnOnce(&mut HeldFragment) -> R) -> Option<R> {
        let free = || Rc::new(HeldFragment::FREE);
        let slot = self.held.entry(ticket % HeldFragment::SLOTS).or_insert_with(free);
        Some(f(Rc::make_mut(slot)))
    }

    fn may_answer(&mut self, id: EndpointId, now: Ticks) -> bool {
        let count = self.error_counts.entry(id).or_default();
        let more = count.one_more(now);
        *count = more.unwrap_or(*count);
        more.is_some()
    }

    fn uplink(&self, ifindex: u32) -> Option<Copied<Uplink>> {
        self.uplinks.get(&ifindex).copied().map(Copied)
    }

    fn any_uplink<F: FnMut(u32) -> bool>(&self, is_it: F) -> bool {
        self.uplinks.keys().copied().any(is_it)
    }

    fn is_private(&self, addr: Ipv4) -> bool {
        self.subnets.iter().any(|(subnet, mask)| addr.is_in(*subnet, *mask))
    }

    fn next_hop(&self, slot: u16) -> NextHop {
        self.next_hops.get(&slot).copied().unwrap_or_default()
    }

    fn set_next_hop(&mut self, slot: u16, next_hop: NextHop) {
        self.next_hops.insert(slot, next_hop);
    }

    fn published(&self, index: u32) -> Option<Copied<PublishEntry>> {
        self.published.get(usize::try_from(index).ok()?).copied().map(Copied)
    }

    fn published_word(&self, index: u32) -> u64 {
        let mut word = 0;
        for bit in 0..64 {
            let port = u16::try_from(index % 1024 * 64 + bit).unwrap_or_default();
            let is_published = |entry: &PublishEntry| {
                published_word(entry.proto(), port) == Some(index)
                    && (entry.first()..=entry.last).contains(&port)
            };
            word |= u64::from(self.published.iter().any(is_published)) << bit;
        }
        word
    }

    fn count(&mut self, id: EndpointId, counter: Counter, bytes: u32) {
        let rows = &mut self.stats.entry(id).or_default().0;
        rows[Counters::packets_row(counter)] += 1;
        rows[Counters::packets_row(counter) + 1] += u64::from(bytes);
    }

    fn count_drop(&mut self, id: EndpointId, reason: DropReason) {
        self.stats.entry(id).or_default().0[Counters::drop_row(reason)] += 1;
    }
}
