//! Two namespaces connected with each other and nothing else, as people do by hand;
//! names of interfaces, and prefixes beside addresses.

use netbpf_tests::{
    Host, OUTSIDE, finish,
    traffic::{Echo, TcpServer, connect, ping},
    {NS1, at, sample},
};
use std::net::Ipv4Addr;

const PAIR: &str = "up --direct --ns a=10.0.0.1/24 --ns b=10.0.0.2/24 --ifname veth%d";
const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

#[track_caller]
fn assert_works(host: &Host) {
    let (a, b) = (host.ns("a"), host.ns("b"));
    assert!(ping(&a, B, Echo::default()).is_reply(), "from a to b");
    assert!(ping(&b, A, Echo::default()).is_reply(), "from b to a");
    assert!(ping(&a, A, Echo::default()).is_reply(), "from a to itself");
}

#[test]
fn two_namespaces_are_connected_and_the_host_stays_as_it_is() {
    let host = Host::new();
    let before = host.listing();
    host.netbpf(PAIR).ok().says("veth0").says("veth1").says("none");
    assert_works(&host);
    let _server = TcpServer::start(&host.ns("b"), 80);
    let mut connection = connect(&host.ns("a"), at(B, 80)).expect("connect");
    connection.echo(&sample(100_000)).expect("echo");
    // No bridge, no program, no pin, no switch: names and what is remembered.
    let after = host.listing();
    let new: Vec<&str> =
        after.with("").into_iter().filter(|l| !before.with("").contains(l)).collect();
    assert!(new.iter().all(|line| line.contains("/run/")), "{new:#?}");
    assert_eq!(host.ns("a").links(), ["lo", "veth0"]);
    assert_eq!(host.ns("b").links(), ["lo", "veth1"]);
    assert_eq!(host.ns("a").ip_json("ip", "route show").as_array().expect("routes").len(), 1);
    // Again: nothing to do, nothing done.
    host.netbpf(PAIR).ok().complains("nothing to do");
    host.netbpf(&format!("{PAIR} --dry-run")).ok().says("nothing to do");
    after.assert_same(&host.listing());
    connection.echo(b"still").expect("echo");
    let status = host.json("status");
    let network = &status["networks"][0];
    for (key, value) in [("state", "up"), ("datapath", "none"), ("subnet", "10.0.0.0/24")] {
        assert_eq!(network[key], value, "{key}");
    }
    assert_eq!((&network["direct"], &network["bridge"]), (&true.into(), &serde_json::Value::Null));
    assert_eq!(network["namespaces"][1]["iface"], "veth1");
    host.netbpf("exec b -- ip address show dev veth1").ok().says("10.0.0.2/24");
    host.netbpf("down").ok();
    before.assert_same(&host.listing());
}

#[test]
fn what_is_left_open_has_a_default() {
    let host = Host::new();
    let plan = host.netbpf("up --direct --namespaces 2 --mtu 9000 --dry-run").ok();
    plan.says("ip -n ns1 link add eth0 address 02:6e:ac:13:00:01 mtu 9000").says("172.19.0.2/24");
    host.assert_as_before();
    host.netbpf("up --direct --namespaces 2 --mtu 9000").ok();
    assert_eq!(host.ns("ns2").link("eth0")["mtu"], 9000);
    let whole = Echo { size: 8000, ..Echo::default() };
    assert!(ping(&host.ns("ns1"), NS1, whole).is_reply());
    // A network of the host's datapath beside it, of the same addresses, and gone
    // before it.
    host.up("--name other --ns-prefix x --namespaces 1");
    assert!(ping(&host.ns("x1"), OUTSIDE, Echo::default()).is_reply());
    host.netbpf("down other").ok();
    assert!(host.listing().with("pin: /sys/fs/bpf/netbpf").is_empty());
    assert!(ping(&host.ns("ns1"), NS1, Echo::default()).is_reply());
    // And the other way about.
    host.up("--name other --ns-prefix x --namespaces 1");
    host.netbpf("down netbpf0").ok();
    assert!(ping(&host.ns("x1"), OUTSIDE, Echo::default()).is_reply());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let host = Host::new();
    for (arguments, why) in [
        ("--namespaces 2 --uplink up0", "--uplink"),
        ("--namespaces 2 -p 8080:ns1:80", "--publish"),
        ("--namespaces 2 --source-guard off", "--source-guard"),
        ("--namespaces 2 --routed", "--routed"),
        ("--namespaces 2 --respect-netfilter", "--respect-netfilter"),
        ("--namespaces 2 --datapath ebpf", "--datapath"),
        ("--namespaces 2 --max-flows 10", "--max-flows"),
        ("--namespaces 2 --flow-limit 10", "--flow-limit"),
        ("--namespaces 2 --log-level info", "--log-level"),
        ("--namespaces 3", "exactly two"),
        ("--ns a=10.0.0.1/24", "exactly two"),
        ("--ns a=10.0.0.1/24 --ns a=10.0.0.2/24", "named twice"),
        ("--ns a=10.0.0.1/24 --ns b=10.0.0.1/24", "namespace a has it"),
        ("--ns a=10.0.0.1/24 --ns b=10.0.1.1/24", "10.0.0.0/24"),
        ("--ns a=10.0.0.1/24 --ns b=10.0.0.2/25", "10.0.0.0/24"),
        ("--ns a=10.0.0.0/24 --ns b", "no address of a host"),
        ("--ns a=10.0.0.255/24 --ns b", "no address of a host"),
        ("--ns a=127.0.0.1/8 --ns b=127.0.0.2/8", "loopback"),
        ("--ns a=10.0.0.1/32 --ns b", "too small"),
        ("--namespaces 2 --ifname lo", "every namespace has one"),
        ("--namespaces 2 --ifname a%s", "%"),
        ("--namespaces 2 --ifname a/b", "interface name"),
        ("--namespaces 2 --mtu 20", "MTU"),
    ] {
        host.netbpf(&format!("up --direct {arguments}")).exits(2).complains(why);
        host.assert_as_before();
    }
    host.netbpf("up --direct --ns a=10.0.0.0/31 --ns b=10.0.0.1/31").ok();
    assert!(ping(&host.ns("a"), Ipv4Addr::new(10, 0, 0, 1), Echo::default()).is_reply());
    host.netbpf("up --uplink up0 --ns a --ns b").exits(2).complains("it is direct");
}

/// Whatever step it ends at, by whatever means.
#[test]
fn killed_or_failing_at_any_step_it_leaves_nothing() {
    let host = Host::new();
    let with_fault = |arguments: &str, fault: &str, step: usize| {
        let mut command = host.command(arguments);
        finish(command.env("NETBPF_FAULT", format!("{fault}:{step}")))
    };
    let mut steps = 0;
    for step in 1..=50 {
        let outcome = with_fault(PAIR, "fail", step);
        if outcome.code == Some(0) {
            break;
        }
        eprintln!("{}", outcome.exits(1));
        host.assert_as_before();
        with_fault(PAIR, "kill", step);
        if step % 2 == 0 {
            host.netbpf(PAIR).ok();
            assert_works(&host);
        }
        host.netbpf("down").ok();
        host.assert_as_before();
        steps = step;
    }
    assert_eq!(steps, 11);
    assert_works(&host);
    for step in 1..=50 {
        host.netbpf(PAIR).ok();
        let outcome = with_fault("down", "kill", step);
        if outcome.code == Some(0) {
            return assert!(step > 3, "{outcome}");
        }
        host.netbpf("down").ok();
        host.assert_as_before();
    }
    panic!("down was killed at each of 50 steps");
}

#[test]
fn what_is_broken_is_told_mended_and_taken_away() {
    let host = Host::new();
    for (damage, word) in [
        ("netns exec a ip link del veth0", "no veth pair"),
        ("-n b link set veth1 down", "veth1 down"),
        ("-n a addr flush dev veth0", "without 10.0.0.1"),
        ("netns del b", "namespace gone"),
        ("-n a link set veth0 mtu 1400", "another MTU"),
        ("netns exec b ip link set veth1 down name else1", "veth1 is called else1"),
    ] {
        host.netbpf(PAIR).ok();
        host.netns().ip(damage);
        host.netbpf("status").ok().says(word);
        host.netbpf(PAIR).ok();
        assert_works(&host);
        host.netns().ip(damage);
        host.netbpf("down").ok();
        host.assert_as_before();
    }
}

/// Names of interfaces, and prefixes, of a network with a bridge.
#[test]
fn a_bridged_network_takes_names_and_prefixes_too() {
    let host = Host::new();
    host.up("--ns a=10.9.0.2/16 --ns b=10.9.7.3/16/02:00:00:00:00:0b --ifname net%d -p 8080:b:80");
    let (a, b) = (host.ns("a"), host.ns("b"));
    assert_eq!(
        (a.links(), b.links()),
        (vec!["lo".into(), "net0".into()], vec!["lo".into(), "net1".into()])
    );
    assert_eq!(b.mac("net1"), [2, 0, 0, 0, 0, 0xb]);
    let _server = TcpServer::start(&b, 80);
    let mut connection = connect(host.outside(), at(netbpf_tests::UPLINK, 8080)).expect("connect");
    connection.echo(&sample(1000)).expect("echo");
    assert!(ping(&a, Ipv4Addr::new(10, 9, 7, 3), Echo::default()).is_reply());
    assert!(ping(&a, OUTSIDE, Echo::default()).is_reply());
    // What is left out stays as it is.
    host.up("--ns a=10.9.0.2 --ns b=10.9.7.3/02:00:00:00:00:0b -p 8080:b:80").complains("nothing");
    host.json("status");
    a.ip("link del net0");
    host.netbpf("status").ok().says("no veth");
    host.up("--ns a=10.9.0.2 --ns b=10.9.7.3/02:00:00:00:00:0b -p 8080:b:80");
    assert!(ping(&a, OUTSIDE, Echo::default()).is_reply());
    for (arguments, why) in [
        ("--ns a=10.9.0.2/16 --ns b=10.8.0.3/16", "10.9.0.0/16"),
        ("--subnet 10.9.0.0/24 --ns a=10.9.0.2/16", "10.9.0.0/24"),
        ("--ns a=10.9.0.2/16 --ns b=10.9.0.3/24", "10.9.0.0/16"),
    ] {
        host.netbpf(&format!("up --name x --uplink up0 {arguments}")).exits(2).complains(why);
    }
}
