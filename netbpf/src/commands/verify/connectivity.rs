//! `netbpf verify` of a running network.

use std::{io::Write as _, process::ExitCode, time::Duration};

use serde::Serialize;

use super::exit_code;
use crate::{
    cli::Globals,
    commands::status::find,
    error::{Context as _, Error, Result},
    host::Host,
    output::{CANNOT_WRITE, Column, Format, Sink, Table, write_json},
    plan,
    progress::say,
    session::{Session, block_on},
    verify::connectivity::{Outcome, Question, Report, Target, Tried, parse_outside, verify},
};

const COLUMNS: &[Column] = &[
    Column::left("FROM"),
    Column::left("TO"),
    Column::left("ADDRESS"),
    Column::right("PING"),
    Column::right("TCP"),
    Column::right("UDP"),
    Column::left("CAUSE"),
];

/// More ways than this are not listed if they work, unless all are asked for.
const MANY: usize = 100;

/// What `-o json` tells.
#[derive(Serialize)]
struct VerifyView {
    networks: Vec<NetworkView>,
}

#[derive(Serialize)]
struct NetworkView {
    network: String,
    datapath: &'static str,
    /// Who stood for the outside.
    outside: Option<String>,
    works: bool,
    tried: usize,
    failed: usize,
    ways: Vec<WayView>,
    left_out: Vec<String>,
}

#[derive(Serialize)]
struct WayView {
    from: String,
    to: String,
    /// What is published, where it is a published port.
    published: Option<u16>,
    address: String,
    /// Whether they are isolated, so that it works if there is no answer.
    isolated: bool,
    works: bool,
    ping: Option<ProbeView>,
    tcp: Option<ProbeView>,
    udp: Option<ProbeView>,
    cause: Option<String>,
}

#[derive(Serialize)]
struct ProbeView {
    works: bool,
    latency_us: Option<u128>,
    error: Option<String>,
}

/// Verifies a network, or all.
///
/// # Errors
/// There is none, or it cannot be looked at.
pub(super) fn run(
    network: Option<&str>,
    outside: Option<&str>,
    timeout: u16,
    all: bool,
    globals: &Globals,
) -> Result<ExitCode> {
    let outside = outside.map(parse_outside).transpose()?;
    let question = Question { outside, patience: Duration::from_secs(timeout.into()) };
    let (observed, lacking) = block_on(async {
        let session = Session::open(Host::here()?)?;
        let observed = session.observe().await?;
        let lacking: Vec<Vec<plan::Step>> = observed
            .networks
            .iter()
            .map(|network| plan::missing(&network.topology, &observed, &session.host.store))
            .collect();
        Ok((observed, lacking))
    })?;
    let chosen = network.map(|name| find(&observed.networks, name)).transpose()?;
    let mut views = Vec::new();
    for (network, lacking) in observed.networks.iter().zip(&lacking) {
        let name = &network.topology.name;
        if chosen.as_ref().is_none_or(|chosen| chosen == name) {
            say_if_verbose(globals, name.as_str());
            let report = verify(network, &observed, lacking, &question)?;
            views.push(NetworkView::of(name.as_str(), network.topology.datapath.name(), &report));
        }
    }
    if views.is_empty() {
        return Err(Error::usage("there is no network to verify")
            .hint("netbpf up --namespaces 3 makes one; netbpf verify --sandbox needs none"));
    }
    let works = views.iter().all(|view| view.works);
    let mut out = Sink::stdout();
    if globals.format() == Format::Json {
        write_json(&mut out, &VerifyView { networks: views })?;
    } else {
        for view in &views {
            print(&mut out, view, all || view.ways.len() <= MANY, globals)?;
        }
    }
    out.flush().context(CANNOT_WRITE)?;
    Ok(exit_code(works))
}

fn say_if_verbose(globals: &Globals, network: &str) {
    if globals.verbose {
        say(globals, format_args!("trying every way of {network}"));
    }
}

fn print(out: &mut Sink, view: &NetworkView, all: bool, globals: &Globals) -> Result<()> {
    let listed: Vec<&WayView> = view.ways.iter().filter(|way| all || !way.works).collect();
    if !listed.is_empty() {
        let mut table = Table::new(out, COLUMNS, !globals.no_headers);
        for way in listed {
            let probe = |probe: &Option<ProbeView>| match probe {
                None => String::new(),
                Some(ProbeView { latency_us: Some(us), .. }) => {
                    format!("{}.{:02}ms", us / 1000, us % 1000 / 10)
                }
                Some(probe) => probe.error.clone().unwrap_or_default(),
            };
            table.row(|row| {
                let to = match way.published {
                    Some(port) => format!("{} by port {port}", way.to),
                    None => way.to.clone(),
                };
                row.cell(&way.from).cell(to).cell(&way.address);
                row.cell(probe(&way.ping)).cell(probe(&way.tcp)).cell(probe(&way.udp));
                let as_it_should = if way.isolated { "isolated" } else { "" };
                row.cell(way.cause.as_deref().unwrap_or(as_it_should));
            })?;
        }
        table.end()?;
    }
    if globals.quiet {
        return Ok(());
    }
    let NetworkView { network, tried, failed, .. } = view;
    let mut text = match failed {
        0 => format!("{network}: all {tried} ways work\n"),
        _ => format!("{network}: {failed} of {tried} ways do not work\n"),
    };
    if let Some(outside) = &view.outside {
        text.extend(["for the outside stood ", outside, "\n"]);
    }
    for left_out in &view.left_out {
        text.extend(["not tried: ", left_out, "\n"]);
    }
    out.write_all(text.as_bytes()).context(CANNOT_WRITE)
}

impl NetworkView {
    fn of(network: &str, datapath: &'static str, report: &Report) -> Self {
        let failed = report.ways.iter().filter(|tried| !tried.works()).count();
        Self {
            network: network.to_owned(),
            datapath,
            outside: report.outside.map(|addr| addr.to_string()),
            works: failed == 0,
            tried: report.ways.len(),
            failed,
            ways: report.ways.iter().map(WayView::of).collect(),
            left_out: report.left_out.clone(),
        }
    }
}

impl WayView {
    fn of(tried: &Tried) -> Self {
        let way = &tried.way;
        let published = way.published_port();
        let [ping, tcp, udp] = tried.outcomes.each_ref().map(|one| one.as_ref().map(ProbeView::of));
        Self {
            from: way.from.as_ref().map_or_else(|| HOST.to_owned(), ToString::to_string),
            to: match &way.target {
                Target::Namespace(name) | Target::Published(name) => name.to_string(),
                Target::Gateway => "gateway".to_owned(),
                Target::Host => HOST.to_owned(),
                Target::Outside => "outside".to_owned(),
            },
            published,
            address: way.addr.to_string(),
            isolated: way.closed,
            works: tried.works(),
            ping,
            tcp,
            udp,
            cause: tried.cause.clone(),
        }
    }
}

/// What the host is called.
const HOST: &str = "host";

impl ProbeView {
    fn of(outcome: &Outcome) -> Self {
        let (latency, error) = match outcome {
            Outcome::Answered(after) => (Some(after.as_micros()), None),
            Outcome::Silent => (None, Some("no answer".to_owned())),
            Outcome::Refused => (None, Some("refused".to_owned())),
            Outcome::Failed(why) => (None, Some(why.clone())),
        };
        Self { works: error.is_none(), latency_us: latency, error }
    }
}
