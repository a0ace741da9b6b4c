//! How fast it is: netbpf beside what the kernel has, in one run.
//!
//! Each contender is a machine of its own in a sandbox (`arena`); all of them
//! take turns, so that what disturbs the machine disturbs everybody; and every
//! packet is counted where it arrives. Load comes from this very process: frames
//! from a generator in the kernel (`pps`, `cps`), or from sockets (`stream`,
//! `rr`, `cps`). Nothing of the machine is touched but, while many flows are
//! measured, the limit of its connection tracking (`conntrack`).

mod arena;
mod clock;
pub mod compare;
mod conntrack;
mod contender;
mod control;
mod cps;
mod date;
mod frame;
mod goals;
mod machine;
mod parts;
pub mod plot;
mod pps;
mod prog;
mod programs;
mod report;
mod rr;
mod run;
mod settings;
pub mod show;
mod sockets;
mod stats;
mod stream;
#[cfg(test)]
mod testing;

use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, Result};

pub use contender::{Contender, Way};
pub use goals::{Goal, judge};
pub use machine::MachineInfo;
pub use report::{Key, Metric, Mode, REPORT_VERSION, Report, Row};
pub use settings::Settings;
pub use stats::Stats;

use run::{Progress, Run};

/// What all of it is expected to take.
fn expected(settings: &Settings) -> Duration {
    let rounds = u32::try_from(settings.rounds).unwrap_or(u32::MAX);
    settings
        .modes
        .iter()
        .map(|mode| match mode {
            Mode::Pps => 11 * rounds * settings.burst,
            Mode::Flows => settings.flows.iter().map(|n| 6 * rounds * settings.burst_of(*n)).sum(),
            Mode::Cps => cps::expected(settings),
            Mode::Stream => stream::expected(settings),
            Mode::Rr => rr::expected(settings),
            Mode::Prog => prog::expected(settings),
            Mode::Parts => parts::expected(settings),
            Mode::Control => control::expected(settings),
        })
        .sum()
}

/// Runs a bench; `command` is what it was asked for, for the record. Unless
/// `quiet`, a line on a terminal tells how far it is.
///
/// # Errors
/// What it needs and is not there, and what went wrong.
pub fn run(settings: Settings, command: String, quiet: bool) -> Result<Report> {
    conntrack::put_back()?;
    let (date, begin) = (date::utc(SystemTime::now()), Instant::now());
    let machine = MachineInfo::here()?;
    let cpus = clock::cpus()?;
    if cpus.is_empty() {
        return Err(Error::failed("there is no CPU to measure on"));
    }
    let mut run = Run {
        absent: arena::absent()?,
        cpus,
        rows: Vec::new(),
        notes: Vec::new(),
        progress: Progress::new(expected(&settings), quiet),
        settings,
    };
    for (contender, why) in run.absent.clone() {
        run.note(format!("{contender} is left out: {why}"));
    }
    if machine.is_busy() {
        run.note(format!(
            "the machine was busy, with {} processes on {} CPUs: what sockets do tells little, and \
             the CPU time of packets is a little too long",
            machine.load, machine.cpus
        ));
    }
    for mode in run.settings.modes.clone() {
        match mode {
            Mode::Pps => pps::run(&mut run)?,
            Mode::Flows => pps::flows(&mut run)?,
            Mode::Cps => cps::run(&mut run)?,
            Mode::Stream => stream::run(&mut run)?,
            Mode::Rr => rr::run(&mut run)?,
            Mode::Prog => prog::run(&mut run)?,
            Mode::Parts => parts::run(&mut run)?,
            Mode::Control => control::run(&mut run)?,
        }
    }
    run.progress.finish();
    let goals = judge(&run.rows);
    let seconds = begin.elapsed().as_secs_f64();
    let (notes, rows) = (run.notes, run.rows);
    Ok(Report {
        report_version: REPORT_VERSION,
        date,
        seconds,
        command,
        machine,
        notes,
        rows,
        goals,
    })
}
