//! A datapath of an older layout, whose flows a newer netbpf converts: they go on, and
//! whenever it ends, the network is whole.

use netbpf_common::ABI_VERSION;
use netbpf_tests::{
    Host, OUTSIDE, Outcome, UPLINK, at, finish,
    ongoing::{Connections, Flows, Paths, attach_by_filters},
    other_layout,
    recipe::ARGUMENTS,
    sample,
    traffic::{TcpClient, TcpServer, connect},
};

const FLOWS: u16 = 2_000;

/// The network, asked for once more.
fn up() -> String {
    format!("up --uplink up0 {ARGUMENTS}")
}

/// Runs a command of the newer netbpf.
fn newer(host: &Host, arguments: &str) -> Outcome {
    finish(&mut host.command_of(other_layout(), arguments))
}

fn network(by_filters: bool) -> Host {
    let host = Host::new();
    old_network(&host, by_filters);
    host
}

fn old_network(host: &Host, by_filters: bool) {
    host.netbpf(&up()).ok();
    if by_filters {
        attach_by_filters(host);
    }
}

/// The flows as a netbpf lists them, with what they have carried.
fn listed(flows: &Outcome) -> Vec<String> {
    let flows = flows.json()["flows"].as_array().expect("flows").clone();
    let key = |flow: &serde_json::Value| {
        ["proto", "kind", "original", "translated", "state", "packets", "bytes", "ns", "uplink"]
            .map(|key| flow[key].to_string())
            .join(" ")
    };
    let mut keys: Vec<String> = flows.iter().map(key).collect();
    keys.sort();
    keys
}

#[test]
fn under_load_nothing_is_lost_and_nothing_broken() {
    for (by_filters, command) in [(false, up()), (true, "upgrade".to_owned())] {
        let host = network(by_filters);
        let connections = Connections::begin(&host, FLOWS);
        let paths = Paths::begin(&host);
        newer(&host, &command).ok().complains("run in the place of");
        paths.end();
        connections.end();
        newer(&host, "check").ok();
        newer(&host, &up()).ok().complains("nothing to do");
        // To the other one they are a newer netbpf's now.
        host.netbpf("status").exits(1).complains("those of a newer netbpf");
        newer(&host, "down --all").ok();
        host.assert_as_before();
    }
}

#[test]
fn what_is_told_of_flows_is_the_same() {
    let host = network(false);
    let flows = Flows::begin(&host, &host.ns("ns1"), 300);
    let before = listed(&host.netbpf("-o json maps flows").ok());
    assert_eq!(before.len(), 300);
    newer(&host, "upgrade").ok();
    assert_eq!(listed(&newer(&host, "-o json maps flows").ok()), before);
    flows.go_on();
    assert_eq!(listed(&newer(&host, "-o json maps flows").ok()).len(), 300, "none made anew");
    // With another table at the same time.
    newer(&host, "upgrade --max-flows 1000").ok();
    flows.go_on();
    newer(&host, "down --all").ok();
    host.assert_as_before();
}

/// What does not replace programs leaves the others alone, and says what does.
#[test]
fn other_verbs_say_what_to_do_and_touch_nothing() {
    let host = network(false);
    let before = host.listing();
    for verb in ["status", "check", "ns add ns9", "publish rm 8080", "maps flows"] {
        newer(&host, verb)
            .exits(1)
            .complains("those of an older netbpf")
            .complains(&format!("are of version {ABI_VERSION}, this netbpf's"))
            .complains("netbpf upgrade");
        before.assert_same(&host.listing());
    }
    for verb in [up().replacen("up", "plan", 1), up() + " --dry-run", "upgrade --dry-run".into()] {
        let outcome = newer(&host, &verb).says("copy the flows").says("carry over");
        assert_eq!(outcome.code, Some(if verb.starts_with("plan") { 3 } else { 0 }), "{outcome}");
    }
    before.assert_same(&host.listing());
    newer(&host, "down --all").ok();
    host.assert_as_before();
}

/// A connection in each direction.
fn connections(host: &Host) -> [TcpClient; 2] {
    [(&host.ns("ns1"), at(OUTSIDE, 4443)), (host.outside(), at(UPLINK, 8080))]
        .map(|(from, to)| connect(from, to).expect("a connection"))
}

fn ended_at_each_step(by_filters: bool, fault: &str) {
    let host = Host::new();
    let _outside = TcpServer::start(host.outside(), 4443);
    for step in 1..=60 {
        old_network(&host, by_filters);
        let web = TcpServer::start(&host.ns("ns1"), 80);
        let mut clients = connections(&host);
        let before = host.listing();
        let mut command = host.command_of(other_layout(), &up());
        let outcome = finish(command.env("NETBPF_FAULT", format!("{fault}:{step}")));
        let when = format!("{fault} at step {step}: {outcome}");
        let mut go_on = |when: &str| {
            for client in &mut clients {
                client.echo(&sample(5_000)).unwrap_or_else(|e| panic!("{when}: {e}"));
            }
        };
        go_on(&when);
        let is_done = outcome.code == Some(0);
        let had_fault = outcome.stderr.contains("the second time it did not");
        if fault == "fail" && !is_done {
            outcome.exits(1).complains("the old programs run as before");
            before.assert_same(&host.listing());
            host.netbpf("check").ok();
            host.netbpf(&up()).ok().complains("nothing to do");
        } else if !is_done {
            assert_eq!(outcome.signal, Some(9), "{when}");
            if step % 3 != 0 {
                newer(&host, if step % 3 == 1 { "upgrade" } else { "up" }).ok();
                assert_eq!(newer(&host, "-o json status").json()["networks"][0]["state"], "up");
                newer(&host, "check").ok();
                go_on(&when);
            }
        }
        drop((clients, web));
        newer(&host, "down --all").ok();
        host.assert_as_before();
        if is_done && !had_fault {
            assert!(step > 9, "only {step} steps had a fault");
            return;
        }
    }
    panic!("it has no end");
}

#[test]
fn failing_at_any_step_it_leaves_all_as_it_was() {
    for by_filters in [false, true] {
        ended_at_each_step(by_filters, "fail");
    }
}

#[test]
fn killed_at_any_step_it_is_finished_or_taken_away() {
    for by_filters in [false, true] {
        ended_at_each_step(by_filters, "kill");
    }
}
