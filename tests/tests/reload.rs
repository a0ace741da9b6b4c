//! A datapath that runs is loaded with other options: what lives goes on, and whenever it
//! ends, the network is whole.

use netbpf_tests::{
    Host, OUTSIDE, Outcome, UPLINK, at,
    ongoing::{Flows, Stream, attach_by_filters},
    recipe::{ARGUMENTS, with_each_fault, works},
    sample,
    traffic::{Metered, Metering, TcpClient, TcpServer, connect},
    truth::tells_the_truth,
};

/// Datagrams a second on each path.
const RATE: u32 = 1_000;
/// Flows that live meanwhile.
const FLOWS: u16 = 2_000;

/// `up` with the network as it is, and these options.
fn up(options: &str) -> String {
    format!("up --uplink up0 {ARGUMENTS} {options}")
}

/// A value of the network's in `status`.
fn value(host: &Host, key: &str) -> serde_json::Value {
    host.json("status")["networks"][0][key].clone()
}

/// Everything that goes on while the datapath is loaded with each of these options in turn.
fn reloaded_under_load(host: &Host, all: &[(&str, &str, serde_json::Value)]) {
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let _servers = [TcpServer::start(host.outside(), 4443), TcpServer::start(&ns1, 80)];
    let flows = Flows::begin(host, &ns1, FLOWS);
    let ends = [(&ns2, at(OUTSIDE, 4443)), (host.outside(), at(UPLINK, 8080))];
    let streams = ends.map(|(from, to)| {
        let mut client = connect(from, to).expect("a connection");
        let seen_as = client.who_am_i().expect("an answer");
        (Stream::begin(client), seen_as)
    });
    // At rest meanwhile.
    let mut resting = connect(&ns1, at(OUTSIDE, 4443)).expect("a connection");
    let paths = [
        ("among namespaces", (&ns1, at(netbpf_tests::NS2, 5000)), (&ns2, 5000)),
        ("to the outside", (&ns1, at(OUTSIDE, 5000)), (host.outside(), 5000)),
        ("to a published port", (host.outside(), at(UPLINK, 9000)), (&ns1, 7000)),
    ];
    let metered: Vec<(&str, Metered)> = paths
        .into_iter()
        .map(|(name, from, to)| (name, Metered::begin(name, from, to, RATE, 100)))
        .collect();
    for (option, key, is) in all {
        host.netbpf(&up(option)).ok().complains("loaded anew");
        assert_eq!(value(host, key), *is, "{option}");
        host.netbpf(&up(option)).ok().complains("nothing to do");
        host.netbpf("check").ok();
    }
    for (name, metered) in metered {
        let metering = metered.end();
        eprintln!("{name}: {metering:?}");
        assert!(metering.sent > 100, "{name}: {metering:?}");
        assert_eq!(metering, Metering { lost: 0, again: 0, ..metering }, "{name}");
    }
    for (stream, seen_as) in streams {
        let (bytes, mut client) = stream.end();
        assert!(bytes > 0, "a stream carries something");
        assert_eq!(client.who_am_i().expect("an answer"), seen_as, "it is the same connection");
    }
    resting.echo(&sample(5_000)).expect("it goes on");
    flows.go_on();
}

/// A network, with programs attached by TCX or by filters.
fn network(by_filters: bool) -> Host {
    let host = Host::new();
    host.up(ARGUMENTS);
    if by_filters {
        attach_by_filters(&host);
    }
    host
}

fn end(host: &Host) {
    works(host);
    host.netbpf("down --all").ok();
    host.assert_as_before();
}

#[test]
fn another_log_level_loses_nothing() {
    for by_filters in [false, true] {
        let host = network(by_filters);
        let all = ["debug", "off", "trace", "warn", "off"]
            .map(|level| (format!("--log-level {level}"), level));
        let all = all.each_ref().map(|(option, level)| (&option[..], "log_level", (*level).into()));
        reloaded_under_load(&host, &all);
        end(&host);
    }
}

#[test]
fn what_is_planned_is_done() {
    let host = network(false);
    host.netbpf(&up("--log-level debug").replacen("up", "plan", 1))
        .exits(3)
        .says("log level debug")
        .says("replace from_endpoint on ingress of netbpf0-1");
    assert_eq!(value(&host, "log_level"), "off");
    host.netbpf("logs").exits(1).complains("--log-level");
    host.netbpf(&up("--log-level debug")).ok();
    // What is left out stays as it is.
    host.netbpf(&up("")).ok().complains("nothing to do");
    host.netbpf("publish add 8089:ns2:80").ok();
    assert_eq!(value(&host, "log_level"), "debug");
    host.netbpf("publish rm 8089").ok();
    host.netbpf(&up("--log-level off")).ok();
    let upgrade = "upgrade --log-level warn";
    host.netbpf(&format!("{upgrade} --dry-run")).ok().says("log level warn").says("replace");
    assert_eq!(value(&host, "log_level"), "off");
    host.netbpf(upgrade).ok().says("from_endpoint").complains("loaded anew");
    assert_eq!(value(&host, "log_level"), "warn");
    host.netbpf(upgrade).ok().complains("nothing to do");
    host.netbpf(&up("")).ok().complains("nothing to do");
    end(&host);
}

/// There is one datapath for all networks of a host.
#[test]
fn all_networks_of_a_host_agree() {
    let host = network(false);
    let second = "up --uplink up0 --name two --ns-prefix t --subnet 172.20.0.0/24 --namespaces 1";
    host.netbpf(&format!("{second} --log-level info")).ok().complains("loaded anew");
    let levels = |host: &Host| {
        let status = host.json("status");
        let networks = status["networks"].as_array().expect("networks").clone();
        networks.iter().map(|network| network["log_level"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(levels(&host), ["info", "info"]);
    host.netbpf(second).ok().complains("nothing to do");
    host.netbpf(&up("")).ok().complains("nothing to do");
    host.netbpf(&up("--log-level off")).ok();
    assert_eq!(levels(&host), ["off", "off"]);
    host.netbpf(second).ok().complains("nothing to do");
    host.netbpf("check").ok();
    end(&host);
}

/// A connection in each direction.
fn connections(host: &Host) -> [TcpClient; 2] {
    [(&host.ns("ns1"), at(OUTSIDE, 4443)), (host.outside(), at(UPLINK, 8080))]
        .map(|(from, to)| connect(from, to).expect("a connection"))
}

fn go_on(connections: &mut [TcpClient], when: &str) {
    for connection in connections {
        connection.echo(&sample(5_000)).unwrap_or_else(|e| panic!("{when}: {e}"));
    }
}

/// Runs an `up` with each fault in turn; it is to have the value of the key that it is
/// asked for, or the one that it had.
fn with_faults(by_filters: bool, option: &str, key: &str, fault: &str) {
    let host = network(by_filters);
    let outside = TcpServer::start(host.outside(), 4443);
    let mut web = TcpServer::start(&host.ns("ns1"), 80);
    let before = value(&host, key);
    let mut clients = connections(&host);
    with_each_fault(&host, &up(option), fault, |step, outcome: Outcome| {
        let when = format!("{option}, {fault} at step {step}: {outcome}");
        tells_the_truth(&host, &when);
        go_on(&mut clients, &when);
        if fault == "fail" {
            assert_eq!(outcome.code, Some(1), "{when}");
            assert_eq!(value(&host, key), before, "{when}");
            host.netbpf(&up("")).ok().complains("nothing to do");
        } else {
            assert_eq!(outcome.signal, Some(9), "{when}");
            match step % 3 {
                0 => {
                    host.netbpf("down --all").ok();
                    host.netbpf("status").ok().complains("there is no network");
                    host.netbpf(&up("")).ok();
                    web = TcpServer::start(&host.ns("ns1"), 80);
                    clients = connections(&host);
                }
                1 => drop(host.netbpf("up").ok()),
                _ => drop(host.netbpf("upgrade").ok()),
            }
            host.netbpf(&up("")).ok();
            tells_the_truth(&host, &when);
            go_on(&mut clients, &when);
            let back = format!("--{} {}", key.replace('_', "-"), plain(&before));
            host.netbpf(&up(&back)).ok();
        }
        go_on(&mut clients, &when);
        assert_eq!(value(&host, key), before, "{when}");
    });
    assert_ne!(value(&host, key), before, "without a fault it is done");
    go_on(&mut clients, option);
    drop((clients, outside, web));
    end(&host);
}

/// A value as it is written on the command line.
fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[test]
fn another_log_level_that_fails_at_any_step_leaves_all_as_it_was() {
    for by_filters in [false, true] {
        with_faults(by_filters, "--log-level debug", "log_level", "fail");
    }
}

#[test]
fn another_log_level_that_is_killed_at_any_step_is_finished_or_taken_away() {
    for by_filters in [false, true] {
        with_faults(by_filters, "--log-level debug", "log_level", "kill");
    }
}
