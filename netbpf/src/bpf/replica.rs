//! The flows of one table, carried over to another while packets pass.
//!
//! All of them are copied while the old programs go on, and what has changed meanwhile
//! once more, until little does. Then the new programs take the attachments over: flows
//! that are in the new table go on at once, but none is made as long as that is held
//! ([`Config::max_flows`]). What the old programs have done since the last look is added to
//! what the new ones do, and the table let go.
//!
//! Counts of flows and owners of ports are in maps that both have, and nothing here changes
//! them: a flow is one flow, whichever table it is in.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::Path,
};

use foldhash::fast::RandomState;
use netbpf_common::{
    Config, Flow, FlowVisit, Seen, Tally, Ticks, Tuple,
    maps::{ConfigMap, FlowQueue, Flows, MapDef as _},
};

use super::{
    Map, convert,
    map::{Queue, Raw},
    rcu,
};
use crate::error::{Error, Result};

/// How often what has changed is copied at most while the old programs run: where much
/// changes all the time, once more does not help.
const MOST_ROUNDS: usize = 4;
/// So little that one round more would not leave less.
const FEW: usize = 512;

/// What is known of an entry that was copied.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Copied {
    /// Tells a flow from a later one of the same tuple.
    created: Ticks,
    /// Each packet changes it, and but by a packet no entry changes.
    tally: Tally,
    is_reply: bool,
}

impl Copied {
    fn of(flow: &Flow) -> Self {
        Self { created: flow.created, tally: flow.tally, is_reply: flow.kind.is_reply() }
    }
}

/// What is known of an entry, and the round in which it was last seen in the old table.
type Known = HashMap<Tuple, (Copied, usize), RandomState>;

/// The table that flows are copied from.
enum Source {
    /// One of this layout.
    Same(Map<Flows>),
    /// One of an older version.
    Older(Raw, u32),
}

impl Source {
    fn open(pin_dir: &Path, version: u32) -> Result<Self> {
        if convert::has_other_flows(version) {
            Ok(Self::Older(Raw::open(pin_dir, Flows::NAME)?, version))
        } else {
            Map::open(pin_dir).map(Self::Same)
        }
    }

    /// Calls `visit` with all entries, as they are in this layout, some at a time.
    fn for_each_batch(&self, mut visit: impl FnMut(&[Tuple], &[Flow]) -> Result<()>) -> Result<()> {
        let (raw, version) = match self {
            Self::Same(map) => return map.for_each_batch(visit),
            Self::Older(raw, version) => (raw, *version),
        };
        let mut entry = convert::Entry::default();
        raw.for_each_batch(|keys, values| {
            let (mut tuples, mut flows) = (Vec::new(), Vec::new());
            for (key, value) in keys.zip(values) {
                entry.key.clear();
                entry.key.extend_from_slice(key);
                entry.value.clear();
                entry.value.extend_from_slice(value);
                let (tuple, flow) = convert::flow(version, &mut entry).ok_or_else(|| {
                    Error::failed("the flows cannot be converted")
                        .because(format!("they are not laid out as those of version {version}"))
                })?;
                tuples.push(tuple);
                flows.push(flow);
            }
            visit(&tuples, &flows)
        })
    }
}

/// A table of flows and its copy.
pub struct Replica {
    old: Source,
    new: Map<Flows>,
    queue: Queue<FlowQueue>,
    known: Known,
    round: usize,
    /// Whether another run has begun it, which knew what it had copied.
    is_resumed: bool,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

impl Replica {
    fn open((old, version): (&Path, u32), new: &Path, is_resumed: bool) -> Result<Self> {
        let old = Source::open(old, version)?;
        let (queue, new) = (Queue::open(new)?, Map::open(new)?);
        Ok(Self { old, new, queue, known: Known::default(), round: 0, is_resumed })
    }

    /// Copies the flows of the datapath in one directory, which is of that version, to the
    /// empty table of that in another, while the programs of the former run.
    ///
    /// # Errors
    /// There is no room, or the kernel's.
    pub(super) fn begin(old: (&Path, u32), new: &Path) -> Result<Self> {
        let mut replica = Self::open(old, new, false)?;
        for _ in 0..MOST_ROUNDS {
            if replica.copy_changed()? < FEW {
                break;
            }
        }
        replica.remind(|_| true)?;
        Ok(replica)
    }

    /// Goes on with what a run that was killed had copied.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn resume(old: (&Path, u32), new: &Path) -> Result<Self> {
        Self::open(old, new, true)
    }

    /// Copies what is not as it was when it was copied; returns how much that was.
    fn copy_changed(&mut self) -> Result<usize> {
        self.round += 1;
        let Self { old, new, known, round, .. } = self;
        let mut changed = 0;
        old.for_each_batch(|keys, flows| {
            let is_changed = |&(key, flow): &(&Tuple, &Flow)| {
                let now = Copied::of(flow);
                known.insert(*key, (now, *round)).is_none_or(|(before, _)| before != now)
            };
            let (keys, flows): (Vec<Tuple>, Vec<Flow>) =
                keys.iter().zip(flows).filter(is_changed).unzip();
            changed += keys.len();
            new.set_all(&keys, &flows).map_err(no_room)
        })?;
        for key in self.forget_gone() {
            self.new.remove(&key)?;
            changed += 1;
        }
        Ok(changed)
    }

    /// The keys of entries that were known, and that the last round has not seen.
    fn forget_gone(&mut self) -> Vec<Tuple> {
        let gone = self.known.iter().filter(|(_, (_, round))| *round != self.round);
        let gone: Vec<Tuple> = gone.map(|(key, _)| *key).collect();
        for key in &gone {
            self.known.remove(key);
        }
        gone
    }

    /// Has the flows that are chosen by their opening direction's key looked at for expiry.
    fn remind(&self, is_chosen: impl Fn(&Tuple) -> bool) -> Result<()> {
        for (tuple, (Copied { created, is_reply, .. }, _)) in &self.known {
            if !is_reply && is_chosen(tuple) {
                let (tuple, created) = (*tuple, *created);
                self.queue.push(&FlowVisit { tuple, created, due: created }).map_err(no_room)?;
            }
        }
        Ok(())
    }

    /// Carries over what the old programs have done since, and lets the new table go, which
    /// then holds `max_flows`. All packets must go by the new programs already.
    ///
    /// # Errors
    /// There is no room, or the kernel's.
    pub(super) fn finish(mut self, config: &Map<ConfigMap>, max_flows: u32) -> Result<()> {
        rcu::wait_for_programs();
        self.round += 1;
        let mut made: Vec<(Tuple, Flow)> = Vec::new();
        let Self { old, new, known, round, .. } = &mut self;
        old.for_each_batch(|keys, flows| {
            for (key, flow) in keys.iter().zip(flows) {
                let now = Copied::of(flow);
                let before = known.insert(*key, (now, *round)).map(|(before, _)| before);
                if before == Some(now) {
                    continue;
                }
                match new.get(key)? {
                    Some(mine) => {
                        let before = before.map(|before| before.tally);
                        new.replace(key, &merged(&mine, before, flow))?;
                    }
                    None if before.is_none() => made.push((*key, *flow)),
                    // The new programs have ended it meanwhile.
                    None => {}
                }
            }
            Ok(())
        })?;
        // The answering direction first, as everywhere: it comes before who would send.
        made.sort_by_key(|(_, flow)| !flow.kind.is_reply());
        for (key, flow) in &made {
            self.new.insert(key, flow).map_err(no_room)?;
        }
        let mut gone = self.forget_gone();
        if self.is_resumed {
            gone = self.unknown()?;
            while self.queue.pop()?.is_some() {}
            self.remind(|_| true)?;
        } else {
            let made: HashSet<Tuple, RandomState> = made.iter().map(|(key, _)| *key).collect();
            self.remind(|key| made.contains(key))?;
        }
        for key in &gone {
            self.new.remove(key)?;
        }
        let now = config.get(&0)?.unwrap_or_default();
        config.set(&0, &Config { max_flows, ..now })
    }

    /// The keys of the new table that the old one has not.
    fn unknown(&self) -> Result<Vec<Tuple>> {
        let mut unknown = Vec::new();
        self.new.for_each(|key, _| {
            unknown.extend((!self.known.contains_key(key)).then_some(*key));
            Ok(())
        })?;
        Ok(unknown)
    }
}

/// Why flows do not go over.
fn no_room(error: Error) -> Error {
    Error::failed("not all flows go into the new table")
        .because(error)
        .hint("choose a larger one with --max-flows, or end some: netbpf maps flows flush --ns NS")
}

/// An entry of the new table with what the old programs have done to theirs since it was
/// copied, when it had that tally; if that is not known, the one of which there is more is
/// taken for the later one.
fn merged(mine: &Flow, copied: Option<Tally>, theirs: &Flow) -> Flow {
    let is_untouched = copied
        .map_or(mine.tally.packets() <= theirs.tally.packets(), |copied| mine.tally == copied);
    if mine.created != theirs.created || is_untouched {
        return *theirs;
    }
    let since = |of: fn(&Tally) -> u64| {
        of(&mine.tally) + copied.map_or(0, |copied| of(&theirs.tally).saturating_sub(of(&copied)))
    };
    let is_later = mine.last_seen.since(theirs.last_seen).0 > 0;
    Flow {
        tally: Tally::of(since(Tally::packets), since(Tally::bytes)),
        last_seen: if is_later { mine.last_seen } else { theirs.last_seen },
        seen: Seen(mine.seen.0 | theirs.seen.0),
        // A packet that ends a connection acknowledges, too: the later one counts.
        tcp_ack: if mine.tcp_ack == 0 { theirs.tcp_ack } else { mine.tcp_ack },
        ..*mine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(packets: u64, last_seen: u32, seen: u8) -> Flow {
        Flow {
            tally: Tally::of(packets, 100 * packets),
            created: Ticks(7),
            last_seen: Ticks(last_seen),
            seen: Seen(seen),
            ..Flow::default()
        }
    }

    #[test]
    fn what_both_have_counted_is_counted_once() {
        let copied = flow(10, 100, Seen::ANY);
        // Two packets more by the old programs, then three by the new ones.
        let theirs = flow(12, 101, Seen::ANY | Seen::FIN);
        let mine = Flow { tcp_ack: 5, ..flow(13, 102, Seen::ANY | Seen::ACK) };
        let merged = merged(&mine, Some(copied.tally), &theirs);
        assert_eq!((merged.tally.packets(), merged.tally.bytes()), (15, 1500));
        assert_eq!((merged.last_seen, merged.tcp_ack), (Ticks(102), 5));
        assert_eq!(merged.seen, Seen(Seen::ANY | Seen::FIN | Seen::ACK));
    }

    #[test]
    fn what_only_one_has_touched_is_as_they_have_it() {
        let copied = flow(10, 100, Seen::ANY | Seen::FIN);
        // The same ports again: what was seen before does not count any more.
        let theirs = flow(12, 101, Seen::ANY | Seen::SYN);
        assert_eq!(merged(&copied, Some(copied.tally), &theirs), theirs);
        let anew = Flow { created: Ticks(9), ..flow(1, 102, Seen::ANY) };
        assert_eq!(merged(&flow(13, 102, 0), Some(copied.tally), &anew), anew);
    }

    #[test]
    fn of_what_a_killed_run_has_copied_more_is_later() {
        let (less, more) = (flow(10, 100, Seen::ANY), flow(12, 101, Seen::ANY | Seen::FIN));
        assert_eq!(merged(&less, None, &more), more);
        let kept = merged(&more, None, &less);
        assert_eq!((kept.tally, kept.seen), (more.tally, more.seen));
    }
}
