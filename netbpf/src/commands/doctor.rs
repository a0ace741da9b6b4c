//! `netbpf doctor`: whether `up` would work here.

use std::{io::Write as _, process::ExitCode};

use serde::Serialize;

use crate::{
    cli::Globals,
    doctor::{self, Finding, State},
    error::{Context as _, ExitCode as Code, Result},
    host::Host,
    output::{CANNOT_WRITE, Column, Format, Sink, Table, write_json},
    session::{Session, block_on},
    topology::LinkName,
};

/// Find out whether `up` would work here, and what would be better otherwise
///
/// Looks at privileges, the kernel, files, memory, sysctls, the firewall, uplinks and the
/// programs of others on them. Programs are really loaded, and forgotten. Changes nothing,
/// and runs without privileges, too: then it says which are missing.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf doctor
  netbpf doctor --uplink eth0
  netbpf -o json doctor | jq '.findings[] | select(.state != \"ok\")'

Exit codes: 0 `up` would work, 3 it would not, 1 or 2 it cannot be told.")]
pub struct Args {
    /// An interface to the outside; can be given many times [default: that of the default route]
    #[arg(long, value_name = "DEV")]
    uplink: Vec<String>,
}

const COLUMNS: &[Column] =
    &[Column::left("STATE"), Column::left("ABOUT"), Column::left("FOUND"), Column::left("HINT")];

/// All of it in JSON.
#[derive(Serialize)]
struct View<'a> {
    /// Whether `up` would work.
    ready: bool,
    findings: Vec<FindingView<'a>>,
}

/// A finding in JSON.
#[derive(Serialize)]
struct FindingView<'a> {
    state: &'static str,
    about: &'a str,
    found: &'a str,
    hint: Option<&'a str>,
}

impl<'a> FindingView<'a> {
    fn of(finding: &'a Finding) -> Self {
        let Finding { state, about, what, hint } = finding;
        Self { state: state.name(), about, found: what, hint: hint.as_deref() }
    }
}

impl Args {
    /// Shows what was found.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn run(self, globals: &Globals) -> Result<ExitCode> {
        let uplinks = self.uplink.iter().map(|name| LinkName::existing(name));
        let uplinks: Vec<LinkName> = uplinks.collect::<Result<_>>()?;
        let (mut found, can_look) = doctor::look_at_kernel()?;
        if can_look {
            found.extend(block_on(async {
                let session = Session::open(Host::here()?)?;
                doctor::look_at_host(&session, &uplinks).await
            })?);
        }
        let ready = !found.iter().any(|finding| finding.state == State::Problem);
        print(&found, ready, globals)?;
        let code = if ready { Code::Done } else { Code::Differs };
        Ok(ExitCode::from(code as u8))
    }
}

fn print(found: &[Finding], ready: bool, globals: &Globals) -> Result<()> {
    let mut out = Sink::stdout();
    if globals.format() == Format::Json {
        let findings = found.iter().map(FindingView::of).collect();
        write_json(&mut out, &View { ready, findings })?;
    } else {
        let mut table = Table::new(&mut out, COLUMNS, !globals.no_headers);
        for Finding { state, about, what, hint } in found {
            table.row(|row| {
                for text in [state.name(), about, what, hint.as_deref().unwrap_or("-")] {
                    row.cell(text);
                }
            })?;
        }
        table.end()?;
    }
    out.flush().context(CANNOT_WRITE)
}
