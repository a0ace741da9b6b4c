//! The mount namespace in which things are pinned and named.
//!
//! `ip netns exec HOST netbpf ...` runs netbpf in a private mount namespace
//! with a fresh `/sys`, in which no BPF file system is mounted, and nothing
//! that is mounted there reaches the outside: pins and namespaces' names would
//! be gone with the process. So netbpf goes back to where it was started from.

use std::{
    env,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::Pid,
};

use crate::error::{Context as _, Result};

/// Where the BPF file system is mounted.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// Whether a BPF file system is mounted at its place.
#[must_use]
pub(crate) fn has_bpffs() -> bool {
    statfs(BPFFS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// Enters the outermost mount namespace of this process's ancestors that it can
/// enter, if its own has no BPF file system. Must be called while the process
/// has one thread.
///
/// # Errors
/// The working directory of the other namespace cannot be entered.
pub(crate) fn join_outermost() -> Result<()> {
    if has_bpffs() {
        return Ok(());
    }
    let Some(outermost) = outermost() else { return Ok(()) };
    let directory = env::current_dir();
    if setns(&outermost, CloneFlags::CLONE_NEWNS).is_err() {
        // Not allowed to: whatever comes next says so better.
        return Ok(());
    }
    // Entering the namespace leads to its root.
    let directory = directory.unwrap_or_else(|_| "/".into());
    let back = env::set_current_dir(&directory).or_else(|_| env::set_current_dir("/"));
    back.context("cannot enter the working directory")
}

/// The mount namespace of the outermost ancestor that has another one than
/// this process and the same root directory: not that of a container's host.
fn outermost() -> Option<File> {
    let own = inode("/proc/self/ns/mnt").ok()?;
    let root = inode("/").ok()?;
    let mut found = None;
    let mut pid = Pid::parent();
    while pid.as_raw() > 0 {
        let process = Path::new("/proc").join(pid.to_string());
        let namespace = process.join("ns/mnt");
        let differs = inode(&namespace).is_ok_and(|other| other != own);
        if differs && inode(process.join("root")).is_ok_and(|other| other == root) {
            found = File::open(&namespace).ok().or(found);
        } else if inode(&namespace).is_ok_and(|other| other == own) {
            found = None;
        }
        let Some(parent) = parent(&process) else { break };
        pid = parent;
    }
    found
}

/// Device and inode: what tells a file from others.
fn inode(path: impl AsRef<Path>) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// The process's parent: the second field after its name in parentheses.
fn parent(process: &Path) -> Option<Pid> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok().map(Pid::from_raw)
}
