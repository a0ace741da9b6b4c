//! Verbs that change a network, killed or failing at any step: `status` tells the truth
//! afterwards, a failed one leaves all as it was, and a killed one is finished by `up`, or
//! taken away by `down`.

use netbpf_tests::{
    Host, OUTSIDE, Outcome, UPLINK, at, finish, sample,
    traffic::{TcpClient, TcpServer, connect},
    truth::tells_the_truth,
};

/// The network that is changed.
const NETWORK: &str = "--uplink up0 --ns a --ns b -p 8080:a:80 -p 8081:b:80";

/// A verb that changes it, and the one that changes it back.
type Change = (&'static str, &'static str);

const CHANGES: &[Change] = &[
    ("ns add c", "ns rm c"),
    ("ns rm b", "ns add b=172.19.0.3"),
    ("publish add 8082:b:82", "publish rm 8082"),
    ("publish rm 8080", "publish add 8080:a:80"),
    ("uplink add up1", "uplink rm up1"),
    ("uplink rm up1", "uplink add up1"),
];

/// A host with a second uplink, and the network, which has both uplinks if the verb takes
/// one of them away.
struct Scene {
    host: Host,
    up: String,
    _servers: [TcpServer; 2],
}

impl Scene {
    fn new(datapath: &str, verb: &str) -> Self {
        let host = Host::new();
        let outside = host.outside().name();
        host.netns().ip(&format!("link add up1 type veth peer out1 netns {outside}"));
        host.netns().ip("addr add 198.51.100.1/24 dev up1");
        host.netns().ip("link set up1 up");
        host.outside().ip("link set out1 up");
        host.netns().wait_up("up1");
        let second = if verb == "uplink rm up1" { "--uplink up1" } else { "" };
        let up = format!("up --datapath {datapath} {second} {NETWORK}");
        host.netbpf(&up).ok();
        let servers = [TcpServer::start(&host.ns("a"), 80), TcpServer::start(host.outside(), 443)];
        Self { host, up, _servers: servers }
    }

    /// A connection out of the namespace that stays.
    fn connect(&self) -> TcpClient {
        connect(&self.host.ns("a"), at(OUTSIDE, 443)).expect("outwards")
    }

    /// Runs a verb with a fault at each step in turn, until it does not get as far.
    fn with_each_fault(&self, verb: &str, fault: &str, mut after: impl FnMut(usize, Outcome)) {
        for step in 1..=60 {
            let mut command = self.host.command(verb);
            let outcome = finish(command.env("NETBPF_FAULT", format!("{fault}:{step}")));
            if outcome.code == Some(0) {
                assert!(step > 2, "only {step} steps of {verb} had a fault");
                return;
            }
            after(step, outcome);
        }
        panic!("{verb} has no end");
    }

    fn end(self) {
        self.host.netbpf("down --all").ok();
        self.host.netns().ip("link del up1");
        self.host.assert_as_before();
    }
}

fn failing(datapath: &str) {
    for (verb, _) in CHANGES {
        let scene = Scene::new(datapath, verb);
        let mut staying = scene.connect();
        scene.with_each_fault(verb, "fail", |step, outcome| {
            let outcome = outcome.exits(1).complains("what had been done was undone");
            let when = format!("{datapath}: {verb}, failed at step {step}: {outcome}");
            tells_the_truth(&scene.host, &when);
            // It is the network that it was.
            scene.host.netbpf(&scene.up).ok().complains("nothing to do");
            staying.echo(&sample(5_000)).unwrap_or_else(|e| panic!("{when}: {e}"));
        });
        // Without a fault it has done what it is there for.
        let is_published = connect(scene.host.outside(), at(UPLINK, 8080)).is_ok();
        assert_eq!(is_published, *verb != "publish rm 8080", "{datapath}: {verb}");
        scene.end();
    }
}

fn killed(datapath: &str) {
    for (verb, back) in CHANGES {
        let scene = Scene::new(datapath, verb);
        let mut staying = scene.connect();
        let host = &scene.host;
        scene.with_each_fault(verb, "kill", |step, outcome| {
            assert_eq!(outcome.signal, Some(9), "{verb}, step {step}: {outcome}");
            let when = format!("{datapath}: {verb}, killed before step {step}");
            tells_the_truth(host, &when);
            staying.echo(&sample(5_000)).unwrap_or_else(|e| panic!("{when}: {e}"));
            if step % 2 == 0 {
                host.netbpf("down --all").ok();
                host.netbpf("status").ok().complains("there is no network");
                host.netbpf(&scene.up).ok();
                staying = scene.connect();
                return;
            }
            // Whatever it was to become.
            host.netbpf("up").ok();
            assert_eq!(host.json("status")["networks"][0]["state"], "up", "{when}");
            tells_the_truth(host, &when);
            staying.echo(&sample(5_000)).unwrap_or_else(|e| panic!("{when}: {e}"));
            if !host.netbpf(&scene.up).ok().stderr.contains("nothing to do") {
                // It had become that: the options say what it was, but leave its
                // addresses and uplinks.
                host.netbpf(back);
                host.netbpf(&scene.up).ok().complains("nothing to do");
            }
        });
        scene.end();
    }
}

#[test]
fn a_verb_of_ebpf_that_fails_at_any_step_leaves_all_as_it_was() {
    failing("ebpf");
}

#[test]
fn a_verb_of_iptables_that_fails_at_any_step_leaves_all_as_it_was() {
    failing("iptables");
}

#[test]
fn a_verb_of_ebpf_that_is_killed_at_any_step_is_finished_or_taken_away() {
    killed("ebpf");
}

#[test]
fn a_verb_of_iptables_that_is_killed_at_any_step_is_finished_or_taken_away() {
    killed("iptables");
}

/// `down` takes all steps, whichever of them fails, and says what is left; it is
/// remembered, so that the next one takes that away.
#[test]
fn down_that_fails_or_is_killed_at_any_step_can_be_run_again() {
    for datapath in ["ebpf", "iptables"] {
        let host = Host::new();
        let up = format!("up --datapath {datapath} {NETWORK}");
        for fault in ["fail", "kill"] {
            for step in 1..=100 {
                host.netbpf(&up).ok();
                let mut command = host.command("down");
                let outcome = finish(command.env("NETBPF_FAULT", format!("{fault}:{step}")));
                if outcome.code == Some(0) {
                    assert!(step > 5, "only {step} steps had a fault");
                    break;
                }
                let when = format!("{datapath}: {fault} at step {step}: {outcome}");
                if fault == "fail" {
                    outcome.exits(1).complains("try again: netbpf down");
                } else {
                    assert_eq!(outcome.signal, Some(9), "{when}");
                }
                tells_the_truth(&host, &when);
                host.netbpf("down").ok();
                eprintln!("{when}");
                host.assert_as_before();
            }
        }
    }
}
