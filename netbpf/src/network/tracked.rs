//! The flows of the iptables datapath: the kernel's tracked connections.

use std::{
    net::Ipv4Addr,
    time::{Duration, SystemTime},
};

use netbpf_common::{Flow, Port, Translation, Tuple, proto};

use super::LiveFlow;
use crate::{
    bpf::FlowHead,
    error::Result,
    net::ctnetlink::{Connection, Conntrack, Ends},
    topology::{EndpointPlan, Topology},
};

/// The flows of networks of iptables that are wanted.
///
/// # Errors
/// The kernel's.
pub(crate) fn flows(
    networks: &[Topology],
    wanted: impl Fn(&FlowHead) -> bool,
) -> Result<Vec<LiveFlow>> {
    if networks.is_empty() {
        return Ok(Vec::new());
    }
    let known = Known::of(networks);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let all = Conntrack::open()?.all()?;
    let flows = all.iter().filter_map(|connection| {
        let head = known.head(connection).filter(|head| wanted(head))?;
        Some(flow(head, connection, now))
    });
    Ok(flows.collect())
}

/// Ends the flows of networks of iptables that are wanted so; returns how many.
///
/// # Errors
/// The kernel's.
pub(crate) fn flush(networks: &[Topology], wanted: impl Fn(&FlowHead) -> bool) -> Result<u64> {
    if networks.is_empty() {
        return Ok(0);
    }
    let known = Known::of(networks);
    Conntrack::open()?
        .remove_all(|connection| known.head(connection).is_some_and(|head| wanted(&head)))
}

/// The uplinks of networks, with their addresses.
pub(crate) fn uplinks(networks: &[Topology]) -> impl Iterator<Item = (u32, Vec<Ipv4Addr>)> {
    let all = networks.iter().flat_map(|topology| &topology.uplinks);
    all.filter_map(|uplink| addresses(uplink.name.as_str()))
}

/// Index and IPv4 addresses of an interface, if there is one.
fn addresses(name: &str) -> Option<(u32, Vec<Ipv4Addr>)> {
    let index = nix::net::if_::if_nametoindex(name).ok()?;
    let all = nix::ifaddrs::getifaddrs().ok()?;
    let of_it = all.filter(|address| address.interface_name == name);
    let addresses = of_it.filter_map(|address| Some(address.address?.as_sockaddr_in()?.ip()));
    Some((index, addresses.collect()))
}

/// Whose connections are whose.
struct Known<'a> {
    networks: &'a [Topology],
    uplinks: Vec<(u32, Vec<Ipv4Addr>)>,
}

impl<'a> Known<'a> {
    fn of(networks: &'a [Topology]) -> Self {
        Self { networks, uplinks: uplinks(networks).collect() }
    }

    fn endpoint(&self, addr: Ipv4Addr) -> Option<&'a EndpointPlan> {
        let mut all = self.networks.iter().flat_map(|topology| &topology.endpoints);
        all.find(|endpoint| endpoint.addr == addr)
    }

    /// The flow that a connection is; nothing if it is no namespace's, or not
    /// translated.
    fn head(&self, connection: &Connection) -> Option<FlowHead> {
        let Connection { proto: ip_proto, original, reply, .. } = connection;
        // A published port made it if its answers come from a namespace by another
        // address than the one that was asked for.
        let is_dnat = reply.src != original.dst;
        let inside = if is_dnat { reply.src } else { original.src };
        let endpoint = self.endpoint(inside).filter(|_| connection.is_translated())?;
        let outside = if is_dnat { original.dst } else { reply.dst };
        let by = self.uplinks.iter().find(|(_, addresses)| addresses.contains(&outside));
        let is_own = |addr: Ipv4Addr| {
            self.uplinks.iter().any(|(_, addresses)| addresses.contains(&addr))
                || addr.is_loopback()
                || self.networks.iter().any(|topology| topology.subnet.holds(addr))
        };
        let uplink = match by {
            // The host itself, or a namespace by the host's address.
            _ if is_dnat && is_own(original.src) => Flow::LOOPBACK,
            Some((index, _)) => *index,
            None => LiveFlow::NO_UPLINK,
        };
        let tuple = Translation::tuple(translation(*ip_proto, original), *ip_proto);
        let translated = translation(*ip_proto, &turned(reply));
        let id = endpoint.endpoint_id();
        Some(FlowHead { tuple, translated, endpoint: id, is_dnat, is_host: false, uplink })
    }
}

/// An answer's ends as those of what it answers.
fn turned(reply: &Ends) -> Ends {
    Ends {
        src: reply.dst,
        dst: reply.src,
        src_port: reply.dst_port,
        dst_port: reply.src_port,
        icmp: reply.icmp,
    }
}

/// As flows have it: ICMP's identifier on the side that asks only.
fn translation(ip_proto: u8, ends: &Ends) -> Translation {
    let dport = if ip_proto == proto::ICMP { 0 } else { ends.dst_port };
    Tuple {
        saddr: ends.src.into(),
        daddr: ends.dst.into(),
        sport: Port::new(ends.src_port),
        dport: Port::new(dport),
        proto: ip_proto,
        from_host: 0,
        pad: [0; 2],
    }
    .into()
}

fn flow(head: FlowHead, connection: &Connection, now: Duration) -> LiveFlow {
    let Connection { tcp, timeout, counts, start, .. } = connection;
    let state = match tcp {
        Some(state) => state.name(),
        None if connection.is_answered() => "REPLIED",
        None => "UNREPLIED",
    };
    LiveFlow {
        head,
        state,
        age: start.map(|start| now.saturating_sub(Duration::from_nanos(start))),
        expires: Duration::from_secs((*timeout).into()),
        packets: counts.map(|counts| counts.map(|of| of.packets)),
        bytes: counts.map(|counts| counts.map(|of| of.bytes)),
    }
}
