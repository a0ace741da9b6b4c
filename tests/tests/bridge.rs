//! The network behaves like an ordinary bridged one to what runs in it.

use netbpf_tests::{
    GATEWAY, Host, NS1, NS2, NS3, Netns, OUTSIDE, UPLINK, at, packet,
    traffic::{Echo, FrameSocket, UdpClient, UdpServer, ping},
    wait,
};
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    time::Duration,
};

/// A MAC that no interface has.
const STRANGER: packet::Mac = [0x02, 0xaa, 0, 0, 0, 0x99];

fn three() -> (Host, [Netns; 3]) {
    let host = Host::new();
    host.up("--namespaces 3");
    let namespaces = ["ns1", "ns2", "ns3"].map(|name| host.ns(name));
    (host, namespaces)
}

fn finds(capture: &FrameSocket, frame: &[u8], where_: &str) {
    capture.find(&format!("the frame in {where_}"), |seen| (seen.bytes == frame).then_some(()));
}

#[test]
fn arp_is_answered_and_names_are_not_written_in_stone() {
    let (host, [ns1, ns2, ns3]) = three();
    for ns in [&ns1, &ns2, &ns3, host.netns()] {
        let device = if ns.name() == "host" { "netbpf0" } else { "eth0" };
        ns.ip(&format!("neigh flush nud all dev {device}"));
    }
    for to in [NS2, NS3, GATEWAY, OUTSIDE] {
        assert!(ping(&ns1, to, Echo::default()).is_reply(), "{to}");
    }
    let raw = FrameSocket::open(&ns1, "eth0");
    let question = packet::arp(1, (ns1.mac("eth0"), NS1), ([0; 6], NS2));
    raw.send(&packet::ethernet(packet::BROADCAST, ns1.mac("eth0"), packet::ARP, &question))
        .expect("send");
    let answer = packet::arp(2, (ns2.mac("eth0"), NS2), (ns1.mac("eth0"), NS1));
    raw.find("the answer", |seen| (seen.bytes.get(14..42) == Some(&answer[..])).then_some(()));
}

/// Requirements: nat-13.
#[test]
fn broadcast_and_multicast_reach_everybody() {
    let (host, [ns1, ns2, ns3]) = three();
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 6667)).expect("bind");
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let listeners = [&ns2, &ns3, host.netns()].map(|ns| {
        ns.run(|| {
            let socket = bind();
            let own = match ns.name() {
                "ns2" => NS2,
                "ns3" => NS3,
                _ => GATEWAY,
            };
            socket.join_multicast_v4(&group, &own).expect("join the group");
            socket.set_read_timeout(Some(wait::DEADLINE)).expect("a time-out");
            socket
        })
    });
    let sender = ns1.run(bind);
    sender.set_broadcast(true).expect("broadcast");
    for to in [Ipv4Addr::new(172, 19, 0, 255), Ipv4Addr::BROADCAST, group] {
        ns1.run(|| sender.send_to(to.to_string().as_bytes(), (to, 6667))).expect("send");
        for listener in &listeners {
            let mut buffer = [0; 64];
            let (len, from) =
                listener.recv_from(&mut buffer).unwrap_or_else(|e| panic!("{to}: {e}"));
            assert_eq!(buffer[..len], *to.to_string().as_bytes());
            assert_eq!(from, SocketAddr::V4(at(NS1, 6667)));
        }
    }
}

/// Requirements: nat-13.
#[test]
fn unknown_unicast_floods_and_odd_frames_pass_unchanged() {
    let (_host, [ns1, ns2, ns3]) = three();
    let captures = [&ns2, &ns3].map(|ns| FrameSocket::open(ns, "eth0"));
    let raw = FrameSocket::open(&ns1, "eth0");
    let (own, second) = (ns1.mac("eth0"), ns2.mac("eth0"));
    // To nobody knows whom: to everybody.
    let ip = packet::Ip::new(NS1, Ipv4Addr::new(172, 19, 0, 99), packet::UDP).udp(1, 2, b"hello?");
    let unknown = packet::ethernet(STRANGER, own, packet::IPV4, &ip);
    raw.send(&unknown).expect("send");
    finds(&captures[0], &unknown, "ns2");
    finds(&captures[1], &unknown, "ns3");
    // Tagged frames and those of protocols that nobody here speaks.
    let tagged_ip = [&[0x00, 0x05, 0x08, 0x00][..], &ip].concat();
    for (ethertype, payload) in [(0x88b5, &b"local experiment"[..]), (packet::VLAN, &tagged_ip)] {
        let to_one = packet::ethernet(second, own, ethertype, payload);
        raw.send(&to_one).expect("send");
        finds(&captures[0], &to_one, "ns2");
        let to_all = packet::ethernet(packet::BROADCAST, own, ethertype, payload);
        raw.send(&to_all).expect("send");
        finds(&captures[0], &to_all, "ns2");
        finds(&captures[1], &to_all, "ns3");
        let leaked = |seen: &netbpf_tests::traffic::Frame| seen.bytes == to_one;
        assert!(!captures[1].captured().iter().any(leaked), "unicast to ns2 seen in ns3");
    }
}

#[test]
fn ipv6_works_between_namespaces() {
    let (_host, [ns1, ns2, _]) = three();
    let link_local = |ns: &Netns| -> Ipv6Addr {
        wait::until("there is a link-local address", || {
            let shown = ns.ip_json("ip", "-6 addr show dev eth0 scope link -tentative");
            shown[0]["addr_info"][0]["local"].as_str()?.parse().ok()
        })
    };
    let to = link_local(&ns2);
    link_local(&ns1);
    let scope =
        u32::try_from(ns1.link("eth0")["ifindex"].as_u64().expect("a number")).expect("32 bits");
    let open = || {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 6000)).expect("bind");
        socket.set_read_timeout(Some(wait::DEADLINE)).expect("a time-out");
        socket
    };
    let (client, server) = (ns1.run(open), ns2.run(open));
    let mut buffer = [0; 2000];
    for len in [1, 1000, 1452] {
        let data = netbpf_tests::sample(len);
        client.send_to(&data, SocketAddrV6::new(to, 6000, 0, scope)).expect("send");
        let (got, from) = server.recv_from(&mut buffer).expect("the datagram");
        assert_eq!(buffer[..got], data);
        server.send_to(&data, from).expect("send back");
        let (got, _) = client.recv_from(&mut buffer).expect("the answer");
        assert_eq!(buffer[..got], data);
    }
}

/// Checks that a guest behind a namespace is a full member of the network.
fn assert_member(host: &Host, guest: &Netns, addr: Ipv4Addr, others: [&Netns; 2]) {
    for other in others {
        assert!(ping(other, addr, Echo::default()).is_reply(), "{} to {addr}", other.name());
    }
    for to in [NS2, NS3, GATEWAY, OUTSIDE] {
        assert!(ping(guest, to, Echo::default()).is_reply(), "{addr} to {to}");
    }
    let server = UdpServer::start(guest, 99);
    UdpClient::new(others[0]).exchange(at(addr, server.port()), b"known unicast by now");
    let beyond = UdpServer::start(host.outside(), 98);
    UdpClient::new(guest).exchange(at(OUTSIDE, beyond.port()), b"translated, too");
    assert!(beyond.peers().iter().all(|peer| peer.ip() == UPLINK), "{:?}", beyond.peers());
}

#[test]
fn a_macvlan_behind_a_namespace_is_learnt_and_reachable() {
    let (host, [ns1, ns2, ns3]) = three();
    let guest = Netns::create(host.sandbox(), "guest");
    ns1.ip("link add mv0 link eth0 type macvlan mode bridge");
    ns1.ip("link set mv0 netns guest");
    guest.ip("addr add 172.19.0.50/24 dev mv0");
    guest.ip("link set mv0 up");
    guest.ip(&format!("route add default via {GATEWAY}"));
    assert_member(&host, &guest, Ipv4Addr::new(172, 19, 0, 50), [&ns2, &ns3]);
    assert_learnt(&host, guest.mac("mv0"), "ns1");
    host.netns().ip("netns del guest");
}

#[test]
fn a_nested_bridge_in_a_namespace_is_learnt_and_reachable() {
    let (host, [ns1, ns2, ns3]) = three();
    let guest = Netns::create(host.sandbox(), "guest");
    ns1.ip("link add br0 type bridge");
    ns1.ip("link add port0 type veth peer name inner0 netns guest");
    ns1.ip("link set port0 master br0 up");
    ns1.ip("addr flush dev eth0");
    ns1.ip("link set eth0 master br0");
    ns1.ip("link set br0 up");
    guest.ip("addr add 172.19.0.60/24 dev inner0");
    guest.ip("link set inner0 up");
    guest.ip(&format!("route add default via {GATEWAY}"));
    assert_member(&host, &guest, Ipv4Addr::new(172, 19, 0, 60), [&ns2, &ns3]);
    assert_learnt(&host, guest.mac("inner0"), "ns1");
    host.netns().ip("netns del guest");
}

fn assert_learnt(host: &Host, mac: packet::Mac, ns: &str) {
    let text = mac.map(|byte| format!("{byte:02x}")).join(":");
    wait::until_true(&format!("{text} is known behind {ns}"), || {
        let answer = host.json("maps fdb");
        let entries = answer["fdb"].as_array().unwrap_or_else(|| panic!("no fdb in {answer}"));
        let ours = |entry: &&serde_json::Value| entry["mac"] == text.as_str();
        entries.iter().find(ours).is_some_and(|e| e["ns"] == ns && e["type"] == "learnt")
    });
}

#[test]
fn a_second_address_in_a_namespace_is_reachable() {
    let (host, [ns1, ns2, _]) = three();
    ns2.ip("addr add 172.19.0.77/24 dev eth0");
    let second = Ipv4Addr::new(172, 19, 0, 77);
    for from in [&ns1, host.netns()] {
        assert!(ping(from, second, Echo::default()).is_reply(), "from {}", from.name());
    }
    let beyond = UdpServer::start(host.outside(), 98);
    UdpClient::bound(&ns2, at(second, 0)).exchange(at(OUTSIDE, beyond.port()), b"hello");
}

/// Says hello from a MAC of one's own invention.
fn says_hello(port: &FrameSocket) {
    let hello = packet::ethernet(packet::BROADCAST, STRANGER, 0x88b5, b"hello");
    port.send(&hello).expect("send");
}

#[test]
fn a_mac_that_moves_is_followed_where_nobody_is_on_guard() {
    let host = Host::new();
    host.up("--namespaces 3 --source-guard off");
    let [ns1, ns2, ns3] = ["ns1", "ns2", "ns3"].map(|name| host.ns(name));
    let ports = [&ns1, &ns2, &ns3].map(|ns| FrameSocket::open(ns, "eth0"));
    let to_stranger = packet::ethernet(STRANGER, ns3.mac("eth0"), 0x88b5, b"to the stranger");
    for (i, name) in [(0, "ns1"), (1, "ns2"), (0, "ns1")] {
        says_hello(&ports[i]);
        assert_learnt(&host, STRANGER, name);
        ports[i].captured();
        ports[2].send(&to_stranger).expect("send");
        finds(&ports[i], &to_stranger, name);
    }
    // By now it is known: the other one does not get it.
    ports[1].captured();
    ports[2].send(&to_stranger).expect("send");
    finds(&ports[0], &to_stranger, "ns1");
    let got = ports[1].find_within(Duration::ZERO, |f| (f.bytes == to_stranger).then_some(()));
    assert!(got.is_none(), "ns2 gets frames to a MAC behind ns1");
}

#[test]
fn a_mac_that_was_learnt_is_not_taken_over() {
    let (host, [ns1, ns2, ns3]) = three();
    let ports = [&ns1, &ns2, &ns3].map(|ns| FrameSocket::open(ns, "eth0"));
    says_hello(&ports[0]);
    assert_learnt(&host, STRANGER, "ns1");
    says_hello(&ports[1]);
    host.wait_dropped("ns2", "source_mac", 1);
    let to_stranger = packet::ethernet(STRANGER, ns3.mac("eth0"), 0x88b5, b"to the stranger");
    ports[2].send(&to_stranger).expect("send");
    finds(&ports[0], &to_stranger, "ns1");
}

/// As a host without an address does (RFC 2131, RFC 5227).
#[test]
fn asking_for_an_address_is_allowed() {
    let (host, [ns1, ns2, _]) = three();
    let raw = FrameSocket::open(&ns1, "eth0");
    let captures = [FrameSocket::open(&ns2, "eth0"), FrameSocket::open(host.netns(), "netbpf0")];
    let own = ns1.mac("eth0");
    let discover = packet::Ip::new(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, packet::UDP);
    let probe = packet::arp(1, (own, Ipv4Addr::UNSPECIFIED), ([0; 6], NS3));
    for (ethertype, payload) in
        [(packet::IPV4, discover.udp(68, 67, b"discover")), (packet::ARP, probe)]
    {
        let frame = packet::ethernet(packet::BROADCAST, own, ethertype, &payload);
        raw.send(&frame).expect("send");
        for (capture, name) in captures.iter().zip(["ns2", "the host"]) {
            finds(capture, &frame, name);
        }
    }
}

/// The maps find a MAC by its last bytes first.
#[test]
fn macs_with_the_same_end_are_two() {
    let host = Host::new();
    host.up("--ns a=172.19.0.2/02:01:00:00:00:07 --ns b=172.19.0.7 --ns c=172.19.0.9");
    let (a, b, c) = (host.ns("a"), host.ns("b"), host.ns("c"));
    assert_eq!(a.mac("eth0")[4..], b.mac("eth0")[4..]);
    let reaches = |last: u8| {
        let before = host.stat("c", "forwarded");
        assert!(ping(&c, Ipv4Addr::new(172, 19, 0, last), Echo::default()).is_reply(), "{last}");
        host.stat("c", "forwarded") > before
    };
    assert!(reaches(2) && reaches(7), "both by the fast path");
    host.netbpf("ns rm a").ok();
    assert!(reaches(7), "the one that stays as well");
    host.netbpf("check").ok();
}
