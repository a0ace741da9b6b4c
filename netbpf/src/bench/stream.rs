//! TCP throughput, of one connection and of several, in large and small writes.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    arena::{Arena, Blueprint, Ends},
    clock,
    contender::{Contender, Way},
    report::{Metric, Mode},
    run::{Run, Sample, Subject},
    settings::Settings,
    sockets::{cpu_time, died, port},
};
use crate::error::{Context as _, Result};

/// Bytes of a large and of a small write.
const WRITES: [(usize, &str); 2] = [(128 * 1024, "128 KiB"), (256, "256 B")];

/// The case that goals look at.
pub(super) const FIRST_CASE: &str = "1 conn, 128 KiB writes";

pub(super) fn expected(settings: &Settings) -> Duration {
    let cases = settings.connections.len() * WRITES.len();
    let contenders: usize = Way::ALL.iter().map(|way| way.of_sockets().len()).sum();
    let all = u32::try_from(cases * contenders * settings.rounds).unwrap_or(u32::MAX);
    all * settings.slice * 5 / 4
}

pub(super) fn run(run: &mut Run) -> Result<()> {
    let contenders: Vec<Contender> =
        Way::ALL.iter().flat_map(|way| way.of_sockets()).copied().collect();
    let arena = Arena::build(&contenders, &run.absent, Blueprint { max_flows: 0 })?;
    let (slice, cpus) = (run.settings.slice, run.cpus.clone());
    for way in Way::ALL {
        let present = run.present(way.of_sockets());
        for connections in run.settings.connections.clone() {
            for (bytes, name) in WRITES {
                let case = format!("{connections} conn, {name} writes");
                let subject = Subject { mode: Mode::Stream, way: Some(way), case: &case };
                let all = run.rounds(subject, &present, slice * 5 / 4, |contender| {
                    let machine = arena.machine(contender)?;
                    throughput(machine.ends(way)?, connections, bytes, slice, &cpus)
                })?;
                run.record(subject, Metric::GbitPerSecond, &all);
            }
        }
    }
    Ok(())
}

/// Sends for a while, and a fourth of it before that.
fn throughput(
    ends: Ends<'_>,
    connections: usize,
    bytes: usize,
    slice: Duration,
    cpus: &[usize],
) -> Result<Sample> {
    let listener = ends.listen(port(0))?;
    let pairs = (0..connections).map(|_| ends.connect(&listener)).collect::<Result<Vec<_>>>()?;
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    // Both ends of a connection work at the same time.
    let cpu = |n: usize| cpus[n % cpus.len()];
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (n, (client, server)) in pairs.iter().enumerate() {
            let (stop, received) = (&stop, &received);
            threads.push(scope.spawn(move || send(client, bytes, cpu(n), stop)));
            threads.push(scope.spawn(move || receive(server, cpu(n + 1), received)));
        }
        thread::sleep(slice / 4);
        let (begin, cpu_before) = (Instant::now(), cpu_time());
        let before = received.load(Ordering::Relaxed);
        thread::sleep(slice);
        let arrived = received.load(Ordering::Relaxed) - before;
        let (wall, cpu_after) = (begin.elapsed().as_secs_f64(), cpu_time());
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(died)??;
        }
        let cpu = cpu_after?.saturating_sub(cpu_before?).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52 bytes")]
        let gbit = arrived as f64 * 8.0 / 1e9;
        Ok(Sample { cpus: Some(cpu / wall), ..Sample::of(gbit / wall) })
    })
}

fn send(mut to: &TcpStream, bytes: usize, cpu: usize, stop: &AtomicBool) -> Result<()> {
    clock::bind(cpu)?;
    let what = "cannot send over TCP in a sandbox";
    let buffer = vec![0_u8; bytes];
    while !stop.load(Ordering::Relaxed) {
        to.write_all(&buffer).context(what)?;
    }
    to.shutdown(Shutdown::Write).context(what)
}

fn receive(mut from: &TcpStream, cpu: usize, received: &AtomicU64) -> Result<()> {
    clock::bind(cpu)?;
    let mut buffer = vec![0_u8; 256 * 1024];
    loop {
        match from.read(&mut buffer).context("cannot receive over TCP in a sandbox")? {
            0 => return Ok(()),
            bytes => received.fetch_add(bytes as u64, Ordering::Relaxed),
        };
    }
}
