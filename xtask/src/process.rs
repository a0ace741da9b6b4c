//! Running other programs.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Runs a command to its end; an error tells the whole command line.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// What a command prints on its standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", output.status);
    }
    Ok(output.stdout)
}

/// Whether a program is found on the path.
pub(crate) fn is_command(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Cargo, in the workspace: the one that runs us, so that its builds are ours.
pub(crate) fn cargo(verb: &str) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(crate::toolchain::workspace()).arg(verb);
    cargo
}

/// Builds netbpf for use, and says where its executable is.
pub(crate) fn build_release() -> Result<PathBuf> {
    run(cargo("build").args(["--release", "--package", "netbpf"]))?;
    release_binary()
}

/// netbpf's executable lies beside ours, in the other profile's folder,
/// whatever target directory cargo was told to use.
pub(crate) fn release_binary() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find the own executable")?;
    let target =
        own.ancestors().nth(2).context("the own executable is not in a target directory")?;
    Ok(target.join("release/netbpf"))
}
