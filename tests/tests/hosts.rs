//! Hosts that are not as tidy as the fixture: firewalls, filters, other people's settings.

use netbpf_tests::{
    GATEWAY, Host, NS2, OUTSIDE, UPLINK, at, nft,
    traffic::{Echo, TcpServer, UdpClient, UdpServer, connect, ping},
};

/// What eBPF carries works: between namespaces, outwards, inwards.
#[track_caller]
fn assert_carried(host: &Host, what: &str) {
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    for to in [NS2, OUTSIDE] {
        assert!(ping(&ns1, to, Echo::default()).is_reply(), "{what}: ping to {to}");
    }
    let _inside = UdpServer::start(&ns2, 53);
    let _beyond = UdpServer::start(host.outside(), 53);
    let _web = TcpServer::start(&ns2, 80);
    for to in [NS2, OUTSIDE] {
        UdpClient::new(&ns1).exchange(at(to, 53), what.as_bytes());
    }
    let mut client =
        connect(host.outside(), at(UPLINK, 8080)).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(client.who_am_i().expect("an answer"), client.local(), "{what}");
    client.upload(1 << 20).unwrap_or_else(|e| panic!("{what}: {e}"));
}

const ARGUMENTS: &str = "--namespaces 2 -p 8080:ns2:80";

/// Docker's default. It also proves that none of it passes the host's netfilter.
///
/// Requirements: nat-18.
#[test]
fn a_host_that_forwards_nothing() {
    let host = Host::new();
    nft::drop_forwarded(host.netns());
    host.up(ARGUMENTS);
    assert_carried(&host, "with a forward policy of drop");
    host.netbpf("down").ok();
    nft::flush(host.netns());
}

#[test]
fn a_host_that_forwards_nothing_and_knows_no_neighbours() {
    let host = Host::new();
    nft::drop_forwarded(host.netns());
    host.netns().ip("neigh flush dev up0");
    host.up(ARGUMENTS);
    host.netns().ip("neigh flush dev up0");
    assert_carried(&host, "with nothing forwarded and no neighbours known");
    host.netbpf("down").ok();
    nft::flush(host.netns());
}

/// Requirements: nat-18.
#[test]
fn a_firewall_that_is_reloaded() {
    let host = Host::new();
    nft::track_connections(host.netns());
    host.up(ARGUMENTS);
    let ns1 = host.ns("ns1");
    let _server = TcpServer::start(host.outside(), 443);
    let mut connection = connect(&ns1, at(OUTSIDE, 443)).expect("connect");
    for _ in 0..3 {
        nft::flush(host.netns());
        connection.echo(b"still there").expect("echo");
        nft::track_connections(host.netns());
        connection.echo(b"still there").expect("echo");
    }
    assert_carried(&host, "after a reload of the firewall");
    nft::flush(host.netns());
}

#[test]
fn other_peoples_settings() {
    for (sysctl, value) in [
        ("net/ipv4/conf/all/rp_filter", "1"),
        ("net/ipv4/conf/default/rp_filter", "1"),
        ("net/bridge/bridge-nf-call-iptables", "0"),
        ("net/ipv4/conf/default/forwarding", "0"),
        ("net/ipv6/conf/all/disable_ipv6", "1"),
        ("net/ipv4/conf/all/arp_ignore", "2"),
        ("net/ipv4/conf/all/arp_filter", "1"),
    ] {
        let host = Host::new();
        let path = format!("/proc/sys/{sysctl}");
        let before = host.netns().read(&path);
        host.netns().sysctl(sysctl, value);
        host.up(ARGUMENTS);
        assert_carried(&host, &format!("{sysctl}={value}"));
        assert!(ping(&host.ns("ns1"), GATEWAY, Echo::default()).is_reply(), "{sysctl}={value}");
        host.netbpf("down").ok();
        assert_eq!(host.netns().read(&path).trim(), value, "{sysctl} is theirs");
        host.netns().sysctl(sysctl, before.trim());
    }
}

/// Writing `ip_forward` overwrites these as well, which a hardened host would
/// notice only when it is too late.
#[test]
fn what_ip_forward_overwrites_is_put_back() {
    for (sysctl, value) in [
        ("net/ipv4/conf/all/accept_redirects", "0"),
        ("net/ipv4/conf/up0/forwarding", "1"),
        ("net/ipv4/conf/default/forwarding", "1"),
    ] {
        let host = Host::new();
        let path = format!("/proc/sys/{sysctl}");
        let before = host.netns().read(&path);
        host.netns().sysctl(sysctl, value);
        host.up("--namespaces 1");
        host.netbpf("down").ok();
        assert_eq!(host.netns().read(&path).trim(), value, "{sysctl} is theirs");
        host.netns().sysctl(sysctl, before.trim());
    }
}
