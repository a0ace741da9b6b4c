//! `conformance`: what a NAT has to do, and which tests prove it.
//!
//! A test names what it proves in a line of its documentation,
//! `/// Requirements: 4787-1, nat-6.`; the requirements are in [`CATALOGUE`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{self, cargo},
    requirements::CATALOGUE,
    setup, test, toolchain,
};

#[derive(clap::Args)]
pub(crate) struct Conformance {
    /// Only requirements whose id begins with this
    filter: Option<String>,

    /// Put the table into CONFORMANCE.md as well
    #[arg(long, conflicts_with = "filter")]
    write: bool,
}

impl Conformance {
    /// Runs the tests that prove something, and shows what they have proved.
    pub(crate) fn run(&self) -> Result<()> {
        let claims = read_claims()?;
        check_ids(&claims)?;
        let filter = self.filter.as_deref().unwrap_or_default();
        let wanted: Vec<&Claim> = claims
            .iter()
            .filter(|claim| claim.ids.iter().any(|id| id.starts_with(filter)))
            .collect();
        let passed = run_tests(&wanted)?;
        let rows: Vec<Row> = CATALOGUE
            .iter()
            .filter(|requirement| requirement.id.starts_with(filter))
            .map(|requirement| Row::new(requirement.id, requirement.asks, &wanted, &passed))
            .collect();
        print!("{}", plain(&rows));
        if self.write {
            let file = toolchain::workspace().join("CONFORMANCE.md");
            fs::write(&file, document(&rows))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        let lacking = rows.iter().filter(|row| row.result() != "pass").count();
        println!("{} requirements, {lacking} not met", rows.len());
        if lacking > 0 {
            bail!("requirements without a test, or with one that fails: {lacking}");
        }
        Ok(())
    }
}

/// A test that says what it proves.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    place: Place,
    /// Its name as libtest has it.
    test: String,
    ids: Vec<String>,
}

impl Claim {
    /// What tables show: the crate without its prefix, the file, the test.
    fn name(&self) -> String {
        let Place { package, target } = &self.place;
        let package = package.trim_start_matches("netbpf-");
        let target = target.as_ref().map_or(String::new(), |target| format!("{target}::"));
        format!("{package}/{target}{}", self.test)
    }
}

/// A test binary.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    package: &'static str,
    /// The file under `tests/`; none is the library itself.
    target: Option<String>,
}

/// Where tests are: package, folder in the workspace.
const PACKAGES: &[(&str, &str)] = &[
    ("netbpf-tests", "tests"),
    ("netbpf-ebpf", "netbpf-ebpf"),
    ("netbpf-common", "netbpf-common"),
    ("netbpf", "netbpf"),
];
const ROOT_TESTS: &str = PACKAGES[0].0;

/// All claims in the workspace, root tests first.
fn read_claims() -> Result<Vec<Claim>> {
    let mut claims = Vec::new();
    for (package, folder) in PACKAGES {
        let folder = toolchain::workspace().join(folder);
        for file in sources(&folder.join("tests"))? {
            let target = file.file_stem().context("a source has a name")?;
            let target = Some(target.to_string_lossy().into_owned());
            let text = read(&file)?;
            claims.extend(claims_in(&text, "", &Place { package, target }));
        }
        let library = folder.join("src");
        for file in sources(&library)? {
            let module = module_of(file.strip_prefix(&library)?);
            let text = read(&file)?;
            let place = Place { package, target: None };
            claims.extend(claims_in(&text, &format!("{module}tests::"), &place));
        }
    }
    Ok(claims)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The Rust sources in a folder and those below, in order; none without the folder.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !folder.exists() {
        return Ok(found);
    }
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

/// `a/b.rs` and `a/b/mod.rs` are `a::b::`, `lib.rs` is the crate itself.
fn module_of(file: &Path) -> String {
    let names = file.with_extension("");
    let mut module = String::new();
    for name in names.iter().map(|name| name.to_string_lossy()) {
        if !matches!(&*name, "lib" | "mod") {
            module.push_str(&name);
            module.push_str("::");
        }
    }
    module
}

/// The claims in a source: the lines, then the next function's name.
fn claims_in(source: &str, prefix: &str, place: &Place) -> Vec<Claim> {
    let mut claims = Vec::new();
    let mut ids: Vec<String> = Vec::new();
    for line in source.lines().map(str::trim_start) {
        if let Some(list) = line.strip_prefix("/// Requirements: ") {
            let list = list.trim_end().trim_end_matches('.');
            ids.extend(list.split(',').map(|id| id.trim().to_owned()));
        } else if let (false, Some(rest)) = (ids.is_empty(), line.strip_prefix("fn ")) {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            let ids = std::mem::take(&mut ids);
            claims.push(Claim { place: place.clone(), test: format!("{prefix}{name}"), ids });
        }
    }
    claims
}

/// Fails where a test claims what is no requirement: a slip of the pen.
fn check_ids(claims: &[Claim]) -> Result<()> {
    for claim in claims {
        for id in &claim.ids {
            if !CATALOGUE.iter().any(|requirement| requirement.id == id) {
                bail!(
                    "{} claims {id:?}, which is no requirement\n\
                     what to do: correct its `Requirements:` line, or add it to \
                     xtask/src/requirements.rs",
                    claim.test
                );
            }
        }
    }
    Ok(())
}

/// Runs the tests of all claims; returns those that have passed.
fn run_tests(claims: &[&Claim]) -> Result<BTreeSet<(Place, String)>> {
    let mut by_place: BTreeMap<&Place, Vec<&str>> = BTreeMap::new();
    for claim in claims {
        by_place.entry(&claim.place).or_default().push(&claim.test);
    }
    if by_place.keys().any(|place| place.package == ROOT_TESTS) {
        setup::setup()?;
        setup::setup_tests()?;
        process::build_release()?;
    }
    let mut passed = BTreeSet::new();
    for (place, tests) in by_place {
        let mut command = command_for(place)?;
        command.args(["--exact"]).args(tests);
        for line in test::run_cargo_test(&mut command)?.lines {
            if let Some(name) = line.strip_prefix("test ").and_then(|l| l.strip_suffix(" ... ok")) {
                passed.insert((place.clone(), name.to_owned()));
            }
        }
    }
    Ok(passed)
}

/// `cargo test` of one test binary, up to the arguments of that binary.
fn command_for(place: &Place) -> Result<Command> {
    let target = |command: &mut Command| {
        match &place.target {
            Some(name) => command.args(["--test", name]),
            None => command.arg("--lib"),
        };
    };
    if place.package == ROOT_TESTS {
        return test::root_tests(target);
    }
    let mut command = cargo("test");
    command.args(["--package", place.package]);
    target(&mut command);
    command.arg("--");
    Ok(command)
}

/// A requirement and what was found out about it.
struct Row<'a> {
    id: &'a str,
    asks: &'a str,
    /// Tests with their binaries, and whether they have passed.
    tests: Vec<(String, bool)>,
}

impl<'a> Row<'a> {
    fn new(
        id: &'a str,
        asks: &'a str,
        claims: &[&Claim],
        passed: &BTreeSet<(Place, String)>,
    ) -> Self {
        let of_this = claims.iter().filter(|claim| claim.ids.iter().any(|own| own == id));
        let tests = of_this.map(|claim| {
            let is_passed = passed.contains(&(claim.place.clone(), claim.test.clone()));
            (claim.name(), is_passed)
        });
        Self { id, asks, tests: tests.collect() }
    }

    fn result(&self) -> &'static str {
        match self.tests.as_slice() {
            [] => "NO TEST",
            tests if tests.iter().all(|(_, is_passed)| *is_passed) => "pass",
            _ => "FAIL",
        }
    }
}

/// The table for a terminal: a requirement, then its tests below.
fn plain(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        writeln!(text, "{:8} {:7}  {}", row.id, row.result(), row.asks).expect("to a string");
        for (name, is_passed) in &row.tests {
            let mark = if *is_passed { "ok" } else { "FAILED" };
            writeln!(text, "         {mark:7}  - {name}").expect("to a string");
        }
    }
    text
}

/// The table as a document.
fn document(rows: &[Row]) -> String {
    let mut text = String::from(INTRODUCTION);
    for row in rows {
        let tests: Vec<String> = row
            .tests
            .iter()
            .map(|(name, is_passed)| format!("`{name}`{}", if *is_passed { "" } else { " FAILED" }))
            .collect();
        let tests = tests.join("<br>");
        writeln!(text, "| {} | {} | {tests} | {} |", row.id, row.asks, row.result())
            .expect("to a string");
    }
    text
}

const INTRODUCTION: &str = "# Conformance

What a NAT has to do, and the tests that show it. `cargo xtask conformance` runs them
and prints this table; `--write` puts it here.

The numbers are those of RFC 4787 (UDP), 5382 (TCP), 5508 (ICMP), 7857 (updates) and
6056 (choice of ports); `nat` is what the bugs of other NATs have taught. Tests of
the datapath alone (`netbpf-ebpf/tests`) move the clock and need no root; the others
use real sockets and frames in network namespaces (`tests/tests`).

| requirement | asks | tests | result |
|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_requirement_has_a_test_and_every_claim_a_requirement() {
        let claims = read_claims().expect("the sources are there");
        check_ids(&claims).expect("all claims are of requirements");
        let is_claimed =
            |id: &str| claims.iter().any(|claim| claim.ids.iter().any(|own| own == id));
        let unproved: Vec<&str> =
            CATALOGUE.iter().map(|r| r.id).filter(|id| !is_claimed(id)).collect();
        assert!(unproved.is_empty(), "no test for {unproved:?}");
    }

    #[test]
    fn a_claim_is_the_next_functions() {
        let source = "/// Words.\n/// Requirements: 4787-1, nat-6.\n#[test]\nfn one() {\n\
                      fn inner() {}\n}\n#[test]\nfn two() {}\n";
        let place = Place { package: "p", target: None };
        let claims = claims_in(source, "a::tests::", &place);
        let ids = ["4787-1", "nat-6"].map(str::to_owned).to_vec();
        assert_eq!(claims, [Claim { place, test: "a::tests::one".into(), ids }]);
    }

    #[test]
    fn modules_are_named_after_their_files() {
        for (file, module) in [("a/b.rs", "a::b::"), ("a/mod.rs", "a::"), ("lib.rs", "")] {
            assert_eq!(module_of(Path::new(file)), module);
        }
    }

    #[test]
    fn a_requirement_without_a_test_is_not_met() {
        let place = Place { package: "p", target: Some("t".into()) };
        let claim = |test: &str| Claim {
            place: place.clone(),
            test: test.into(),
            ids: vec!["4787-1".into()],
        };
        let (good, bad) = (claim("good"), claim("bad"));
        let passed = BTreeSet::from([(place.clone(), "good".to_owned())]);
        let result = |claims: &[&Claim]| Row::new("4787-1", "asks", claims, &passed).result();
        assert_eq!(result(&[&good]), "pass");
        assert_eq!(result(&[&good, &bad]), "FAIL");
        assert_eq!(result(&[]), "NO TEST");
    }
}
