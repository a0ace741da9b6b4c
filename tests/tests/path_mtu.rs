//! Packets too large for the way: who sent them hears of it, or they arrive in pieces.

use netbpf_tests::{
    FAR, Far, GATEWAY, Host, Netns, OUTSIDE, Options, ROUTER, UPLINK, Wire, at, later,
    packet::{ICMP, Ip, UDP},
    sample,
    traffic::{Heard, TcpServer, UdpClient, UdpProbe, UdpServer, connect},
    wait,
};
use nix::errno::Errno;
use std::net::{Ipv4Addr, SocketAddrV4};

const DONT_FRAGMENT: u16 = 0x4000;
const MEGABYTE: u64 = 1 << 20;

/// UDP payload in a packet of that length.
const fn datagram(packet: usize) -> usize {
    packet - 28
}

/// What the kernel tells of "fragmentation needed".
fn fragmentation_needed(offender: Ipv4Addr, mtu: u32) -> Heard {
    Heard { errno: Errno::EMSGSIZE, icmp: (3, 4), mtu, offender }
}

/// A socket that sends more than the way takes is told so by `offender`, then
/// knows the MTU, and is served within it.
#[track_caller]
fn learns_the_mtu(what: &str, probe: &UdpProbe, offender: Ipv4Addr, mtu: u16) {
    let (fits, too_large) = (datagram(mtu.into()), datagram(usize::from(mtu) + 1));
    let heard = probe.dont_fragment(true).hear(&sample(too_large));
    assert_eq!(heard, fragmentation_needed(offender, mtu.into()), "{what}");
    let refused = probe.send(&sample(too_large)).map_err(|e| e.raw_os_error());
    assert_eq!(refused, Err(Some(Errno::EMSGSIZE as i32)), "{what}");
    assert_eq!(probe.mtu(), i32::from(mtu), "{what}");
    probe.exchange(&sample(fits));
}

/// A namespace, a published port of it, and a machine behind a hop of 1300 bytes.
fn narrow_beyond(offloads: bool) -> (Host, Netns, Far) {
    let host = Host::with(Options { offloads, ..Options::default() });
    host.up("--namespaces 1 -p 5353:ns1:53/udp -p 8080:ns1:80");
    let (ns1, far) = (host.ns("ns1"), Far::behind(&host, 1300));
    (host, ns1, far)
}

/// Requirements: 4787-12, 5508-4, nat-8.
#[test]
fn udp_learns_the_mtu_of_a_smaller_hop_outside() {
    let (_host, ns1, far) = narrow_beyond(false);
    let _server = UdpServer::start(far.netns(), 53);
    let probe = UdpProbe::connect(&ns1, at(FAR, 53));
    learns_the_mtu("outwards", &probe, OUTSIDE, 1300);
}

/// Requirements: 4787-12, 5508-4, nat-8.
#[test]
fn udp_answers_of_a_published_port_learn_the_mtu_of_a_smaller_hop_outside() {
    let (_host, ns1, far) = narrow_beyond(false);
    let server = UdpClient::on_port(&ns1, 53);
    let client = UdpProbe::connect(far.netns(), at(UPLINK, 5353));
    client.send(b"a question").expect("send");
    let (_, from) = server.receive().expect("the question");
    assert_eq!(from.ip(), FAR);
    drop(server);
    let answer = UdpProbe::connect_from(&ns1, 53, at(FAR, from.port()));
    let heard = answer.dont_fragment(true).hear(&sample(datagram(1301)));
    assert_eq!(heard, fragmentation_needed(OUTSIDE, 1300));
    assert_eq!(answer.mtu(), 1300);
    answer.send(&sample(datagram(1300))).expect("it fits");
    assert_eq!(client.receive().expect("an answer").len(), datagram(1300));
}

/// Requirements: 5382-9, 5508-4, nat-8.
#[test]
fn tcp_gets_through_a_smaller_hop_outside_in_every_direction() {
    for offloads in [true, false] {
        let (_host, ns1, far) = narrow_beyond(offloads);
        let _beyond = TcpServer::start(far.netns(), 80);
        let _within = TcpServer::start(&ns1, 80);
        for (from, to) in [(&ns1, at(FAR, 80)), (far.netns(), at(UPLINK, 8080))] {
            let mut client = connect(from, to).unwrap_or_else(|e| panic!("{to}: {e}"));
            client.upload(2 * MEGABYTE).unwrap_or_else(|e| panic!("to {to}: {e}"));
            client.download(2 * MEGABYTE).unwrap_or_else(|e| panic!("from {to}: {e}"));
        }
    }
}

/// The hop is far enough away that neither end's own MTU tells of it: both
/// ends have 1500, the wire between router and host has 1300.
///
/// Requirements: 4787-13, 5382-9, 5508-4, 5508-5, nat-8, nat-9.
#[test]
fn both_ends_learn_of_a_smaller_uplink_between_them() {
    for offloads in [true, false] {
        let host = Host::with(Options { mtu: 1300, offloads, ..Options::default() });
        host.up("--namespaces 1 --mtu 1500 -p 5353:ns1:53/udp -p 8080:ns1:80");
        let (ns1, far) = (host.ns("ns1"), Far::behind(&host, 1500));
        let _tcp = [TcpServer::start(&ns1, 80), TcpServer::start(far.netns(), 80)];
        for (from, to) in [(&ns1, at(FAR, 80)), (far.netns(), at(UPLINK, 8080))] {
            let mut client = connect(from, to).unwrap_or_else(|e| panic!("{to}: {e}"));
            client.upload(2 * MEGABYTE).unwrap_or_else(|e| panic!("to {to}: {e}"));
            client.download(2 * MEGABYTE).unwrap_or_else(|e| panic!("from {to}: {e}"));
        }
        let _udp = [UdpServer::start(&ns1, 53), UdpServer::start(far.netns(), 53)];
        for ns in [&ns1, far.netns()] {
            ns.ip("route flush cache");
        }
        let outwards = UdpProbe::connect(&ns1, at(FAR, 53));
        learns_the_mtu("outwards, from the gateway", &outwards, GATEWAY, 1300);
        let inwards = UdpProbe::connect(far.netns(), at(UPLINK, 5353));
        learns_the_mtu("inwards, from the router", &inwards, ROUTER, 1300);
    }
}

/// Requirements: 4787-13, nat-9.
#[test]
fn without_dont_fragment_the_gateway_fragments_for_a_smaller_uplink() {
    let host = Host::with(Options { mtu: 1300, offloads: false, ..Options::default() });
    host.up("--namespaces 1 --mtu 1500 -p 5353:ns1:53/udp");
    let ns1 = host.ns("ns1");
    // So that the servers' answers may be fragmented as well.
    ns1.sysctl("net/ipv4/ip_no_pmtu_disc", "1");
    let _udp = [UdpServer::start(&ns1, 53), UdpServer::start(host.outside(), 53)];
    let client = UdpProbe::connect(&ns1, at(OUTSIDE, 53));
    for len in [datagram(1301), datagram(1500), 4000] {
        client.exchange(&sample(len));
        UdpProbe::connect(host.outside(), at(UPLINK, 5353)).exchange(&sample(len));
    }
}

/// A host whose namespaces have a smaller MTU than its uplink.
fn narrow_within() -> (Host, Netns, Wire) {
    let host = Host::with(Options { offloads: false, ..Options::default() });
    host.up("--namespaces 1 --mtu 1300 -p 5353:ns1:53/udp -p 8080:ns1:80");
    let (ns1, outside) = (host.ns("ns1"), Wire::outside(&host));
    (host, ns1, outside)
}

/// Requirements: 4787-13, nat-9, nat-12.
#[test]
fn a_client_outside_learns_the_smaller_mtu_of_the_namespaces() {
    let (host, ns1, _) = narrow_within();
    let _server = UdpServer::start(&ns1, 53);
    let client = UdpProbe::connect(host.outside(), at(UPLINK, 5353));
    learns_the_mtu("inwards", &client, UPLINK, 1300);
}

/// Requirements: 4787-13, nat-9, nat-12.
#[test]
fn a_server_outside_learns_the_smaller_mtu_of_the_namespaces() {
    let (host, ns1, outside) = narrow_within();
    let server = UdpClient::on_port(host.outside(), 53);
    let client = UdpClient::on_port(&ns1, 5000);
    client.send(at(OUTSIDE, 53), b"a question").expect("send");
    let (_, from) = server.receive().expect("the question");
    let ip = Ip { fragment: DONT_FRAGMENT, ..Ip::new(OUTSIDE, UPLINK, UDP) };
    let answer = ip.udp(53, from.port(), &sample(datagram(1301)));
    outside.send(&answer);
    let error = outside.receive("fragmentation needed", |packet| packet.seen.proto == ICMP);
    assert_eq!((error.seen.src, error.seen.dst), (UPLINK, OUTSIDE));
    assert_eq!(error.error(), Some((3, 4)), "{error:02x?}");
    let (rest, quote) = error.quote();
    assert_eq!(rest, [0, 0, 0x05, 0x14], "the MTU of the next hop");
    assert!(quote.len() >= 28, "{} bytes are quoted", quote.len());
    // Whether the hop that it could not take is counted is nobody's concern.
    let unchanged = [&answer[..], &later(&answer, 1)];
    assert!(unchanged.iter().any(|sent| sent.starts_with(quote)), "{quote:02x?}");
    assert!(client.receive_brief().is_none(), "it does not get through");
    outside.send(&ip.udp(53, from.port(), &sample(datagram(1300))));
    assert_eq!(client.receive().expect("what fits").0.len(), datagram(1300));
}

/// Requirements: 4787-13, nat-9, nat-12.
#[test]
fn without_dont_fragment_larger_packets_from_outside_arrive_all_the_same() {
    let (host, ns1, outside) = narrow_within();
    // So that the server's answers may be fragmented as well.
    host.outside().sysctl("net/ipv4/ip_no_pmtu_disc", "1");
    let server = UdpServer::start(&ns1, 53);
    let published: SocketAddrV4 = at(UPLINK, 5353);
    for len in [datagram(1301), datagram(1500), 5000] {
        UdpProbe::connect(host.outside(), published).exchange(&sample(len));
    }
    let asking = UdpProbe::connect_from(host.outside(), 700, published);
    outside.send(&Ip::new(OUTSIDE, UPLINK, UDP).udp(700, 5353, &sample(1400)));
    assert!(asking.receive().expect("an answer") == sample(1400));
    drop(server);

    let _server = UdpServer::start(host.outside(), 53);
    let client = UdpProbe::connect(&ns1, at(OUTSIDE, 53));
    client.exchange(&sample(datagram(1500)));
    host.outside().sysctl("net/ipv4/ip_no_pmtu_disc", "0");
}

/// Requirements: 5382-9, nat-9, nat-12.
#[test]
fn tcp_gets_through_to_namespaces_of_a_smaller_mtu() {
    for offloads in [true, false] {
        let host = Host::with(Options { offloads, ..Options::default() });
        host.up("--namespaces 1 --mtu 1300 -p 8080:ns1:80");
        let ns1 = host.ns("ns1");
        let _tcp = [TcpServer::start(&ns1, 80), TcpServer::start(host.outside(), 80)];
        for (from, to) in [(&ns1, at(OUTSIDE, 80)), (host.outside(), at(UPLINK, 8080))] {
            let mut client = connect(from, to).unwrap_or_else(|e| panic!("{to}: {e}"));
            client.upload(2 * MEGABYTE).unwrap_or_else(|e| panic!("to {to}: {e}"));
            client.download(2 * MEGABYTE).unwrap_or_else(|e| panic!("from {to}: {e}"));
        }
    }
}

/// What the outside sends stays in one piece up to the namespace, if devices can cut it
/// there: still no segment is longer than the namespace takes.
///
/// Requirements: 4787-13, nat-9, nat-12.
#[test]
fn segments_too_long_for_the_namespace_are_told_of_or_cut_up_again() {
    let host = Host::new();
    host.up("--namespaces 1 --mtu 1300 -p 5353:ns1:53/udp");
    let ns1 = host.ns("ns1");
    let server = UdpClient::on_port(&ns1, 53);
    let data = sample(10 * 1400);
    let client = UdpProbe::connect(host.outside(), at(UPLINK, 5353));
    let heard = client.segments(1400, true).hear(&data);
    assert_eq!(heard, fragmentation_needed(UPLINK, 1300));
    client.segments(1400, false).send(&data).expect("send");
    for (n, segment) in data.chunks(1400).enumerate() {
        let (received, from) = server.receive().unwrap_or_else(|e| panic!("segment {n}: {e}"));
        assert_eq!((received.as_slice(), from.port()), (segment, client.port()), "segment {n}");
    }
    // What fits is nobody's business.
    client.segments(1272, true).send(&data).expect("send");
    for segment in data.chunks(1272) {
        assert_eq!(server.receive().expect("a segment that fits").0, segment);
    }
}

/// Old stacks, and those told to, let routers fragment TCP.
///
/// Requirements: 4787-13, 4787-14, nat-9, nat-10.
#[test]
fn tcp_that_may_be_fragmented_gets_through_in_pieces() {
    let host = Host::with(Options { mtu: 1300, offloads: false, ..Options::default() });
    host.up("--namespaces 1 --mtu 1500 -p 8080:ns1:80");
    let (ns1, far) = (host.ns("ns1"), Far::behind(&host, 1500));
    for ns in [&ns1, far.netns()] {
        ns.sysctl("net/ipv4/ip_no_pmtu_disc", "1");
    }
    let _tcp = [TcpServer::start(&ns1, 80), TcpServer::start(far.netns(), 80)];
    let outside = Wire::outside(&host);
    for (from, to) in [(&ns1, at(FAR, 80)), (far.netns(), at(UPLINK, 8080))] {
        let mut client = connect(from, to).unwrap_or_else(|e| panic!("{to}: {e}"));
        client.upload(MEGABYTE / 4).unwrap_or_else(|e| panic!("to {to}: {e}"));
        client.download(MEGABYTE / 4).unwrap_or_else(|e| panic!("from {to}: {e}"));
    }
    wait::until_true("pieces were seen on the wire", || {
        outside.received().iter().any(|packet| packet.bytes[6] & 0x20 != 0)
    });
}
