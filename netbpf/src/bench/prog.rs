//! Each program by itself: what a run of it takes, how many instructions it has
//! as the kernel loaded it, and how much stack.
//!
//! A program that translates changes its packet, so each run is a call of its
//! own. The kernel takes the time around the run; what that costs by itself is
//! the case "nothing".

use std::{collections::BTreeMap, time::Duration};

use aya::{TestRun as _, TestRunOptions, programs::SchedClassifier};

use super::{
    arena::{Arena, Blueprint, Machine, netbpf},
    clock,
    contender::{Contender, Way},
    frame::Frames,
    report::{Metric, Mode},
    run::{Run, Sample, Subject},
    settings::Settings,
    stats::Stats,
};
use crate::{
    bpf,
    error::{Context as _, Error, Result},
};

/// Runs in a round.
const RUNS: usize = 2000;

/// What a run with its system call is expected to take.
const EACH: Duration = Duration::from_micros(2);

/// Bytes of `struct __sk_buff`, and where in it the device's index is.
const SK_BUFF: usize = 192;
const SK_BUFF_IFINDEX: usize = 40;

/// A packet that was redirected (`TC_ACT_REDIRECT` of `linux/pkt_cls.h`).
const REDIRECTED: u32 = 7;

/// The programs that packets of many kinds pass, and by which way.
const PROGRAMS: [(&str, Way, &str); 3] = [
    ("from_endpoint", Way::NsToNs, "from_endpoint, bridged"),
    ("from_endpoint", Way::NsToOutside, "from_endpoint, SNAT"),
    ("from_uplink", Way::OutsideToNs, "from_uplink, DNAT"),
];

/// Published ports of which packets are compared, by their first and their last.
const PUBLISHED: [(&str, u16, u16); 2] =
    [("one published port", 33_000, 33_000), ("20,000 published ports", 40_000, 59_999)];

pub(super) fn expected(settings: &Settings) -> Duration {
    let runs = (PROGRAMS.len() + 1 + 2 * PUBLISHED.len()) * RUNS * settings.rounds;
    EACH * u32::try_from(runs).unwrap_or(u32::MAX)
}

pub(super) fn run(run: &mut Run) -> Result<()> {
    let alone = [Contender::Netbpf];
    let arena = Arena::build(&alone, &run.absent, Blueprint { max_flows: 0 })?;
    let machine = arena.machine(Contender::Netbpf)?;
    let cpu = run.cpu();
    let expected = EACH * u32::try_from(RUNS).unwrap_or(u32::MAX);
    let subject = |way, case| Subject { mode: Mode::Prog, way, case };
    let frame = [0; 64];
    let nothing = run.rounds(subject(None, "nothing"), &alone, expected, |_| {
        let lane = machine.lane(Way::NsToNs, 1)?;
        times(cpu, machine, || lane.programs.run_nothing(&frame))
    })?;
    run.record(subject(None, "nothing"), Metric::NsPerRun, &nothing);
    for (name, way, case) in PROGRAMS {
        let lane = machine.lane(way, 1)?;
        lane.arrive(cpu)?;
        let frame = lane.frames.first_whole();
        let program = machine.sandbox.host().run(|| machine.datapath()?.program(name))??;
        let all = run.rounds(subject(Some(way), case), &alone, expected, |_| {
            times(cpu, machine, || run_once(&program, &frame, lane.entry.1))
        })?;
        run.record(subject(Some(way), case), Metric::NsPerRun, &all);
    }
    published(run, machine)?;
    sizes(run, machine)
}

/// What a packet to a published port takes, where that is one and where there are 20,000: of
/// a flow that there is, and the first of a new one.
fn published(run: &mut Run, machine: &Machine) -> Result<()> {
    let (way, cpu) = (Way::OutsideToNs, run.cpu());
    for (_, first, last) in PUBLISHED {
        let ports = format!("{first}-{last}:ns1:{first}-{last}/udp");
        netbpf(&machine.sandbox, &["publish", "add", "--quiet", &ports].map(str::to_owned))?;
    }
    let expected = EACH * u32::try_from(RUNS).unwrap_or(u32::MAX);
    let lane = machine.lane(way, 1)?;
    let program = machine.sandbox.host().run(|| machine.datapath()?.program("from_uplink"))??;
    for (ports, first, last) in PUBLISHED {
        let frames = Frames { port: first + (last - first) / 2, ..lane.frames };
        for is_new in [false, true] {
            let what = if is_new { "first packet" } else { "packet" };
            let case = format!("from_uplink, {what} to {ports}");
            let subject = Subject { mode: Mode::Prog, way: Some(way), case: &case };
            let mut flow = 0;
            let all = run.rounds(subject, &[Contender::Netbpf], expected, |_| {
                times(cpu, machine, || {
                    flow += u32::from(is_new);
                    run_once(&program, &frames.whole(flow), lane.entry.1)
                })
            })?;
            run.record(subject, Metric::NsPerRun, &all);
        }
    }
    Ok(())
}

/// The middle one of many runs' times, in nanoseconds.
fn times(
    cpu: usize,
    machine: &Machine,
    mut once: impl FnMut() -> Result<Duration> + Send,
) -> Result<Sample> {
    let all = machine.sandbox.host().run(|| -> Result<Vec<f64>> {
        clock::bind(cpu)?;
        (0..RUNS).map(|_| Ok(once()?.as_secs_f64() * 1e9)).collect()
    })??;
    let stats = Stats::of(&all).ok_or_else(|| Error::failed("a program was not run"))?;
    Ok(Sample::of(stats.median))
}

/// Runs a program on a packet that comes by a device.
fn run_once(program: &SchedClassifier, frame: &[u8], ifindex: u32) -> Result<Duration> {
    let what = "cannot run a program of the datapath";
    let mut context = [0; SK_BUFF];
    context[SK_BUFF_IFINDEX..SK_BUFF_IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    };
    let result = program.test_run(options).context(what)?;
    if result.return_value != REDIRECTED {
        return Err(Error::failed(what)
            .because(format!("it returned {} and redirected nothing", result.return_value)));
    }
    Ok(result.duration)
}

/// Instructions of every program, and the stack that it takes with all that it calls.
fn sizes(run: &mut Run, machine: &Machine) -> Result<()> {
    let compiled = bpf::code_sizes(bpf::object())?;
    for (name, size) in &compiled {
        let opened = machine.sandbox.host().run(|| machine.datapath()?.program(name))?;
        // What is no program is a function of some.
        let Ok(program) = opened else { continue };
        let info = program.info().context(format!("cannot ask about program {name}"))?;
        let instructions = info.size_translated().unwrap_or_default() / 8;
        record(run, name, Metric::Instructions, instructions);
        record(run, name, Metric::StackBytes, u32::try_from(size.chain).unwrap_or(u32::MAX));
    }
    Ok(())
}

fn record(run: &mut Run, case: &str, metric: Metric, value: u32) {
    let subject = Subject { mode: Mode::Prog, way: None, case };
    let one = BTreeMap::from([(Contender::Netbpf, vec![Sample::of(value.into())])]);
    run.record(subject, metric, &one);
}
