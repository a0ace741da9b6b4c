//! `netbpf doctor`: what is lacking, what is worth knowing; and what `up` needs at least.

use aya::sys::{Stats, enable_stats};
use netbpf_tests::{
    Host, OUTSIDE, Options, Outcome, UPLINK, at, binary, finish,
    foreign::{Foreign, on_ingress},
    traffic::{Echo, TcpServer, UdpClient, UdpServer, connect, ping},
};
use serde_json::Value;
use std::os::unix::fs::{PermissionsExt as _, chown};

/// A user that is nobody on the host.
const NOBODY: u32 = 65_534;

/// Runs netbpf as nobody with these capabilities only.
fn with_capabilities(host: &Host, capabilities: &[&str], arguments: &str) -> Outcome {
    let all = capabilities.iter().fold("-all".to_owned(), |all, name| format!("{all},+{name}"));
    let mut command = host.netns().command("setpriv");
    let id = NOBODY.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    command.args(["--inh-caps", &all, "--ambient-caps", &all, "--bounding-set", &all]);
    finish(command.arg(binary()).args(arguments.split_whitespace()))
}

/// What was found of one state, as "about: found".
fn found(outcome: &Outcome, state: &str) -> Vec<String> {
    let answer = outcome.json();
    let findings = answer["findings"].as_array().expect("a list").iter();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let of_state = findings.filter(|one| one["state"] == state);
    of_state.map(|one| format!("{}: {}", text(&one["about"]), text(&one["found"]))).collect()
}

#[track_caller]
fn doctor(host: &Host, code: i32) -> Outcome {
    host.netbpf("doctor -o json").exits(code)
}

/// Panics unless a note begins and goes on so.
#[track_caller]
fn notes(host: &Host, about: &str, words: &str) {
    let outcome = doctor(host, 0);
    let notes = found(&outcome, "note");
    let is_it = |note: &String| note.starts_with(about) && note.contains(words);
    assert!(notes.iter().any(is_it), "{about}: {words}: {notes:#?}");
}

#[test]
fn where_up_works_nothing_is_a_problem() {
    let host = Host::with(Options { forwarding: true, ..Options::default() });
    let before = host.listing();
    let outcome = doctor(&host, 0);
    before.assert_same(&host.listing());
    assert_eq!(found(&outcome, "problem"), [""; 0]);
    let ok = found(&outcome, "ok");
    for about in ["privileges", "kernel", "helpers and maps", "BPF file system", "uplink up0"] {
        assert!(ok.iter().any(|one| one.starts_with(about)), "{about}: {outcome}");
    }
    host.netbpf("doctor").ok().says("STATE");
}

#[test]
fn each_capability_that_is_missing_is_named_and_those_that_are_needed_suffice() {
    let host = Host::new();
    // What `ip netns add` has made, as root.
    host.sandbox().run(|| chown("/run/netns", Some(NOBODY), None)).expect("its owner");
    let needed = ["net_admin", "sys_admin", "bpf"];
    with_capabilities(&host, &needed, "doctor").ok();
    with_capabilities(&host, &needed, "up --uplink up0 --namespaces 2 -p 8080:ns1:80").ok();
    let ns1 = host.ns("ns1");
    assert!(ping(&ns1, OUTSIDE, Echo::default()).is_reply());
    let _server = TcpServer::start(&ns1, 80);
    connect(host.outside(), at(UPLINK, 8080)).expect("the port").echo(b"hello").expect("echo");
    with_capabilities(&host, &needed, "check").ok();
    with_capabilities(&host, &needed, "down").ok();
    host.assert_as_before();
    for (missing, name) in [("net_admin", "CAP_NET_ADMIN"), ("sys_admin", "CAP_SYS_ADMIN")] {
        let left: Vec<&str> = needed.into_iter().filter(|one| *one != missing).collect();
        let outcome = with_capabilities(&host, &left, "doctor -o json").exits(3);
        let problems = found(&outcome, "problem");
        assert!(problems.len() == 1 && problems[0].contains(name), "{problems:#?}");
        with_capabilities(&host, &left, "up --namespaces 1").exits(1).complains(name);
        host.assert_as_before();
    }
    // That of programs is part of the one for all administration.
    with_capabilities(&host, &["net_admin", "sys_admin"], "doctor").ok();
}

/// Directories belong to root, as on most machines.
#[test]
fn files_that_may_not_be_written_are_named() {
    let host = Host::new();
    let set = |mode| {
        host.sandbox()
            .run(|| std::fs::set_permissions("/run", std::fs::Permissions::from_mode(mode)))
    };
    set(0o755).expect("set the mode");
    let needed = ["net_admin", "sys_admin", "bpf"];
    let outcome = with_capabilities(&host, &needed, "doctor -o json").exits(3);
    let problems = found(&outcome, "problem");
    assert!(problems.iter().any(|one| one.starts_with("/run/netbpf")), "{problems:#?}");
    with_capabilities(&host, &["net_admin", "sys_admin", "dac_override"], "doctor").ok();
    host.sandbox().run(|| {
        for place in ["/run/netbpf", "/run/netns"] {
            std::fs::create_dir_all(place).expect("a directory");
            chown(place, Some(NOBODY), None).expect("its owner");
        }
    });
    with_capabilities(&host, &needed, "doctor").ok();
    with_capabilities(&host, &needed, "up --uplink up0 --namespaces 1").ok();
    with_capabilities(&host, &needed, "down").ok();
    host.sandbox().run(|| {
        chown("/run/netns", Some(0), None).expect("its owner");
        // An empty one is taken along by the last network.
        let _ = std::fs::remove_dir("/run/netbpf");
    });
    set(0o1777).expect("set the mode");
}

#[test]
fn what_is_worth_knowing_is_told_with_what_to_do() {
    let host = Host::with(Options { mtu: 1400, ..Options::default() });
    notes(&host, "net.ipv4.ip_forward", "off");
    notes(&host, "uplink up0", "MTU 1400");
    host.tune("net/ipv4/conf/up0/rp_filter", "1");
    notes(&host, "uplink up0", "rp_filter is strict");
    let nft = |arguments: &str| {
        finish(host.netns().command("nft").args(arguments.split_whitespace())).ok();
    };
    nft("add table ip mine");
    nft("add chain ip mine forward { type filter hook forward priority 0 ; policy drop ; }");
    notes(&host, "firewall", "policy drop");
    nft("delete table ip mine");
    host.up("--namespaces 1 --mtu 1500");
    notes(&host, "network netbpf0", "above that of the uplink up0");
    host.netbpf("down").ok();
    host.netns().ip("route del default");
    let problems = found(&doctor(&host, 3), "problem");
    assert!(problems.iter().any(|one| one.starts_with("network: no uplink")), "{problems:#?}");
    host.netbpf("doctor --uplink up0").ok();
    host.netns().ip(&format!("route add default via {OUTSIDE}"));
}

/// One by TCX that was there before, one that comes later, and a filter of tc that counts.
#[test]
fn programs_of_others_run_in_the_order_that_is_told() {
    let host = Host::new();
    let tc = |arguments: &str| {
        finish(host.netns().command("tc").args(arguments.split_whitespace())).ok();
    };
    let foreign = host.sandbox().run(|| Foreign::load("/sys/fs/bpf/foreign"));
    let later = host.sandbox().run(|| Foreign::load("/sys/fs/bpf/later"));
    let filter = host.sandbox().run(|| Foreign::load("/sys/fs/bpf/filter"));
    let _counting = enable_stats(Stats::RunTime).expect("runs are counted");
    let before = host.netns().run(|| foreign.attach("up0"));
    tc("qdisc add dev up0 clsact");
    tc(&format!("filter add dev up0 ingress bpf da object-pinned {}", filter.pin().display()));
    host.up("--namespaces 1 -p 8080:ns1:80/udp");
    let after = host.netns().run(|| later.attach("up0"));
    let order = host.netns().run(|| on_ingress("up0"));
    assert_eq!(order, ["foreign", "from_uplink", "foreign"], "in the order in which they came");
    notes(&host, "uplink up0: foreign on ingress, by TCX", "in front of netbpf's");
    notes(&host, "uplink up0: foreign on ingress, by TCX", "behind netbpf's");
    notes(&host, "uplink up0: foreign on ingress, by a filter", "behind netbpf's");
    host.netbpf("check").ok();
    let runs = || host.sandbox().run(|| [&foreign, &later, &filter].map(Foreign::runs));
    let before_it = runs();
    assert!(ping(host.outside(), UPLINK, Echo::default()).is_reply());
    let to_host = runs();
    let is_seen = before_it.iter().zip(&to_host).all(|(before, after)| after > before);
    assert!(is_seen, "what is the host's all see: {before_it:?}, {to_host:?}");
    let _server = UdpServer::start(&host.ns("ns1"), 80);
    UdpClient::new(host.outside()).exchange(at(UPLINK, 8080), b"straight into the namespace");
    let inwards = runs();
    assert!(inwards[0] > to_host[0], "who is in front sees it: {to_host:?}, {inwards:?}");
    host.netbpf("up").ok().complains("nothing to do");
    host.netbpf("down").ok();
    assert_eq!(host.netns().run(|| on_ingress("up0")), ["foreign", "foreign"], "they stay");
    drop((before, after));
    tc("qdisc del dev up0 clsact");
    host.sandbox().run(|| {
        for one in [&foreign, &later, &filter] {
            std::fs::remove_file(one.pin()).expect("its pin");
        }
    });
}
