//! What of the flow table is not as the datapath makes it: found, and put right.
//!
//! Packets make and end flows meanwhile, and of one that is just made or ended there may be
//! half. So what looks broken is looked at once more, a moment later. What is not seen are
//! the reminders of `FLOW_QUEUE`, which can only be taken out of it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    thread,
    time::Duration,
};

use foldhash::fast::RandomState;
use netbpf_common::{
    EndpointId, Flow, FlowKind, MacAddr, PortOwner, Ticks, Tuple,
    maps::{FlowCounts, Flows, OutsidePorts},
};

use super::{Datapath, FlowHead, Map, clock};
use crate::error::Result;

/// How long the second look at a flow waits: longer than it takes to make or to end one.
const MOMENT: Duration = Duration::from_millis(20);

/// How long another count waits: so long that what was new is so no more.
const WHILE: Duration = Duration::from_millis(Ticks(3).as_millis());

/// How often flows that seem to be counted wrong are counted.
const LOOKS: usize = 3;

/// How often wrong counts are put right before those of many packets are left as they are.
const COUNTS: usize = 4;

/// What is amiss with an entry of the flow table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Flaw {
    /// There is none of its other direction.
    Half,
    /// That of the other direction tells another flow.
    Differs,
    /// It is of an endpoint that there is not.
    NoEndpoint,
    /// It leaves by an uplink that there is not.
    NoUplink,
}

/// An endpoint whose flows are counted wrong; [`EndpointId::NONE`] for all together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Miscount {
    /// Which one.
    pub endpoint: EndpointId,
    /// What `FLOW_COUNTS` has.
    pub counted: u64,
    /// Flows that there are.
    pub flows: u64,
    /// By how many it may seem so because some came and went meanwhile.
    tolerance: u64,
}

/// What of the flow table is not as the datapath makes it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Flaws {
    /// Broken flows: keys of their entries, by what is amiss with them. Of one whose two
    /// entries know each other that of the opening direction is there.
    pub broken: BTreeMap<Flaw, Vec<Tuple>>,
    /// Endpoints whose flows are counted wrong.
    pub miscounted: Vec<Miscount>,
}

/// Where flows may lead.
#[derive(Clone, Default, Debug)]
pub struct Places {
    /// The endpoints that there are.
    pub endpoints: HashSet<u16>,
    /// Interface indexes of the uplinks that there are.
    pub uplinks: HashSet<u32>,
}

impl Places {
    /// What is amiss with a flow by what its entry tells of them.
    fn flaw(&self, entry: &Flow) -> Option<Flaw> {
        let Flow { endpoint, uplink, kind, .. } = *entry;
        if !(kind.is_host() && endpoint == EndpointId::HOST || self.endpoints.contains(&endpoint.0))
        {
            return Some(Flaw::NoEndpoint);
        }
        let is_there = uplink == Flow::LOOPBACK || self.uplinks.contains(&uplink);
        (!is_there).then_some(Flaw::NoUplink)
    }
}

/// What both entries of a flow have alike, or the one the other way round.
#[derive(Clone, Copy)]
struct Half {
    key: Tuple,
    created: Ticks,
    deltas: [u16; 2],
    endpoint: EndpointId,
    kind: FlowKind,
    mac: MacAddr,
}

impl Half {
    fn of(key: &Tuple, entry: &Flow) -> Self {
        let Flow { created, addr_delta, port_delta, endpoint, kind, mac, .. } = *entry;
        Self { key: *key, created, deltas: [addr_delta, port_delta], endpoint, kind, mac }
    }

    /// Whether that is the other direction of the same flow. Each asks for its way by
    /// itself, so that this is no part of it.
    fn mirrors(&self, other: &Self) -> bool {
        let kinds = (self.kind.0 ^ other.kind.0) & !FlowKind::NARROW;
        // What one direction adds to a checksum, the other one takes off again (RFC 1624).
        let is_undone =
            |(one, other): (u16, u16)| (u32::from(one) + u32::from(other)) % 0xffff == 0;
        kinds == FlowKind::REPLY | FlowKind::TO_ENDPOINT
            && (self.endpoint, self.created, self.mac) == (other.endpoint, other.created, other.mac)
            && self.deltas.into_iter().zip(other.deltas).all(is_undone)
    }
}

/// How many flows of an endpoint were seen, and how many of them are as new as the look.
#[derive(Clone, Copy, Default)]
struct Tally {
    all: u64,
    new: u64,
}

/// Keys of entries that look broken, with the times when they were made.
type Suspects = Vec<(Tuple, Ticks)>;

/// A walk over the table.
struct Look<'a> {
    /// Nothing if flows are only counted.
    places: Option<&'a Places>,
    /// When it began.
    began: Ticks,
    /// Entries by the keys of those that they wait for.
    waiting: HashMap<Tuple, Half, RandomState>,
    suspects: Suspects,
    tallies: HashMap<EndpointId, Tally>,
}

impl Look<'_> {
    fn take(&mut self, key: &Tuple, entry: &Flow) {
        if !entry.kind.is_reply() {
            self.count(entry);
        }
        let Some(places) = self.places else { return };
        let (half, partner) = (Half::of(key, entry), entry.partner(key.proto));
        if places.flaw(entry).is_some() {
            self.suspects.push((*key, entry.created));
        }
        let Some(other) = self.waiting.remove(key) else {
            if let Some(rival) = self.waiting.insert(partner, half) {
                self.suspects.push((rival.key, rival.created));
            }
            return;
        };
        if other.key != partner || !half.mirrors(&other) {
            self.suspects.extend([(half.key, half.created), (other.key, other.created)]);
        }
    }

    fn count(&mut self, entry: &Flow) {
        // The datapath's clock may be a tick behind.
        let is_new = self.began.since(entry.created).0 <= 1;
        for id in [entry.endpoint, EndpointId::NONE] {
            let tally = self.tallies.entry(id).or_default();
            tally.all += 1;
            tally.new += u64::from(is_new);
        }
    }
}

impl Datapath {
    /// What of the flow table is not as the datapath makes it. A million flows take
    /// seconds, and up to three times as long if they are counted wrong or packets make it
    /// seem so.
    ///
    /// # Errors
    /// What the maps say.
    pub fn flaws(&self, places: &Places) -> Result<Flaws> {
        let (suspects, counts) = self.look(Some(places))?;
        if suspects.is_empty() && counts.is_empty() {
            return Ok(Flaws::default());
        }
        thread::sleep(MOMENT);
        let mut flaws = Flaws::default();
        let flows: Map<Flows> = self.map()?;
        let mut told = HashSet::new();
        for (key, created) in suspects {
            if !told.insert(key) {
                continue;
            }
            let Some(entry) = flows.get(&key)?.filter(|entry| entry.created == created) else {
                continue;
            };
            if let Some(flaw) = flaw(&flows, &key, &entry, places)? {
                flaws.broken.entry(flaw).or_default().push(key);
            }
        }
        flaws.miscounted = self.miscounted(counts)?;
        Ok(flaws)
    }

    /// What is counted wrong of what seems so: each time that one looks, and by more than
    /// packets can make it seem.
    fn miscounted(&self, mut wrong: Vec<Miscount>) -> Result<Vec<Miscount>> {
        for _ in 1..LOOKS {
            if wrong.is_empty() {
                break;
            }
            thread::sleep(WHILE);
            let is_more = |one: &Miscount| one.counted > one.flows;
            let (_, mut now) = self.look(None)?;
            now.retain(|now| {
                let mut then = wrong.iter();
                now.flows.abs_diff(now.counted) > now.tolerance
                    && then
                        .any(|then| then.endpoint == now.endpoint && is_more(then) == is_more(now))
            });
            wrong = now;
        }
        Ok(wrong)
    }

    /// Looks once: at what seems broken, if it is told where flows may lead, and at counts.
    fn look(&self, places: Option<&Places>) -> Result<(Suspects, Vec<Miscount>)> {
        let mut look = Look {
            places,
            began: clock::now()?,
            waiting: HashMap::default(),
            suspects: Vec::new(),
            tallies: HashMap::new(),
        };
        let before = self.counts()?;
        self.for_each_entry(|key, entry| {
            look.take(key, entry);
            Ok(())
        })?;
        let after = self.counts()?;
        let Look { waiting, mut suspects, tallies, .. } = look;
        suspects.extend(waiting.into_values().map(|half| (half.key, half.created)));
        let ids: HashSet<EndpointId> =
            tallies.keys().chain(before.keys()).chain(after.keys()).copied().collect();
        let mut counts = Vec::new();
        for endpoint in ids {
            let of =
                |all: &HashMap<EndpointId, u64>| all.get(&endpoint).copied().unwrap_or_default();
            let (before, counted) = (of(&before), of(&after));
            let Tally { all: flows, new } = tallies.get(&endpoint).copied().unwrap_or_default();
            // As many as came meanwhile may have come unseen, and as many may have gone. Of
            // what is at rest it has to be the very number.
            let tolerance = 4 * new + counted.abs_diff(before);
            if flows != counted {
                counts.push(Miscount { endpoint, counted, flows, tolerance });
            }
        }
        counts.sort_unstable();
        Ok((suspects, counts))
    }

    /// How many flows each endpoint has, as it is counted.
    fn counts(&self) -> Result<HashMap<EndpointId, u64>> {
        let mut counts = HashMap::new();
        self.map::<FlowCounts>()?.for_each(|id, &count| {
            if let Ok(id) = u16::try_from(*id)
                && count != 0
            {
                counts.insert(EndpointId(id), count);
            }
            Ok(())
        })?;
        Ok(counts)
    }

    /// Ends broken flows, given the keys of their entries; returns how many. Their counts
    /// may be wrong then: [`Datapath::count_again`].
    ///
    /// As far as it can the datapath itself removes them, since it gives their ports back.
    /// It knows a flow by the entry of its opening direction: where that is missing, it is
    /// made once more for that.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn end_broken(&self, entries: &[Tuple]) -> Result<u64> {
        let flows: Map<Flows> = self.map()?;
        let ports: Map<OutsidePorts> = self.map()?;
        let mut heads = HashSet::new();
        let mut openings = Vec::new();
        for key in entries {
            let Some(entry) = flows.get(key)? else { continue };
            heads.insert(FlowHead::of(key, &entry).tuple);
            if !entry.kind.is_reply() {
                let kind = without_anothers_port(&ports, key, &entry)?;
                if kind != entry.kind {
                    flows.set(key, &Flow { kind, ..entry })?;
                }
                openings.push(*key);
            }
        }
        self.remove_flows(&openings)?;
        openings.clear();
        for key in entries {
            let left = flows.get(key)?.filter(|entry| entry.kind.is_reply());
            let Some(entry) = left else { continue };
            let (opening, mut again) = (entry.partner(key.proto), opened(key, &entry));
            again.kind = without_anothers_port(&ports, &opening, &again)?;
            if flows.insert(&opening, &again)? {
                openings.push(opening);
            } else {
                flows.remove(key)?;
            }
        }
        self.remove_flows(&openings)?;
        Ok(heads.len() as u64)
    }

    /// Puts the counts of flows right. Packets count meanwhile, and what one counts in the
    /// very moment in which a count is written is lost; so it is looked at again.
    ///
    /// # Errors
    /// What the maps say.
    pub fn count_again(&self) -> Result<()> {
        let counts: Map<FlowCounts> = self.map()?;
        for _ in 0..COUNTS {
            let wrong = self.miscounted(self.look(None)?.1)?;
            if wrong.is_empty() {
                break;
            }
            for Miscount { endpoint, counted, flows, .. } in wrong {
                let now = counts.get(&endpoint.index())?.unwrap_or_default();
                let right = now.wrapping_sub(counted).wrapping_add(flows);
                counts.set(&endpoint.index(), &right)?;
            }
        }
        Ok(())
    }
}

/// What is amiss with an entry now.
fn flaw(flows: &Map<Flows>, key: &Tuple, entry: &Flow, places: &Places) -> Result<Option<Flaw>> {
    let partner = entry.partner(key.proto);
    let Some(other) = flows.get(&partner)?.filter(|other| other.partner(key.proto) == *key) else {
        return Ok(Some(Flaw::Half));
    };
    // Such a flow is told of once.
    let is_second = entry.kind.is_reply() && !other.kind.is_reply();
    let differs = !Half::of(key, entry).mirrors(&Half::of(&partner, &other));
    let flaw = if differs { Some(Flaw::Differs) } else { places.flaw(entry) };
    // Each direction has its own uplink.
    let is_told = is_second && (flaw != Some(Flaw::NoUplink) || places.flaw(&other) == flaw);
    Ok(flaw.filter(|_| !is_told))
}

/// The kind of a flow, given the entry of its opening direction; without the port that it
/// says to hold, if that is not its own.
fn without_anothers_port(ports: &Map<OutsidePorts>, key: &Tuple, entry: &Flow) -> Result<FlowKind> {
    let index = PortOwner::index(key.proto, entry.translated.sport.number());
    let owner = index.map(|index| ports.get(&index)).transpose()?.flatten().unwrap_or_default();
    let is_own = owner.flows() > 0 && owner.is(PortOwner::new(key.saddr, key.sport));
    Ok(if is_own { entry.kind } else { FlowKind(entry.kind.0 & !FlowKind::OWNS_PORT) })
}

/// The entry of the opening direction, given that of the answering one.
fn opened(key: &Tuple, reply: &Flow) -> Flow {
    Flow {
        translated: key.reversed().into(),
        kind: FlowKind(reply.kind.0 ^ (FlowKind::REPLY | FlowKind::TO_ENDPOINT)),
        ..*reply
    }
}
