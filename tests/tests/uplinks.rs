//! More than one uplink, uplinks of other kinds, and uplinks that change.

use netbpf_tests::{
    Host, NS1, Netns, OUTSIDE, Options, UPLINK, at, packet, reference, sample,
    traffic::{
        Echo, Frame, FrameSocket, TcpServer, UdpClient, UdpServer, connect, connect_from, ping,
    },
    wait,
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

/// The host's address on the second uplink, and the machine beyond it.
const UPLINK_1: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE_1: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Reached by a route: both outsides have it.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Another outside, beyond an uplink `up1`; gone when dropped.
struct Second {
    machine: Netns,
    outside: Netns,
}

impl Second {
    fn new(host: &Host) -> Self {
        let machine = host.netns().clone();
        let outside = Netns::create(host.sandbox(), "second-outside");
        for outside in [host.outside(), &outside] {
            outside.ip(&format!("addr add {FAR}/32 dev lo"));
        }
        let second = Self { machine, outside };
        second.make_uplink();
        second
    }

    fn make_uplink(&self) {
        let Self { machine, outside } = self;
        machine.ip("link add up1 type veth peer name out1 netns second-outside");
        machine.ip(&format!("addr add {UPLINK_1}/24 dev up1"));
        outside.ip(&format!("addr add {OUTSIDE_1}/24 dev out1"));
        machine.ip("link set up1 up");
        outside.ip("link set out1 up");
        machine.wait_up("up1");
    }

    /// What this has changed is undone, after the network has been taken down.
    fn remove(self, host: &Host) {
        down(host);
        host.outside().ip(&format!("addr del {FAR}/32 dev lo"));
        self.machine.ip("link del up1");
        self.machine.ip("netns del second-outside");
    }
}

/// Takes the network down, so that the test can undo what it has done before that.
fn down(host: &Host) {
    if !reference::enabled() {
        host.netbpf("down").ok();
    }
}

/// The one peer that a server has seen.
#[track_caller]
fn only_peer(server: &UdpServer) -> SocketAddr {
    let peers: Vec<_> = server.peers().into_iter().collect();
    assert_eq!(peers.len(), 1, "{peers:?}");
    peers[0]
}

/// Each destination leaves as the host's routes say, with that uplink's address;
/// a published port is one on both.
///
/// Requirements: nat-14, nat-15.
#[test]
fn two_uplinks_each_with_its_own_address() {
    let host = Host::new();
    let second = Second::new(&host);
    host.up("--uplink up1 --namespaces 2 -p 8080:ns1:80 -p 8080:ns1:80/udp");
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let _web = TcpServer::start(&ns1, 80);
    let udp = UdpServer::start(&ns1, 80);
    for (outside, to, own) in
        [(host.outside(), OUTSIDE, UPLINK), (&second.outside, OUTSIDE_1, UPLINK_1)]
    {
        assert!(ping(&ns1, to, Echo::default()).is_reply(), "ping {to}");
        let server = UdpServer::start(outside, 53);
        UdpClient::on_port(&ns1, 5000).exchange(at(to, 53), &sample(1472));
        assert_eq!(only_peer(&server), SocketAddr::V4(at(own, 5000)));
        let _tcp = TcpServer::start(outside, 80);
        let mut client = connect(&ns1, at(to, 80)).expect("connect");
        assert_eq!(client.who_am_i().expect("an answer").ip(), own);
        client.upload(1 << 20).expect("upload");
        client.download(1 << 20).expect("download");

        let mut inwards = connect(outside, at(own, 8080)).expect("the published port");
        assert_eq!(inwards.who_am_i().expect("an answer"), inwards.local());
        inwards.download(1 << 20).expect("download");
        UdpClient::new(outside).exchange(at(own, 8080), b"hello");
        if !(own == UPLINK_1 && reference::skipped("hairpinning by the second uplink")) {
            let mut around = connect(&ns2, at(own, 8080)).expect("hairpinned");
            assert_eq!(around.who_am_i().expect("an answer").ip(), own);
        }
    }
    let seen: Vec<_> = udp.peers().iter().map(SocketAddr::ip).collect();
    assert!(seen.contains(&OUTSIDE.into()) && seen.contains(&OUTSIDE_1.into()), "{seen:?}");
    drop(ns2);
    second.remove(&host);
}

/// Nothing guards an interface that has been made anew, whatever its name: before the next
/// `up` it gets nothing. After that it is the uplink.
///
/// Requirements: nat-15.
#[test]
fn an_uplink_that_was_made_again_gets_nothing_untranslated() {
    let host = Host::new();
    let second = Second::new(&host);
    let to_far = format!("route add {FAR}/32 via {OUTSIDE_1}");
    host.netns().ip(&to_far);
    let network = "--uplink up1 --namespaces 1 -p 8080:ns1:80";
    host.up(network);
    let ns1 = host.ns("ns1");
    let server = UdpServer::start_on(&second.outside, at(FAR, 53));
    let clients = [5000, 5001].map(|port| UdpClient::on_port(&ns1, port));
    clients[0].exchange(at(FAR, 53), b"by the uplink");

    second.machine.ip("link del up1");
    second.make_uplink();
    host.netns().ip(&to_far);
    let lookout = FrameSocket::open(&second.outside, "out1");
    if !reference::skipped("what is counted until the network is told of its uplink") {
        // The flow that there is notices within half a second.
        for client in &clients {
            let before = host.dropped("ns1", "private_source");
            wait::until_true("what nobody translates is dropped", || {
                client.send(at(FAR, 53), b"by nothing").expect("send");
                host.dropped("ns1", "private_source") > before
            });
        }
        assert!(ping(&ns1, OUTSIDE, Echo::default()).is_reply(), "the other uplink serves");
        host.up(network);
    }
    for client in &clients {
        client.exchange(at(FAR, 53), b"by the uplink again");
    }
    let leaked = |frame: &Frame| frame.ip().is_some_and(|ip| ip.src == NS1);
    assert!(!lookout.captured().iter().any(leaked), "it left untranslated");
    assert!(server.peers().iter().all(|peer| peer.ip() == UPLINK_1), "{:?}", server.peers());
    let _web = TcpServer::start(&ns1, 80);
    let mut inwards = connect(&second.outside, at(UPLINK_1, 8080)).expect("the published port");
    inwards.echo(b"hello").expect("echo");
    second.remove(&host);
}

/// What is new goes the new way at once; what runs does so soon, as far as it can:
/// with the new address, which a datagram's server takes for a new client.
///
/// Requirements: nat-15, nat-5.
#[test]
fn a_route_that_moves_is_followed() {
    let host = Host::new();
    let second = Second::new(&host);
    host.netns().ip(&format!("route add {FAR}/32 via {OUTSIDE}"));
    host.up("--uplink up1 --namespaces 1");
    let ns1 = host.ns("ns1");
    let servers =
        [host.outside(), &second.outside].map(|outside| UdpServer::start_on(outside, at(FAR, 53)));
    let client = UdpClient::on_port(&ns1, 5000);
    client.exchange(at(FAR, 53), b"by the first");
    assert_eq!(only_peer(&servers[0]), SocketAddr::V4(at(UPLINK, 5000)));
    let captures =
        [FrameSocket::open(host.outside(), "out0"), FrameSocket::open(&second.outside, "out1")];

    host.netns().ip(&format!("route replace {FAR}/32 via {OUTSIDE_1}"));
    UdpClient::on_port(&ns1, 5001).exchange(at(FAR, 53), b"by the second");
    assert_eq!(only_peer(&servers[1]), SocketAddr::V4(at(UPLINK_1, 5001)));
    if !reference::skipped("flows that live follow a route") {
        wait::until_true("the flow has followed the route", || {
            client.send(at(FAR, 53), b"by whichever").expect("send");
            let followed = SocketAddr::V4(at(UPLINK_1, 5000));
            client.receive_brief().is_some() && servers[1].peers().contains(&followed)
        });
    }
    // No uplink has seen an address that is not its own.
    for (capture, own) in captures.iter().zip([UPLINK, UPLINK_1]) {
        for ip in capture.captured().iter().filter(|f| !f.outgoing).filter_map(Frame::ip) {
            let is_foreign = ip.src != own && !reference::enabled();
            assert!(!is_foreign, "left by the wrong uplink: {ip:02x?}");
        }
    }
    host.netns().ip(&format!("route del {FAR}/32"));
    second.remove(&host);
}

/// A connection cannot live on with another address: its client is told so. What
/// is new has the new address.
///
/// Requirements: nat-15.
#[test]
fn an_address_that_changes_is_followed() {
    const NEW: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 8);
    let host = Host::new();
    host.up("--namespaces 1 -p 8080:ns1:80");
    let ns1 = host.ns("ns1");
    let server = UdpServer::start(host.outside(), 53);
    let _web = TcpServer::start(host.outside(), 80);
    let _inside = TcpServer::start(&ns1, 80);
    let client = UdpClient::on_port(&ns1, 5000);
    client.exchange(at(OUTSIDE, 53), b"from the old");
    let mut old = connect(&ns1, at(OUTSIDE, 80)).expect("connect");
    old.echo(b"from the old").expect("echo");

    host.netns().ip(&format!("addr add {NEW}/24 dev up0"));
    host.netns().ip(&format!("addr del {UPLINK}/24 dev up0"));
    let route = |addr| {
        host.netns().ip(&format!("addr replace {addr}/24 dev up0"));
        host.netns().ip(&format!("route replace default via {OUTSIDE}"));
    };
    route(NEW);
    let mut new = connect_from(&ns1, at(Ipv4Addr::UNSPECIFIED, 7000), at(OUTSIDE, 80))
        .expect("a new connection");
    assert_eq!(new.who_am_i().expect("an answer").ip(), NEW);
    if !reference::skipped("flows that live follow an address") {
        wait::until_true("datagrams come from the new address", || {
            client.send(at(OUTSIDE, 53), b"from the new").expect("send");
            client.receive_brief().is_some() && server.peers().iter().any(|peer| peer.ip() == NEW)
        });
        // Whoever waits for an answer hears at last that there will be none.
        let ended = wait::until("the old connection ends", || old.echo(b"hello?").err());
        assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset);
        let mut inwards = connect(host.outside(), at(NEW, 8080)).expect("published there now");
        inwards.echo(b"hello").expect("echo");
    }
    new.echo(b"still there").expect("echo");
    drop((new, old));
    down(&host);
    host.netns().ip(&format!("addr del {NEW}/24 dev up0"));
    route(UPLINK);
}

/// The source is what the route says, not the first address that there is.
///
/// Requirements: nat-15.
#[test]
fn two_subnets_on_one_uplink() {
    let host = Host::new();
    host.netns().ip(&format!("addr add {UPLINK_1}/24 dev up0"));
    host.outside().ip(&format!("addr add {OUTSIDE_1}/24 dev out0"));
    host.outside().ip(&format!("addr add {FAR}/32 dev lo"));
    host.netns().ip(&format!("route add {FAR}/32 via {OUTSIDE} src {UPLINK_1}"));
    host.up("--namespaces 1 -p 8080:ns1:80");
    let ns1 = host.ns("ns1");
    let _web = TcpServer::start(&ns1, 80);
    for (to, own) in [(OUTSIDE, UPLINK), (OUTSIDE_1, UPLINK_1), (FAR, UPLINK_1)] {
        // MASQUERADE takes the first address that fits the next hop.
        if to == FAR && reference::skipped("the source that a route names") {
            continue;
        }
        let server = UdpServer::start_on(host.outside(), at(to, 53));
        UdpClient::on_port(&ns1, 5000).exchange(at(to, 53), b"hello");
        assert_eq!(only_peer(&server), SocketAddr::V4(at(own, 5000)), "{to}");
        assert!(ping(&ns1, to, Echo::default()).is_reply(), "ping {to}");
    }
    let addresses = if reference::enabled() { &[UPLINK][..] } else { &[UPLINK, UPLINK_1] };
    for own in addresses {
        connect(host.outside(), at(*own, 8080)).expect("published").echo(b"hello").expect("echo");
    }
    down(&host);
    host.netns().ip(&format!("route del {FAR}/32"));
    host.netns().ip(&format!("addr del {UPLINK_1}/24 dev up0"));
    host.outside().ip(&format!("addr del {OUTSIDE_1}/24 dev out0"));
    host.outside().ip(&format!("addr del {FAR}/32 dev lo"));
}

/// Requirements: nat-9, 4787-13.
#[test]
fn uplinks_with_large_and_small_frames() {
    for mtu in [9000, 1280] {
        let host = Host::with(Options { mtu, ..Options::default() });
        host.up("--namespaces 1 -p 8080:ns1:80 -p 8080:ns1:80/udp");
        let ns1 = host.ns("ns1");
        assert_eq!(ns1.link("eth0")["mtu"], mtu, "the uplink's, if nothing else is said");
        let (_web, _far) = (TcpServer::start(&ns1, 80), TcpServer::start(host.outside(), 80));
        let _udp = [&ns1, host.outside()].map(|ns| UdpServer::start(ns, 53));
        let size = mtu as usize;
        let whole = Echo { size, dont_fragment: true, ..Echo::default() };
        assert!(ping(&ns1, OUTSIDE, whole).is_reply(), "{mtu} bytes in one frame");
        UdpClient::new(&ns1).exchange(at(OUTSIDE, 53), &sample(size - 28));
        for (from, to) in [(&ns1, at(OUTSIDE, 80)), (host.outside(), at(UPLINK, 8080))] {
            let mut client = connect(from, to).expect("connect");
            client.upload(4 << 20).unwrap_or_else(|e| panic!("{mtu}, to {to}: {e}"));
            client.download(4 << 20).unwrap_or_else(|e| panic!("{mtu}, from {to}: {e}"));
        }
    }
}

/// The router is replaced by another with its address, which announces itself.
///
/// Requirements: nat-6.
#[test]
fn a_router_that_announces_a_new_mac_is_followed() {
    let host = Host::new();
    host.up("--namespaces 1");
    let ns1 = host.ns("ns1");
    let server = UdpServer::start(host.outside(), 53);
    let _web = TcpServer::start(host.outside(), 80);
    let client = UdpClient::new(&ns1);
    client.exchange(at(OUTSIDE, 53), b"before");
    let mut connection = connect(&ns1, at(OUTSIDE, 80)).expect("connect");
    connection.echo(b"before").expect("echo");
    let old = host.outside().link("out0")["address"].as_str().expect("a MAC").to_owned();
    for mac in ["02:00:00:00:77:01", &old] {
        host.outside().ip(&format!("link set out0 address {mac}"));
        let own = host.outside().mac("out0");
        let said = packet::arp(1, (own, OUTSIDE), (packet::BROADCAST, OUTSIDE));
        let frame = packet::ethernet(packet::BROADCAST, own, packet::ARP, &said);
        let frames = FrameSocket::open(host.outside(), "out0");
        wait::until_true("the flow goes to the new MAC", || {
            frames.send(&frame).expect("announce");
            client.send(at(OUTSIDE, 53), mac.as_bytes()).expect("send");
            client.receive_brief().is_some_and(|answer| answer == mac.as_bytes())
        });
        connection.echo(mac.as_bytes()).expect("the connection goes on");
    }
    assert_eq!(server.peers().len(), 1, "the same flow as before");
}
