//! From what is asked for to what there is, for all verbs that make or change
//! networks: looking, planning, doing.

use std::{io::Write as _, process::ExitCode};

use serde::Serialize;

use super::status::{find, firewall_warnings};
use crate::{
    bpf::put_back_grace_periods,
    cli::Globals,
    datapath::{Datapath as _, Kind},
    error::{Context as _, Error, Result},
    host::{self, Host},
    net::listeners,
    observe::Observed,
    output::{CANNOT_WRITE, Format, Sink, write_json},
    plan::{self, Step},
    progress::{Teller, say},
    session::{Session, block_on},
    topology::{Request, Topology},
};

/// What `-o json` tells of the steps.
#[derive(Serialize)]
struct DryRun {
    network: String,
    steps: Vec<String>,
}

/// A network that was made, or changed.
pub(super) struct Made {
    pub(super) session: Session,
    pub(super) topology: Topology,
    /// Flows that were ended.
    pub(super) ended_flows: u64,
}

/// A direct network asks nothing of the host's datapath, whatever that is.
fn open(host: Host, direct: bool) -> Result<Session> {
    if direct { Session::open_to_remove(host) } else { Session::open(host) }
}

/// Shows what would be done; returns whether there is anything.
///
/// # Errors
/// What was asked wrongly, or what the host lacks.
pub(super) async fn print_plan(request: &Request, globals: &Globals) -> Result<bool> {
    let session = open(Host::here()?, request.direct)?;
    let observed = session.observe().await?;
    let (topology, steps) = prepare(&session, request, &observed, globals)?;
    print_steps(&topology, &steps, globals)?;
    Ok(!steps.is_empty())
}

/// Shows what would be done.
///
/// # Errors
/// It cannot be written.
pub(super) fn print_steps(topology: &Topology, steps: &[Step], globals: &Globals) -> Result<()> {
    let mut out = Sink::stdout();
    if globals.format() == Format::Json {
        let steps = steps.iter().map(|step| format!("{step:#}")).collect();
        write_json(&mut out, &DryRun { network: topology.name.to_string(), steps })?;
    } else if steps.is_empty() {
        writeln!(out, "{}", nothing_to_do(topology)).context(CANNOT_WRITE)?;
    } else {
        for (n, step) in (1..).zip(steps) {
            writeln!(out, "{n:>4}  {step:#}").context(CANNOT_WRITE)?;
        }
    }
    out.flush().context(CANNOT_WRITE)
}

/// Finds out what is to be done, and warns of what may not be meant.
fn prepare(
    session: &Session,
    request: &Request,
    observed: &Observed,
    globals: &Globals,
) -> Result<(Topology, Vec<Step>)> {
    let request = choose(session, request, observed)?;
    let topology = Topology::validate(&request, observed)?;
    if let Some(why) = &request.fallback {
        say(globals, format_args!("note: iptables moves the packets, not eBPF: {why}"));
    }
    if !topology.direct {
        let warnings = topology.warnings(observed, &listeners());
        for warning in warnings.into_iter().chain(firewall_warnings(&topology, observed)) {
            say(globals, format_args!("warning: {warning}"));
        }
    }
    let steps = plan::up(&topology, observed, &session.host.store);
    Ok((topology, steps))
}

/// The request with a datapath that can run here: the one that was asked for or
/// that the network has, else eBPF, else iptables.
fn choose(session: &Session, request: &Request, observed: &Observed) -> Result<Request> {
    let mut request = request.clone();
    if request.direct {
        return Ok(request);
    }
    let existing = observed.network(request.name.as_str());
    let kind = request.datapath.or(existing.map(|network| network.topology.datapath));
    let datapaths = session.datapaths();
    match kind {
        Some(kind) => datapaths.of(kind).probe()?,
        None => match datapaths.ebpf.probe() {
            Ok(()) => request.datapath = Some(Kind::Ebpf),
            Err(lacking) => {
                datapaths.iptables.probe().map_err(|neither| neither.besides(&lacking))?;
                request.datapath = Some(Kind::Iptables);
                request.fallback = Some(lacking.to_string());
            }
        },
    }
    Ok(request)
}

/// Makes what `ask` asks for, which sees what there is, or changes what there is to it.
///
/// # Errors
/// What was asked wrongly, what the host lacks, or what went wrong; nothing was
/// changed then, or the error says so.
pub(super) async fn make(
    ask: impl FnOnce(&Observed) -> Result<Request>,
    direct: bool,
    globals: &Globals,
) -> Result<Made> {
    crate::interrupt::catch()?;
    let host = Host::here()?;
    let _lock = host.store.lock()?;
    put_back_grace_periods();
    host.store.forget_earlier_boots()?;
    let mut session = open(host, direct)?;
    let observed = session.observe().await?;
    let request = ask(&observed)?;
    let (topology, steps) = prepare(&session, &request, &observed, globals)?;
    let mut ended_flows = 0;
    if steps.is_empty() {
        say(globals, nothing_to_do(&topology));
    } else {
        let mut teller = Teller::new(globals);
        let existing = observed.network(topology.name.as_str());
        let done = session.build(&topology, existing, &steps, &mut teller).await?;
        teller.finish();
        for warning in done.warnings {
            say(globals, format_args!("warning: {warning}"));
        }
        ended_flows = done.ended_flows;
        if existing.is_some_and(|existing| existing.topology != topology) {
            say(globals, changed(&topology, ended_flows));
        }
    }
    Ok(Made { session, topology, ended_flows })
}

/// The network that is to be changed: that of the name, or the only one.
///
/// # Errors
/// There is no such network, several, or one that cannot be changed.
pub(super) fn running<'a>(observed: &'a Observed, name: Option<&str>) -> Result<&'a Topology> {
    let name = match (name, &observed.networks[..]) {
        (None, [_, _, ..]) => {
            let names = observed.networks.iter().map(|network| network.topology.name.as_str());
            let names: Vec<&str> = names.collect();
            return Err(Error::usage("which network?")
                .because(format!("there are {}", names.join(", ")))
                .hint("name one with --name NET"));
        }
        (None, [only]) => only.topology.name.to_string(),
        (name, _) => name.unwrap_or("to be changed").to_owned(),
    };
    let name = find(&observed.networks, &name)?;
    let network = observed.network(name.as_str()).map(|network| &network.topology);
    match network {
        Some(topology) if !topology.direct => Ok(topology),
        _ => Err(Error::usage(format!("the network {name} cannot be changed"))
            .because("it is direct: two namespaces, one veth pair, nothing else")
            .hint(format!("take it down and up again: netbpf down {name}"))),
    }
}

/// What programs are told of a change.
#[derive(Serialize)]
struct Changed<'a> {
    network: &'a str,
    ended_flows: u64,
}

// Which network is to change. (A documentation comment would be shown as what the verbs
// do that have it.)
#[derive(clap::Args, Debug)]
pub(super) struct Which {
    /// The network; can be left out if there is only one
    #[arg(long, value_name = "NET")]
    name: Option<String>,
}

/// Changes a network that runs: `ask` makes of a request for it as it is one for it
/// as it should be.
///
/// # Errors
/// What was asked wrongly, what the host lacks, or what went wrong; nothing was
/// changed then, or the error says so.
pub(super) fn change(
    verb: &str,
    which: &Which,
    globals: &Globals,
    ask: impl FnOnce(&mut Request) -> Result<()>,
) -> Result<ExitCode> {
    host::require_privileges(verb)?;
    let made = block_on(make(
        |observed| {
            let mut request = Request::of(running(observed, which.name.as_deref())?);
            ask(&mut request)?;
            Ok(request)
        },
        false,
        globals,
    ))?;
    if globals.format() == Format::Json {
        let mut out = Sink::stdout();
        let network = made.topology.name.as_str();
        write_json(&mut out, &Changed { network, ended_flows: made.ended_flows })?;
        out.flush().context(CANNOT_WRITE)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What has become of a network that was changed.
fn changed(topology: &Topology, ended_flows: u64) -> String {
    let flows = if ended_flows == 1 { "flow" } else { "flows" };
    format!("network {} is changed: {ended_flows} {flows} ended", topology.name)
}

fn nothing_to_do(topology: &Topology) -> String {
    format!("network {} is up already: nothing to do", topology.name)
}
