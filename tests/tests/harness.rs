//! The harness itself, without netbpf: what it sends arrives, what it lists is there.

use netbpf_tests::{
    Listing, Netns, OUTSIDE, Sandbox, UPLINK, ethtool, nft, packet,
    traffic::{Echo, FrameSocket, Pong, TcpServer, UdpClient, UdpServer, connect, ping},
};
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

const LEFT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const RIGHT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

/// Two namespaces and a wire `w0` between them.
struct Wire {
    left: Netns,
    right: Netns,
}

impl Wire {
    fn new(offloads: bool) -> Self {
        let sandbox = Sandbox::new();
        let (left, right) = (Netns::create(&sandbox, "left"), Netns::create(&sandbox, "right"));
        left.ip("link add w0 type veth peer name w0 netns right");
        for (ns, addr) in [(&left, LEFT), (&right, RIGHT)] {
            if !offloads {
                ethtool::offloads_off(ns, "w0");
            }
            ns.ip(&format!("addr add {addr}/24 dev w0"));
            ns.ip("link set w0 up");
        }
        Self { left, right }
    }
}

#[test]
fn pings_of_all_sizes_are_answered_and_those_too_big_refused() {
    let wire = Wire::new(true);
    for size in [28, 84, 1500, 4000] {
        let pong = ping(&wire.left, RIGHT, Echo { size, ..Echo::default() });
        assert_eq!(pong, Pong::Reply(RIGHT, 64), "{size} bytes");
    }
    let big = Echo { size: 1501, dont_fragment: true, ..Echo::default() };
    assert!(matches!(ping(&wire.left, RIGHT, big), Pong::Refused(_)));
    let brief = Echo { patience: Duration::from_millis(200), ..Echo::default() };
    let nobody = Ipv4Addr::new(10, 1, 0, 3);
    assert!(!ping(&wire.left, nobody, brief).is_reply());
}

#[test]
fn udp_and_tcp_arrive_intact_with_and_without_offloads() {
    for offloads in [true, false] {
        let wire = Wire::new(offloads);
        let udp = UdpServer::start(&wire.right, 0);
        let client = UdpClient::new(&wire.left);
        client.exchange(SocketAddrV4::new(RIGHT, udp.port()), &[7; 1472]);
        let expected = SocketAddrV4::new(LEFT, client.port());
        assert!(udp.peers().contains(&expected.into()), "{:?}", udp.peers());

        let tcp = TcpServer::start(&wire.right, 0);
        let to = SocketAddrV4::new(RIGHT, tcp.port());
        let mut connection = connect(&wire.left, to).expect("connect");
        assert_eq!(connection.who_am_i().expect("an answer"), connection.local());
        connection.echo(b"hello").expect("echo");
        connection.upload(3_000_001).expect("upload");
        connection.download(3_000_001).expect("download");
        drop(tcp);
        assert!(connect(&wire.left, to).is_err(), "the server has gone");
    }
}

#[test]
fn frames_are_sent_and_captured_byte_for_byte() {
    let wire = Wire::new(false);
    let (near, far) = (FrameSocket::open(&wire.left, "w0"), FrameSocket::open(&wire.right, "w0"));
    let payload = packet::Ip::new(LEFT, RIGHT, packet::UDP).udp(5, 6, b"payload");
    let plain = packet::ethernet(packet::BROADCAST, wire.left.mac("w0"), packet::IPV4, &payload);
    let mut tagged = plain.clone();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    for frame in [&plain, &tagged] {
        near.send(frame).expect("send");
        far.find("the frame", |seen| (&seen.bytes == frame && !seen.outgoing).then_some(()));
    }
    ping(&wire.left, RIGHT, Echo::default());
    let reply = far.find("an echo reply", |seen| {
        seen.ip().filter(|ip| seen.outgoing && ip.proto == packet::ICMP)
    });
    assert!(reply.checksums_ok());
}

#[test]
fn without_offloads_a_wrong_checksum_is_noticed() {
    let wire = Wire::new(false);
    let server = UdpServer::start(&wire.right, 0);
    let raw = FrameSocket::open(&wire.left, "w0");
    let mut datagram = packet::Ip::new(LEFT, RIGHT, packet::UDP).udp(7000, server.port(), b"bad");
    *datagram.last_mut().expect("a byte") ^= 1;
    let (to, from) = (wire.right.mac("w0"), wire.left.mac("w0"));
    raw.send(&packet::ethernet(to, from, packet::IPV4, &datagram)).expect("send");
    UdpClient::new(&wire.left).exchange(SocketAddrV4::new(RIGHT, server.port()), b"good");
    assert_eq!(server.peers().len(), 1, "only the good one arrived");
}

#[test]
fn a_listing_shows_what_changed() {
    let wire = Wire::new(true);
    let list = || Listing::of_netns(&wire.left).and(Listing::of_sandbox(wire.left.sandbox()));
    let before = list();
    before.assert_same(&list());
    for (change, undo, shows) in [
        ("link add b0 type bridge", "link del b0", "link: "),
        ("addr add 10.9.0.1/32 dev lo", "addr del 10.9.0.1/32 dev lo", "address: "),
        ("route add 10.8.0.0/16 dev w0", "route del 10.8.0.0/16", "route: "),
        ("netns add another", "netns del another", "file: /run/netns/another"),
        ("link set w0 mtu 1300", "link set w0 mtu 1500", "mtu"),
        ("rule add from 10.7.0.1", "rule del from 10.7.0.1", "rule: "),
        (
            "neigh add 10.1.0.9 lladdr 02:00:00:00:00:09 dev w0",
            "neigh del 10.1.0.9 dev w0",
            "neighbour: ",
        ),
    ] {
        wire.left.ip(change);
        let changed = list();
        assert_ne!(before, changed, "{change}");
        assert!(!changed.with(shows).is_empty(), "{change}");
        wire.left.ip(undo);
        before.assert_same(&list());
    }
    wire.left.sysctl("net/ipv4/ip_forward", "1");
    assert_ne!(before, list(), "a sysctl");
}

#[test]
fn a_host_reaches_the_outside_and_tracks_connections_when_asked_to() {
    let sandbox = Sandbox::new();
    let (host, outside) = (Netns::create(&sandbox, "h"), Netns::create(&sandbox, "o"));
    host.ip("link add up0 type veth peer name out0 netns o");
    host.ip(&format!("addr add {UPLINK}/24 dev up0"));
    outside.ip(&format!("addr add {OUTSIDE}/24 dev out0"));
    host.ip("link set up0 up");
    outside.ip("link set out0 up");
    assert!(ping(&host, OUTSIDE, Echo::default()).is_reply());
    assert!(nft::tracked(&host).is_empty(), "nobody has asked for it");
    nft::track_connections(&host);
    assert!(ping(&host, OUTSIDE, Echo::default()).is_reply());
    assert!(nft::tracked(&host).iter().any(|line| line.contains("dst=203.0.113.2")));
    assert_eq!(nft::tables(&host), ["nft harness"]);
    nft::flush(&host);
    assert!(nft::tables(&host).is_empty());
    nft::drop_forwarded(&host);
    assert!(ping(&host, OUTSIDE, Echo::default()).is_reply(), "not forwarded, but sent");
}

#[test]
fn a_sandbox_dies_with_everything_in_it() {
    let sandbox = Sandbox::new();
    let made = Netns::create(&sandbox, "mortal");
    assert!(!std::path::Path::new("/run/netns/mortal").exists(), "the machine's own /run");
    assert!(Netns::try_open(&sandbox, "mortal").is_ok());
    assert!(Netns::try_open(&Sandbox::new(), "mortal").is_err(), "another sandbox");
    let mut child = made.command("sleep").arg("60").spawn().expect("start a process");
    netbpf_tests::wait::until_true("the process is inside", || sandbox.processes().len() == 1);
    child.kill().and_then(|()| child.wait()).expect("end it");
    assert!(sandbox.processes().is_empty());
}
