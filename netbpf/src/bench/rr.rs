//! Request and response: how long a client waits, TCP and UDP.
//!
//! Client and server have a CPU each where there are two. Every exchange is
//! counted in a histogram; the quantiles are those of a round.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::{
    arena::{Arena, Blueprint, Ends},
    clock,
    contender::{Contender, Way},
    report::{Metric, Mode},
    run::{Run, Sample, Subject},
    settings::Settings,
    sockets::{died, port},
};
use crate::error::{Context as _, Result};

/// Bytes of a request and of a response.
const BYTES: usize = 64;

/// The first exchanges, which resolve neighbours and open the flow, do not count.
const WARM_UP: usize = 50;

const CASES: [&str; 2] = ["tcp", "udp"];

const QUANTILES: [(Metric, f64); 4] =
    [(Metric::P50Us, 0.5), (Metric::P90Us, 0.9), (Metric::P99Us, 0.99), (Metric::P999Us, 0.999)];

pub(super) fn expected(settings: &Settings) -> Duration {
    let contenders: usize = Way::ALL.iter().map(|way| way.of_sockets().len()).sum();
    let all = u32::try_from(CASES.len() * contenders * settings.rounds).unwrap_or(u32::MAX);
    all * settings.slice
}

pub(super) fn run(run: &mut Run) -> Result<()> {
    let contenders: Vec<Contender> =
        Way::ALL.iter().flat_map(|way| way.of_sockets()).copied().collect();
    let arena = Arena::build(&contenders, &run.absent, Blueprint { max_flows: 0 })?;
    let (slice, cpus) = (run.settings.slice, run.cpus.clone());
    for way in Way::ALL {
        let present = run.present(way.of_sockets());
        for case in CASES {
            let subject = Subject { mode: Mode::Rr, way: Some(way), case };
            let all = run.rounds(subject, &present, slice, |contender| {
                let machine = arena.machine(contender)?;
                let ends = machine.ends(way)?;
                match case {
                    "tcp" => tcp(ends, slice, &cpus),
                    _ => udp(ends, slice, &cpus),
                }
            })?;
            for (metric, quantile) in QUANTILES {
                let of_rounds: BTreeMap<_, Vec<Sample>> = all
                    .iter()
                    .map(|(contender, rounds)| {
                        (*contender, rounds.iter().map(|round| at(round, quantile)).collect())
                    })
                    .collect();
                run.record(subject, metric, &of_rounds);
            }
        }
    }
    Ok(())
}

/// A quantile in microseconds.
#[allow(clippy::cast_precision_loss, reason = "nanoseconds of some seconds at most")]
fn at(round: &Histogram<u64>, quantile: f64) -> Sample {
    Sample::of(round.value_at_quantile(quantile) as f64 / 1000.0)
}

fn tcp(ends: Ends<'_>, slice: Duration, cpus: &[usize]) -> Result<Histogram<u64>> {
    let what = "cannot exchange over TCP in a sandbox";
    let listener = ends.listen(port(0))?;
    let (mut client, mut server) = ends.connect(&listener)?;
    both(
        cpus,
        move || {
            let mut buffer = [0; BYTES];
            while server.read_exact(&mut buffer).is_ok() {
                server.write_all(&buffer).context(what)?;
            }
            Ok(())
        },
        move || {
            let mut buffer = [0; BYTES];
            let histogram = exchange(slice, || {
                client.write_all(&buffer).context(what)?;
                client.read_exact(&mut buffer).context(what)
            });
            // The server ends when its client does, however that came about.
            let _ = client.shutdown(Shutdown::Both);
            histogram
        },
    )
}

fn udp(ends: Ends<'_>, slice: Duration, cpus: &[usize]) -> Result<Histogram<u64>> {
    let what = "cannot exchange over UDP in a sandbox";
    let (client, server) = ends.datagrams(port(0))?;
    both(
        cpus,
        move || {
            let mut buffer = [0; BYTES];
            loop {
                match server.recv_from(&mut buffer).context(what)? {
                    // The client's last word.
                    (0, _) => return Ok(()),
                    (bytes, from) => server.send_to(&buffer[..bytes], from).context(what)?,
                };
            }
        },
        move || {
            let mut buffer = [0; BYTES];
            let histogram = exchange(slice, || {
                client.send(&buffer).context(what)?;
                client.recv(&mut buffer).context(what).map(drop)
            });
            client.send(&[]).context(what)?;
            histogram
        },
    )
}

/// Runs server and client side by side.
fn both<T: Send>(
    cpus: &[usize],
    server: impl FnOnce() -> Result<()> + Send,
    client: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    thread::scope(|scope| {
        let server = scope.spawn(move || clock::bind(first).and_then(|()| server()));
        let client = scope.spawn(move || clock::bind(last).and_then(|()| client()));
        let result = client.join().map_err(died)?;
        let served = server.join().map_err(died)?;
        // What the client saw first is why the server failed, if it did.
        let result = result?;
        served.map(|()| result)
    })
}

/// Exchanges for a while: nanoseconds of each.
fn exchange(slice: Duration, mut once: impl FnMut() -> Result<()>) -> Result<Histogram<u64>> {
    for _ in 0..WARM_UP {
        once()?;
    }
    let mut histogram =
        Histogram::new_with_bounds(1, 60_000_000_000, 3).context("cannot make a histogram")?;
    let begin = Instant::now();
    let mut last = begin;
    while last - begin < slice {
        once()?;
        let now = Instant::now();
        let nanos = u64::try_from((now - last).as_nanos()).unwrap_or(u64::MAX);
        histogram.saturating_record(nanos);
        last = now;
    }
    Ok(histogram)
}
