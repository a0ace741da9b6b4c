//! Translation byte for byte: a packet differs in address, port, time to live
//! and checksums, and in nothing else.

use netbpf_tests::{
    Host, NS1, NS2, Netns, OUTSIDE, Options, Packet, Random, UPLINK, Wire, at, later,
    packet::{self, ICMP, Ip, TCP, UDP},
    traffic::{TcpServer, UdpClient, UdpServer, connect},
};
use std::{collections::BTreeSet, net::Ipv4Addr};

const SEED: u64 = 0x0b17_e5e5;
/// Packets out and back that are compared.
const PACKETS: usize = 300;
/// An address outside where everything vanishes.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

struct Scene {
    host: Host,
    namespaces: [Netns; 2],
    inside: [Wire; 2],
    outside: Wire,
}

impl Scene {
    fn new(arguments: &str) -> Self {
        let host = Host::with(Options { offloads: false, ..Options::default() });
        host.up(&format!("--namespaces 2 {arguments}"));
        let namespaces = ["ns1", "ns2"].map(|name| host.ns(name));
        for ns in namespaces.iter().chain([host.outside()]) {
            // Nobody answers what nobody here has asked.
            ns.ip("route add blackhole 192.0.2.0/24");
        }
        let inside = [0, 1].map(|n: usize| Wire::inside(&host, &namespaces[n]));
        let outside = Wire::outside(&host);
        Self { host, namespaces, inside, outside }
    }

    fn end(self) {
        self.host.outside().ip("route del blackhole 192.0.2.0/24");
    }
}

/// A packet with a payload and ports that are anybody's choice; for echo the
/// first port is the identifier.
fn random_packet(random: &mut Random, ip: &Ip, ports: (u16, u16)) -> Vec<u8> {
    let len = *random.pick(&[0, 1, 2, 3, 7, 18, 100, 513, 1400]);
    let data = if random.below(8) == 0 { vec![0; len] } else { random.bytes(len) };
    match ip.proto {
        UDP => ip.udp(ports.0, ports.1, &data),
        TCP => {
            let mut segment = ip.tcp(ports.0, ports.1, 2, 7, 0)[20..].to_vec();
            // Maximum segment size and window scale.
            segment.extend([2, 4, 5, 180, 3, 3, 7, 0]);
            segment[12] = 0x70;
            summed(ip, segment)
        }
        _ => {
            let [high, low] = ports.0.to_be_bytes();
            ip.icmp(8, 0, [high, low, 0, 1], &data)
        }
    }
}

/// The packet with this payload, whose checksum is filled in afresh.
fn summed(ip: &Ip, mut l4: Vec<u8>) -> Vec<u8> {
    let at = match ip.proto {
        UDP => 6,
        TCP => 16,
        _ => 2,
    };
    l4[at..at + 2].fill(0);
    let sum = match ip.proto {
        ICMP => packet::checksum(&l4),
        proto => packet::l4_checksum(ip.src, ip.dst, proto, &l4),
    };
    let sum = if ip.proto == UDP && sum == 0 { 0xffff } else { sum };
    l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    ip.packet(&l4)
}

/// What `sent` has to be one hop later between other addresses, with `port`
/// (or echo identifier) at `at` of its payload.
fn translated(sent: &[u8], src: Ipv4Addr, dst: Ipv4Addr, at: usize, port: u16) -> Vec<u8> {
    let (mut ip, mut l4) = (sent[..20].to_vec(), sent[20..].to_vec());
    ip[12..16].copy_from_slice(&src.octets());
    ip[16..20].copy_from_slice(&dst.octets());
    l4[at..at + 2].copy_from_slice(&port.to_be_bytes());
    let fresh = summed(&Ip::new(src, dst, sent[9]), l4);
    later(&[&ip, &fresh[20..]].concat(), 1)
}

/// The port that a packet comes from, or its echo identifier.
fn own_port(packet: &Packet) -> u16 {
    let at = port_at(packet.seen.proto, true);
    u16::from_be_bytes([packet.seen.payload[at], packet.seen.payload[at + 1]])
}

/// Where the inside's port stands in the payload.
const fn port_at(proto: u8, outwards: bool) -> usize {
    match (proto, outwards) {
        (ICMP, _) => 4,
        (_, true) => 0,
        (_, false) => 2,
    }
}

/// Requirements: 4787-1, 4787-3, 5382-7, 5508-1, nat-3, nat-11.
#[test]
fn packets_out_and_back_differ_only_in_what_translation_changes() {
    let scene = Scene::new("");
    let mut random = Random::new(SEED);
    let mut taken = BTreeSet::new();
    for n in 0..PACKETS {
        let proto = *random.pick(&[UDP, TCP, ICMP]);
        let port = 20_000 + u16::try_from(n).expect("few");
        let id = port;
        let fragment = *random.pick(&[0, 0x4000]);
        let ttl = 2 + u8::try_from(random.below(250)).expect("a byte");
        // Both namespaces from the same port: the second has to give way.
        for (wire, own) in scene.inside.iter().zip([NS1, NS2]) {
            let ip = Ip { ttl, id, fragment, ..Ip::new(own, NOWHERE, proto) };
            let sent = random_packet(&mut random, &ip, (port, 53));
            wire.send(&sent);
            let what = format!("packet {n} of protocol {proto} from {own}");
            let out = scene.outside.receive(&what, |p| p.is(proto, UPLINK, NOWHERE));
            let mapped = own_port(&out);
            let free = !taken.contains(&(proto, port));
            assert!(!free || mapped == port, "{what}: the port was free");
            assert!(taken.insert((proto, mapped)), "{what}: {mapped} is taken");
            let expected = translated(&sent, UPLINK, NOWHERE, port_at(proto, true), mapped);
            assert_eq!(out.bytes, expected, "{what}");

            let ip = Ip { ttl, id, fragment, ..Ip::new(NOWHERE, UPLINK, proto) };
            let answer = answer_to(&sent, &ip, mapped);
            scene.outside.send(&answer);
            let what = format!("the answer to {what}");
            let back = wire.receive(&what, |p| p.is(proto, NOWHERE, own));
            let expected = translated(&answer, NOWHERE, own, port_at(proto, false), port);
            assert_eq!(back.bytes, expected, "{what}");
        }
    }
    scene.end();
}

/// What the other side sends back to `mapped`.
fn answer_to(sent: &[u8], ip: &Ip, mapped: u16) -> Vec<u8> {
    let mut l4 = sent[20..].to_vec();
    match ip.proto {
        ICMP => {
            l4[0] = 0;
            l4[4..6].copy_from_slice(&mapped.to_be_bytes());
        }
        proto => {
            l4[..4].copy_from_slice(&[53, mapped].map(u16::to_be_bytes).concat());
            if proto == TCP {
                // SYN and ACK of it.
                l4[8..12].copy_from_slice(&8u32.to_be_bytes());
                l4[13] = 18;
            }
        }
    }
    summed(ip, l4)
}

/// Data that makes the checksum of a datagram 0, which is sent as 0xffff.
fn cancelling(src: Ipv4Addr, dst: Ipv4Addr, ports: (u16, u16)) -> [u8; 2] {
    let header = [ports.0, ports.1, 10, 0, 0].map(u16::to_be_bytes).concat();
    packet::l4_checksum(src, dst, UDP, &header).to_be_bytes()
}

/// Requirements: nat-11.
#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
    let scene = Scene::new("");
    let (wire, outside) = (&scene.inside[0], &scene.outside);
    let data = cancelling(UPLINK, NOWHERE, (4000, 53));
    wire.send(&Ip::new(NS1, NOWHERE, UDP).udp(4000, 53, &data));
    let out = outside.receive("the datagram", |packet| packet.is(UDP, UPLINK, NOWHERE));
    assert_eq!(out.seen.payload[6..], [&[0xff, 0xff], &data[..]].concat());
    assert!(out.seen.checksums_ok());

    let data = cancelling(NOWHERE, NS1, (53, 4000));
    outside.send(&Ip::new(NOWHERE, UPLINK, UDP).udp(53, 4000, &data));
    let back = wire.receive("the answer", |packet| packet.is(UDP, NOWHERE, NS1));
    assert_eq!(back.seen.payload[6..], [&[0xff, 0xff], &data[..]].concat());

    // And one that is 0xffff before translation becomes what it should.
    let data = cancelling(NS1, NOWHERE, (4000, 53));
    let sent = Ip::new(NS1, NOWHERE, UDP).udp(4000, 53, &data);
    assert_eq!(sent[26..28], [0xff, 0xff]);
    wire.send(&sent);
    let out = outside.receive("the datagram", |packet| packet.is(UDP, UPLINK, NOWHERE));
    assert!(out.seen.checksums_ok(), "{out:02x?}");
    scene.end();
}

/// Requirements: nat-11.
#[test]
fn a_datagram_without_checksum_stays_without_both_ways_and_on_another_port() {
    let scene = Scene::new("");
    let bare = |src, dst, sport, dport| {
        let mut datagram = Ip::new(src, dst, UDP).udp(sport, dport, b"bare");
        datagram[26..28].fill(0);
        datagram
    };
    let mut ports = BTreeSet::new();
    for (wire, own) in scene.inside.iter().zip([NS1, NS2]) {
        wire.send(&bare(own, NOWHERE, 4000, 53));
        let out = scene.outside.receive("a datagram", |p| p.is(UDP, UPLINK, NOWHERE));
        assert_eq!(out.seen.payload[4..], *b"\0\x0c\0\0bare");
        assert!(ports.insert(own_port(&out)));
        scene.outside.send(&bare(NOWHERE, UPLINK, 53, own_port(&out)));
        let back = wire.receive("the answer", |packet| packet.is(UDP, NOWHERE, own));
        assert_eq!(back.seen.payload, [&[0, 53, 15, 160][..], b"\0\x0c\0\0bare"].concat());
    }
    scene.end();
}

/// Requirements: nat-11.
#[test]
fn a_wrong_checksum_is_never_made_right() {
    let scene = Scene::new("-p 5353:ns1:53/udp");
    let ns1 = &scene.namespaces[0];
    let servers = [UdpServer::start(scene.host.outside(), 53), UdpServer::start(ns1, 53)];
    let spoilt = |mut packet: Vec<u8>| {
        *packet.last_mut().expect("a byte") ^= 0x10;
        packet
    };
    let udp = |src, dst, port| spoilt(Ip::new(src, dst, UDP).udp(4000, port, b"spoilt"));
    scene.inside[0].send(&udp(NS1, OUTSIDE, 53));
    scene.outside.send(&udp(OUTSIDE, UPLINK, 5353));
    let honest = UdpClient::on_port(ns1, 4001);
    honest.exchange(at(OUTSIDE, 53), b"honest");
    UdpClient::on_port(scene.host.outside(), 4001).exchange(at(UPLINK, 5353), b"honest");
    for server in servers {
        assert!(server.peers().iter().all(|peer| peer.port() == 4001), "{:?}", server.peers());
    }
    scene.end();
}

/// Requirements: 5382-2, nat-11, nat-14.
#[test]
fn every_segment_of_a_connection_on_the_wire_has_right_checksums() {
    let scene = Scene::new("-p 8080:ns1:80");
    let _servers =
        [TcpServer::start(scene.host.outside(), 80), TcpServer::start(&scene.namespaces[0], 80)];
    let [ns1, ns2] = &scene.namespaces;
    for (from, to) in [(ns1, at(OUTSIDE, 80)), (ns2, at(OUTSIDE, 80)), (ns2, at(UPLINK, 8080))] {
        let mut client = connect(from, to).unwrap_or_else(|e| panic!("{to}: {e}"));
        client.upload(300_000).expect("upload");
        client.download(300_000).expect("download");
    }
    let mut client = connect(scene.host.outside(), at(UPLINK, 8080)).expect("8080");
    client.upload(300_000).expect("upload");
    client.download(300_000).expect("download");
    drop(client);
    let wires = scene.inside.iter().chain([&scene.outside]);
    for (wire, name) in wires.zip(["ns1", "ns2", "outside"]) {
        let seen = wire.received();
        let segments = seen.iter().filter(|packet| packet.seen.proto == TCP);
        let wrong = segments.clone().find(|packet| !packet.seen.checksums_ok());
        assert!(segments.count() > 200, "{name} has seen little");
        assert!(wrong.is_none(), "{name}: {wrong:02x?}");
    }
    scene.end();
}
