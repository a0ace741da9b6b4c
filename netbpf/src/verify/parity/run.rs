//! Playing scenarios on both networks at once, frame by frame.

use std::{
    io,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    answer,
    capture::Arrival,
    compare::{self, Common, Difference},
    known::{self, Case, Known},
    normalise::{self, Seen},
    scenario::{Scenario, Step, What},
    side::Side,
};
use crate::error::{Context as _, Result};

/// Packets are moved while the call that sends them lasts; in case the kernel has
/// put some of that off, nobody must have got anything for this long, in
/// milliseconds.
const QUIET: u16 = 1;

/// How long is waited for what one side has and the other has not: rather too
/// long than to say that it will not come.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long a side is given for what is to be answered.
const BRIEFLY: Duration = Duration::from_millis(20);

/// The reference, and the datapath that is compared with it.
#[derive(Debug)]
pub struct Stage {
    /// The kernel's bridge and iptables.
    pub reference: Side,
    /// The eBPF datapath.
    pub ebpf: Side,
}

/// How two datapaths have played a scenario.
#[derive(Debug)]
pub struct Verdict {
    /// Differences that should not be.
    pub unexplained: Vec<Difference>,
    /// Differences that are intended, and which they are.
    pub intended: Vec<(&'static Known, Difference)>,
    /// Frames that were sent, on each side.
    pub frames: usize,
    /// Packets that came out of the eBPF datapath.
    pub packets: usize,
}

impl Stage {
    /// Builds both networks, with namespaces that are isolated or not.
    ///
    /// # Errors
    /// What went wrong.
    pub fn build(isolate: bool) -> Result<Self> {
        let side = |datapath| Side::build(datapath, isolate);
        Ok(Self { reference: side("iptables")?, ebpf: side("ebpf")? })
    }

    /// Plays a scenario on both, and compares.
    ///
    /// # Errors
    /// A frame cannot be sent at all.
    pub fn play(&mut self, scenario: &Scenario) -> Result<Verdict> {
        self.settle(scenario, 0)?;
        for side in [&mut self.reference, &mut self.ebpf] {
            side.begin()?;
        }
        let mut invalid = Vec::new();
        for step in 0..scenario.steps.len() {
            let before = self.reference.invalid()?;
            self.step(scenario, step)?;
            invalid.push(self.reference.invalid()?.saturating_sub(before));
        }
        let last = scenario.steps.len().saturating_sub(1);
        let begin = Instant::now();
        loop {
            let verdict = self.compare(scenario, &invalid);
            if verdict.unexplained.is_empty() || begin.elapsed() > PATIENCE {
                return Ok(verdict);
            }
            self.settle(scenario, last)?;
        }
    }

    /// Sends a frame on both sides, and waits until all has come that comes of it.
    fn step(&mut self, scenario: &Scenario, step: usize) -> Result<()> {
        let to = match &scenario.steps[step].what {
            What::Answer(_) | What::Error(_) => match self.answered(scenario, step)? {
                Some((one, other)) => [Some(one), Some(other)],
                None => return Ok(()),
            },
            What::Frame(_) | What::Packet(_) | What::Train { .. } => [None, None],
        };
        for (side, to) in [&mut self.reference, &mut self.ebpf].into_iter().zip(&to) {
            match side.send(scenario, step, to.as_ref()) {
                // Kernels refuse what is too long; both do.
                Err(error) if is_refusal(&error) => {}
                other => {
                    other.context(format!(
                        "cannot send step {} of scenario {} ({})",
                        step + 1,
                        scenario.number,
                        scenario.name
                    ))?;
                }
            }
        }
        self.settle(scenario, step)
    }

    /// What a step answers, or is an error about: the last packet that has come to
    /// who sends it on both sides. What has come on one side only is not answered,
    /// so that one difference does not make others.
    fn answered(&mut self, scenario: &Scenario, step: usize) -> Result<Option<(Arrival, Arrival)>> {
        let begin = Instant::now();
        let Step { from, what } = &scenario.steps[step];
        let id = normalise::id_of_step(scenario, step);
        loop {
            let sides = [&self.reference, &self.ebpf];
            let sides = sides.map(|side| (&side.stations, &side.arrivals[..]));
            let Common { pairs, is_last } = compare::common(scenario, *from, sides);
            // It may be late on one side.
            if is_last || begin.elapsed() > BRIEFLY {
                let mut latest = pairs.into_iter().rev();
                return Ok(latest.find(|(one, _)| answer::build(what, id, one).is_some()));
            }
            self.settle(scenario, step)?;
        }
    }

    /// Takes what comes until nothing comes any more.
    fn settle(&mut self, scenario: &Scenario, step: usize) -> Result<()> {
        loop {
            let came: usize = [&mut self.reference, &mut self.ebpf]
                .into_iter()
                .map(|side| side.collect(scenario.slot, step))
                .sum();
            if came == 0 {
                let sockets = self.reference.sockets().chain(self.ebpf.sockets());
                if !wait(sockets).context("cannot wait for frames")? {
                    return Ok(());
                }
            }
        }
    }

    fn compare(&self, scenario: &Scenario, invalid: &[u64]) -> Verdict {
        let outcome =
            |side: &Side| compare::outcome(scenario, &side.stations, side.arrivals.clone());
        let (reference, ebpf) = (outcome(&self.reference), outcome(&self.ebpf));
        let mut verdict = Verdict {
            unexplained: Vec::new(),
            intended: Vec::new(),
            frames: scenario.steps.len(),
            packets: ebpf.len(),
        };
        let has_reset = reference.iter().any(Seen::is_reset);
        for difference in compare::differences(&reference, &ebpf) {
            let sent = &self.reference.sent;
            let case = Case { scenario, sent, invalid, has_reset, difference: &difference };
            match known::find(&case) {
                Some(known) => verdict.intended.push((known, difference)),
                None => verdict.unexplained.push(difference),
            }
        }
        verdict
    }
}

/// Whether the kernel did not take a frame for what it is.
fn is_refusal(error: &io::Error) -> bool {
    let refusals = [Errno::EMSGSIZE, Errno::EINVAL, Errno::EPERM, Errno::EHOSTUNREACH];
    error.raw_os_error().is_some_and(|code| refusals.contains(&Errno::from_raw(code)))
}

/// Waits until something has come; not for long.
fn wait<'a>(sockets: impl Iterator<Item = BorrowedFd<'a>>) -> Result<bool, Errno> {
    let mut all: Vec<PollFd> =
        sockets.map(|socket| PollFd::new(socket, PollFlags::POLLIN)).collect();
    match poll(&mut all, PollTimeout::from(QUIET)) {
        Err(Errno::EINTR) => Ok(true),
        other => Ok(other? > 0),
    }
}
