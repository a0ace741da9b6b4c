//! What stands on the wire, byte for byte, with all offloads off.

use netbpf_tests::{
    GATEWAY, Host, NS1, NS2, Netns, OUTSIDE, Options, Packet, UPLINK, Wire, at, packet,
    traffic::{Echo, FrameSocket, Pong, TcpServer, UdpClient, UdpServer, connect, ping},
    wait,
};
use std::{io, net::Ipv4Addr};

fn honest_host() -> Host {
    Host::with(Options { offloads: false, ..Options::default() })
}

/// The next packet of a protocol between two addresses on the way.
fn seen(capture: &FrameSocket, proto: u8, src: Ipv4Addr, dst: Ipv4Addr) -> packet::Seen {
    let what = format!("protocol {proto} from {src} to {dst}");
    let found = capture.find(&what, |frame| {
        frame.ip().filter(|ip| (ip.proto, ip.src, ip.dst) == (proto, src, dst))
    });
    assert!(found.checksums_ok(), "checksums of {what}: {found:02x?}");
    found
}

/// Requirements: nat-11, nat-12, 4787-10.
#[test]
fn translated_packets_have_the_right_addresses_ports_macs_ttl_and_checksums() {
    let host = honest_host();
    host.up("--namespaces 1 -p 8080:ns1:80 -p 5353:ns1:53/udp");
    let ns1 = host.ns("ns1");
    let outside = FrameSocket::open(host.outside(), "out0");
    let inside = FrameSocket::open(&ns1, "eth0");
    let (out_mac, up_mac) = (host.outside().mac("out0"), host.netns().mac("up0"));
    let (own_mac, gateway_mac) = (ns1.mac("eth0"), host.netns().mac("netbpf0"));

    let server = UdpServer::start(host.outside(), 53);
    let client = UdpClient::on_port(&ns1, 5001);
    client.exchange(at(OUTSIDE, server.port()), b"odd");
    let request = seen(&outside, packet::UDP, UPLINK, OUTSIDE);
    assert_eq!((request.src_mac, request.dst_mac), (up_mac, out_mac));
    assert_eq!((request.ports(), request.ttl), (Some((5001, 53)), 63));
    let reply = seen(&inside, packet::UDP, OUTSIDE, NS1);
    assert_eq!((reply.src_mac, reply.dst_mac), (gateway_mac, own_mac));
    assert_eq!((reply.ports(), reply.ttl), (Some((53, 5001)), 63));

    assert_eq!(ping(&ns1, OUTSIDE, Echo::default()), Pong::Reply(OUTSIDE, 63));
    assert_eq!(seen(&outside, packet::ICMP, UPLINK, OUTSIDE).ttl, 63);
    seen(&inside, packet::ICMP, OUTSIDE, NS1);

    let _web = TcpServer::start(&ns1, 80);
    connect(host.outside(), at(UPLINK, 8080)).expect("8080").echo(b"odd").expect("echo");
    let syn = seen(&inside, packet::TCP, OUTSIDE, NS1);
    assert_eq!((syn.src_mac, syn.dst_mac, syn.ttl), (gateway_mac, own_mac, 63));
    assert_eq!(syn.ports().map(|ports| ports.1), Some(80));
    let syn_ack = seen(&outside, packet::TCP, UPLINK, OUTSIDE);
    assert_eq!((syn_ack.src_mac, syn_ack.dst_mac, syn_ack.ttl), (up_mac, out_mac, 63));
    assert_eq!(syn_ack.ports().map(|ports| ports.0), Some(8080));
}

/// Requirements: nat-13.
#[test]
fn bridged_packets_are_not_changed() {
    let host = honest_host();
    host.up("--namespaces 2");
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let capture = FrameSocket::open(&ns2, "eth0");
    let raw = FrameSocket::open(&ns1, "eth0");
    let ip = packet::Ip { ttl: 1, ..packet::Ip::new(NS1, NS2, packet::UDP) };
    let frame =
        packet::ethernet(ns2.mac("eth0"), ns1.mac("eth0"), packet::IPV4, &ip.udp(1, 2, b"same"));
    raw.send(&frame).expect("send");
    capture.find("the very frame", |seen| (seen.bytes == frame).then_some(()));
}

/// Requirements: nat-11.
#[test]
fn a_udp_datagram_without_checksum_stays_without() {
    let host = honest_host();
    host.up("--namespaces 1");
    let ns1 = host.ns("ns1");
    let capture = FrameSocket::open(host.outside(), "out0");
    let mut datagram = packet::Ip::new(NS1, OUTSIDE, packet::UDP).udp(4000, 4001, b"bare");
    datagram[26..28].fill(0);
    send_to_gateway(&host, &ns1, &datagram);
    let translated = seen(&capture, packet::UDP, UPLINK, OUTSIDE);
    assert_eq!(translated.payload[6..8], [0, 0]);
}

fn send_to_gateway(host: &Host, ns: &Netns, ip: &[u8]) {
    let frame = packet::ethernet(host.netns().mac("netbpf0"), ns.mac("eth0"), packet::IPV4, ip);
    FrameSocket::open(ns, "eth0").send(&frame).expect("send");
}

/// A frame longer than its packet: by as much as Ethernet pads, and more.
///
/// Requirements: 4787-10, nat-11.
#[test]
fn what_is_behind_the_packet_in_a_frame_is_not_forwarded() {
    let host = honest_host();
    host.up("--namespaces 1");
    let ns1 = host.ns("ns1");
    let (inside, outside) = (Wire::inside(&host, &ns1), Wire::outside(&host));
    let padded = |frame: Vec<u8>, by: usize| [frame, vec![0x5a; by]].concat();
    // (Nobody in between pads: these are no real wires.)
    let arrives = |to: &Wire, packet: packet::Ip, len: usize| {
        let (src, dst) = (packet.src, packet.dst);
        let frame = to.frames().find("the packet", |frame| {
            let seen = frame.ip().filter(|ip| (ip.src, ip.dst) == (src, dst))?;
            (!frame.outgoing && seen.proto == packet::UDP).then(|| (frame.bytes.clone(), seen))
        });
        assert_eq!(frame.0.len(), 14 + len);
        assert!(frame.1.checksums_ok(), "{frame:02x?}");
    };
    let ip = |src, dst| packet::Ip::new(src, dst, packet::UDP);
    for (n, by) in [0, 1, 15, 1400].into_iter().enumerate() {
        let port = 4000 + u16::try_from(n).expect("few");
        let sent = ip(NS1, OUTSIDE).udp(port, 9, b"odd");
        inside.frames().send(&padded(inside.frame(&sent), by)).expect("send");
        arrives(&outside, ip(UPLINK, OUTSIDE), sent.len());
        let answer = ip(OUTSIDE, UPLINK).udp(9, port, b"odd");
        outside.frames().send(&padded(outside.frame(&answer), by)).expect("send");
        arrives(&inside, ip(OUTSIDE, NS1), answer.len());
    }
}

/// RFC 1812 section 5.2.2: what was damaged on the way here goes no further.
///
/// Requirements: nat-11, nat-17.
#[test]
fn a_packet_with_a_wrong_header_checksum_is_not_forwarded() {
    let host = honest_host();
    host.up("--namespaces 1 -p 5353:ns1:53/udp");
    let ns1 = host.ns("ns1");
    let (inside, outside) = (Wire::inside(&host, &ns1), Wire::outside(&host));
    let _quiet = [UdpClient::on_port(&ns1, 53), UdpClient::on_port(host.outside(), 53)];
    let wrong = |mut packet: Vec<u8>| {
        packet[10] ^= 0x10;
        packet
    };
    for options in [vec![], vec![1, 1, 1, 1]] {
        let ip = |src, dst| {
            let options = options.clone();
            packet::Ip { options, ..packet::Ip::new(src, dst, packet::UDP) }
        };
        let (out, back) = (ip(NS1, OUTSIDE), ip(OUTSIDE, UPLINK));
        for (from, to, sent, src) in [
            (&inside, &outside, [out.udp(4001, 53, b"wrong"), out.udp(4002, 53, b"right")], UPLINK),
            (
                &outside,
                &inside,
                [back.udp(701, 5353, b"wrong"), back.udp(702, 5353, b"right")],
                OUTSIDE,
            ),
        ] {
            let [damaged, whole] = sent;
            from.send(&wrong(damaged.clone()));
            from.send(&whole);
            let is_it = |p: &Packet| p.seen.proto == packet::UDP && p.seen.src == src;
            let first = to.receive("the right packet", is_it);
            assert!(first.bytes.ends_with(b"right"), "{first:02x?}");
            // Of a flow that there is.
            from.send(&damaged);
            to.receive("the other flow's packet", is_it);
            from.send(&wrong(damaged));
            from.send(&whole);
            let next = to.receive("the right packet", is_it);
            assert!(next.bytes.ends_with(b"right"), "{next:02x?}");
        }
    }
    host.wait_dropped("ns1", "bad_checksum", 2);
}

/// Requirements: nat-9.
#[test]
fn a_time_to_live_that_runs_out_is_told_by_the_gateway() {
    let host = Host::new();
    host.up("--namespaces 1");
    let ns1 = host.ns("ns1");
    let dying = ping(&ns1, OUTSIDE, Echo { ttl: 1, ..Echo::default() });
    assert_eq!(dying, Pong::Error(GATEWAY, 11, 0));
    let enough = ping(&ns1, OUTSIDE, Echo { ttl: 2, ..Echo::default() });
    assert!(enough.is_reply(), "{enough:?}");
}

#[test]
fn a_closed_tcp_port_outside_is_told_as_connection_refused() {
    let host = honest_host();
    host.up("--namespaces 1");
    let error = connect(&host.ns("ns1"), at(OUTSIDE, 4)).err().map(|e| e.kind());
    assert_eq!(error, Some(io::ErrorKind::ConnectionRefused));
}

#[test]
fn the_next_hops_mac_is_found_and_followed() {
    let host = Host::new();
    host.netns().ip("neigh flush dev up0");
    host.up("--namespaces 1");
    let ns1 = host.ns("ns1");
    assert!(ping(&ns1, OUTSIDE, Echo::default()).is_reply(), "the first packet of all");
    let server = UdpServer::start(host.outside(), 53);
    let client = UdpClient::new(&ns1);
    client.exchange(at(OUTSIDE, server.port()), b"before");

    // The router is replaced by another with the same address, and back.
    let old = host.outside().link("out0")["address"].as_str().expect("a MAC").to_owned();
    for mac in ["02:00:00:00:77:01", &old] {
        for change in ["down", &format!("address {mac}"), "up"] {
            host.outside().ip(&format!("link set out0 {change}"));
        }
        host.outside().wait_up("out0");
        host.netns().wait_up("up0");
        // As the announcement of the new router (a gratuitous ARP) would do.
        host.netns().ip(&format!("neigh replace {OUTSIDE} lladdr {mac} dev up0 nud stale"));
        wait::until_true("the flow goes to the new MAC", || {
            client.send(at(OUTSIDE, server.port()), mac.as_bytes()).expect("send");
            client.receive_brief().is_some_and(|answer| answer == mac.as_bytes())
        });
    }
    assert_eq!(server.peers().len(), 1, "the same flow as before");
}
