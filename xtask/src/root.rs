//! Privileges: what needs root says why, and gets it from sudo where we are not root.

use std::process::Command;

use anyhow::{Result, bail};

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Fails where root can be had neither by being it nor through sudo.
pub(crate) fn require(purpose: &str) -> Result<()> {
    if is_root() || crate::process::is_command("sudo") {
        return Ok(());
    }
    bail!(
        "{purpose} needs root, but this is an ordinary user and there is no sudo\n\
         what to do: run the same command as root, or install sudo"
    )
}

/// A command run as root; says so where that takes sudo.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>, purpose: &str) -> Result<Command> {
    require(purpose)?;
    if is_root() {
        return Ok(Command::new(program));
    }
    eprintln!("not root: using sudo, because {purpose} needs root");
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}
