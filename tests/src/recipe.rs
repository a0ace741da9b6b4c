//! A network with all that the classical recipe has: two namespaces, an uplink, ports
//! published to everybody and to the host itself.

use crate::{
    Host, NS1, OUTSIDE, Outcome, UPLINK, at, finish, sample,
    traffic::{Echo, TcpServer, UdpClient, UdpServer, connect, ping},
};
use std::net::Ipv4Addr;

/// What is asked of `netbpf up` for it, but for uplink and datapath.
pub const ARGUMENTS: &str = "--namespaces 2 -p 8080:ns1:80 -p 9000-9003:ns1:7000-7003/udp \
                             -p 127.0.0.1:8081:ns2:80";

/// Everything that a network does, once.
pub fn works(host: &Host) {
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let (_web, _local) = (TcpServer::start(&ns1, 80), TcpServer::start(&ns2, 80));
    let _out = TcpServer::start(host.outside(), 443);
    let udp = UdpServer::start(host.outside(), 53);
    for ns in [&ns1, &ns2] {
        assert!(ping(ns, OUTSIDE, Echo::default()).is_reply(), "{}", ns.name());
        let mut client = connect(ns, at(OUTSIDE, 443)).expect("outwards");
        assert_eq!(client.who_am_i().expect("an answer").ip(), UPLINK);
        client.upload(1 << 20).expect("upload");
        UdpClient::on_port(ns, 5000).exchange(at(OUTSIDE, 53), ns.name().as_bytes());
    }
    assert_eq!(udp.peers().len(), 2, "{:?}", udp.peers());
    assert!(ping(&ns2, NS1, Echo::default()).is_reply());
    for (from, to, port, seen_as) in [
        (host.outside(), UPLINK, 8080, OUTSIDE),
        (&ns2, UPLINK, 8080, UPLINK),
        (&ns1, UPLINK, 8080, UPLINK),
        (host.netns(), UPLINK, 8080, UPLINK),
        (host.netns(), Ipv4Addr::LOCALHOST, 8080, Ipv4Addr::new(172, 19, 0, 1)),
        (host.netns(), Ipv4Addr::LOCALHOST, 8081, Ipv4Addr::new(172, 19, 0, 1)),
    ] {
        let name = format!("{} to {to}:{port}", from.name());
        let mut client = connect(from, at(to, port)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(client.who_am_i().expect("an answer").ip(), seen_as, "{name}");
        client.echo(&sample(20_000)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert!(connect(host.outside(), at(UPLINK, 8081)).is_err(), "bound to 127.0.0.1");
    for offset in 0..4 {
        let server = UdpServer::start(&ns1, 7000 + offset);
        UdpClient::new(host.outside()).exchange(at(UPLINK, 9000 + offset), b"to this one");
        assert_eq!(server.peers().len(), 1, "{offset}");
    }
}

/// Runs a command of netbpf again and again, with a fault at its first step, its second
/// and so on, until it does not get as far as the fault; calls `after` with each step
/// and what became of it.
pub fn with_each_fault(
    host: &Host,
    command: &str,
    fault: &str,
    mut after: impl FnMut(usize, Outcome),
) {
    for step in 1..=200 {
        let mut command = host.command(command);
        let outcome = finish(command.env("NETBPF_FAULT", format!("{fault}:{step}")));
        if outcome.code == Some(0) {
            assert!(step > 5, "only {step} steps had a fault");
            return;
        }
        after(step, outcome);
    }
    panic!("it has no end");
}
