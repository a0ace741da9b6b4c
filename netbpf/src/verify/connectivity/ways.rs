//! Who should reach whom.

use std::{collections::BTreeSet, fs::File, net::Ipv4Addr};

use super::servers::{Served, Servers};
use crate::{
    observe::Observed,
    topology::{EndpointPlan, NamespaceName, Proto, Publish, Topology},
};

/// A network namespace that probes start from and end in.
#[derive(Debug)]
pub struct Net {
    /// Its name; nothing for the host.
    pub name: Option<NamespaceName>,
    /// Its addresses: of the host, the gateway's and the uplinks'.
    pub addrs: Vec<Ipv4Addr>,
    /// It; nothing for the host.
    pub file: Option<File>,
}

impl Net {
    /// The host, that this process is on.
    #[must_use]
    pub fn host(topology: &Topology, observed: &Observed) -> Self {
        let mut addrs = uplink_addresses(topology, observed);
        addrs.push(topology.gateway());
        Self { name: None, addrs, file: None }
    }

    /// A namespace.
    #[must_use]
    pub fn namespace(endpoint: &EndpointPlan, file: File) -> Self {
        Self {
            name: Some(endpoint.namespace.clone()),
            addrs: vec![endpoint.addr],
            file: Some(file),
        }
    }
}

/// Whom it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// A namespace, by its own address.
    Namespace(NamespaceName),
    /// The host, by the gateway's address.
    Gateway,
    /// The host, by the uplink's address.
    Host,
    /// The outside.
    Outside,
    /// A published port, and the namespace behind it.
    Published(NamespaceName),
}

/// Who should reach whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Way {
    /// From which namespace; nothing for the host.
    pub from: Option<NamespaceName>,
    /// To whom.
    pub target: Target,
    /// By which address.
    pub addr: Ipv4Addr,
    /// Whether ping is tried.
    pub ping: bool,
    /// The port that TCP is tried at.
    pub tcp: Option<Served>,
    /// The port that UDP is tried at.
    pub udp: Option<Served>,
    /// Whether it is to be no way: the network keeps the two apart.
    pub closed: bool,
}

impl Way {
    /// A way that ping, TCP and UDP should go: `ports` are those of servers.
    fn whole(
        from: Option<&NamespaceName>,
        target: Target,
        addr: Ipv4Addr,
        ports: Option<(Served, Served)>,
    ) -> Self {
        let (tcp, udp) = ports.unzip();
        Self { from: from.cloned(), target, addr, ping: true, tcp, udp, closed: false }
    }

    /// The port, where it is a published one.
    #[must_use]
    pub fn published_port(&self) -> Option<u16> {
        let port = self.tcp.or(self.udp).map(|served| served.port);
        port.filter(|_| matches!(self.target, Target::Published(_)))
    }
}

/// Every way of a network. What cannot be asked is added to `left_out`.
pub fn all(
    topology: &Topology,
    observed: &Observed,
    servers: &Servers,
    outside: Option<(Ipv4Addr, Option<u16>)>,
    left_out: &mut Vec<String>,
) -> Vec<Way> {
    let names: Vec<&NamespaceName> = topology.endpoints.iter().map(|e| &e.namespace).collect();
    let everybody = || std::iter::once(None).chain(names.iter().copied().map(Some));
    let mut ways = Vec::new();
    for from in everybody() {
        for to in topology.endpoints.iter().filter(|to| from != Some(&to.namespace)) {
            let target = Target::Namespace(to.namespace.clone());
            let way = Way::whole(from, target, to.addr, servers.at(to.addr));
            let closed = from.is_some_and(|from| !topology.may_reach(from, &to.namespace));
            ways.push(Way { closed, ..way });
        }
        if from.is_some() {
            let addr = topology.gateway();
            ways.push(Way::whole(from, Target::Gateway, addr, servers.at(addr)));
            for addr in uplink_addresses(topology, observed) {
                ways.push(Way::whole(from, Target::Host, addr, servers.at(addr)));
            }
        }
        if let Some((addr, port)) = outside {
            let tcp = port.map(Served::elsewhere);
            let target = Target::Outside;
            let from = from.cloned();
            ways.push(Way { from, target, addr, ping: true, tcp, udp: None, closed: false });
        }
    }
    for publish in &topology.published {
        published(topology, observed, publish, servers, &mut ways, left_out);
    }
    ways
}

/// The ways by a published port, or by the ends of a range: from the host, and
/// from every namespace where it is published on an address that they reach.
fn published(
    topology: &Topology,
    observed: &Observed,
    publish: &Publish,
    servers: &Servers,
    ways: &mut Vec<Way>,
    left_out: &mut Vec<String>,
) {
    let uplinks = uplink_addresses(topology, observed);
    let mut addrs: Vec<Ipv4Addr> = match publish.host_addr {
        Some(addr) => vec![addr],
        None => uplinks.iter().copied().chain([Ipv4Addr::LOCALHOST]).collect(),
    };
    addrs.dedup();
    for (port, inside) in ends(publish) {
        let served = match servers.published(&publish.namespace, publish.proto, inside) {
            Ok(served) => Served { port, ..served },
            Err(why) => {
                let (ns, proto) = (&publish.namespace, publish.proto);
                left_out.push(format!("port {port}/{proto} to {ns}:{inside}: {why}"));
                continue;
            }
        };
        let way = |from: Option<&NamespaceName>, addr| Way {
            from: from.cloned(),
            target: Target::Published(publish.namespace.clone()),
            addr,
            ping: false,
            tcp: (publish.proto == Proto::Tcp).then_some(served),
            udp: (publish.proto == Proto::Udp).then_some(served),
            closed: false,
        };
        for &addr in &addrs {
            ways.push(way(None, addr));
            if uplinks.contains(&addr) {
                let all = topology.endpoints.iter();
                ways.extend(all.map(|from| way(Some(&from.namespace), addr)));
            }
        }
    }
}

/// The first port of a published range and the last one, each with the one that it
/// leads to.
#[must_use]
pub fn ends(publish: &Publish) -> BTreeSet<(u16, u16)> {
    let (host, inside) = (publish.host, publish.inside);
    BTreeSet::from([(host.first, inside.first), (host.last, inside.last)])
}

/// The addresses that translated packets carry.
fn uplink_addresses(topology: &Topology, observed: &Observed) -> Vec<Ipv4Addr> {
    let links = topology.uplinks.iter().filter_map(|uplink| observed.link(uplink.name.as_str()));
    links.filter_map(|link| observed.uplink_address(link)).map(|address| address.addr).collect()
}
