//! Storms of packets that are odd in one way or another: nothing leaks, nothing
//! breaks, and traffic flows on.

use netbpf_tests::{
    GATEWAY, Host, NS1, NS2, OUTSIDE, UPLINK, at, packet,
    traffic::{Echo, Frame, FrameSocket, TcpServer, UdpClient, UdpServer, connect, ping},
};
use packet::{IPV4, Ip, Mac, UDP};
use std::net::Ipv4Addr;

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 7);

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
    fn packet(&mut self, way: &Way) -> Vec<u8> {
        let src = self.mostly(way.src, way.odd_src);
        let far = Ipv4Addr::new(198, 51, 100, self.byte());
        let dst = self.mostly(way.dst, &[far, way.odd_dst, Ipv4Addr::new(224, 0, 0, 251)]);
        let ip = Ip {
            ttl: self.mostly(64, &[0, 1, 2, 255]),
            fragment: self.mostly(0, &[0x4000, 0x2000, 0x2001, 0x0010, 0x8000]),
            options: self.mostly(vec![], &[vec![1; 4], vec![0; 40], vec![7, 39, 4, 0]]),
            id: self.word(),
            ..Ip::new(src, dst, UDP)
        };
        let quote = Ip::new(dst, src, UDP).udp(self.word(), self.word(), b"quoted");
        let (sport, random) = (self.word(), self.word());
        let dport = way.port.unwrap_or(random);
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
    fn frame(&mut self, dst: Mac, src: Mac, way: &Way) -> Vec<u8> {
        let mut ip = self.packet(way);
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

/// Where the packets of a storm come from and go to, mostly.
struct Way {
    src: Ipv4Addr,
    odd_src: &'static [Ipv4Addr],
    dst: Ipv4Addr,
    odd_dst: Ipv4Addr,
    port: Option<u16>,
}

/// Requirements: nat-15, nat-17.
#[test]
fn no_private_source_ever_leaves_by_the_uplink() {
    let host = Host::new();
    host.up("--namespaces 3 -p 8080:ns1:80");
    let ns1 = host.ns("ns1");
    let raw = FrameSocket::open(&ns1, "eth0");
    let capture = FrameSocket::open(host.outside(), "out0");
    let (own, gateway) = (ns1.mac("eth0"), host.netns().mac("netbpf0"));
    let way = Way {
        src: NS1,
        odd_src: &[NS2, GATEWAY, ELSEWHERE, Ipv4Addr::UNSPECIFIED],
        dst: OUTSIDE,
        odd_dst: UPLINK,
        port: None,
    };
    let mut dice = Dice(1);
    let mut seen = 0;
    for _ in 0..20 {
        for _ in 0..250 {
            // The kernel itself refuses frames without a whole header.
            drop(raw.send(&dice.frame(gateway, own, &way)));
        }
        assert!(ping(&ns1, OUTSIDE, Echo::default()).is_reply(), "traffic flows on");
        for frame in capture.captured().iter().filter(|frame| !frame.outgoing) {
            assert_public(&frame.bytes);
            seen += 1;
        }
    }
    assert!(seen > 500, "the storm was a breeze: {seen} packets came out");
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

/// Requirements: nat-15.
#[test]
fn what_ends_a_connection_that_nobody_knows_does_not_leak() {
    let host = Host::new();
    host.up("--namespaces 1");
    let ns1 = host.ns("ns1");
    let raw = FrameSocket::open(&ns1, "eth0");
    let capture = FrameSocket::open(host.outside(), "out0");
    let (own, gateway) = (ns1.mac("eth0"), host.netns().mac("netbpf0"));
    for flags in [1, 4, 16, 17, 20] {
        let late = Ip::new(NS1, OUTSIDE, packet::TCP).tcp(40000, 443, flags, 1, 1);
        let frame = packet::ethernet(gateway, own, IPV4, &late);
        raw.send(&frame).expect("send");
    }
    // What comes last came out last.
    let server = UdpServer::start(host.outside(), 53);
    UdpClient::new(&ns1).exchange(at(OUTSIDE, server.port()), b"marker");
    for frame in capture.captured().iter().filter(|frame| !frame.outgoing) {
        assert_public(&frame.bytes);
    }
}

/// From outside, to a published port and to the host.
///
/// Requirements: nat-17, nat-14.
#[test]
fn nothing_broken_or_forged_gets_in_from_outside() {
    let host = Host::new();
    host.up("--namespaces 2 -p 8080:ns1:80 -p 8080:ns1:80/udp");
    let ns1 = host.ns("ns1");
    let raw = FrameSocket::open(host.outside(), "out0");
    let capture = FrameSocket::open(&ns1, "eth0");
    let _web = TcpServer::start(&ns1, 80);
    let (own, uplink) = (host.outside().mac("out0"), host.netns().mac("up0"));
    let inside = ns1.mac("eth0");
    let way = Way {
        src: OUTSIDE,
        odd_src: &[NS1, NS2, GATEWAY, ELSEWHERE],
        dst: UPLINK,
        odd_dst: NS1,
        port: Some(8080),
    };
    let mut dice = Dice(2);
    let mut seen = 0;
    for _ in 0..20 {
        for _ in 0..250 {
            drop(raw.send(&dice.frame(uplink, own, &way)));
        }
        let mut client = connect(host.outside(), at(UPLINK, 8080)).expect("traffic flows on");
        client.echo(b"intact").expect("echo");
        let arrived = capture.captured();
        // The bridge's own multicast (IGMP) comes now and then.
        let unicast = |frame: &&Frame| !frame.outgoing && frame.bytes[0] & 1 == 0;
        for ip in arrived.iter().filter(unicast).filter_map(packet_in) {
            assert_eq!((ip.dst_mac, ip.dst), (inside, NS1), "{ip:02x?}");
            assert!(![NS1, NS2, GATEWAY].contains(&ip.src), "forged source: {ip:02x?}");
            assert!(ip.ttl > 0 && matches!(ip.proto, packet::TCP | UDP), "{ip:02x?}");
            let port = ip.ports().map(|(_, port)| port);
            assert_eq!(port, Some(80), "a port that is not published: {ip:02x?}");
            seen += 1;
        }
    }
    assert!(seen > 500, "the storm was a breeze: {seen} packets got in");
}

/// The IPv4 packet of a frame; a frame that claims to have one must have it.
fn packet_in(frame: &Frame) -> Option<packet::Seen> {
    let claims = frame.bytes.get(12..14) == Some(&IPV4.to_be_bytes());
    let ip = frame.ip();
    assert_eq!(ip.is_some(), claims, "a broken frame got in: {:02x?}", frame.bytes);
    ip
}
