//! `test`: every check there is, in one command, with one count at the end.

use std::{
    fmt,
    io::{self, BufRead as _, BufReader, Write as _},
    ops::AddAssign,
    process::{Command, ExitCode, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    fuzz, kernels,
    process::{self, cargo},
    root, setup,
};

#[derive(clap::Args)]
pub(crate) struct Test {
    /// Only the tests whose path contains this
    filter: Option<String>,

    /// Leave out what needs root and an eBPF toolchain
    #[arg(long)]
    native_only: bool,

    /// Only the tests of NAT behaviour, against the kernel's own NAT (iptables): what
    /// they ask for, Linux does as well, or they say where not
    #[arg(long, conflicts_with_all = ["native_only", "fuzz_seconds"])]
    reference: bool,

    /// How long each fuzz target runs; none does if only some tests are asked for
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    fuzz_seconds: u32,
}

impl Test {
    /// Runs all stages, even after one has failed: one run tells everything.
    pub(crate) fn run(&self) -> ExitCode {
        let mut report = Report::default();
        let filter = self.filter.as_slice();
        if self.reference {
            report.stage("setup", |_| setup::setup().and_then(|()| setup::setup_tests()));
            report.stage("reference", |counts| {
                process::build_release()?;
                let tests = REFERENCE.iter().flat_map(|name| ["--test", name]);
                let mut command = root_tests(|command| {
                    command.args(tests);
                })?;
                count_tests(command.args(filter).env("NETBPF_REFERENCE", "iptables"), counts)
            });
            return report.conclude(None);
        }
        if !self.native_only {
            report.stage("setup", |_| {
                setup::setup()?;
                setup::setup_tests()?;
                if self.filter.is_none() { kernels::install() } else { Ok(()) }
            });
        }
        report.stage("format", |_| process::run(cargo("fmt").args(["--all", "--", "--check"])));
        report.stage("clippy", |_| {
            let lints = ["--workspace", "--all-targets", "--", "-D", "warnings"];
            process::run(cargo("clippy").args(lints))
        });
        report.stage("native tests", |counts| {
            let natives = ["--workspace", "--exclude", "netbpf-tests", "--no-fail-fast", "--"];
            count_tests(cargo("test").args(natives).args(filter), counts)
        });
        if self.filter.is_none() {
            report.stage("fuzz", |counts| {
                let mut count = |is_ok: bool| {
                    counts.passed += u32::from(is_ok);
                    counts.failed += u32::from(!is_ok);
                };
                counts.executions = fuzz::run_all(self.fuzz_seconds, &mut count)?;
                Ok(())
            });
        }
        if !self.native_only {
            let built = report.stage("release build", |_| process::build_release().map(drop));
            report.stage("root tests", |counts| {
                if !built {
                    bail!("there is no release build to test");
                }
                count_tests(root_tests(|_| {})?.args(filter), counts)
            });
            if self.filter.is_none() {
                report.stage("kernels", |counts| {
                    if !built {
                        bail!("there is no release build to test");
                    }
                    kernels::run_all(counts)
                });
            }
        }

        report.conclude(self.native_only.then_some("root tests"))
    }
}

/// The tests of what a NAT does, whatever it is made of.
const REFERENCE: [&str; 18] = [
    "connectivity",
    "flood",
    "fragments",
    "gone",
    "icmp_errors",
    "mapping",
    "nat",
    "path_mtu",
    "ports",
    "protocols",
    "published",
    "publishing",
    "several_uplinks",
    "tcp_states",
    "traceroute",
    "tun",
    "uplinks",
    "wire_nat",
];

/// The tests in kernel and namespaces. Cargo itself stays an ordinary user's,
/// so that nothing in the target directory comes to belong to root.
///
/// `select` narrows them down to some of the test binaries.
pub(crate) fn root_tests(select: impl FnOnce(&mut Command)) -> Result<Command> {
    root::require("testing in the kernel and in network namespaces")?;
    let mut tests = cargo("test");
    if !root::is_root() {
        eprintln!("not root: using sudo, because the root tests need root");
        tests.args([
            "--config",
            "target.'cfg(unix)'.runner=['sudo','--preserve-env=NETBPF_BIN,NETBPF_REFERENCE']",
        ]);
    }
    // More than two at a time disturb each other's timing on small machines.
    tests.args(["--package", "netbpf-tests", "--release", "--no-fail-fast"]);
    select(&mut tests);
    tests.args(["--", "--test-threads=2"]).env("NETBPF_BIN", process::release_binary()?);
    Ok(tests)
}

/// Runs `cargo test`, passes on what it prints, and adds up its results.
fn count_tests(command: &mut Command, counts: &mut Counts) -> Result<()> {
    let run = run_cargo_test(command)?;
    for results in run.lines.iter().filter_map(|line| parse_results(line)) {
        *counts += results;
    }
    if !run.status.success() {
        bail!("{command:?}: {}", run.status);
    }
    Ok(())
}

/// What `cargo test` has printed, and how it ended.
pub(crate) struct Run {
    pub(crate) lines: Vec<String>,
    pub(crate) status: ExitStatus,
}

/// Runs `cargo test` and passes on what it prints as it does so.
pub(crate) fn run_cargo_test(command: &mut Command) -> Result<Run> {
    command.stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let stdout = child.stdout.take().context("the output is piped")?;
    let mut lines = Vec::new();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let mut out = io::stdout().lock();
        out.write_all(&line).and_then(|()| out.write_all(b"\n"))?;
        lines.push(String::from_utf8_lossy(&line).into_owned());
    }
    Ok(Run { lines, status: child.wait()? })
}

/// The line in which a test binary closes its run.
pub(crate) fn parse_results(line: &str) -> Option<Counts> {
    let results = line.strip_prefix("test result: ")?;
    let words: Vec<_> = results.split_whitespace().collect();
    let count = |name: &str| {
        let position = words.iter().position(|word| word.trim_end_matches(';') == name)?;
        words.get(position.checked_sub(1)?)?.parse().ok()
    };
    let (passed, failed, ignored) = (count("passed")?, count("failed")?, count("ignored")?);
    Some(Counts { passed, failed, ignored, executions: 0 })
}

/// How many tests came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) ignored: u32,
    /// Inputs that fuzzers tried.
    pub(crate) executions: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.executions += other.executions;
    }
}

/// What became of each stage.
#[derive(Default)]
struct Report(Vec<Stage>);

struct Stage {
    name: &'static str,
    counts: Counts,
    succeeded: bool,
    took: Duration,
}

impl Report {
    /// Runs a stage, and says whether it succeeded.
    fn stage(&mut self, name: &'static str, run: impl FnOnce(&mut Counts) -> Result<()>) -> bool {
        println!("\n== {name}");
        let start = Instant::now();
        let mut counts = Counts::default();
        let result = run(&mut counts);
        if let Err(error) = &result {
            println!("error: {error:#}");
        }
        self.0.push(Stage { name, counts, succeeded: result.is_ok(), took: start.elapsed() });
        result.is_ok()
    }

    /// Prints what became of all stages, and of one that was left out.
    fn conclude(&self, left_out: Option<&str>) -> ExitCode {
        println!("\n== summary");
        for stage in &self.0 {
            println!("{stage}");
        }
        if let Some(name) = left_out {
            println!("{name:14} left out (--native-only)");
        }
        let Counts { passed, failed, .. } = self.total();
        println!("{passed} passed, {failed} failed");
        if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        for stage in &self.0 {
            total += stage.counts;
            // A stage that failed otherwise than by a test, say in the compiler,
            // must not let the last line say that nothing did.
            if !stage.succeeded && stage.counts.failed == 0 {
                total.failed += 1;
            }
        }
        total
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, counts, succeeded, took } = self;
        let Counts { passed, failed, ignored, executions } = counts;
        let outcome = if *succeeded { "ok" } else { "FAILED" };
        write!(f, "{name:14} {outcome:6} {:7.1} s", took.as_secs_f64())?;
        if passed + failed + ignored > 0 {
            write!(f, "  {passed} passed, {failed} failed, {ignored} ignored")?;
        }
        if *executions > 0 {
            write!(f, ", {executions} executions")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_a_test_binary() {
        let line = "test result: FAILED. 11 passed; 2 failed; 1 ignored; 0 measured; \
                    3 filtered out; finished in 0.01s";
        assert_eq!(
            parse_results(line),
            Some(Counts { passed: 11, failed: 2, ignored: 1, executions: 0 })
        );
        assert_eq!(parse_results("test flow::passed ... ok"), None);
        assert_eq!(parse_results("test result: what next"), None);
    }

    #[test]
    fn stage_that_fails_without_tests_counts_as_one() {
        let mut report = Report::default();
        report.stage("native tests", |counts| {
            *counts += Counts { passed: 3, failed: 2, ..Counts::default() };
            bail!("two of five failed")
        });
        report.stage("clippy", |_| bail!("a lint"));
        report.stage("format", |_| Ok(()));
        assert_eq!(report.total(), Counts { passed: 3, failed: 3, ..Counts::default() });
    }
}
