//! Other programs in the place of those that run: no packet is lost, no flow broken, and
//! whenever it ends, the network is whole.

use netbpf::bpf::Datapath;
use netbpf_tests::{
    AnotherBuild, Host, OUTSIDE, UPLINK, at, binary, finish, interrupt,
    ongoing::{Flows, Stream, attach_by_filters, pin_dir},
    recipe::{ARGUMENTS, with_each_fault, works},
    sample,
    traffic::{Metered, Metering, TcpClient, TcpServer, connect},
    wait,
};
use nix::sys::signal::Signal;
use std::{collections::BTreeSet, thread, time::Instant};

/// Datagrams a second on each path.
const RATE: u32 = 1_000;
/// How often the programs are replaced.
const TIMES: usize = 20;
/// Flows that live meanwhile.
const FLOWS: u16 = 10_000;

/// The kernel-wide numbers of the programs that are pinned.
fn program_ids(host: &Host) -> BTreeSet<u32> {
    let programs = pin_dir(host).join("programs");
    host.sandbox().run(|| {
        let pins = std::fs::read_dir(&programs).expect("programs");
        pins.map(|pin| {
            let pin = pin.expect("an entry").path();
            let program = aya::programs::SchedClassifier::from_pin(&pin);
            let program = program.unwrap_or_else(|e| panic!("{}: {e}", pin.display()));
            program.info().expect("what it is").id()
        })
        .collect()
    })
}

/// Waits until the kernel has none of these programs any more.
fn wait_gone(ids: &BTreeSet<u32>) {
    wait::until_true("the old programs are gone", || {
        let mut loaded = aya::programs::loaded_programs().filter_map(Result::ok);
        !loaded.any(|program| ids.contains(&program.id()))
    });
}

/// Everything that is said of an upgrade, under load.
fn replaced_under_load(host: &Host) {
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let flows = Flows::begin(host, &ns1, FLOWS);
    let _server = TcpServer::start(host.outside(), 4443);
    let mut client = connect(&ns2, at(OUTSIDE, 4443)).expect("a connection");
    let seen_as = client.who_am_i().expect("an answer");
    let stream = Stream::begin(client);
    let paths = [
        ("among namespaces", (&ns1, at(netbpf_tests::NS2, 5000)), (&ns2, 5000), RATE, 100),
        ("to the outside", (&ns1, at(OUTSIDE, 5000)), (host.outside(), 5000), RATE, 100),
        ("to a published port", (host.outside(), at(UPLINK, 9000)), (&ns1, 7000), RATE, 100),
        // By the programs for what is rare, which are handed over to: three fragments each.
        ("in fragments", (&ns1, at(OUTSIDE, 5001)), (host.outside(), 5001), 100, 4_000),
    ];
    let metered: Vec<(&str, Metered)> = paths
        .into_iter()
        .map(|(name, from, to, rate, len)| (name, Metered::begin(name, from, to, rate, len)))
        .collect();
    let begin = Instant::now();
    let mut ids = program_ids(host);
    for _ in 0..TIMES {
        host.netbpf("upgrade --force").ok().says("from_endpoint");
        let now = program_ids(host);
        assert!(ids.is_disjoint(&now), "all programs are other ones: {ids:?}, {now:?}");
        wait_gone(&ids);
        ids = now;
    }
    let took = begin.elapsed();
    for (name, metered) in metered {
        let metering = metered.end();
        eprintln!("{name}: {metering:?} in {took:?}");
        assert!(metering.sent > 100, "{name}: {metering:?}");
        assert_eq!(metering, Metering { lost: 0, again: 0, ..metering }, "{name}");
    }
    let (bytes, mut client) = stream.end();
    eprintln!("a stream: {bytes} bytes");
    assert!(bytes > 0, "a stream carries something");
    assert_eq!(client.who_am_i().expect("an answer"), seen_as, "it is the same connection");
    flows.go_on();
    host.netbpf("upgrade").ok().complains("nothing to do");
}

#[test]
fn programs_are_replaced_under_load_and_nothing_is_lost() {
    let host = Host::new();
    host.up(ARGUMENTS);
    replaced_under_load(&host);
}

#[test]
fn so_they_are_where_they_are_filters() {
    let host = Host::new();
    host.up(ARGUMENTS);
    attach_by_filters(&host);
    replaced_under_load(&host);
}

/// What the kernel and the file system have of the datapath: pins, and programs on
/// devices.
fn datapath_of(host: &Host) -> BTreeSet<String> {
    let listing = host.listing();
    let of = ["pin: ", " tcx: ", " filter: "].map(|kind| listing.with(kind));
    of.concat().into_iter().map(str::to_owned).collect()
}

/// Whether `status` says that an upgrade was interrupted, in words and in JSON alike.
fn is_interrupted(host: &Host) -> bool {
    let says = host.netbpf("status").ok().stdout.contains("upgrade interrupted");
    let state = host.json("status")["networks"][0]["state"].clone();
    assert_eq!(state, if says { "incomplete" } else { "up" });
    says
}

/// A network, with programs attached by TCX or by filters, and a connection out of it.
fn live(host: &Host, by_filters: bool) -> TcpClient {
    host.up(ARGUMENTS);
    if by_filters {
        attach_by_filters(host);
    }
    let mut client = connect(&host.ns("ns1"), at(OUTSIDE, 4443)).expect("a connection");
    client.echo(b"before").expect("echo");
    client
}

#[test]
fn failing_at_any_step_an_upgrade_leaves_all_as_it_was() {
    let host = Host::new();
    let _server = TcpServer::start(host.outside(), 4443);
    for by_filters in [false, true] {
        let mut client = live(&host, by_filters);
        let before = datapath_of(&host);
        with_each_fault(&host, "upgrade --force", "fail", |step, outcome| {
            let outcome = outcome.exits(1).complains("the old programs run as before");
            assert_eq!(datapath_of(&host), before, "step {step}: {outcome}");
            assert!(!is_interrupted(&host), "step {step}: {outcome}");
            client.echo(&sample(5_000)).unwrap_or_else(|e| panic!("step {step}: {e}"));
        });
        works(&host);
        host.netbpf("down --all").ok();
        host.assert_as_before();
    }
}

/// Steps of an upgrade before the new programs are in their place.
const BEFORE_IN_PLACE: usize = 2;

#[test]
fn killed_at_any_step_an_upgrade_is_finished_by_whoever_comes_next() {
    let host = Host::new();
    let _server = TcpServer::start(host.outside(), 4443);
    let up = format!("up --uplink up0 {ARGUMENTS}");
    let next =
        ["upgrade", &up, "publish add 8089:ns2:80", "ns add ns9", "switch netbpf0 --datapath ebpf"];
    for by_filters in [false, true] {
        let mut client = live(&host, by_filters);
        let names = |host: &Host| -> Vec<String> {
            let listing = host.listing();
            listing.with("pin: ").into_iter().map(str::to_owned).collect()
        };
        let before = names(&host);
        with_each_fault(&host, "upgrade --force", "kill", |step, outcome| {
            assert_eq!(outcome.signal, Some(9), "step {step}: {outcome}");
            assert_eq!(is_interrupted(&host), step > BEFORE_IN_PLACE, "step {step}");
            client.echo(&sample(5_000)).unwrap_or_else(|e| panic!("step {step}: {e}"));
            let command = next[step % next.len()];
            host.netbpf(command).ok();
            assert!(!is_interrupted(&host), "step {step}, {command}");
            client.echo(&sample(5_000)).unwrap_or_else(|e| panic!("step {step}: {e}"));
            match command.split(' ').next() {
                Some("publish") => drop(host.netbpf("publish rm 8089").ok()),
                Some("ns") => drop(host.netbpf("ns rm ns9").ok()),
                _ => {}
            }
            assert_eq!(names(&host), before, "step {step}, {command}");
        });
        works(&host);
        host.netbpf("down --all").ok();
        host.assert_as_before();
    }
}

#[test]
fn killed_at_any_step_an_upgrade_leaves_nothing_that_down_does_not_remove() {
    let host = Host::new();
    for by_filters in [false, true] {
        let build = || {
            host.up(ARGUMENTS);
            if by_filters {
                attach_by_filters(&host);
            }
        };
        build();
        with_each_fault(&host, "upgrade --force", "kill", |step, outcome| {
            assert_eq!(outcome.signal, Some(9), "step {step}: {outcome}");
            host.netbpf("down --all").ok();
            eprintln!("killed before step {step}:");
            host.assert_as_before();
            build();
        });
        host.netbpf("down --all").ok();
        host.assert_as_before();
    }
}

/// Not between two steps, but wherever it happens to be.
#[test]
fn interrupted_at_any_moment_an_upgrade_is_done_or_not_begun() {
    let host = Host::new();
    let _server = TcpServer::start(host.outside(), 4443);
    let mut client = live(&host, false);
    let start = Instant::now();
    host.netbpf("upgrade --force").ok();
    let whole = start.elapsed();
    for (signal, name) in [(Signal::SIGKILL, "SIGKILL"), (Signal::SIGINT, "SIGINT")] {
        for part in 1..=12 {
            let before = datapath_of(&host);
            let mut command = host.command("upgrade --force");
            let outcome = interrupt(&mut command, whole * part / 12, signal);
            eprintln!("{name} after {part} of 12 parts of {whole:?}: {:?}", outcome.code);
            if signal == Signal::SIGINT {
                assert!(!is_interrupted(&host), "{outcome}");
                let is_as_before = datapath_of(&host) == before;
                assert_eq!(is_as_before, outcome.code != Some(0), "{outcome}");
            }
            client.echo(&sample(5_000)).unwrap_or_else(|e| panic!("{name}, {part}: {e}"));
            host.netbpf("upgrade").ok();
            assert!(!is_interrupted(&host), "{outcome}");
            pin_dir(&host);
        }
    }
    works(&host);
}

#[test]
fn up_with_another_build_replaces_the_programs_and_says_so() {
    let host = Host::new();
    let _server = TcpServer::start(host.outside(), 4443);
    let another = AnotherBuild::new();
    let up = format!("up --uplink up0 {ARGUMENTS}");
    let with = |binary, arguments: &str| finish(&mut host.command_of(binary, arguments));
    let mut client = live(&host, false);
    for (old, new) in [(binary(), another.path()), (another.path(), binary())] {
        with(old, "status").ok();
        let status = with(new, "status").ok().complains("`netbpf upgrade` replaces them");
        assert!(!status.stdout.contains("not on"), "they are there: {status}");
        with(new, "plan --uplink up0 --namespaces 2").exits(3).says("beside those of");
        let dry = with(new, &format!("{up} --dry-run")).ok();
        assert_eq!(dry.stdout.lines().count(), 9, "{dry}");
        with(new, &up).ok().complains("run in the place of").complains("nothing to do");
        client.echo(&sample(5_000)).expect("echo");
        let again = with(new, &up).ok();
        assert!(!again.stderr.contains("in the place of"), "{again}");
        with(new, "upgrade").ok().complains("nothing to do");
        let status = with(new, "status").ok();
        assert!(!status.stderr.contains("upgrade"), "{status}");
    }
    // Which programs those are.
    let answer = with(another.path(), "upgrade -o json").ok().json();
    assert_eq!(answer["upgraded"], true, "{answer}");
    assert_ne!(answer["from"], answer["to"], "{answer}");
    let programs = answer["programs"].as_array().expect("a list");
    for program in programs {
        let is_other = program["from"] != program["to"];
        assert_eq!(is_other, program["program"] == "start_sweeper", "{answer}");
    }
    assert!(programs.len() > 5, "{answer}");
    let answer = with(another.path(), "upgrade -o json").ok().json();
    assert_eq!((&answer["upgraded"], &answer["from"]), (&false.into(), &serde_json::Value::Null));
    works(&host);
}

#[test]
fn killed_at_any_step_up_with_another_build_can_be_run_again_with_either() {
    let host = Host::new();
    let _server = TcpServer::start(host.outside(), 4443);
    let another = AnotherBuild::new();
    let up = format!("up --uplink up0 {ARGUMENTS}");
    let mut client = live(&host, false);
    let mut steps = 0;
    for step in 1..=100 {
        let mut command = host.command_of(another.path(), &format!("{up} -p 8090:ns2:80"));
        let outcome = finish(command.env("NETBPF_FAULT", format!("kill:{step}")));
        if outcome.code == Some(0) {
            break;
        }
        steps = step;
        assert_eq!(outcome.signal, Some(9), "step {step}: {outcome}");
        client.echo(&sample(5_000)).unwrap_or_else(|e| panic!("step {step}: {e}"));
        if step % 2 == 0 {
            finish(&mut host.command_of(another.path(), &up)).ok();
        }
        host.netbpf(&up).ok();
        let status = host.netbpf("status").ok();
        assert!(!status.stderr.contains("upgrade"), "step {step}: {status}");
        assert!(!is_interrupted(&host), "step {step}");
        client.echo(&sample(5_000)).unwrap_or_else(|e| panic!("step {step}: {e}"));
    }
    assert!(steps > 9, "those of the network come after the nine of the upgrade: {steps}");
    host.netbpf(&up).ok();
    works(&host);
}

/// Flows expire by the new program: the old one's timer is gone with it.
#[test]
fn flows_expire_after_an_upgrade_as_before() {
    use netbpf_common::{Config, Ticks, Timeouts, maps::ConfigMap};

    let host = Host::new();
    host.up(ARGUMENTS);
    let pin_dir = pin_dir(&host);
    host.netns().run(|| {
        let datapath = Datapath::open(&pin_dir).expect("it opens").expect("a datapath");
        let config = datapath.config().expect("a configuration");
        let timeouts = Timeouts { udp_unreplied: Ticks::from_secs(1), ..config.timeouts };
        let map = datapath.map::<ConfigMap>().expect("a map");
        map.set(&0, &Config { timeouts, ..config }).expect("written");
    });
    for _ in 0..3 {
        host.netbpf("upgrade --force").ok();
        let client = netbpf_tests::traffic::UdpClient::new(&host.ns("ns1"));
        client.send(at(OUTSIDE, 54), b"nobody answers").expect("sent");
        wait::until_true("the flow is there", || !host.flows("--proto udp").is_empty());
        wait::until_true("the flow is over", || host.flows("--proto udp").is_empty());
    }
}

#[test]
fn programs_of_uplinks_without_ethernet_header_are_replaced_as_well() {
    let host = Host::new();
    let tun = netbpf_tests::traffic::Tun::new(host.netns(), "tun0");
    host.netns().ip("addr add 198.51.100.1/24 dev tun0");
    host.netns().ip("link set tun0 up");
    host.netbpf("up --uplink up0 --uplink tun0 --namespaces 1").ok();
    let old = program_ids(&host);
    host.netbpf("upgrade --force").ok().says("from_uplink_l3").says("rare_l3");
    wait_gone(&old);
    let status = host.netbpf("status").ok();
    assert!(!status.stdout.contains("not on"), "{status}");
    host.netbpf("down").ok();
    drop(tun);
}

/// Two at once: one waits for the other, or fails and says so, and never are there parts
/// of both.
#[test]
fn two_at_once_do_not_mix() {
    let host = Host::new();
    let up = format!("up --uplink up0 {ARGUMENTS}");
    let pairs = [
        ["upgrade --force", "upgrade --force"],
        [&up, &up],
        [&up, "upgrade --force"],
        ["upgrade --force", "ns add ns8"],
        ["publish add 8091:ns1:80", "publish add 8092:ns2:80"],
        ["ns add ns7", "ns rm ns8"],
        ["switch netbpf0 --datapath iptables", "upgrade --force"],
        ["switch netbpf0 --datapath ebpf", "ns rm ns7"],
        ["upgrade --force", "down --all"],
        [&up, "down --all"],
    ];
    for pair in pairs {
        let outcomes = thread::scope(|scope| {
            let [first, second] =
                pair.map(|arguments| scope.spawn(|| finish(&mut host.command(arguments))));
            [first, second].map(|one| one.join().expect("it ends"))
        });
        for outcome in outcomes {
            // What the other one has done may leave nothing to do, or nothing to do it to.
            let is_clear = matches!(outcome.code, Some(0 | 2));
            assert!(is_clear && !outcome.stderr.contains("panic"), "{pair:?}: {outcome}");
        }
        // Whoever was first: all of it is there, or nothing.
        let status = host.netbpf("status").ok();
        assert!(!status.stdout.contains("interrupted"), "{pair:?}: {status}");
        if status.stdout.contains("netbpf0") {
            assert_eq!(host.json("status")["networks"][0]["state"], "up", "{pair:?}: {status}");
        } else {
            host.assert_as_before();
        }
        if pair[1] == "down --all" {
            host.netbpf("down --all").ok();
            host.assert_as_before();
            host.netbpf(&up).ok();
        }
    }
    works(&host);
}

#[test]
fn an_upgrade_of_what_is_not_there_is_refused_or_nothing_to_do() {
    let host = Host::new();
    host.netbpf("upgrade").ok().complains("nothing to do");
    assert_eq!(host.json("upgrade --force")["upgraded"], false);
    host.netbpf("upgrade nosuch").exits(2).complains("there is no network nosuch");
    host.netbpf(&format!("up --uplink up0 --datapath iptables {ARGUMENTS}")).ok();
    host.netbpf("upgrade --force").ok().complains("nothing to do");
    host.netbpf("upgrade netbpf0").exits(2).complains("has no programs");
    host.netbpf("switch netbpf0 --datapath ebpf").ok();
    let before = datapath_of(&host);
    host.netbpf("upgrade netbpf0 --force --dry-run").ok().says("replace from_endpoint");
    host.netbpf("upgrade netbpf0 --dry-run").ok().says("nothing to do");
    assert_eq!(datapath_of(&host), before);
    host.netbpf("upgrade netbpf0 --force").ok().says("from_endpoint");
}
