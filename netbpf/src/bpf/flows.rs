//! Flows: walking over them and ending them.

use std::{
    collections::{HashMap, hash_map::Entry},
    panic::resume_unwind,
    sync::mpsc,
    thread,
};

use foldhash::fast::RandomState;
use netbpf_common::{
    EndpointId, Flow, Translation, Tuple,
    maps::{FlowCounts, Flows},
};

use super::{Datapath, Map};
use crate::error::{Error, Result};

/// Tuples that one run of the datapath's `flush_flows` takes.
const FLUSH_BATCH: usize = 64;

/// What both entries of a flow tell alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowHead {
    /// The opening packet's addresses and ports: the key of the opening direction.
    pub tuple: Tuple,
    /// What they become.
    pub translated: Translation,
    /// The namespace whose flow it is.
    pub endpoint: EndpointId,
    /// Whether a published port made it.
    pub is_dnat: bool,
    /// Interface index of the uplink.
    pub uplink: u32,
}

impl FlowHead {
    /// What the entry of either direction tells.
    #[must_use]
    pub fn of(key: &Tuple, entry: &Flow) -> Self {
        let (tuple, translated) = if entry.kind.is_reply() {
            (entry.partner(key.proto), key.reversed().into())
        } else {
            (*key, entry.translated)
        };
        let (endpoint, uplink) = (entry.endpoint, entry.uplink);
        Self { tuple, translated, endpoint, is_dnat: entry.kind.is_dnat(), uplink }
    }
}

/// A flow: both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowRow {
    /// What both tell alike.
    pub head: FlowHead,
    /// The opening direction.
    pub original: Flow,
    /// The answering direction. All zero in the moment in which a flow comes or goes.
    pub reply: Flow,
}

/// Finds the two entries of each flow in a stream of all.
///
/// Entries come in the order of their hashes, that is in none: at most about
/// half of the flows wait for their second entry at a time. A look-up of each
/// partner in the kernel takes four times as long.
#[derive(Default)]
struct Pairs {
    waiting: HashMap<Tuple, Flow, RandomState>,
}

impl Pairs {
    /// Takes an entry; returns the flow if it is complete now.
    fn take(&mut self, head: FlowHead, entry: &Flow) -> Option<FlowRow> {
        match self.waiting.entry(head.tuple) {
            Entry::Occupied(other) if other.get().kind.is_reply() != entry.kind.is_reply() => {
                let other = other.remove();
                let (original, reply) =
                    if entry.kind.is_reply() { (other, *entry) } else { (*entry, other) };
                Some(FlowRow { head, original, reply })
            }
            other => {
                // A second one of the same direction is a flow that has come anew.
                other.insert_entry(*entry);
                None
            }
        }
    }

    /// The flows of which only the opening direction was seen.
    fn rest(self) -> impl Iterator<Item = FlowRow> {
        let originals = self.waiting.into_iter().filter(|(_, entry)| !entry.kind.is_reply());
        originals.map(|(tuple, original)| {
            let head = FlowHead::of(&tuple, &original);
            FlowRow { head, original, reply: Flow::default() }
        })
    }
}

/// Batches that the reading thread may be ahead.
const AHEAD: usize = 16;

impl Datapath {
    /// Live flows of the endpoint; of all together for [`EndpointId::NONE`].
    ///
    /// # Errors
    /// What the map says.
    pub fn flow_count(&self, id: EndpointId) -> Result<u64> {
        Ok(self.map::<FlowCounts>()?.get(&id.index())?.unwrap_or_default())
    }

    /// Calls `visit` with every flow for which `wanted` says so.
    ///
    /// The kernel is asked by a thread of its own, so that it works while
    /// `visit` does.
    ///
    /// # Errors
    /// What the map says, and the first error of `visit`, which ends the walk.
    pub fn for_each_flow(
        &self,
        wanted: impl Fn(&FlowHead) -> bool,
        mut visit: impl FnMut(&FlowRow) -> Result<()>,
    ) -> Result<()> {
        let flows: Map<Flows> = self.map()?;
        let (sender, batches) = mpsc::sync_channel::<Vec<(Tuple, Flow)>>(AHEAD);
        let read = move || {
            flows.for_each_batch(|keys, entries| {
                let batch = keys.iter().copied().zip(entries.iter().copied()).collect();
                // Nobody listens any longer: `visit` has failed, and tells why.
                sender.send(batch).map_err(|_| Error::failed("the flows are not wanted any longer"))
            })
        };
        thread::scope(move |scope| {
            // Gone before the scope waits for the reader, which it would keep waiting.
            let batches = batches;
            let reader = scope.spawn(read);
            let mut pairs = Pairs::default();
            for (key, entry) in batches.iter().flatten() {
                let head = FlowHead::of(&key, &entry);
                if wanted(&head) {
                    pairs.take(head, &entry).map_or(Ok(()), |row| visit(&row))?;
                }
            }
            reader.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            pairs.rest().try_for_each(|row| visit(&row))
        })
    }

    /// Ends every flow for which `wanted` says so; returns how many.
    ///
    /// The datapath itself removes them, both directions and their count: it
    /// alone knows how while packets arrive.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn flush(&self, wanted: impl Fn(&FlowHead) -> bool) -> Result<u64> {
        // An empty table is half a million buckets long, and often empty.
        if self.flow_count(EndpointId::NONE)? == 0 {
            return Ok(0);
        }
        let mut doomed: Vec<Tuple> = Vec::new();
        self.map::<Flows>()?.for_each(|tuple, flow| {
            if !flow.kind.is_reply() && wanted(&FlowHead::of(tuple, flow)) {
                doomed.push(*tuple);
            }
            Ok(())
        })?;
        let mut removed = 0;
        for batch in doomed.chunks(FLUSH_BATCH) {
            let keys: Vec<u8> = batch.iter().flat_map(|tuple| bytes_of(*tuple)).collect();
            removed += u64::from(self.run("flush_flows", &keys)?);
        }
        Ok(removed)
    }
}

/// A tuple as it lies in memory on both sides.
fn bytes_of(tuple: Tuple) -> [u8; size_of::<Tuple>()] {
    let mut bytes = [0; size_of::<Tuple>()];
    bytes[0..4].copy_from_slice(&tuple.saddr.octets());
    bytes[4..8].copy_from_slice(&tuple.daddr.octets());
    bytes[8..10].copy_from_slice(&tuple.sport.bytes());
    bytes[10..12].copy_from_slice(&tuple.dport.bytes());
    bytes[12] = tuple.proto;
    bytes
}

#[cfg(test)]
mod tests {
    use netbpf_common::{FlowKind, Ipv4, Port, proto};

    use super::*;

    /// The two entries of a flow: 172.19.0.2:40000 to 203.0.113.2:80, by way of
    /// 203.0.113.1:50000.
    fn entries() -> [(Tuple, Flow); 2] {
        let tuple = Tuple {
            saddr: Ipv4::new([172, 19, 0, 2]),
            daddr: Ipv4::new([203, 0, 113, 2]),
            sport: Port::new(40000),
            dport: Port::new(80),
            proto: proto::TCP,
            pad: [0; 3],
        };
        let translated = Translation {
            saddr: Ipv4::new([203, 0, 113, 1]),
            sport: Port::new(50000),
            ..Translation::from(tuple)
        };
        let common = Flow { endpoint: EndpointId(3), uplink: 7, ..Flow::default() };
        let original = Flow { translated, packets: 5, kind: FlowKind::SNAT_ORIGINAL, ..common };
        let reply = Flow {
            translated: tuple.reversed().into(),
            packets: 4,
            kind: FlowKind::SNAT_REPLY,
            ..common
        };
        [(tuple, original), (original.partner(proto::TCP), reply)]
    }

    #[test]
    fn both_entries_of_a_flow_tell_the_same() {
        let [(key, original), (reply_key, reply)] = entries();
        let head = FlowHead::of(&key, &original);
        assert_eq!(head, FlowHead::of(&reply_key, &reply));
        assert_eq!((head.tuple, head.translated), (key, original.translated));
    }

    #[test]
    fn a_flow_is_complete_with_its_second_entry_whichever_that_is() {
        let mut both = entries();
        for _ in 0..2 {
            let mut pairs = Pairs::default();
            let [first, second] = both.map(|(key, flow)| (FlowHead::of(&key, &flow), flow));
            assert_eq!(pairs.take(first.0, &first.1), None);
            let row = pairs.take(second.0, &second.1).expect("complete");
            assert_eq!((row.original.packets, row.reply.packets), (5, 4));
            assert_eq!(pairs.rest().count(), 0);
            both.reverse();
        }
    }

    #[test]
    fn a_flow_without_reply_comes_last() {
        let [(key, original), (reply_key, reply)] = entries();
        let mut pairs = Pairs::default();
        assert_eq!(pairs.take(FlowHead::of(&key, &original), &original), None);
        let row = pairs.rest().next().expect("the opening direction");
        assert_eq!((row.original.packets, row.reply), (5, Flow::default()));
        let mut pairs = Pairs::default();
        assert_eq!(pairs.take(FlowHead::of(&reply_key, &reply), &reply), None);
        assert_eq!(pairs.rest().next(), None, "nothing to show");
    }

    #[test]
    fn a_tuple_goes_to_the_kernel_as_it_stands_in_the_map() {
        let tuple = Tuple {
            saddr: Ipv4::new([172, 19, 0, 2]),
            daddr: Ipv4::new([203, 0, 113, 2]),
            sport: Port::new(40000),
            dport: Port::new(80),
            proto: proto::TCP,
            pad: [0; 3],
        };
        let expected = [172, 19, 0, 2, 203, 0, 113, 2, 0x9c, 0x40, 0, 80, proto::TCP, 0, 0, 0];
        assert_eq!(bytes_of(tuple), expected);
    }
}
