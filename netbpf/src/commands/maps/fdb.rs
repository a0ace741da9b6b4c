//! `netbpf maps fdb`: MACs and where they are.

use std::{io::Write, time::Duration};

use netbpf_common::{
    EndpointId, FdbEntry, MacAddr, Ticks,
    maps::{Fdb, FdbLearnt},
};
use serde::Serialize;

use super::Subject;
use crate::{
    bpf::clock,
    error::Result,
    output::{Column, Format, JsonList, Span, Style, Table},
};

const COLUMNS: &[Column] = &[
    Column::left("MAC"),
    Column::left("TYPE"),
    Column::right("ENDPOINT"),
    Column::left("NS"),
    Column::right("AGE"),
];

/// A MAC and where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    mac: MacAddr,
    endpoint: EndpointId,
    /// How long ago it was last seen; nothing for static entries.
    age: Option<Duration>,
}

impl Place {
    /// A static entry.
    fn fixed(mac: MacAddr, entry: FdbEntry) -> Self {
        Self { mac, endpoint: entry.endpoint, age: None }
    }

    /// A learnt entry; nothing if it has aged out, as nobody removes those.
    fn learnt(mac: MacAddr, entry: FdbEntry, now: Ticks, most: Ticks) -> Option<Self> {
        let age = now.since(entry.last_seen);
        (age.0 <= most.0).then(|| Self {
            mac,
            endpoint: entry.endpoint,
            age: Some(clock::span(age)),
        })
    }

    fn sort(&self) -> &'static str {
        if self.age.is_some() { "learnt" } else { "static" }
    }
}

/// A MAC in JSON.
#[derive(Serialize)]
struct View<'a> {
    mac: String,
    r#type: &'a str,
    endpoint: u16,
    network: Option<&'a str>,
    ns: Option<&'a str>,
    age_ms: Option<u128>,
}

/// Shows each MAC.
pub(super) fn show(subject: &Subject, style: Style, out: &mut dyn Write) -> Result<()> {
    let places = places(subject)?;
    match style.format {
        Format::Json => {
            let mut list = JsonList::begin(out, "fdb")?;
            for place in &places {
                let name = subject.names.get(place.endpoint);
                list.item(&View {
                    mac: place.mac.to_string(),
                    r#type: place.sort(),
                    endpoint: place.endpoint.0,
                    network: name.map(|name| name.network.as_str()),
                    ns: name.map(|name| name.ns.as_str()),
                    age_ms: place.age.map(|age| age.as_millis()),
                })?;
            }
            list.end()
        }
        Format::Table => {
            let mut table = Table::new(out, COLUMNS, style.headers);
            for place in &places {
                // The only static MAC that is no namespace's is a bridge's.
                let ns = match place.endpoint {
                    EndpointId::NONE => "(bridge)",
                    id => subject.names.ns(id),
                };
                let age = place.age.map_or(String::new(), |age| Span(age).to_string());
                table.row(|row| {
                    row.cell(place.mac)
                        .cell(place.sort())
                        .cell(place.endpoint.0)
                        .cell(ns)
                        .cell(age);
                })?;
            }
            table.end()
        }
    }
}

/// All MACs, sorted.
fn places(subject: &Subject) -> Result<Vec<Place>> {
    let (now, most) = (clock::now()?, subject.datapath()?.config()?.timeouts.fdb);
    let mut places = Vec::new();
    subject.datapath()?.map::<Fdb>()?.for_each(|key, entry| {
        places.push(Place::fixed(key.mac, *entry));
        Ok(())
    })?;
    subject.datapath()?.map::<FdbLearnt>()?.for_each(|key, entry| {
        places.extend(Place::learnt(key.mac, *entry, now, most));
        Ok(())
    })?;
    places.sort_unstable_by_key(|place| (place.mac.octets(), place.age));
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learnt_macs_that_aged_out_are_hidden() {
        let entry = FdbEntry { last_seen: Ticks(1000), ..FdbEntry::default() };
        let most = Ticks::from_secs(300);
        let place = |now| Place::learnt(MacAddr::ZERO, entry, now, most);
        assert_eq!(place(Ticks(1000)).expect("fresh").sort(), "learnt");
        assert!(place(Ticks(1000 + most.0)).is_some());
        assert!(place(Ticks(1001 + most.0)).is_none());
    }
}
