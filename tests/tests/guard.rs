//! No namespace can pass for another, for the gateway or for the host.

use netbpf_tests::{
    GATEWAY, Host, NS1, NS2, NS3, Netns, OUTSIDE, UPLINK, packet,
    traffic::{Echo, FrameSocket, ping},
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

/// Requirements: nat-16.
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

/// Requirements: nat-16.
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

/// Requirements: nat-16.
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
