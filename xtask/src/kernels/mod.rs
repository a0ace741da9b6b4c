//! `kernels`: the release build and root tests on other kernels, in virtual machines.

mod guest;
mod image;
mod packages;
mod subset;

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

pub(crate) use packages::install;

use crate::{process, setup, test::Counts};
use guest::Event;
use packages::{KERNELS, Kernel};

#[derive(clap::Args)]
pub(crate) struct Kernels {
    /// Only this kernel
    #[arg(value_parser = KERNELS)]
    kernel: Option<String>,

    /// All tests in this file of tests/tests, instead of a choice from many
    #[arg(long = "test", value_name = "FILE")]
    files: Vec<String>,
}

impl Kernels {
    /// Boots one kernel after the other, and tells by a table what ran on them.
    pub(crate) fn run(&self) -> Result<()> {
        setup::setup()?;
        setup::setup_tests()?;
        install()?;
        process::build_release()?;
        let named = self.kernel.as_deref();
        let versions = KERNELS.into_iter().filter(|known| named.is_none_or(|it| it == *known));
        let mut chosen = usual();
        if !self.files.is_empty() {
            chosen = self.files.iter().map(|file| (file.clone(), Vec::new())).collect();
        }
        let mut counts = Counts::default();
        let tested = test_on(versions, &chosen, &mut counts);
        println!("{} passed, {} failed", counts.passed, counts.failed);
        tested
    }
}

/// Runs the usual tests on all kernels, as a stage of `test`.
pub(crate) fn run_all(counts: &mut Counts) -> Result<()> {
    test_on(KERNELS, &usual(), counts)
}

/// Tests by their files; no names are all of a file.
type Chosen = BTreeMap<String, Vec<String>>;

fn usual() -> Chosen {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    subset::SUBSET.iter().map(|(file, names)| ((*file).to_owned(), owned(names))).collect()
}

/// Runs tests on kernels, prints the table, and adds up what came of them.
fn test_on(
    versions: impl IntoIterator<Item = &'static str>,
    chosen: &Chosen,
    counts: &mut Counts,
) -> Result<()> {
    let tested = test_binaries(chosen)?;
    let mut rows = Vec::new();
    for version in versions {
        let kernel = Kernel::unpacked(version)?;
        println!("booting {}", kernel.release);
        rows.push(test_kernel(kernel, &tested)?);
    }
    println!();
    let mut failed = 0;
    for row in &rows {
        println!("{row}");
        *counts += row.counts();
        failed += u32::from(!row.succeeded());
    }
    if failed > 0 {
        bail!("kernels on which something failed or did not run: {failed}");
    }
    Ok(())
}

/// A test binary, built, and which of its tests are to run: all, if none is named.
struct Tested {
    binary: PathBuf,
    names: Vec<String>,
}

/// Builds what has the tests that are chosen.
fn test_binaries(chosen: &Chosen) -> Result<BTreeMap<String, Tested>> {
    let mut command = process::cargo("test");
    command.args(["--package", "netbpf-tests", "--release", "--no-run"]);
    command.arg("--message-format=json-render-diagnostics");
    command.args(chosen.keys().flat_map(|file| ["--test", file]));
    let messages = process::output(&mut command)?;
    let mut tested = BTreeMap::new();
    for line in String::from_utf8_lossy(&messages).lines() {
        let message: serde_json::Value =
            serde_json::from_str(line).context("cargo's messages are JSON")?;
        let (name, binary) = (message["target"]["name"].as_str(), message["executable"].as_str());
        if let Some((name, binary)) = name.zip(binary)
            && let Some(names) = chosen.get(name)
        {
            let names = names.clone();
            tested.insert(name.to_owned(), Tested { binary: binary.into(), names });
        }
    }
    if let Some(missing) = chosen.keys().find(|name| !tested.contains_key(*name)) {
        bail!("cargo has built no tests of {missing}");
    }
    Ok(tested)
}

/// What became of the tests on a kernel.
struct OnKernel {
    release: String,
    files: Vec<OfFile>,
    /// Whether it came to its end by itself.
    is_done: bool,
    took: Duration,
    left_out: Vec<&'static subset::LeftOut>,
}

/// What became of the tests of a file.
struct OfFile {
    name: String,
    /// How many have to pass, at least.
    expected: usize,
    counts: Counts,
    code: Option<i32>,
    took: Duration,
}

impl OfFile {
    fn not_begun(name: &str, expected: usize) -> Self {
        let (counts, took) = (Counts::default(), Duration::ZERO);
        Self { name: name.to_owned(), expected, counts, code: None, took }
    }

    /// Why it did not succeed: nothing if it did.
    fn trouble(&self) -> Option<&'static str> {
        match self.code {
            None => Some("did not end"),
            Some(0) if self.counts.failed > 0 => Some("FAILED"),
            Some(0) if (self.counts.passed as usize) < self.expected => Some("did not run"),
            Some(0) => None,
            Some(_) => Some("FAILED"),
        }
    }
}

impl OnKernel {
    fn succeeded(&self) -> bool {
        self.is_done && self.files.iter().all(|file| file.trouble().is_none())
    }

    /// What the tests came to. A file that did not run to its end, and a machine that did
    /// not, count as one that failed.
    fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for file in &self.files {
            sum += file.counts;
            sum.failed += u32::from(file.trouble().is_some() && file.counts.failed == 0);
        }
        sum.failed += u32::from(!self.is_done && sum.failed == 0);
        sum
    }
}

impl fmt::Display for OnKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<32} {:>6} {:>6} {:>8}", self.release, "PASSED", "FAILED", "TIME")?;
        for file in &self.files {
            let OfFile { name, counts: Counts { passed, failed, .. }, took, .. } = file;
            let (took, note) = (took.as_secs_f64(), file.trouble().unwrap_or_default());
            writeln!(f, "  {name:<30} {passed:>6} {failed:>6} {took:>6.1} s  {note}")?;
        }
        let Counts { passed, failed, .. } = self.counts();
        let note = if self.is_done { "" } else { "did not come to its end" };
        let took = self.took.as_secs_f64();
        writeln!(f, "  {:<30} {passed:>6} {failed:>6} {took:>6.1} s  {note}", "in all")?;
        for out in &self.left_out {
            writeln!(f, "  left out: {}: {}", out.test, out.reason)?;
        }
        Ok(())
    }
}

/// Boots a kernel and follows the tests on it.
fn test_kernel(kernel: Kernel, tested: &BTreeMap<String, Tested>) -> Result<OnKernel> {
    let start = Instant::now();
    let left_out = subset::left_out(&kernel.version);
    let image = image::make(&kernel, tested, &left_out)?;
    let expected = |tested: &Tested| {
        let is_left_out = |name: &String| left_out.iter().any(|out| out.test == name);
        tested.names.iter().filter(|name| !is_left_out(name)).count().max(1)
    };
    let mut files: Vec<OfFile> =
        tested.iter().map(|(name, tested)| OfFile::not_begun(name, expected(tested))).collect();
    let (mut current, mut began) = (None, Instant::now());
    let is_done = guest::run(&kernel, &image, |event| {
        if let Event::Begin(name) = &event {
            current = files.iter().position(|file| file.name == *name);
            began = Instant::now();
        }
        let Some(file) = current.and_then(|index| files.get_mut(index)) else { return };
        file.took = began.elapsed();
        match event {
            Event::Begin(_) => {}
            Event::Results(counts) => file.counts += counts,
            Event::End(code) => file.code = Some(code),
        }
    })?;
    Ok(OnKernel { release: kernel.release, files, is_done, took: start.elapsed(), left_out })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u32, failed: u32) -> Counts {
        Counts { passed, failed, ..Counts::default() }
    }

    fn on_kernel(files: Vec<OfFile>, is_done: bool) -> OnKernel {
        let took = Duration::ZERO;
        OnKernel { release: "6.1".into(), files, is_done, took, left_out: Vec::new() }
    }

    #[test]
    fn what_did_not_run_to_its_end_has_failed() {
        let file = |code, counts| OfFile { counts, code, ..OfFile::not_begun("nat", 2) };
        let cases = [
            (file(Some(0), counts(2, 0)), true, (2, 0)),
            (file(Some(0), counts(2, 0)), false, (2, 1)),
            (file(None, counts(0, 0)), true, (0, 1)),
            (file(None, counts(2, 0)), false, (2, 1)),
            (file(Some(101), counts(1, 1)), true, (1, 1)),
            (file(Some(139), counts(0, 0)), true, (0, 1)),
            // One of them has another name by now.
            (file(Some(0), counts(1, 0)), true, (1, 1)),
        ];
        for (file, is_done, (passed, failed)) in cases {
            let kernel = on_kernel(vec![file], is_done);
            assert_eq!(kernel.counts(), counts(passed, failed));
            assert_eq!(kernel.succeeded(), failed == 0);
        }
    }
}
