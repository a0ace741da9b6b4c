//! What others do to the host's firewall: the network does not stand on it.

use netbpf_tests::{
    Host, OUTSIDE, UPLINK, at, finish, nft, sample,
    traffic::{TcpServer, UdpClient, UdpServer, connect},
};

/// Rules come and go, tables are flushed, everything forwarded is refused: what
/// runs goes on, and what is new begins.
///
/// Requirements: nat-18.
#[test]
fn rules_that_are_flushed_and_policies_that_refuse() {
    let host = Host::new();
    let iptables = |arguments: &str| {
        finish(host.netns().command("iptables").arg("-w").args(arguments.split_whitespace())).ok()
    };
    host.up("--namespaces 2 -p 8080:ns1:80");
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let _web = TcpServer::start(&ns1, 80);
    let (_udp, _tcp) = (UdpServer::start(host.outside(), 53), TcpServer::start(host.outside(), 80));
    let mut running = [
        connect(&ns1, at(OUTSIDE, 80)).expect("outwards"),
        connect(host.outside(), at(UPLINK, 8080)).expect("inwards"),
        connect(&ns2, at(UPLINK, 8080)).expect("hairpinned"),
    ];
    let client = UdpClient::new(&ns1);
    for arguments in [
        "-t nat -A POSTROUTING -o up0 -j MASQUERADE",
        "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
        "-P FORWARD DROP",
        "-F",
        "-t nat -F",
        "-P FORWARD ACCEPT",
        "-t raw -A PREROUTING -j NOTRACK",
        "-t raw -F",
    ] {
        iptables(arguments);
        for connection in &mut running {
            connection.echo(&sample(20_000)).unwrap_or_else(|e| panic!("{arguments}: {e}"));
        }
        client.exchange(at(OUTSIDE, 53), arguments.as_bytes());
        for (from, to) in
            [(&ns1, at(OUTSIDE, 80)), (host.outside(), at(UPLINK, 8080)), (&ns2, at(UPLINK, 8080))]
        {
            let mut new = connect(from, to).unwrap_or_else(|e| panic!("{arguments}: {e}"));
            new.echo(b"hello").unwrap_or_else(|e| panic!("{arguments}: {e}"));
        }
    }
    host.netbpf("down").ok();
    // iptables leaves its tables behind, empty.
    nft::flush(host.netns());
}
