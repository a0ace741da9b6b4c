//! Published ports: replacing them all at once, under traffic.

use std::collections::BTreeMap;

use netbpf_common::{
    Config, EndpointId, Ipv4, PublishEntry,
    maps::{ConfigMap, MapDef as _, Publish, PublishedPorts, published_word},
};

use super::{Datapath, FlowHead, Map};
use crate::error::{Error, Result};

/// Entries in a half of the array.
const HALF: u32 = Publish::MAX_ENTRIES / 2;

/// Stands behind the live entries: sorts after all of them and matches nothing.
const NOTHING: PublishEntry = PublishEntry {
    order: u64::MAX,
    last: 0,
    target_port: 0,
    target: Ipv4::ANY,
    endpoint: EndpointId::NONE,
    pad: [0; 3],
};

impl Datapath {
    /// Replaces all published ports, in one step for the packets. Flows that a
    /// port made which is no longer there, or leads elsewhere, end; returns how many.
    ///
    /// # Errors
    /// If there are too many, two overlap, or what the maps say.
    pub fn set_published(&self, all: &[PublishEntry]) -> Result<u64> {
        let new = sorted(all)?;
        let old = self.published()?;
        if new == old && self.has_published_bits()? {
            return Ok(0);
        }
        let config_map = self.map::<ConfigMap>()?;
        let config = self.config()?;
        let (old_bits, new_bits) = (bits(&old), bits(&new));
        let words = self.map::<PublishedPorts>()?;
        // A port is marked before it is published and unmarked after it was
        // withdrawn, so that no flow takes it in between.
        for (word, mask) in &new_bits {
            words.set(word, &(mask | old_bits.get(word).copied().unwrap_or_default()))?;
        }
        let base = if config.publish_base == 0 { HALF } else { 0 };
        let publish = self.map::<Publish>()?;
        write_half(&publish, base, &new)?;
        let flipped = Config { publish_base: base, publish_len: count(&new), ..config };
        config_map.set(&0, &flipped)?;
        // All of them: others may have been set by hand.
        let mut wrong = Vec::new();
        words.for_each(|word, &has| {
            let wanted = new_bits.get(word).copied().unwrap_or_default();
            wrong.extend((has != wanted).then_some((*word, wanted)));
            Ok(())
        })?;
        for (word, wanted) in &wrong {
            words.set(word, wanted)?;
        }
        if old.iter().all(|entry| new.contains(entry)) {
            return Ok(0);
        }
        self.flush(|flow| flow.is_dnat && !leads(&new, flow))
    }

    /// The published ports, sorted.
    ///
    /// # Errors
    /// What the maps say.
    pub fn published(&self) -> Result<Vec<PublishEntry>> {
        let config = self.config()?;
        let publish = self.map::<Publish>()?;
        let mut entries = Vec::new();
        for index in config.publish_base..config.publish_base.saturating_add(config.publish_len) {
            entries.extend(publish.get(&index)?);
        }
        Ok(entries)
    }
}

/// Writes a half, to its end: while the configuration changes, a packet may
/// see the new place with the old number of entries.
fn write_half(publish: &Map<Publish>, base: u32, entries: &[PublishEntry]) -> Result<()> {
    let padded = entries.iter().chain(std::iter::repeat(&NOTHING));
    for (index, entry) in (base..base + HALF).zip(padded) {
        publish.set(&index, entry)?;
    }
    Ok(())
}

#[allow(clippy::cast_possible_truncation, reason = "at most HALF, as `sorted` has checked")]
fn count(entries: &[PublishEntry]) -> u32 {
    entries.len() as u32
}

/// The entries in the order in which the datapath searches them.
fn sorted(all: &[PublishEntry]) -> Result<Vec<PublishEntry>> {
    if all.len() > HALF as usize {
        return Err(Error::usage(format!("{} published port ranges are too many", all.len()))
            .because(format!("the datapath holds {HALF}"))
            .hint("publish ranges of ports where they lead to the same namespace"));
    }
    let mut entries = all.to_vec();
    entries.sort_unstable_by_key(|entry| entry.order);
    for pair in entries.windows(2) {
        if pair[0].holds(pair[1].order) {
            return Err(Error::usage(format!(
                "port {} of {} is published twice",
                pair[1].first(),
                pair[1].host_addr()
            )));
        }
    }
    Ok(entries)
}

/// The words of the `PUBLISHED_PORTS` array that have a bit set.
pub(super) fn bits(entries: &[PublishEntry]) -> BTreeMap<u32, u64> {
    let mut words = BTreeMap::new();
    for entry in entries {
        for port in entry.first()..=entry.last {
            if let Some(word) = published_word(entry.proto(), port) {
                *words.entry(word).or_default() |= 1 << (port % 64);
            }
        }
    }
    words
}

/// Whether a flow still leads where the published ports say.
fn leads(entries: &[PublishEntry], flow: &FlowHead) -> bool {
    let tuple = &flow.tuple;
    let port = tuple.dport.number();
    [tuple.daddr, Ipv4::ANY].into_iter().any(|addr| {
        let order = PublishEntry::order_of(tuple.proto, addr, port);
        let found = entries.partition_point(|entry| entry.order <= order).checked_sub(1);
        found.is_some_and(|index| {
            let entry = &entries[index];
            entry.holds(order)
                && entry.endpoint == flow.endpoint
                && entry.target == flow.translated.daddr
                && entry.target_of(port) == flow.translated.dport
        })
    })
}

#[cfg(test)]
mod tests {
    use netbpf_common::{Port, Translation, Tuple, proto};

    use super::*;

    fn entry(proto: u8, addr: [u8; 4], first: u16, last: u16) -> PublishEntry {
        PublishEntry {
            order: PublishEntry::order_of(proto, addr.into(), first),
            last,
            target_port: 80,
            target: Ipv4::new([172, 19, 0, 2]),
            endpoint: EndpointId(1),
            pad: [0; 3],
        }
    }

    const HOST: [u8; 4] = [203, 0, 113, 1];

    #[test]
    fn entries_are_sorted_by_protocol_address_and_port() {
        let [udp, high, low, any] = [
            entry(proto::UDP, HOST, 53, 53),
            entry(proto::TCP, HOST, 9000, 9010),
            entry(proto::TCP, HOST, 8080, 8080),
            entry(proto::TCP, [0; 4], 443, 443),
        ];
        assert_eq!(sorted(&[udp, high, low, any]).expect("valid"), [any, low, high, udp]);
    }

    #[test]
    fn overlapping_ranges_are_refused() {
        let range = entry(proto::TCP, HOST, 8000, 8010);
        for first in [8000, 8005, 8010] {
            let error = sorted(&[range, entry(proto::TCP, HOST, first, 8020)]).expect_err("twice");
            assert!(error.what().contains("published twice"), "{error}");
        }
        sorted(&[range, entry(proto::TCP, HOST, 8011, 8020)]).expect("side by side");
        sorted(&[range, entry(proto::UDP, HOST, 8000, 8010)]).expect("another protocol");
        sorted(&[range, entry(proto::TCP, [0; 4], 8000, 8010)]).expect("another address");
    }

    #[test]
    fn what_stands_behind_the_live_entries_matches_no_packet() {
        assert!(!NOTHING.holds(PublishEntry::order_of(
            u8::MAX,
            Ipv4::from_host(u32::MAX),
            u16::MAX
        )));
    }

    #[test]
    fn each_port_of_a_range_is_marked() {
        let words = bits(&[entry(proto::TCP, HOST, 62, 65), entry(proto::UDP, HOST, 53, 53)]);
        let expected = BTreeMap::from([(0, 0b11 << 62), (1, 0b11), (1024, 1 << 53)]);
        assert_eq!(words, expected);
        let whole = bits(&[entry(proto::TCP, HOST, 0, u16::MAX)]);
        assert!(whole.len() == 1024 && whole.values().all(|word| *word == u64::MAX));
    }

    #[test]
    fn a_flow_ends_with_the_port_that_made_it() {
        let tuple = Tuple {
            saddr: Ipv4::new([203, 0, 113, 2]),
            daddr: HOST.into(),
            sport: Port::new(40000),
            dport: Port::new(8002),
            proto: proto::TCP,
            from_host: 0,
            pad: [0; 2],
        };
        let mut translated = Translation::from(tuple);
        translated.daddr = Ipv4::new([172, 19, 0, 2]);
        translated.dport = Port::new(82);
        let flow = FlowHead {
            tuple,
            translated,
            endpoint: EndpointId(1),
            is_dnat: true,
            is_host: false,
            uplink: 2,
        };
        assert!(leads(&[entry(proto::TCP, HOST, 8000, 8010)], &flow));
        assert!(leads(&[entry(proto::TCP, [0; 4], 8000, 8010)], &flow));
        assert!(!leads(&[entry(proto::TCP, HOST, 8003, 8010)], &flow));
        assert!(!leads(&[entry(proto::TCP, HOST, 8001, 8010)], &flow));
        assert!(!leads(&[], &flow));
    }
}
