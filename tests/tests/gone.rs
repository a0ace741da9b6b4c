//! Flows that are gone while those who use them do not know.

use netbpf_tests::{
    Host, Lookout, NS1, OUTSIDE, Options, UPLINK, Wire, at, nft,
    packet::{Ip, TCP, UDP},
    reference,
    traffic::{Echo, TcpServer, UdpClient, UdpServer, connect, ping},
    wait,
};

/// The NAT forgets all its flows.
fn forget(host: &Host) {
    if reference::enabled() {
        // They time out: the host's own have been given no time either.
        let outside = OUTSIDE.to_string();
        wait::until_true("the kernel has forgotten", || {
            !nft::tracked(host.netns()).iter().any(|flow| flow.contains(&outside))
        });
    } else {
        host.netbpf("maps flows flush --all").ok();
    }
}

/// A host whose flows are forgotten when [`forget`] is called.
fn forgetful() -> Host {
    let host = Host::with(Options { offloads: false, ..Options::default() });
    host.up("--namespaces 1 -p 8080:ns1:80");
    if reference::enabled() {
        for state in ["established", "fin_wait", "time_wait", "close", "syn_sent"] {
            host.tune(&format!("net/netfilter/nf_conntrack_tcp_timeout_{state}"), "1");
        }
        for kind in ["udp_timeout", "udp_timeout_stream", "icmp_timeout"] {
            host.tune(&format!("net/netfilter/nf_conntrack_{kind}"), "1");
        }
    }
    host
}

/// Requirements: nat-5, nat-15.
#[test]
fn late_segments_of_connections_never_known_never_leave_with_a_private_source() {
    let host = forgetful();
    let lookout = Lookout::outside(&host);
    let inside = Wire::inside(&host, &host.ns("ns1"));
    let ip = Ip::new(NS1, OUTSIDE, TCP);
    // FIN, RST, ACK and PSH in all ways that they are sent together.
    for (n, flags) in (0u16..).zip([1, 4, 16, 17, 20, 24, 25, 18]) {
        inside.send(&ip.tcp(4000 + n, 80, flags, 1, 1));
        inside.send(&ip.tcp(8080, 4000 + n, flags, 1, 1));
    }
    inside.send(&Ip::new(NS1, OUTSIDE, UDP).udp(53, 4000, b"a late answer"));
    inside.send(&ip.icmp(0, 0, [0, 1, 0, 1], b"a late echo reply"));
    assert!(ping(&host.ns("ns1"), OUTSIDE, Echo::default()).is_reply());
    assert!(lookout.nothing_leaked() > 0, "the ping at least was seen");
}

/// Requirements: nat-5, nat-15.
#[test]
fn data_and_the_end_of_a_connection_that_is_forgotten_never_leave_with_a_private_source() {
    let host = forgetful();
    let ns1 = host.ns("ns1");
    let _beyond = TcpServer::start(host.outside(), 80);
    let within = TcpServer::start(&ns1, 80);
    let mut outwards: Vec<_> =
        (0..3).map(|_| connect(&ns1, at(OUTSIDE, 80)).expect("connect")).collect();
    let mut inwards: Vec<_> =
        (0..3).map(|_| connect(host.outside(), at(UPLINK, 8080)).expect("connect")).collect();
    for client in outwards.iter_mut().chain(&mut inwards) {
        client.echo(b"known").expect("echo");
    }
    let lookout = Lookout::outside(&host);
    forget(&host);
    // One sends data, one ends at once, one ends after its data; the published
    // port's side sends and ends when it is told to, by the server's end.
    // Whether a connection survives is the NAT's affair.
    let _ = outwards[0].echo(b"late data");
    drop(outwards);
    drop(within);
    drop(inwards);
    assert!(ping(&ns1, OUTSIDE, Echo::default()).is_reply());
    assert!(lookout.nothing_leaked() > 0, "the ping at least was seen");
}

/// Requirements: nat-1, nat-15.
#[test]
fn traffic_on_a_forgotten_udp_flow_is_translated_anew() {
    let host = forgetful();
    let ns1 = host.ns("ns1");
    let server = UdpServer::start(host.outside(), 53);
    let client = UdpClient::on_port(&ns1, 5000);
    client.exchange(at(OUTSIDE, 53), b"before");
    let lookout = Lookout::outside(&host);
    forget(&host);
    client.exchange(at(OUTSIDE, 53), b"after");
    lookout.nothing_leaked();
    assert!(server.peers().iter().all(|peer| peer.ip() == UPLINK), "{:?}", server.peers());
}

/// Requirements: nat-1, nat-5, nat-15.
#[test]
fn late_answers_from_outside_reach_nobody() {
    let host = forgetful();
    let ns1 = host.ns("ns1");
    let (inside, outside) = (Wire::inside(&host, &ns1), Wire::outside(&host));
    let _server = UdpServer::start(host.outside(), 53);
    let client = UdpClient::on_port(&ns1, 5000);
    client.exchange(at(OUTSIDE, 53), b"before");
    inside.received();
    forget(&host);
    outside.send(&Ip::new(OUTSIDE, UPLINK, UDP).udp(53, 5000, b"late"));
    outside.send(&Ip::new(OUTSIDE, UPLINK, TCP).tcp(80, 5001, 17, 1, 1));
    inside.receives_none("a late answer", |packet| packet.seen.src == OUTSIDE);
}
