//! `netbpf check`: what was changed of networks behind netbpf's back.

use std::{io::Write as _, process::ExitCode};

use serde::Serialize;

use super::status::find;
use crate::{
    cli::Globals,
    drift::Finding,
    error::{Context as _, ExitCode as Code, Result},
    host::{self, Host},
    network,
    output::{CANNOT_WRITE, Column, Format, Sink, Table, write_json},
    progress::say,
};

/// Find what was changed of networks by hand, or by others
///
/// Compares what each network should have with what there is: interfaces, addresses,
/// routes, namespaces, sysctls, programs, pins, entries of maps, flows, rules. Changes nothing;
/// `up` mends what is listed with the steps that it would take.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf check
  netbpf check shop
  netbpf check && echo as it should be
  netbpf -o json check | jq '.findings[].thing'

Exit codes: 0 all is as it should be, 3 something is not, 1 or 2 it cannot be told.")]
pub struct Args {
    /// The network; all if none is named
    #[arg(value_name = "NET")]
    network: Option<String>,
}

const COLUMNS: &[Column] = &[
    Column::left("NETWORK"),
    Column::left("WHAT"),
    Column::left("AMISS"),
    Column::left("MENDED BY"),
];

/// All of it in JSON.
#[derive(Serialize)]
struct View<'a> {
    findings: Vec<FindingView<'a>>,
}

/// A finding in JSON.
#[derive(Serialize)]
struct FindingView<'a> {
    network: &'a str,
    thing: &'a str,
    amiss: &'a str,
    /// The steps that `up` would take; none if it cannot mend it.
    mend: &'a [String],
    /// What somebody has to do, if `up` cannot mend it.
    hint: Option<&'a str>,
}

impl<'a> FindingView<'a> {
    fn of(finding: &'a Finding) -> Self {
        let Finding { network, thing, amiss, mend, hint } = finding;
        Self { network: network.as_str(), thing, amiss, mend, hint: hint.as_deref() }
    }
}

impl Args {
    /// Shows what was found.
    ///
    /// # Errors
    /// There is no such network, or it cannot be looked at.
    pub fn run(self, globals: &Globals) -> Result<ExitCode> {
        host::require_privileges("check")?;
        let found = network::check(Host::here()?, |networks| {
            self.network.map(|name| find(networks, &name)).transpose()
        })?;
        print(&found, globals)?;
        let code = if found.is_empty() { Code::Done } else { Code::Differs };
        Ok(ExitCode::from(code as u8))
    }
}

fn print(found: &[Finding], globals: &Globals) -> Result<()> {
    let mut out = Sink::stdout();
    if globals.format() == Format::Json {
        let findings = found.iter().map(FindingView::of).collect();
        write_json(&mut out, &View { findings })?;
    } else if found.is_empty() {
        say(globals, "all is as it should be");
    } else {
        let mut table = Table::new(&mut out, COLUMNS, !globals.no_headers);
        for finding in found {
            table.row(|row| {
                for text in [finding.network.as_str(), &finding.thing, &finding.amiss] {
                    row.cell(text);
                }
                row.cell(mended_by(finding));
            })?;
        }
        table.end()?;
    }
    out.flush().context(CANNOT_WRITE)
}

/// What mends it, in a cell.
fn mended_by(finding: &Finding) -> String {
    match (&finding.hint, &finding.mend[..]) {
        (Some(hint), _) => format!("you: {hint}"),
        (None, [only]) => format!("up: {only}"),
        (None, steps) => format!("up: {} steps", steps.len()),
    }
}
