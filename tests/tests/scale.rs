//! Large numbers.

use aya::maps::{HashMap, Map, MapData};
use netbpf_common::{
    EndpointId, Flow, FlowKind, Ipv4, Port, Seen, Ticks, Translation, Tuple,
    maps::{Flows, MapDef},
    proto,
};
use netbpf_tests::{
    Host, OUTSIDE,
    traffic::{Echo, ping},
};
use nix::libc;
use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const MILLION: u32 = 1_000_000;

/// Writes flows into the host's table, as the datapath would have made them.
fn fill(host: &Host, count: u32) {
    let listing = host.listing();
    let pin = listing.with(&format!("/maps/{}", Flows::NAME))[0].trim_start_matches("pin: ");
    host.sandbox().run(|| {
        let data = MapData::from_pin(pin).expect("the pinned flow table");
        let mut table: HashMap<_, Tuple, Flow> =
            Map::HashMap(data).try_into().expect("a hash map of flows");
        let now = Ticks::from_nanos(uptime());
        for i in 0..count {
            let (original, reply) = flow(i, now);
            let back = original.partner(proto::TCP);
            table.insert(reply.partner(proto::TCP), original, 0).expect("room for a flow");
            table.insert(back, reply, 0).expect("room for a flow");
        }
    });
}

/// Both directions of the `i`-th flow: to port `i / 50,000` of a far machine.
fn flow(i: u32, now: Ticks) -> (Flow, Flow) {
    let port = |n: u32| Port::new(u16::try_from(n).expect("a port"));
    let tuple = Tuple {
        saddr: Ipv4::new([172, 19, 0, 2]),
        daddr: Ipv4::new([198, 51, 100, 1]),
        sport: port(10_000 + i % 50_000),
        dport: port(1 + i / 50_000),
        proto: proto::TCP,
        from_host: 0,
        pad: [0; 2],
    };
    let outside = Tuple { saddr: Ipv4::new([203, 0, 113, 1]), ..tuple };
    let original = Flow {
        translated: outside.into(),
        kind: FlowKind::SNAT_ORIGINAL,
        endpoint: EndpointId(1),
        packets: 1,
        bytes: 60,
        created: now,
        last_seen: now,
        seen: Seen(Seen::ANY | Seen::ACK),
        ..Flow::default()
    };
    let translated: Translation = tuple.reversed().into();
    (original, Flow { translated, kind: FlowKind::SNAT_REPLY, ..original })
}

/// Nanoseconds of the monotonic clock, as the datapath reads it.
fn uptime() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure lives until the call returns.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).expect("after boot")
}

/// Runs the command to its end: how long that took, and how much time of the
/// CPU.
#[allow(clippy::zombie_processes, reason = "wait4 waits for it, and tells what it took")]
fn times(command: &mut Command) -> (Duration, Duration) {
    let start = Instant::now();
    let child = command.stdout(Stdio::null()).spawn().expect("run netbpf");
    let pid = child.id().cast_signed();
    let mut status = 0;
    // SAFETY: integers, of which zero is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a child that nobody else waits for; both places live through the call.
    let ended = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    assert_eq!((ended, status), (pid, 0), "how netbpf ended");
    let time = |t: libc::timeval| {
        let seconds = u64::try_from(t.tv_sec).expect("a span");
        Duration::from_secs(seconds)
            + Duration::from_micros(u64::try_from(t.tv_usec).expect("a span"))
    };
    (start.elapsed(), time(usage.ru_utime) + time(usage.ru_stime))
}

#[test]
fn a_million_flows_are_listed() {
    let host = Host::new();
    host.up(&format!("--namespaces 1 --max-flows {MILLION}"));
    fill(&host, MILLION);
    assert_eq!(host.flows("--port 7").len(), 50_000);
    for format in ["table", "json"] {
        // Two seconds is the aim on a quiet machine; a test asserts no time.
        let taken = times(&mut host.command(&format!("maps flows -o {format}")));
        eprintln!("a million flows as {format}, elapsed and of the CPU: {taken:?}");
    }
    let lines = host.netbpf("maps flows --no-headers").ok().stdout.lines().count();
    assert_eq!(lines, MILLION as usize);
}

#[test]
fn two_hundred_namespaces_come_and_go() {
    let host = Host::new();
    let start = Instant::now();
    host.up("--namespaces 200");
    eprintln!("200 namespaces: {:?}", start.elapsed());
    let first = host.ns("ns1");
    for to in [Ipv4Addr::new(172, 19, 0, 201), OUTSIDE] {
        assert!(ping(&first, to, Echo::default()).is_reply(), "{to}");
    }
    let outcome = host.up("--namespaces 200");
    assert!(outcome.stderr.contains("nothing"), "{outcome}");
}
