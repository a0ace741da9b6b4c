//! What a packet costs: frames that the kernel makes, one flow or many.
//!
//! `BPF_PROG_RUN` runs the generator as often as is wanted and has the kernel
//! receive each frame by the device that leads out of a namespace, or in from
//! outside. All that follows happens on the same CPU: bridging, translation, the
//! way into the other namespace, and the sink there, which counts and drops.

use std::{collections::BTreeMap, fs, thread, time::Duration};

use super::{
    arena::{Arena, Blueprint, Lane},
    clock::{self, Clock},
    conntrack,
    contender::{Contender, Way},
    report::{Metric, Mode},
    run::{Run, Sample, Subject},
};
use crate::{
    error::{Error, Result},
    interrupt,
};

/// Packets by which is found out how long a round's are.
const TRIAL: u32 = 8192;

/// Packets that are sent before it is looked whether the bench was interrupted.
const PIECE: u32 = 1 << 16;

/// How often is tried whether anything arrives: neighbours are not known at first.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// Bytes of kernel memory of a flow in all contenders together, generously.
const FLOW_MEMORY: u64 = 1500;

/// Bytes of memory that are to be had; more than there is where nobody tells.
fn available_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib * 1024)
}

/// What a packet of one flow costs, on each way.
pub(super) fn run(run: &mut Run) -> Result<()> {
    measure(run, Mode::Pps, &Way::ALL, &[1])
}

/// What a packet costs where many flows are translated.
pub(super) fn flows(run: &mut Run) -> Result<()> {
    let mut flows = run.settings.flows.clone();
    let available = available_memory();
    flows.retain(|flows| {
        let fits = u64::from(*flows) * FLOW_MEMORY < available;
        if !fits {
            run.note(format!("{flows} flows are left out: there is not enough memory for them"));
        }
        fits
    });
    measure(run, Mode::Flows, &[Way::NsToOutside, Way::OutsideToNs], &flows)
}

/// What a case of so many flows is called.
pub(super) fn case(flows: u32) -> String {
    if flows == 1 { "1 flow".to_owned() } else { format!("{flows} flows") }
}

fn measure(run: &mut Run, mode: Mode, ways: &[Way], flows: &[u32]) -> Result<()> {
    let most = flows.iter().copied().max().unwrap_or(1);
    let room = conntrack::Room::make(most)?;
    run.notes.extend(room.notes());
    // The last eighth of netbpf's table is for those who have little.
    let blueprint = Blueprint { max_flows: if most > 1 { most / 7 * 8 + 1024 } else { 0 } };
    // Many flows of one way leave a table whose free entries lie in no order: those of the
    // next way would be scattered over all of it, and take up to 350 ns longer to reach.
    let together = if most > 1 { 1 } else { ways.len() };
    for ways in ways.chunks(together) {
        let contenders: Vec<Contender> =
            ways.iter().flat_map(|way| way.in_kernel()).copied().collect();
        let arena = Arena::build(&contenders, &run.absent, blueprint)?;
        for (&way, &flows) in ways.iter().flat_map(|way| flows.iter().map(move |n| (way, n))) {
            let mut present = run.present(way.in_kernel());
            if !room.has(flows) {
                present.retain(|contender| *contender != Contender::Iptables);
            }
            one_case(run, &arena, (mode, way), flows, &present)?;
        }
    }
    Ok(())
}

/// What a packet costs on one way with so many flows.
fn one_case(
    run: &mut Run,
    arena: &Arena,
    (mode, way): (Mode, Way),
    flows: u32,
    present: &[Contender],
) -> Result<()> {
    let case = case(flows);
    let subject = Subject { mode, way: Some(way), case: &case };
    let (cpu, burst) = (run.cpu(), run.settings.burst_of(flows));
    let mut packets = BTreeMap::new();
    for &contender in present {
        run.progress.say(&format!("{mode} {way} {case}: {contender} warms up"));
        let machine = arena.machine(contender)?;
        machine.forget_flows(contender)?;
        let each = machine.lane(way, flows)?.warm_up(contender, cpu)?;
        // Every flow has its turn in every round.
        let wanted = (run.settings.burst.as_secs_f64() * 1e9 / each).max(f64::from(flows));
        packets.insert(contender, whole_batches(wanted));
    }
    let all = run.rounds(subject, present, burst, |contender| {
        let lane = arena.machine(contender)?.lane(way, flows)?;
        if flows > 1 {
            // Traffic that goes on, as if it had not waited for the others' turns.
            lane.pass(cpu)?;
        }
        let sample = lane.send(cpu, packets[&contender])?;
        lane.check(contender)?;
        Ok(sample)
    })?;
    run.record(subject, Metric::NsPerPacket, &all);
    Ok(())
}

/// A number of packets that are whole batches of the kernel's.
pub(super) fn whole_batches(packets: f64) -> u32 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive number, held within what there is"
    )]
    let packets = packets.clamp(64.0, 50_000_000.0) as u32;
    packets.next_multiple_of(64)
}

impl Lane<'_> {
    /// Sends until something arrives, then all flows twice with answers, so that
    /// they are established; returns nanoseconds per packet of a trial after that.
    fn warm_up(&self, contender: Contender, cpu: usize) -> Result<f64> {
        self.arrive(cpu)?;
        self.programs.set_frames(&self.frames)?;
        let has_state = matches!(contender, Contender::Netbpf | Contender::Iptables);
        if has_state {
            self.programs.set_reflecting(true)?;
            let passed = self.pass(cpu).and_then(|()| self.pass(cpu));
            self.programs.set_reflecting(false)?;
            passed?;
            self.programs.set_frames(&self.frames)?;
        }
        Ok(self.send(cpu, TRIAL)?.value)
    }

    /// Sends a packet of each flow: some at a time, so that an interruption is noticed before
    /// all of a million flows are made.
    pub(super) fn pass(&self, cpu: usize) -> Result<()> {
        let mut left = whole_batches(f64::from(self.frames.flows));
        while left > 0 {
            interrupt::check()?;
            let piece = left.min(PIECE);
            self.send(cpu, piece)?;
            left -= piece;
        }
        Ok(())
    }

    /// Sends until something arrives.
    pub(super) fn arrive(&self, cpu: usize) -> Result<()> {
        self.programs.set_frames(&self.frames)?;
        let before = self.programs.arrivals()?.packets;
        for _ in 0..TRIES {
            self.send_uncounted(cpu, 64)?;
            if self.programs.arrivals()?.packets > before {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
        Err(Error::failed("the generator's packets do not arrive")
            .because(format!("the sink has seen none of {}", 64 * TRIES)))
    }

    fn send_uncounted(&self, cpu: usize, packets: u32) -> Result<()> {
        let (namespace, ifindex) = self.entry;
        namespace.run(|| {
            clock::bind(cpu)?;
            self.programs.generate(ifindex, packets)
        })?
    }

    /// Sends packets; tells nanoseconds of CPU time per packet that arrived.
    pub(super) fn send(&self, cpu: usize, packets: u32) -> Result<Sample> {
        let (namespace, ifindex) = self.entry;
        let clock = Clock::of(cpu);
        let before = self.programs.arrivals()?.packets;
        let span = namespace.run(|| -> Result<_> {
            clock::bind(cpu)?;
            let begin = clock.now()?;
            self.programs.generate(ifindex, packets)?;
            Ok(clock.now()? - begin)
        })??;
        let mut arrived = self.programs.arrivals()?.packets - before;
        // What is left to `ksoftirqd` comes a moment later.
        for _ in 0..3 {
            if arrived >= packets.into() {
                break;
            }
            thread::sleep(Duration::from_millis(1));
            arrived = self.programs.arrivals()?.packets - before;
        }
        #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
        let arrived = arrived as f64;
        #[allow(clippy::cast_precision_loss, reason = "some seconds at most")]
        let nanos = span.cpu.as_nanos() as f64;
        Ok(Sample {
            value: nanos / arrived.max(1.0),
            loss: Some((1.0 - arrived / f64::from(packets)).max(0.0)),
            cpus: Some(span.cpu.as_secs_f64() / span.wall.as_secs_f64().max(1e-9)),
        })
    }

    /// Whether what arrived has been translated, where it should have been.
    fn check(&self, contender: Contender) -> Result<()> {
        let (Some((saddr, daddr)), Some(last)) = (self.seen, self.programs.arrivals()?.last) else {
            return Ok(());
        };
        let is_fixed = if self.frames.walks_source { last.1 == daddr } else { last.0 == saddr };
        if contender == Contender::Limit || is_fixed {
            return Ok(());
        }
        Err(Error::failed(format!("{contender} does not translate what it should"))
            .because(format!("a packet arrived from {} to {}", last.0, last.1)))
    }
}
