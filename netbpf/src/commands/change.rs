//! What the verbs have in common that make or change networks.

use std::{io::Write as _, process::ExitCode};

use serde::Serialize;

use super::status::find;
use crate::{
    bpf::is_to_be_converted,
    cli::Globals,
    error::{Context as _, Error, Result},
    host::{self, Host},
    interrupt,
    network::{self, Wanted, nothing_to_do},
    observe::Observed,
    output::{CANNOT_WRITE, Format, Sink, write_json},
    plan::Step,
    progress::Teller,
    session::{Session, block_on},
    topology::{LinkName, Request, Topology},
};

/// What `-o json` tells of the steps.
#[derive(Serialize)]
struct DryRun {
    network: String,
    steps: Vec<String>,
}

/// Shows what would be done; returns whether there is anything.
///
/// # Errors
/// What was asked wrongly, or what the host lacks.
pub(super) async fn print_plan(
    ask: impl FnOnce(&Observed) -> Result<Request>,
    direct: bool,
    wanted: Wanted,
    globals: &Globals,
) -> Result<bool> {
    let host = Host::to_look_at()?;
    let mut all = network::upgrade_steps(&host, wanted)?;
    if !all.is_empty() && is_to_be_converted(&host.pins)? {
        // What else there is to be done is seen when it is of this layout.
        let session = Session::open_to_remove(host)?;
        let request = ask(&session.observe().await?)?;
        print_steps(&request.name, &all, globals)?;
        return Ok(true);
    }
    let session = network::open(host, direct)?;
    let mut observed = session.observe().await?;
    let request = ask(&observed)?;
    network::look_at_flows(&session, &mut observed, wanted)?;
    session.find(&request, &mut observed).await?;
    let (topology, steps) =
        network::prepare(&session, &request, &observed, &mut Teller::new(globals))?;
    if let Some(options) = network::other_options(&topology, &observed) {
        all.extend(network::reload_steps(&session.host, options)?);
    }
    all.extend(steps);
    print_steps(&topology.name, &all, globals)?;
    Ok(!all.is_empty())
}

/// Shows what would be done.
///
/// # Errors
/// It cannot be written.
pub(super) fn print_steps(name: &LinkName, steps: &[Step], globals: &Globals) -> Result<()> {
    let mut out = Sink::stdout();
    if globals.format() == Format::Json {
        let steps = steps.iter().map(|step| format!("{step:#}")).collect();
        write_json(&mut out, &DryRun { network: name.to_string(), steps })?;
    } else if steps.is_empty() {
        writeln!(out, "{}", nothing_to_do(name)).context(CANNOT_WRITE)?;
    } else {
        for (n, step) in (1..).zip(steps) {
            writeln!(out, "{n:>4}  {step:#}").context(CANNOT_WRITE)?;
        }
    }
    out.flush().context(CANNOT_WRITE)
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
    interrupt::catch()?;
    let made = block_on(network::make(
        |observed| {
            let mut request = Request::of(running(observed, which.name.as_deref())?);
            ask(&mut request)?;
            Ok(request)
        },
        false,
        Wanted::Whole,
        &mut Teller::new(globals),
    ))?;
    if globals.format() == Format::Json {
        let mut out = Sink::stdout();
        let network = made.topology.name.as_str();
        write_json(&mut out, &Changed { network, ended_flows: made.ended_flows })?;
        out.flush().context(CANNOT_WRITE)?;
    }
    Ok(ExitCode::SUCCESS)
}
