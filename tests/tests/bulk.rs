//! Much data, and packets as large as they can be.

use netbpf_tests::{
    GATEWAY, Host, NS2, Netns, OUTSIDE, Options, UPLINK, at, sample,
    traffic::{Echo, TcpServer, UdpClient, UdpServer, connect, ping},
};
use std::net::SocketAddrV4;

const MEGABYTE: u64 = 1 << 20;

/// Bulk in both directions over the three ways that eBPF carries.
fn transfer_everywhere(host: &Host, bytes: u64) {
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let _inside = TcpServer::start(&ns2, 80);
    let _beyond = TcpServer::start(host.outside(), 80);
    transfer(&ns1, at(NS2, 80), bytes);
    transfer(&ns1, at(OUTSIDE, 80), bytes);
    transfer(host.outside(), at(UPLINK, 8080), bytes);
}

fn transfer(from: &Netns, to: SocketAddrV4, bytes: u64) {
    let mut client = connect(from, to).unwrap_or_else(|e| panic!("connect to {to}: {e}"));
    client.upload(bytes).unwrap_or_else(|e| panic!("{bytes} bytes to {to}: {e}"));
    client.download(bytes).unwrap_or_else(|e| panic!("{bytes} bytes from {to}: {e}"));
}

#[test]
fn sixty_four_megabytes_arrive_intact_in_each_direction() {
    let host = Host::new();
    host.up("--namespaces 2 -p 8080:ns2:80");
    transfer_everywhere(&host, 64 * MEGABYTE);
}

#[test]
fn without_offloads_every_checksum_on_the_way_is_right() {
    let host = Host::with(Options { offloads: false, ..Options::default() });
    host.up("--namespaces 2 -p 8080:ns2:80");
    transfer_everywhere(&host, 8 * MEGABYTE);
}

#[test]
fn datagrams_of_all_sizes_pass() {
    let host = Host::with(Options { offloads: false, ..Options::default() });
    host.up("--namespaces 2 -p 53:ns2:53/udp");
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let _inside = UdpServer::start(&ns2, 53);
    let _beyond = UdpServer::start(host.outside(), 53);
    for (from, to) in [(&ns1, NS2), (&ns1, OUTSIDE), (host.outside(), UPLINK)] {
        let client = UdpClient::new(from);
        for len in [0, 1, 2, 3, 7, 8, 17, 18, 19, 63, 64, 500, 1471, 1472] {
            client.exchange(at(to, 53), &sample(len));
        }
    }
}

#[test]
fn the_mtu_is_the_uplinks_unless_asked_otherwise() {
    for (uplink, arguments, expected) in
        [(1500, "", 1500), (1400, "", 1400), (1500, "--mtu 1400", 1400)]
    {
        let host = Host::with(Options { mtu: uplink, ..Options::default() });
        host.up(&format!("--namespaces 2 -p 8080:ns2:80 {arguments}"));
        let ns1 = host.ns("ns1");
        assert_eq!(ns1.link("eth0")["mtu"], expected, "uplink {uplink} {arguments}");
        assert_eq!(host.netns().link("netbpf0")["mtu"], expected);
        for to in [NS2, GATEWAY, OUTSIDE] {
            let echo = Echo { size: expected, dont_fragment: true, ..Echo::default() };
            assert!(ping(&ns1, to, echo).is_reply(), "{expected} bytes to {to}");
        }
        transfer_everywhere(&host, 2 * MEGABYTE);
    }
}

/// A namespace that believes in a larger MTU than the way out has learns the
/// way's, as from any router.
#[test]
fn tcp_finds_the_path_mtu() {
    for offloads in [true, false] {
        let host = Host::with(Options { mtu: 1400, offloads, ..Options::default() });
        host.up("--namespaces 2 --mtu 1500 -p 8080:ns2:80");
        transfer_everywhere(&host, MEGABYTE);
    }
}
