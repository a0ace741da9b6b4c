//! A datapath that runs is loaded with other options: what lives goes on, and whenever it
//! ends, the network is whole.

use netbpf::bpf::Datapath;
use netbpf_common::{
    Config, EndpointId, PortOwner, Ticks, Timeouts,
    maps::{ConfigMap, OutsidePorts},
};
use netbpf_tests::{
    Host, OUTSIDE, Outcome, UPLINK, at, finish,
    ongoing::{Connections, Flows, Paths, attach_by_filters, pin_dir},
    recipe::{ARGUMENTS, works},
    sample,
    traffic::{TcpClient, TcpServer, connect},
    truth::tells_the_truth,
    wait,
};

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
    let connections = Connections::begin(host, FLOWS);
    let paths = Paths::begin(host);
    for (option, key, is) in all {
        host.netbpf(&up(option)).ok().complains("loaded anew");
        assert_eq!(value(host, key), *is, "{option}");
        host.netbpf(&up(option)).ok().complains("nothing to do");
        host.netbpf("check").ok();
    }
    for (name, sent) in paths.end() {
        assert!(sent > 100, "{name}: {sent}");
    }
    assert!(connections.end().iter().all(|&bytes| bytes > 0), "a stream carries something");
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
fn a_larger_or_a_smaller_table_loses_nothing() {
    for by_filters in [false, true] {
        let host = network(by_filters);
        let all = [400_000, 3_000, 262_144, 2_500, 300_000]
            .map(|size: u32| (format!("--max-flows {size}"), size));
        let all = all.each_ref().map(|(option, size)| (&option[..], "max_flows", (*size).into()));
        reloaded_under_load(&host, &all);
        end(&host);
    }
}

/// Flows, with what they have carried, and how many there are of each namespace.
fn flows_and_counts(host: &Host) -> (Vec<String>, serde_json::Value) {
    let flows = host.json("maps flows");
    let flows = flows["flows"].as_array().expect("flows").clone();
    let key = |flow: &serde_json::Value| {
        ["proto", "kind", "original", "translated", "state", "packets", "bytes", "ns", "uplink"]
            .map(|key| flow[key].to_string())
            .join(" ")
    };
    let mut keys: Vec<String> = flows.iter().map(key).collect();
    keys.sort();
    let endpoints = host.json("maps endpoints")["endpoints"].as_array().expect("rows").clone();
    let counts = endpoints.iter().map(|row| row["flows"].clone()).collect();
    (keys, counts)
}

/// All that is told of flows is as it was, and so is when they end.
#[test]
fn flows_are_the_same_in_another_table() {
    let host = network(false);
    let flows = Flows::begin(&host, &host.ns("ns1"), 300);
    let before = flows_and_counts(&host);
    eprintln!("{:?}, {}", before.0[0], before.1);
    assert_eq!(before.0.len(), 300);
    for size in [500, 300, 100_000] {
        host.netbpf(&format!("upgrade --max-flows {size}")).ok().complains("loaded anew");
        assert_eq!(flows_and_counts(&host), before, "{size}");
    }
    flows.go_on();
    assert_eq!(flows_and_counts(&host).1, before.1, "none was made anew");
    // Each is looked at for its end.
    let pin_dir = pin_dir(&host);
    host.netns().run(|| {
        let datapath = Datapath::open(&pin_dir).expect("it opens").expect("a datapath");
        let config = datapath.config().expect("a configuration");
        let timeouts = Timeouts { udp: Ticks::from_secs(1), ..config.timeouts };
        let map = datapath.map::<ConfigMap>().expect("a map");
        map.set(&0, &Config { timeouts, ..config }).expect("written");
    });
    host.netns().run(|| {
        let datapath = Datapath::open(&pin_dir).expect("it opens").expect("a datapath");
        let live = || datapath.flow_count(EndpointId::NONE).expect("a count");
        wait::until_true("all are over", || live() == 0);
        let mut held = 0;
        let ports = datapath.map::<OutsidePorts>().expect("a map");
        let count = |_: &u32, owner: &PortOwner| {
            held += owner.flows();
            Ok(())
        };
        ports.for_each(count).expect("read");
        assert_eq!(held, 0, "nobody has a port any more");
    });
}

#[test]
fn a_table_that_is_too_small_is_refused_before_anything_is_touched() {
    let host = network(false);
    let flows = Flows::begin(&host, &host.ns("ns1"), 100);
    let before = host.listing();
    let arguments = up("--max-flows 99");
    for command in [&arguments, "upgrade --max-flows 99", &arguments.replacen("up", "plan", 1)] {
        host.netbpf(command)
            .exits(1)
            .complains("a table of 99 flows is too small")
            .complains("100 flows live")
            .complains("choose at least 100")
            .complains("maps flows flush");
        before.assert_same(&host.listing());
    }
    host.netbpf("upgrade --max-flows 0").exits(2).complains("max-flows");
    flows.go_on();
    host.netbpf(&up("--max-flows 100")).ok();
    flows.go_on();
    host.netbpf("maps flows flush --all").ok();
    host.netbpf(&up("--max-flows 99")).ok();
    host.netbpf(&up("--max-flows 262144")).ok();
    drop(flows);
    end(&host);
}

#[test]
fn another_table_that_fails_at_any_step_leaves_all_as_it_was() {
    for by_filters in [false, true] {
        with_faults(by_filters, "--max-flows 5000", "max_flows", "fail");
    }
}

#[test]
fn another_table_that_is_killed_at_any_step_is_finished_or_taken_away() {
    for by_filters in [false, true] {
        with_faults(by_filters, "--max-flows 5000", "max_flows", "kill");
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
    // A limit that is an equal share of the table stays one.
    for (command, size) in
        [(format!("{second} --max-flows 1000"), 1000), (up("--max-flows 500"), 500)]
    {
        host.netbpf(&command).ok().complains("loaded anew");
        let status = host.json("status");
        let networks = status["networks"].as_array().expect("networks");
        for (network, share) in networks.iter().zip([size / 2, size]) {
            assert_eq!(
                (&network["max_flows"], &network["flow_limit"]),
                (&size.into(), &share.into())
            );
        }
        host.netbpf("check").ok();
        host.netbpf(second).ok().complains("nothing to do");
    }
    host.netbpf(&up("--max-flows 262144")).ok();
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

/// Runs a command with a fault at each step in turn, until it does not get as far; it is
/// undone each time, or done all the same.
fn each_fault(host: &Host, command: &str, fault: &str, mut after: impl FnMut(usize, Outcome)) {
    for step in 1..=60 {
        let mut command = host.command(command);
        let outcome = finish(command.env("NETBPF_FAULT", format!("{fault}:{step}")));
        if outcome.code == Some(0) && !outcome.stderr.contains("the second time it did not") {
            assert!(step > 8, "only {step} steps had a fault");
            return;
        }
        after(step, outcome);
    }
    panic!("it has no end");
}

/// Runs an `up` with each fault in turn; it is to have the value of the key that it is
/// asked for, or the one that it had.
fn with_faults(by_filters: bool, option: &str, key: &str, fault: &str) {
    let host = network(by_filters);
    let outside = TcpServer::start(host.outside(), 4443);
    let mut web = TcpServer::start(&host.ns("ns1"), 80);
    let before = value(&host, key);
    let mut clients = connections(&host);
    each_fault(&host, &up(option), fault, |step, outcome: Outcome| {
        let when = format!("{option}, {fault} at step {step}: {outcome}");
        tells_the_truth(&host, &when);
        go_on(&mut clients, &when);
        if fault == "fail" {
            let is_done = outcome.code == Some(0);
            assert!(is_done || outcome.code == Some(1), "{when}");
            assert_eq!(value(&host, key) != before, is_done, "{when}");
            host.netbpf(&up("")).ok().complains("nothing to do");
            if is_done {
                let back = format!("--{} {}", key.replace('_', "-"), plain(&before));
                host.netbpf(&up(&back)).ok();
            }
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
