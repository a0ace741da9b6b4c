//! `netbpf maps flows`: flows, one a line, and their end by filter.

use std::{fmt, io::Write};

use clap::Subcommand;
use netbpf_common::{Flow, Ipv4, Port, Translation, maps};
use serde::Serialize;

use super::{
    Subject,
    filter::{Filter, Options, Proto},
    watch,
};
use crate::{
    bpf::interface,
    error::{Context as _, Error, Result},
    network::{LiveFlow, flush_tracked, tracked_uplinks, walk},
    output::{Bytes, CANNOT_WRITE, Column, Format, JsonList, Sink, Span, Style, Table, write_json},
};

/// The arguments of `netbpf maps flows`.
#[derive(clap::Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  netbpf maps flows
  netbpf maps flows --ns ns1 --proto tcp
  netbpf maps flows --to 203.0.113.2:443 --watch

Columns: ORIG is how the flow's first packet came, XLAT what it became. PKTS and
BYTES are those of both directions; -o json has them apart. UPLINK is lo where
the other side is the host itself, or a namespace by the host's address; flows
of the host's own have (host) as their NS."
)]
pub(super) struct Args {
    #[command(flatten)]
    options: Options,
    /// Show them anew each second, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    #[command(subcommand)]
    change: Option<Change>,
}

#[derive(Subcommand, Debug)]
enum Change {
    /// End flows: their next packets are decided on anew, or refused
    Flush(FlushArgs),
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf maps flows flush --ns ns1
  netbpf maps flows flush --proto udp --port 53
  netbpf maps flows flush --all")]
struct FlushArgs {
    #[command(flatten)]
    options: Options,
    /// All flows of all networks of this host
    #[arg(long, conflicts_with_all = ["ns", "proto", "port", "to"])]
    all: bool,
}

const COLUMNS: &[Column] = &[
    Column::left("PROTO"),
    Column::left("ORIG-SRC"),
    Column::left("ORIG-DST"),
    Column::left("XLAT-SRC"),
    Column::left("XLAT-DST"),
    Column::left("STATE"),
    Column::right("AGE"),
    Column::right("EXPIRES"),
    Column::right("PKTS"),
    Column::right("BYTES"),
    Column::left("NS"),
    Column::left("UPLINK"),
];

impl Args {
    /// Shows flows, once or each second, or ends them.
    pub(super) fn run(&self, subject: &Subject, style: Style, out: &mut Sink) -> Result<()> {
        if let Some(Change::Flush(args)) = &self.change {
            return args.run(subject, style, out);
        }
        let filter = self.options.resolve(subject)?;
        watch::show(self.watch, out, |out| show(subject, &filter, style, out))
    }
}

impl FlushArgs {
    fn run(&self, subject: &Subject, style: Style, out: &mut dyn Write) -> Result<()> {
        if self.options.are_absent() && !self.all {
            return Err(Error::usage("it is not said which flows are to end")
                .hint("choose some with --ns, --proto, --port or --to, or end all with --all"));
        }
        let filter = self.options.resolve(subject)?;
        let ebpf = subject.ebpf();
        let removed = ebpf.map_or(Ok(0), |datapath| datapath.flush(|flow| filter.matches(flow)))?
            + flush_tracked(&subject.classical, |flow| filter.matches(flow))?;
        match style.format {
            Format::Json => write_json(out, &Flushed { removed }),
            Format::Table => {
                let flows = if removed == 1 { "flow" } else { "flows" };
                writeln!(out, "ended {removed} {flows}").context(CANNOT_WRITE)
            }
        }
    }
}

/// What a flush came to, in JSON.
#[derive(Serialize)]
struct Flushed {
    removed: u64,
}

fn show(subject: &Subject, filter: &Filter, style: Style, out: &mut dyn Write) -> Result<()> {
    let uplinks = Uplinks::look_up(subject)?;
    match style.format {
        Format::Json => {
            let mut list = JsonList::begin(out, "flows")?;
            walk(
                subject.ebpf(),
                &subject.classical,
                |flow| filter.matches(flow),
                |line| list.item(&View::of(line, subject, &uplinks)),
            )?;
            list.end()
        }
        Format::Table => {
            let mut table = Table::new(out, COLUMNS, style.headers);
            walk(
                subject.ebpf(),
                &subject.classical,
                |flow| filter.matches(flow),
                |line| {
                    let number = |n: Option<u64>| n.map_or(String::new(), |n| n.to_string());
                    let bytes = line.bytes.map(|[a, b]| Bytes(a.wrapping_add(b)).to_string());
                    let head = &line.head;
                    table.row(|row| {
                        row.cell(Proto(head.tuple.proto))
                            .cell(Side::source(line.head.tuple.into()))
                            .cell(Side::destination(line.head.tuple.into()))
                            .cell(Side::source(head.translated))
                            .cell(Side::destination(head.translated))
                            .cell(line.state)
                            .cell(line.age.map_or(String::new(), |age| Span(age).to_string()))
                            .cell(Span(line.expires))
                            .cell(number(line.packets.map(|[a, b]| a.wrapping_add(b))))
                            .cell(bytes.unwrap_or_default())
                            .cell(subject.names.ns(head.endpoint))
                            .cell(match head.uplink {
                                LiveFlow::NO_UPLINK => "",
                                index => uplinks.name(index).unwrap_or("(gone)"),
                            });
                    })
                },
            )?;
            table.end()
        }
    }
}

/// The names of the interfaces that flows leave by, looked up once for all.
struct Uplinks(Vec<(u32, String)>);

impl Uplinks {
    fn look_up(subject: &Subject) -> Result<Self> {
        let mut indexes = vec![Flow::LOOPBACK];
        if let Some(datapath) = subject.ebpf() {
            datapath.map::<maps::Uplinks>()?.for_each(|&ifindex, _| {
                indexes.push(ifindex);
                Ok(())
            })?;
        }
        indexes.extend(tracked_uplinks(&subject.classical).map(|(index, _)| index));
        let names = indexes.into_iter().filter_map(|index| Some((index, interface(index)?)));
        Ok(Self(names.collect()))
    }

    /// Nothing for an interface that is gone.
    fn name(&self, ifindex: u32) -> Option<&str> {
        self.0.iter().find(|(index, _)| *index == ifindex).map(|(_, name)| name.as_str())
    }
}

/// An address and its port; without one if that is 0, as on one side of a ping.
#[derive(Clone, Copy)]
struct Side(Ipv4, Port);

impl Side {
    fn source(of: Translation) -> Self {
        Self(of.saddr, of.sport)
    }

    fn destination(of: Translation) -> Self {
        Self(of.daddr, of.dport)
    }
}

impl fmt::Display for Side {
    /// By hand: a flow has four of these, and the formatter's own way with
    /// numbers is half of the time that a long list takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::default();
        for (i, octet) in self.0.octets().into_iter().enumerate() {
            if i > 0 {
                text.push(b'.');
            }
            text.push_number(octet.into());
        }
        if self.1.number() != 0 {
            text.push(b':');
            text.push_number(self.1.number());
        }
        f.write_str(text.as_str())
    }
}

/// Room for "255.255.255.255:65535".
#[derive(Default)]
struct Text {
    bytes: [u8; 21],
    len: usize,
}

impl Text {
    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn push_number(&mut self, number: u16) {
        let digits = number.checked_ilog10().unwrap_or(0);
        for place in (0..=digits).rev() {
            let [digit, _] = (number / 10_u16.pow(place) % 10).to_le_bytes();
            self.push(b'0' + digit);
        }
    }

    fn as_str(&self) -> &str {
        // Digits, dots and a colon.
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

/// A flow in JSON.
#[derive(Serialize)]
struct View<'a> {
    proto: Proto,
    kind: &'a str,
    original: Tuple4,
    translated: Tuple4,
    state: &'a str,
    age_ms: Option<u128>,
    expires_ms: u128,
    packets: Option<BothWays>,
    bytes: Option<BothWays>,
    endpoint: u16,
    network: Option<&'a str>,
    ns: Option<&'a str>,
    uplink: Option<&'a str>,
    uplink_ifindex: Option<u32>,
}

/// Addresses and ports in JSON.
#[derive(Serialize)]
struct Tuple4 {
    src: std::net::Ipv4Addr,
    src_port: u16,
    dst: std::net::Ipv4Addr,
    dst_port: u16,
}

impl From<Translation> for Tuple4 {
    fn from(of: Translation) -> Self {
        Self {
            src: of.saddr.into(),
            src_port: of.sport.number(),
            dst: of.daddr.into(),
            dst_port: of.dport.number(),
        }
    }
}

/// A count of each direction in JSON.
#[derive(Serialize)]
struct BothWays {
    original: u64,
    reply: u64,
}

impl From<[u64; 2]> for BothWays {
    fn from([original, reply]: [u64; 2]) -> Self {
        Self { original, reply }
    }
}

impl<'a> View<'a> {
    fn of(line: &LiveFlow, subject: &'a Subject, uplinks: &'a Uplinks) -> Self {
        let head = &line.head;
        let name = subject.names.get(head.endpoint);
        Self {
            proto: Proto(head.tuple.proto),
            kind: head.kind(),
            original: Translation::from(line.head.tuple).into(),
            translated: head.translated.into(),
            state: line.state,
            age_ms: line.age.map(|age| age.as_millis()),
            expires_ms: line.expires.as_millis(),
            packets: line.packets.map(Into::into),
            bytes: line.bytes.map(Into::into),
            endpoint: head.endpoint.0,
            network: name.map(|name| name.network.as_str()),
            ns: name.map(|name| name.ns.as_str()),
            uplink: uplinks.name(head.uplink),
            uplink_ifindex: Some(head.uplink).filter(|&index| index != LiveFlow::NO_UPLINK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_without_port_is_an_address() {
        let web = Side(Ipv4::new([172, 19, 0, 2]), Port::new(40000));
        assert_eq!(web.to_string(), "172.19.0.2:40000");
        let ping = Side(Ipv4::new([203, 0, 113, 2]), Port::default());
        assert_eq!(ping.to_string(), "203.0.113.2");
        for (octets, port) in [([0; 4], 1), ([255; 4], 65535), ([10, 100, 9, 99], 10_000)] {
            let longhand = format!("{}:{port}", std::net::Ipv4Addr::from(octets));
            assert_eq!(Side(octets.into(), Port::new(port)).to_string(), longhand);
        }
    }
}
