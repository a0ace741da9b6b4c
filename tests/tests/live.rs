//! Networks that change while they run: by a file, by verbs; what stays goes on, what
//! goes is gone at once, and whatever happens on the way leaves one network or the other.

use netbpf_tests::{
    Host, NS1, Netns, OUTSIDE, Outcome, UPLINK, at, finish, sample,
    traffic::{Echo, TcpClient, TcpServer, UdpClient, UdpServer, connect, ping},
};
use std::{fs, path::PathBuf};

/// A network as a file tells it.
#[derive(Clone)]
struct Network {
    datapath: &'static str,
    ns: &'static [&'static str],
    publish: &'static [&'static str],
    more: &'static str,
}

const FIRST: Network =
    Network { datapath: "ebpf", ns: &["a", "b"], publish: &["8080:a:80", "8081:b:80"], more: "" };

/// The same, of which each key is told.
const BEFORE: Network = Network { more: "subnet = \"172.19.0.0/24\"", ..FIRST };

const SECOND: Network = Network {
    ns: &["c", "a", "d=172.19.0.9"],
    publish: &["8080:a:80", "8082:c:80", "8083-8085:d:83-85/udp"],
    more: "mtu = 1400\nsource-guard = \"off\"",
    ..FIRST
};

/// What a change with a fault is to make, of [`BEFORE`].
const AFTER: Network = Network {
    ns: &["c=172.19.1.9", "a"],
    publish: &["8080:a:80", "8082:c:80"],
    more: "mtu = 1400\nsource-guard = \"off\"\nsubnet = \"172.18.0.0/15\"",
    ..SECOND
};

const DATAPATHS: [&str; 2] = ["ebpf", "iptables"];

/// A file of a test's own, gone with it.
struct File(PathBuf);

impl File {
    fn new(test: &str) -> Self {
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("live-{test}.toml")))
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap_or_else(|e| panic!("{}: {e}", self.0.display()));
    }

    /// Makes the file tell that network, and gives the arguments that name it.
    fn tell(&self, network: &Network) -> String {
        let Network { datapath, ns, publish, more } = network;
        self.write(&format!(
            "datapath = {datapath:?}\nuplink = [\"up0\"]\nns = {ns:?}\npublish = {publish:?}\n{more}\n"
        ));
        format!("-f {}", self.0.display())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // If it was never written, there is none.
        let _ = fs::remove_file(&self.0);
    }
}

fn reaches_outside(ns: &Netns) -> bool {
    ping(ns, OUTSIDE, Echo::default()).is_reply()
}

/// The connections that a namespace has, each way.
struct Streams {
    _servers: [TcpServer; 2],
    published: TcpClient,
    outwards: TcpClient,
}

impl Streams {
    fn open(host: &Host, ns: &Netns, port: u16) -> Self {
        let servers = [TcpServer::start(ns, 80), TcpServer::start(host.outside(), 0)];
        let outside = at(OUTSIDE, servers[1].port());
        Self {
            published: connect(host.outside(), at(UPLINK, port)).expect("a published port"),
            outwards: connect(ns, outside).expect("outwards"),
            _servers: servers,
        }
    }

    #[track_caller]
    fn go_on(&mut self, when: &str) {
        for client in [&mut self.published, &mut self.outwards] {
            client.echo(&sample(5_000)).unwrap_or_else(|e| panic!("{when}: {e}"));
        }
    }
}

/// The number in "N flows ended".
#[track_caller]
fn ended(outcome: &Outcome) -> u64 {
    let before = outcome.stderr.split(" flow").next().unwrap_or_default();
    let number = before.rsplit(' ').next().and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("no number of flows in {outcome}"))
}

#[test]
fn a_file_and_options_make_the_same_network() {
    let host = Host::new();
    let file = File::new("same");
    let plan = format!("plan {}", file.tell(&FIRST));
    let planned = host.netbpf(&plan).exits(3);
    host.assert_as_before();
    let options = "--uplink up0 --datapath ebpf --ns a --ns b -p 8080:a:80 -p 8081:b:80";
    let same = host.netbpf(&format!("plan {options}")).exits(3);
    assert_eq!(planned.stdout, same.stdout);
    host.netbpf(&format!("up {}", file.tell(&FIRST))).ok();
    host.netbpf(&plan).ok().says("nothing to do");
    host.netbpf(&format!("up {options}")).ok().complains("nothing to do");
    assert!(reaches_outside(&host.ns("a")));
    // What is damaged is a difference, too.
    host.ns("b").ip("link del eth0");
    host.netbpf(&plan).exits(3).says("ip link add netbpf0-2");
    host.netbpf(&format!("up {}", file.tell(&FIRST))).ok();
    host.netbpf(&plan).ok();
    // What a file leaves out has its default; what options leave out stays.
    host.netbpf(&format!("up {options} --routed --mtu 1300")).ok();
    host.netbpf(&format!("plan {options}")).ok();
    host.netbpf(&plan).exits(3).says("mtu 1500");
    let steps = host.netbpf(&format!("{plan} -o json")).exits(3).json();
    assert!(steps["steps"].as_array().is_some_and(|steps| !steps.is_empty()), "{steps}");
}

#[test]
fn errors_in_a_file_tell_where_and_what_would_be_right() {
    let host = Host::new();
    let file = File::new("wrong");
    let path = file.0.display().to_string();
    for (text, at, what, hint) in [
        ("ns = [\"a\"]\nsubnett = \"10.0.0.0/24\"", ":2:1", "subnett", "did you mean subnet?"),
        ("ns = [\"a\"]\nsubnet = \"203.0.113.0/24\"", ":2:10", "cannot be used", "subnet 172."),
        ("ns = [\"a\", \"b=10.9.9.9\"]", ":1:12", "10.9.9.9", "172.19.0.0/24"),
        ("ns = [\"a\"]\npublish = [\"80:a:80\",\n \"80:a:81\"]", ":3:2", "published, too", "once"),
        ("ns = [\"a\"]\nuplink = [\"nosuch0\"]", ":2:11", "nosuch0", "up0"),
        ("ns = [\"a\"]\nmtu = 20", ":2:7", "MTU 20", "leave mtu out"),
        ("ns = [\"a\"", ":1:", "understood", ""),
    ] {
        file.write(text);
        for verb in ["up", "plan"] {
            let outcome = host.netbpf(&format!("{verb} -f {path}")).exits(2);
            outcome.complains(&format!("{path}{at}")).complains(what).complains(hint);
        }
        host.assert_as_before();
    }
    host.netbpf("up -f /nonexistent/netbpf.toml").exits(1).complains("cannot read");
    host.netbpf(&format!("up -f {path} --namespaces 1")).exits(2).complains("cannot be used");
}

#[test]
fn namespaces_and_ports_come_and_go_while_others_go_on() {
    for datapath in DATAPATHS {
        let host = Host::new();
        let file = File::new(&format!("others-{datapath}"));
        let [first, second] = [FIRST, SECOND].map(|network| Network { datapath, ..network });
        host.netbpf(&format!("up {}", file.tell(&first))).ok();
        let a = host.ns("a");
        let mut staying = Streams::open(&host, &a, 8080);
        for round in 0..3 {
            let mut going = Streams::open(&host, &host.ns("b"), 8081);
            going.go_on(datapath);
            let going_on = host.flows("--ns b").len();
            assert!(going_on >= 2, "{datapath}");
            let outcome = host.netbpf(&format!("up {}", file.tell(&second))).ok();
            assert_eq!(ended(&outcome), going_on as u64, "{datapath}, {round}: {outcome}");
            staying.go_on(datapath);
            assert!(going.published.echo(b"gone").is_err(), "{datapath}: it has ended");
            assert!(connect(host.outside(), at(UPLINK, 8081)).is_err(), "{datapath}");
            assert!(Netns::try_open(host.sandbox(), "b").is_err(), "{datapath}");
            let (c, d) = (host.ns("c"), host.ns("d"));
            let mut new = Streams::open(&host, &c, 8082);
            new.go_on(datapath);
            let _udp = UdpServer::start(&d, 84);
            UdpClient::new(host.outside()).exchange(at(UPLINK, 8084), b"a range");
            assert!(ping(&c, NS1, Echo::default()).is_reply(), "{datapath}");
            assert!(ping(&a, [172, 19, 0, 9].into(), Echo::default()).is_reply(), "{datapath}");
            host.netbpf(&format!("plan {}", file.tell(&second))).ok();
            let going_on = host.flows("--ns c").len() + host.flows("--ns d").len();
            assert!(going_on >= 3, "{datapath}");
            let outcome = host.netbpf(&format!("up {}", file.tell(&first))).ok();
            assert_eq!(ended(&outcome), going_on as u64, "{datapath}, {round}: {outcome}");
            staying.go_on(datapath);
            assert!(reaches_outside(&host.ns("b")), "{datapath}");
        }
    }
}

#[test]
fn what_moves_is_another_one_in_the_same_namespace() {
    for datapath in DATAPATHS {
        let host = Host::new();
        let file = File::new(&format!("moves-{datapath}"));
        let network = Network { datapath, ns: &["a=172.19.0.2", "b=172.19.0.3"], ..FIRST };
        host.netbpf(&format!("up {}", file.tell(&network))).ok();
        let a = host.ns("a");
        // Each has the other's address, and MAC, now.
        let turned = Network { ns: &["a=172.19.0.3", "b=172.19.0.2"], ..network };
        host.netbpf(&format!("up {}", file.tell(&turned))).ok();
        host.netbpf(&format!("plan {}", file.tell(&turned))).ok();
        assert_eq!(a.mac("eth0"), [2, 0x6e, 172, 19, 0, 3], "it is the same namespace");
        assert!(ping(&a, NS1, Echo::default()).is_reply(), "{datapath}");
        let mut streams = Streams::open(&host, &a, 8080);
        streams.go_on(datapath);
    }
}

/// Runs a change with a fault at each step in turn, from [`BEFORE`] to [`AFTER`].
fn with_each_fault(
    datapath: &'static str,
    fault: &str,
    mut after: impl FnMut(&Host, &File, usize, Outcome),
) {
    let host = Host::new();
    let file = File::new(&format!("{fault}-{datapath}"));
    let [first, second] = [BEFORE, AFTER].map(|network| Network { datapath, ..network });
    let mut steps = 0;
    for step in 1..=100 {
        host.netbpf(&format!("up {}", file.tell(&first))).ok();
        let mut command = host.command(&format!("up {}", file.tell(&second)));
        let outcome = finish(command.env("NETBPF_FAULT", format!("{fault}:{step}")));
        if outcome.code == Some(0) {
            break;
        }
        steps = step;
        after(&host, &file, step, outcome);
    }
    assert!((15..100).contains(&steps), "only {steps} steps had a fault");
    host.netbpf(&format!("plan {}", file.tell(&second))).ok();
}

#[test]
fn failing_at_any_step_a_change_leaves_the_network_as_it_was() {
    for datapath in DATAPATHS {
        let first = Network { datapath, ..BEFORE };
        let mut staying = None;
        with_each_fault(datapath, "fail", |host, file, step, outcome| {
            let outcome = outcome.exits(1).complains("what had been done was undone");
            let when = format!("{datapath}, step {step}: {outcome}");
            host.netbpf(&format!("plan {}", file.tell(&first))).ok();
            let status = host.json("status");
            assert_eq!(status["networks"][0]["state"], "up", "{when}: {status}");
            assert!(reaches_outside(&host.ns("b")), "{when}");
            assert!(Netns::try_open(host.sandbox(), "c").is_err(), "{when}");
            let streams = staying.get_or_insert_with(|| Streams::open(host, &host.ns("a"), 8080));
            streams.go_on(&when);
        });
    }
}

#[test]
fn killed_at_any_step_a_change_can_be_finished_or_taken_back() {
    for datapath in DATAPATHS {
        let [first, second] = [BEFORE, AFTER].map(|network| Network { datapath, ..network });
        let mut staying = None;
        with_each_fault(datapath, "kill", |host, file, step, outcome| {
            assert_eq!(outcome.signal, Some(9), "{outcome}");
            let when = format!("{datapath}, killed before step {step}");
            let (wanted, there, gone) =
                if step % 2 == 0 { (&second, "c", "b") } else { (&first, "b", "c") };
            host.netbpf("status").ok();
            host.netbpf(&format!("up {}", file.tell(wanted))).ok();
            host.netbpf(&format!("plan {}", file.tell(wanted))).ok();
            assert!(reaches_outside(&host.ns(there)), "{when}");
            assert!(Netns::try_open(host.sandbox(), gone).is_err(), "{when}");
            let streams = staying.get_or_insert_with(|| Streams::open(host, &host.ns("a"), 8080));
            streams.go_on(&when);
        });
    }
}

#[test]
fn killed_at_any_step_a_change_leaves_nothing_that_down_does_not_remove() {
    for datapath in DATAPATHS {
        with_each_fault(datapath, "kill", |host, _, step, outcome| {
            assert_eq!(outcome.signal, Some(9), "{outcome}");
            host.netbpf("down --all").ok();
            eprintln!("{datapath}, killed before step {step}:");
            host.assert_as_before();
        });
    }
}

#[test]
fn a_file_takes_down_the_network_that_it_is_about() {
    let host = Host::new();
    host.up("--namespaces 1");
    host.netbpf("up --name shop --ns web --subnet 10.8.0.0/24").ok();
    let file = File::new("down");
    file.write("name = \"shop\"\nns = [\"whatever\", { name = 7 }]\n");
    let arguments = format!("down -f {}", file.0.display());
    // What else the file says is not what `down` is about.
    host.netbpf(&arguments).ok().complains("network shop is gone");
    host.netbpf(&arguments).ok().complains("there is no network shop");
    host.netbpf(&format!("{arguments} netbpf0")).exits(2).complains("cannot be used with");
    file.write("name = 7\n");
    host.netbpf(&arguments).exits(2).complains(":1:8: name is not as it should be");
    file.write("ns = [\"web\"]\n");
    host.netbpf(&arguments).ok().complains("network netbpf0 is gone");
    host.netbpf("down -f /nonexistent/netbpf.toml").exits(1).complains("cannot read");
}
