//! No namespace can pass for another, for the gateway or for the host.

use netbpf_tests::{
    GATEWAY, Host, NS1, NS2, NS3, Netns, OUTSIDE, UPLINK, at, packet,
    traffic::{Echo, FrameSocket, UdpClient, UdpServer, ping},
};
use packet::{BROADCAST, IPV4, Ip, Mac, UDP};
use std::net::Ipv4Addr;

/// Two namespaces, one of which is up to no good.
struct Scene {
    host: Host,
    ns1: Netns,
    ns2: Netns,
    /// What ns1 sends with.
    raw: FrameSocket,
    mac1: Mac,
    mac2: Mac,
    gateway: Mac,
}

impl Scene {
    fn new(arguments: &str) -> Self {
        let host = Host::new();
        host.up(&format!("--namespaces 3 {arguments}"));
        let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
        let raw = FrameSocket::open(&ns1, "eth0");
        let (mac1, mac2) = (ns1.mac("eth0"), ns2.mac("eth0"));
        let gateway = host.netns().mac("netbpf0");
        Self { host, ns1, ns2, raw, mac1, mac2, gateway }
    }

    /// Sends the frame from ns1; it must be counted as dropped for that reason.
    #[track_caller]
    fn assert_dropped(&self, what: &str, frame: &[u8], reason: &str) {
        let before = self.host.dropped("ns1", reason);
        self.raw.send(frame).unwrap_or_else(|e| panic!("{what}: {e}"));
        self.host.wait_dropped("ns1", reason, before + 1);
    }
}

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 7);
const SPOOFED: &[u8] = b"you should not see this";

fn udp(src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    Ip::new(src, dst, UDP).udp(1111, 2222, SPOOFED)
}

#[test]
fn forged_packets_are_dropped_and_counted_by_reason() {
    let scene = Scene::new("");
    let Scene { mac1, mac2, gateway, .. } = scene;
    let arrivals = [
        FrameSocket::open(&scene.ns2, "eth0"),
        FrameSocket::open(&scene.host.ns("ns3"), "eth0"),
        FrameSocket::open(scene.host.outside(), "out0"),
    ];
    let frame = |dst, src, ip: &[u8]| packet::ethernet(dst, src, IPV4, ip);
    for (what, bytes, reason) in [
        ("ns2's MAC", frame(gateway, mac2, &udp(NS1, OUTSIDE)), "source_mac"),
        ("ns2's MAC to ns3", frame(BROADCAST, mac2, &udp(NS1, NS3)), "source_mac"),
        ("the gateway's MAC", frame(mac2, gateway, &udp(NS1, NS2)), "source_mac"),
        ("a multicast MAC", frame(mac2, [3, 0, 0, 0, 0, 1], &udp(NS1, NS2)), "source_mac"),
        ("own address, foreign MAC", frame(mac2, [2, 9, 9, 9, 9, 9], &udp(NS1, NS2)), "source_mac"),
        ("ns2's address", frame(gateway, mac1, &udp(NS2, OUTSIDE)), "source_address"),
        ("ns2's address to ns2", frame(mac2, mac1, &udp(NS2, NS2)), "source_address"),
        ("the gateway's address", frame(mac2, mac1, &udp(GATEWAY, NS2)), "source_address"),
        ("the uplink's address", frame(mac2, mac1, &udp(UPLINK, NS2)), "source_address"),
        ("the uplink's, outwards", frame(gateway, mac1, &udp(UPLINK, OUTSIDE)), "source_address"),
        ("a foreign address", frame(gateway, mac1, &udp(ELSEWHERE, OUTSIDE)), "source_address"),
        ("a foreign one to ns2", frame(mac2, mac1, &udp(ELSEWHERE, NS2)), "source_address"),
        ("loopback", frame(mac2, mac1, &udp(Ipv4Addr::LOCALHOST, NS2)), "source_address"),
        ("to all", frame(BROADCAST, mac1, &udp(NS2, Ipv4Addr::BROADCAST)), "source_address"),
    ] {
        scene.assert_dropped(what, &bytes, reason);
    }
    for (capture, name) in arrivals.iter().zip(["ns2", "ns3", "outside"]) {
        let seen = capture.captured();
        let spoofed = seen.iter().find(|f| f.bytes.windows(SPOOFED.len()).any(|w| w == SPOOFED));
        assert!(spoofed.is_none(), "arrived in {name}: {spoofed:02x?}");
    }
    assert!(ping(&scene.ns1, NS2, Echo::default()).is_reply(), "honest traffic goes on");
    assert!(ping(&scene.ns1, OUTSIDE, Echo::default()).is_reply(), "honest traffic goes on");
}

#[test]
fn forged_arp_is_dropped_and_believed_by_nobody() {
    let scene = Scene::new("");
    let Scene { mac1, mac2, .. } = scene;
    scene.ns2.ip("neigh flush nud all dev eth0");
    for (what, op, mac, addr) in [
        ("ns1 is the gateway, answer", 2, mac1, GATEWAY),
        ("ns1 is the gateway, question", 1, mac1, GATEWAY),
        ("ns1 is ns3", 2, mac1, NS3),
        ("somebody else is ns1", 2, [2, 9, 9, 9, 9, 9], NS1),
    ] {
        let body = packet::arp(op, (mac, addr), (mac2, NS2));
        for dst in [mac2, BROADCAST] {
            let frame = packet::ethernet(dst, mac1, packet::ARP, &body);
            scene.assert_dropped(what, &frame, "arp_spoof");
        }
    }
    assert!(ping(&scene.ns2, GATEWAY, Echo::default()).is_reply());
    let neighbours = scene.ns2.ip("neigh show");
    let forged = mac1.map(|byte| format!("{byte:02x}")).join(":");
    assert!(!neighbours.contains(&forged), "{neighbours}");
}

#[test]
fn a_strict_guard_allows_nothing_but_ones_own() {
    let scene = Scene::new("--source-guard strict");
    let Scene { mac1, mac2, .. } = scene;
    let second = Ipv4Addr::new(172, 19, 0, 77);
    let frame = packet::ethernet(mac2, mac1, IPV4, &udp(second, NS2));
    scene.assert_dropped("a second address", &frame, "source_address");
    let frame = packet::ethernet(mac2, [2, 9, 9, 9, 9, 9], IPV4, &udp(second, NS2));
    scene.assert_dropped("a second MAC", &frame, "source_mac");
    assert!(ping(&scene.ns1, NS2, Echo::default()).is_reply());
}

/// A small generator: the storm is the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.roll(256)).expect("below 256")
    }

    fn word(&mut self) -> u16 {
        u16::try_from(self.roll(65536)).expect("below 65536")
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        let index = usize::try_from(self.roll(from.len() as u64)).expect("an index");
        from[index].clone()
    }

    /// The usual thing most of the time, one of the others now and then.
    fn mostly<T: Clone>(&mut self, usual: T, odd: &[T]) -> T {
        if self.roll(8) == 0 { self.pick(odd) } else { usual }
    }

    /// A packet that is odd in one way or another, or in none.
    fn packet(&mut self) -> Vec<u8> {
        let src = self.mostly(NS1, &[NS2, GATEWAY, ELSEWHERE, Ipv4Addr::UNSPECIFIED]);
        let far = Ipv4Addr::new(198, 51, 100, self.byte());
        let dst = self.mostly(OUTSIDE, &[far, far, UPLINK, Ipv4Addr::new(224, 0, 0, 251)]);
        let ip = Ip {
            ttl: self.mostly(64, &[0, 1, 2, 255]),
            fragment: self.mostly(0, &[0x4000, 0x2000, 0x2001, 0x0010, 0x8000]),
            options: self.mostly(vec![], &[vec![1; 4], vec![0; 40], vec![7, 39, 4, 0]]),
            id: self.word(),
            ..Ip::new(src, dst, UDP)
        };
        let quote = Ip::new(dst, src, UDP).udp(self.word(), self.word(), b"quoted");
        let (sport, dport) = (self.word(), self.word());
        let seq = u32::from(self.word());
        match self.roll(8) {
            0 | 1 => ip.udp(sport, dport, b"data"),
            2 => ip.tcp(sport, dport, self.byte(), seq, seq),
            3 => ip.icmp(self.pick(&[3, 4, 5, 11, 12]), self.byte() % 16, [0; 4], &quote),
            4 => ip.icmp(self.pick(&[0, 8, 8, 13, 17]), 0, [0, 1, 0, 2], b"data"),
            5 => Ip { proto: self.byte(), ..ip }.packet(&quote),
            6 => Ip { proto: 4, ..ip }.packet(&quote),
            _ => Ip { proto: self.pick(&[1, 6, 17]), ..ip }.packet(&[0; 3]),
        }
    }

    /// A frame with such a packet, sometimes broken in a way of its own.
    fn frame(&mut self, dst: Mac, src: Mac) -> Vec<u8> {
        let mut ip = self.packet();
        match self.roll(24) {
            0 => ip[0] = self.byte(),
            1 => ip[2] = self.byte(),
            2 => ip[3] = self.byte(),
            3 => ip.truncate(usize::from(self.byte()) % ip.len()),
            4 => ip[10] ^= 0xff,
            _ => {}
        }
        match self.roll(16) {
            0 => packet::ethernet(dst, src, packet::VLAN, &[&[0, 5, 8, 0][..], &ip].concat()),
            1 => packet::ethernet(dst, src, self.word(), &ip),
            _ => packet::ethernet(dst, src, IPV4, &ip),
        }
    }
}

#[test]
fn no_private_source_ever_leaves_by_the_uplink() {
    let scene = Scene::new("-p 8080:ns1:80");
    // Routers that route everything are the worst case.
    scene.host.netns().sysctl("net/ipv4/conf/all/rp_filter", "0");
    let capture = FrameSocket::open(scene.host.outside(), "out0");
    let mut dice = Dice(1);
    let mut seen = 0;
    for _ in 0..20 {
        for _ in 0..250 {
            // The kernel itself refuses frames without a whole header.
            drop(scene.raw.send(&dice.frame(scene.gateway, scene.mac1)));
        }
        assert!(ping(&scene.ns1, OUTSIDE, Echo::default()).is_reply(), "traffic flows on");
        for frame in capture.captured().iter().filter(|frame| !frame.outgoing) {
            assert_public(&frame.bytes);
            seen += 1;
        }
    }
    assert!(seen > 500, "the storm was a breeze: {seen} packets came out");
    scene.host.netns().sysctl("net/ipv4/conf/all/rp_filter", "0");
}

/// Panics if an address of the network is where a source address can be.
#[track_caller]
fn assert_public(frame: &[u8]) {
    let ethertype = &frame[12..14];
    let ip = match ethertype {
        [0x08, 0x00] => &frame[14..],
        [0x81, 0x00] => frame.get(18..).unwrap_or_default(),
        _ => return,
    };
    let source = ip.get(12..16).unwrap_or_default();
    assert!(!source.starts_with(&[172, 19, 0]), "private source on the uplink: {frame:02x?}");
    assert_eq!(source, UPLINK.octets(), "foreign source on the uplink: {frame:02x?}");
    // An ICMP error quotes a packet: its addresses are the outside ones as well.
    let header = usize::from(ip[0] & 0xf) * 4;
    if ip[9] == packet::ICMP && matches!(ip.get(header), Some(3 | 4 | 5 | 11 | 12)) {
        let quoted = ip.get(header + 8..).unwrap_or_default();
        for at in [12, 16] {
            let addr = quoted.get(at..at + 3).unwrap_or_default();
            assert_ne!(addr, [172, 19, 0], "private address in a quote: {frame:02x?}");
        }
    }
}

#[test]
fn what_ends_a_connection_that_nobody_knows_does_not_leak() {
    let scene = Scene::new("");
    let capture = FrameSocket::open(scene.host.outside(), "out0");
    for flags in [1, 4, 16, 17, 20] {
        let late = Ip::new(NS1, OUTSIDE, packet::TCP).tcp(40000, 443, flags, 1, 1);
        let frame = packet::ethernet(scene.gateway, scene.mac1, IPV4, &late);
        scene.raw.send(&frame).expect("send");
    }
    // What comes last came out last.
    let server = UdpServer::start(scene.host.outside(), 53);
    UdpClient::new(&scene.ns1).exchange(at(OUTSIDE, server.port()), b"marker");
    for frame in capture.captured().iter().filter(|frame| !frame.outgoing) {
        assert_public(&frame.bytes);
    }
}
