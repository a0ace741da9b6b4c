//! The command line: one clap definition for parsing, `--help`, man pages and
//! completions. Each verb's arguments and its doing are in its own file below
//! [`crate::commands`].

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::{Args, ColorChoice, Parser, Subcommand};
use serde::Serialize;

use crate::{
    commands::{
        bench, check, doctor, down, exec, gc, generate, logs, maps, ns, plan, publish, sandboxed,
        status, switch, up, upgrade, uplink, verify,
    },
    error::{Error, Result},
    host::{self, Host},
    mounts,
    output::{Format, Style},
};

/// Gives network namespaces a network in one command, and moves their packets
/// with eBPF.
#[derive(Parser, Debug)]
#[command(
    name = "netbpf",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "\
Try it (with --sandbox at each, nothing on this machine is touched):
  netbpf up --namespaces 3 -p 8080:ns1:80
  netbpf status
  netbpf exec ns1 -- ping -c1 172.19.0.3
  netbpf maps flows
  netbpf down

Exit codes: 0 done, 1 failed, 2 wrong use, 3 differs; `exec` gives the command's own.
netbpf acts on the network namespace that it is started in."
)]
pub struct Cli {
    /// What every verb understands.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The options that every verb understands.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Globals {
    /// How results are shown
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// The same as `-o json`
    #[arg(short, long, global = true)]
    pub json: bool,
    /// Say nothing but errors and what was asked for
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say what is being done
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Leave the column names out of tables
    #[arg(long, global = true)]
    pub no_headers: bool,
    /// When to use colours: `NO_COLOR` is honoured
    #[arg(long, global = true, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    pub color: ColorChoice,
    /// Act in a sandbox: a host and an outside of its own, apart from this machine
    #[arg(long, global = true)]
    pub sandbox: bool,
}

impl Globals {
    /// The format of the results, whichever option asked for it.
    #[must_use]
    pub fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }

    /// Advice in which the calls of netbpf act where this one does.
    fn advice(&self, text: &str) -> String {
        if !self.sandbox {
            return text.to_owned();
        }
        let mut pieces = text.split("netbpf ");
        let first = pieces.next().unwrap_or_default().to_owned();
        pieces.fold(first, |text, piece| {
            let end = piece.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(piece.len());
            let (verb, rest) = piece.split_at(end);
            let place = if VERBS.contains(&verb) { " --sandbox" } else { "" };
            format!("{text}netbpf {verb}{place}{rest}")
        })
    }

    /// Whether errors are shown in colours.
    fn colours(&self) -> bool {
        match self.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                io::stderr().is_terminal() && !refused
            }
        }
    }

    /// How results are shown, in full.
    #[must_use]
    pub fn style(&self) -> Style {
        Style { format: self.format(), headers: !self.no_headers }
    }
}

/// The verbs.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Build a network of namespaces and load the datapath, or change the one there is
    Up(up::Args),
    /// Show the difference between what is asked for and what there is
    Plan(plan::Args),
    /// Take networks away, whatever state they are in
    Down(down::Args),
    /// Add and remove namespaces of a network that runs
    Ns(ns::Args),
    /// Publish ports of a network that runs, withdraw them, and show them
    Publish(publish::Args),
    /// Add and remove uplinks of a network that runs
    Uplink(uplink::Args),
    /// Switch a running network over to another datapath
    Switch(switch::Args),
    /// Replace the running programs by those of this netbpf, without a packet lost
    Upgrade(upgrade::Args),
    /// Show networks and whether every piece that should exist does
    Status(status::Args),
    /// Find out whether `up` would work here, and what would be better otherwise
    Doctor(doctor::Args),
    /// Find what was changed of networks by hand, or by others
    Check(check::Args),
    /// Remove what networks have left that are not known any more
    Gc(gc::Args),
    /// Run a command inside a namespace
    Exec(exec::Args),
    /// Show what the datapath knows, counts and carries
    Maps(maps::Args),
    /// Show what the datapath logged
    Logs(logs::Args),
    /// Measure how fast it is, beside the kernel's bridge and iptables
    Bench(bench::Args),
    /// Find out whether a network does what it should
    Verify(verify::Args),
    /// Write man pages or shell completions
    #[command(hide = true)]
    Generate(generate::Args),
}

/// Names of the verbs that act somewhere.
const VERBS: [&str; 16] = [
    "up", "plan", "down", "ns", "publish", "uplink", "switch", "upgrade", "status", "check", "gc",
    "doctor", "exec", "maps", "logs", "verify",
];

impl Verb {
    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Up(_) => "up",
            Self::Plan(_) => "plan",
            Self::Ns(_) => "ns",
            Self::Publish(_) => "publish",
            Self::Uplink(_) => "uplink",
            Self::Down(_) => "down",
            Self::Status(_) => "status",
            Self::Switch(_) => "switch",
            Self::Upgrade(_) => "upgrade",
            Self::Check(_) => "check",
            Self::Doctor(_) => "doctor",
            Self::Gc(_) => "gc",
            Self::Exec(_) => "exec",
            Self::Maps(_) => "maps",
            Self::Logs(_) => "logs",
            Self::Bench(_) => "bench",
            Self::Verify(_) => "verify",
            Self::Generate(_) => "generate",
        }
    }

    /// Reads what lies where the command was called, which may not be where it acts.
    fn load(&mut self) -> Result<()> {
        match self {
            Self::Up(args) => args.load(),
            Self::Plan(args) => args.load(),
            Self::Down(args) => args.load(),
            _ => Ok(()),
        }
    }

    /// Does what was asked for.
    pub(crate) fn run(self, globals: &Globals) -> Result<ExitCode> {
        match self {
            Self::Up(args) => args.run(globals),
            Self::Plan(args) => args.run(globals),
            Self::Ns(args) => args.run(globals),
            Self::Publish(args) => args.run(globals),
            Self::Uplink(args) => args.run(globals),
            Self::Down(args) => args.run(globals),
            Self::Switch(args) => args.run(globals),
            Self::Upgrade(args) => args.run(globals),
            Self::Status(args) => args.run(globals),
            Self::Check(args) => args.run(globals),
            Self::Doctor(args) => args.run(globals),
            Self::Gc(args) => args.run(globals),
            Self::Exec(args) => args.run(globals),
            Self::Maps(args) => args.run(&subject("maps")?, globals.style()),
            Self::Logs(args) => args.run(&subject("logs")?, globals.style()),
            Self::Bench(args) => args.run(globals),
            Self::Verify(args) => args.run(globals),
            Self::Generate(args) => args.run(),
        }
    }
}

/// The host's datapaths, for the verbs that look into it.
fn subject(verb: &str) -> Result<maps::Subject> {
    host::require_privileges(verb)?;
    maps::Subject::open(&Host::here()?)
}

/// Runs netbpf with the arguments of this process. Must be called first of all,
/// while the process has one thread.
#[must_use]
pub fn main() -> ExitCode {
    let mut cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error),
    };
    let globals = cli.globals;
    let done = cli.verb.load().and_then(|()| match &cli.verb {
        Verb::Generate(_) => Ok(()),
        _ => mounts::join_lasting(),
    });
    let run = if globals.sandbox { sandboxed::run } else { Verb::run };
    match done.and_then(|()| run(cli.verb, &globals)) {
        Ok(code) => code,
        Err(error) => {
            report(&error, &globals);
            ExitCode::from(error.code() as u8)
        }
    }
}

/// Says what clap says: help and the version, or in what the command line is
/// wrong, in JSON if the results were to be.
fn misunderstood(error: &clap::Error) -> ExitCode {
    let arguments = || std::env::args().skip(1).take_while(|argument| argument != "--");
    let mut pairs = arguments().zip(arguments().skip(1));
    let json = arguments().any(|argument| {
        matches!(argument.as_str(), "-j" | "--json" | "-ojson" | "-o=json" | "--output=json")
    }) || pairs
        .any(|(option, value)| matches!(option.as_str(), "-o" | "--output") && value == "json");
    if !(json && error.use_stderr()) {
        // There is nowhere else to say that it cannot be said.
        let _ = error.print();
        return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
    }
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let what = lines.next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(what);
    let hint = lines.find_map(|line| line.strip_prefix("tip: "));
    let error = Error::usage(what).hint(hint.unwrap_or("netbpf --help shows how it is used"));
    write_json_error(&error, error.advice());
    ExitCode::from(error.code() as u8)
}

/// An error in JSON.
#[derive(Serialize)]
struct ErrorView<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

/// Says on standard error what went wrong.
pub fn report(error: &Error, globals: &Globals) {
    let hint = error.advice().map(|hint| globals.advice(hint));
    if globals.format() == Format::Json {
        return write_json_error(error, hint.as_deref());
    }
    let (red, plain) = if globals.colours() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    let mut text = format!("{red}error{plain}: {}\n", error.what());
    text.extend(error.why().map(|why| format!("  why: {why}\n")));
    text.extend(hint.map(|hint| format!("  hint: {hint}\n")));
    write_error(&text);
}

fn write_json_error(error: &Error, hint: Option<&str>) {
    let view = ErrorView { error: error.what(), why: error.why(), hint };
    // Texts can always be written as JSON.
    write_error(&(serde_json::to_string(&view).unwrap_or_default() + "\n"));
}

fn write_error(text: &str) {
    // There is nowhere else to say that it cannot be said.
    let _ = io::stderr().write_all(text.as_bytes());
}
