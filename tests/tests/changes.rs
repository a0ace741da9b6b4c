//! Unusual requests, and requests that change, collide or come at the same time.

use netbpf_tests::{
    Host, Listing, NS1, NS2, NS3, Netns, OUTSIDE, UPLINK, at,
    traffic::{Echo, TcpServer, UdpClient, UdpServer, connect, ping},
};
use std::{net::Ipv4Addr, thread};

fn reaches(ns: &Netns, to: Ipv4Addr) -> bool {
    ping(ns, to, Echo::default()).is_reply()
}

#[test]
fn names_as_long_as_they_may_be() {
    let host = Host::new();
    // Alike in all that is left when something is appended to them.
    for (i, name) in ["fifteen-letters", "fifteen-letterz"].iter().enumerate() {
        let namespace = "n".repeat(58);
        host.up(&format!(
            "--name {name} --subnet 172.2{i}.0.0/24 --namespaces 12 --ns-prefix {namespace}{i}x"
        ));
        let last = host.ns(&format!("{namespace}{i}x12"));
        assert!(reaches(&last, OUTSIDE), "{name}");
        let octet = 20 + u8::try_from(i).expect("small");
        assert!(reaches(&last, Ipv4Addr::new(172, octet, 0, 2)), "{name}");
    }
    host.netbpf("down fifteen-letters").ok();
    assert!(reaches(&host.ns(&format!("{}1x1", "n".repeat(58))), OUTSIDE));
}

#[test]
fn subnets_of_all_sizes() {
    let host = Host::new();
    for (subnet, count, last) in [
        ("10.1.2.0/30", 1, [10, 1, 2, 2]),
        ("10.1.2.248/29", 5, [10, 1, 2, 254]),
        ("10.0.0.0/8", 2, [10, 0, 0, 3]),
        ("192.168.0.0/16", 3, [192, 168, 0, 4]),
    ] {
        host.up(&format!("--namespaces {count} --subnet {subnet}"));
        let first = host.ns("ns1");
        assert!(reaches(&first, OUTSIDE) && reaches(&first, last.into()), "{subnet}");
        assert!(reaches(&host.ns(&format!("ns{count}")), OUTSIDE), "{subnet}");
        host.netbpf("down").ok();
    }
}

/// Either the network becomes what is asked for, or nothing is touched and it
/// is said what to do.
#[test]
fn a_network_that_is_up_and_asked_for_differently() {
    let host = Host::new();
    host.up("--namespaces 2 -p 8080:ns1:80");
    let everything = || {
        let inside = ["ns1", "ns2"].map(|name| Listing::of_netns(&host.ns(name)));
        inside.into_iter().fold(host.listing(), Listing::and)
    };
    for arguments in [
        "--namespaces 3 -p 8080:ns1:80",
        "--namespaces 1",
        "--namespaces 2",
        "--namespaces 2 -p 8081:ns1:80",
        "--namespaces 2 -p 8080:ns1:80 --subnet 10.3.0.0/24",
        "--namespaces 2 -p 8080:ns1:80 --mtu 1300",
        "--namespaces 2 -p 8080:ns1:80 --source-guard off",
        "--namespaces 2 -p 8080:ns1:80 --routed",
        "--namespaces 2 -p 8080:ns1:80 --respect-netfilter",
        "--namespaces 2 -p 8080:ns1:80 --max-flows 4096",
        "--ns ns1=172.19.0.9 --ns ns2 -p 8080:ns1:80",
    ] {
        let before = everything();
        let outcome = host.netbpf(&format!("up --uplink up0 {arguments}"));
        if outcome.code == Some(0) {
            assert!(reaches(&host.ns("ns1"), OUTSIDE), "{outcome}");
            let again = host.netbpf(&format!("up --uplink up0 {arguments}")).ok();
            assert!(again.stderr.contains("nothing"), "{again}");
            host.netbpf("down").ok();
            host.up("--namespaces 2 -p 8080:ns1:80");
        } else {
            assert!(matches!(outcome.code, Some(1 | 2)), "{outcome}");
            assert!(outcome.stderr.contains("hint"), "{outcome}");
            before.assert_same(&everything());
        }
    }
}

#[test]
fn an_interface_that_has_a_ports_name_is_left_alone() {
    let host = Host::new();
    host.up("--namespaces 2");
    let ports = host.ports_of_bridge("netbpf0");
    host.netbpf("down").ok();
    host.netns().ip(&format!("link add {} type bridge", ports[0]));
    let before = host.listing();
    let outcome = host.netbpf("up --namespaces 2 --uplink up0");
    if outcome.code == Some(0) {
        assert!(reaches(&host.ns("ns1"), OUTSIDE), "{outcome}");
        host.netbpf("down").ok();
    } else {
        outcome.complains(&ports[0]).complains("hint");
    }
    before.assert_same(&host.listing());
    host.netns().ip(&format!("link del {}", ports[0]));
}

#[test]
fn many_at_the_same_time_do_not_get_in_each_others_way() {
    let host = Host::new();
    let up = |name: &str, i: usize| {
        host.up(&format!(
            "--name {name} --subnet 172.3{i}.0.0/24 --namespaces 2 --ns-prefix {name}x"
        ))
    };
    let names = ["a", "b", "a", "b", "c"];
    thread::scope(|scope| {
        for name in names {
            let i = names.iter().position(|n| *n == name).expect("there");
            scope.spawn(move || up(name, i));
        }
    });
    for name in ["a", "b", "c"] {
        assert!(reaches(&host.ns(&format!("{name}x1")), OUTSIDE), "{name}");
    }
    thread::scope(|scope| {
        for arguments in ["down a", "down b", "down --all", "status"] {
            scope.spawn(|| host.netbpf(arguments).ok());
        }
    });
    host.assert_as_before();
}

#[test]
fn down_goes_ahead_while_processes_live_and_traffic_flows() {
    let host = Host::new();
    host.up("--namespaces 2 -p 8080:ns1:80");
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let server = TcpServer::start(&ns1, 80);
    let _beyond = UdpServer::start(host.outside(), 53);
    let mut open = connect(host.outside(), at(UPLINK, 8080)).expect("8080");
    open.echo(b"hello").expect("echo");
    let client = UdpClient::new(&ns2);
    let mut sleeper = ns1.command("sleep").arg("60").spawn().expect("a process in ns1");
    for _ in 0..100 {
        client.send(at(OUTSIDE, 53), b"more").expect("send");
    }
    host.netbpf("down").ok();
    // The process has its namespace still, but no interface in it.
    assert_eq!(ns1.links(), ["lo"]);
    sleeper.kill().and_then(|()| sleeper.wait()).expect("end it");
    drop((open, server));
    host.assert_as_before();
}

#[test]
fn the_uplink_may_go_down_and_come_back() {
    let host = Host::new();
    host.up("--namespaces 1 -p 8080:ns1:80");
    let ns1 = host.ns("ns1");
    let _server = TcpServer::start(&ns1, 80);
    let mut open = connect(host.outside(), at(UPLINK, 8080)).expect("8080");
    assert!(reaches(&ns1, OUTSIDE));
    host.netns().ip("link set up0 down");
    let brief = Echo { patience: std::time::Duration::from_millis(200), ..Echo::default() };
    assert!(!ping(&ns1, OUTSIDE, brief).is_reply());
    host.netns().ip("link set up0 up");
    host.netns().wait_up("up0");
    host.outside().wait_up("out0");
    host.netns().ip(&format!("route add default via {OUTSIDE}"));
    netbpf_tests::wait::until_true("the outside is back", || ping(&ns1, OUTSIDE, brief).is_reply());
    open.echo(b"still there").expect("the connection has outlived it");
}

#[test]
fn namespaces_that_use_jumbo_frames_among_themselves() {
    let host = Host::new();
    host.up("--namespaces 3 --mtu 9000 -p 8080:ns2:80");
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let jumbo = Echo { size: 9000, dont_fragment: true, ..Echo::default() };
    for to in [NS2, NS3] {
        assert!(ping(&ns1, to, jumbo).is_reply(), "{to}");
    }
    let _inside = TcpServer::start(&ns2, 80);
    let _beyond = TcpServer::start(host.outside(), 80);
    for (from, to) in
        [(&ns1, at(NS2, 80)), (&ns1, at(OUTSIDE, 80)), (host.outside(), at(UPLINK, 8080))]
    {
        let mut client = connect(from, to).expect("connect");
        client.upload(4 << 20).unwrap_or_else(|e| panic!("to {to}: {e}"));
        client.download(4 << 20).unwrap_or_else(|e| panic!("from {to}: {e}"));
    }
}

/// An interface inside with a smaller MTU than its network's.
///
/// Requirements: nat-12.
#[test]
fn a_namespace_with_a_smaller_mtu_gets_no_larger_frames_than_it_takes() {
    let host = Host::new();
    host.up("--namespaces 2 -p 8080:ns2:80");
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    ns2.ip("link set eth0 mtu 1300");
    let _inside = TcpServer::start(&ns2, 80);
    for (from, to) in [(&ns1, at(NS2, 80)), (host.outside(), at(UPLINK, 8080))] {
        let mut client = connect(from, to).expect("connect");
        client.upload(1 << 20).unwrap_or_else(|e| panic!("to {to}: {e}"));
        client.download(1 << 20).unwrap_or_else(|e| panic!("from {to}: {e}"));
    }
    assert!(reaches(&ns2, NS1));
}
