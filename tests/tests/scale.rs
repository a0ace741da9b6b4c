//! Large numbers.

use aya::maps::{HashMap, Map, MapData};
use netbpf_common::{
    EndpointId, Flow, FlowKind, Ipv4, Port, Seen, Tally, Ticks, Translation, Tuple,
    maps::{Flows, MapDef},
    proto,
};
use netbpf_tests::{
    Host, NS1, OUTSIDE, Outcome, UPLINK, at, finish,
    ongoing::Paths,
    traffic::{Echo, UdpClient, UdpServer, ping},
};
use nix::libc;
use std::{
    io::{BufRead as _, BufReader},
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
    let mut one = Tally::default();
    one.add(60);
    let original = Flow {
        translated: outside.into(),
        kind: FlowKind::SNAT_ORIGINAL,
        endpoint: EndpointId(1),
        tally: one,
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

/// Runs a command that tells of its steps; returns how long it took from one with the first
/// text to one with the second, and all of it.
fn times_between(mut command: Command, texts: [&str; 2]) -> (Duration, Duration) {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let stderr = BufReader::new(child.stderr.take().expect("what it tells"));
    let mut times = [None; 2];
    for line in stderr.lines().map(|line| line.expect("a line")) {
        for (time, text) in times.iter_mut().zip(texts) {
            if line.contains(text) {
                time.get_or_insert_with(Instant::now);
            }
        }
    }
    assert!(child.wait().expect("it ends").success());
    let [first, second] = times.map(|time| time.expect("each text is told"));
    (second - first, start.elapsed())
}

#[test]
fn a_million_flows_move_into_another_table_and_nothing_is_lost() {
    for count in [10_000, MILLION] {
        let host = Host::new();
        let larger = MILLION + MILLION / 4;
        host.up(&format!("--namespaces 2 --max-flows {} -p 9000:ns1:7000/udp", larger - 1));
        fill(&host, count);
        let paths = Paths::begin(&host);
        let command = host.command(&format!("-v upgrade --max-flows {larger}"));
        // No flow is made from the first program that comes on.
        let held = times_between(command, ["tc: replace", "unload the old programs"]);
        eprintln!("{count} flows moved; of that none could be made for: {held:?}");
        paths.end();
        let lines = host.netbpf("maps flows --proto tcp --no-headers").ok().stdout.lines().count();
        assert_eq!(lines, count as usize);
    }
}

/// Runs the command and says how long it took: a test asserts no time.
#[track_caller]
fn timed(host: &Host, arguments: &str) -> Outcome {
    let start = Instant::now();
    let outcome = host.netbpf(arguments).ok();
    let taken = start.elapsed();
    let count = |word: &str| word.parse::<u32>().ok();
    let each = arguments.split(' ').find_map(count).map(|count| taken / count);
    eprintln!("{arguments}: {taken:?}, each {each:?}");
    outcome
}

#[test]
fn a_thousand_namespaces_in_one_network_come_and_go() {
    let host = Host::new();
    let network = "up --subnet 172.19.0.0/22 --namespaces";
    // What one costs is to be the same in a small network and in a large one.
    timed(&host, &format!("{network} 10"));
    timed(&host, "down");
    timed(&host, &format!("{network} 1000"));
    let (first, last) = (host.ns("ns1"), host.ns("ns1000"));
    for to in [Ipv4Addr::new(172, 19, 3, 233), OUTSIDE] {
        assert!(ping(&first, to, Echo::default()).is_reply(), "{to}");
    }
    assert!(ping(&last, NS1, Echo::default()).is_reply());
    let status = timed(&host, "-j status").json();
    let namespaces = status["networks"][0]["namespaces"].as_array().expect("a list");
    assert_eq!(namespaces.len(), 1000);
    assert!(namespaces.iter().all(|ns| ns["missing"] == serde_json::json!([])), "{status}");
    timed(&host, &format!("{network} 1000")).complains("nothing to do");
    timed(&host, "ns add cache");
    timed(&host, "ns rm cache");
    timed(&host, "down");
    host.assert_as_before();
}

#[test]
fn twenty_thousand_published_ports_are_one_entry() {
    let host = Host::new();
    for datapath in ["ebpf", "iptables"] {
        let network = format!("--namespaces 1 --datapath {datapath} -p");
        timed(&host, &format!("up --uplink up0 {network} 20000:ns1:30000/udp"));
        let rules = |host: &Host| finish(&mut host.netns().command("iptables-save")).ok().stdout;
        let with_one = rules(&host).lines().count();
        timed(&host, "down");
        timed(&host, &format!("up --uplink up0 {network} 20000-39999:ns1:30000-49999/udp"));
        assert_eq!(rules(&host).lines().count(), with_one, "{datapath}: rules");
        let published = host.json("maps publish");
        let published = published["publish"].as_array().expect("a list");
        assert_eq!(published.len(), 1, "{datapath}: {published:?}");
        for port in [20_000, 29_999, 39_999] {
            let server = UdpServer::start(&host.ns("ns1"), port + 10_000);
            UdpClient::new(host.outside()).exchange(at(UPLINK, port), b"hello");
            assert_eq!(server.peers().len(), 1, "{datapath}: {port}");
        }
        timed(&host, "down");
    }
}
