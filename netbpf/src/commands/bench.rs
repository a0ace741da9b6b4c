//! `netbpf bench`: how fast it is, beside what the kernel has.

use std::{
    fs,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;

use crate::{
    bench::{self, Mode, REPORT_VERSION, Report, Settings, compare, plot, show},
    cli::Globals,
    error::{self, Context as _, Error, Result},
    host,
    output::{CANNOT_WRITE, Format, Sink, write_json},
};

/// Measure how fast it is, beside the kernel's bridge and iptables
///
/// Builds the same network several times, each in a sandbox of its own: with
/// netbpf, with the kernel's bridge and iptables, with neither. Sends the same
/// packets through all of them in turn, counts what arrives, and shows what each
/// costs. Nothing on the host is touched, and no other program is needed; without
/// iptables its part is left out.
///
/// MEDIAN is of several rounds, SPREAD their median distance from it. USUAL tells
/// how many times better it is than the kernel's usual set-up (iptables, or the
/// bridge with bridge-nf-call-iptables=1), LIMIT the same of what is possible: a
/// program that looks nothing up, or a veth pair. CPUS is how many were busy.
///
/// Numbers in nanoseconds are CPU time, and include what generator and sink take.
#[derive(clap::Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  netbpf bench --quick
  netbpf bench --plot bench.svg
  netbpf bench pps flows --save after.json
  netbpf bench compare before.json after.json

While many flows are measured, the limit of the kernel's connection tracking is
raised for iptables if need be, and put back."
)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// What to measure; can be several [default: everything]
    #[arg(value_enum, value_name = "MODE")]
    modes: Vec<Mode>,
    /// Less of everything, in less than half a minute
    #[arg(long)]
    quick: bool,
    /// Hardly anything: whether it works
    #[arg(long, hide = true, conflicts_with = "quick")]
    tiny: bool,
    /// Rounds of each measurement [default: 15, quick 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Write a picture of packets and flows as well
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Write the report as JSON as well
    #[arg(long, value_name = "FILE.json")]
    save: Option<PathBuf>,
    /// End with exit code 3 if a goal is missed that was measured
    #[arg(long)]
    check: bool,
}

/// What is done with reports.
#[derive(Subcommand, Debug)]
enum Verb {
    /// Show what has changed between two reports beyond the noise
    Compare {
        /// A report in JSON
        #[arg(value_name = "OLD.json")]
        before: PathBuf,
        /// Another one
        #[arg(value_name = "NEW.json")]
        after: PathBuf,
        /// Show what is the same, too
        #[arg(long)]
        all: bool,
    },
}

impl Args {
    /// Runs it.
    ///
    /// # Errors
    /// What it needs and is not there, or what went wrong; nothing is left behind.
    pub fn run(self, globals: &Globals) -> Result<ExitCode> {
        if let Some(Verb::Compare { before, after, all }) = self.verb {
            return compare_files(&before, &after, all, globals);
        }
        host::require_privileges("bench")?;
        crate::interrupt::catch()?;
        let report = bench::run(self.settings(), self.words(), globals.quiet)?;
        if let Some(path) = &self.save {
            save(&report, path)?;
        }
        if let Some(path) = &self.plot {
            plot::write(&report, path)?;
        }
        let mut out = Sink::stdout();
        if globals.format() == Format::Json {
            write_json(&mut out, &report)?;
        } else {
            show::report(&mut out, &report, !globals.no_headers)?;
        }
        out.flush().context(CANNOT_WRITE)?;
        let missed = report.goals.iter().any(|goal| goal.is_reached() == Some(false));
        let code =
            if self.check && missed { error::ExitCode::Differs } else { error::ExitCode::Done };
        Ok(ExitCode::from(code as u8))
    }

    fn settings(&self) -> Settings {
        let mut settings = match (self.quick, self.tiny) {
            (true, _) => Settings::quick(),
            (_, true) => Settings::tiny(),
            _ => Settings::full(),
        };
        if !self.modes.is_empty() {
            settings.modes.clone_from(&self.modes);
        }
        settings.rounds = self.rounds.map_or(settings.rounds, usize::from);
        settings
    }

    /// The command that asks for the same.
    fn words(&self) -> String {
        let mut words = vec!["netbpf bench".to_owned()];
        words.extend(self.modes.iter().map(ToString::to_string));
        words.extend(self.quick.then(|| "--quick".to_owned()));
        words.extend(self.tiny.then(|| "--tiny".to_owned()));
        words.extend(self.rounds.map(|rounds| format!("--rounds {rounds}")));
        words.join(" ")
    }
}

fn save(report: &Report, path: &Path) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let mut file = BufWriter::new(fs::File::create(path).context(what())?);
    write_json(&mut file, report)?;
    file.flush().context(what())
}

fn load(path: &Path) -> Result<Report> {
    let what = || format!("cannot read {}", path.display());
    let text = fs::read_to_string(path).context(what())?;
    let no_report = |error: serde_json::Error| {
        Error::usage(format!("{} is no report of netbpf bench", path.display()))
            .because(error)
            .hint("make one with: netbpf bench --save FILE.json")
    };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(no_report)?;
    match value.get("report_version").and_then(serde_json::Value::as_u64) {
        Some(version) if version != u64::from(REPORT_VERSION) => {
            Err(Error::usage(format!("{} is another netbpf's report", path.display()))
                .because(format!("it is of version {version}, this netbpf's of {REPORT_VERSION}"))
                .hint("measure anew with one netbpf, or compare with the other"))
        }
        _ => serde_json::from_value(value).map_err(no_report),
    }
}

fn compare_files(before: &Path, after: &Path, all: bool, globals: &Globals) -> Result<ExitCode> {
    let found = compare::compare(&load(before)?, &load(after)?);
    let mut out = Sink::stdout();
    if globals.format() == Format::Json {
        write_json(&mut out, &found)?;
    } else {
        compare::show(&mut out, &found, all, !globals.no_headers)?;
    }
    out.flush().context(CANNOT_WRITE)?;
    Ok(ExitCode::SUCCESS)
}
