//! The mount namespace in which things are pinned and named.
//!
//! `ip netns exec HOST netbpf ...` runs netbpf in a passing copy of the mount
//! namespace that `ip` was called in, with a fresh `/sys`. Nothing that is
//! mounted in the copy reaches the original: neither a BPF file system nor the
//! names of namespaces, which are mounts, too. So netbpf first goes back to
//! where its mounts last.

use std::env;

use nix::sched::{CloneFlags, setns};

use crate::{
    bpf::bpffs::{Home, is_mounted},
    error::{Context as _, Result},
};

/// Enters the mount namespace whose mounts last, if this process is in a copy
/// of it without a BPF file system. Must be called while the process has one
/// thread.
///
/// # Errors
/// There is such a namespace, but it cannot be entered.
pub(crate) fn join_lasting() -> Result<()> {
    if is_mounted() {
        return Ok(());
    }
    let Home::At(namespace) = Home::find()? else { return Ok(()) };
    // Entering it leads to its root directory.
    let directory = env::current_dir();
    setns(&namespace, CloneFlags::CLONE_NEWNS).context("cannot enter the mount namespace")?;
    let back = directory.and_then(env::set_current_dir).or_else(|_| env::set_current_dir("/"));
    back.context("cannot enter the working directory")
}
