//! `fuzz`: looks for frames, and histories of a network, of which the datapath makes
//! something else than it should.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{cargo, is_command, run},
    toolchain::{tools_dir, workspace},
};

/// A fuzz target, and the bytes of its inputs at most.
type Target = (&'static str, u32);

/// A script of 300 bytes has some forty events: what goes wrong goes wrong soon, and
/// short ones are many.
const TARGETS: [Target; 2] = [("packet", 4096), ("sequence", 300)];

const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// How long to look unless told otherwise.
const DEFAULT_SECONDS: u32 = 60;

#[derive(clap::Args)]
pub(crate) struct Fuzz {
    /// Only this target
    #[arg(value_parser = TARGETS.map(|(name, _)| name))]
    target: Option<String>,

    /// How long to look, for each target [default: 60, without --runs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,

    /// How many inputs to try, for each target
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    runs: Option<u64>,
}

impl Fuzz {
    pub(crate) fn run(&self) -> Result<()> {
        install()?;
        let bound = match (self.seconds, self.runs) {
            (None, None) => Bound { seconds: Some(DEFAULT_SECONDS), runs: None },
            (seconds, runs) => Bound { seconds, runs },
        };
        let named = self.target.as_deref();
        for target in TARGETS.into_iter().filter(|(name, _)| named.is_none_or(|it| it == *name)) {
            let executions = run_target(target, bound)?;
            println!("{}: {executions} executions, nothing found", target.0);
        }
        Ok(())
    }
}

/// Runs all targets for so long each, as a stage of `test`; the number of executions.
/// `report` is told of each target whether it ran to its end.
pub(crate) fn run_all(seconds: u32, mut report: impl FnMut(bool)) -> Result<u64> {
    install()?;
    let (mut executions, mut result) = (0, Ok(()));
    for target in TARGETS {
        match run_target(target, Bound { seconds: Some(seconds), runs: None }) {
            Ok(more) => {
                println!("{}: {more} executions, nothing found", target.0);
                executions += more;
                report(true);
            }
            Err(error) => {
                report(false);
                result = result.and(Err(error));
            }
        }
    }
    result.map(|()| executions)
}

/// When to stop: whichever comes first.
#[derive(Clone, Copy)]
struct Bound {
    seconds: Option<u32>,
    runs: Option<u64>,
}

/// Runs a target; the number of executions.
fn run_target((target, max_len): Target, bound: Bound) -> Result<u64> {
    println!("\n-- {target}");
    let fuzz = workspace().join("fuzz");
    // The first folder gets what is found; the others are only read.
    let found = fuzz.join("target/found").join(target);
    fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
    let known = ["corpus", "crashes"].map(|folder| fuzz.join(folder).join(target));

    let mut command = cargo("fuzz");
    // All of it is safe Rust: sanitizers would find nothing, take half the speed, and
    // need a nightly compiler. What is compared with what would take half of the rest.
    command.args(["run", "--sanitizer", "none", "--no-trace-compares", target]).arg(&found);
    command.args(known.iter().filter(|folder| folder.is_dir()));
    command.args(["--", "-verbosity=0", "-print_final_stats=1", &format!("-max_len={max_len}")]);
    // Nobody else finds anything: the folders need not be read again and again.
    command.arg("-reload=0");
    command.args(bound.seconds.map(|seconds| format!("-max_total_time={seconds}")));
    command.args(bound.runs.map(|runs| format!("-runs={runs}")));
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = [tools_dir().join("bin")].into_iter().chain(env::split_paths(&path));
    command.env("PATH", env::join_paths(dirs)?).current_dir(&fuzz);
    let (executions, is_success) = run_and_count(&mut command)?;
    if !is_success {
        bail!(
            "{target} did not run to its end\n\
             what to do: if an input was saved, something does not hold for it; find out why, \
             and keep it in fuzz/crashes/{target}/, where `cargo xtask test` replays it"
        );
    }
    executions.with_context(|| format!("{target} does not say how often it ran"))
}

/// Runs a fuzzer and passes on what it says; the number of executions, if it tells,
/// and whether it succeeded.
fn run_and_count(command: &mut Command) -> Result<(Option<u64>, bool)> {
    command.stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let stderr = child.stderr.take().context("the standard error is piped")?;
    let mut executions = None;
    for line in BufReader::new(stderr).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        executions = parse_executions(&line).or(executions);
        eprintln!("{line}");
    }
    Ok((executions, child.wait()?.success()))
}

/// The number of executions in libFuzzer's final statistics.
fn parse_executions(line: &str) -> Option<u64> {
    line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok()
}

/// Installs cargo-fuzz, if there is none.
pub(crate) fn install() -> Result<()> {
    if tools_dir().join("bin/cargo-fuzz").is_file() || is_command("cargo-fuzz") {
        return Ok(());
    }
    eprintln!("fuzzer:   building cargo-fuzz {CARGO_FUZZ_VERSION} (about a minute)");
    run(cargo("install")
        .args(["cargo-fuzz", "--version", CARGO_FUZZ_VERSION, "--locked", "--quiet", "--root"])
        .arg(tools_dir()))
    .context(
        "cargo-fuzz cannot be built\n\
         what to do: put it on the path, for example with `cargo install cargo-fuzz`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_of_a_fuzzer() {
        let line = "stat::number_of_executed_units: 62716";
        assert_eq!(parse_executions(line), Some(62_716));
        assert_eq!(parse_executions("Done 62716 runs in 13 second(s)"), None);
    }
}
