//! What something takes: time, and time of the CPU.

use std::{fs, ops::Sub, time::Duration};

use nix::time::{ClockId, clock_gettime};

use crate::error::{Context as _, Error, Result};

/// A moment on a CPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Of the monotonic clock.
    wall: Duration,
    /// CPU time of this thread, on whose account the kernel does in soft interrupts
    /// what it makes it do, and of the CPU's `ksoftirqd`, to which the kernel gives
    /// soft interrupts of which there are too many.
    cpu: Duration,
}

/// What passed between two moments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Time.
    pub(super) wall: Duration,
    /// CPU time, of the thread and of soft interrupts.
    pub(super) cpu: Duration,
}

impl Sub for Moment {
    type Output = Span;

    fn sub(self, earlier: Self) -> Span {
        Span {
            wall: self.wall.saturating_sub(earlier.wall),
            cpu: self.cpu.saturating_sub(earlier.cpu),
        }
    }
}

/// Tells moments on the CPU that this thread is bound to.
#[derive(Debug)]
pub(super) struct Clock {
    /// Where the CPU time of the `ksoftirqd` stands; nothing if there is none to
    /// be seen, as in a container.
    softirq: Option<String>,
}

impl Clock {
    /// The clock of a CPU.
    pub(super) fn of(cpu: usize) -> Self {
        let name = format!("ksoftirqd/{cpu}");
        let is_it = |pid: &str| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let pids = fs::read_dir("/proc").into_iter().flatten();
        let softirq = pids
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .find(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()) && is_it(pid))
            .map(|pid| format!("/proc/{pid}/schedstat"));
        Self { softirq }
    }

    /// The moment that it is.
    pub(super) fn now(&self) -> Result<Moment> {
        let time = |clock| -> Result<Duration> {
            Ok(clock_gettime(clock).context("cannot read the clock")?.into())
        };
        // Of `schedstat` the first number is the time on a CPU, in nanoseconds.
        let softirq = self.softirq.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let softirq = softirq.and_then(|text| text.split(' ').next()?.parse().ok());
        Ok(Moment {
            cpu: time(ClockId::CLOCK_THREAD_CPUTIME_ID)?
                + Duration::from_nanos(softirq.unwrap_or_default()),
            wall: time(ClockId::CLOCK_MONOTONIC)?,
        })
    }
}

/// The CPUs that this process may use, in order.
pub(super) fn cpus() -> Result<Vec<usize>> {
    use nix::{
        sched::{CpuSet, sched_getaffinity},
        unistd::Pid,
    };
    let set = sched_getaffinity(Pid::from_raw(0)).context("cannot tell which CPUs there are")?;
    Ok((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

/// Binds this thread to a CPU.
pub(super) fn bind(cpu: usize) -> Result<()> {
    use nix::{
        sched::{CpuSet, sched_setaffinity},
        unistd::Pid,
    };
    let what = || format!("cannot bind a thread to CPU {cpu}");
    let mut set = CpuSet::new();
    set.set(cpu).context(what())?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .map_err(|error| Error::failed(what()).because(error.desc()))
}
