//! `netbpf verify --sandbox`.

use std::{
    io::Write as _,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use super::exit_code;
use crate::{
    cli::Globals,
    error::{Context as _, Result},
    host,
    output::{CANNOT_WRITE, Format, Sink, write_json},
    progress::say,
    verify::parity::{
        known,
        report::{Finding, Report, Run},
        scenario::Scenario,
    },
};

/// What is only of use in sandboxes.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "In sandboxes")]
#[group(id = "in_sandboxes")]
pub(super) struct Args {
    /// Scenarios that are made of the seed, beside those that have names
    #[arg(long, value_name = "N", default_value_t = 300, requires = "sandbox")]
    scenarios: u32,
    /// What scenarios are made of; the same gives the same [default: another one each time]
    #[arg(long, value_name = "NUMBER", requires = "sandbox")]
    seed: Option<u64>,
    /// Play the scenario of that number only, and show its frames
    #[arg(long, value_name = "NUMBER", requires = "sandbox")]
    only: Option<u32>,
    /// Stop after so many scenarios that differ
    #[arg(long, value_name = "N", default_value_t = 20, requires = "sandbox", value_parser = clap::value_parser!(u32).range(1..))]
    give_up: u32,
    /// List the differences that are intended, and why, and do nothing
    #[arg(long, requires = "sandbox")]
    list_differences: bool,
}

/// What `-o json` tells.
#[derive(Serialize)]
struct ParityView {
    seed: u64,
    works: bool,
    scenarios: u32,
    frames: usize,
    packets: usize,
    findings: Vec<FindingView>,
    unrepeated: Vec<FindingView>,
    intended: Vec<IntendedView>,
}

#[derive(Serialize)]
struct FindingView {
    scenario: u32,
    name: String,
    differences: Vec<String>,
}

#[derive(Serialize)]
struct IntendedView {
    name: &'static str,
    what: &'static str,
    why: &'static str,
    scenarios: usize,
}

impl Args {
    /// Compares.
    ///
    /// # Errors
    /// It cannot be compared.
    pub(super) fn run(self, globals: &Globals) -> Result<ExitCode> {
        if self.list_differences {
            return list(globals).map(|()| ExitCode::SUCCESS);
        }
        host::require_privileges("verify")?;
        crate::interrupt::catch()?;
        let seed = self.seed.unwrap_or_else(fresh_seed);
        // Before anything can go wrong.
        say(globals, format_args!("seed {seed}"));
        let run = Run {
            seed,
            generated: self.scenarios,
            only: self.only,
            give_up: self.give_up,
            verbose: globals.verbose,
        };
        let mut tell = |text: &str| say(globals, text);
        let report = run.play(&mut tell)?;
        print(&report, seed, globals)?;
        Ok(exit_code(report.findings.is_empty()))
    }
}

/// Another one each time.
fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(since.subsec_nanos()) ^ since.as_secs() << 20
}

fn list(globals: &Globals) -> Result<()> {
    let mut out = Sink::stdout();
    if globals.format() == Format::Json {
        #[derive(Serialize)]
        struct View {
            intended: Vec<IntendedView>,
        }
        let all = known::ALL.iter().map(|known| IntendedView::of(known, 0));
        write_json(&mut out, &View { intended: all.collect() })?;
    } else {
        for known::Known { name, what, why, .. } in &known::ALL {
            writeln!(out, "{name}: {what}\n    {why}").context(CANNOT_WRITE)?;
        }
    }
    out.flush().context(CANNOT_WRITE)
}

fn print(report: &Report, seed: u64, globals: &Globals) -> Result<()> {
    let mut out = Sink::stdout();
    if globals.format() == Format::Json {
        let view = ParityView {
            seed,
            works: report.findings.is_empty(),
            scenarios: report.scenarios,
            frames: report.frames,
            packets: report.packets,
            findings: report.findings.iter().map(FindingView::of).collect(),
            unrepeated: report.unrepeated.iter().map(FindingView::of).collect(),
            intended: report
                .intended
                .values()
                .map(|(known, n)| IntendedView::of(known, *n))
                .collect(),
        };
        write_json(&mut out, &view)?;
    } else {
        write_text(&mut out, report, seed).context(CANNOT_WRITE)?;
    }
    out.flush().context(CANNOT_WRITE)
}

fn write_text(out: &mut Sink, report: &Report, seed: u64) -> std::io::Result<()> {
    for finding in &report.findings {
        writeln!(out, "{finding}")?;
    }
    let Report { scenarios, frames, packets, findings, intended, .. } = report;
    writeln!(
        out,
        "{scenarios} scenarios of seed {seed}: {frames} frames in, {packets} packets out"
    )?;
    for (known, count) in intended.values() {
        writeln!(out, "{count} with an intended difference: {}", known.name)?;
    }
    for finding in &report.unrepeated {
        let Scenario { number, name, .. } = &finding.scenario;
        writeln!(out, "scenario {number} ({name}) differed once, and not again:")?;
        for difference in &finding.differences {
            write!(out, "{difference}")?;
        }
    }
    match findings.len() {
        0 => writeln!(out, "no other difference: both datapaths do the same"),
        count => writeln!(out, "{count} differ"),
    }
}

impl FindingView {
    fn of(finding: &Finding) -> Self {
        Self {
            scenario: finding.scenario.number,
            name: finding.scenario.name.clone(),
            differences: finding.differences.iter().map(ToString::to_string).collect(),
        }
    }
}

impl IntendedView {
    fn of(known: &'static known::Known, scenarios: usize) -> Self {
        Self { name: known.name, what: known.what, why: known.why, scenarios }
    }
}
