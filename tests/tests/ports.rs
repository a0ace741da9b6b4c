//! Ports by the ten thousand, and ports that more than one would have.

use netbpf_tests::{
    Host, NS1, NS2, NS3, Netns, OUTSIDE, UPLINK, at,
    packet::{self, Ip, Seen},
    reference,
    traffic::{Puppet, TcpClient, TcpServer, UdpClient, UdpServer, connect_from},
    wait,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    ops::Range,
    time::Duration,
};

/// Somebody outside who has no kernel, and answers as the test says.
const PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 50);

/// So many frames are under way at once: few enough for the queues of a veth.
const BATCH: usize = 500;

/// How long nothing has come when nothing more is to come, and how often to ask.
const MOMENT: Duration = Duration::from_millis(500);
const ATTEMPTS: usize = 5;

const SYN: u8 = 2;
const ACK: u8 = 16;

const fn any(port: u16) -> SocketAddrV4 {
    at(Ipv4Addr::UNSPECIFIED, port)
}

/// Who opens connections, and from which ports.
struct Client {
    puppet: Puppet,
    ports: Range<u16>,
}

impl Client {
    fn new(host: &Host, n: u8, ports: Range<u16>) -> Self {
        let addr = [NS1, NS2, NS3][usize::from(n)];
        Self { puppet: Puppet::inside(host, &format!("ns{}", n + 1), addr, PEER), ports }
    }
}

/// A connection's number: client and port. It goes with each packet, as data or
/// as sequence number, so that those that got confused would be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    client: u8,
    port: u16,
}

impl Id {
    fn number(self) -> u32 {
        u32::from(self.client) << 16 | u32::from(self.port)
    }

    fn of(number: u32) -> Self {
        let [_, client, high, low] = number.to_be_bytes();
        Self { client, port: u16::from_be_bytes([high, low]) }
    }
}

/// A step of all connections: the packet that a side sends.
fn packet(proto: u8, from: SocketAddrV4, to: SocketAddrV4, flags: u8, id: Id) -> Vec<u8> {
    let ip = Ip::new(*from.ip(), *to.ip(), proto);
    let number = id.number();
    if proto == packet::UDP {
        return ip.udp(from.port(), to.port(), &number.to_be_bytes());
    }
    // Both sides count from the connection's number.
    let next = number + u32::from(flags & SYN == 0);
    let ack = if flags & ACK == 0 { 0 } else { number + 1 };
    ip.tcp(from.port(), to.port(), flags, next, ack)
}

/// The number of the connection that a packet belongs to.
fn id_in(seen: &Seen, flags: u8) -> Id {
    let at = if seen.proto == packet::UDP { 8 } else { 4 };
    let bytes = seen.payload[at..at + 4].try_into().expect("four bytes");
    let started = seen.proto == packet::UDP || flags & SYN != 0;
    Id::of(u32::from_be_bytes(bytes) - u32::from(!started))
}

/// Opens all connections of all clients to one port of the peer, to the end of
/// the handshake. Panics where one does not come about. Returns the ports that
/// they have outside.
fn open_all(clients: &[Client], peer: &Puppet, proto: u8) -> BTreeMap<Id, u16> {
    let service = at(peer.addr(), 53);
    let ids: Vec<Id> = (0u8..)
        .zip(clients)
        .flat_map(|(client, of)| of.ports.clone().map(move |port| Id { client, port }))
        .collect();
    let mut given = BTreeMap::new();
    for batch in ids.chunks(BATCH) {
        let out = |flags: u8, given: &mut BTreeMap<Id, u16>| {
            let mut missing: BTreeSet<Id> = batch.iter().copied().collect();
            // Who finds no port the first time, with nearly all taken, asks again, as
            // clients do.
            for _ in 0..ATTEMPTS {
                for id in &missing {
                    let puppet = &clients[usize::from(id.client)].puppet;
                    let from = at(puppet.addr(), id.port);
                    puppet.send(&packet(proto, from, service, flags, *id));
                }
                while !missing.is_empty() {
                    let Some(seen) = peer.receive_within(MOMENT) else { break };
                    assert!(seen.checksums_ok() && seen.src == UPLINK, "{seen:02x?}");
                    let (port, _) = seen.ports().expect("it has ports");
                    let id = id_in(&seen, flags);
                    let before = given.insert(id, port);
                    assert!(before.is_none_or(|before| before == port), "{id:?} had {before:?}");
                    missing.remove(&id);
                }
            }
            assert!(missing.is_empty(), "these get no port: {missing:?}");
        };
        out(SYN, &mut given);
        for id in batch {
            let to = at(UPLINK, given[id]);
            peer.send(&packet(proto, service, to, SYN | ACK, *id));
        }
        for id in batch {
            let puppet = &clients[usize::from(id.client)].puppet;
            // Refusals of first attempts may come in between.
            let seen = std::iter::repeat_with(|| puppet.receive("an answer to each connection"))
                .find(|seen| seen.proto == proto)
                .expect("an endless row");
            let found = id_in(&seen, SYN);
            assert_eq!(found.client, id.client, "the answer is somebody else's: {seen:02x?}");
            assert_eq!(seen.ports(), Some((53, found.port)), "{seen:02x?}");
            assert!(seen.checksums_ok() && seen.src == PEER, "{seen:02x?}");
        }
        if proto == packet::TCP {
            out(ACK, &mut given);
        }
    }
    assert_eq!(given.len(), ids.len(), "every connection got out");
    given
}

/// Datagrams that nobody follows up are remembered for as long as a busy machine takes
/// for all the others: half a minute is not enough.
fn remember(host: &Host) {
    if reference::enabled() {
        host.tune("net/netfilter/nf_conntrack_udp_timeout", "600");
    }
}

/// Ends flows by hand, which the reference cannot.
fn flush(host: &Host, filter: &str) {
    if !reference::enabled() {
        host.netbpf(&format!("maps flows flush {filter}")).ok();
    }
}

/// Panics unless nobody has a port of somebody else.
#[track_caller]
fn assert_distinct(given: &BTreeMap<Id, u16>) {
    let mut ports: Vec<u16> = given.values().copied().collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), given.len(), "as many ports as connections");
}

/// 60,000 connections of one client to one port: all but a few keep theirs. What
/// is published and what the host has are not among them.
///
/// Requirements: 4787-3, 4787-11, 5382-7, nat-4.
#[test]
fn sixty_thousand_connections_of_one_client() {
    let host = Host::new();
    host.up("--namespaces 1 -p 8080-8089:ns1:80-89/udp -p 8080-8089:ns1:80-89/tcp");
    remember(&host);
    let _udp: Vec<_> = (9000..9010).map(|port| UdpServer::start(host.netns(), port)).collect();
    let _tcp: Vec<_> = (9000..9010).map(|port| TcpServer::start(host.netns(), port)).collect();
    let peer = Puppet::outside(&host, PEER);
    let clients = [Client::new(&host, 0, 5000..65_000)];
    for proto in [packet::UDP, packet::TCP] {
        let given = open_all(&clients, &peer, proto);
        assert_distinct(&given);
        if reference::skipped("ports that are published or the host's") {
            continue;
        }
        // Who has to give way may take what somebody else would have kept, who gives way then.
        let changed = given.iter().filter(|(id, port)| id.port != **port).count();
        assert!((20..1000).contains(&changed), "{changed} have other ports");
        for port in given.values() {
            assert!(!(8080..8090).contains(port) && !(9000..9010).contains(port), "{port}");
        }
        flush(&host, "--all");
    }
}

/// 60,000 connections of three clients to one port, who have all the same ports,
/// so that two of three have to take others.
///
/// Requirements: 4787-3, 4787-11, 5382-7.
#[test]
fn sixty_thousand_connections_of_three_clients() {
    let host = Host::new();
    host.up("--namespaces 3");
    remember(&host);
    let peer = Puppet::outside(&host, PEER);
    let clients = [0, 1, 2].map(|n| Client::new(&host, n, 20_000..40_000));
    for proto in [packet::UDP, packet::TCP] {
        assert_distinct(&open_all(&clients, &peer, proto));
        flush(&host, "--all");
    }
}

/// The sender is told that no port is left, it is counted, those that live are
/// not touched, and when there are ports again they are given out.
///
/// Requirements: 5508-8, 4787-3, nat-3.
#[test]
fn exhausted_ports_are_told_and_counted_and_come_back() {
    let host = Host::new();
    host.up("--namespaces 2");
    remember(&host);
    let peer = Puppet::outside(&host, PEER);
    let first = [Client::new(&host, 0, 1024..65_535)];
    let given = open_all(&first, &peer, packet::UDP);
    assert_distinct(&given);
    let late = Puppet::inside(&host, "ns2", NS2, PEER);
    let id = |port| Id { client: 1, port };
    let ask = |port| late.send(&packet(packet::UDP, at(NS2, port), at(PEER, 53), 0, id(port)));
    // One port may be left: the last.
    for port in 30_000..30_020 {
        ask(port);
    }
    if !reference::skipped("that no port is left is told: Linux drops in silence") {
        host.wait_dropped("ns2", "ports_exhausted", 19);
        let told = late.receive("word of it");
        assert_eq!((told.proto, &told.payload[..2]), (packet::ICMP, &[3, 13][..]), "{told:02x?}");
        assert!(told.checksums_ok(), "{told:02x?}");
        let quote = &told.payload[8..];
        assert_eq!(quote[12..16], NS2.octets(), "its own packet: {told:02x?}");
        assert_eq!(quote[16..20], PEER.octets(), "its own packet: {told:02x?}");
    }
    peer.received();

    let living = &first[0].puppet;
    for port in [1024, 30_000, 65_534] {
        let id = Id { client: 0, port };
        living.send(&packet(packet::UDP, at(NS1, port), at(PEER, 53), 0, id));
        let seen = peer.receive("one that lives");
        assert_eq!((id_in(&seen, 0), seen.ports()), (id, Some((given[&id], 53))));
    }
    if reference::skipped("ports that are given out again when flows were ended by hand") {
        return;
    }
    flush(&host, "--ns ns1");
    ask(30_019);
    let seen = peer.receive("one that has got a port now");
    assert_eq!((id_in(&seen, 0), seen.src), (id(30_019), UPLINK));
}

/// A socket learns of it, too.
///
/// Requirements: 5508-8.
#[test]
fn a_refused_flow_is_told_to_the_socket() {
    if reference::skipped("limits of flows, of which Linux has one for all of the host") {
        return;
    }
    let host = Host::new();
    host.up("--namespaces 1 --flow-limit 1");
    let ns1 = host.ns("ns1");
    let _server = UdpServer::start(host.outside(), 53);
    let client = UdpClient::new(&ns1);
    client.exchange(at(OUTSIDE, 53), b"this is the one");
    wait::until_true("the refusal arrives as an error", || {
        let refused = connect_from(&ns1, any(0), at(OUTSIDE, 80)).err();
        refused.and_then(|e| e.raw_os_error()) == Some(nix::libc::EHOSTUNREACH)
    });
    assert!(host.dropped("ns1", "flow_limit") >= 1);
    client.exchange(at(OUTSIDE, 53), b"and lives on");
}

/// Two sockets with one tuple outside: the host's and a namespace's.
struct Pair<T> {
    host: T,
    ns: T,
}

/// Who comes first?
fn pair<T>(host_first: bool, own: impl Fn() -> T, theirs: impl Fn() -> T) -> Pair<T> {
    if host_first {
        let host = own();
        Pair { host, ns: theirs() }
    } else {
        let ns = theirs();
        Pair { host: own(), ns }
    }
}

/// Requirements: nat-4.
#[test]
fn a_udp_socket_of_the_host_on_the_tuple_of_a_flow() {
    for host_first in [true, false] {
        let host = Host::new();
        host.up("--namespaces 1");
        let (machine, ns1) = (host.netns(), host.ns("ns1"));
        let server = UdpServer::start(host.outside(), 53);
        let client = |ns: &Netns, text: &[u8]| {
            let client = UdpClient::on_port(ns, 5000);
            client.exchange(at(OUTSIDE, 53), text);
            client
        };
        let pair = pair(host_first, || client(machine, b"host"), || client(&ns1, b"ns"));
        for _ in 0..5 {
            pair.host.exchange(at(OUTSIDE, 53), b"the host's");
            pair.ns.exchange(at(OUTSIDE, 53), b"the namespace's");
        }
        let peers = server.peers();
        assert!(peers.iter().all(|peer| peer.ip() == UPLINK), "{peers:?}");
        assert!(peers.len() >= 2, "two clients: {peers:?}");
        // One goes, the other stays; then the one is back.
        drop(pair.host);
        pair.ns.exchange(at(OUTSIDE, 53), b"the host's has ended");
        let own = client(machine, b"host again");
        drop(pair.ns);
        own.exchange(at(OUTSIDE, 53), b"the namespace's has ended");
    }
}

/// Requirements: nat-4, 5382-7.
#[test]
fn a_tcp_connection_of_the_host_on_the_tuple_of_a_flow() {
    for (host_first, host_ends_first) in
        [(true, true), (true, false), (false, true), (false, false)]
    {
        let name = format!("host first {host_first}, ends first {host_ends_first}");
        let host = Host::new();
        host.up("--namespaces 1");
        let (machine, ns1) = (host.netns(), host.ns("ns1"));
        let _server = TcpServer::start(host.outside(), 80);
        let client = |ns: &Netns| {
            connect_from(ns, any(6000), at(OUTSIDE, 80))
                .unwrap_or_else(|e| panic!("{name}: {}: {e}", ns.name()))
        };
        let mut pair = pair(host_first, || client(machine), || client(&ns1));
        let echo = |connection: &mut TcpClient, what: &str| {
            connection.echo(what.as_bytes()).unwrap_or_else(|e| panic!("{name}, {what}: {e}"));
        };
        let mut seen = Vec::new();
        for _ in 0..5 {
            for connection in [&mut pair.host, &mut pair.ns] {
                echo(connection, "in turns");
                seen.push(connection.who_am_i().expect("an answer"));
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 2, "{name}: each keeps an address of its own: {seen:?}");
        let (mut ended, mut living) =
            if host_ends_first { (pair.host, pair.ns) } else { (pair.ns, pair.host) };
        ended.upload(100_000).unwrap_or_else(|e| panic!("{name}: {e}"));
        drop(ended);
        living.upload(100_000).unwrap_or_else(|e| panic!("{name}: {e}"));
        living.download(100_000).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// The server may have the old connection in `TIME_WAIT` still.
///
/// Requirements: nat-5.
#[test]
fn the_port_of_a_finished_connection_rests() {
    let host = Host::new();
    host.up("--namespaces 2");
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let _server = TcpServer::start(host.outside(), 80);
    let mut first = connect_from(&ns1, any(6000), at(OUTSIDE, 80)).expect("connect");
    assert_eq!(first.who_am_i().expect("an answer"), SocketAddr::V4(at(UPLINK, 6000)));
    drop(first);
    if !reference::enabled() {
        wait::until_true("both sides have finished", || {
            host.flows("--proto tcp").iter().all(|flow| flow.state == "TIME_WAIT")
        });
    }
    let mut second = connect_from(&ns2, any(6000), at(OUTSIDE, 80)).expect("connect");
    assert_ne!(second.who_am_i().expect("an answer"), SocketAddr::V4(at(UPLINK, 6000)));
}

/// Requirements: nat-5, nat-1.
#[test]
fn a_removed_network_takes_its_flows_with_it() {
    let host = Host::new();
    host.up("--name lab1 --subnet 172.21.0.0/24 --namespaces 1 --ns-prefix a -p 8080:a1:80");
    host.up("--name lab2 --subnet 172.22.0.0/24 --namespaces 1 --ns-prefix b");
    let server = UdpServer::start(host.outside(), 53);
    let _web = TcpServer::start(&host.ns("a1"), 80);
    for name in ["a1", "b1"] {
        UdpClient::on_port(&host.ns(name), 5000).exchange(at(OUTSIDE, 53), b"hello");
    }
    let mut inwards = netbpf_tests::traffic::connect(host.outside(), at(UPLINK, 8080)).expect("in");
    inwards.echo(b"hello").expect("echo");
    assert_eq!(server.peers().len(), 2);
    assert_eq!(host.flows("").len(), 3);
    host.netbpf("down lab1").ok();
    let left = host.flows("");
    assert!(left.iter().all(|flow| flow.ns == "b1") && left.len() == 1, "{left:?}");
    // Its ports are free again.
    let fresh = UdpServer::start(host.outside(), 54);
    UdpClient::on_port(&host.ns("b1"), 5001).exchange(at(OUTSIDE, 54), b"hello");
    assert!(fresh.peers().contains(&SocketAddr::V4(at(UPLINK, 5001))));
    host.up("--name lab1 --subnet 172.21.0.0/24 --namespaces 1 --ns-prefix a");
    UdpClient::on_port(&host.ns("a1"), 5000).exchange(at(OUTSIDE, 54), b"hello");
}
