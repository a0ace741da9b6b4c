//! `netbpf maps`: each map, how full it is and what it costs.

use std::io::Write;

use serde::Serialize;

use super::Subject;
use crate::{
    bpf::MapUsage,
    error::Result,
    output::{Bytes, Column, Format, JsonList, Style, Table},
};

const COLUMNS: &[Column] = &[
    Column::left("NAME"),
    Column::right("ENTRIES"),
    Column::right("CAPACITY"),
    Column::right("BYTES"),
    Column::left("ABOUT"),
];

/// A map in JSON.
#[derive(Serialize)]
struct View<'a> {
    name: &'a str,
    entries: Option<u64>,
    capacity: u32,
    bytes: u64,
    about: &'a str,
}

impl<'a> From<&'a MapUsage> for View<'a> {
    fn from(map: &'a MapUsage) -> Self {
        let MapUsage { name, about, entries, capacity, memory } = *map;
        Self { name, entries, capacity, bytes: memory, about }
    }
}

/// Shows each map.
pub(super) fn show(subject: &Subject, style: Style, out: &mut dyn Write) -> Result<()> {
    let maps = subject.datapath()?.usage()?;
    match style.format {
        Format::Json => {
            let mut list = JsonList::begin(out, "maps")?;
            for map in &maps {
                list.item(&View::from(map))?;
            }
            list.end()
        }
        Format::Table => {
            let mut table = Table::new(out, COLUMNS, style.headers);
            for map in &maps {
                let entries = map.entries.map_or(String::new(), |entries| entries.to_string());
                table.row(|row| {
                    row.cell(map.name)
                        .cell(entries)
                        .cell(map.capacity)
                        .cell(Bytes(map.memory))
                        .cell(map.about);
                })?;
            }
            table.end()
        }
    }
}
