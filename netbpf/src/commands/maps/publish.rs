//! `netbpf maps publish`: published ports and where they lead.

use std::{fmt, io::Write};

use netbpf_common::PublishEntry;
use serde::Serialize;

use super::{Subject, filter::Proto};
use crate::{
    error::Result,
    output::{Column, Format, JsonList, Style, Table},
    plan::publish_entries,
};

const COLUMNS: &[Column] = &[
    Column::left("PROTO"),
    Column::left("HOST-ADDR"),
    Column::left("PORTS"),
    Column::left("NS"),
    Column::left("TARGET"),
];

/// A range of ports: `80`, `8000-8010`.
struct Ports(u16, u16);

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        if self.1 != self.0 {
            write!(f, "-{}", self.1)?;
        }
        Ok(())
    }
}

/// The published ports.
fn ports(entry: &PublishEntry) -> Ports {
    Ports(entry.first(), entry.last)
}

/// The ports in the namespace that they lead to.
fn target_ports(entry: &PublishEntry) -> Ports {
    Ports(entry.target_port, entry.target_of(entry.last).number())
}

/// A published range of ports in JSON.
#[derive(Serialize)]
struct View<'a> {
    proto: Proto,
    host_addr: String,
    first_port: u16,
    last_port: u16,
    endpoint: u16,
    network: Option<&'a str>,
    ns: Option<&'a str>,
    target_addr: String,
    target_first_port: u16,
    target_last_port: u16,
}

/// Shows each published range of ports.
pub(super) fn show(subject: &Subject, style: Style, out: &mut dyn Write) -> Result<()> {
    let mut entries = match subject.ebpf() {
        Some(datapath) => datapath.published()?,
        None => Vec::new(),
    };
    entries.extend(subject.classical.iter().flat_map(publish_entries));
    entries.sort_by_key(|entry| entry.order);
    match style.format {
        Format::Json => {
            let mut list = JsonList::begin(out, "publish")?;
            for entry in &entries {
                let name = subject.names.get(entry.endpoint);
                let target = target_ports(entry);
                list.item(&View {
                    proto: Proto(entry.proto()),
                    host_addr: entry.host_addr().to_string(),
                    first_port: entry.first(),
                    last_port: entry.last,
                    endpoint: entry.endpoint.0,
                    network: name.map(|name| name.network.as_str()),
                    ns: name.map(|name| name.ns.as_str()),
                    target_addr: entry.target.to_string(),
                    target_first_port: target.0,
                    target_last_port: target.1,
                })?;
            }
            list.end()
        }
        Format::Table => {
            let mut table = Table::new(out, COLUMNS, style.headers);
            for entry in &entries {
                table.row(|row| {
                    row.cell(Proto(entry.proto()))
                        .cell(entry.host_addr())
                        .cell(ports(entry))
                        .cell(subject.names.ns(entry.endpoint))
                        .cell(format_args!("{}:{}", entry.target, target_ports(entry)));
                })?;
            }
            table.end()
        }
    }
}

#[cfg(test)]
mod tests {
    use netbpf_common::{Ipv4, proto};

    use super::*;

    #[test]
    fn a_range_leads_to_a_range() {
        let entry = PublishEntry {
            order: PublishEntry::order_of(proto::TCP, Ipv4::ANY, 8000),
            last: 8010,
            target_port: 80,
            ..PublishEntry::default()
        };
        assert_eq!(ports(&entry).to_string(), "8000-8010");
        assert_eq!(target_ports(&entry).to_string(), "80-90");
        let single = PublishEntry { last: 8000, ..entry };
        assert_eq!(ports(&single).to_string(), "8000");
        assert_eq!(target_ports(&single).to_string(), "80");
    }
}
