//! Killed, failing and damaged networks: whatever happens, `down` takes all of it away.

use netbpf_tests::{
    Host, NS1, NS2, Netns, OUTSIDE, Outcome, Sandbox, finish, interrupt,
    traffic::{Echo, ping},
    truth::tells_the_truth,
};
use nix::sys::signal::Signal;
use std::time::Instant;

fn reaches_outside(ns: &Netns) -> bool {
    ping(ns, OUTSIDE, Echo::default()).is_reply()
}

/// The pin of which the name contains `text`.
fn pin(host: &Host, text: &str) -> String {
    let listing = host.listing();
    let found = listing.with("pin: ").into_iter().find(|line| line.contains(text));
    let line = found.unwrap_or_else(|| panic!("no pin with {text}"));
    line.trim_start_matches("pin: ").to_owned()
}

fn remove_pin(host: &Host, text: &str) {
    let path = pin(host, text);
    host.sandbox().run(|| std::fs::remove_file(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
}

fn ip(ns: &Netns, arguments: &str) {
    ns.ip(arguments);
}

/// What is missing afterwards, and how it got lost.
type Damage = (&'static str, fn(&Host));

/// What people and other programs do to a network behind netbpf's back.
const DAMAGES: &[Damage] = &[
    ("a veth", |host| ip(&host.ns("ns1"), "link del eth0")),
    ("an interface of that name", |host| {
        let ns2 = host.ns("ns2");
        ip(&ns2, "link set eth0 down");
        ip(&ns2, "link set eth0 name else0");
    }),
    ("a namespace", |host| ip(host.netns(), "netns del ns2")),
    ("the bridge", |host| ip(host.netns(), "link del netbpf0")),
    ("a port", |host| {
        let port = host.ports_of_bridge("netbpf0").swap_remove(0);
        ip(host.netns(), &format!("link set {port} nomaster"));
    }),
    ("a link's pin", |host| remove_pin(host, "from_uplink")),
    ("a link's pin, of the host's own", |host| remove_pin(host, "from_host")),
    ("a map's pin", |host| remove_pin(host, "FLOWS")),
    ("a program's pin", |host| remove_pin(host, "programs/from_endpoint")),
    ("the gateway's address", |host| ip(host.netns(), "addr flush dev netbpf0")),
    ("forwarding", |host| host.netns().sysctl("net/ipv4/ip_forward", "0")),
    ("a switch of lo", |host| host.netns().sysctl("net/ipv4/conf/lo/route_localnet", "0")),
    ("everything that ip knows", |host| {
        for arguments in ["link del netbpf0", "netns del ns1", "netns del ns2"] {
            ip(host.netns(), arguments);
        }
    }),
];

#[test]
fn down_takes_away_what_is_left_of_a_broken_network() {
    let host = Host::new();
    for (what, damage) in DAMAGES {
        host.up("--namespaces 2 -p 8080:ns1:80");
        damage(&host);
        let outcome = host.netbpf("down");
        assert_eq!(outcome.code, Some(0), "without {what}: {outcome}");
        eprintln!("without {what}:");
        host.assert_as_before();
    }
}

#[test]
fn up_repairs_what_is_broken() {
    let host = Host::new();
    for (what, damage) in DAMAGES {
        let arguments = "--namespaces 2 -p 8080:ns1:80";
        host.up(arguments);
        damage(&host);
        let outcome = host.netbpf(&format!("up --uplink up0 {arguments}"));
        if what.ends_with("pin") && outcome.code == Some(1) {
            // A datapath in pieces is not mended, but it is said what to do.
            outcome.complains("netbpf down --all");
            host.down();
            continue;
        }
        assert_eq!(outcome.code, Some(0), "without {what}: {outcome}");
        for (name, neighbour) in [("ns1", NS2), ("ns2", NS1)] {
            let ns = host.ns(name);
            assert!(reaches_outside(&ns), "{name} without {what}: {outcome}");
            assert!(
                ping(&ns, neighbour, Echo::default()).is_reply(),
                "{name} without {what}: {outcome}"
            );
        }
        host.netbpf("down").ok();
        eprintln!("repaired {what}: {outcome}");
        host.assert_as_before();
    }
}

/// Not between two steps, but wherever it happens to be.
#[test]
fn interrupted_at_any_moment_up_leaves_nothing_that_down_does_not_remove() {
    let host = Host::new();
    let arguments = "--namespaces 3 -p 8080:ns1:80";
    let start = Instant::now();
    host.up(arguments);
    let whole = start.elapsed();
    host.down();
    for (signal, name) in [(Signal::SIGKILL, "SIGKILL"), (Signal::SIGINT, "SIGINT")] {
        for part in 1..=12 {
            let mut command = host.command(&format!("up --uplink up0 {arguments}"));
            let outcome = interrupt(&mut command, whole * part / 12, signal);
            if signal == Signal::SIGINT && outcome.code != Some(0) {
                eprintln!("{outcome}");
                host.assert_as_before();
            }
            host.netbpf("down --all").ok();
            eprintln!("{name} after {part} of 12 parts of {whole:?}: {:?}", outcome.code);
            host.assert_as_before();
        }
    }
}

#[test]
fn status_tells_what_is_missing() {
    let host = Host::new();
    host.up("--namespaces 2 -p 8080:ns1:80");
    let whole = host.netbpf("status").ok();
    for word in ["netbpf0", "ns1", "ns2", "172.19.0.2", "8080", "up0"] {
        assert!(whole.stdout.contains(word), "{word} is not in {whole}");
    }
    host.ns("ns2").ip("link del eth0");
    let broken = host.netbpf("status");
    let line = |name: &str| {
        let found = broken.stdout.lines().find(|line| line.contains(name));
        found.unwrap_or_else(|| panic!("no {name} in {broken}")).to_owned()
    };
    assert!(line("ns1").trim_end().ends_with("up"), "{broken}");
    assert!(!line("ns2").trim_end().ends_with("up"), "{broken}");
    assert!(line("ns2").contains("veth"), "{broken}");
}

/// Runs `up` with a fault at each step in turn; `after` looks at what is left.
fn with_each_fault(host: &Host, fault: &str, mut after: impl FnMut(usize, Outcome)) {
    let arguments = "up --uplink up0 --namespaces 2 -p 8080:ns1:80";
    let mut steps = 0;
    for step in 1..=200 {
        let mut command = host.command(arguments);
        let outcome = finish(command.env("NETBPF_FAULT", format!("{fault}:{step}")));
        if outcome.code == Some(0) {
            break;
        }
        steps = step;
        after(step, outcome);
    }
    assert!((5..200).contains(&steps), "only {steps} steps had a fault");
    assert!(reaches_outside(&host.ns("ns1")), "what came up in the end works");
}

#[test]
fn killed_at_any_step_up_leaves_nothing_that_down_does_not_remove() {
    let host = Host::new();
    with_each_fault(&host, "kill", |step, outcome| {
        assert_eq!(outcome.signal, Some(9), "step {step}: {outcome}");
        host.netbpf("down --all").ok();
        eprintln!("killed before step {step}:");
        host.assert_as_before();
    });
}

#[test]
fn killed_at_any_step_up_can_be_run_again() {
    let host = Host::new();
    with_each_fault(&host, "kill", |step, outcome| {
        assert_eq!(outcome.signal, Some(9), "step {step}: {outcome}");
        tells_the_truth(&host, &format!("killed before step {step}"));
        host.netbpf("up --uplink up0 --namespaces 2 -p 8080:ns1:80").ok();
        assert!(reaches_outside(&host.ns("ns1")), "killed before step {step}");
        host.netbpf("down --all").ok();
    });
}

#[test]
fn failing_at_any_step_up_undoes_everything_and_names_the_step() {
    let host = Host::new();
    let mut named = Vec::new();
    with_each_fault(&host, "fail", |step, outcome| {
        let outcome = outcome.exits(1);
        eprintln!("failed at step {step}: {outcome}");
        host.assert_as_before();
        named.push(outcome.stderr);
    });
    named.dedup();
    assert!(named.len() > 5, "each step has a message of its own: {named:#?}");
}

#[test]
fn killed_at_any_step_down_can_be_run_again() {
    let host = Host::new();
    let mut steps = 0;
    for step in 1..=200 {
        host.up("--namespaces 2 -p 8080:ns1:80");
        let mut command = host.command("down --all");
        let outcome = finish(command.env("NETBPF_FAULT", format!("kill:{step}")));
        if outcome.code == Some(0) {
            break;
        }
        assert_eq!(outcome.signal, Some(9), "step {step}: {outcome}");
        host.netbpf("down --all").ok();
        eprintln!("killed before step {step}:");
        host.assert_as_before();
        steps = step;
    }
    assert!((3..200).contains(&steps), "only {steps} steps had a fault");
}

/// The kernel gives the number of a namespace that is gone to the next one.
#[test]
fn a_host_that_vanished_does_not_haunt_the_next_one() {
    let sandbox = Sandbox::new();
    for round in 0..5 {
        let name = format!("h{round}");
        let host = Host::beside_others(&sandbox, &name);
        let arguments = format!("--namespaces 2 --ns-prefix n{round}x -p 8080:n{round}x1:80");
        host.up(&arguments);
        assert!(reaches_outside(&host.ns(&format!("n{round}x1"))), "round {round}");
        // Switched off without down, as when its last process ends.
        let janitor = Netns::create(&sandbox, "janitor");
        for gone in [name.clone(), format!("{name}-outside")] {
            janitor.ip(&format!("netns del {gone}"));
        }
        for i in 1..=2 {
            janitor.ip(&format!("netns del n{round}x{i}"));
        }
        janitor.ip("netns del janitor");
        host.forget();
    }
}
