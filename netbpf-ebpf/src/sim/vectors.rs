//! Test vectors: frames that the simulation and the kernel must treat alike.
//!
//! They are run in order against the [`testbed`](super::testbed)'s network,
//! each on top of what those before it have left in the tables. None of them
//! needs a port chosen at random.

use std::vec::Vec;

use netbpf_common::{Ipv4, MacAddr, proto};

use super::{
    packet::{
        self, Addresses, Complaint, Segment,
        tcp_flag::{ACK, FIN, RST, SYN},
    },
    testbed::{GATEWAY, HOST, PEER, ROUTER, across, inward, namespace, outward},
};

/// Where a frame comes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// At the bridge port of the n-th namespace.
    Namespace(u8),
    /// At the uplink, from outside.
    Outside,
    /// At the uplink, from the host's stack.
    Stack,
    /// At the host's loopback device.
    Loopback,
}

/// A frame that comes in somewhere.
#[derive(Clone, Debug)]
pub struct Vector {
    /// What it is about.
    pub name: &'static str,
    /// Where it comes in.
    pub place: Place,
    /// Its bytes.
    pub frame: Vec<u8>,
}

/// A frame with some bytes overwritten, its checksums left as they are.
fn with(mut frame: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    for (at, value) in changes {
        frame[*at] = *value;
    }
    frame
}

/// The same, but for the IPv4 header's checksum, which is right.
fn with_header(frame: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = with(frame, changes);
    packet::repair_header_checksum(&mut frame);
    frame
}

/// A frame that Ethernet has padded, or somebody else.
fn padded(mut frame: Vec<u8>, by: usize) -> Vec<u8> {
    frame.resize(frame.len() + by, 0x5a);
    frame
}

/// A segment of a connection from the first namespace.
fn sent(flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    let segment = Segment { sport: 41000, dport: 443, flags, seq, ack };
    packet::tcp(outward(1, PEER), segment, data)
}

/// A segment of its answers.
fn answered(flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    let segment = Segment { sport: 443, dport: 41000, flags, seq, ack };
    packet::tcp(inward(PEER), segment, data)
}

/// All of them, in order.
#[must_use]
pub fn all() -> Vec<Vector> {
    use Place::{Namespace, Outside, Stack};
    let stranger = MacAddr::new([2, 9, 9, 9, 9, 9]);
    let spare = Ipv4::new([172, 19, 0, 77]);
    let near = ROUTER.1;
    let lie = |from| packet::udp(Addresses { from, to: namespace(2) }, 1, 2, b"");
    let direct = Addresses { to: (HOST.0, namespace(1).1), ..inward(near) };
    let leak = Addresses { from: (HOST.0, namespace(2).1), to: (ROUTER.0, PEER) };
    let own = Addresses { from: HOST, to: (ROUTER.0, PEER) };
    let asked = Segment { sport: 50000, dport: 8080, flags: SYN, seq: 7, ack: 0 };
    let reply = Segment { sport: 80, dport: 50000, flags: SYN | ACK, seq: 70, ack: 8 };
    let udp = |sport, data: &[u8]| packet::udp(outward(1, PEER), sport, 53, data);
    let list: Vec<Named> = Vec::from([
        ("bridged", Namespace(1), packet::udp(across(1, 2), 1, 2, b"data")),
        ("bridged, odd length", Namespace(3), packet::udp(across(3, 2), 1, 2, b"odd")),
        ("bridged to itself", Namespace(1), packet::udp(across(1, 1), 1, 2, b"")),
        ("bridged ping", Namespace(2), packet::echo(across(2, 1), true, 9, b"ping")),
        ("unknown unicast", Namespace(1), lie((namespace(1).0, namespace(1).1))),
        ("broadcast", Namespace(1), {
            let to = (MacAddr::BROADCAST, Ipv4::new([172, 19, 0, 255]));
            packet::udp(Addresses { from: namespace(1), to }, 68, 67, b"")
        }),
        ("arp", Namespace(1), packet::arp(namespace(1).0, namespace(1), GATEWAY.1)),
        ("arp for the gateway", Namespace(1), {
            packet::arp(namespace(1).0, (namespace(1).0, GATEWAY.1), namespace(2).1)
        }),
        ("stolen mac", Namespace(1), lie((namespace(2).0, namespace(1).1))),
        ("stolen address", Namespace(1), lie((namespace(1).0, namespace(3).1))),
        ("foreign address", Namespace(1), lie((namespace(1).0, PEER))),
        ("second mac and address", Namespace(1), lie((stranger, spare))),
        ("to the second mac", Namespace(2), {
            packet::udp(Addresses { from: namespace(2), to: (stranger, spare) }, 2, 1, b"")
        }),
        ("second mac elsewhere", Namespace(3), lie((stranger, spare))),
        ("to the gateway", Namespace(1), {
            packet::echo(Addresses { from: namespace(1), to: GATEWAY }, true, 5, b"")
        }),
        ("to the host's address", Namespace(1), packet::udp(outward(1, HOST.1), 1, 2, b"")),
        ("first datagram", Namespace(1), udp(40000, b"first")),
        ("second datagram", Namespace(1), udp(40000, b"second")),
        ("odd datagram", Namespace(1), udp(40000, b"odd")),
        ("without checksum", Namespace(1), with(udp(40000, b"none"), &[(40, 0), (41, 0)])),
        ("answer", Outside, packet::udp(inward(PEER), 53, 40000, b"answer")),
        ("answer without checksum", Outside, {
            with(packet::udp(inward(PEER), 53, 40000, b"answer"), &[(40, 0), (41, 0)])
        }),
        ("answer to nobody", Outside, packet::udp(inward(PEER), 53, 40001, b"answer")),
        ("answer at the end of its life", Outside, {
            with_header(packet::udp(inward(PEER), 53, 40000, b"answer"), &[(22, 1)])
        }),
        ("to a neighbour", Namespace(3), packet::udp(outward(3, near), 6000, 7, b"on link")),
        ("ping out", Namespace(2), packet::echo(outward(2, PEER), true, 0x1111, b"ping")),
        ("pong", Outside, packet::echo(inward(PEER), false, 0x1111, b"ping")),
        ("stray pong", Outside, packet::echo(inward(PEER), false, 0x2222, b"ping")),
        ("syn", Namespace(1), sent(SYN, 100, 0, b"")),
        ("syn ack", Outside, answered(SYN | ACK, 900, 101, b"")),
        ("ack", Namespace(1), sent(ACK, 101, 901, b"")),
        ("data", Namespace(1), sent(ACK, 101, 901, &[0x5a; 1000])),
        ("data back", Outside, answered(ACK, 901, 1101, &[0xa5; 999])),
        ("reset outside the window", Outside, answered(RST, 17, 0, b"")),
        ("fin", Namespace(1), sent(FIN | ACK, 1101, 1900, b"")),
        ("fin back", Outside, answered(FIN | ACK, 1900, 1102, b"")),
        ("the same ports again", Namespace(1), sent(SYN, 70_000, 0, b"")),
        ("reset", Outside, answered(RST | ACK, 0, 70_001, b"")),
        ("unknown fin", Namespace(2), {
            let segment = Segment { sport: 1, dport: 2, flags: FIN | ACK, seq: 1, ack: 1 };
            packet::tcp(outward(2, PEER), segment, b"")
        }),
        ("published", Outside, packet::tcp(inward(near), asked, b"")),
        ("published, answer", Namespace(1), packet::tcp(outward(1, near), reply, b"")),
        ("published range", Outside, packet::udp(inward(near), 1234, 9005, b"range")),
        ("beside the range", Outside, packet::udp(inward(near), 1234, 9011, b"range")),
        ("published, to the wrong protocol", Outside, packet::udp(inward(near), 1, 8080, b"")),
        ("a namespace's own address", Outside, packet::udp(direct, 1, 7000, b"")),
        ("from a namespace's address", Outside, {
            packet::udp(inward(namespace(2).1), 1, 9005, b"")
        }),
        ("leak", Stack, packet::udp(leak, 1, 2, b"")),
        ("leak of another protocol", Stack, packet::ipv4(leak, 132, b"sctp")),
        ("the host's own", Stack, packet::udp(own, 11, 12, b"")),
        ("last hop", Namespace(1), with_header(udp(40000, b""), &[(22, 1)])),
        ("options", Namespace(1), packet::with_options(&udp(40000, b"12345678"), &ROUTE_ALERT)),
        ("version 5", Namespace(1), with(udp(40000, b""), &[(14, 0x55)])),
        ("short header", Namespace(1), with(udp(40000, b""), &[(14, 0x44)])),
        ("longer than its frame", Namespace(1), with(udp(40000, b""), &[(16, 0xff)])),
        ("short tcp header", Namespace(1), with(sent(ACK, 1, 1, b""), &[(46, 0x40)])),
        ("truncated tcp", Namespace(1), packet::ipv4(outward(1, PEER), proto::TCP, &[0; 12])),
        ("icmp error", Namespace(1), packet::ipv4(outward(1, PEER), proto::ICMP, &[3; 36])),
        ("ipv6", Namespace(1), {
            with(packet::udp(across(1, 2), 1, 2, &[0; 40]), &[(12, 0x86), (13, 0xdd)])
        }),
    ]);
    let lists = [list, errors(), fragments(), hairpins(), others(), odd(), forwarded()];
    lists.into_iter().flatten().map(|(name, place, frame)| Vector { name, place, frame }).collect()
}

/// What a [`Vector`] is made of.
type Named = (&'static str, Place, Vec<u8>);

/// The option "router alert" (RFC 2113).
const ROUTE_ALERT: [u8; 4] = [0x94, 4, 0, 0];

/// ICMP errors about the datagrams of the first namespace, and those that
/// answer what is dropped.
fn errors() -> Vec<Named> {
    use Place::{Namespace, Outside};
    let to_peer = Addresses { from: HOST, to: (ROUTER.0, PEER) };
    let outside = packet::udp(to_peer, 40000, 53, b"first");
    let inside = packet::udp(Addresses { to: namespace(1), ..inward(PEER) }, 53, 40000, b"answer");
    let from = |addr, frame: &[u8], len| {
        packet::error(inward(addr), Complaint::TIME_EXCEEDED, packet::quote(frame, len))
    };
    let back = |frame: &[u8], len| {
        packet::error(outward(1, PEER), Complaint::PORT_UNREACHABLE, packet::quote(frame, len))
    };
    let optional = packet::with_options(&outside, &ROUTE_ALERT);
    let syn = Segment { sport: 41000, dport: 443, flags: SYN, seq: 70_000, ack: 0 };
    let connection = packet::tcp(to_peer, syn, b"");
    let ping = packet::echo(Addresses { from: HOST, ..to_peer }, true, 0x1111, b"ping");
    let long = from(PEER, &packet::udp(to_peer, 40000, 53, &[0xa5; 3001]), 3009);
    let bad = with(from(PEER, &outside, 8), &[(37, 0x55)]);
    let big = packet::udp(inward(ROUTER.1), 1234, 9005, &[0; 1473]);
    let last = packet::udp(inward(ROUTER.1), 1234, 9005, b"range");
    Vec::from([
        ("datagram to complain about", Namespace(1), {
            packet::udp(outward(1, PEER), 40000, 53, b"first")
        }),
        ("error, short", Outside, from(ROUTER.1, &outside, 8)),
        ("error, whole", Outside, from(PEER, &outside, 100)),
        ("error, options in the quote", Outside, from(ROUTER.1, &optional, 8)),
        ("error, about a connection", Outside, from(PEER, &connection, 100)),
        ("error, about a connection, short", Outside, from(PEER, &connection, 8)),
        ("error, about a ping", Outside, from(PEER, &ping, 8)),
        ("error, bad checksum", Outside, bad),
        ("error, about nothing", Outside, { from(PEER, &packet::udp(to_peer, 40001, 53, b""), 8) }),
        ("error outwards, short", Namespace(1), back(&inside, 8)),
        ("error outwards, whole", Namespace(1), back(&inside, 100)),
        ("error outwards, about nothing", Namespace(1), back(&last, 8)),
        ("options inwards", Outside, {
            packet::with_options(&packet::udp(inward(PEER), 53, 40000, b"odd"), &ROUTE_ALERT)
        }),
        ("options inwards, to a namespace", Outside, {
            let direct = Addresses { to: (HOST.0, namespace(1).1), ..inward(PEER) };
            packet::with_options(&packet::udp(direct, 53, 40000, b""), &ROUTE_ALERT)
        }),
        ("time exceeded", Outside, with_header(last, &[(22, 1)])),
        ("fragmentation needed", Outside, big),
        // (Longer than the namespace takes: by the stack, which cuts it up.)
        ("error, all of a long packet", Outside, with_header(long, &[(20, 0)])),
    ])
}

/// Fragments both ways, in order and reversed.
fn fragments() -> Vec<Named> {
    use Place::{Namespace, Outside};
    let out = |id| with(packet::udp(outward(1, PEER), 40000, 53, &[0x5a; 41]), &[(19, id)]);
    let back = |id| with(packet::udp(inward(PEER), 53, 40000, &[0xa5; 41]), &[(19, id)]);
    let [first, later] = [0..24, 24..49];
    Vec::from([
        ("first fragment", Namespace(1), packet::fragment(&out(1), first.clone())),
        ("later fragment", Namespace(1), packet::fragment(&out(1), later.clone())),
        ("later fragment, too early", Namespace(1), packet::fragment(&out(2), later.clone())),
        ("first fragment, waited for", Namespace(1), packet::fragment(&out(2), first.clone())),
        ("first fragment inwards", Outside, packet::fragment(&back(3), first.clone())),
        ("later fragment inwards", Outside, packet::fragment(&back(3), later.clone())),
        ("later fragment inwards, too early", Outside, packet::fragment(&back(4), later)),
        ("first fragment inwards, waited for", Outside, packet::fragment(&back(4), first)),
        (
            "first fragment, too small",
            Namespace(1),
            packet::fragment(&sent(SYN, 1, 0, b"data"), 0..16),
        ),
    ])
}

/// From a namespace, and from the host, to a published port of the host's.
fn hairpins() -> Vec<Named> {
    use Place::{Loopback, Namespace};
    let nobody = MacAddr::ZERO;
    let own = |addr| Addresses { from: (nobody, addr), to: (nobody, addr) };
    let localhost = Ipv4::new([127, 0, 0, 1]);
    let to_host = outward(2, HOST.1);
    Vec::from([
        ("hairpin", Namespace(2), packet::udp(to_host, 1234, 9005, b"hello")),
        ("hairpin, second half", Loopback, packet::udp(own(HOST.1), 1234, 9005, b"hello")),
        ("hairpin, answer", Namespace(1), packet::udp(outward(1, HOST.1), 7005, 1234, b"yes")),
        ("hairpin, answer's second half", Loopback, packet::udp(own(HOST.1), 9005, 1234, b"yes")),
        ("host by its address", Loopback, packet::udp(own(HOST.1), 5555, 9006, b"host")),
        ("host by localhost", Loopback, packet::udp(own(localhost), 5556, 9007, b"host")),
        ("answer to localhost", Namespace(1), {
            packet::udp(Addresses { from: namespace(1), to: GATEWAY }, 7007, 5556, b"yes")
        }),
        ("localhost to itself", Loopback, packet::udp(own(localhost), 5556, 53, b"dns")),
    ])
}

/// What the stack has forwarded for namespaces, and the answers to it.
fn forwarded() -> Vec<Named> {
    use Place::{Namespace, Outside, Stack};
    let way = Addresses { from: (HOST.0, namespace(2).1), to: (ROUTER.0, PEER) };
    let udp = |sport, data: &[u8]| packet::udp(way, sport, 53, data);
    let asked = Segment { sport: 42000, dport: 443, flags: SYN, seq: 100, ack: 0 };
    let answered = Segment { sport: 443, dport: 42000, flags: SYN | ACK, seq: 900, ack: 101 };
    let whole = with(udp(43000, &[0x5a; 41]), &[(19, 9)]);
    let answer = with(packet::udp(inward(PEER), 53, 43000, &[0xa5; 41]), &[(19, 10)]);
    let refused = packet::udp(Addresses { to: namespace(2), ..inward(PEER) }, 53, 43000, b"late");
    let served = Addresses { from: (HOST.0, namespace(1).1), to: ROUTER };
    let reply = Segment { sport: 80, dport: 50001, flags: SYN | ACK, seq: 70, ack: 8 };
    let opened = Segment { sport: 50001, dport: 8080, flags: SYN, seq: 7, ack: 0 };
    let [first, later] = [0..24, 24..49];
    Vec::from([
        ("forwarded datagram", Stack, udp(43000, b"first")),
        ("its answer", Outside, packet::udp(inward(PEER), 53, 43000, b"answer")),
        ("the next one, at the port", Namespace(2), {
            packet::udp(outward(2, PEER), 43000, 53, b"second")
        }),
        ("the next one, forwarded", Stack, udp(43000, b"second")),
        ("forwarded syn", Stack, packet::tcp(way, asked, b"")),
        ("its syn ack", Outside, packet::tcp(inward(PEER), answered, b"")),
        ("forwarded ping", Stack, packet::echo(way, true, 0x4444, b"ping")),
        ("its pong", Outside, packet::echo(inward(PEER), false, 0x4444, b"ping")),
        ("forwarded first fragment", Stack, packet::fragment(&whole, first.clone())),
        ("forwarded later fragment", Stack, packet::fragment(&whole, later.clone())),
        ("answer's first fragment", Outside, packet::fragment(&answer, first)),
        ("answer's later fragment", Outside, packet::fragment(&answer, later)),
        ("forwarded error", Stack, {
            packet::error(way, Complaint::PORT_UNREACHABLE, packet::quote(&refused, 8))
        }),
        ("published, again", Outside, packet::tcp(inward(ROUTER.1), opened, b"")),
        ("published, answer forwarded", Stack, packet::tcp(served, reply, b"")),
    ])
}

/// Protocols that are translated by address.
fn others() -> Vec<Named> {
    use Place::{Namespace, Outside};
    let gre = |n| packet::ipv4(outward(n, PEER), 47, b"gre");
    Vec::from([
        ("sctp", Namespace(1), packet::sctp(outward(1, PEER), 5000, 36412, b"data")),
        ("sctp, answer", Outside, packet::sctp(inward(PEER), 36412, 5000, b"data")),
        ("sctp, the same tuple", Namespace(2), {
            packet::sctp(outward(2, PEER), 5000, 36412, b"data")
        }),
        ("udp-lite", Namespace(1), packet::udp_lite(outward(1, PEER), 5000, 9, b"lite")),
        ("udp-lite, answer", Outside, packet::udp_lite(inward(PEER), 9, 5000, b"odd")),
        ("gre", Namespace(1), gre(1)),
        ("gre, answer", Outside, packet::ipv4(inward(PEER), 47, b"answer")),
        ("gre of somebody else", Namespace(2), gre(2)),
    ])
}

/// Frames of which Linux would forward another packet, or none.
fn odd() -> Vec<Named> {
    use Place::{Namespace, Outside, Stack};
    let out = || packet::udp(outward(1, PEER), 40000, 53, b"odd");
    let back = || packet::udp(inward(PEER), 53, 40000, b"odd");
    let wrong = |frame: Vec<u8>| {
        let high = frame[24] ^ 0x10;
        with(frame, &[(24, high)])
    };
    let leak = Addresses { from: (HOST.0, namespace(1).1), to: (ROUTER.0, PEER) };
    let optional = |frame: Vec<u8>| packet::with_options(&frame, &ROUTE_ALERT);
    Vec::from([
        ("wrong header checksum", Namespace(1), wrong(out())),
        ("wrong header checksum inwards", Outside, wrong(back())),
        ("wrong header checksum, options", Namespace(1), wrong(optional(out()))),
        ("wrong header checksum, options inwards", Outside, wrong(optional(back()))),
        ("wrong header checksum, fragment", Namespace(1), wrong(packet::fragment(&out(), 0..8))),
        ("wrong header checksum, stack", Stack, wrong(packet::udp(leak, 40000, 53, b"odd"))),
        ("wrong header checksum, bridged", Namespace(1), {
            wrong(packet::udp(across(1, 2), 1, 2, b"odd"))
        }),
        ("padded", Namespace(1), padded(out(), 15)),
        ("padded inwards", Outside, padded(back(), 15)),
        ("padded, bridged", Namespace(1), padded(packet::udp(across(1, 2), 1, 2, b"odd"), 15)),
        ("padded, ping", Namespace(2), padded(packet::echo(outward(2, PEER), true, 1, b""), 18)),
        ("padded beyond the uplink's MTU", Namespace(1), padded(out(), 1500)),
    ])
}
