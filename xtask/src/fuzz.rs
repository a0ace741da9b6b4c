//! `fuzz`: looks for frames, and histories of a network, that break an invariant.

use std::{
    env, fs,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{cargo, is_command, run},
    toolchain::{tools_dir, workspace},
};

const TARGETS: [&str; 2] = ["packet", "sequence"];

const CARGO_FUZZ_VERSION: &str = "0.13.2";

#[derive(clap::Args)]
pub(crate) struct Fuzz {
    /// Only this target
    #[arg(value_parser = TARGETS)]
    target: Option<String>,

    /// How long to look, for each target
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
}

impl Fuzz {
    pub(crate) fn run(&self) -> Result<()> {
        require_nightly()?;
        install_cargo_fuzz()?;
        let named = self.target.as_deref();
        for target in TARGETS.into_iter().filter(|target| named.is_none_or(|it| it == *target)) {
            println!("\n== {target}: for {} s", self.seconds);
            self.run_target(target)?;
        }
        Ok(())
    }

    fn run_target(&self, target: &str) -> Result<()> {
        let fuzz = workspace().join("fuzz");
        // The first folder gets what is found; the others are only read.
        let found = fuzz.join("target/found").join(target);
        fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        let known = ["corpus", "crashes"].map(|folder| fuzz.join(folder).join(target));

        let mut command = nightly("cargo");
        // All of it is safe Rust: sanitizers would find nothing and take half the speed.
        command.args(["fuzz", "run", "--sanitizer", "none", target]).arg(&found);
        command.args(known.iter().filter(|folder| folder.is_dir()));
        command.args(["--", "-verbosity=0", "-print_final_stats=1"]);
        command.arg(format!("-max_total_time={}", self.seconds)).current_dir(&fuzz);
        let path = env::var_os("PATH").unwrap_or_default();
        let dirs = [tools_dir().join("bin")].into_iter().chain(env::split_paths(&path));
        command.env("PATH", env::join_paths(dirs)?);
        let status = command.status().context("cannot start rustup")?;
        if !status.success() {
            bail!(
                "{target} did not run to its end: {status}\n\
                 what to do: if an input was saved, something does not hold for it; find out why, \
                 and keep it in fuzz/crashes/{target}/, where `cargo xtask test` replays it"
            );
        }
        Ok(())
    }
}

/// A program of the nightly toolchain. Cargo's own variables, which name the
/// one that runs us, are not for it.
fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]).env_remove("CARGO").env_remove("RUSTC");
    command
}

fn require_nightly() -> Result<()> {
    let mut version = nightly("rustc");
    version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    if version.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    bail!(
        "fuzzing needs a nightly compiler: no other can count what an input reaches\n\
         what to do: install rustup if it is not there, then `rustup toolchain install nightly`"
    )
}

fn install_cargo_fuzz() -> Result<()> {
    if tools_dir().join("bin/cargo-fuzz").is_file() || is_command("cargo-fuzz") {
        return Ok(());
    }
    println!("fuzzer:   building cargo-fuzz {CARGO_FUZZ_VERSION} (about a minute)");
    run(cargo("install")
        .args(["cargo-fuzz", "--version", CARGO_FUZZ_VERSION, "--locked", "--quiet", "--root"])
        .arg(tools_dir()))
    .context(
        "cargo-fuzz cannot be built\n\
         what to do: put it on the path, for example with `cargo install cargo-fuzz`",
    )
}
