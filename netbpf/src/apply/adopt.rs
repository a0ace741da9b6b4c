//! Connections that the kernel tracks and that live on as flows of eBPF.

use std::net::Ipv4Addr;

use netbpf_common::{KnownFlow, Port, Seen, Translation, Tuple, proto};

use super::Apply;
use crate::{
    error::Result,
    net::ctnetlink::{Connection, Conntrack, Ends, TcpState},
    topology::Subnet,
};

/// Type and code of an ICMP echo.
const ECHO: (u8, u8) = (8, 0);

impl Apply<'_> {
    /// Has eBPF go on with the network's connections of TCP and UDP, and with its
    /// pings. Those that it would not have made itself are left out. That it cannot
    /// is no reason to stop half-way.
    pub(super) async fn adopt_flows(&mut self) -> Result<()> {
        let Some(datapath) = self.datapaths.ebpf.maps() else { return Ok(()) };
        let addresses = self.netlink.addresses().await?;
        let is_hosts = |addr: Ipv4Addr| {
            addr.is_loopback() || addresses.iter().any(|address| address.addr == addr)
        };
        let connections = Conntrack::open()?.all()?;
        let known = connections
            .iter()
            .flat_map(|connection| known_flows(connection, self.topology.subnet, is_hosts));
        if let Err(error) = datapath.adopt(&known.flatten().collect::<Vec<_>>()) {
            self.warnings.push(format!("connections do not go on: {error}"));
        }
        Ok(())
    }
}

/// A connection as eBPF knows it: one of a namespace by the host's address to a
/// published port is two, out by the loopback device and in again.
fn known_flows(
    connection: &Connection,
    subnet: Subnet,
    is_hosts: impl Fn(Ipv4Addr) -> bool,
) -> [Option<KnownFlow>; 2] {
    let Connection { proto: ip_proto, original, reply, .. } = connection;
    let is_known = match *ip_proto {
        proto::TCP | proto::UDP => true,
        proto::ICMP => original.icmp == ECHO,
        _ => false,
    };
    let translated = reply.turned();
    let (from_inside, to_inside) = (subnet.holds(original.src), subnet.holds(translated.dst));
    let is_published = (original.dst, original.dst_port) != (translated.dst, translated.dst_port);
    let flow = |from: &Ends, to: &Ends, from_host: bool| {
        let [seen, reply_seen] = seen(connection);
        let original = Tuple { from_host: u8::from(from_host), ..tuple(*ip_proto, from) };
        let translated = Translation::from(tuple(*ip_proto, to));
        Some(KnownFlow { original, translated, seen, reply_seen, pad: [0; 2] })
    };
    match (from_inside, to_inside) {
        _ if !is_known => [None, None],
        (true, true) if is_published => {
            // As it is between the two.
            let between = Ends { dst: original.dst, dst_port: original.dst_port, ..translated };
            [flow(original, &between, false), flow(&between, &translated, false)]
        }
        (true, false) if translated.src != original.src => {
            [flow(original, &translated, false), None]
        }
        (false, true) if is_published && is_hosts(original.src) => {
            [flow(original, &translated, true), None]
        }
        (false, true) if !is_hosts(original.src) => [flow(original, &translated, false), None],
        // Between namespaces, or with the host itself: not translated.
        _ => [None, None],
    }
}

fn tuple(ip_proto: u8, ends: &Ends) -> Tuple {
    let is_icmp = ip_proto == proto::ICMP;
    Tuple {
        saddr: ends.src.into(),
        daddr: ends.dst.into(),
        sport: Port::new(ends.src_port),
        dport: Port::new(if is_icmp { 0 } else { ends.dst_port }),
        proto: ip_proto,
        ..Tuple::default()
    }
}

/// What has been seen of both directions, the opening one first.
fn seen(connection: &Connection) -> [Seen; 2] {
    let Some(TcpState(state)) = connection.tcp else {
        let answered = if connection.is_answered() { Seen::ANY } else { 0 };
        return [Seen(Seen::ANY), Seen(answered)];
    };
    let opened = Seen::ANY | Seen::SYN;
    let established = opened | Seen::ACK;
    let [original, reply] = match state {
        // SYN_SENT, SYN_RECV.
        1 => [opened, 0],
        2 => [opened, opened],
        // FIN_WAIT, CLOSE_WAIT: one side has finished, whichever.
        4 | 5 => [established | Seen::FIN, established],
        // LAST_ACK, TIME_WAIT.
        6 | 7 => [established | Seen::FIN, established | Seen::FIN],
        // CLOSE.
        8 => [established | Seen::RST, established],
        _ => [established, established],
    };
    [Seen(original), Seen(reply)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_netfilter::conntrack::Status;

    const NS1: [u8; 4] = [172, 19, 0, 2];
    const NS2: [u8; 4] = [172, 19, 0, 3];
    const UPLINK: [u8; 4] = [203, 0, 113, 1];
    const PEER: [u8; 4] = [203, 0, 113, 2];
    const LOCALHOST: [u8; 4] = [127, 0, 0, 1];
    const GATEWAY: [u8; 4] = [172, 19, 0, 1];

    type End = ([u8; 4], u16);

    fn ends(from: End, to: End) -> Ends {
        let (src, dst) = (from.0.into(), to.0.into());
        Ends { src, dst, src_port: from.1, dst_port: to.1, icmp: (0, 0) }
    }

    /// What becomes of a connection of TCP: its flows as sources and destinations,
    /// of what comes and of what it becomes, and whether it is the host's.
    fn flows(original: (End, End), translated: (End, End)) -> Vec<([End; 4], bool)> {
        let connection = Connection {
            proto: proto::TCP,
            original: ends(original.0, original.1),
            reply: ends(translated.1, translated.0),
            status: Status::Confirmed,
            tcp: Some(TcpState::ESTABLISHED),
            timeout: 100,
            counts: None,
            start: None,
            zone: 0,
        };
        let subnet: Subnet = "172.19.0.0/24".parse().unwrap();
        let hosts = [UPLINK, GATEWAY, LOCALHOST].map(Ipv4Addr::from);
        let known = known_flows(&connection, subnet, |addr| hosts.contains(&addr));
        let ends = |flow: KnownFlow| {
            let (from, to) = (flow.original, flow.translated);
            let all = [
                (from.saddr.octets(), from.sport.number()),
                (from.daddr.octets(), from.dport.number()),
                (to.saddr.octets(), to.sport.number()),
                (to.daddr.octets(), to.dport.number()),
            ];
            (all, from.from_host == 1)
        };
        known.into_iter().flatten().map(ends).collect()
    }

    #[test]
    fn connections_become_the_flows_that_ebpf_would_have_made() {
        let client = (NS1, 4000);
        let (server, left) = ((PEER, 443), (UPLINK, 5000));
        assert_eq!(
            flows((client, server), (left, server)),
            [([client, server, left, server], false)]
        );
        let (asked, web) = ((UPLINK, 8080), (NS1, 80));
        let peer = (PEER, 7000);
        assert_eq!(flows((peer, asked), (peer, web)), [([peer, asked, peer, web], false)]);
        let host = (UPLINK, 7000);
        assert_eq!(flows((host, asked), (host, web)), [([host, asked, host, web], true)]);
        let (local, asked_local, seen) = ((LOCALHOST, 7000), (LOCALHOST, 8080), (GATEWAY, 7001));
        assert_eq!(
            flows((local, asked_local), (seen, web)),
            [([local, asked_local, seen, web], true)]
        );
        let (other, between) = ((NS2, 4000), (UPLINK, 4001));
        assert_eq!(
            flows((other, asked), (between, web)),
            [([other, asked, between, asked], false), ([between, asked, between, web], false)]
        );
    }

    #[test]
    fn what_is_not_translated_is_no_flow() {
        for (from, to) in [
            ((NS1, 4000), (NS2, 80)),
            ((NS1, 4000), (GATEWAY, 22)),
            ((UPLINK, 4000), (NS1, 80)),
            ((PEER, 4000), (UPLINK, 22)),
        ] {
            assert_eq!(flows((from, to), (from, to)), [], "{from:?} to {to:?}");
        }
        // Routed: by the namespace's own address.
        let (peer, web) = ((PEER, 4000), (NS1, 80));
        assert_eq!(flows((peer, web), (peer, web)), [([peer, web, peer, web], false)]);
    }
}
