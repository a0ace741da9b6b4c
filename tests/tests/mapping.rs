//! Which outside port a socket gets, and whom it lets in.

use netbpf_tests::{
    Host, OUTSIDE, UPLINK, at,
    packet::{self, Ip},
    reference,
    traffic::{Puppet, TcpServer, UdpClient, UdpServer, connect_from},
};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
};

/// A second address outside.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

const fn any(port: u16) -> SocketAddrV4 {
    at(Ipv4Addr::UNSPECIFIED, port)
}

/// A host whose outside has a second address, until [`plain`].
fn host_with_more_outside() -> Host {
    let host = Host::new();
    host.outside().ip(&format!("addr add {ELSEWHERE}/24 dev out0"));
    host.up("--namespaces 2");
    host
}

fn plain(host: &Host) {
    host.outside().ip(&format!("addr del {ELSEWHERE}/24 dev out0"));
}

/// Destinations outside: two ports of one machine, and another machine.
const DESTINATIONS: [SocketAddrV4; 3] = destinations(53);

/// The same from some port on, so that servers of different rounds do not meet.
const fn destinations(port: u16) -> [SocketAddrV4; 3] {
    [at(OUTSIDE, port), at(OUTSIDE, port + 1), at(ELSEWHERE, port)]
}

/// The outside port from which all of `seen` come.
#[track_caller]
fn one_port(who: &str, seen: &BTreeSet<SocketAddr>) -> u16 {
    let ports: Vec<u16> = seen.iter().map(SocketAddr::port).collect();
    assert!(seen.iter().all(|peer| peer.ip() == UPLINK), "{who}: {seen:?}");
    assert_eq!(ports.len(), 1, "{who} has one port to everybody: {ports:?}");
    ports[0]
}

/// The ports that two namespaces get to all destinations, both from port `own`;
/// the servers listen from `port` on.
fn udp_ports(host: &Host, own: u16, port: u16) -> [u16; 2] {
    // Two namespaces, two rounds of servers: a server's peers are one client's.
    [("ns1", port), ("ns2", port + 2)].map(|(name, port)| {
        let others = destinations(port ^ 2);
        let servers = destinations(port).map(|to| UdpServer::start_on(host.outside(), to));
        let client = UdpClient::on_port(&host.ns(name), own);
        for _ in 0..2 {
            for to in destinations(port) {
                client.exchange(to, name.as_bytes());
            }
            // The other's destinations as well: there is the clash.
            for to in others {
                client.send(to, b"nobody has to answer").expect("send");
            }
        }
        let seen = servers.iter().flat_map(UdpServer::peers).collect();
        one_port(name, &seen)
    })
}

/// The second client has to give way, and does so once and for all.
///
/// Requirements: 4787-1, 4787-3, 4787-4, 4787-11.
#[test]
fn a_udp_socket_has_one_port_to_everybody_also_after_a_clash() {
    let host = host_with_more_outside();
    for (port, own) in (10_000..).step_by(4).zip([5000, 5001, 1024, 65535, 1023, 700]) {
        let [first, second] = udp_ports(&host, own, port);
        assert_eq!(first, own, "a free port is kept");
        assert_ne!(second, own, "it is somebody else's");
        if !reference::skipped("the parity of ports, which Linux does not mind") {
            assert_eq!(second % 2, own % 2, "parity of {own}, which became {second}");
        }
        assert_eq!(second < 1024, own < 1024, "class of {own}, which became {second}");
    }
    plain(&host);
}

/// Requirements: 5382-1, 5382-7, 4787-11.
#[test]
fn a_tcp_socket_has_one_port_to_everybody_also_after_a_clash() {
    let host = host_with_more_outside();
    let _servers = [53, 54].map(|port| TcpServer::start(host.outside(), port));
    let mut ports = Vec::new();
    // They are all open at once.
    let mut connections = Vec::new();
    for name in ["ns1", "ns2"] {
        let mut seen = BTreeSet::new();
        for to in DESTINATIONS {
            let mut connection = connect_from(&host.ns(name), any(6000), to)
                .unwrap_or_else(|e| panic!("{name} to {to}: {e}"));
            seen.insert(connection.who_am_i().expect("an answer"));
            connections.push(connection);
        }
        ports.push(one_port(name, &seen));
    }
    for connection in &mut connections {
        connection.echo(b"still there").expect("echo");
    }
    assert_eq!(ports[0], 6000, "a free port is kept");
    assert_ne!(ports[1], 6000, "it is somebody else's");
    drop(connections);
    plain(&host);
}

/// Where nobody is in the way, everybody keeps their port to all destinations.
///
/// Requirements: 4787-1, nat-6.
#[test]
fn a_free_port_is_kept_to_everybody() {
    let host = host_with_more_outside();
    let servers = DESTINATIONS.map(|to| UdpServer::start_on(host.outside(), to));
    for own in [80, 1023, 1024, 5000, 5001, 65535] {
        let client = UdpClient::on_port(&host.ns("ns1"), own);
        for to in DESTINATIONS {
            client.exchange(to, b"hello");
        }
        for server in &servers {
            assert!(server.peers().contains(&SocketAddr::V4(at(UPLINK, own))), "{own}");
        }
    }
    plain(&host);
}

/// The clients of the second kind are many, so that a choice that is always
/// the same, or the next one, would show.
///
/// Requirements: 7857-5, 6056.
#[test]
fn ports_that_are_not_kept_are_chosen_at_random() {
    let host = Host::new();
    host.up("--namespaces 2");
    let server = UdpServer::start(host.outside(), 53);
    let own: Vec<u16> = (20_000..20_064).collect();
    for name in ["ns1", "ns2"] {
        for port in &own {
            UdpClient::on_port(&host.ns(name), *port).exchange(at(OUTSIDE, 53), b"hello");
        }
    }
    let others: Vec<u16> =
        server.peers().iter().map(SocketAddr::port).filter(|port| !own.contains(port)).collect();
    assert_eq!(others.len(), 64, "{others:?}");
    // The peers come in the order of their ports: the gaps of a sequence are all alike,
    // and those of 64 random ports are of many sizes, from one end of the class to the other.
    let gaps: BTreeSet<u16> = others.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() > 16, "{others:?}");
    let (least, most) = (others[0], others[63]);
    assert!(most - least > 32_000, "{others:?}");
}

/// Only who was written to may answer: a SYN from anybody else is the host's,
/// whose stack refuses it.
///
/// Requirements: 5382-3, 5382-4, 5382-7.
#[test]
fn a_tcp_mapping_lets_nobody_else_in() {
    let host = Host::new();
    host.up("--namespaces 1");
    let ns1 = host.ns("ns1");
    let _server = TcpServer::start(host.outside(), 80);
    let mut connection = connect_from(&ns1, any(6000), at(OUTSIDE, 80)).expect("connect");
    assert_eq!(connection.who_am_i().expect("an answer"), SocketAddr::V4(at(UPLINK, 6000)));
    // Somebody listens on that port inside, and would answer.
    let listening = netbpf_tests::traffic::FrameSocket::open(&ns1, "eth0");
    let stranger = Puppet::outside(&host, ELSEWHERE);
    let syn = Ip::new(ELSEWHERE, UPLINK, packet::TCP);
    stranger.send(&syn.tcp(80, 6000, 2, 100, 0));
    let answer = stranger.receive("the host's refusal");
    assert_eq!(answer.payload[13], 4 | 16, "a reset: {answer:02x?}");
    let error = connect_from(host.outside(), any(81), at(UPLINK, 6000)).err();
    assert_eq!(error.map(|e| e.kind()), Some(std::io::ErrorKind::ConnectionRefused));
    connection.echo(b"the connection itself goes on").expect("echo");
    let inside = listening.captured();
    let got_in = inside
        .iter()
        .filter_map(netbpf_tests::traffic::Frame::ip)
        .any(|ip| ip.src == ELSEWHERE || (ip.src == OUTSIDE && ip.ports() != Some((80, 6000))));
    assert!(!got_in, "a stranger got in");
}
