//! `netbpf verify`: what works is said to, what does not is found with its cause,
//! and both datapaths do the same.

use netbpf_tests::{Host, OUTSIDE, Outcome, Sandbox, binary, finish, wait};
use std::process::Command;

/// Runs `netbpf verify` with the outside that the harness has.
#[track_caller]
fn verify(host: &Host) -> Outcome {
    host.netbpf("verify --outside 203.0.113.2")
}

fn everything_works(datapath: &str) {
    let host = Host::new();
    host.up(&format!("--namespaces 3 -p 8080:ns1:80 --datapath {datapath}"));
    let json = host.json("verify --outside 203.0.113.2");
    assert_eq!(json["version"], 2);
    let network = &json["networks"][0];
    assert_eq!(network["datapath"], datapath);
    assert_eq!((&network["works"], &network["failed"]), (&true.into(), &0.into()), "{network:#}");
    let ways = network["ways"].as_array().expect("ways");
    assert_eq!(network["tried"], ways.len());
    // Each namespace with the two others, gateway and outside, at least.
    assert!(ways.len() >= 12, "{ways:#?}");
    assert!(ways.iter().any(|way| way["published"] == 8080), "{ways:#?}");
    verify(&host).ok().says("ways work");
    host.netbpf("down").ok();
    host.assert_as_before();
}

#[test]
fn all_ways_of_a_fresh_network_work() {
    everything_works("ebpf");
}

#[test]
fn all_ways_of_a_fresh_network_on_iptables_work() {
    everything_works("iptables");
}

/// Who is isolated reaches nobody, and that is as it should be; allowed pairs do. If it is
/// not so, the cause is told.
#[test]
fn isolated_namespaces_must_not_reach_each_other() {
    for datapath in ["ebpf", "iptables"] {
        let host = Host::new();
        let arguments = format!(
            "--datapath {datapath} --namespaces 3 -p 8080:ns3:80 --isolate --allow ns1:ns2"
        );
        host.netbpf(&format!("up --uplink up0 {arguments}")).ok();
        let json = host.json("verify --outside 203.0.113.2");
        let network = &json["networks"][0];
        assert_eq!(network["works"], true, "{network:#}");
        let ways = network["ways"].as_array().expect("ways");
        let isolated = |way: &&serde_json::Value| way["isolated"] == true;
        assert_eq!(ways.iter().filter(isolated).count(), 4, "{network:#}");
        let apart = ways.iter().filter(isolated).all(|way| way["ping"]["works"] == false);
        assert!(apart, "{network:#}");
        verify(&host).ok().says("isolated").says("ways work");
        // The host forwards between them all the same.
        let broken = match datapath {
            "ebpf" => "find /sys/fs/bpf -name from_endpoint-* -delete",
            _ => "nft flush chain ip filter NETBPF-netbpf0-FWD",
        };
        run(&host, broken);
        run(&host, "bridge link set dev netbpf0-3 isolated off");
        run(&host, "nft delete table bridge NETBPF-netbpf0/apart");
        // Who has asked in vain for an address does not ask again at once.
        wait::until_true("ns1 reaches ns3, and why is told", || {
            let found = verify(&host);
            let mut lines = found.stdout.lines();
            let line = lines.find(|line| line.starts_with("ns1") && line.contains("172.19.0.4"));
            let cause = "rules of netbpf0 about isolation differ";
            found.code == Some(3) && line.is_some_and(|line| line.contains(cause))
        });
        host.netbpf(&format!("up --uplink up0 {arguments}")).ok();
        verify(&host).ok();
        host.netbpf("down").ok();
        host.assert_as_before();
    }
}

/// One thing at a time is broken; the exit code and the cause say so.
#[test]
fn what_is_broken_is_found_with_its_cause() {
    let host = Host::new();
    host.up("--namespaces 2 -p 8080:ns1:80");
    let run = |command: &str| {
        let mut words = command.split_whitespace();
        let program = words.next().expect("a program");
        finish(host.netns().command(program).args(words)).ok();
    };
    run("sysctl -qw net.ipv4.ip_forward=0");
    verify(&host).exits(3).says("ip_forward");
    run("sysctl -qw net.ipv4.ip_forward=1");
    verify(&host).ok();
    let ns1 = host.ns("ns1");
    finish(ns1.command("ip").args(["link", "set", "eth0", "down"])).ok();
    verify(&host).exits(3).says("ns1: ").says("eth0");
    host.netbpf("down").ok();
    host.assert_as_before();
}

/// Runs a command in the host, which must succeed.
#[track_caller]
fn run(host: &Host, command: &str) {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a program");
    finish(host.netns().command(program).args(words)).ok();
}

/// Breaks something, which is found with its cause, and works again when it is mended.
#[track_caller]
fn broken_and_mended(host: &Host, cause: &str, break_it: &str, mend: impl Fn(&Host)) {
    run(host, break_it);
    let found = verify(host).exits(3);
    let lines: Vec<&str> = found.stdout.lines().filter(|line| line.contains(cause)).collect();
    assert!(!lines.is_empty(), "{cause} is named as a cause: {found}");
    let json = host.netbpf("verify --outside 203.0.113.2 -o json").exits(3).json();
    let ways = json["networks"][0]["ways"].as_array().expect("ways");
    let failed = ways.iter().filter(|way| way["works"] == false);
    assert!(
        failed.clone().any(|way| way["cause"].as_str().is_some_and(|it| it.contains(cause))),
        "{json:#}"
    );
    mend(host);
    verify(host).ok().says("ways work");
}

const BROKEN: &str = "--namespaces 2 -p 8080:ns1:80";

#[test]
fn a_program_that_was_detached_is_named() {
    let host = Host::new();
    let arguments = format!("up --datapath ebpf --uplink up0 {BROKEN}");
    host.netbpf(&arguments).ok();
    let links = host.netns().command("find").args(["/sys/fs/bpf", "-name", "from_*-*"]).output();
    let links = String::from_utf8(links.expect("find").stdout).expect("paths");
    let index = host.netns().link("up0")["ifindex"].clone();
    for (hook, device, index) in
        [("from_uplink", "up0", index), ("from_host", "lo", serde_json::Value::from(1))]
    {
        let name = format!("{hook}-{index}");
        let pin = links.lines().find(|path| path.ends_with(&name));
        let pin = pin.unwrap_or_else(|| panic!("no {name} in {links}"));
        broken_and_mended(
            &host,
            &format!("from_uplink not on {device}"),
            &format!("rm {pin}"),
            |host| {
                host.netbpf(&arguments).ok();
            },
        );
    }
}

#[test]
fn an_uplink_that_is_down_is_named() {
    let host = Host::new();
    for datapath in ["ebpf", "iptables"] {
        host.netbpf(&format!("up --datapath {datapath} --uplink up0 {BROKEN}")).ok();
        broken_and_mended(&host, "uplink up0 down", "ip link set up0 down", |host| {
            run(host, "ip link set up0 up");
            host.netns().wait_up("up0");
            run(host, &format!("ip route add default via {OUTSIDE}"));
        });
        host.netbpf("down").ok();
    }
}

#[test]
fn rules_that_are_missing_are_named() {
    let host = Host::new();
    let arguments = format!("up --datapath iptables --uplink up0 {BROKEN}");
    host.netbpf(&arguments).ok();
    for (table, rules) in [
        ("nat", "-F NETBPF-netbpf0-SNAT"),
        ("nat", "-D PREROUTING 1"),
        ("nat", "-F NETBPF-netbpf0-DNAT"),
    ] {
        broken_and_mended(
            &host,
            &format!("rules in {table} differ"),
            &format!("iptables -t {table} {rules}"),
            |host| drop(host.netbpf(&arguments).ok()),
        );
    }
    // Where the host forwards nothing but what it is told to.
    run(&host, "iptables -P FORWARD DROP");
    broken_and_mended(&host, "rules in filter differ", "iptables -F NETBPF-netbpf0-FWD", |host| {
        host.netbpf(&arguments).ok();
    });
    run(&host, "iptables -P FORWARD ACCEPT");
}

#[test]
fn there_must_be_a_network() {
    let host = Host::new();
    host.netbpf("verify").exits(2).complains("there is no network to verify");
}

/// All scenarios that have names, and three hundred of a seed.
#[test]
fn both_datapaths_do_the_same() {
    let machine = Sandbox::new();
    let outcome = machine.run(|| {
        let arguments = ["verify", "--sandbox", "--scenarios", "300", "--seed", SEED, "-o", "json"];
        finish(Command::new(binary()).args(arguments))
    });
    let outcome = outcome.ok();
    let json = outcome.json();
    assert_eq!(json["version"], 2);
    assert_eq!(json["works"], true, "{json:#}");
    assert!(json["scenarios"].as_u64().expect("a number") > 300, "{json:#}");
    assert!(json["packets"].as_u64().expect("a number") > 500, "{json:#}");
    assert!(machine.namespaces().is_empty(), "nothing is left behind");
}

/// Of which scenarios are made.
const SEED: &str = "1";
