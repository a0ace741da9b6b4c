//! Grace periods in a hurry.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
};

use nix::fcntl::{Flock, FlockArg};

/// The switch: any number but 0 makes the kernel's grace periods short, at the
/// price of interrupting all CPUs.
const SWITCH: &str = "/sys/kernel/rcu_expedited";

/// While it lives, RCU grace periods take microseconds instead of a tick or more.
///
/// Attaching or detaching TCX waits for one while it holds the lock of all
/// network configuration: 12 ms per device, 8 us with this. It is held for a
/// single attachment at a time, so that a run that is killed hardly ever
/// leaves it on, and under a lock, so that two runs do not put back each
/// other's value.
pub(super) struct ExpeditedRcu(Option<Flock<File>>);

impl ExpeditedRcu {
    /// Switches it on; where that is impossible or it is on already, does
    /// nothing: it only makes things faster.
    pub(super) fn hold() -> Self {
        Self(Self::switch_on())
    }

    fn switch_on() -> Option<Flock<File>> {
        let file = OpenOptions::new().read(true).write(true).open(SWITCH).ok()?;
        let file = Flock::lock(file, FlockArg::LockExclusive).ok()?;
        let mut value = [0; 1];
        file.read_at(&mut value, 0).ok()?;
        if value != *b"0" {
            return None;
        }
        file.write_at(b"1", 0).ok()?;
        Some(file)
    }
}

impl Drop for ExpeditedRcu {
    fn drop(&mut self) {
        if let Some(file) = &self.0 {
            // It took a write a moment ago; if it does not now, there is
            // nothing left to try and nothing broken but CPU time.
            drop(file.write_at(b"0", 0));
        }
    }
}
