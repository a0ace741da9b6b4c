//! Flows come, count down, and can be ended by hand.
//!
//! That each time-out is what it should be is proved natively, where time is a number.

use netbpf_tests::{
    Host, NS1, Netns, OUTSIDE, UPLINK, at,
    traffic::{Echo, TcpServer, UdpClient, UdpServer, connect, ping},
    wait,
};

#[test]
fn flows_count_packets_and_bytes_and_their_time_to_live() {
    let host = Host::new();
    host.up("--namespaces 1");
    let ns1 = host.ns("ns1");
    let _server = UdpServer::start(host.outside(), 53);
    let client = UdpClient::on_port(&ns1, 5000);
    let flow = |what: &str| {
        let mut flows = host.flows("--proto udp");
        assert_eq!(flows.len(), 1, "{what}");
        flows.swap_remove(0)
    };
    client.send(at(OUTSIDE, 54), b"nobody answers").expect("send");
    wait::until_true("the flow is there", || host.flows("--proto udp").len() == 1);
    let first = flow("one question");
    assert_eq!((first.orig_src, first.orig_dst), (at(NS1, 5000), at(OUTSIDE, 54)));
    assert_eq!((first.xlat_src, first.xlat_dst), (at(UPLINK, 5000), at(OUTSIDE, 54)));
    assert!((20.0..=31.0).contains(&first.expires), "unreplied: {first:?}");
    assert_eq!(first.bytes, 14 + 28, "{first:?}");
    wait::until_true("it counts down", || flow("the same").expires < first.expires - 0.5);

    host.netbpf("maps flows flush --all").ok();
    for _ in 0..3 {
        client.exchange(at(OUTSIDE, 53), b"somebody answers");
    }
    let answered = flow("answered");
    assert_eq!((answered.packets, answered.bytes), (6, 6 * (16 + 28)), "{answered:?}");
    assert_eq!(answered.state, "REPLIED");
    assert!((100.0..=121.0).contains(&answered.expires), "{answered:?}");
}

#[test]
fn a_tcp_flow_shows_the_state_of_its_connection() {
    let host = Host::new();
    host.up("--namespaces 1");
    let ns1 = host.ns("ns1");
    let server = TcpServer::start(host.outside(), 80);
    let state = || {
        let flows = host.flows("--proto tcp");
        assert!(flows.len() <= 1, "{flows:?}");
        flows.first().map_or(String::new(), |flow| flow.state.clone())
    };
    let mut connection = connect(&ns1, at(OUTSIDE, server.port())).expect("connect");
    connection.echo(b"hello").expect("echo");
    assert_eq!(state(), "ESTABLISHED");
    let flow = host.flows("--proto tcp").swap_remove(0);
    assert!(flow.expires > 7000.0, "two hours and more: {flow:?}");
    drop(connection);
    wait::until_true("both sides have finished", || state() == "TIME_WAIT");
    let flow = host.flows("--proto tcp").swap_remove(0);
    assert!((200.0..=241.0).contains(&flow.expires), "{flow:?}");
}

#[test]
fn flows_are_flushed_and_shown_by_filter() {
    let host = Host::new();
    host.up("--namespaces 3 -p 8080:ns3:80");
    let clients = ["ns1", "ns2", "ns3"].map(|name| UdpClient::new(&host.ns(name)));
    let _servers = [53, 123].map(|port| UdpServer::start(host.outside(), port));
    let _web = TcpServer::start(&host.ns("ns3"), 80);
    for client in &clients {
        for port in [53, 123] {
            client.exchange(at(OUTSIDE, port), b"hello");
        }
    }
    assert!(ping(&host.ns("ns1"), OUTSIDE, Echo::default()).is_reply());
    let mut published = connect(host.outside(), at(UPLINK, 8080)).expect("8080");
    published.echo(b"hello").expect("echo");

    let count = |filter: &str| host.flows(filter).len();
    assert_eq!(count(""), 8);
    for (filter, expected) in [
        ("--ns ns1", 3),
        ("--ns ns2", 2),
        ("--ns ns3", 3),
        ("--proto udp", 6),
        ("--proto icmp", 1),
        ("--proto tcp", 1),
        ("--port 53", 3),
        ("--port 8080", 1),
        ("--ns ns1 --port 53", 1),
        ("--to 203.0.113.2", 7),
        ("--ns ns2 --proto tcp", 0),
    ] {
        assert_eq!(count(filter), expected, "{filter}");
    }

    host.netbpf("maps flows flush --ns ns1").ok();
    assert_eq!((count(""), count("--ns ns1")), (5, 0));
    host.netbpf("maps flows flush --port 53").ok();
    assert_eq!((count(""), count("--port 53")), (3, 0));
    published.echo(b"still there").expect("others are untouched");
    // What was flushed begins anew.
    clients[0].exchange(at(OUTSIDE, 53), b"again");
    assert_eq!(count("--ns ns1"), 1);
    host.netbpf("maps flows flush --all").ok();
    assert_eq!(count(""), 0);
    published.echo(b"picked up again").expect("a flush ends flows, not connections");
    assert_eq!(host.netbpf("maps flows flush").code, Some(2), "all of them only when asked to");
}

/// Requirements: nat-2.
#[test]
fn an_endpoint_cannot_have_more_flows_than_its_share() {
    let host = Host::new();
    host.up("--namespaces 2 --flow-limit 10");
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let _server = UdpServer::start(host.outside(), 53);
    let clients: Vec<_> = (0..10).map(|_| UdpClient::new(&ns1)).collect();
    for client in &clients {
        client.exchange(at(OUTSIDE, 53), b"hello");
    }
    let eleventh = UdpClient::new(&ns1);
    eleventh.send(at(OUTSIDE, 53), b"hello").expect("send");
    host.wait_dropped("ns1", "flow_limit", 1);
    assert_eq!(host.flows("--ns ns1").len(), 10);
    for client in &clients {
        client.exchange(at(OUTSIDE, 53), b"those that live are not touched");
    }
    UdpClient::new(&ns2).exchange(at(OUTSIDE, 53), b"nor is anybody else");
    host.netbpf("maps flows flush --ns ns1").ok();
    eleventh.exchange(at(OUTSIDE, 53), b"now there is room");
}

/// Requirements: nat-1, nat-2.
#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old() {
    let host = Host::new();
    host.up("--namespaces 3 --max-flows 1024 --flow-limit 1024");
    let [ns1, ns2, ns3] = ["ns1", "ns2", "ns3"].map(|name| host.ns(name));
    let _server = UdpServer::start(host.outside(), 53);
    let open = |ns: &Netns| {
        let client = UdpClient::new(ns);
        client.exchange(at(OUTSIDE, 53), b"there is room");
        client
    };
    let refused = |ns: &Netns, reason: &str| {
        let client = UdpClient::new(ns);
        client.send(at(OUTSIDE, 53), b"there is none").expect("send");
        host.wait_dropped(ns.name(), reason, 1);
    };
    // The last eighth is for those that have little.
    let mut living: Vec<UdpClient> = (0..448).flat_map(|_| [open(&ns1), open(&ns2)]).collect();
    refused(&ns1, "flow_limit");
    living.extend((0..128).map(|_| open(&ns3)));
    refused(&ns3, "flow_table_full");
    refused(&ns2, "flow_table_full");
    assert_eq!(host.flows("").len(), 1024);
    for client in &living {
        client.exchange(at(OUTSIDE, 53), b"the living live on");
    }
}
