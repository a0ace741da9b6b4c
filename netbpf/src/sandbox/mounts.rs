//! The mounts of a sandbox: those of the machine, but for `/run` and the BPF
//! file system.

use std::{
    fs::{self, File},
    path::Path,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    unistd::Pid,
};

use crate::{
    error::{Context as _, Error, Result},
    namespace::on_a_thread,
};

/// Where names of namespaces and what netbpf remembers are.
const RUN: &str = "/run";

/// Where pins are.
const BPF: &str = "/sys/fs/bpf";

/// Makes the mount namespace of a sandbox, on a certain CPU if it matters.
pub(super) fn isolate(cpu: Option<usize>) -> Result<File> {
    on_a_thread(|| {
        if let Some(cpu) = cpu {
            let mut only = CpuSet::new();
            only.set(cpu)
                .and_then(|()| sched_setaffinity(Pid::from_raw(0), &only))
                .context(format!("cannot run on CPU {cpu}"))?;
        }
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace").map_err(
            |error| match Errno::last() {
                Errno::EPERM => error.hint("a sandbox needs to be made by root"),
                _ => error,
            },
        )?;
        // What the machine unmounts goes in here, too, lest it be kept; what is
        // mounted in here stays in here. Within, mounts reach each other's copies
        // as on a machine that systemd has booted.
        set("/", None, MsFlags::MS_REC | MsFlags::MS_SLAVE, None)?;
        set("/", None, MsFlags::MS_REC | MsFlags::MS_SHARED, None)?;
        for (place, kind, mode) in [(RUN, "tmpfs", "mode=755"), (BPF, "bpf", "mode=700")] {
            leave_out(Path::new(place))?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            set(place, Some(kind), flags, Some(mode))?;
        }
        let own = "/proc/thread-self/ns/mnt";
        File::open(own).context(format!("cannot open {own}"))
    })
}

fn set(place: &str, kind: Option<&str>, flags: MsFlags, options: Option<&str>) -> Result<()> {
    let doing = || match kind {
        Some(kind) => format!("cannot mount {kind} on {place} of a sandbox"),
        None => format!("cannot make {place} of a sandbox private"),
    };
    mount(kind, place, kind, flags, options)
        .map_err(|error| Error::failed(doing()).because(error.desc()))
}

/// Unmounts what is mounted in a place and below: namespaces of the machine
/// that have their names there would live as long as the sandbox otherwise.
fn leave_out(place: &Path) -> Result<()> {
    let path = "/proc/thread-self/mountinfo";
    let mounts = fs::read_to_string(path).context(format!("cannot read {path}"))?;
    let there = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    for mounted in there.filter(|&mounted| Path::new(mounted).starts_with(place)) {
        // What goes along with another is gone already; what cannot be unmounted
        // is hidden nevertheless.
        let _ = umount2(mounted, MntFlags::MNT_DETACH);
    }
    Ok(())
}
