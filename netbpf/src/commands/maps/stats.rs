//! `netbpf maps stats`: what became of each namespace's packets.

use std::{collections::BTreeMap, io::Write};

use netbpf_common::{Counter, Counters, DropReason, EndpointId};
use serde::Serialize;

use super::{Subject, endpoints, watch};
use crate::{
    error::Result,
    output::{Bytes, Column, Format, JsonList, Sink, Style, Table},
};

/// The arguments of `netbpf maps stats`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf maps stats
  netbpf maps stats --watch

Packets and their bytes: FORWARDED from namespace to namespace, SNAT and DNAT in
both directions of a flow, PASSED to the kernel's bridge and stack, DROPPED for
the REASONS that are listed. The first line counts what is no namespace's.")]
pub(super) struct Args {
    /// Show it anew each second, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

const COLUMNS: &[Column] = &[
    Column::right("ID"),
    Column::left("NS"),
    Column::right("FORWARDED"),
    Column::right("FWD-BYTES"),
    Column::right("SNAT"),
    Column::right("SNAT-BYTES"),
    Column::right("DNAT"),
    Column::right("DNAT-BYTES"),
    Column::right("PASSED"),
    Column::right("PASSED-BYTES"),
    Column::right("DROPPED"),
    Column::left("REASONS"),
];

/// An endpoint's counters in JSON.
#[derive(Serialize)]
struct View<'a> {
    id: u16,
    network: Option<&'a str>,
    ns: Option<&'a str>,
    #[serde(flatten)]
    counted: BTreeMap<&'static str, Amount>,
    dropped: Dropped,
}

/// Packets and their bytes.
#[derive(Serialize)]
struct Amount {
    packets: u64,
    bytes: u64,
}

/// Dropped packets.
#[derive(Serialize)]
struct Dropped {
    packets: u64,
    reasons: BTreeMap<&'static str, u64>,
}

impl Args {
    /// Shows each endpoint's counters, once or each second.
    pub(super) fn run(&self, subject: &Subject, style: Style, out: &mut Sink) -> Result<()> {
        watch::show(self.watch, out, |out| show(subject, style, out))
    }
}

fn show(subject: &Subject, style: Style, out: &mut dyn Write) -> Result<()> {
    let datapath = subject.datapath()?;
    let mut ids = vec![EndpointId::NONE];
    ids.extend(endpoints::live(subject)?.iter().map(|(id, _)| *id));
    let counters = |id: EndpointId| datapath.counters(id);
    match style.format {
        Format::Json => {
            let mut list = JsonList::begin(out, "stats")?;
            for id in ids {
                list.item(&view(subject, id, &counters(id)?))?;
            }
            list.end()
        }
        Format::Table => {
            let mut table = Table::new(out, COLUMNS, style.headers);
            for id in ids {
                let counters = counters(id)?;
                table.row(|row| {
                    row.cell(id.0).cell(subject.names.ns(id));
                    for counter in Counter::ALL {
                        let (packets, bytes) = counters.of(counter);
                        row.cell(packets).cell(Bytes(bytes));
                    }
                    row.cell(dropped(&counters)).cell(reasons(&counters));
                })?;
            }
            table.end()
        }
    }
}

/// The reasons for which packets were dropped, and how many.
fn drops(counters: &Counters) -> impl Iterator<Item = (&'static str, u64)> {
    let each = DropReason::ALL.iter().map(|reason| (reason.name(), counters.dropped(*reason)));
    each.filter(|(_, packets)| *packets != 0)
}

fn dropped(counters: &Counters) -> u64 {
    drops(counters).map(|(_, packets)| packets).sum()
}

/// The reasons as a cell: `source_mac=3,flow_limit=1`.
fn reasons(counters: &Counters) -> String {
    let each: Vec<String> = drops(counters).map(|(name, n)| format!("{name}={n}")).collect();
    each.join(",")
}

fn view<'a>(subject: &'a Subject, id: EndpointId, counters: &Counters) -> View<'a> {
    let name = subject.names.get(id);
    View {
        id: id.0,
        network: name.map(|name| name.network.as_str()),
        ns: name.map(|name| name.ns.as_str()),
        counted: Counter::ALL
            .into_iter()
            .map(|counter| {
                let (packets, bytes) = counters.of(counter);
                (counter.name(), Amount { packets, bytes })
            })
            .collect(),
        dropped: Dropped { packets: dropped(counters), reasons: drops(counters).collect() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters() -> Counters {
        let mut counters = Counters::default();
        counters.0[Counters::packets_row(Counter::Snat)] = 2;
        counters.0[Counters::packets_row(Counter::Snat) + 1] = 3000;
        counters.0[Counters::drop_row(DropReason::SourceMac)] = 3;
        counters.0[Counters::drop_row(DropReason::FlowLimit)] = 1;
        counters
    }

    #[test]
    fn only_reasons_that_occurred_are_listed() {
        assert_eq!(reasons(&counters()), "source_mac=3,flow_limit=1");
        assert_eq!(dropped(&counters()), 4);
        assert_eq!(reasons(&Counters::default()), "");
        let mut all = Counters::default();
        for reason in DropReason::ALL {
            all.0[Counters::drop_row(*reason)] = 1;
        }
        for name in ["fragment=1", "protocol=1", "icmp_unrelated=1", "bad_checksum=1"] {
            assert!(reasons(&all).split(',').any(|reason| reason == name), "{name}");
        }
    }
}
