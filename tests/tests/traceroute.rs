//! The time to live runs out: at the box, before it and beyond it, and whoever
//! sent the packet hears from where.

use netbpf_tests::{
    FAR, Far, GATEWAY, Host, Lookout, NS1, OUTSIDE, Options, Packet, ROUTER, UPLINK, Wire, at,
    ethtool, later,
    packet::{ICMP, Ip, TCP, UDP},
    sample,
    traffic::{Echo, FrameSocket, Heard, Pong, UdpClient, UdpProbe, UdpServer, ping},
};
use nix::errno::Errno;

const TIME_EXCEEDED: (u8, u8) = (11, 0);

fn routed() -> (Host, Far) {
    let host = Host::with(Options { offloads: false, ..Options::default() });
    host.up("--namespaces 1 -p 5353:ns1:53/udp -p 8080:ns1:80");
    let far = Far::behind(&host, 1500);
    (host, far)
}

/// Requirements: 4787-12, 5508-4, 5508-10, nat-8, nat-9.
#[test]
fn udp_probes_outwards_show_the_box_then_the_router_then_the_target() {
    let (host, far) = routed();
    let ns1 = host.ns("ns1");
    for (ttl, offender, icmp, errno) in [
        (1, GATEWAY, TIME_EXCEEDED, Errno::EHOSTUNREACH),
        (2, OUTSIDE, TIME_EXCEEDED, Errno::EHOSTUNREACH),
        (3, FAR, (3, 3), Errno::ECONNREFUSED),
    ] {
        // One flow for all, and a flow for each: as traceroutes differ.
        for port in [5000, 5000 + ttl] {
            let port = u16::try_from(port).expect("a port");
            let probe = UdpProbe::connect_from(&ns1, port, at(FAR, 33_434));
            let heard = probe.ttl(ttl).hear(b"how far?");
            assert_eq!(heard, Heard { errno, icmp, mtu: 0, offender }, "hop {ttl}");
        }
    }
    drop(far);
}

/// Requirements: 5508-1, 5508-4, 5508-10, nat-8, nat-9.
#[test]
fn icmp_probes_outwards_show_the_box_then_the_router_then_the_target() {
    let (host, far) = routed();
    let ns1 = host.ns("ns1");
    for (ttl, expected) in [
        (1, Pong::Error(GATEWAY, 11, 0)),
        (2, Pong::Error(OUTSIDE, 11, 0)),
        (3, Pong::Reply(FAR, 62)),
    ] {
        let pong = ping(&ns1, FAR, Echo { ttl, id: Some(77), ..Echo::default() });
        assert_eq!(pong, expected, "hop {ttl}");
    }
    drop(far);
}

/// Requirements: 5508-4, 5508-10, nat-8, nat-9.
#[test]
fn tcp_probes_outwards_show_the_box_then_the_router_then_the_target() {
    let (host, far) = routed();
    let ns1 = host.ns("ns1");
    let inside = Wire::inside(&host, &ns1);
    for (ttl, offender) in [(1, GATEWAY), (2, OUTSIDE)] {
        let syn = Ip { ttl, ..Ip::new(NS1, FAR, TCP) }.tcp(5001, 80, 2, 1, 0);
        inside.send(&syn);
        let error = inside.receive("an error", |packet| packet.is(ICMP, offender, NS1));
        assert_eq!(error.error(), Some(TIME_EXCEEDED), "hop {ttl}");
        let quote = error.quote().1;
        // When it ran out, the router had it with the last hop still to count.
        let ran_out = later(&syn, ttl - 1);
        assert_eq!(quote, &ran_out[..quote.len()], "hop {ttl}");
    }
    inside.send(&Ip { ttl: 3, ..Ip::new(NS1, FAR, TCP) }.tcp(5001, 80, 2, 1, 0));
    inside.receive("the target's RST", |packet| packet.is(TCP, FAR, NS1));
    drop(far);
}

/// Requirements: 5508-5, 5508-10, nat-8, nat-9.
#[test]
fn udp_probes_from_outside_to_a_published_port_show_the_router_then_the_box_then_the_port() {
    let (_host, far) = routed();
    for (ttl, offender, icmp, errno) in [
        (1, ROUTER, TIME_EXCEEDED, Errno::EHOSTUNREACH),
        (2, UPLINK, TIME_EXCEEDED, Errno::EHOSTUNREACH),
        (3, UPLINK, (3, 3), Errno::ECONNREFUSED),
    ] {
        let probe = UdpProbe::connect_from(far.netns(), 6000, at(UPLINK, 5353));
        let heard = probe.ttl(ttl).hear(b"how far?");
        assert_eq!(heard, Heard { errno, icmp, mtu: 0, offender }, "hop {ttl}");
    }
    drop(far);
}

#[track_caller]
fn is_time_exceeded(error: &Packet, sent: &[u8]) {
    assert_eq!((error.seen.src, error.seen.dst), (UPLINK, OUTSIDE), "{error:02x?}");
    assert_eq!(error.error(), Some(TIME_EXCEEDED), "{error:02x?}");
    let (rest, quote) = error.quote();
    assert_eq!(rest, [0; 4]);
    assert!(quote.len() >= 28, "{} bytes are quoted", quote.len());
    assert_eq!(quote, &sent[..quote.len()], "the quote is what was sent");
}

/// Requirements: 5508-10, nat-8, nat-9, nat-17.
#[test]
fn a_packet_to_a_published_port_whose_time_runs_out_is_told_to_the_sender() {
    let (host, far) = routed();
    let (inside, outside) = (Wire::inside(&host, &host.ns("ns1")), Wire::outside(&host));
    let ip = |proto| Ip { ttl: 1, ..Ip::new(OUTSIDE, UPLINK, proto) };
    for sent in [ip(UDP).udp(700, 5353, b"late"), ip(TCP).tcp(701, 8080, 2, 5, 0)] {
        outside.send(&sent);
        let error = outside.receive("an error", |packet| packet.seen.proto == ICMP);
        is_time_exceeded(&error, &sent);
    }
    inside.receives_none("it went no further", |packet| packet.seen.src == OUTSIDE);
    drop(far);
}

/// With options a packet is the stack's, which has it translated: the sender hears of
/// what it has sent all the same.
///
/// Requirements: 5508-10, nat-8, nat-9, nat-15, nat-17.
#[test]
fn nor_do_ip_options_have_the_stack_tell_of_the_inside() {
    let (host, far) = routed();
    let (ns1, outside) = (host.ns("ns1"), Wire::outside(&host));
    let lookout = Lookout::outside(&host);
    let ip = |proto| {
        // Nothing, and "router alert": the stack writes into neither.
        let options = vec![1, 1, 1, 1, 148, 4, 0, 0];
        Ip { ttl: 1, options, ..Ip::new(OUTSIDE, UPLINK, proto) }
    };
    let is_told = |sent: &[u8]| {
        outside.send(sent);
        let error = outside.receive("an error", |packet| packet.seen.proto == ICMP);
        assert_eq!((error.seen.src, error.seen.dst), (UPLINK, OUTSIDE), "{error:02x?}");
        assert_eq!(error.error(), Some(TIME_EXCEEDED), "{error:02x?}");
        let quote = error.quote().1;
        assert!(quote.len() >= 40, "{} bytes are quoted", quote.len());
        assert_eq!(quote, &sent[..quote.len()], "the quote is what was sent");
    };
    // The first packet of a flow, and others.
    for sent in [ip(UDP).udp(700, 5353, b"late"), ip(TCP).tcp(701, 8080, 2, 5, 0)] {
        is_told(&sent);
        is_told(&sent);
    }
    // And an answer to what the namespace has asked.
    let server = UdpClient::on_port(host.outside(), 53);
    let client = UdpClient::on_port(&ns1, 5000);
    client.send(at(OUTSIDE, 53), b"a question").expect("send");
    let (_, from) = server.receive().expect("the question");
    is_told(&ip(UDP).udp(53, from.port(), b"late"));
    lookout.nothing_leaked();
    drop(far);
}

/// The sender's checksum is one that a device finishes, and the answer made of the
/// packet leaves by a device that finishes it.
///
/// Requirements: nat-9, nat-11.
#[test]
fn what_is_answered_with_an_error_may_have_left_its_checksum_to_a_device() {
    let host = Host::new();
    host.up("--namespaces 1 --mtu 1300 -p 5353:ns1:53/udp -p 8080:ns1:80");
    let ns1 = host.ns("ns1");
    let _server = UdpServer::start(&ns1, 53);
    ethtool::offloads_off(host.netns(), "up0");
    let wire = FrameSocket::open(host.outside(), "out0");
    let is_right = |what: &str, expected: (u8, u8)| {
        let error = wire.find(what, |frame| {
            let seen = frame.ip().filter(|ip| !frame.outgoing && ip.proto == ICMP)?;
            assert!(!frame.checksum_pending, "{what}: {seen:02x?}");
            Some(seen)
        });
        assert!(error.checksums_ok(), "{what}: {error:02x?}");
        assert_eq!((error.payload[0], error.payload[1]), expected, "{what}");
    };
    let probe = || UdpProbe::connect(host.outside(), at(UPLINK, 5353));
    let heard = probe().ttl(1).hear(b"the last hop");
    let errno = Errno::EHOSTUNREACH;
    assert_eq!(heard, Heard { errno, icmp: TIME_EXCEEDED, mtu: 0, offender: UPLINK });
    is_right("about a datagram", TIME_EXCEEDED);
    let heard = probe().dont_fragment(true).hear(&sample(1400));
    let (errno, icmp) = (Errno::EMSGSIZE, (3, 4));
    assert_eq!(heard, Heard { errno, icmp, mtu: 1300, offender: UPLINK });
    is_right("about a long one", (3, 4));
    let heard = probe().ttl(1).segments(1200, true).hear(&sample(12_000));
    let errno = Errno::EHOSTUNREACH;
    assert_eq!(heard, Heard { errno, icmp: TIME_EXCEEDED, mtu: 0, offender: UPLINK });
    is_right("about a train", TIME_EXCEEDED);
}

/// Requirements: 5508-10, nat-8, nat-9, nat-17.
#[test]
fn an_answer_whose_time_runs_out_is_told_to_the_server() {
    let (host, far) = routed();
    let ns1 = host.ns("ns1");
    let outside = Wire::outside(&host);
    let server = UdpClient::on_port(host.outside(), 53);
    let client = UdpClient::on_port(&ns1, 5000);
    client.send(at(OUTSIDE, 53), b"a question").expect("send");
    let (_, from) = server.receive().expect("the question");
    let sent = Ip { ttl: 1, ..Ip::new(OUTSIDE, UPLINK, UDP) }.udp(53, from.port(), b"late");
    outside.send(&sent);
    let error = outside.receive("an error", |packet| packet.seen.proto == ICMP);
    is_time_exceeded(&error, &sent);
    let sent = Ip { ttl: 2, ..Ip::new(OUTSIDE, UPLINK, UDP) }.udp(53, from.port(), b"in time");
    outside.send(&sent);
    assert_eq!(client.receive().expect("an answer").0, b"in time");
    drop(far);
}
