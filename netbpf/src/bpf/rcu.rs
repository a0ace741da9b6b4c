//! Grace periods in a hurry.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::Path,
};

use nix::fcntl::{Flock, FlockArg};

/// The switch: any number but 0 makes the kernel's grace periods short, at the
/// price of interrupting all CPUs.
const SWITCH: &str = "/sys/kernel/rcu_expedited";

/// Is there while the switch is on because of us: a run that is killed leaves
/// both, and the next one knows whose it is.
const MARK: &str = "/run/netbpf.rcu_expedited";

/// While it lives, RCU grace periods take microseconds instead of a tick or more.
///
/// Attaching or detaching TCX waits for one while it holds the lock of all
/// network configuration: 12 ms per device, 8 us with this. It is held for a
/// single attachment at a time, so that a run that is killed hardly ever
/// leaves it on ([`put_back`]), and under a lock, so that two runs do not put
/// back each other's value.
pub(super) struct ExpeditedRcu(Option<Flock<File>>);

impl ExpeditedRcu {
    /// Switches it on; where that is impossible or it is on already, does
    /// nothing: it only makes things faster.
    pub(super) fn hold() -> Self {
        Self(Self::switch_on())
    }

    fn switch_on() -> Option<Flock<File>> {
        let file = lock()?;
        let mut value = [0; 1];
        file.read_at(&mut value, 0).ok()?;
        let is_on = value != *b"0";
        if is_on {
            // Somebody else's, unless a run of ours was killed.
            return Path::new(MARK).exists().then_some(file);
        }
        File::create(MARK).ok()?;
        if file.write_at(b"1", 0).is_err() {
            drop(fs::remove_file(MARK));
            return None;
        }
        Some(file)
    }
}

/// The switch, locked.
fn lock() -> Option<Flock<File>> {
    let file = OpenOptions::new().read(true).write(true).open(SWITCH).ok()?;
    Flock::lock(file, FlockArg::LockExclusive).ok()
}

/// Switches it off if a run of ours that was killed has left it on.
pub fn put_back() {
    if !Path::new(MARK).exists() {
        return;
    }
    let Some(file) = lock() else { return };
    // Another run may have had it on, and have put it back while we waited.
    if Path::new(MARK).exists() {
        switch_off(&file);
    }
}

/// It took a write a moment ago; if it does not now, there is nothing left to
/// try and nothing broken but CPU time.
fn switch_off(file: &File) {
    if file.write_at(b"0", 0).is_ok() {
        drop(fs::remove_file(MARK));
    }
}

impl Drop for ExpeditedRcu {
    fn drop(&mut self) {
        if let Some(file) = &self.0 {
            switch_off(file);
        }
    }
}
