//! The BPF file system that pins live on.
//!
//! It is on `/sys/fs/bpf`, where systemd mounts it; where nobody has, loading a
//! datapath does.

use std::{fs, io, path::Path};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::error::{Context as _, Error, Result};

/// Where it is mounted.
const PLACE: &str = "/sys/fs/bpf";

/// Whether a BPF file system is in its place, as this process sees it.
#[must_use]
pub fn has_bpffs() -> bool {
    statfs(PLACE).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// What is mounted over the place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cover {
    /// BPF file systems without anything in them.
    Empty,
    /// One in which something is pinned.
    InUse,
}

/// What hides `pins`, which should be there; nothing if they are there, or nothing is mounted
/// over another BPF file system.
#[must_use]
pub fn cover(pins: &Path) -> Option<Cover> {
    if pins.exists() || mounts() < 2 {
        return None;
    }
    Some(if is_empty() { Cover::Empty } else { Cover::InUse })
}

/// How many BPF file systems are mounted in the place, one over the other.
fn mounts() -> usize {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    count(&text)
}

/// The same, in the text of a `mountinfo`: number, parent, device, root, place, options, any
/// number of tags, a dash, and what is mounted.
fn count(mountinfo: &str) -> usize {
    let is_bpffs = |line: &&str| {
        let mut fields = line.split(' ');
        let is_there = fields.nth(4) == Some(PLACE);
        is_there && fields.skip_while(|field| *field != "-").nth(1) == Some("bpf")
    };
    mountinfo.lines().filter(is_bpffs).count()
}

/// Whether nothing is in it but what the kernel puts in each.
fn is_empty() -> bool {
    let Ok(mut entries) = fs::read_dir(PLACE) else { return false };
    entries.all(|entry| entry.is_ok_and(|entry| entry.path().extension() == Some("debug".as_ref())))
}

/// Takes away what is mounted over `pins`, if nothing is in it.
///
/// # Errors
/// Something is in it, or uses it, or the kernel refuses.
pub fn uncover(pins: &Path) -> Result<()> {
    while let Some(cover) = cover(pins) {
        let what = format!("what is pinned in {} is hidden", pins.display());
        let hint = format!("take it away: umount {PLACE}");
        if cover == Cover::InUse {
            let why = "another BPF file system is mounted over it, in which something is pinned";
            return Err(Error::failed(what).because(why).hint(hint));
        }
        umount2(PLACE, MntFlags::empty()).context(what).map_err(|error| error.hint(hint))?;
    }
    Ok(())
}

/// Enters a mount namespace of this process's own, in which nothing is mounted over `pins`:
/// to look at them, and to change nothing. Must be called while the process has one thread.
///
/// # Errors
/// The kernel refuses.
pub fn look_beneath(pins: &Path) -> Result<()> {
    let what = format!("cannot look beneath what is mounted on {PLACE}");
    unshare(CloneFlags::CLONE_NEWNS).context(what.as_str())?;
    let (none, flags) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, flags, none).context(what.as_str())?;
    while cover(pins).is_some() {
        umount2(PLACE, MntFlags::MNT_DETACH).context(what.as_str())?;
    }
    Ok(())
}

/// Mounts a BPF file system if there is none.
pub(super) fn ensure() -> Result<()> {
    if has_bpffs() {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), PLACE, Some("bpf"), flags, Some("mode=700"))
        .map_err(io::Error::from)
        .context(format!("cannot mount a BPF file system on {PLACE}"))
        .map_err(|error| error.hint(format!("try `mount -t bpf bpf {PLACE}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_over_one_another_are_counted() {
        let mounts = "\
30 22 0:27 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700
31 30 0:28 / /sys/fs/bpf rw - bpf bpf rw
32 22 0:29 / /sys/fs/bpf/x rw - bpf bpf rw
33 22 0:30 / /sys/fs/bpf rw - tmpfs bpf rw
";
        assert_eq!(count(mounts), 2);
        assert_eq!(count(""), 0);
    }
}
