//! Frames that nobody should send: they do no harm, and nothing private leaves.

use netbpf_tests::{
    Host, KernelLog, Lookout, NS1, NS2, Netns, OUTSIDE, Options, Packet, Random, UPLINK, Wire, at,
    mutated,
    packet::{self, ARP, BROADCAST, ICMP, IPV4, Ip, Mac, TCP, UDP},
    sample,
    traffic::{Echo, TcpServer, UdpClient, UdpProbe, UdpServer, connect, ping},
    wait,
};
use std::{cell::Cell, net::Ipv4Addr, time::Duration};

/// Frames that are made of each side's.
const MUTATIONS: usize = 100_000;
const SEED: u64 = 0x5eed_0001;
/// Frames that are sent at once: the kernel's queue (`netdev_max_backlog`), which
/// all tests share, has room for 1,000.
const BURST: usize = 100;

const IPV6: u16 = 0x86dd;
const PROVIDER_VLAN: u16 = 0x88a8;
const MPLS: u16 = 0x8847;
const PPPOE: u16 = 0x8864;

struct Scene {
    host: Host,
    ns1: Netns,
    ns2: Netns,
    inside: Wire,
    outside: Wire,
    lookout: Lookout,
    log: KernelLog,
    bystander: UdpProbe,
    sent: Cell<usize>,
    servers: [UdpServer; 2],
}

impl Scene {
    fn new() -> Self {
        let host = Host::with(Options { offloads: false, ..Options::default() });
        host.up("--namespaces 2 -p 5353:ns1:53/udp -p 8080:ns1:80");
        let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
        let (inside, outside) = (Wire::inside(&host, &ns1), Wire::outside(&host));
        let servers = [UdpServer::start(&ns1, 53), UdpServer::start(host.outside(), 53)];
        let bystander = UdpProbe::connect(&ns2, at(OUTSIDE, 53));
        let (lookout, log) = (Lookout::outside(&host), KernelLog::from_now());
        let sent = Cell::new(0);
        Self { host, ns1, ns2, inside, outside, lookout, log, bystander, sent, servers }
    }

    /// Sends a frame; one that the device itself refuses is fine. Now and then
    /// another namespace asks something meanwhile.
    #[track_caller]
    fn send(&self, wire: &Wire, frame: &[u8]) {
        let _ = wire.frames().send(frame);
        self.sent.set(self.sent.get() + 1);
        if self.sent.get().is_multiple_of(BURST) {
            self.bystander.persist(b"meanwhile");
        }
    }

    #[track_caller]
    fn send_packet(&self, wire: &Wire, ip: &[u8]) {
        self.send(wire, &wire.frame(ip));
    }

    /// Everything still works, nothing has leaked, the kernel is content.
    #[track_caller]
    fn all_is_well(self) {
        let host = &self.host;
        for ns in [&self.ns1, &self.ns2, host.netns()] {
            UdpProbe::connect(ns, at(OUTSIDE, 53)).persist(&sample(1000));
            is_answered(ns, OUTSIDE);
        }
        is_answered(&self.ns1, NS2);
        UdpProbe::connect(host.outside(), at(UPLINK, 5353)).persist(&sample(1000));
        let _web = TcpServer::start(&self.ns1, 80);
        let mut client = connect(host.outside(), at(UPLINK, 8080)).expect("8080");
        client.echo(&sample(10_000)).expect("echo");
        drop(self.servers);
        self.lookout.nothing_leaked();
        self.log.has_no_complaint();
    }
}

/// Pings are answered, if not at once: beside a flood one may get lost.
#[track_caller]
fn is_answered(ns: &Netns, to: Ipv4Addr) {
    let brief = Echo { patience: Duration::from_millis(500), ..Echo::default() };
    let what = format!("{to} answers {}", ns.name());
    wait::until_true(&what, || ping(ns, to, brief).is_reply());
}

fn tagged(tags: &[(u16, u16)], frame: &[u8]) -> Vec<u8> {
    let mut tagged = frame.to_vec();
    for (kind, tci) in tags.iter().rev() {
        tagged.splice(12..12, [*kind, *tci].map(u16::to_be_bytes).concat());
    }
    tagged
}

/// An ICMP error that quotes a packet.
fn error(from: Ipv4Addr, to: Ipv4Addr, quote: &[u8]) -> Vec<u8> {
    Ip::new(from, to, ICMP).icmp(3, 1, [0; 4], quote)
}

/// Good packets of all kinds that go from here to there, and what they are about.
fn good_packets(src: Ipv4Addr, dst: Ipv4Addr, ports: (u16, u16), web: u16) -> Vec<Vec<u8>> {
    let ip = Ip::new(src, dst, UDP);
    let back = Ip::new(dst, src, UDP).udp(ports.1, ports.0, b"the answer");
    let options = Ip { options: vec![7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0], ..ip.clone() };
    let piece = |fragment| Ip { fragment, id: 77, ..ip.clone() }.packet(&sample(64));
    let sctp = [&[15, 160, 19, 136, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20][..], &[1; 16]].concat();
    vec![
        ip.udp(ports.0, ports.1, b"a question"),
        ip.udp(ports.0, ports.1, &[]),
        ip.tcp(4002, web, 2, 7, 0),
        ip.tcp(4002, web, 16, 8, 8),
        ip.tcp(4002, web, 17, 8, 8),
        ip.icmp(8, 0, [0, 9, 0, 1], b"echo"),
        ip.icmp(0, 0, [0, 9, 0, 1], b"echo"),
        ip.icmp(13, 0, [0, 9, 0, 1], &[0; 12]),
        error(src, dst, &back),
        error(src, dst, &back[..28]),
        options.udp(ports.0, ports.1, b"with options"),
        options.tcp(4003, web, 2, 7, 0),
        piece(0x2000),
        piece(0x2008),
        piece(0x0010),
        Ip::new(src, dst, 132).packet(&sctp),
        Ip::new(src, dst, 47).packet(&[0, 0, 8, 0, 1, 2, 3, 4]),
        Ip::new(src, dst, 50).packet(&sample(40)),
        Ip { ttl: 1, ..ip.clone() }.udp(ports.0, ports.1, b"the last hop"),
        Ip { ttl: 0, ..ip }.udp(ports.0, ports.1, b"none left"),
    ]
}

/// Frames for the mutations to begin with.
fn originals(scene: &Scene) -> [Vec<Vec<u8>>; 2] {
    let (inside, outside) = (&scene.inside, &scene.outside);
    // As nobody whom anybody knows: else neighbours would believe what the
    // changes say of those whom they need.
    let speak = |mac: Mac, other: Ipv4Addr| {
        let body = packet::arp(1, (mac, Ipv4Addr::new(192, 0, 2, 77)), ([0; 6], other));
        packet::ethernet(BROADCAST, mac, ARP, &body)
    };
    let mut from_inside: Vec<_> = good_packets(NS1, OUTSIDE, (4001, 53), 80)
        .iter()
        .chain(&good_packets(NS1, UPLINK, (4001, 5353), 8080))
        .chain(&good_packets(NS1, NS2, (4001, 53), 80))
        .map(|ip| inside.frame(ip))
        .collect();
    from_inside.push(tagged(&[(0x8100, 5)], &from_inside[0]));
    from_inside.push(speak(scene.ns1.mac("eth0"), NS2));
    let mut from_outside: Vec<_> = good_packets(OUTSIDE, UPLINK, (53, 4001), 8080)
        .iter()
        .chain(&good_packets(OUTSIDE, UPLINK, (700, 5353), 8080))
        .chain(&good_packets(OUTSIDE, NS1, (53, 4001), 80))
        .map(|ip| outside.frame(ip))
        .collect();
    from_outside.push(tagged(&[(0x8100, 5)], &from_outside[0]));
    from_outside.push(speak(scene.host.outside().mac("out0"), UPLINK));
    [from_inside, from_outside]
}

/// Requirements: 4787-11, nat-2, nat-15, nat-17.
#[test]
fn a_hundred_thousand_mutated_frames_from_each_side_do_no_harm() {
    let scene = Scene::new();
    let sides = [&scene.inside, &scene.outside];
    for ((n, originals), wire) in (0u64..).zip(originals(&scene)).zip(sides) {
        let seed = SEED + n;
        eprintln!("seed {seed:#x}, {MUTATIONS} frames");
        let mut random = Random::new(seed);
        for _ in 0..MUTATIONS {
            scene.send(wire, &mutated(&mut random, &originals));
        }
    }
    scene.all_is_well();
}

/// Requirements: nat-15, nat-17.
#[test]
fn packets_cut_short_anywhere_do_no_harm() {
    let scene = Scene::new();
    for (wire, src, dst, ports) in
        [(&scene.inside, NS1, OUTSIDE, (4001, 53)), (&scene.outside, OUTSIDE, UPLINK, (700, 5353))]
    {
        for ip in good_packets(src, dst, ports, 8080) {
            let frame = wire.frame(&ip);
            for len in 0..frame.len().min(90) {
                // The header says more than there is; and a header that says as much as is.
                scene.send(wire, &frame[..len]);
                if let Some(payload) = len.checked_sub(34) {
                    let proto = Ip::new(src, dst, ip[9]);
                    scene.send(wire, &wire.frame(&proto.packet(&ip[20..][..payload])));
                }
            }
        }
    }
    scene.all_is_well();
}

/// Requirements: nat-15, nat-17.
#[test]
fn headers_that_contradict_themselves_do_no_harm() {
    let scene = Scene::new();
    for (wire, src, dst, ports) in
        [(&scene.inside, NS1, OUTSIDE, (4001, 53)), (&scene.outside, OUTSIDE, UPLINK, (700, 5353))]
    {
        for ip in good_packets(src, dst, ports, 8080) {
            let with = |at: usize, bytes: &[u8]| {
                let mut ip = ip.clone();
                ip[at..at + bytes.len()].copy_from_slice(bytes);
                ip[10..12].fill(0);
                let len = (usize::from(ip[0] & 0xf) * 4).clamp(20, ip.len());
                let sum = packet::checksum(&ip[..len]);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                wire.frame(&ip)
            };
            let len = u16::try_from(ip.len()).expect("short");
            for first in [0, 0x05, 0x40, 0x41, 0x44, 0x46, 0x4f, 0x55, 0x65, 0xf5] {
                scene.send(wire, &with(0, &[first]));
            }
            for total in [0, 1, 19, 20, 21, 27, len - 1, len + 1, len + 100, 0xffff] {
                scene.send(wire, &with(2, &total.to_be_bytes()));
            }
            // TCP's data offset, UDP's length, whatever else is there.
            for (at, byte) in [(32, 0), (32, 0x40), (32, 0xf0), (24, 0), (24, 0xff), (25, 7)] {
                if at < ip.len() {
                    scene.send(wire, &with(at, &[byte]));
                }
            }
            let mut wrong = ip.clone();
            wrong[10] ^= 0xff;
            scene.send(wire, &wire.frame(&wrong));
        }
    }
    scene.all_is_well();
}

/// Requirements: nat-15, nat-17.
#[test]
fn ip_options_pass_translated_or_not_at_all() {
    let scene = Scene::new();
    let options: [&[u8]; 10] = [
        &[1, 1, 1, 1],
        &[0, 0, 0, 0],
        // Record route, time stamps, security, stream.
        &[7, 7, 4, 0, 0, 0, 0, 0],
        &[68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        &[148, 4, 0, 0],
        &[136, 4, 0, 1],
        // Loose and strict source routes back to a neighbour.
        &[131, 7, 4, 172, 19, 0, 3, 0],
        &[137, 7, 4, 172, 19, 0, 3, 0],
        // Lengths of nothing and of more than there is.
        &[7, 0, 4, 0],
        &[7, 200, 4, 0],
    ];
    for options in options {
        for (wire, src, dst, ports) in [
            (&scene.inside, NS1, OUTSIDE, (4001, 53)),
            (&scene.outside, OUTSIDE, UPLINK, (700, 5353)),
        ] {
            let ip = Ip { options: options.to_vec(), ..Ip::new(src, dst, UDP) };
            for packet in [
                ip.udp(ports.0, ports.1, b"a question"),
                ip.tcp(4002, 8080, 2, 7, 0),
                ip.icmp(8, 0, [0, 9, 0, 1], b"echo"),
            ] {
                scene.send_packet(wire, &packet);
            }
        }
    }
    is_answered(&scene.ns1, OUTSIDE);
    for packet in scene.outside.received() {
        assert_eq!(packet.seen.src, UPLINK, "{packet:02x?}");
        assert!(packet.seen.checksums_ok(), "{packet:02x?}");
    }
    scene.all_is_well();
}

/// Requirements: nat-15, nat-16, nat-17.
#[test]
fn land_and_martians_do_no_harm_and_reach_nobody() {
    let scene = Scene::new();
    let strange: [Ipv4Addr; 6] = [
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(127, 1, 2, 3),
        Ipv4Addr::new(224, 0, 0, 1),
        // "Land": from the very address that it goes to.
        UPLINK,
    ];
    for src in strange {
        let ip = Ip::new(src, UPLINK, UDP);
        scene.send(&scene.outside, &scene.outside.frame(&ip.udp(5353, 5353, b"land")));
        scene.send(&scene.outside, &scene.outside.frame(&ip.tcp(8080, 8080, 2, 7, 0)));
        scene.send(&scene.outside, &scene.outside.frame(&ip.icmp(8, 0, [0, 9, 0, 1], b"echo")));
    }
    for addr in strange.into_iter().chain([NS1, NS2, Ipv4Addr::new(240, 0, 0, 1)]) {
        // To strange addresses, and as them to the outside and to oneself.
        for ip in [Ip::new(NS1, addr, UDP), Ip::new(addr, OUTSIDE, UDP), Ip::new(addr, addr, UDP)] {
            for packet in
                [ip.udp(4001, 53, b"?"), ip.tcp(4002, 80, 2, 7, 0), ip.icmp(8, 0, [0; 4], b"")]
            {
                scene.send(&scene.inside, &scene.inside.frame(&packet));
            }
        }
    }
    let asking = UdpClient::new(scene.host.outside());
    asking.exchange(at(UPLINK, 5353), b"an honest question");
    let all = scene.inside.received();
    // What the host itself answers to a namespace is from such an address, too.
    let is_ours = |p: &&Packet| p.seen.ports().is_some_and(|(_, to)| [53, 80].contains(&to));
    let martian = all.iter().filter(is_ours).find(|p| strange.contains(&p.seen.src));
    assert!(martian.is_none(), "{martian:02x?}");
    scene.all_is_well();
}

/// Requirements: nat-13, nat-15, nat-17.
#[test]
fn tags_and_unknown_ethertypes_do_no_harm() {
    let scene = Scene::new();
    for (wire, ip) in [
        (&scene.inside, Ip::new(NS1, OUTSIDE, UDP).udp(4001, 53, b"tagged")),
        (&scene.outside, Ip::new(OUTSIDE, UPLINK, UDP).udp(700, 5353, b"tagged")),
    ] {
        let plain = wire.frame(&ip);
        for tags in [
            &[(packet::VLAN, 0)][..],
            &[(packet::VLAN, 1)],
            &[(packet::VLAN, 0x0fff)],
            &[(packet::VLAN, 0xe005)],
            &[(PROVIDER_VLAN, 5)],
            &[(PROVIDER_VLAN, 5), (packet::VLAN, 6)],
            &[(packet::VLAN, 0), (packet::VLAN, 0), (packet::VLAN, 0)],
        ] {
            let tagged = tagged(tags, &plain);
            scene.send(wire, &tagged);
            scene.send(wire, &tagged[..(14 + 4 * tags.len()).min(tagged.len())]);
        }
        for ethertype in [0, 5, 46, 1500, 0x0801, 0x0842, IPV6, MPLS, PPPOE, 0x88cc, 0xffff] {
            let mut frame = plain.clone();
            frame[12..14].copy_from_slice(&u16::to_be_bytes(ethertype));
            scene.send(wire, &frame);
            scene.send(wire, &frame[..14]);
        }
        // ARP of other hardware, lengths and protocols, and cut short.
        let mut arp = packet::arp(1, ([2; 6], Ipv4Addr::UNSPECIFIED), ([0; 6], NS2));
        for (at, byte) in [(0, 1), (1, 6), (3, 6), (4, 8), (5, 16), (7, 9)] {
            arp[at] = byte;
            let mut frame = plain[..14].to_vec();
            frame[12..14].copy_from_slice(&ARP.to_be_bytes());
            frame.extend(&arp);
            scene.send(wire, &frame);
            scene.send(wire, &frame[..20 + at]);
        }
        let mut unicast = plain.clone();
        unicast[0..6].copy_from_slice(&[2, 0xff, 0xff, 0xff, 0xff, 0xff]);
        scene.send(wire, &unicast);
        unicast[0..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 1]);
        scene.send(wire, &unicast);
        scene.send(wire, &packet::ethernet(BROADCAST, [0; 6], IPV4, &ip));
    }
    scene.all_is_well();
}

/// Requirements: 5508-3, nat-8, nat-15, nat-17.
#[test]
fn icmp_errors_with_broken_quotes_do_no_harm() {
    let scene = Scene::new();
    // A flow that the quotes are about.
    let client = UdpClient::on_port(&scene.ns1, 4001);
    client.exchange(at(OUTSIDE, 53), b"a question");
    for (wire, src, dst, quote) in [
        (&scene.inside, NS1, OUTSIDE, Ip::new(OUTSIDE, NS1, UDP).udp(53, 4001, b"an answer")),
        (&scene.outside, OUTSIDE, UPLINK, Ip::new(UPLINK, OUTSIDE, UDP).udp(4001, 53, b"asked")),
    ] {
        for len in 0..quote.len() {
            scene.send_packet(wire, &error(src, dst, &quote[..len]));
        }
        for (at, byte) in [
            (0, 0x40),
            (0, 0x44),
            (0, 0x4f),
            (0, 0x65),
            (2, 0xff),
            (6, 0x20),
            (7, 1),
            (9, 1),
            (9, 132),
        ] {
            let mut quote = quote.clone();
            quote[at] = byte;
            scene.send_packet(wire, &error(src, dst, &quote));
        }
        // An error about an error, and one that quotes itself ever more deeply.
        let mut nested = error(dst, src, &quote);
        for _ in 0..5 {
            scene.send_packet(wire, &error(src, dst, &nested));
            nested = error(dst, src, &nested);
        }
    }
    client.exchange(at(OUTSIDE, 53), b"the flow goes on");
    scene.all_is_well();
}

/// Requirements: 5382-2, nat-7, nat-15, nat-17.
#[test]
fn impossible_tcp_flags_do_no_harm() {
    let scene = Scene::new();
    for flags in 0..=255u8 {
        let port = 4000 + u16::from(flags);
        scene.send_packet(&scene.inside, &Ip::new(NS1, OUTSIDE, TCP).tcp(port, 80, flags, 1, 1));
        scene.send_packet(
            &scene.outside,
            &Ip::new(OUTSIDE, UPLINK, TCP).tcp(port, 8080, flags, 1, 1),
        );
        scene
            .send_packet(&scene.outside, &Ip::new(OUTSIDE, UPLINK, TCP).tcp(80, port, flags, 1, 1));
        scene.send_packet(&scene.inside, &Ip::new(NS1, OUTSIDE, TCP).tcp(80, port, flags, 1, 1));
    }
    scene.all_is_well();
}
