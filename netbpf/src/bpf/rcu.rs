//! Grace periods in a hurry.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    thread,
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg},
    libc,
};

/// The switch: any number but 0 makes the kernel's grace periods short, at the
/// price of interrupting all CPUs.
const SWITCH: &str = "/sys/kernel/rcu_expedited";

/// What we set it to, unlike anybody else ("netb" as a number): so whoever finds it on
/// knows whose it is, in a sandbox with a `/run` of its own as well, when the run that
/// set it was killed.
const OURS: &str = "1852142690";

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
        match read(&file)?.as_str() {
            "0" => file.write_at(OURS.as_bytes(), 0).ok().map(|_| file),
            // A run of ours was killed.
            OURS => Some(file),
            _ => None,
        }
    }
}

/// The switch, locked.
fn lock() -> Option<Flock<File>> {
    let file = OpenOptions::new().read(true).write(true).open(SWITCH).ok()?;
    Flock::lock(file, FlockArg::LockExclusive).ok()
}

/// What it is set to.
fn read(file: &File) -> Option<String> {
    let mut text = [0; 16];
    let len = file.read_at(&mut text, 0).ok()?;
    Some(str::from_utf8(text.get(..len)?).ok()?.trim().to_owned())
}

/// Switches it off if a run of ours that was killed has left it on.
pub fn put_back() {
    // Without the lock first: hardly ever there is anything to wait for.
    let is_ours = |file: &File| read(file).is_some_and(|value| value == OURS);
    if !File::open(SWITCH).is_ok_and(|file| is_ours(&file)) {
        return;
    }
    // Another run may have had it on, and have put it back while we waited.
    if let Some(file) = lock().filter(|file| is_ours(file)) {
        switch_off(&file);
    }
}

/// It took a write a moment ago; if it does not now, there is nothing left to
/// try and nothing broken but CPU time.
fn switch_off(file: &File) {
    let _ = file.write_at(b"0", 0);
}

/// `MEMBARRIER_CMD_GLOBAL` of `include/uapi/linux/membarrier.h`.
const MEMBARRIER_GLOBAL: libc::c_long = 1;

/// Longer than any program takes for a packet, by far.
const LONGER_THAN_ANY: Duration = Duration::from_millis(100);

/// Waits until every program that was running for a packet is done with it.
///
/// Programs run as readers of RCU, and this command waits for all of these
/// (`synchronize_rcu()` in `kernel/sched/membarrier.c`). Kernels with CPUs that no tick
/// disturbs (`nohz_full`) do not have it.
pub(super) fn wait_for_programs() {
    let _expedited = ExpeditedRcu::hold();
    // SAFETY: the command takes numbers only.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) };
    if done != 0 {
        thread::sleep(LONGER_THAN_ANY);
    }
}

impl Drop for ExpeditedRcu {
    fn drop(&mut self) {
        if let Some(file) = &self.0 {
            switch_off(file);
        }
    }
}
