//! Networks that a program makes by calls, and the guard that takes them down.

use netbpf::{
    datapath::Kind,
    network::Network,
    spec::{Choice, Spec},
};
use netbpf_common::Counter;
use netbpf_tests::{
    Host, Netns, OUTSIDE, UPLINK, at, finish,
    traffic::{Echo, TcpServer, connect, ping},
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::Command,
    thread,
};

fn spec() -> Spec {
    Spec {
        ns: vec!["web".into(), "db".into()],
        publish: vec!["8080:web:80".into()],
        uplink: vec!["up0".into()],
        ..Spec::default()
    }
}

#[track_caller]
fn up(host: &Host, spec: Spec) -> Network {
    host.netns().run(|| Network::up(spec)).expect("a network")
}

#[track_caller]
fn reaches_outside(ns: &Netns) -> bool {
    ping(ns, OUTSIDE, Echo::default()).is_reply()
}

#[test]
fn a_network_lives_as_long_as_its_guard() {
    for datapath in [Choice::Ebpf, Choice::Iptables] {
        let host = Host::new();
        let network = up(&host, Spec { datapath, ..spec() });
        let web = host.ns("web");
        let _server = TcpServer::start(&web, 80);
        connect(host.outside(), at(UPLINK, 8080)).expect("8080").echo(b"in").expect("echo");
        assert!(reaches_outside(&host.ns("db")), "{datapath:?}");
        // Wherever a test ends, what it has made is taken away where it was made.
        thread::spawn(move || drop(network)).join().expect("join");
        host.assert_as_before();
    }
}

#[test]
fn a_panic_leaves_nothing() {
    let host = Host::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _network = up(&host, spec());
        panic!("a test fails");
    }));
    assert!(panicked.is_err());
    host.assert_as_before();
}

#[test]
fn commands_and_code_run_inside() {
    let host = Host::new();
    let network = up(&host, spec());
    let db = network.namespace("db").expect("db");
    let addresses = finish(db.command("ip").args(["-br", "addr"])).ok().stdout;
    assert!(addresses.contains("172.19.0.3/24"), "{addresses}");
    let name = db.run(|| finish(Command::new("ip").args(["netns", "identify"]))).expect("inside");
    assert_eq!(name.ok().stdout.trim(), "db");
    let error = network.namespace("cache").expect_err("there is none");
    assert!(error.to_string().contains("no namespace cache"), "{error}");
    // A namespace of its name is not the one that was made.
    host.netns().ip("netns del db");
    let error = network.namespace("db").expect_err("it is gone");
    assert!(error.to_string().contains("removed"), "{error}");
    host.netns().ip("netns add db");
    let error = network.namespace("db").expect_err("it is another one");
    assert!(error.to_string().contains("another one"), "{error}");
    host.netns().ip("netns del db");
    network.down().expect("down");
    host.assert_as_before();
}

#[test]
fn it_is_changed_and_switched_while_connections_go_on() {
    let host = Host::new();
    let mut network = up(&host, spec());
    let _server = TcpServer::start(&host.ns("web"), 80);
    let mut connection = connect(host.outside(), at(UPLINK, 8080)).expect("8080");
    let ended = network.change(|wanted| {
        wanted.namespaces.push("cache".parse()?);
        Ok(())
    });
    assert_eq!(ended.expect("a change"), 0);
    assert!(reaches_outside(&host.ns("cache")));
    connection.echo(b"changed").expect("echo");
    network.switch(Kind::Iptables).expect("switch");
    connection.echo(b"switched").expect("echo");
    assert_eq!(network.topology().datapath, Kind::Iptables);
    network.switch(Kind::Iptables).expect("there is nothing to do");
    let ended = network.change(|wanted| {
        wanted.publish.clear();
        Ok(())
    });
    assert_eq!(ended.expect("a change"), 1);
    assert_eq!(network.topology().published.len(), 0);
    let error = network.change(|wanted| {
        wanted.namespaces.clear();
        Ok(())
    });
    error.expect_err("a network without namespaces");
    assert_eq!(network.topology().endpoints.len(), 3, "it is as it was");
    network.down().expect("down");
    host.assert_as_before();
}

#[test]
fn its_flows_are_read_on_both_datapaths() {
    for datapath in [Choice::Ebpf, Choice::Iptables] {
        let host = Host::new();
        let network = up(&host, Spec { datapath, ..spec() });
        assert_eq!(network.flows().expect("flows"), [], "{datapath:?}");
        let _server = TcpServer::start(&host.ns("web"), 80);
        let mut connection = connect(host.outside(), at(UPLINK, 8080)).expect("8080");
        connection.echo(b"hello").expect("echo");
        let flows = network.flows().expect("flows");
        let [flow] = &flows[..] else { panic!("{datapath:?}: {flows:?}") };
        let web = &network.topology().endpoints[0];
        assert!(flow.head.is_dnat && flow.head.endpoint == web.endpoint_id(), "{flow:?}");
        assert_eq!((flow.head.tuple.dport.number(), flow.state), (8080, "ESTABLISHED"));
        assert_eq!(flow.head.translated.daddr, web.addr.into());
        let counters = network.counters();
        if datapath == Choice::Iptables {
            let error = counters.expect_err("nobody counts them");
            assert!(error.to_string().contains("not counted"), "{error}");
            continue;
        }
        let counters = counters.expect("counters");
        let (packets, bytes) = counters[&web.namespace].of(Counter::Dnat);
        assert!(packets >= 4 && bytes > 40 * packets, "{packets} packets of {bytes} bytes");
        assert_eq!(counters.len(), 2);
    }
}

#[test]
fn what_others_have_changed_is_found_and_mended() {
    for datapath in [Choice::Ebpf, Choice::Iptables] {
        let host = Host::new();
        let mut network = up(&host, Spec { datapath, ..spec() });
        assert!(network.status().expect("status").is_up(), "{datapath:?}");
        assert_eq!(network.check().expect("check"), []);
        host.ns("web").ip("link set eth0 mtu 1400");
        let status = network.status().expect("status");
        assert_eq!(status.missing, ["eth0 has another MTU"]);
        assert!(!status.is_up());
        let found = network.check().expect("check");
        let [finding] = &found[..] else { panic!("{datapath:?}: {found:?}") };
        assert_eq!(finding.thing, "eth0 in web");
        assert_eq!(finding.amiss, "MTU 1400, should be 1500");
        assert_eq!(network.mend().expect("mend"), 0);
        assert_eq!(network.check().expect("check"), []);
        assert!(network.status().expect("status").is_up(), "{datapath:?}");
        // Somebody else takes it down.
        host.netbpf("down netbpf0").ok();
        let error = network.status().expect_err("it is gone");
        assert!(error.to_string().contains("is gone"), "{error}");
        network.keep();
        host.assert_as_before();
    }
}

#[test]
fn what_is_there_already_is_not_taken_over() {
    let host = Host::new();
    host.up("--namespaces 1");
    let before = host.listing();
    let error = host.netns().run(|| Network::up(spec())).expect_err("its name is taken");
    assert!(error.to_string().contains("a network netbpf0 already"), "{error}");
    let wrong = Spec { name: "other".into(), ns: vec!["a/b".into()], ..Spec::default() };
    host.netns().run(|| Network::up(wrong)).expect_err("no name of a namespace");
    let clash = Spec { name: "other".into(), ns: vec!["ns1".into()], ..Spec::default() };
    host.netns().run(|| Network::up(clash)).expect_err("ns1 is another network's");
    before.assert_same(&host.listing());
}

#[test]
fn a_kept_one_stays_for_the_command() {
    let host = Host::new();
    up(&host, spec()).keep();
    assert!(reaches_outside(&host.ns("web")));
    host.netbpf("down netbpf0").ok();
    host.assert_as_before();
}
