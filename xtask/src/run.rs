//! `run`: netbpf as a user would start it.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{process, root, setup};

/// Builds netbpf and becomes it, so that its exit code and its signals are its own.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    run_for(args, "configuring networks and loading eBPF programs")
}

/// The same; `purpose` is what it needs root for.
pub(crate) fn run_for(args: &[OsString], purpose: &str) -> Result<()> {
    root::require(purpose)?;
    setup::ensure()?;
    let binary = process::build_release()?;
    let mut command = root::command(&binary, purpose)?;
    let error = command.args(args).exec();
    Err(error).with_context(|| format!("cannot start {}", binary.display()))
}
