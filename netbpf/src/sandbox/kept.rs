//! The sandbox that stays when netbpf ends: `netbpf up --sandbox` makes it,
//! `netbpf down --sandbox` takes it away.
//!
//! ```text
//! /run/netbpf/sandbox/lock       held by whoever makes it or takes it away
//! /run/netbpf/sandbox/keep/      a private mount
//! /run/netbpf/sandbox/keep/mnt   the sandbox's mount namespace, bind-mounted
//! ```
//!
//! That one mount keeps all of it: its network namespaces have their names in
//! the sandbox's own `/run`. On a mount that propagates the kernel refuses mount
//! namespaces, and a mount namespace that is cloned meanwhile gets no copy of it.
//! It is mounted when everything is complete, so that a run which is killed
//! before leaves no sandbox.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::Path,
    process,
    sync::Arc,
};

use nix::{
    errno::Errno,
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CpuSet, sched_getaffinity},
    sys::statfs::{NSFS_MAGIC, statfs},
    unistd::{Pid, getppid},
};

use super::{Sandbox, World, mounts};
use crate::{
    error::{Context as _, Result},
    namespace::{enter_mounts, on_a_thread},
    net::netns,
    state::{Lock, Store},
};

const DIR: &str = "/run/netbpf/sandbox";
const KEEP: &str = "/run/netbpf/sandbox/keep";
const MOUNTS: &str = "/run/netbpf/sandbox/keep/mnt";
/// Where a mount namespace is only tried to be kept.
const TRIAL: &str = "/run/netbpf/sandbox/keep/trial";

/// The mount namespace of the kept sandbox; nothing if there is no sandbox, or
/// what an interrupted run left of one.
///
/// # Errors
/// The file system's.
pub(crate) fn find() -> Result<Option<File>> {
    let what = || format!("cannot look at {MOUNTS}");
    match statfs(MOUNTS) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Ok(found) if found.filesystem_type() != NSFS_MAGIC => Ok(None),
        Ok(_) => File::open(MOUNTS).context(what()).map(Some),
        Err(error) => Err(error).context(what()),
    }
}

/// The right to make the kept sandbox and to take it away.
#[derive(Debug)]
pub(crate) struct Keeper {
    keep: &'static Path,
    _lock: Lock,
}

impl Keeper {
    /// Waits for the right.
    ///
    /// # Errors
    /// Another run does not end, or the file system's.
    pub(crate) fn lock() -> Result<Self> {
        Ok(Self { keep: Path::new(KEEP), _lock: Store::new(DIR.into()).lock()? })
    }

    /// Makes a sandbox that can be kept.
    ///
    /// The kernel lets a mount namespace be mounted in older ones only, and
    /// newer kernels tell their age by a number of which each CPU has a stock of
    /// its own. So the CPU on which it is made decides, and one of them will do:
    /// the one on which this process's mount namespace was made.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn make(&self, world: &World) -> Result<Sandbox> {
        world.validate()?;
        let mut mounts = mounts::isolate(None)?;
        let mut others = (0..CpuSet::count()).filter(|&cpu| is_allowed(cpu));
        loop {
            self.discard()?;
            let tried = hold(&mounts, TRIAL);
            self.discard()?;
            match (tried, others.next()) {
                (Ok(()), _) => return Sandbox::within(Arc::new(mounts), world),
                (Err(error), Some(cpu)) if error.raw_os_error() == Some(libc::EINVAL) => {
                    mounts = mounts::isolate(Some(cpu))?;
                }
                (Err(error), _) => return Err(error).context("cannot keep a sandbox"),
            }
        }
    }

    /// Keeps a sandbox.
    ///
    /// # Errors
    /// The kernel's. The sandbox is not kept then.
    pub(crate) fn keep(&self, sandbox: &Sandbox) -> Result<()> {
        self.discard()?;
        hold(&sandbox.mounts, MOUNTS).context("cannot keep the sandbox").inspect_err(|_| {
            // The first error is what counts.
            let _ = self.discard();
        })
    }

    /// Lets go of the sandbox that is kept, and clears away what an interrupted
    /// run left. None is no error.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn discard(&self) -> Result<()> {
        let what = || format!("cannot remove {}", self.keep.display());
        loop {
            match umount2(self.keep, MntFlags::MNT_DETACH) {
                Ok(()) => {}
                Err(Errno::EINVAL | Errno::ENOENT) => break,
                Err(error) => return Err(error).context(what()),
            }
        }
        match fs::remove_dir(self.keep) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context(what()),
            _ => Ok(()),
        }
    }
}

/// Whether somebody who has started this process does not see the sandbox that it
/// keeps, having other mounts: in a shell of `unshare -m`, `ip netns exec` or `netbpf
/// exec`, say. Not if that cannot be told.
pub(crate) fn is_passing() -> bool {
    let mounts = |process: i32| Some(fs::metadata(format!("/proc/{process}/ns/mnt")).ok()?.ino());
    let own = mounts(process::id().cast_signed());
    let mut ancestor = Some(getppid().as_raw());
    while let Some(process) = ancestor.filter(|&process| process > 0) {
        match mounts(process) {
            None => return false,
            other if other != own => return true,
            _ => ancestor = parent(process),
        }
    }
    false
}

/// Who has started a process.
fn parent(process: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Whether this process may run on a CPU.
fn is_allowed(cpu: usize) -> bool {
    let allowed = sched_getaffinity(Pid::from_raw(0));
    allowed.and_then(|cpus| cpus.is_set(cpu)).unwrap_or_default()
}

/// Mounts a mount namespace in a place below [`KEEP`].
fn hold(mounts: &File, place: &str) -> io::Result<()> {
    let none = None::<&str>;
    DirBuilder::new().mode(0o700).create(KEEP)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("netbpf"), KEEP, Some("tmpfs"), flags, Some("mode=700"))?;
    mount(none, KEEP, none, MsFlags::MS_PRIVATE, none)?;
    File::create(place)?;
    let source = format!("/proc/self/fd/{}", mounts.as_raw_fd());
    Ok(mount(Some(source.as_str()), place, none, MsFlags::MS_BIND, none)?)
}

/// The processes inside a sandbox, as "NUMBER (command)": those in its mount
/// namespace, and those in one of its network namespaces.
///
/// # Errors
/// It cannot be entered, or processes cannot be listed.
pub(crate) fn processes(mounts: &Arc<File>) -> Result<Vec<(u32, String)>> {
    let networks: BTreeSet<u64> = on_a_thread(|| {
        enter_mounts(mounts).context("cannot enter the sandbox")?;
        let inode = |name: String| Some(fs::metadata(netns::path(&name)).ok()?.ino());
        Ok(netns::names()?.into_iter().filter_map(inode).collect())
    })?;
    let own = mounts.metadata().context("cannot look at the sandbox")?.ino();
    let is_inside = |process: &Path| {
        let inode = |kind: &str| fs::metadata(process.join("ns").join(kind)).map(|it| it.ino());
        inode("mnt").is_ok_and(|inode| inode == own)
            || inode("net").is_ok_and(|inode| networks.contains(&inode))
    };
    let entries = fs::read_dir("/proc").context("cannot list /proc")?;
    let mut found: Vec<(u32, String)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let number = path.file_name()?.to_str()?.parse().ok()?;
            let command = fs::read_to_string(path.join("comm")).ok()?;
            is_inside(&path).then(|| (number, command.trim().to_owned()))
        })
        .collect();
    found.sort_unstable();
    Ok(found)
}
