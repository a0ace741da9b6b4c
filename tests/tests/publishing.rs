//! Published ports, asked for from everywhere; and from where they must not be.

use netbpf_tests::{
    GATEWAY, Host, NS1, NS2, Netns, OUTSIDE, UPLINK, at,
    packet::{self, Ip},
    reference, sample,
    traffic::{
        Echo, Frame, FrameSocket, TcpServer, UdpClient, UdpServer, connect, connect_from, ping,
    },
    wait,
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
};

/// A second address of the host, on the same uplink.
const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// Who asks, where, and what address the server sees.
struct Way<'a> {
    name: &'a str,
    from: &'a Netns,
    to: Ipv4Addr,
    seen_as: Ipv4Addr,
}

/// All the ways to what is published on every address of the host.
fn ways<'a>(host: &'a Host, ns1: &'a Netns, ns2: &'a Netns) -> Vec<Way<'a>> {
    let way = |name, from, to, seen_as| Way { name, from, to, seen_as };
    let mut ways = vec![
        way("outside", host.outside(), UPLINK, OUTSIDE),
        way("neighbour", ns2, UPLINK, UPLINK),
        way("itself", ns1, UPLINK, UPLINK),
        way("host", host.netns(), UPLINK, UPLINK),
        way("localhost", host.netns(), Ipv4Addr::LOCALHOST, GATEWAY),
    ];
    if !reference::skipped("publishing on the gateway's address") {
        ways.push(way("host by gateway", host.netns(), GATEWAY, GATEWAY));
    }
    ways
}

/// Takes the network down, so that the test can undo what it has done before that.
fn down(host: &Host) {
    if !reference::enabled() {
        host.netbpf("down").ok();
    }
}

const PUBLISHED: &str = "--namespaces 2 -p 8080:ns1:80 -p 8080:ns1:80/udp \
                         -p 9000-9010:ns1:7000-7010 -p 9000-9010:ns1:7000-7010/udp";

/// The server sees the client's own address from outside, and the external
/// address from inside, which is what the client has asked for.
///
/// Requirements: nat-14, 5382-8.
#[test]
fn tcp_from_everywhere() {
    let host = Host::new();
    host.up(PUBLISHED);
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let _servers = [80, 7000, 7005, 7010].map(|port| TcpServer::start(&ns1, port));
    for way in ways(&host, &ns1, &ns2) {
        for port in [8080, 9000, 9005, 9010] {
            let name = format!("{}, {port}", way.name);
            let mut client =
                connect(way.from, at(way.to, port)).unwrap_or_else(|e| panic!("{name}: {e}"));
            let seen = client.who_am_i().unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(seen.ip(), way.seen_as, "{name}");
            client.echo(b"hello").unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let mut client = connect(way.from, at(way.to, 8080)).expect(way.name);
        client.upload(4 << 20).unwrap_or_else(|e| panic!("{}: {e}", way.name));
        client.download(4 << 20).unwrap_or_else(|e| panic!("{}: {e}", way.name));
    }
}

/// TCP and UDP on the very same port; datagrams of all sizes.
///
/// Requirements: nat-14, 4787-9.
#[test]
fn udp_from_everywhere() {
    let host = Host::new();
    host.up(PUBLISHED);
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let _tcp = TcpServer::start(&ns1, 80);
    for way in ways(&host, &ns1, &ns2) {
        for (port, inside) in [(8080, 80), (9000, 7000), (9010, 7010)] {
            let server = UdpServer::start(&ns1, inside);
            let client = UdpClient::new(way.from);
            for len in [0, 1, 100, 1472] {
                client.exchange(at(way.to, port), &sample(len));
            }
            let seen: Vec<SocketAddr> = server.peers().into_iter().collect();
            assert_eq!(seen.len(), 1, "{}, {port}: {seen:?}", way.name);
            assert_eq!(seen[0].ip(), way.seen_as, "{}, {port}", way.name);
        }
        connect(way.from, at(way.to, 8080)).expect(way.name).echo(b"hello").expect(way.name);
    }
}

/// Larger than a frame: in fragments, or by an interface that takes more.
///
/// Requirements: nat-14, nat-10, 4787-14.
#[test]
fn large_datagrams_from_everywhere() {
    let host = Host::new();
    host.up(PUBLISHED);
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let _server = UdpServer::start(&ns1, 80);
    for way in ways(&host, &ns1, &ns2) {
        let client = UdpClient::new(way.from);
        for len in [1473, 4000, 20_000, 60_000] {
            client.send(at(way.to, 8080), &sample(len)).expect(way.name);
            let (answer, _) =
                client.receive().unwrap_or_else(|e| panic!("{}, {len} bytes: {e}", way.name));
            assert!(answer == sample(len), "{}, {len} bytes", way.name);
        }
    }
}

/// Two conversations by the same ports on both sides, by two ways.
///
/// Requirements: nat-14, 4787-9, 5382-8.
#[test]
fn clients_with_the_same_port_do_not_mix() {
    let host = Host::new();
    host.up(PUBLISHED);
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let server = UdpServer::start(&ns1, 80);
    let _web = TcpServer::start(&ns1, 80);
    let asking = [host.outside(), &ns2, &ns1, host.netns()];
    let any = at(Ipv4Addr::UNSPECIFIED, 5000);
    let clients = asking.map(|ns| UdpClient::on_port(ns, 5000));
    let mut connections = asking.map(|ns| {
        connect_from(ns, any, at(UPLINK, 8080)).unwrap_or_else(|_| panic!("{}", ns.name()))
    });
    for round in 0..3 {
        for (ns, client) in asking.iter().zip(&clients) {
            client.exchange(at(UPLINK, 8080), format!("{} {round}", ns.name()).as_bytes());
        }
        for (ns, connection) in asking.iter().zip(&mut connections) {
            connection
                .echo(format!("{} {round}", ns.name()).as_bytes())
                .unwrap_or_else(|_| panic!("{}", ns.name()));
        }
    }
    assert_eq!(server.peers().len(), 4, "{:?}", server.peers());
}

/// Requirements: nat-14.
#[test]
fn what_is_published_on_localhost_is_the_hosts_alone() {
    let host = Host::new();
    host.up("--namespaces 2 -p 127.0.0.1:8080:ns1:80 -p 127.0.0.1:8080:ns1:80/udp");
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let _web = TcpServer::start(&ns1, 80);
    let server = UdpServer::start(&ns1, 80);
    let localhost = at(Ipv4Addr::LOCALHOST, 8080);
    connect(host.netns(), localhost).expect("the host").echo(b"hello").expect("echo");
    UdpClient::new(host.netns()).exchange(localhost, &sample(8000));
    for (from, to) in [
        (host.netns(), UPLINK),
        (host.outside(), UPLINK),
        (&ns2, UPLINK),
        (&ns2, GATEWAY),
        (&ns1, UPLINK),
        (&ns2, Ipv4Addr::LOCALHOST),
    ] {
        let refused = connect(from, at(to, 8080)).err().map(|e| e.kind());
        assert_eq!(refused, Some(io::ErrorKind::ConnectionRefused), "{} by {to}", from.name());
    }
    // Nor by frames that nobody's stack would send, as in the bug that made this known.
    let inside = FrameSocket::open(&ns1, "eth0");
    let before = server.peers();
    let forged = |from: &Netns, interface: &str, gateway, src: Ipv4Addr| {
        let frames = FrameSocket::open(from, interface);
        for sport in 100..110 {
            let ip = Ip::new(src, Ipv4Addr::LOCALHOST, packet::UDP);
            for ip in [ip.udp(sport, 8080, b"forged"), ip.tcp(sport, 8080, 2, 1, 0)] {
                let frame = packet::ethernet(gateway, from.mac(interface), packet::IPV4, &ip);
                frames.send(&frame).expect("send");
            }
        }
    };
    if !reference::skipped("forged to 127.0.0.1, which plain DNAT lets in") {
        forged(host.outside(), "out0", host.netns().mac("up0"), OUTSIDE);
        forged(&ns2, "eth0", host.netns().mac("netbpf0"), NS2);
    }
    UdpClient::new(host.netns()).exchange(localhost, b"what comes last has come");
    let arrived = inside.captured();
    let is_forged = |ip: &packet::Seen| ip.dst == NS1 && ip.src != GATEWAY;
    let got_in = arrived.iter().filter_map(Frame::ip).find(is_forged);
    assert_eq!(got_in, None, "it got in");
    assert!(server.peers().len() <= before.len() + 1, "{:?}", server.peers());
}

/// Requirements: nat-14.
#[test]
fn what_is_published_on_one_address_is_on_no_other() {
    let host = Host::new();
    host.netns().ip(&format!("addr add {SECOND}/24 dev up0"));
    host.up("--namespaces 2 -p 203.0.113.1:8080:ns1:80 -p 203.0.113.9:8081:ns1:80");
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let _web = TcpServer::start(&ns1, 80);
    for from in [host.outside(), &ns2, host.netns()] {
        let is_hairpin = from.name() == "ns2";
        if is_hairpin && reference::skipped("hairpinning by a second address") {
            continue;
        }
        for (addr, port) in [(UPLINK, 8080), (SECOND, 8081)] {
            let mut client =
                connect(from, at(addr, port)).unwrap_or_else(|_| panic!("{}", from.name()));
            client.upload(100_000).unwrap_or_else(|_| panic!("{}", from.name()));
        }
        for (addr, port) in [(SECOND, 8080), (UPLINK, 8081), (GATEWAY, 8080)] {
            if addr == GATEWAY && from.name() == host.outside().name() {
                continue;
            }
            let refused = connect(from, at(addr, port)).err().map(|e| e.kind());
            let expected = Some(io::ErrorKind::ConnectionRefused);
            assert_eq!(refused, expected, "{} by {addr}:{port}", from.name());
        }
    }
    down(&host);
    host.netns().ip(&format!("addr del {SECOND}/24 dev up0"));
}

/// What a socket hears that has sent to a port where nobody listens.
fn refused(from: &Netns, to: SocketAddrV4) -> bool {
    let socket = from.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a socket");
    socket.connect(to).expect("connect");
    socket.set_read_timeout(Some(std::time::Duration::from_millis(100))).expect("a time-out");
    // The rate at which errors are told is limited.
    let is_refused = |e: &io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
    wait::until("the refusal", || {
        let sent = socket.send(b"is anybody there?");
        sent.and_then(|_| socket.recv(&mut [0; 100])).err().filter(is_refused)
    });
    true
}

/// Requirements: 5508-7, 5508-5, 4787-12, 5382-9.
#[test]
fn a_port_where_nobody_listens_is_told_to_everybody() {
    let host = Host::new();
    host.up(PUBLISHED);
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    for way in ways(&host, &ns1, &ns2) {
        assert!(refused(way.from, at(way.to, 8080)), "{}", way.name);
        let error = connect(way.from, at(way.to, 8080)).err().map(|e| e.kind());
        assert_eq!(error, Some(io::ErrorKind::ConnectionRefused), "{}", way.name);
    }
}

/// Two namespaces that know each other's outside ports, as by a rendezvous
/// server: each sends first to the other's, and from then on they talk.
///
/// Requirements: 4787-9.
#[test]
fn mappings_are_reached_from_inside() {
    let host = Host::new();
    host.up("--namespaces 2");
    let server = UdpServer::start(host.outside(), 53);
    let clients = ["ns1", "ns2"].map(|name| UdpClient::on_port(&host.ns(name), 5000));
    let mut ports = Vec::new();
    for client in &clients {
        client.exchange(at(OUTSIDE, 53), b"here I am");
        let known = server.peers().into_iter().map(|peer| peer.port());
        let new = known.filter(|port| !ports.contains(port)).collect::<Vec<_>>();
        ports.extend(new);
    }
    assert_eq!(ports.len(), 2, "{ports:?}");
    if reference::skipped("hairpinning without anything published") {
        return;
    }
    let others = [at(UPLINK, ports[1]), at(UPLINK, ports[0])];
    wait::until_true("both have opened their side", || {
        for (client, other) in clients.iter().zip(others) {
            client.send(other, b"knock").expect("send");
        }
        clients.iter().all(|client| client.receive_brief().is_some())
    });
    for (client, other, listener, from) in [
        (&clients[0], others[0], &clients[1], others[1]),
        (&clients[1], others[1], &clients[0], others[0]),
    ] {
        client.send(other, b"hello").expect("send");
        wait::until_true("it arrives, from the outside address", || {
            let (data, seen) = listener.receive().expect("it arrives");
            assert_eq!(seen, SocketAddr::V4(from));
            data == b"hello"
        });
    }
}

/// `lo` has to let in what it would not: only for as long as there is a network.
///
/// Requirements: nat-14.
#[test]
fn the_settings_of_lo_are_put_back() {
    for (sysctl, value) in
        [("accept_local", "0"), ("route_localnet", "0"), ("accept_local", "1"), ("rp_filter", "2")]
    {
        let host = Host::new();
        let path = format!("net/ipv4/conf/lo/{sysctl}");
        let read = || host.netns().read(&format!("/proc/sys/{path}"));
        let before = read();
        host.netns().sysctl(&path, value);
        host.up("--namespaces 1 -p 8080:ns1:80");
        let _web = TcpServer::start(&host.ns("ns1"), 80);
        for addr in [UPLINK, Ipv4Addr::LOCALHOST] {
            connect(host.netns(), at(addr, 8080)).expect(sysctl).echo(b"x").expect(sysctl);
        }
        down(&host);
        if !reference::enabled() {
            assert_eq!(read().trim(), value, "{sysctl} is theirs");
        }
        host.netns().sysctl(&path, before.trim());
    }
}

/// By the uplink's side, and by any other: not unless somebody inside has asked.
///
/// Requirements: nat-14, nat-15.
#[test]
fn no_way_in_by_routing_to_a_namespaces_address() {
    let host = Host::new();
    host.up("--namespaces 1 -p 8080:ns1:80 -p 8080:ns1:80/udp");
    let ns1 = host.ns("ns1");
    let _web = TcpServer::start(&ns1, 80);
    let server = UdpServer::start(&ns1, 80);
    host.outside().ip(&format!("route add 172.19.0.0/24 via {UPLINK}"));
    let capture = FrameSocket::open(&ns1, "eth0");
    let frames = FrameSocket::open(host.outside(), "out0");
    for port in [80, 8080, 1, 65535] {
        for ip in [
            Ip::new(OUTSIDE, NS1, packet::UDP).udp(100, port, b"knock"),
            Ip::new(OUTSIDE, NS1, packet::TCP).tcp(100, port, 2, 1, 0),
            Ip::new(OUTSIDE, NS1, packet::TCP).tcp(101, port, 16, 1, 1),
            Ip::new(OUTSIDE, NS1, packet::ICMP).icmp(8, 0, [0, 1, 0, 1], b"knock"),
            Ip { proto: 47, ..Ip::new(OUTSIDE, NS1, 47) }.packet(&[0; 8]),
            Ip { fragment: 0x2000, ..Ip::new(OUTSIDE, NS1, packet::UDP) }.packet(&[0; 16]),
        ] {
            let (to, from) = (host.netns().mac("up0"), host.outside().mac("out0"));
            frames.send(&packet::ethernet(to, from, packet::IPV4, &ip)).expect("send");
        }
    }
    UdpClient::on_port(host.outside(), 200).exchange(at(UPLINK, 8080), b"by the published port");
    let arrived = capture.captured();
    let known = |port: Option<(u16, u16)>| port == Some((200, 80));
    let stranger = arrived
        .iter()
        .filter_map(Frame::ip)
        .find(|ip| ip.src == OUTSIDE && ip.dst == NS1 && !known(ip.ports()));
    assert_eq!(stranger, None, "it got in");
    assert_eq!(server.peers().len(), 1, "{:?}", server.peers());
    host.outside().ip("route del 172.19.0.0/24");
}

/// The same, asked for: who has a route gets in, and is answered from the
/// namespace's own address. What goes out unasked is translated all the same.
///
/// Requirements: nat-14.
#[test]
fn a_routed_network_is_reached_by_its_own_addresses() {
    if reference::skipped("networks that are routed") {
        return;
    }
    let host = Host::new();
    host.up("--namespaces 2 --routed -p 8080:ns1:80");
    let ns1 = host.ns("ns1");
    let _web = TcpServer::start(&ns1, 80);
    let udp = UdpServer::start(&ns1, 53);
    host.outside().ip(&format!("route add 172.19.0.0/24 via {UPLINK}"));
    let mut direct = connect(host.outside(), at(NS1, 80)).expect("by its own address");
    assert_eq!(direct.who_am_i().expect("an answer"), direct.local());
    direct.upload(1 << 20).expect("upload");
    direct.download(1 << 20).expect("download");
    let client = UdpClient::new(host.outside());
    client.exchange(at(NS1, 53), &sample(1472));
    let expected = SocketAddr::V4(at(OUTSIDE, client.port()));
    assert!(udp.peers().contains(&expected), "{:?}", udp.peers());
    assert!(ping(host.outside(), NS1, Echo::default()).is_reply());
    connect(host.outside(), at(UPLINK, 8080)).expect("published as well").echo(b"x").expect("x");
    let beyond = UdpServer::start(host.outside(), 53);
    UdpClient::on_port(&ns1, 5000).exchange(at(OUTSIDE, 53), b"hello");
    let seen: Vec<SocketAddr> = beyond.peers().into_iter().collect();
    assert_eq!(seen, [SocketAddr::V4(at(UPLINK, 5000))]);
    host.outside().ip("route del 172.19.0.0/24");
}
