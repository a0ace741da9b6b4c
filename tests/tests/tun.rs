//! An uplink without Ethernet headers, whose other end the test plays.

use netbpf_tests::{
    Host, UPLINK, at,
    packet::{self, Ip, Seen},
    reference, sample,
    traffic::{Echo, Pong, Tun, UdpClient, UdpServer, connect, ping},
};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

/// The host's address on `tun0`, and somebody who is reached by it.
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

const SYN: u8 = 2;
const ACK: u8 = 16;

/// A network with two uplinks, of which the second is a tunnel.
fn host_with_tunnel(arguments: &str) -> (Host, Tun) {
    let host = Host::new();
    let tun = Tun::new(host.netns(), "tun0");
    host.netns().ip(&format!("addr add {OWN}/24 dev tun0"));
    host.netns().ip("route add 198.51.100.0/24 dev tun0");
    host.up(&format!("--uplink tun0 {arguments}"));
    (host, tun)
}

/// The interface goes with the descriptor, so the network has to go before.
fn remove(host: &Host, tun: Tun) {
    if !reference::enabled() {
        host.netbpf("down").ok();
    }
    drop(tun);
}

/// A packet of a protocol from the host's address to the other end.
fn of(proto: u8) -> impl FnMut(&Seen) -> Option<Seen> {
    move |seen| {
        let is_private = seen.src.octets()[..3] == [172, 19, 0];
        assert!(!is_private, "it left untranslated: {seen:02x?}");
        (seen.proto == proto && (seen.src, seen.dst) == (OWN, FAR)).then(|| seen.clone())
    }
}

/// The sequence number of a TCP segment.
fn sequence(seen: &Seen) -> u32 {
    u32::from_be_bytes(seen.payload[4..8].try_into().expect("a segment"))
}

/// Requirements: 5508-1, nat-6.
#[test]
fn echo_and_datagrams_by_a_tunnel() {
    let (host, tun) = host_with_tunnel("--namespaces 2");
    let ns1 = host.ns("ns1");
    thread::scope(|scope| {
        let asking = scope.spawn(|| ping(&ns1, FAR, Echo::default()));
        let asked = tun.find("an echo request", of(packet::ICMP));
        assert_eq!((asked.payload[0], asked.ttl), (8, 63));
        let id: [u8; 4] = asked.payload[4..8].try_into().expect("four bytes");
        tun.send(&Ip::new(FAR, OWN, packet::ICMP).icmp(0, 0, id, &asked.payload[8..]));
        assert_eq!(asking.join().expect("no panic"), Pong::Reply(FAR, 63));
    });
    // Both from the same port, twice, so that the second packets go the short way.
    let clients = ["ns1", "ns2"].map(|name| UdpClient::on_port(&host.ns(name), 5000));
    for len in [5, 1472] {
        let mut ports = Vec::new();
        for client in &clients {
            client.send(at(FAR, 53), &sample(len)).expect("send");
            let seen = tun.find("a datagram", of(packet::UDP));
            let (port, to) = seen.ports().expect("it has ports");
            assert_eq!((to, &seen.payload[8..]), (53, &sample(len)[..]));
            tun.send(&Ip::new(FAR, OWN, packet::UDP).udp(53, port, &sample(len)));
            let (answer, from) = client.receive().expect("the answer");
            assert!(answer == sample(len) && from == SocketAddr::V4(at(FAR, 53)));
            ports.push(port);
        }
        assert!(ports[0] == 5000 && ports[1] != 5000, "{ports:?}");
    }
    remove(&host, tun);
}

/// Requirements: 5382-2.
#[test]
fn a_connection_out_by_a_tunnel() {
    let (host, tun) = host_with_tunnel("--namespaces 1");
    let ns1 = host.ns("ns1");
    let ip = Ip::new(FAR, OWN, packet::TCP);
    thread::scope(|scope| {
        let connecting = scope.spawn(|| ns1.run(|| TcpStream::connect(at(FAR, 443))));
        let syn = tun.find("a SYN", of(packet::TCP));
        assert_eq!(syn.payload[13], SYN);
        let (port, _) = syn.ports().expect("it has ports");
        tun.send(&ip.tcp(443, port, SYN | ACK, 900, sequence(&syn) + 1));
        let mut stream = connecting.join().expect("no panic").expect("connect");
        stream.write_all(b"hello").expect("send");
        let data = tun.find("its data", |seen| {
            of(packet::TCP)(seen).filter(|seen| seen.payload.ends_with(b"hello"))
        });
        tun.send(&ip.tcp(443, port, ACK, 901, sequence(&data) + 5));
        // A FIN is the end of what there is to read.
        tun.send(&ip.tcp(443, port, ACK | 1, 901, sequence(&data) + 5));
        assert_eq!(stream.read(&mut [0]).expect("read"), 0);
    });
    remove(&host, tun);
}

/// Requirements: nat-14.
#[test]
fn a_port_published_by_a_tunnel() {
    let (host, tun) = host_with_tunnel("--namespaces 2 -p 8080:ns1:80 -p 8080:ns1:80/udp");
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let listener = ns1.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80))).expect("listen");
    let ip = Ip::new(FAR, OWN, packet::TCP);
    tun.send(&ip.tcp(40_000, 8080, SYN, 100, 0));
    let answer = tun.find("a SYN and ACK", of(packet::TCP));
    assert_eq!((answer.payload[13], answer.ports()), (SYN | ACK, Some((8080, 40_000))));
    tun.send(&ip.tcp(40_000, 8080, ACK, 101, sequence(&answer) + 1));
    let (mut stream, peer) = listener.accept().expect("accept");
    assert_eq!(peer, SocketAddr::V4(at(FAR, 40_000)), "the client's own address");
    stream.write_all(b"hello").expect("send");
    tun.find("the data", |seen| {
        of(packet::TCP)(seen).filter(|seen| seen.payload.ends_with(b"hello"))
    });
    let server = UdpServer::start(&ns1, 80);
    tun.send(&Ip::new(FAR, OWN, packet::UDP).udp(40_001, 8080, b"anybody?"));
    let answer = tun.find("the answer", of(packet::UDP));
    assert_eq!((answer.ports(), &answer.payload[8..]), (Some((8080, 40_001)), &b"anybody?"[..]));
    assert!(server.peers().contains(&SocketAddr::V4(at(FAR, 40_001))));
    // By the other uplink as well, and from a neighbour.
    for (from, to) in [(host.outside(), UPLINK), (&ns2, UPLINK)] {
        UdpClient::new(from).exchange(at(to, 8080), b"hello");
    }
    if !reference::skipped("hairpinning by the tunnel's address") {
        UdpClient::new(&ns2).exchange(at(OWN, 8080), b"hello");
    }
    drop((stream, listener));
    assert!(connect(&ns2, at(UPLINK, 8081)).is_err());
    remove(&host, tun);
}
