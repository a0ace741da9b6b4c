//! The BPF file system that pins live on.
//!
//! It is on `/sys/fs/bpf`, where systemd mounts it; where nobody has, loading a
//! datapath does.

use std::io;

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::error::{Context as _, Result};

/// Where it is mounted.
const PLACE: &str = "/sys/fs/bpf";

/// Whether a BPF file system is in its place, as this process sees it.
#[must_use]
pub fn has_bpffs() -> bool {
    statfs(PLACE).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
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
