//! Flows: walking over them and ending them.

use std::{
    collections::{HashMap, hash_map::Entry},
    panic::resume_unwind,
    sync::mpsc,
    thread,
};

use foldhash::fast::RandomState;
use netbpf_common::{
    EndpointId, Flow, FlowKind, FlowState, KnownFlow, Seen, Ticks, Timeouts, Translation, Tuple,
    maps::{FLUSH_BATCH, FlowCounts, Flows, PURGE_BATCH, flow_queue_len},
};

use super::{Datapath, Map};
use crate::error::{Error, Result};

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
    /// Whether it is the host's own.
    pub is_host: bool,
    /// Interface index of the uplink; [`Flow::LOOPBACK`] if the other side is
    /// the host itself, or one of its namespaces by the host's address.
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
        let (is_dnat, is_host) = (entry.kind.is_dnat(), entry.kind.is_host());
        Self { tuple, translated, endpoint, is_dnat, is_host, uplink }
    }

    /// What made it: "snat" a namespace, "dnat" a published port, "host" the
    /// host itself.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match (self.is_host, self.is_dnat) {
            (true, _) => "host",
            (false, true) => "dnat",
            (false, false) => "snat",
        }
    }
}

/// What one direction of a flow has carried and seen. All zero for an answering
/// direction that is not there, in the moment in which a flow comes or goes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Direction {
    /// Packets translated.
    pub packets: u64,
    /// Bytes of them, without link-layer headers.
    pub bytes: u64,
    /// When the flow was made.
    pub created: Ticks,
    /// When a packet was last seen.
    pub last_seen: Ticks,
    /// What has been seen.
    pub seen: Seen,
}

impl From<&Flow> for Direction {
    fn from(entry: &Flow) -> Self {
        let Flow { tally, created, last_seen, seen, .. } = *entry;
        Self { packets: tally.packets(), bytes: tally.bytes(), created, last_seen, seen }
    }
}

/// A flow: both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowRow {
    /// What both tell alike.
    pub head: FlowHead,
    /// The opening direction.
    pub original: Direction,
    /// The answering direction.
    pub reply: Direction,
}

impl FlowRow {
    /// How far the flow is.
    #[must_use]
    pub fn state(&self) -> FlowState {
        FlowState::of(self.head.tuple.proto, self.original.seen, self.reply.seen)
    }

    /// How long the flow still lives without another packet; zero: expired, but
    /// not swept so far.
    #[must_use]
    pub fn expires_in(&self, now: Ticks, timeouts: &Timeouts) -> Ticks {
        let kind =
            if self.head.is_dnat { FlowKind::DNAT_ORIGINAL } else { FlowKind::SNAT_ORIGINAL };
        let entry = |of: Direction| Flow {
            kind,
            last_seen: of.last_seen,
            seen: of.seen,
            ..Flow::default()
        };
        let proto = self.head.tuple.proto;
        entry(self.original).expires_in(proto, &entry(self.reply), now, timeouts)
    }
}

/// A direction that waits for the other one.
#[derive(Clone, Copy)]
struct Waiting {
    direction: Direction,
    is_reply: bool,
}

/// Finds the two entries of each flow in a stream of all.
///
/// Entries come in the order of their hashes, that is in none: about half of
/// the flows wait for their second entry at a time, 48 bytes each. A look-up of
/// each partner in the kernel takes four times as long.
#[derive(Default)]
struct Pairs {
    waiting: HashMap<Tuple, Waiting, RandomState>,
}

impl Pairs {
    /// Takes an entry; returns the flow if it is complete now.
    fn take(&mut self, head: FlowHead, entry: &Flow) -> Option<FlowRow> {
        let (direction, is_reply) = (Direction::from(entry), entry.kind.is_reply());
        match self.waiting.entry(head.tuple) {
            Entry::Occupied(other) if other.get().is_reply != is_reply => {
                let other = other.remove().direction;
                let (original, reply) =
                    if is_reply { (other, direction) } else { (direction, other) };
                Some(FlowRow { head, original, reply })
            }
            other => {
                // A second one of the same direction is a flow that has come anew.
                other.insert_entry(Waiting { direction, is_reply });
                None
            }
        }
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
    /// # Errors
    /// What the map says, and the first error of `visit`, which ends the walk.
    pub fn for_each_flow(
        &self,
        wanted: impl Fn(&FlowHead) -> bool,
        mut visit: impl FnMut(&FlowRow) -> Result<()>,
    ) -> Result<()> {
        let mut pairs = Pairs::default();
        // What is left then was caught coming or going: next time it is whole, or gone.
        self.for_each_entry(|key, entry| {
            let head = FlowHead::of(key, entry);
            let row = wanted(&head).then(|| pairs.take(head, entry)).flatten();
            row.map_or(Ok(()), |row| visit(&row))
        })
    }

    /// Calls `visit` with every entry of the table.
    ///
    /// The kernel is asked by a thread of its own, so that it works while
    /// `visit` does.
    ///
    /// # Errors
    /// What the map says, and the first error of `visit`, which ends the walk.
    pub(super) fn for_each_entry(
        &self,
        mut visit: impl FnMut(&Tuple, &Flow) -> Result<()>,
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
            for (key, entry) in batches.iter().flatten() {
                visit(&key, &entry)?;
            }
            reader.join().unwrap_or_else(|panic| resume_unwind(panic))
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
        self.remove_flows(&doomed)
    }

    /// Ends flows by the keys of their opening directions; returns how many there were.
    pub(super) fn remove_flows(&self, doomed: &[Tuple]) -> Result<u64> {
        let mut removed = 0;
        for batch in doomed.chunks(FLUSH_BATCH as usize) {
            let keys: Vec<u8> = batch.iter().flat_map(|tuple| bytes_of(*tuple)).collect();
            removed += u64::from(self.run("flush_flows", &keys)?);
        }
        // Reminders of the many that are gone would leave no room for those of new ones.
        // (For a few there is room to spare.)
        if removed > u64::from(FLUSH_BATCH) {
            for _ in 0..flow_queue_len(self.config()?.max_flows).div_ceil(PURGE_BATCH) {
                self.run("flush_flows", &[])?;
            }
        }
        Ok(removed)
    }
}

impl Datapath {
    /// Goes on with flows that the kernel's connection tracking knows; returns how
    /// many there are now. Left out are those of nobody's, those by no uplink, those
    /// whose tuples are taken, and those for which there is no room.
    ///
    /// The datapath itself makes them, as it makes all others.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn adopt(&self, flows: &[KnownFlow]) -> Result<u64> {
        if flows.is_empty() {
            return Ok(0);
        }
        let mut adoption = self.load_adoption()?;
        let program = adoption.program()?;
        let mut adopted = 0;
        for batch in flows.chunks(KnownFlow::BATCH) {
            let mut packet = vec![0; super::ETHERNET_HEADER];
            packet.extend(batch.iter().flat_map(known_bytes));
            adopted += u64::from(super::run(program, "adopt_flows", &packet)?);
        }
        Ok(adopted)
    }
}

/// A known flow as the program reads it.
fn known_bytes(known: &KnownFlow) -> [u8; KnownFlow::LEN] {
    let mut bytes = [0; KnownFlow::LEN];
    let translated = bytes_of(known.translated.tuple(0));
    bytes[..16].copy_from_slice(&bytes_of(known.original));
    bytes[16..28].copy_from_slice(&translated[..12]);
    bytes[28] = known.seen.0;
    bytes[29] = known.reply_seen.0;
    bytes
}

/// A tuple as it lies in memory on both sides.
fn bytes_of(tuple: Tuple) -> [u8; size_of::<Tuple>()] {
    let mut bytes = [0; size_of::<Tuple>()];
    bytes[0..4].copy_from_slice(&tuple.saddr.octets());
    bytes[4..8].copy_from_slice(&tuple.daddr.octets());
    bytes[8..10].copy_from_slice(&tuple.sport.bytes());
    bytes[10..12].copy_from_slice(&tuple.dport.bytes());
    bytes[12] = tuple.proto;
    bytes[13] = tuple.from_host;
    bytes
}

#[cfg(test)]
mod tests {
    use netbpf_common::{Ipv4, Port, Tally, proto};

    use super::*;

    fn tally(packets: u32) -> Tally {
        let mut tally = Tally::default();
        (0..packets).for_each(|_| tally.add(100));
        tally
    }

    /// The two entries of a flow: 172.19.0.2:40000 to 203.0.113.2:80, by way of
    /// 203.0.113.1:50000.
    fn entries() -> [(Tuple, Flow); 2] {
        let tuple = Tuple {
            saddr: Ipv4::new([172, 19, 0, 2]),
            daddr: Ipv4::new([203, 0, 113, 2]),
            sport: Port::new(40000),
            dport: Port::new(80),
            proto: proto::TCP,
            from_host: 0,
            pad: [0; 2],
        };
        let translated = Translation {
            saddr: Ipv4::new([203, 0, 113, 1]),
            sport: Port::new(50000),
            ..Translation::from(tuple)
        };
        let common = Flow { endpoint: EndpointId(3), uplink: 7, ..Flow::default() };
        let original =
            Flow { translated, tally: tally(5), kind: FlowKind::SNAT_ORIGINAL, ..common };
        let reply = Flow {
            translated: tuple.reversed().into(),
            tally: tally(4),
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
            assert!(pairs.waiting.is_empty());
            both.reverse();
        }
    }

    #[test]
    fn a_flow_that_came_anew_replaces_the_old_one() {
        let [(key, original), (reply_key, reply)] = entries();
        let mut pairs = Pairs::default();
        let head = FlowHead::of(&key, &original);
        assert_eq!(pairs.take(head, &original), None);
        assert_eq!(pairs.take(head, &Flow { tally: tally(1), ..original }), None);
        let row = pairs.take(FlowHead::of(&reply_key, &reply), &reply).expect("complete");
        assert_eq!((row.original.packets, row.reply.packets), (1, 4));
    }

    #[test]
    fn state_and_expiry_follow_both_directions() {
        let [(key, original), (_, reply)] = entries();
        let direction = |flow: &Flow, seen, last_seen| Direction {
            seen: Seen(seen),
            last_seen: Ticks(last_seen),
            ..Direction::from(flow)
        };
        let row = FlowRow {
            head: FlowHead::of(&key, &original),
            original: direction(&original, Seen::ANY | Seen::SYN | Seen::ACK, 1000),
            reply: direction(&reply, Seen::ANY | Seen::SYN, 1100),
        };
        assert_eq!(row.state(), FlowState::Established);
        let timeouts = Timeouts::DEFAULT;
        let left = row.expires_in(Ticks(1150), &timeouts);
        assert_eq!(left, Ticks(timeouts.tcp_established.0 - 50));
        assert_eq!(row.expires_in(Ticks(1100 + timeouts.tcp_established.0), &timeouts), Ticks(0));
    }

    #[test]
    fn a_tuple_goes_to_the_kernel_as_it_stands_in_the_map() {
        let tuple = Tuple {
            saddr: Ipv4::new([172, 19, 0, 2]),
            daddr: Ipv4::new([203, 0, 113, 2]),
            sport: Port::new(40000),
            dport: Port::new(80),
            proto: proto::TCP,
            from_host: 0,
            pad: [0; 2],
        };
        let expected = [172, 19, 0, 2, 203, 0, 113, 2, 0x9c, 0x40, 0, 80, proto::TCP, 0, 0, 0];
        assert_eq!(bytes_of(tuple), expected);
    }
}
