//! ICMP errors: each reaches the one who sent the packet that it is about, and
//! quotes it as it was sent.

use netbpf_tests::{
    Host, NS1, Netns, OUTSIDE, Options, Packet, ROUTER, UPLINK, Wire, at, later,
    packet::{ICMP, Ip, TCP, UDP},
    reference,
    traffic::{Echo, TcpServer, UdpClient, UdpProbe, UdpServer, connect, ping},
};
use nix::errno::Errno;
use std::{io, net::Ipv4Addr};

const UNREACHABLE: u8 = 3;
const REDIRECT: u8 = 5;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// A host with one namespace, every checksum on its wires real, and somebody
/// with a pen at either end.
struct Scene {
    host: Host,
    ns1: Netns,
    inside: Wire,
    outside: Wire,
}

impl Scene {
    fn new(arguments: &str) -> Self {
        let host = Host::with(Options { offloads: false, ..Options::default() });
        host.up(&format!("--namespaces 2 {arguments}"));
        let ns1 = host.ns("ns1");
        let (inside, outside) = (Wire::inside(&host, &ns1), Wire::outside(&host));
        Self { host, ns1, inside, outside }
    }

    /// Sends a packet from the namespace; what it is outside.
    #[track_caller]
    fn goes_out(&self, sent: &[u8]) -> Packet {
        let (proto, id) = (sent[9], &sent[4..6]);
        self.inside.send(sent);
        self.outside.receive("the translated packet", |packet| {
            packet.seen.proto == proto && packet.seen.src == UPLINK && &packet.bytes[4..6] == id
        })
    }

    /// Nothing outside answers for these addresses, or sees them.
    fn silence(&self, destination: &str) {
        self.host.outside().ip(&format!("route add blackhole {destination}"));
    }
}

/// An address outside where everything vanishes.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

/// One packet of each kind that namespaces send.
fn one_of_each() -> [Vec<u8>; 3] {
    let ip = |proto, id| Ip { id, ..Ip::new(NS1, NOWHERE, proto) };
    [
        ip(UDP, 1).udp(4001, 33_434, b"an odd question"),
        ip(TCP, 2).tcp(4002, 80, 2, 77, 0),
        ip(ICMP, 3).icmp(8, 0, [0x43, 0x21, 0, 1], b"ping and some more"),
    ]
}

/// Requirements: 4787-12, 5508-4, 5508-10, nat-8.
#[test]
fn a_closed_udp_port_outside_is_connection_refused_at_the_clients_socket() {
    for offloads in [true, false] {
        let host = Host::with(Options { offloads, ..Options::default() });
        host.up("--namespaces 1");
        let client = UdpProbe::connect(&host.ns("ns1"), at(OUTSIDE, 4));
        client.send(b"anybody there?").expect("send");
        let error = client.receive().expect_err("nobody is there").kind();
        assert_eq!(error, io::ErrorKind::ConnectionRefused);
    }
}

/// Requirements: 5382-9, 5508-4, nat-8.
#[test]
fn tcp_unreachable_codes_with_whole_and_short_quotes_end_a_connection_attempt() {
    let scene = Scene::new("");
    scene.silence("192.0.2.0/24");
    for (quoted, code, expected) in [
        (8, 3, Errno::ECONNREFUSED),
        (60, 3, Errno::ECONNREFUSED),
        (8, 1, Errno::EHOSTUNREACH),
        (60, 13, Errno::EHOSTUNREACH),
        (8, 2, Errno::ENOPROTOOPT),
    ] {
        std::thread::scope(|scope| {
            let attempt = scope.spawn(|| connect(&scene.ns1, at(NOWHERE, 80)));
            let syn = scene.outside.receive("a SYN", |p| p.is(TCP, UPLINK, NOWHERE));
            let error = Ip::new(ROUTER, UPLINK, ICMP);
            let quote = later(syn.beginning(quoted), 1);
            scene.outside.send(&error.icmp(UNREACHABLE, code, [0; 4], &quote));
            let error = attempt.join().expect("no panic").err().expect("an error");
            assert_eq!(error.raw_os_error(), Some(expected as i32), "code {code}, {quoted} bytes");
        });
        // Retransmitted SYNs of this attempt are not those of the next.
        scene.outside.received();
    }
    scene.host.outside().ip("route del blackhole 192.0.2.0/24");
}

/// Requirements: 4787-12, 5508-4, 5508-10, nat-8, nat-11.
#[test]
fn every_error_from_anywhere_outside_quotes_the_packet_as_the_namespace_sent_it() {
    let scene = Scene::new("");
    scene.silence("192.0.2.0/24");
    for sent in one_of_each() {
        let outside = scene.goes_out(&sent);
        let offenders = [OUTSIDE, ROUTER, NOWHERE];
        let mut codes = vec![(TIME_EXCEEDED, 0), (TIME_EXCEEDED, 1), (PARAMETER_PROBLEM, 0)];
        codes.extend((0..=15).map(|code| (UNREACHABLE, code)));
        for (n, (kind, code)) in codes.into_iter().enumerate() {
            let from = offenders[n % offenders.len()];
            for quoted in [8, 1500] {
                let what = format!("protocol {} type {kind} code {code}, {quoted}", sent[9]);
                // The router beyond ours had it in its hands: one hop later.
                let quote = later(outside.beginning(quoted), 1);
                let rest = [0, 0, 5, 120];
                scene.outside.send(&Ip::new(from, UPLINK, ICMP).icmp(kind, code, rest, &quote));
                let error = scene.inside.receive(&what, |packet| packet.is(ICMP, from, NS1));
                assert_eq!(error.error(), Some((kind, code)), "{what}: {error:02x?}");
                assert_eq!(error.seen.ttl, 63, "{what}");
                let (told, restored) = error.quote();
                assert_eq!(told, rest, "{what}");
                let header_len = sent.len().min(20 + quoted);
                assert_eq!(restored, later(&sent[..header_len], 2), "{what}");
            }
        }
    }
    scene.host.outside().ip("route del blackhole 192.0.2.0/24");
}

/// Requirements: 5508-3, nat-8.
#[test]
fn ip_options_in_the_quoted_packet_are_stepped_over() {
    let scene = Scene::new("");
    scene.silence("192.0.2.0/24");
    // Record route: four bytes of it used, as a router on the way left them.
    let options = vec![7, 7, 8, 198, 51, 100, 1, 0];
    for sent in one_of_each() {
        let outside = scene.goes_out(&sent);
        for quoted in [8, 1500] {
            let rebuilt = |src, dst, l4: &[u8]| {
                let ip = Ip { options: options.clone(), ttl: 60, ..Ip::new(src, dst, sent[9]) };
                let mut bytes = ip.packet(l4);
                // A quote tells the length of the whole, however much of it there is.
                bytes.truncate(28 + quoted);
                bytes
            };
            let quote = rebuilt(UPLINK, NOWHERE, &outside.seen.payload);
            let error = Ip::new(ROUTER, UPLINK, ICMP).icmp(TIME_EXCEEDED, 0, [0; 4], &quote);
            scene.outside.send(&error);
            let error = scene.inside.receive("the error", |packet| packet.is(ICMP, ROUTER, NS1));
            assert_eq!(error.error(), Some((TIME_EXCEEDED, 0)));
            assert_eq!(error.quote().1, rebuilt(NS1, NOWHERE, &sent[20..]), "protocol {}", sent[9]);
        }
    }
    scene.host.outside().ip("route del blackhole 192.0.2.0/24");
}

/// Requirements: 5508-3.
#[test]
fn a_wrong_checksum_in_the_quoted_packet_is_not_judged() {
    let scene = Scene::new("");
    scene.silence("192.0.2.0/24");
    for sent in one_of_each() {
        let outside = scene.goes_out(&sent);
        let mut quote = outside.bytes.clone();
        *quote.last_mut().expect("a byte") ^= 0x55;
        scene.outside.send(&Ip::new(ROUTER, UPLINK, ICMP).icmp(UNREACHABLE, 1, [0; 4], &quote));
        let error = scene.inside.receive("the error", |packet| packet.is(ICMP, ROUTER, NS1));
        assert_eq!(error.error(), Some((UNREACHABLE, 1)));
        assert_eq!(error.quote().1[12..24], sent[12..24], "addresses and ports");
    }
    scene.host.outside().ip("route del blackhole 192.0.2.0/24");
}

/// Requirements: 5508-3, nat-8.
#[test]
fn an_error_with_a_wrong_checksum_is_dropped() {
    let scene = Scene::new("-p 5353:ns1:53/udp");
    scene.silence("192.0.2.0/24");
    let outside = scene.goes_out(&one_of_each()[0]);
    let error =
        |code| Ip::new(ROUTER, UPLINK, ICMP).icmp(UNREACHABLE, code, [0; 4], &outside.bytes);
    let mut wrong = error(1);
    wrong[22] ^= 1;
    scene.outside.send(&wrong);
    scene.outside.send(&error(2));
    let first = scene.inside.receive("the second error", |packet| packet.is(ICMP, ROUTER, NS1));
    assert_eq!(first.error(), Some((UNREACHABLE, 2)), "{first:02x?}");

    // And from a namespace, about what somebody outside asked it.
    let _quiet = UdpClient::on_port(&scene.ns1, 53);
    scene.outside.send(&Ip::new(OUTSIDE, UPLINK, UDP).udp(700, 5353, b"a question"));
    let asked = scene.inside.receive("the question", |packet| packet.is(UDP, OUTSIDE, NS1));
    let error = |code| Ip::new(NS1, OUTSIDE, ICMP).icmp(UNREACHABLE, code, [0; 4], &asked.bytes);
    let mut wrong = error(1);
    wrong[22] ^= 1;
    scene.inside.send(&wrong);
    scene.inside.send(&error(2));
    let first = scene.outside.receive("the second error", |packet| packet.seen.proto == ICMP);
    assert_eq!(first.error(), Some((UNREACHABLE, 2)), "{first:02x?}");
    scene.host.wait_dropped("", "bad_checksum", 2);
    scene.host.outside().ip("route del blackhole 192.0.2.0/24");
}

/// Requirements: 5508-5, 5508-10, nat-8.
#[test]
fn a_closed_published_port_is_connection_refused_at_the_client_outside() {
    for offloads in [true, false] {
        let host = Host::with(Options { offloads, ..Options::default() });
        host.up("--namespaces 1 -p 5353:ns1:53/udp -p 8080:ns1:80");
        let client = UdpProbe::connect(host.outside(), at(UPLINK, 5353));
        client.send(b"anybody there?").expect("send");
        let error = client.receive().expect_err("nobody is there").kind();
        assert_eq!(error, io::ErrorKind::ConnectionRefused);
        let error = connect(host.outside(), at(UPLINK, 8080)).err().expect("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}

/// Requirements: 5508-5, nat-8, nat-11, nat-15.
#[test]
fn every_error_from_inside_quotes_the_packet_as_the_client_outside_sent_it() {
    let scene = Scene::new("-p 5353:ns1:53/udp -p 8080:ns1:80");
    // Sockets that do not answer, so that the kernel does not either.
    let _udp = UdpClient::on_port(&scene.ns1, 53);
    let _tcp = TcpServer::start(&scene.ns1, 80);
    let questions = [
        Ip::new(OUTSIDE, UPLINK, UDP).udp(700, 5353, b"a question"),
        Ip::new(OUTSIDE, UPLINK, TCP).tcp(701, 8080, 2, 99, 0),
    ];
    for sent in questions {
        let proto = sent[9];
        scene.outside.send(&sent);
        let asked = scene.inside.receive("the question", |packet| packet.is(proto, OUTSIDE, NS1));
        for (kind, code) in
            [(UNREACHABLE, 0), (UNREACHABLE, 3), (UNREACHABLE, 13), (11, 1), (12, 0)]
        {
            for quoted in [8, 1500] {
                let what = format!("protocol {proto} type {kind} code {code}, {quoted} bytes");
                let error = Ip::new(NS1, OUTSIDE, ICMP);
                scene.inside.send(&error.icmp(kind, code, [0; 4], asked.beginning(quoted)));
                let error = scene.outside.receive(&what, |packet| packet.seen.proto == ICMP);
                assert_eq!((error.seen.src, error.seen.dst), (UPLINK, OUTSIDE), "{what}");
                assert_eq!(error.error(), Some((kind, code)), "{what}: {error:02x?}");
                let len = sent.len().min(20 + quoted);
                assert_eq!(error.quote().1, later(&sent[..len], 1), "{what}");
            }
        }
    }
}

/// Requirements: 5508-5, nat-8.
#[test]
fn an_answer_to_a_client_that_has_gone_is_refused_at_the_server_outside() {
    let host = Host::new();
    host.up("--namespaces 1");
    let server = UdpClient::on_port(host.outside(), 53);
    let client = UdpClient::on_port(&host.ns("ns1"), 5000);
    client.send(at(OUTSIDE, 53), b"a question").expect("send");
    let (_, from) = server.receive().expect("the question");
    assert_eq!(from.ip(), UPLINK);
    drop((client, server));
    let server = UdpProbe::connect_from(host.outside(), 53, at(UPLINK, from.port()));
    // The first one may still find the socket, held by a process that another
    // test starts just then.
    let error = (0..3).find_map(|_| {
        server.send(b"a late answer").expect("send");
        server.receive().err().map(|e| e.kind()).filter(|e| *e != io::ErrorKind::WouldBlock)
    });
    assert_eq!(error, Some(io::ErrorKind::ConnectionRefused));
}

/// Requirements: 5508-4, nat-8, nat-15.
#[test]
fn an_error_about_an_unknown_flow_is_dropped() {
    let scene = Scene::new("");
    scene.silence("192.0.2.0/24");
    for (proto, sport) in [(UDP, 4001), (TCP, 4002), (ICMP, 0)] {
        let payload = [&[sport, 33_434, 8, 0].map(u16::to_be_bytes).concat()[..], &[0; 8]].concat();
        // From outside, about what nobody sent; from inside, about what nobody asked.
        let quote = Ip::new(UPLINK, NOWHERE, proto).packet(&payload);
        scene.outside.send(&Ip::new(ROUTER, UPLINK, ICMP).icmp(3, 1, [0; 4], &quote));
        let quote = Ip::new(NOWHERE, NS1, proto).packet(&payload);
        scene.inside.send(&Ip::new(NS1, NOWHERE, ICMP).icmp(3, 1, [0; 4], &quote));
    }
    assert!(ping(&scene.ns1, OUTSIDE, Echo::default()).is_reply());
    let is_error = |packet: &&Packet| packet.error().is_some();
    let inwards = scene.inside.received();
    let to_ns1 = inwards.iter().filter(is_error).find(|packet| packet.seen.src == ROUTER);
    assert!(to_ns1.is_none(), "{to_ns1:02x?}");
    let outwards = scene.outside.received();
    let leaked = outwards.iter().find(is_error);
    assert!(leaked.is_none(), "{leaked:02x?}");
    scene.host.wait_dropped("ns1", "icmp_unrelated", 3);
    scene.host.outside().ip("route del blackhole 192.0.2.0/24");
}

/// Requirements: 4787-12, 5382-10, 5508-6, nat-8.
#[test]
fn an_error_neither_refreshes_nor_ends_a_flow() {
    let scene = Scene::new("");
    let server = UdpServer::start(scene.host.outside(), 53);
    let client = UdpClient::on_port(&scene.ns1, 5000);
    client.exchange(at(OUTSIDE, 53), b"before");
    let _web = TcpServer::start(scene.host.outside(), 80);
    let mut connection = connect(&scene.ns1, at(OUTSIDE, 80)).expect("connect");
    connection.echo(b"before").expect("echo");

    let own = scene.outside.received();
    let last = |proto| {
        let packet = own.iter().rfind(|packet| packet.is(proto, UPLINK, OUTSIDE));
        packet.expect("what went out").clone()
    };
    let expires = |proto: &str| {
        let flows = scene.host.flows(&format!("--proto {proto}"));
        flows.iter().map(|flow| flow.expires).fold(0.0, f64::max)
    };
    let counted = !reference::skipped("when the flows expire");
    let before = counted.then(|| ["udp", "tcp"].map(expires));
    for proto in [UDP, TCP] {
        for (kind, code) in [(3, 1), (3, 3), (3, 2), (11, 0), (12, 0)] {
            let quote = later(&last(proto).bytes, 1);
            scene.outside.send(&Ip::new(ROUTER, UPLINK, ICMP).icmp(kind, code, [0; 4], &quote));
            scene.inside.receive("the error", |packet| packet.is(ICMP, ROUTER, NS1));
        }
    }
    if let Some(before) = before {
        let after = ["udp", "tcp"].map(expires);
        assert!(after[0] > 0.0 && after[1] > 0.0, "{after:?}: both are still there");
        assert!(after[0] <= before[0] && after[1] <= before[1], "{before:?}, then {after:?}");
    }
    client.exchange(at(OUTSIDE, 53), b"after");
    connection.echo(b"after").expect("the connection goes on");
    assert_eq!(server.peers().len(), 1, "the same outside port as before");
}

/// Requirements: nat-8, nat-15.
#[test]
fn redirects_are_not_translated() {
    let scene = Scene::new("-p 5353:ns1:53/udp");
    scene.silence("192.0.2.0/24");
    let outside = scene.goes_out(&one_of_each()[0]);
    let icmp = Ip::new(OUTSIDE, UPLINK, ICMP);
    let quote = &outside.bytes;
    scene.outside.send(&icmp.icmp(REDIRECT, 1, ROUTER.octets(), quote));
    scene.outside.send(&icmp.icmp(UNREACHABLE, 1, [0; 4], quote));
    let first = scene.inside.receive("an error", |packet| packet.is(ICMP, OUTSIDE, NS1));
    assert_eq!(first.error(), Some((UNREACHABLE, 1)), "{first:02x?}");

    let _quiet = UdpClient::on_port(&scene.ns1, 53);
    scene.outside.send(&Ip::new(OUTSIDE, UPLINK, UDP).udp(700, 5353, b"a question"));
    let asked = scene.inside.receive("the question", |packet| packet.is(UDP, OUTSIDE, NS1));
    let icmp = Ip::new(NS1, OUTSIDE, ICMP);
    scene.inside.send(&icmp.icmp(REDIRECT, 1, NS1.octets(), &asked.bytes));
    scene.inside.send(&icmp.icmp(UNREACHABLE, 1, [0; 4], &asked.bytes));
    let first = scene.outside.receive("an error", |packet| packet.seen.proto == ICMP);
    assert_eq!(first.error(), Some((UNREACHABLE, 1)), "{first:02x?}");
    scene.host.outside().ip("route del blackhole 192.0.2.0/24");
}

/// Requirements: 5508-4, nat-4, nat-8.
#[test]
fn an_error_about_a_connection_of_the_host_is_the_hosts() {
    let host = Host::new();
    host.up("--namespaces 1");
    let client = UdpProbe::connect(host.netns(), at(OUTSIDE, 4));
    client.send(b"anybody there?").expect("send");
    let error = client.receive().expect_err("nobody is there").kind();
    assert_eq!(error, io::ErrorKind::ConnectionRefused);
}

/// Requirements: 4787-12, 5508-7, nat-8, nat-14.
#[test]
fn a_closed_published_port_is_connection_refused_from_everywhere_within() {
    let host = Host::new();
    host.up("--namespaces 2 -p 5353:ns2:53/udp");
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    for (what, from, to) in [
        ("from a neighbour", &ns1, UPLINK),
        ("from the namespace itself", &ns2, UPLINK),
        ("from the host", host.netns(), UPLINK),
        ("from the host by 127.0.0.1", host.netns(), Ipv4Addr::LOCALHOST),
    ] {
        let client = UdpProbe::connect(from, at(to, 5353));
        client.send(b"anybody there?").unwrap_or_else(|e| panic!("{what}: {e}"));
        let error = client.receive().expect_err(what).kind();
        assert_eq!(error, io::ErrorKind::ConnectionRefused, "{what}");
    }
}

/// Requirements: 5508-5, nat-8.
#[test]
fn a_packet_too_large_for_a_quote_limit_is_still_quoted_rightly() {
    // Linux quotes as much as fits 576 bytes: more than the headers, less than all.
    let scene = Scene::new("-p 5353:ns1:53/udp");
    let sent = Ip::new(OUTSIDE, UPLINK, UDP).udp(700, 5353, &[0xa5; 1400]);
    scene.outside.send(&sent);
    let error = scene.outside.receive("an error", |packet| packet.seen.proto == ICMP);
    assert_eq!((error.error(), error.seen.src), (Some((UNREACHABLE, 3)), UPLINK));
    let (_, quote) = error.quote();
    assert!(quote.len() >= 500, "{} bytes", quote.len());
    assert_eq!(quote, &later(&sent, 1)[..quote.len()]);
}

/// Where packets are long, so are the quotes of systems that quote all there is.
///
/// Requirements: 5508-4, 5508-5, nat-8, nat-11.
#[test]
fn an_error_may_quote_all_of_a_long_packet() {
    let host = Host::with(Options { mtu: 9000, offloads: false, ..Options::default() });
    host.up("--namespaces 2 --mtu 9000 -p 5353:ns1:53/udp");
    let ns1 = host.ns("ns1");
    let (inside, outside) = (Wire::inside(&host, &ns1), Wire::outside(&host));
    let scene = Scene { host, ns1, inside, outside };
    scene.silence("192.0.2.0/24");
    let sent = Ip::new(NS1, NOWHERE, UDP).udp(4001, 33_434, &[0xa5; 8001]);
    let asked = scene.goes_out(&sent);
    let error = |code| Ip::new(ROUTER, UPLINK, ICMP).icmp(UNREACHABLE, code, [0; 4], &asked.bytes);
    let mut wrong = error(1);
    *wrong.last_mut().expect("a byte") ^= 1;
    scene.outside.send(&wrong);
    scene.outside.send(&error(2));
    let error = scene.inside.receive("the error", |packet| packet.is(ICMP, ROUTER, NS1));
    assert_eq!(error.error(), Some((UNREACHABLE, 2)));
    assert_eq!(error.quote().1, later(&sent, 1));

    let _quiet = UdpClient::on_port(&scene.ns1, 53);
    let sent = Ip::new(OUTSIDE, UPLINK, UDP).udp(700, 5353, &[0xa5; 8001]);
    scene.outside.send(&sent);
    let asked = scene.inside.receive("the question", |packet| packet.is(UDP, OUTSIDE, NS1));
    scene.inside.send(&Ip::new(NS1, OUTSIDE, ICMP).icmp(UNREACHABLE, 1, [0; 4], &asked.bytes));
    let error = scene.outside.receive("the error", |packet| packet.seen.proto == ICMP);
    assert_eq!((error.error(), error.seen.src), (Some((UNREACHABLE, 1)), UPLINK));
    assert_eq!(error.quote().1, later(&sent, 1));
    scene.host.outside().ip("route del blackhole 192.0.2.0/24");
}
