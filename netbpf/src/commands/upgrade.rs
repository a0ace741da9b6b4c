//! `netbpf upgrade`: this netbpf's programs in the place of those that run.

use std::{io::Write as _, process::ExitCode};

use serde::Serialize;

use super::status;
use crate::{
    bpf::{Build, LogLevel, Replaced, Standing, Upgrade},
    cli::Globals,
    error::{Context as _, Error, Result},
    host::{self, Host},
    network::{OtherOptions, Wanted, exchange, is_of_ebpf, told, upgrade_steps},
    output::{CANNOT_WRITE, Column, Format, Sink, Table, write_json},
    plan::Step,
    progress::{Teller, say},
    session::block_on,
    state::Recorded,
};

/// Replace the running programs by those of this netbpf, without a packet lost
///
/// Each attachment gets its new program from one packet to the next, and goes on with
/// the same maps: flows, counters and connections stay as they are. All networks of the
/// host have one datapath, so that of all of them is replaced. If a step fails, the old
/// programs run as before. `up` does the same where the programs that run are not its own.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf upgrade
  netbpf upgrade --force      even if the programs that run are the same
  netbpf upgrade --log-level debug
  netbpf upgrade --dry-run")]
pub struct Args {
    /// A network whose programs they are; can be left out
    #[arg(value_name = "NET")]
    network: Option<String>,
    /// Replace them by the same, too
    #[arg(long)]
    force: bool,
    /// Flows that the host's table is to hold, for all networks
    #[arg(long, value_name = "N")]
    max_flows: Option<u32>,
    /// What the datapath is to log, for all networks
    #[arg(long, value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// Print the steps that would be taken, and take none
    #[arg(long)]
    dry_run: bool,
}

/// What `-o json` tells.
#[derive(Serialize)]
struct View<'a> {
    /// Whether programs were replaced.
    upgraded: bool,
    /// Of which build those that ran before were; null if that is not known.
    from: Option<&'a Build>,
    /// Of which build those are that run now; null if there are none.
    to: Option<&'a Build>,
    programs: &'a [Replaced],
}

/// What `--dry-run -o json` tells.
#[derive(Serialize)]
struct DryRun {
    steps: Vec<String>,
}

const COLUMNS: &[Column] =
    &[Column::left("PROGRAM"), Column::left("OLD-TAG"), Column::left("NEW-TAG")];

/// What is shown where there is no such program.
const NONE: &str = "-";

impl Args {
    /// Replaces the programs.
    ///
    /// # Errors
    /// There is no such network, the programs do not fit, or what went wrong; the old
    /// programs run as before then, or the error says so.
    pub fn run(self, globals: &Globals) -> Result<ExitCode> {
        host::require_privileges("upgrade")?;
        block_on(self.upgrade(globals))?;
        Ok(ExitCode::SUCCESS)
    }

    async fn upgrade(self, globals: &Globals) -> Result<()> {
        crate::interrupt::catch()?;
        let host = if self.dry_run { Host::to_look_at()? } else { Host::here()? };
        let _lock = if self.dry_run { None } else { Some(host.hold()?) };
        self.check(&host.store.networks()?)?;
        let wanted = if self.force { Wanted::Anew } else { Wanted::Own };
        let options = OtherOptions { max_flows: self.max_flows, log_level: self.log_level };
        if self.dry_run {
            let mut steps = upgrade_steps(&host, wanted)?;
            steps.extend(options.steps(&host)?);
            return print_steps(&steps, globals);
        }
        let listener = &mut Teller::new(globals);
        let mut done = exchange(&host, wanted, listener).await?;
        if let Some(reloaded) = options.reload(&host, done.steps, listener).await? {
            done.replaced = reloaded.replaced;
            done.from.get_or_insert_with(|| Build::own().clone());
            done.steps += reloaded.steps;
        }
        let now = Upgrade::of(&host.pins).look()?;
        if globals.format() == Format::Json {
            let view = View {
                upgraded: done.steps > 0,
                from: done.from.as_ref(),
                to: now.as_ref().and_then(|now| now.build.as_ref()),
                programs: &done.replaced,
            };
            let mut out = Sink::stdout();
            write_json(&mut out, &view)?;
            return out.flush().context(CANNOT_WRITE);
        }
        match now {
            None => say(globals, "there are no programs of eBPF: nothing to do"),
            Some(now) if done.steps == 0 => {
                say(globals, nothing_to_do(&now));
            }
            Some(now) => {
                say(globals, told(&done, &now));
                print_table(&done.replaced, globals)?;
            }
        }
        Ok(())
    }

    /// Refuses a network that there is not, or that has no programs.
    fn check(&self, networks: &[Recorded]) -> Result<()> {
        let Some(name) = &self.network else { return Ok(()) };
        let name = status::find(networks, name)?;
        match networks.iter().find(|network| network.topology.name == name) {
            Some(network) if !is_of_ebpf(network) => {
                Err(Error::usage(format!("the network {name} has no programs"))
                    .because("it does not have the ebpf datapath")
                    .hint("see which do: netbpf status"))
            }
            _ => Ok(()),
        }
    }
}

fn nothing_to_do(now: &Standing) -> String {
    let build = now.build.as_ref().map(|build| format!(" {build}")).unwrap_or_default();
    format!("the programs that run are those of this netbpf{build}: nothing to do")
}

fn print_steps(steps: &[Step], globals: &Globals) -> Result<()> {
    let mut out = Sink::stdout();
    if globals.format() == Format::Json {
        let steps = steps.iter().map(ToString::to_string).collect();
        write_json(&mut out, &DryRun { steps })?;
    } else if steps.is_empty() {
        writeln!(out, "the programs that run are those of this netbpf: nothing to do")
            .context(CANNOT_WRITE)?;
    } else {
        for (n, step) in (1..).zip(steps) {
            writeln!(out, "{n:>4}  {step}").context(CANNOT_WRITE)?;
        }
    }
    out.flush().context(CANNOT_WRITE)
}

fn print_table(replaced: &[Replaced], globals: &Globals) -> Result<()> {
    let mut out = Sink::stdout();
    let mut table = Table::new(&mut out, COLUMNS, !globals.no_headers);
    for Replaced { program, from, to } in replaced {
        let [from, to] = [from, to].map(|tag| tag.as_deref().unwrap_or(NONE));
        table.row(|row| {
            row.cell(program).cell(from).cell(to);
        })?;
    }
    table.end()?;
    out.flush().context(CANNOT_WRITE)
}
