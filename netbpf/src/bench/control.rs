//! The control plane: how long `up` and `down` take, and listing many flows, from
//! the start of the command to its end.

use std::{
    collections::BTreeMap,
    process::Stdio,
    time::{Duration, Instant},
};

use netbpf_common::maps::{FlowQueue, Flows, MapDef as _};

use super::{
    arena::{Arena, Blueprint, Machine, netbpf},
    contender::{Contender, Way},
    report::{Metric, Mode},
    run::{Run, Sample, Subject},
    settings::Settings,
};
use crate::{
    error::{Context as _, Error, Result},
    interrupt,
    sandbox::{Sandbox, World},
};

pub(super) fn expected(settings: &Settings) -> Duration {
    let each: Duration =
        settings.namespaces.iter().map(|n| Duration::from_millis(200 + 4 * u64::from(*n))).sum();
    let flows = settings.listed * Duration::from_micros(4);
    each * u32::try_from(settings.repetitions).unwrap_or(u32::MAX) + flows
}

pub(super) fn run(run: &mut Run) -> Result<()> {
    for count in run.settings.namespaces.clone() {
        let (mut ups, mut downs) = (Vec::new(), Vec::new());
        for _ in 0..run.settings.repetitions {
            interrupt::check()?;
            run.progress.say(&format!("control: up and down with {count} namespaces"));
            let (up, down) = up_and_down(count)?;
            ups.push(up);
            downs.push(down);
        }
        record(run, &format!("up {count}"), Metric::Seconds, ups);
        record(run, &format!("down {count}"), Metric::Seconds, downs);
    }
    listing(run)
}

fn record(run: &mut Run, case: &str, metric: Metric, values: Vec<f64>) {
    let samples = values.into_iter().map(Sample::of).collect();
    let subject = Subject { mode: Mode::Control, way: None, case };
    run.record(subject, metric, &BTreeMap::from([(Contender::Netbpf, samples)]));
}

/// Seconds of `up` and of `down`, with so many namespaces, on a machine that has
/// no network yet.
fn up_and_down(count: u16) -> Result<(f64, f64)> {
    let sandbox = Sandbox::new(&World::default())?;
    let up = format!("up --quiet --uplink eth0 --subnet 172.16.0.0/16 --namespaces {count}");
    let time = |line: &str| -> Result<f64> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let begin = Instant::now();
        netbpf(&sandbox, &words)?;
        Ok(begin.elapsed().as_secs_f64())
    };
    Ok((time(&up)?, time("down --quiet")?))
}

/// Seconds in which many flows are listed.
fn listing(run: &mut Run) -> Result<()> {
    let flows = run.settings.listed;
    run.progress.say(&format!("control: making {flows} flows"));
    let blueprint = Blueprint { max_flows: flows / 7 * 8 + 1024 };
    let arena = Arena::build(&[Contender::Netbpf], &run.absent, blueprint)?;
    let machine = arena.machine(Contender::Netbpf)?;
    let lane = machine.lane(Way::NsToOutside, flows)?;
    lane.arrive(run.cpu())?;
    lane.programs.set_frames(&lane.frames)?;
    lane.pass(run.cpu())?;
    for format in ["table", "json"] {
        let mut seconds = Vec::new();
        for _ in 0..run.settings.repetitions {
            run.progress.say(&format!("control: listing {flows} flows as {format}"));
            seconds.push(list(machine, format)?);
        }
        record(run, &format!("list {flows} flows, {format}"), Metric::Seconds, seconds);
    }
    drop(arena);
    memory(run)
}

/// What a flow costs in memory, in a table of the usual size.
fn memory(run: &mut Run) -> Result<()> {
    let arena = Arena::build(&[Contender::Netbpf], &run.absent, Blueprint { max_flows: 0 })?;
    let machine = arena.machine(Contender::Netbpf)?;
    let (usage, config) = machine.sandbox.host().run(|| -> Result<_> {
        let datapath = machine.datapath()?;
        Ok((datapath.usage()?, datapath.config()?))
    })??;
    let of_flows = |name: &str| [Flows::NAME, FlowQueue::NAME].contains(&name);
    let bytes: u64 = usage.iter().filter(|map| of_flows(map.name)).map(|map| map.memory).sum();
    #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52 bytes")]
    let each = bytes as f64 / f64::from(config.max_flows);
    record(run, "memory", Metric::BytesPerFlow, vec![each]);
    Ok(())
}

/// Seconds of a listing that nobody reads.
fn list(machine: &Machine, format: &str) -> Result<f64> {
    let what = "cannot list the flows of a sandbox";
    let mut command = machine.sandbox.netbpf(["maps", "flows", "-o", format]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let status = command.status().context(what)?;
    let seconds = begin.elapsed().as_secs_f64();
    if status.success() { Ok(seconds) } else { Err(Error::failed(what).because(status)) }
}
