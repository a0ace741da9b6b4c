//! Address translation: nobody gets anybody else's port, and answers find their way.

use netbpf_tests::{
    Host, OUTSIDE, UPLINK, at, reference,
    traffic::{Echo, TcpServer, UdpClient, UdpServer, connect, connect_from, ping},
};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    thread,
};

/// Any address of its own, with a port of its choice.
const fn any(port: u16) -> std::net::SocketAddrV4 {
    at(Ipv4Addr::UNSPECIFIED, port)
}

fn uplink_port(peer: &SocketAddr) -> u16 {
    assert_eq!(peer.ip(), UPLINK, "everybody comes from the uplink's address");
    peer.port()
}

/// Requirements: nat-4.
#[test]
fn the_hosts_sockets_keep_their_ports() {
    let host = Host::new();
    host.up("--namespaces 1");
    let (machine, ns1) = (host.netns(), host.ns("ns1"));
    let udp = UdpServer::start(host.outside(), 53);
    let _tcp = TcpServer::start(host.outside(), 80);

    // The host was first, and stays in possession.
    let own = UdpClient::on_port(machine, 5000);
    own.exchange(at(OUTSIDE, 53), b"the host's");
    let _listening = UdpServer::start(machine, 5001);
    let mut connection = connect_from(machine, any(5002), at(OUTSIDE, 80)).expect("connect");
    let _serving = TcpServer::start(machine, 5003);
    for port in [5000, 5001] {
        UdpClient::on_port(&ns1, port).exchange(at(OUTSIDE, 53), b"the namespace's");
    }
    // Linux knows connections, not who listens.
    let knows_listeners = !reference::skipped("ports on which the host listens");
    for port in [5002, 5003] {
        let mut theirs = connect_from(&ns1, any(port), at(OUTSIDE, 80)).expect("connect");
        let seen = uplink_port(&theirs.who_am_i().expect("an answer"));
        assert!(seen != port || port == 5003 && !knows_listeners, "{port} is the host's");
    }
    own.exchange(at(OUTSIDE, 53), b"the host's");
    connection.echo(b"the host's").expect("echo");
    let seen: Vec<u16> = udp.peers().iter().map(uplink_port).collect();
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen.contains(&5000), "{seen:?}");
    assert!(!(seen.contains(&5001) && knows_listeners), "{seen:?}");
    connect(host.outside(), at(UPLINK, 5003)).expect("the host's server").echo(b"x").expect("echo");
}

/// Requirements: nat-4.
#[test]
fn published_ports_are_nobodys_to_take() {
    if reference::skipped("published ports, which Linux gives out as any other") {
        return;
    }
    let host = Host::new();
    host.up("--namespaces 2 -p 8080-8089:ns1:80-89 -p 8080-8089:ns1:80-89/udp");
    let ns2 = host.ns("ns2");
    let udp = UdpServer::start(host.outside(), 53);
    let tcp = TcpServer::start(host.outside(), 80);
    for port in [8080, 8085, 8089] {
        UdpClient::on_port(&ns2, port).exchange(at(OUTSIDE, 53), b"hello");
        let mut client = connect_from(&ns2, any(port), at(OUTSIDE, tcp.port())).expect("connect");
        let seen = uplink_port(&client.who_am_i().expect("an answer"));
        assert!(!(8080..=8089).contains(&seen), "{seen}");
    }
    let taken = udp.peers().iter().map(uplink_port).find(|port| (8080..=8089).contains(port));
    assert_eq!(taken, None);
    // Just beside the range it is kept.
    UdpClient::on_port(&ns2, 8090).exchange(at(OUTSIDE, 53), b"hello");
    assert!(udp.peers().contains(&SocketAddr::V4(at(UPLINK, 8090))));
}

/// Requirements: 5508-1, 4787-3.
#[test]
fn pings_with_the_same_identifier_do_not_mix() {
    let host = Host::new();
    host.up("--namespaces 3");
    let echo = Echo { id: Some(7), ..Echo::default() };
    for _ in 0..3 {
        for name in ["ns1", "ns2", "ns3"] {
            assert!(ping(&host.ns(name), OUTSIDE, echo).is_reply(), "{name}");
        }
    }
}

/// Requirements: 4787-3.
#[test]
fn a_thousand_flows_have_a_thousand_ports() {
    let host = Host::new();
    host.up("--namespaces 2");
    let server = UdpServer::start(host.outside(), 53);
    let namespaces = ["ns1", "ns2"].map(|name| host.ns(name));
    // The same ports in both: each of the second has to give way.
    thread::scope(|scope| {
        for ns in &namespaces {
            scope.spawn(move || {
                for port in 20_000..20_500 {
                    UdpClient::on_port(ns, port).exchange(at(OUTSIDE, 53), ns.name().as_bytes());
                }
            });
        }
    });
    let ports: BTreeSet<u16> = server.peers().iter().map(uplink_port).collect();
    assert_eq!(ports.len(), 1000);
    assert_eq!(host.flows("--proto udp").len(), 1000);
}

/// Requirements: 4787-8, nat-6.
#[test]
fn nobody_outside_gets_in_by_somebody_elses_mapping() {
    let host = Host::new();
    host.up("--namespaces 1");
    let ns1 = host.ns("ns1");
    let _server = UdpServer::start_on(host.outside(), at(OUTSIDE, 53));
    let client = UdpClient::on_port(&ns1, 5000);
    client.exchange(at(OUTSIDE, 53), b"hello");
    // The same machine from another port, and another machine.
    let stranger = UdpClient::on_port(host.outside(), 54);
    stranger.send(at(UPLINK, 5000), b"from another port").expect("send");
    host.outside().ip("addr add 203.0.113.77/24 dev out0");
    let other = UdpClient::bound(host.outside(), at(Ipv4Addr::new(203, 0, 113, 77), 53));
    other.send(at(UPLINK, 5000), b"from another machine").expect("send");
    client.exchange(at(OUTSIDE, 53), b"the next thing to arrive");
    host.outside().ip("addr del 203.0.113.77/24 dev out0");
}

/// A host connection that is opened while a namespace has its very tuple.
///
/// Requirements: nat-4.
#[test]
fn a_host_connection_opened_later_works_as_well() {
    let host = Host::new();
    host.up("--namespaces 1");
    let (machine, ns1) = (host.netns(), host.ns("ns1"));
    let _server = UdpServer::start(host.outside(), 53);
    let theirs = UdpClient::on_port(&ns1, 5000);
    theirs.exchange(at(OUTSIDE, 53), b"the namespace was first");
    let own = UdpClient::on_port(machine, 5000);
    for _ in 0..3 {
        own.exchange(at(OUTSIDE, 53), b"the host's");
        theirs.exchange(at(OUTSIDE, 53), b"the namespace's");
    }
    let echo = Echo { id: Some(7), ..Echo::default() };
    for ns in [&ns1, machine, &ns1] {
        assert!(ping(ns, OUTSIDE, echo).is_reply(), "{}", ns.name());
    }
}
