//! The maps: the statics that the loader finds, behind [`Tables`].
//!
//! Each static's name and sizes are those of its definition in
//! [`netbpf_common::maps`]; a test compares them in the loaded object.

use core::{
    ffi::c_void,
    mem::{size_of, transmute},
    ops::Deref,
    ptr::NonNull,
};

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, Queue, lpm_trie::Key,
    },
    helpers::bpf_for_each_map_elem,
    macros::btf_map,
};
use netbpf_common::{
    AllowedPair, BridgePort, Config, Counter, Counters, DropReason, Endpoint, EndpointId,
    ErrorCount, FdbEntry, FdbSlot, Flow, FlowKind, FlowVisit, FragmentKey, Fragments, HeldFragment,
    Ipv4, LearnCount, MacAddr, NextHop, Port, PortOwner, PublishEntry, Seen, Tally, Ticks,
    Timeouts, Tuple, Uplink,
    maps::{self, MacKey, MapDef},
};
use netbpf_ebpf::{
    Stop,
    rare::Rare,
    seam::{FlowEntry, FragmentsEntry, InsertError, Tables},
};

use super::{atomic, word};

const SPARSE: usize = BPF_F_NO_PREALLOC as usize;
const EEXIST: i32 = -17;
/// Attempts to be the one who changes the owner of a port.
const TAKE_ATTEMPTS: u32 = 2;

#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
static ENDPOINTS: Array<Endpoint, { maps::Endpoints::MAX_ENTRIES as usize }> = Array::new();
#[btf_map]
static ENDPOINT_IDS: HashMap<u32, u32, { maps::EndpointIds::MAX_ENTRIES as usize }, SPARSE> =
    HashMap::new();
#[btf_map]
static BRIDGE_PORTS: Array<u64, { maps::BridgePorts::MAX_ENTRIES as usize }> = Array::new();
#[btf_map]
static ALLOWED: HashMap<AllowedPair, u32, { maps::Allowed::MAX_ENTRIES as usize }, SPARSE> =
    HashMap::new();
#[btf_map]
static ADDRESSES: HashMap<Ipv4, u32, { maps::Addresses::MAX_ENTRIES as usize }, SPARSE> =
    HashMap::new();
#[btf_map]
static FDB: HashMap<MacKey, FdbEntry, { maps::Fdb::MAX_ENTRIES as usize }, SPARSE> = HashMap::new();
#[btf_map]
static FDB_SLOTS: Array<u64, { maps::FdbSlots::MAX_ENTRIES as usize }> = Array::new();
#[btf_map]
static FDB_LEARNT: LruHashMap<MacKey, FdbEntry, { maps::FdbLearnt::MAX_ENTRIES as usize }> =
    LruHashMap::new();
#[btf_map]
static LEARN_COUNTS: Array<LearnCount, { maps::LearnCounts::MAX_ENTRIES as usize }> = Array::new();
#[btf_map]
static FLOWS: HashMap<Tuple, Flow, { maps::Flows::MAX_ENTRIES as usize }> = HashMap::new();
#[btf_map]
static FLOW_QUEUE: Queue<FlowVisit, { maps::FlowQueue::MAX_ENTRIES as usize }> = Queue::new();
#[btf_map]
static FLOW_COUNTS: Array<u64, { maps::FlowCounts::MAX_ENTRIES as usize }> = Array::new();
#[btf_map]
static OUTSIDE_PORTS: Array<u64, { maps::OutsidePorts::MAX_ENTRIES as usize }> = Array::new();
#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, Fragments, { maps::FragmentsMap::MAX_ENTRIES as usize }> =
    LruHashMap::new();
#[btf_map]
static HELD_FRAGMENTS: Array<HeldFragment, { maps::HeldFragments::MAX_ENTRIES as usize }> =
    Array::new();
#[btf_map]
static HELD_TICKETS: Array<u64, { maps::HeldTickets::MAX_ENTRIES as usize }> = Array::new();
#[btf_map]
static ERROR_COUNTS: Array<ErrorCount, { maps::ErrorCounts::MAX_ENTRIES as usize }> = Array::new();
#[btf_map]
pub(crate) static PROGRAMS: ProgramArray<{ maps::Programs::MAX_ENTRIES as usize }> =
    ProgramArray::new();
#[btf_map]
static RARE: PerCpuArray<RarePlace, 1> = PerCpuArray::new();
#[btf_map]
static CLOCK: Array<u64, 1> = Array::new();
#[btf_map]
static PUBLISH: Array<PublishEntry, { maps::Publish::MAX_ENTRIES as usize }> = Array::new();
#[btf_map]
static PUBLISHED_PORTS: Array<u64, { maps::PublishedPorts::MAX_ENTRIES as usize }> = Array::new();
#[btf_map]
static UPLINKS: HashMap<u32, Uplink, { maps::Uplinks::MAX_ENTRIES as usize }> = HashMap::new();
#[btf_map]
static NEXT_HOPS: Array<[u64; 4], { maps::NextHops::MAX_ENTRIES as usize }> = Array::new();
#[btf_map]
static SUBNETS: LpmTrie<Ipv4, u32, { maps::Subnets::MAX_ENTRIES as usize }> = LpmTrie::new();
#[btf_map]
static STATS: PerCpuArray<Counters, { maps::Stats::MAX_ENTRIES as usize }> = PerCpuArray::new();

/// The word of `CLOCK`.
#[inline(always)]
pub(crate) fn clock() -> Option<*mut u64> {
    CLOCK.get_ptr_mut(0)
}

/// Words of the room for a [`Rare`].
const RARE_WORDS: usize = 20;
/// The room for a [`Rare`].
pub(crate) type RarePlace = [u64; RARE_WORDS];

const _: () = assert!(size_of::<Rare>() <= RARE_WORDS * size_of::<u64>());
const _: () = assert!(align_of::<Rare>() <= align_of::<u64>());

/// This CPU's place for a rare packet. To be asked for once by a program.
#[inline(always)]
pub(crate) fn rare() -> Option<&'static mut Rare> {
    let place = RARE.get_ptr_mut(0)?;
    // Not a `Rare::default()`: of that, what is between the fields is copied byte by
    // byte, by way of the stack.
    // SAFETY: the map's value is large enough, aligned, and this CPU's own:
    // programs of this kind do not interrupt each other on a CPU, and those that a
    // sent copy runs into are not rare ones. Zero is a value of all fields: they are
    // numbers, and enums of which the first is 0.
    let rare = unsafe {
        place.write([0; RARE_WORDS]);
        &mut *place.cast::<Rare>()
    };
    rare.decide(Err(Stop::ToStack));
    Some(rare)
}

/// The same place as a global function gets it: to Linux 6.1 memory that such a function
/// is given holds no key of a map, and a map's value does.
///
/// # Safety
/// `place` is null, or what [`rare`] has returned, and nobody else uses it meanwhile.
#[inline(always)]
pub(crate) unsafe fn rare_again(place: *mut RarePlace) -> Option<&'static mut Rare> {
    // (There is one on a CPU.)
    let place = word::known_as(place, RARE.get_ptr_mut(0)?);
    // SAFETY: what the caller vouches for.
    unsafe { place.cast::<Rare>().as_mut() }
}

/// A found entry of `FLOWS`.
#[derive(Clone, Copy)]
pub(crate) struct Entry(*mut Flow);

impl FlowEntry for Entry {
    #[inline(always)]
    fn get(&self) -> Flow {
        // SAFETY: the pointer came from a look-up in this run of the program and
        // stays a `Flow`'s: the table is preallocated. Any bytes are a `Flow`, and
        // other CPUs write whole words. A flow that is removed at this very
        // moment may give its place to another one: then this packet, one of a
        // flow that is over, is treated as one of that, as by any other reader
        // of a preallocated hash.
        unsafe { self.0.read() }
    }

    #[inline(always)]
    fn touch(&mut self, now: Ticks, bytes: u32) {
        // SAFETY: as in `get`; what is counted is added atomically because several
        // CPUs may carry packets of one flow.
        unsafe {
            let packet = Tally::packet(bytes);
            let recent = &raw mut (*self.0).tally.recent;
            let before = atomic::fetch_add(recent, packet);
            let filled = Tally::filled(before, before.wrapping_add(packet));
            if filled != 0 {
                atomic::add(recent, filled.wrapping_neg());
                atomic::add(&raw mut (*self.0).tally.carried, Tally::carry(filled));
            }
            if (*self.0).last_seen != now {
                (*self.0).last_seen = now;
            }
        }
    }

    #[inline(always)]
    fn set_seen(&mut self, seen: Seen) {
        // SAFETY: as in `get`.
        unsafe { (*self.0).seen = seen }
    }

    #[inline(always)]
    fn set_tcp_ack(&mut self, ack: u32) {
        // SAFETY: as in `get`.
        unsafe { (*self.0).tcp_ack = ack }
    }

    #[inline(always)]
    fn set_route(&mut self, uplink: u32, next_hop: Ipv4, kind: FlowKind, epoch: u16) {
        // SAFETY: as in `get`. Another CPU may see the new uplink with the old
        // next hop for a moment: such a pair is in no cache, and is asked for.
        unsafe {
            (*self.0).kind = kind;
            (*self.0).uplink = uplink;
            (*self.0).next_hop = next_hop;
            (*self.0).route_epoch = epoch;
        }
    }
}

/// A found entry of `FRAGMENTS`.
#[derive(Clone, Copy)]
pub(crate) struct Datagram(*mut Fragments);

impl FragmentsEntry for Datagram {
    #[inline(always)]
    fn get(&self) -> Fragments {
        // SAFETY: a look-up's pointer; the table is preallocated, so that it stays
        // a `Fragments`. Should the kernel give its place to another datagram at
        // this moment, then one of two datagrams loses fragments.
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    fn reset(&mut self, since: Ticks) {
        // SAFETY: as in `get`.
        unsafe { self.0.write(Fragments { since, ..Fragments::default() }) }
    }

    #[inline(always)]
    fn announce(&mut self, sport: Port, dport: Port, state: u32) {
        // SAFETY: as in `get`. The state goes last: who sees it sees the ports.
        unsafe {
            (&raw mut (*self.0).sport).write_volatile(sport);
            (&raw mut (*self.0).dport).write_volatile(dport);
            (&raw mut (*self.0).state).write_volatile(state);
        }
    }

    #[inline(always)]
    fn replace_held(&mut self, old: u32, new: u32) -> bool {
        // SAFETY: as in `get`.
        unsafe { atomic::replace_u32(&raw mut (*self.0).held, old, new) }
    }
}

/// All of them.
#[derive(Clone, Copy)]
pub(crate) struct KernelMaps;

/// What a look-up found: a map's value.
pub(crate) struct InMap<V>(NonNull<V>);

impl<V> Deref for InMap<V> {
    type Target = V;

    #[inline(always)]
    fn deref(&self) -> &V {
        // SAFETY: a pointer from a look-up in this run of the program, which is
        // valid until it ends. Values are plain data, of which any bytes are
        // valid; the control plane replaces them word by word.
        unsafe { self.0.as_ref() }
    }
}

#[inline(always)]
fn found<V>(pointer: Option<*const V>) -> Option<InMap<V>> {
    NonNull::new(pointer?.cast_mut()).map(InMap)
}

#[inline(always)]
fn insert_error(errno: i32) -> InsertError {
    if errno == EEXIST { InsertError::Exists } else { InsertError::Full }
}

/// Adds to rows of this CPU's counters, from `first` on. Callers pass a row of which
/// the compiler knows nothing: it knows how many reasons and counters there are and
/// would leave out the bounds check, on which the verifier insists.
#[inline(always)]
fn add_to_rows<const N: usize>(id: EndpointId, first: usize, amounts: [u64; N]) {
    if let Some(counters) = STATS.get_ptr_mut(id.index()) {
        // SAFETY: per-CPU value, and programs of this kind do not interrupt
        // each other on a CPU: nobody else writes to it.
        unsafe {
            if let Some(rows) = (*counters).0.get_mut(first..first + N) {
                for (row, amount) in rows.iter_mut().zip(amounts) {
                    *row += amount;
                }
            }
        }
    }
}

/// A search among the uplinks.
struct UplinkSearch<F> {
    is_it: F,
    is_found: bool,
}

/// What `bpf_for_each_map_elem` calls: 0 means go on.
extern "C" fn look_at_uplink<F: FnMut(u32) -> bool>(
    _map: *mut c_void,
    ifindex: *const u32,
    _uplink: *mut Uplink,
    search: *mut UplinkSearch<F>,
) -> i64 {
    // SAFETY: the helper passes a key of the map, and what `any_uplink` has given it, which
    // nobody else has.
    let (ifindex, search) = unsafe { (*ifindex, &mut *search) };
    search.is_found = (search.is_it)(ifindex);
    i64::from(search.is_found)
}

impl Tables for KernelMaps {
    type Flow = Entry;
    type Fragments = Datagram;
    type Ref<V: Copy> = InMap<V>;

    #[inline(always)]
    fn timeouts(&self) -> Timeouts {
        match CONFIG.get(0) {
            Some(config) => config.timeouts,
            None => Timeouts::DEFAULT,
        }
    }

    #[inline(always)]
    fn max_flows(&self) -> u64 {
        match CONFIG.get(0) {
            Some(config) => u64::from(config.max_flows),
            None => 0,
        }
    }

    #[inline(always)]
    fn published_bounds(&self) -> (u32, u32) {
        match CONFIG.get(0) {
            Some(config) => (config.publish_base, config.publish_len),
            None => (0, 0),
        }
    }

    #[inline(always)]
    fn endpoint_id(&self, ifindex: u32) -> Option<EndpointId> {
        if let Some(word) = found(BRIDGE_PORTS.get_ptr(BridgePort::slot(ifindex))) {
            // SAFETY: integers of the same size, of which any bytes are values.
            let port: BridgePort = unsafe { transmute(*word) };
            if port.ifindex == ifindex {
                return Some(port.endpoint);
            }
        }
        found(ENDPOINT_IDS.get_ptr(ifindex)).map(|id| EndpointId(*id as u16))
    }

    #[inline(always)]
    fn endpoint(&self, id: EndpointId) -> Option<InMap<Endpoint>> {
        found(ENDPOINTS.get_ptr(id.index())).filter(|endpoint| endpoint.ifindex != 0)
    }

    #[inline(always)]
    fn is_allowed(&self, pair: AllowedPair) -> bool {
        ALLOWED.get_ptr(pair).is_some()
    }

    #[inline(always)]
    fn address_owner(&self, addr: Ipv4) -> Option<EndpointId> {
        found(ADDRESSES.get_ptr(addr)).map(|id| EndpointId(*id as u16))
    }

    #[inline(always)]
    fn fdb_static(&self, mac: MacAddr) -> Option<EndpointId> {
        if let Some(word) = found(FDB_SLOTS.get_ptr(FdbSlot::index(mac))) {
            let slot = FdbSlot(*word);
            if slot.is_of(mac) {
                return Some(slot.endpoint());
            }
        }
        found(FDB.get_ptr(MacKey::from(mac))).map(|entry| entry.endpoint)
    }

    #[inline(always)]
    fn fdb_learnt(&self, mac: MacAddr) -> Option<InMap<FdbEntry>> {
        found(FDB_LEARNT.get_ptr(MacKey::from(mac)))
    }

    #[inline(always)]
    fn may_learn(&mut self, id: EndpointId, now: Ticks) -> bool {
        let Some(count) = LEARN_COUNTS.get_ptr_mut(id.index()) else {
            return false;
        };
        // SAFETY: a look-up's pointer to plain data. Two CPUs at once may count
        // one MAC too few, which does no harm.
        unsafe {
            match count.read().one_more(now, self.timeouts().fdb) {
                Some(more) => {
                    count.write(more);
                    true
                }
                None => false,
            }
        }
    }

    #[inline(always)]
    fn learn(&mut self, mac: MacAddr, entry: FdbEntry) {
        let key = MacKey::from(mac);
        if let Some(known) = FDB_LEARNT.get_ptr_mut(key) {
            // SAFETY: as in `InMap`; refreshed in place, most often.
            unsafe {
                if (*known).endpoint == entry.endpoint {
                    (*known).last_seen = entry.last_seen;
                    return;
                }
            }
        }
        // A full table evicts its least recently used entry itself; should even
        // that fail, the kernel's bridge still knows the MAC.
        let _ = FDB_LEARNT.insert(key, entry, 0);
    }

    #[inline(always)]
    fn flow(&mut self, key: &Tuple) -> Option<Entry> {
        FLOWS.get_ptr_mut(key).map(Entry)
    }

    #[inline(always)]
    fn key(tuple: &Tuple) -> Tuple {
        // In words, as it is hashed: a load of what lies in several stores that have just
        // been made waits for all of them.
        // SAFETY: integers of the same size, of which any bytes are values.
        unsafe { transmute(tuple.words()) }
    }

    #[inline(always)]
    fn insert_flow(&mut self, key: &Tuple, flow: &Flow) -> Result<(), InsertError> {
        FLOWS.insert(key, flow, u64::from(BPF_NOEXIST)).map_err(insert_error)
    }

    #[inline(always)]
    fn remove_flow(&mut self, key: &Tuple) -> bool {
        FLOWS.remove(key).is_ok()
    }

    #[inline(always)]
    fn push_visit(&mut self, visit: &FlowVisit) -> Result<(), InsertError> {
        FLOW_QUEUE.push(visit, 0).map_err(|_| InsertError::Full)
    }

    #[inline(always)]
    fn pop_visit(&mut self) -> Option<FlowVisit> {
        FLOW_QUEUE.pop().ok().flatten()
    }

    #[inline(always)]
    fn flow_count(&self, id: EndpointId) -> u64 {
        found(FLOW_COUNTS.get_ptr(id.index())).map_or(0, |count| *count)
    }

    #[inline(always)]
    fn add_flow_count(&mut self, id: EndpointId, delta: i64) {
        for index in [id.index(), EndpointId::NONE.index()] {
            if let Some(count) = FLOW_COUNTS.get_ptr_mut(index) {
                // SAFETY: a look-up's pointer to an aligned u64 of the map.
                unsafe { atomic::add(count, delta.cast_unsigned()) };
            }
        }
    }

    #[inline(always)]
    fn port_owner(&self, index: u32) -> PortOwner {
        PortOwner(found(OUTSIDE_PORTS.get_ptr(index)).map_or(0, |word| *word))
    }

    #[inline(always)]
    fn take_port(&mut self, index: u32, owner: PortOwner) -> bool {
        let Some(place) = OUTSIDE_PORTS.get_ptr_mut(index) else {
            return false;
        };
        let mut attempt = 0;
        while attempt < TAKE_ATTEMPTS {
            attempt += 1;
            // SAFETY: a look-up's pointer to an aligned u64 of the map.
            unsafe {
                let now = place.read_volatile();
                let Some(taken) = PortOwner(now).taken_by(owner) else {
                    return false;
                };
                if atomic::replace_u64(place, now, taken.0) {
                    return true;
                }
            }
        }
        false
    }

    #[inline(always)]
    fn give_port(&mut self, index: u32) {
        if let Some(place) = OUTSIDE_PORTS.get_ptr_mut(index) {
            // SAFETY: as above. One flow less: the number is in the low bits.
            unsafe { atomic::add(place, u64::MAX) };
        }
    }

    #[inline(always)]
    fn port_secret(&self) -> u64 {
        match CONFIG.get(0) {
            Some(config) => {
                u64::from(config.port_secret[1]) << 32 | u64::from(config.port_secret[0])
            }
            None => 0,
        }
    }

    #[inline(always)]
    fn fragments(&mut self, key: &FragmentKey, now: Ticks) -> Option<Datagram> {
        if let Some(known) = FRAGMENTS.get_ptr_mut(key) {
            return Some(Datagram(known));
        }
        let new = Fragments { since: now, ..Fragments::default() };
        // Another CPU may have made it meanwhile: that one serves.
        let _ = FRAGMENTS.insert(key, new, u64::from(BPF_NOEXIST));
        FRAGMENTS.get_ptr_mut(key).map(Datagram)
    }

    #[inline(always)]
    fn next_ticket(&mut self) -> u32 {
        let Some(tickets) = HELD_TICKETS.get_ptr_mut(0) else {
            return 1;
        };
        // SAFETY: a look-up's pointer to an aligned u64 of the map.
        let ticket = unsafe { atomic::fetch_add(tickets, 1) } as u32;
        // 0 is none. (A number used twice after four thousand million is harmless.)
        ticket.wrapping_add(1).max(1)
    }

    #[inline(always)]
    fn with_held<R>(&mut self, ticket: u32, f: impl FnOnce(&mut HeldFragment) -> R) -> Option<R> {
        let slot = HELD_FRAGMENTS.get_ptr_mut(ticket & (HeldFragment::SLOTS - 1))?;
        // SAFETY: a look-up's pointer to plain data. Who has the ticket writes,
        // and its number tells others whether they are too late.
        Some(f(unsafe { &mut *slot }))
    }

    #[inline(always)]
    fn may_answer(&mut self, id: EndpointId, now: Ticks) -> bool {
        let Some(count) = ERROR_COUNTS.get_ptr_mut(id.index()) else {
            return false;
        };
        // SAFETY: a look-up's pointer to plain data. Two CPUs at once may count
        // one error too few, which does no harm.
        unsafe {
            match count.read().one_more(now) {
                Some(more) => {
                    count.write(more);
                    true
                }
                None => false,
            }
        }
    }

    #[inline(always)]
    fn uplink(&self, ifindex: u32) -> Option<InMap<Uplink>> {
        found(UPLINKS.get_ptr(ifindex))
    }

    #[inline(always)]
    fn any_uplink<F: FnMut(u32) -> bool>(&self, is_it: F) -> bool {
        let mut search = UplinkSearch { is_it, is_found: false };
        // SAFETY: the callback has the signature that the helper calls for this map, with
        // a context that is what it takes it for and outlives the search.
        unsafe {
            bpf_for_each_map_elem(
                (&raw const UPLINKS).cast_mut().cast(),
                look_at_uplink::<F> as *mut c_void,
                (&raw mut search).cast(),
                0,
            );
        }
        search.is_found
    }

    #[inline(always)]
    fn is_private(&self, addr: Ipv4) -> bool {
        SUBNETS.get(&Key::new(32, addr)).is_some()
    }

    #[inline(always)]
    fn next_hop(&self, slot: u16) -> NextHop {
        let words = match NEXT_HOPS.get_ptr(u32::from(slot)) {
            // SAFETY: a look-up's pointer. Each word is read once, so that what
            // `NextHop::is` checks is what is used.
            Some(place) => unsafe {
                [
                    (&raw const (*place)[0]).read_volatile(),
                    (&raw const (*place)[1]).read_volatile(),
                    (&raw const (*place)[2]).read_volatile(),
                    (&raw const (*place)[3]).read_volatile(),
                ]
            },
            None => [0; 4],
        };
        // SAFETY: `NextHop` is repr(C) of the same size and alignment, without
        // padding, and any bytes are one.
        unsafe { core::mem::transmute::<[u64; 4], NextHop>(words) }
    }

    #[inline(always)]
    fn set_next_hop(&mut self, slot: u16, next_hop: NextHop) {
        // SAFETY: the inverse of the above.
        let words = unsafe { core::mem::transmute::<NextHop, [u64; 4]>(next_hop) };
        if let Some(place) = NEXT_HOPS.get_ptr_mut(u32::from(slot)) {
            // SAFETY: a look-up's pointer; words are written whole, and a reader
            // that sees some of another next hop rejects them by their tags.
            unsafe {
                (&raw mut (*place)[0]).write_volatile(words[0]);
                (&raw mut (*place)[1]).write_volatile(words[1]);
                (&raw mut (*place)[2]).write_volatile(words[2]);
                (&raw mut (*place)[3]).write_volatile(words[3]);
            }
        }
    }

    #[inline(always)]
    fn published(&self, index: u32) -> Option<InMap<PublishEntry>> {
        found(PUBLISH.get_ptr(index))
    }

    #[inline(always)]
    fn published_word(&self, index: u32) -> u64 {
        found(PUBLISHED_PORTS.get_ptr(index)).map_or(0, |word| *word)
    }

    #[inline(always)]
    fn count(&mut self, id: EndpointId, counter: Counter, bytes: u32) {
        add_to_rows(id, word::unknown(Counters::packets_row(counter)), [1, bytes.into()]);
    }

    #[inline(always)]
    fn count_drop(&mut self, id: EndpointId, reason: DropReason) {
        add_to_rows(id, word::unknown(Counters::drop_row(reason)), [1]);
    }
}
