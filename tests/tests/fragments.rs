//! Datagrams in pieces, which come in any order or never.

use netbpf_tests::{
    FAR, Far, Host, NS1, Netns, OUTSIDE, Options, Random, UPLINK, Wire, at, fragments,
    packet::{ICMP, Ip, TCP, UDP},
    reference, sample,
    traffic::{Echo, TcpServer, UdpClient, UdpProbe, UdpServer, connect, ping},
    udp_fragments,
};
use std::net::Ipv4Addr;

/// Payload of a fragment that fills a packet of 1500 bytes.
const PIECE: usize = 1480;
/// Most data that a UDP datagram takes is 65,507 bytes.
const SIZES: [usize; 5] = [1473, 4000, 9000, 20_000, 60_000];
const SEED: u64 = 0x0dd_f4a9;

struct Scene {
    host: Host,
    ns1: Netns,
    ns2: Netns,
    inside: Wire,
    outside: Wire,
}

impl Scene {
    fn new() -> Self {
        let host = Host::with(Options { offloads: false, ..Options::default() });
        host.up("--namespaces 2 -p 5353:ns1:53/udp -p 5354:ns2:53/udp -p 8080:ns1:80");
        let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
        let (inside, outside) = (Wire::inside(&host, &ns1), Wire::outside(&host));
        Self { host, ns1, ns2, inside, outside }
    }

    /// Everything else works: other namespaces, out and in, whole and in pieces.
    #[track_caller]
    fn others_are_served(&self) {
        let _server = UdpServer::start(self.host.outside(), 99);
        UdpProbe::connect(&self.ns2, at(OUTSIDE, 99)).exchange(b"small");
        UdpProbe::connect(self.host.netns(), at(OUTSIDE, 99)).exchange(b"the host's");
        assert!(ping(&self.ns2, OUTSIDE, Echo::default()).is_reply());
        let _web = TcpServer::start(&self.ns1, 80);
        let mut client = connect(self.host.outside(), at(UPLINK, 8080)).expect("8080");
        client.echo(&sample(10_000)).expect("echo");
    }
}

/// An order for pieces to be sent in.
type Order = fn(&mut Vec<Vec<u8>>);

/// The orders in which pieces are sent.
const ORDERS: [(&str, Order); 4] = [
    ("in order", |_| {}),
    ("reversed", |pieces| pieces.reverse()),
    ("first piece last", |pieces| pieces.rotate_left(1)),
    ("shuffled", |pieces| Random::new(SEED).shuffle(pieces)),
];

fn send_all(wire: &Wire, pieces: &[Vec<u8>]) {
    for piece in pieces {
        wire.send(piece);
    }
}

/// Pieces of 1,480 bytes; of 512 too for what is not so long that a ring of
/// them is full.
fn piece_lengths(len: usize) -> &'static [usize] {
    if len <= 20_000 { &[PIECE, 512] } else { &[PIECE] }
}

/// Requirements: 4787-14, nat-10.
#[test]
fn datagrams_of_four_to_sixty_kilobytes_pass_in_both_directions() {
    for offloads in [true, false] {
        let host = Host::with(Options { offloads, ..Options::default() });
        host.up("--namespaces 1 -p 5353:ns1:53/udp");
        let ns1 = host.ns("ns1");
        let _servers = [UdpServer::start(&ns1, 53), UdpServer::start(host.outside(), 53)];
        for len in SIZES {
            UdpClient::new(&ns1).exchange(at(OUTSIDE, 53), &sample(len));
            UdpClient::new(host.outside()).exchange(at(UPLINK, 5353), &sample(len));
        }
    }
}

/// Requirements: 4787-14, nat-10, nat-11.
#[test]
fn pieces_that_a_namespace_sends_in_any_order_arrive_whole() {
    let scene = Scene::new();
    let server = UdpServer::start(scene.host.outside(), 53);
    let mut id = 1;
    for (order, arrange) in ORDERS {
        for len in SIZES {
            for piece in piece_lengths(len) {
                let client = UdpClient::on_port(&scene.ns1, 5000 + id);
                let data = sample(len);
                let ip = Ip { id, ..Ip::new(NS1, OUTSIDE, UDP) };
                let mut pieces = udp_fragments(&ip, (5000 + id, 53), &data, *piece);
                arrange(&mut pieces);
                send_all(&scene.inside, &pieces);
                let (answer, _) = client
                    .receive()
                    .unwrap_or_else(|e| panic!("{len} bytes in {piece}s {order}: {e}"));
                assert!(answer == data, "{len} bytes in {piece}s {order}");
                id += 1;
            }
        }
    }
    assert!(server.peers().iter().all(|peer| peer.ip() == UPLINK), "{:?}", server.peers());
}

/// Requirements: 4787-14, nat-10, nat-14.
#[test]
fn pieces_for_a_published_port_in_any_order_arrive_whole() {
    let scene = Scene::new();
    let server = UdpServer::start(&scene.ns1, 53);
    let mut id = 1;
    for (order, arrange) in ORDERS {
        for len in SIZES {
            for piece in piece_lengths(len) {
                let client = UdpClient::on_port(scene.host.outside(), 5000 + id);
                let data = sample(len);
                let ip = Ip { id, ..Ip::new(OUTSIDE, UPLINK, UDP) };
                let mut pieces = udp_fragments(&ip, (5000 + id, 5353), &data, *piece);
                arrange(&mut pieces);
                send_all(&scene.outside, &pieces);
                let (answer, from) = client
                    .receive()
                    .unwrap_or_else(|e| panic!("{len} bytes in {piece}s {order}: {e}"));
                assert_eq!(from, at(UPLINK, 5353).into());
                assert!(answer == data, "{len} bytes in {piece}s {order}");
                id += 1;
            }
        }
    }
    assert!(server.peers().iter().all(|peer| peer.ip() == OUTSIDE), "{:?}", server.peers());
}

/// Requirements: 4787-14, nat-10.
#[test]
fn pieces_of_an_answer_in_any_order_arrive_whole() {
    let scene = Scene::new();
    let server = UdpClient::on_port(scene.host.outside(), 53);
    let client = UdpClient::on_port(&scene.ns1, 5000);
    client.send(at(OUTSIDE, 53), b"a question").expect("send");
    let (_, from) = server.receive().expect("the question");
    let mut id = 1;
    for (order, arrange) in ORDERS {
        for len in SIZES {
            let ip = Ip { id, ..Ip::new(OUTSIDE, UPLINK, UDP) };
            let mut pieces = udp_fragments(&ip, (53, from.port()), &sample(len), PIECE);
            arrange(&mut pieces);
            send_all(&scene.outside, &pieces);
            let (answer, _) =
                client.receive().unwrap_or_else(|e| panic!("{len} bytes {order}: {e}"));
            assert!(answer == sample(len), "{len} bytes {order}");
            id += 1;
        }
    }
}

/// Requirements: 4787-14, nat-10.
#[test]
fn pieces_of_several_datagrams_may_be_mixed() {
    let scene = Scene::new();
    let _server = UdpServer::start(&scene.ns1, 53);
    let mut pieces = Vec::new();
    let clients: Vec<_> = (1..=5)
        .map(|n| {
            let ip = Ip { id: n, ..Ip::new(OUTSIDE, UPLINK, UDP) };
            let data = sample(9000 + usize::from(n));
            pieces.extend(udp_fragments(&ip, (5000 + n, 5353), &data, PIECE));
            (UdpClient::on_port(scene.host.outside(), 5000 + n), data)
        })
        .collect();
    Random::new(SEED).shuffle(&mut pieces);
    send_all(&scene.outside, &pieces);
    for (client, data) in clients {
        let (answer, _) = client.receive().expect("an answer");
        assert!(answer == data, "{} bytes", data.len());
    }
}

/// Requirements: 4787-14, 5508-1, nat-10.
#[test]
fn large_pings_are_answered() {
    let host = Host::with(Options { offloads: false, ..Options::default() });
    host.up("--namespaces 2");
    let far = Far::behind(&host, 1500);
    for size in [1501, 4000, 9000, 30_000, 65_000] {
        let echo = Echo { size, ..Echo::default() };
        for to in [OUTSIDE, FAR] {
            let pong = ping(&host.ns("ns1"), to, echo);
            assert!(pong.is_reply(), "{size} bytes to {to}: {pong:?}");
        }
        assert!(ping(host.outside(), UPLINK, echo).is_reply(), "{size} bytes to the host");
    }
    drop(far);
}

/// Requirements: 4787-14, 5508-1, nat-10.
#[test]
fn pieces_of_a_ping_in_any_order_are_answered() {
    let scene = Scene::new();
    let mut id = 100;
    for (order, arrange) in ORDERS {
        for len in [4000, 20_000] {
            let ip = Ip { id, ..Ip::new(NS1, OUTSIDE, ICMP) };
            let [high, low] = id.to_be_bytes();
            let whole = ip.icmp(8, 0, [high, low, 0, 1], &sample(len));
            let mut pieces = fragments(&ip, &whole[20..], PIECE);
            arrange(&mut pieces);
            send_all(&scene.inside, &pieces);
            // The answer comes in pieces too; the last one has no more after it.
            let what = format!("the end of the answer to {len} bytes {order}");
            scene.inside.receive(&what, |packet| {
                packet.is(ICMP, OUTSIDE, NS1)
                    && packet.bytes[6] & 0x20 == 0
                    && packet.seen.payload.last() == sample(len).last()
            });
            id += 1;
        }
    }
}

/// Requirements: 4787-14, nat-10.
#[test]
fn the_hosts_own_datagrams_in_pieces_are_unharmed() {
    let scene = Scene::new();
    let machine = scene.host.netns();
    let _servers = [UdpServer::start(machine, 77), UdpServer::start(scene.host.outside(), 77)];
    let mut id = 1;
    for len in SIZES {
        UdpClient::new(machine).exchange(at(OUTSIDE, 77), &sample(len));
        UdpClient::new(scene.host.outside()).exchange(at(UPLINK, 77), &sample(len));
        for (order, arrange) in ORDERS {
            let client = UdpClient::on_port(scene.host.outside(), 6000 + id);
            let ip = Ip { id, ..Ip::new(OUTSIDE, UPLINK, UDP) };
            let mut pieces = udp_fragments(&ip, (6000 + id, 77), &sample(len), PIECE);
            arrange(&mut pieces);
            send_all(&scene.outside, &pieces);
            let (answer, _) =
                client.receive().unwrap_or_else(|e| panic!("{len} bytes {order}: {e}"));
            assert!(answer == sample(len), "{len} bytes {order}");
            id += 1;
        }
        let big = Echo { size: len, ..Echo::default() };
        assert!(ping(machine, OUTSIDE, big).is_reply(), "a ping of {len} bytes");
    }
}

/// Requirements: 4787-14, nat-10, nat-15, nat-17.
#[test]
fn overlapping_and_incomplete_datagrams_do_no_harm() {
    let scene = Scene::new();
    let server = UdpServer::start(scene.host.outside(), 53);
    let published = UdpServer::start(&scene.ns1, 53);
    for (wire, src, dst, port) in
        [(&scene.inside, NS1, OUTSIDE, 53), (&scene.outside, OUTSIDE, UPLINK, 5353)]
    {
        let pieces = |id, data: &[u8]| {
            let ip = Ip { id, ..Ip::new(src, dst, UDP) };
            udp_fragments(&ip, (4000, port), data, PIECE)
        };
        let fragment = |id, fragment, payload: &[u8]| {
            Ip { id, fragment, ..Ip::new(src, dst, UDP) }.packet(payload)
        };
        let whole = pieces(1, &sample(6000));
        // The same piece twice, and another one over its end.
        for n in [0, 1, 1, 2] {
            wire.send(&whole[n]);
        }
        wire.send(&fragment(1, 0x2064, &[0xee; 1480]));
        wire.send(&whole[3]);
        // A second first piece with other ports; one that ends before it begins.
        let other =
            udp_fragments(&Ip { id: 2, ..Ip::new(src, dst, UDP) }, (4001, 9), &sample(6000), PIECE);
        for piece in [&pieces(2, &sample(6000))[0], &other[0], &whole[1], &other[3]] {
            wire.send(piece);
        }
        // Ports in the second piece (RFC 1858), a piece beyond the largest packet, pieces
        // without any payload or with one that is not a multiple of 8.
        wire.send(&fragment(3, 0x2000, &[15, 160, 0, 53]));
        wire.send(&fragment(3, 1, &[0; 64]));
        wire.send(&fragment(4, 0x1fff, &[0xee; 1480]));
        wire.send(&fragment(5, 0x2000, &[]));
        wire.send(&fragment(6, 0x200a, &[0xee; 13]));
        wire.send(&fragment(7, 0x2000, &[15, 160, 0, 53, 0, 13, 0, 0, 1]));
        // "Do not fragment" on a piece, and the reserved bit.
        wire.send(&fragment(8, 0x6000, &[0xee; 64]));
        wire.send(&fragment(9, 0x8000 | 5, &[0xee; 64]));
        for piece in pieces(10, &sample(6000)).iter().skip(1) {
            wire.send(piece);
        }
    }
    scene.others_are_served();
    UdpClient::new(&scene.ns1).exchange(at(OUTSIDE, 53), &sample(9000));
    UdpClient::new(scene.host.outside()).exchange(at(UPLINK, 5353), &sample(9000));
    nothing_leaks(&scene.outside);
    drop((server, published));
}

#[track_caller]
fn nothing_leaks(outside: &Wire) {
    let leaked = outside.received().into_iter().find(|packet| packet.seen.src.is_private());
    assert!(leaked.is_none(), "{leaked:02x?}");
}

/// Bytes that the kernel holds in pieces of datagrams.
fn memory_of_pieces(ns: &Netns) -> u64 {
    let sockstat = ns.read("/proc/thread-self/net/sockstat");
    let line = sockstat.lines().find_map(|line| line.strip_prefix("FRAG: "));
    let mut words = line.expect("a line on fragments").split(' ');
    words.next_back().and_then(|bytes| bytes.parse().ok()).expect("a number")
}

/// Requirements: 4787-14, nat-2, nat-10, nat-15.
#[test]
fn a_flood_of_incomplete_datagrams_takes_no_memory_and_nobody_elses_traffic() {
    const FLOOD: u32 = 50_000;
    // The kernel's queue, which all tests share, has room for 1,000.
    const BURST: u32 = 100;
    let scene = Scene::new();
    let host = scene.host.netns();
    // Linux's own limit on what it holds (ipfrag_high_thresh), and a packet more.
    let limit: u64 =
        host.read("/proc/sys/net/ipv4/ipfrag_high_thresh").trim().parse().expect("a number");
    let client = UdpProbe::connect(&scene.ns2, at(OUTSIDE, 53));
    let _server = UdpServer::start(scene.host.outside(), 53);
    // To where nobody puts them together: what is full there is not netbpf's concern.
    let flooder = Ipv4Addr::new(203, 0, 113, 77);
    let nowhere = Ipv4Addr::new(192, 0, 2, 7);
    for (wire, src, dst, port) in
        [(&scene.inside, NS1, nowhere, 53u16), (&scene.outside, flooder, UPLINK, 5354)]
    {
        let [high, low] = port.to_be_bytes();
        for n in 0..FLOOD {
            let id = u16::try_from(n & 0xffff).expect("16 bits");
            // Half are pieces from the middle, half are first ones.
            let fragment = if n % 2 == 0 { 0x2000 | 9 } else { 0x2000 };
            let ip = Ip { id, fragment, ..Ip::new(src, dst, UDP) };
            wire.send(&ip.packet(&[15, 160, high, low, 5, 220, 0, 0].repeat(8)));
            if n.is_multiple_of(BURST) {
                client.persist(b"meanwhile");
                let held = memory_of_pieces(host);
                assert!(held <= limit + 65_536, "{held} bytes are held");
            }
        }
    }
    scene.others_are_served();
    if !reference::skipped("datagrams in pieces after the flood: all its memory is taken") {
        let _published = UdpServer::start(&scene.ns1, 53);
        UdpClient::new(&scene.ns1).exchange(at(OUTSIDE, 53), &sample(9000));
        UdpClient::new(scene.host.outside()).exchange(at(UPLINK, 5353), &sample(9000));
        scene.host.wait_dropped("ns1", "fragment", 1);
    }
}

/// A firewall that looks at ports must not be passed by a packet that has
/// them in pieces too small.
///
/// Requirements: nat-10, nat-15, nat-17.
#[test]
fn tcp_in_pieces_smaller_than_its_header_never_leaves_untranslated() {
    let scene = Scene::new();
    let ip = Ip { id: 5, ..Ip::new(NS1, OUTSIDE, TCP) };
    let whole = ip.tcp(4000, 80, 2, 1, 0);
    for reversed in [false, true] {
        let mut pieces = fragments(&ip, &whole[20..], 8);
        if reversed {
            pieces.reverse();
        }
        send_all(&scene.inside, &pieces);
    }
    scene.others_are_served();
    nothing_leaks(&scene.outside);
}
