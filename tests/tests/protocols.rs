//! Protocols other than TCP, UDP and ICMP: by their ports where they have any,
//! by address where that is unambiguous, and never as they are.

use netbpf_tests::{
    Host, NS1, NS2, OUTSIDE, Options, Packet, UPLINK, Wire, later,
    packet::{self, ICMP, Ip, checksum},
    reference,
    traffic::{Echo, ping},
};
use std::net::Ipv4Addr;

const IPIP: u8 = 4;
const DCCP: u8 = 33;
const GRE: u8 = 47;
const ESP: u8 = 50;
const AH: u8 = 51;
const OSPF: u8 = 89;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;
/// For experiments (RFC 3692).
const EXPERIMENT: u8 = 253;

/// `CRC32c` (RFC 9260, appendix A), as it stands in the packet.
fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    (!crc).to_le_bytes()
}

/// An SCTP packet with one chunk: INIT (1) or INIT ACK (2), without parameters.
fn sctp(sport: u16, dport: u16, verification: u32, chunk: u8) -> Vec<u8> {
    let mut packet = [sport, dport].map(u16::to_be_bytes).concat();
    packet.extend(verification.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([chunk, 0, 0, 20]);
    packet.extend(0xfeed_u32.to_be_bytes());
    packet.extend([0, 1, 0, 0, 0, 10, 0, 10]);
    packet.extend(1u32.to_be_bytes());
    let crc = crc32c(&packet);
    packet[8..12].copy_from_slice(&crc);
    packet
}

/// The checksum with pseudo header over the first `coverage` bytes.
fn partial_checksum(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, l4: &[u8], coverage: usize) -> u16 {
    let len = u16::try_from(l4.len()).expect("short").to_be_bytes();
    let pseudo = [&src.octets()[..], &dst.octets(), &[0, proto], &len].concat();
    checksum(&[&pseudo, &l4[..coverage]].concat())
}

/// A UDP-Lite datagram (RFC 3828) whose checksum covers the first `coverage`
/// bytes; 0 for all.
fn udp_lite(src: Ipv4Addr, dst: Ipv4Addr, ports: [u16; 2], coverage: u16) -> Vec<u8> {
    let header = [ports[0], ports[1], coverage, 0].map(u16::to_be_bytes).concat();
    let mut datagram = [&header[..], b"partly covered data"].concat();
    let covered = if coverage == 0 { datagram.len() } else { coverage.into() };
    let sum = partial_checksum(src, dst, UDP_LITE, &datagram, covered);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// A DCCP request (RFC 4340) without data, its checksum over everything.
fn dccp(src: Ipv4Addr, dst: Ipv4Addr, ports: [u16; 2]) -> Vec<u8> {
    let mut packet = ports.map(u16::to_be_bytes).concat();
    // Data offset in words, CCVal and CsCov 0, checksum, type 0 with X,
    // sequence number of 48 bits, service code.
    packet.extend([5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 42]);
    let sum = partial_checksum(src, dst, DCCP, &packet, packet.len());
    packet[6..8].copy_from_slice(&sum.to_be_bytes());
    packet
}

struct Scene {
    host: Host,
    /// At the first and the second namespace.
    inside: [Wire; 2],
    outside: Wire,
}

impl Scene {
    fn new() -> Self {
        let host = Host::with(Options { offloads: false, ..Options::default() });
        host.up("--namespaces 2");
        let inside = ["ns1", "ns2"].map(|name| Wire::inside(&host, &host.ns(name)));
        let outside = Wire::outside(&host);
        Self { host, inside, outside }
    }

    /// What the first namespace sends arrives outside with the host's address,
    /// and `answer` in the namespace.
    #[track_caller]
    fn goes_out_and_back(&self, proto: u8, payload: &[u8], answer: &[u8]) -> [Packet; 2] {
        let sent = Ip::new(NS1, OUTSIDE, proto).packet(payload);
        self.inside[0].send(&sent);
        let what = format!("protocol {proto} outside");
        let out = self.outside.receive(&what, |packet| packet.seen.proto == proto);
        assert_eq!((out.seen.src, out.seen.dst), (UPLINK, OUTSIDE), "protocol {proto}");
        assert!(out.seen.checksums_ok(), "protocol {proto}: {out:02x?}");
        self.outside.send(&Ip::new(OUTSIDE, UPLINK, proto).packet(answer));
        let what = format!("the answer of protocol {proto}");
        let back = self.inside[0].receive(&what, |packet| packet.is(proto, OUTSIDE, NS1));
        assert!(back.seen.checksums_ok(), "protocol {proto}: {back:02x?}");
        [out, back]
    }

    #[track_caller]
    fn nothing_leaks(&self) {
        assert!(ping(&self.host.ns("ns1"), OUTSIDE, Echo::default()).is_reply());
        let all = self.outside.received();
        let leaked = all.iter().find(|packet| packet.seen.src.is_private());
        assert!(leaked.is_none(), "{leaked:02x?}");
    }
}

/// The checksum of SCTP covers no addresses: it stays as it is.
///
/// Requirements: nat-3, nat-11, nat-15.
#[test]
fn sctp_keeps_its_ports_and_its_crc32c() {
    let scene = Scene::new();
    let init = sctp(4000, 5000, 0, 1);
    let ack = sctp(5000, 4000, 0xfeed, 2);
    let [out, back] = scene.goes_out_and_back(SCTP, &init, &ack);
    assert_eq!(out.seen.payload, init);
    assert_eq!(back.seen.payload, ack);
    scene.nothing_leaks();
}

/// Requirements: nat-3, nat-15.
#[test]
fn two_namespaces_speak_sctp_with_the_same_destination() {
    let scene = Scene::new();
    for (wire, own, port) in [(&scene.inside[0], NS1, 4000), (&scene.inside[1], NS2, 4001)] {
        wire.send(&Ip::new(own, OUTSIDE, SCTP).packet(&sctp(port, 5000, 0, 1)));
        let out = scene.outside.receive("INIT", |packet| packet.seen.proto == SCTP);
        assert_eq!(out.seen.src, UPLINK);
        assert_eq!(out.seen.payload, sctp(port, 5000, 0, 1));
    }
    for (wire, own, port) in [(&scene.inside[1], NS2, 4001), (&scene.inside[0], NS1, 4000)] {
        let ack = sctp(5000, port, 0xfeed, 2);
        scene.outside.send(&Ip::new(OUTSIDE, UPLINK, SCTP).packet(&ack));
        let back = wire.receive("INIT ACK", |packet| packet.is(SCTP, OUTSIDE, own));
        assert_eq!(back.seen.payload, ack);
    }
}

/// A port cannot be changed without a new `CRC32c`: so either that is right, or
/// the packet does not leave.
///
/// Requirements: 4787-3, nat-3, nat-11, nat-15.
#[test]
fn a_second_sctp_association_with_the_same_ports_never_gets_the_first_ones_answers() {
    let scene = Scene::new();
    let init = sctp(4000, 5000, 0, 1);
    scene.inside[0].send(&Ip::new(NS1, OUTSIDE, SCTP).packet(&init));
    scene.outside.receive("the first INIT", |packet| packet.seen.proto == SCTP);
    scene.inside[1].send(&Ip::new(NS2, OUTSIDE, SCTP).packet(&init));
    assert!(ping(&scene.host.ns("ns2"), OUTSIDE, Echo::default()).is_reply());
    for packet in scene.outside.received().iter().filter(|packet| packet.seen.proto == SCTP) {
        assert_eq!(packet.seen.src, UPLINK);
        assert_ne!(packet.seen.payload[..2], init[..2], "the port is the first one's");
        let mut unsummed = packet.seen.payload.clone();
        unsummed[8..12].fill(0);
        assert_eq!(packet.seen.payload[8..12], crc32c(&unsummed), "CRC32c");
    }
    let ack = sctp(5000, 4000, 0xfeed, 2);
    scene.outside.send(&Ip::new(OUTSIDE, UPLINK, SCTP).packet(&ack));
    scene.inside[0].receive("INIT ACK", |packet| packet.is(SCTP, OUTSIDE, NS1));
    scene.inside[1].receives_none("INIT ACK", |packet| packet.seen.proto == SCTP);
}

/// Requirements: nat-11, nat-15.
#[test]
fn udp_lite_keeps_its_coverage_and_has_a_right_checksum() {
    let scene = Scene::new();
    // Connection tracking checks it as if it were that of UDP, and finds it wrong.
    if reference::skipped("whether the checksum of UDP-Lite is checked") {
        scene.host.tune("net/netfilter/nf_conntrack_checksum", "0");
    }
    for (n, coverage) in [(0, 0), (1, 8), (2, 12), (3, 27)] {
        let covered = if coverage == 0 { 27 } else { usize::from(coverage) };
        let request = udp_lite(NS1, OUTSIDE, [4000 + n, 53], coverage);
        let answer = udp_lite(OUTSIDE, UPLINK, [53, 4000 + n], coverage);
        let [out, back] = scene.goes_out_and_back(UDP_LITE, &request, &answer);
        for (packet, sent) in [(out, request), (back, answer)] {
            let seen = packet.seen;
            assert_eq!(seen.payload[..6], sent[..6], "ports and coverage");
            assert_eq!(seen.payload[8..], sent[8..], "data");
            let sum = partial_checksum(seen.src, seen.dst, UDP_LITE, &seen.payload, covered);
            assert_eq!(sum, 0, "coverage {coverage}");
        }
    }
    scene.nothing_leaks();
}

/// Requirements: nat-11, nat-15.
#[test]
fn dccp_keeps_its_ports_and_has_a_right_checksum() {
    let scene = Scene::new();
    let request = dccp(NS1, OUTSIDE, [4000, 5000]);
    let answer = dccp(OUTSIDE, UPLINK, [5000, 4000]);
    for packet in scene.goes_out_and_back(DCCP, &request, &answer) {
        let (seen, len) = (packet.seen, request.len());
        let ports: Vec<u8> = if seen.src == UPLINK { &request } else { &answer }[..4].to_vec();
        assert_eq!(seen.payload[..4], ports);
        // Linux has dropped DCCP and translates it by address alone.
        if !reference::skipped("the checksum of DCCP") {
            assert_eq!(partial_checksum(seen.src, seen.dst, DCCP, &seen.payload, len), 0);
        }
    }
    scene.nothing_leaks();
}

/// What the payload of a protocol without ports is taken to be is nobody's concern.
fn opaque(proto: u8) -> Vec<u8> {
    match proto {
        // Version 0, no options, carrying IPv4.
        GRE => [&[0, 0, 8, 0], &Ip::new(NS1, NS2, 17).udp(1, 2, b"tunnelled")[..]].concat(),
        IPIP => Ip::new(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), 17).udp(1, 2, b""),
        _ => vec![proto; 40],
    }
}

/// Requirements: nat-11, nat-15.
#[test]
fn protocols_without_ports_are_translated_by_address_and_otherwise_untouched() {
    let scene = Scene::new();
    for proto in [GRE, ESP, AH, IPIP, OSPF, EXPERIMENT] {
        let payload = opaque(proto);
        let [out, back] = scene.goes_out_and_back(proto, &payload, &payload);
        assert_eq!(out.seen.payload, payload, "protocol {proto}");
        assert_eq!(back.seen.payload, payload, "protocol {proto}");
        assert_eq!((out.seen.ttl, back.seen.ttl), (63, 63), "protocol {proto}");
    }
    scene.nothing_leaks();
}

/// Requirements: 4787-3, nat-3, nat-15.
#[test]
fn a_second_namespace_cannot_take_over_a_protocol_without_ports() {
    let scene = Scene::new();
    for proto in [GRE, ESP, EXPERIMENT] {
        let payload = opaque(proto);
        scene.goes_out_and_back(proto, &payload, &payload);
        let before = if reference::enabled() { 0 } else { scene.host.dropped("ns2", "protocol") };
        scene.inside[1].send(&Ip::new(NS2, OUTSIDE, proto).packet(&payload));
        scene.host.wait_dropped("ns2", "protocol", before + 1);
        // To another destination there is nothing to confuse.
        let elsewhere = Ipv4Addr::new(192, 0, 2, 7);
        scene.inside[1].send(&Ip::new(NS2, elsewhere, proto).packet(&payload));
        let out = scene.outside.receive("elsewhere", |packet| packet.seen.dst == elsewhere);
        assert_eq!((out.seen.src, out.seen.proto), (UPLINK, proto));
        scene.goes_out_and_back(proto, &payload, &payload);
        scene.inside[1].receives_none("an answer", |packet| packet.is(proto, OUTSIDE, NS2));
    }
    scene.nothing_leaks();
}

/// Requirements: 5508-4, nat-8.
#[test]
fn errors_about_other_protocols_are_translated() {
    let scene = Scene::new();
    for (proto, payload) in [(GRE, opaque(GRE)), (SCTP, sctp(4000, 5000, 0, 1))] {
        let sent = Ip::new(NS1, OUTSIDE, proto).packet(&payload);
        scene.inside[0].send(&sent);
        let out = scene.outside.receive("the packet", |packet| packet.seen.proto == proto);
        for quoted in [8, 1500] {
            let quote = later(out.beginning(quoted), 1);
            let error = Ip::new(OUTSIDE, UPLINK, ICMP).icmp(3, 4, [0, 0, 5, 0], &quote);
            scene.outside.send(&error);
            // The kernel outside does not know these protocols, and says so too.
            let error = scene.inside[0].receive("the error", |packet| {
                packet.is(ICMP, OUTSIDE, NS1) && packet.error() == Some((3, 4))
            });
            let len = sent.len().min(20 + quoted);
            assert_eq!(error.quote(), ([0, 0, 5, 0], &later(&sent[..len], 2)[..]), "{proto}");
        }
    }
}

/// Requirements: 4787-8, nat-14, nat-15.
#[test]
fn nobody_outside_reaches_a_namespace_by_another_protocol_unasked() {
    let scene = Scene::new();
    for proto in [GRE, ESP, IPIP, SCTP, DCCP, UDP_LITE, EXPERIMENT] {
        for dst in [UPLINK, NS1] {
            scene.outside.send(&Ip::new(OUTSIDE, dst, proto).packet(&opaque(proto)));
        }
    }
    assert!(ping(&scene.host.ns("ns1"), OUTSIDE, Echo::default()).is_reply());
    for wire in &scene.inside {
        let all = wire.received();
        let arrived = all.iter().find(|p| p.seen.src == OUTSIDE && p.seen.proto != packet::ICMP);
        assert!(arrived.is_none(), "{arrived:02x?}");
    }
}

/// Requirements: nat-10, nat-15.
#[test]
fn other_protocols_in_pieces_never_leave_untranslated() {
    let scene = Scene::new();
    for (n, proto) in [GRE, ESP, SCTP, UDP_LITE, EXPERIMENT].into_iter().enumerate() {
        let ip = Ip { id: 100 + u16::try_from(n).expect("few"), ..Ip::new(NS1, OUTSIDE, proto) };
        let payload = [&sctp(4000, 5000, 0, 1)[..], &[0; 2000]].concat();
        for piece in netbpf_tests::fragments(&ip, &payload, 1480).iter().rev() {
            scene.inside[0].send(piece);
        }
    }
    scene.nothing_leaks();
}

#[test]
fn the_checksum_of_sctp_is_crc32c() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283_u32.to_le_bytes());
}
