//! New flows: first packets of UDP flows, made in the kernel, and TCP connections
//! from opening to closing.

use std::{
    io::Read as _,
    net::{self, SocketAddrV4, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{Shutdown, shutdown};

use super::{
    arena::{Arena, Blueprint, Ends},
    clock,
    contender::{Contender, Way},
    frame,
    report::{Metric, Mode},
    run::{Run, Sample, Subject},
    settings::Settings,
    sockets::{PATIENCE, cpu_time, died, port},
};
use crate::error::{Context as _, Result};

const UDP: [Contender; 2] = [Contender::Netbpf, Contender::Iptables];
const WAYS: [Way; 2] = [Way::NsToOutside, Way::OutsideToNs];

/// What the first packet of a flow is expected to take.
const EACH: Duration = Duration::from_nanos(2500);

pub(super) fn expected(settings: &Settings) -> Duration {
    let rounds = u32::try_from(settings.rounds).unwrap_or(u32::MAX);
    let contenders: usize = Way::ALL.iter().map(|way| way.of_sockets().len()).sum();
    let tcp = rounds * u32::try_from(contenders).unwrap_or(u32::MAX) * settings.slice;
    tcp + rounds * settings.new_flows * EACH * 4
}

pub(super) fn run(run: &mut Run) -> Result<()> {
    udp(run)?;
    tcp(run)
}

/// What the first packet of a flow costs. The flows of a round are forgotten
/// before the next.
fn udp(run: &mut Run) -> Result<()> {
    let arena = Arena::build(&UDP, &run.absent, Blueprint { max_flows: 0 })?;
    let (cpu, flows) = (run.cpu(), run.settings.new_flows.min(frame::PORTS));
    for way in WAYS {
        let subject = Subject { mode: Mode::Cps, way: Some(way), case: "udp" };
        let present = run.present(&UDP);
        for &contender in &present {
            let machine = arena.machine(contender)?;
            machine.lane(way, 1)?.arrive(cpu)?;
        }
        let all = run.rounds(subject, &present, flows * EACH, |contender| {
            let machine = arena.machine(contender)?;
            machine.forget_flows(contender)?;
            let lane = machine.lane(way, flows)?;
            lane.programs.set_frames(&lane.frames)?;
            lane.send(cpu, flows)
        })?;
        run.record(subject, Metric::NsPerFlow, &all);
    }
    Ok(())
}

/// TCP connections, one after another: opened, closed by the client, closed by
/// the server.
fn tcp(run: &mut Run) -> Result<()> {
    let contenders: Vec<Contender> =
        Way::ALL.iter().flat_map(|way| way.of_sockets()).copied().collect();
    let arena = Arena::build(&contenders, &run.absent, Blueprint { max_flows: 0 })?;
    let (slice, cpus) = (run.settings.slice, run.cpus.clone());
    let mut round = 0;
    for way in Way::ALL {
        let subject = Subject { mode: Mode::Cps, way: Some(way), case: "tcp" };
        let present = run.present(way.of_sockets());
        let all = run.rounds(subject, &present, slice, |contender| {
            let machine = arena.machine(contender)?;
            // The ports of closed connections rest for a minute: a server's port
            // for each round has all of the client's before it.
            round += 1;
            connections(machine.ends(way)?, port(round), slice, &cpus)
        })?;
        run.record(subject, Metric::ConnectionsPerSecond, &all);
    }
    Ok(())
}

fn connections(ends: Ends<'_>, port: u16, slice: Duration, cpus: &[usize]) -> Result<Sample> {
    let listener = ends.listen(port)?;
    let to = SocketAddrV4::new(ends.addr, port).into();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    let what = "cannot open connections in a sandbox";
    thread::scope(|scope| {
        let server = scope.spawn(|| clock::bind(first).and_then(|()| serve(&listener)));
        let counted = ends.client.run(|| -> Result<Sample> {
            clock::bind(last)?;
            let (cpu_before, begin) = (cpu_time()?, Instant::now());
            let mut count = 0_u32;
            while begin.elapsed() < slice {
                let mut connection = TcpStream::connect_timeout(&to, PATIENCE).context(what)?;
                connection.shutdown(net::Shutdown::Write).context(what)?;
                // The server's end: none waits to be taken while others are opened.
                connection.set_read_timeout(Some(PATIENCE)).context(what)?;
                connection.read(&mut [0]).context(what)?;
                count += 1;
            }
            let wall = begin.elapsed().as_secs_f64();
            let cpu = cpu_time()?.saturating_sub(cpu_before).as_secs_f64();
            Ok(Sample { cpus: Some(cpu / wall), ..Sample::of(f64::from(count) / wall) })
        });
        // The server waits for the next connection: this tells it that none comes.
        let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
        server.join().map_err(died)??;
        counted?
    })
}

/// Takes connections, and closes each when its client does, until nobody listens
/// any longer.
fn serve(listener: &TcpListener) -> Result<()> {
    let mut byte = [0];
    while let Ok((mut connection, _)) = listener.accept() {
        connection.set_read_timeout(Some(PATIENCE)).context("cannot serve in a sandbox")?;
        // A client that has reset its connection has closed it, too.
        let _ = connection.read(&mut byte);
    }
    Ok(())
}
