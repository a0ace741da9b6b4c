//! `netbpf verify`: what works is said to, what does not is found with its cause,
//! and both datapaths do the same.

use netbpf_tests::{Host, Outcome, Sandbox, binary, finish};
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

#[test]
fn there_must_be_a_network() {
    let host = Host::new();
    host.netbpf("verify").exits(2).complains("there is no network to verify");
}

/// All scenarios that have names, and a hundred of a seed.
#[test]
fn both_datapaths_do_the_same() {
    let machine = Sandbox::new();
    let outcome = machine.run(|| {
        let arguments = ["verify", "--sandbox", "--scenarios", "100", "--seed", SEED, "-o", "json"];
        finish(Command::new(binary()).args(arguments))
    });
    let outcome = outcome.ok();
    let json = outcome.json();
    assert_eq!(json["version"], 2);
    assert_eq!(json["works"], true, "{json:#}");
    assert!(json["scenarios"].as_u64().expect("a number") > 100, "{json:#}");
    assert!(json["packets"].as_u64().expect("a number") > 500, "{json:#}");
    assert!(machine.namespaces().is_empty(), "nothing is left behind");
}

/// Of which scenarios are made.
const SEED: &str = "1";
