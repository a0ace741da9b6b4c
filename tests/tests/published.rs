//! Published ports: reached from outside, with the client's own address.

use netbpf_tests::{
    Host, NS1, OUTSIDE, Options, UPLINK, at, sample,
    traffic::{Echo, TcpServer, UdpClient, UdpServer, connect, ping},
};
use std::net::{Ipv4Addr, SocketAddr};

/// Requirements: nat-14.
#[test]
fn a_published_port_leads_to_its_namespace_and_its_protocol_only() {
    for offloads in [true, false] {
        let host = Host::with(Options { offloads, ..Options::default() });
        host.up("--namespaces 2 -p 8080:ns1:80 -p 5353:ns2:53/udp");
        let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
        let _web = TcpServer::start(&ns1, 80);
        let dns = UdpServer::start(&ns2, 53);

        let mut client = connect(host.outside(), at(UPLINK, 8080)).expect("8080");
        assert_eq!(client.who_am_i().expect("an answer"), client.local());
        client.echo(&sample(50_000)).expect("echo");

        let asking = UdpClient::new(host.outside());
        for len in [0, 1, 1472] {
            asking.exchange(at(UPLINK, 5353), &sample(len));
        }
        let expected = SocketAddr::V4(at(OUTSIDE, asking.port()));
        assert!(dns.peers().iter().eq([&expected]), "{:?}", dns.peers());

        for port in [80, 5353, 8081] {
            assert!(connect(host.outside(), at(UPLINK, port)).is_err(), "TCP {port}");
        }
    }
}

/// Requirements: nat-14.
#[test]
fn a_published_range_leads_port_to_port() {
    let host = Host::new();
    host.up("--namespaces 2 -p 9000-9010:ns2:7000-7010/udp -p 9000-9010:ns2:7000-7010/tcp");
    let ns2 = host.ns("ns2");
    let tcp: Vec<_> = (7000..=7010).map(|port| TcpServer::start(&ns2, port)).collect();
    let udp: Vec<_> = (7000..=7010).map(|port| UdpServer::start(&ns2, port)).collect();
    for (offset, server) in (0..).zip(&udp) {
        let to = at(UPLINK, 9000 + offset);
        UdpClient::new(host.outside()).exchange(to, b"to this one");
        assert_eq!(server.peers().len(), 1, "{to} leads to {}", server.port());
        let mut client = connect(host.outside(), to).unwrap_or_else(|e| panic!("{to}: {e}"));
        client.echo(b"to that one").unwrap_or_else(|e| panic!("{to}: {e}"));
    }
    for port in [8999, 9011] {
        assert!(connect(host.outside(), at(UPLINK, port)).is_err(), "port {port}");
    }
    drop(tcp);
    assert!(connect(host.outside(), at(UPLINK, 9000)).is_err(), "nobody listens any more");
    let ranges = host.json("maps publish");
    let text = ranges.to_string();
    assert!(text.contains("9000") && text.contains("7000"), "{text}");
}

/// Requirements: nat-14.
#[test]
fn the_namespace_itself_is_not_reachable_by_its_own_address_from_outside() {
    let host = Host::new();
    host.up("--namespaces 1 -p 8080:ns1:80");
    let ns1 = host.ns("ns1");
    let _server = TcpServer::start(&ns1, 80);
    let udp = UdpServer::start(&ns1, 53);
    host.outside().ip(&format!("route add 172.19.0.0/24 via {UPLINK}"));
    let brief = Echo { patience: std::time::Duration::from_millis(300), ..Echo::default() };
    assert!(!ping(host.outside(), NS1, brief).is_reply());
    let client = UdpClient::new(host.outside());
    client.send(at(NS1, 53), b"knock").expect("send");
    // The published port still works: the answer comes after the knock was judged.
    connect(host.outside(), at(UPLINK, 8080)).expect("8080").echo(b"x").expect("echo");
    assert!(udp.peers().is_empty(), "{:?}", udp.peers());
    host.wait_dropped("", "not_published", 2);
    host.outside().ip("route del 172.19.0.0/24");
}

/// Requirements: nat-14.
#[test]
fn a_port_bound_to_an_address_is_published_there_only() {
    let host = Host::new();
    host.netns().ip("addr add 203.0.113.9/24 dev up0");
    host.up("--namespaces 1 -p 203.0.113.9:8080:ns1:80");
    let _server = TcpServer::start(&host.ns("ns1"), 80);
    let second = Ipv4Addr::new(203, 0, 113, 9);
    connect(host.outside(), at(second, 8080)).expect("there").echo(b"x").expect("echo");
    assert!(connect(host.outside(), at(UPLINK, 8080)).is_err(), "elsewhere");
    host.netbpf("down").ok();
    host.netns().ip("addr del 203.0.113.9/24 dev up0");
}

/// Requirements: nat-4, 5382-4.
#[test]
fn the_hosts_own_ports_stay_its_own() {
    let host = Host::new();
    host.up("--namespaces 1 -p 8080:ns1:80");
    let _ssh = TcpServer::start(host.netns(), 22);
    let mut client = connect(host.outside(), at(UPLINK, 22)).expect("the host's own server");
    assert_eq!(client.who_am_i().expect("an answer"), client.local());
    let out = TcpServer::start(host.outside(), 443);
    let mut client = connect(host.netns(), at(OUTSIDE, out.port())).expect("the host's client");
    client.echo(&sample(10_000)).expect("echo");
}
