//! Connectivity: who of a running network reaches whom.
//!
//! [`ways`] lists who should reach whom, [`servers`] has somebody answer there,
//! [`probe`] tries, and [`cause`] says of what failed why that probably is so.
//! What answers are sockets of this process inside the namespaces: what netbpf
//! promises is the way there, not that somebody serves at its end.

pub mod cause;
pub mod probe;
pub mod servers;
pub mod ways;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use crate::{
    error::{Error, Result},
    net::netns::{self, Named},
    observe::{Inside, Observed},
    plan::Step,
    state::Recorded,
    topology::Topology,
};

pub use cause::Lacks;
pub use probe::Outcome;
pub use ways::{Target, Way};

use self::{servers::Servers, ways::Net};

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Who stands for the outside; the host's next hop towards it if nobody is
    /// named. With a port, TCP is tried there as well.
    pub outside: Option<(Ipv4Addr, Option<u16>)>,
    /// How long an answer may take.
    pub patience: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Who stood for the outside; nothing if there is no route to it.
    pub outside: Option<Ipv4Addr>,
    /// Every way and what came of it.
    pub ways: Vec<Tried>,
    /// What could not be asked, and why.
    pub left_out: Vec<String>,
}

/// A way, and what came of it.
#[derive(Debug)]
pub struct Tried {
    /// Who to whom.
    pub way: Way,
    /// By ping, TCP and UDP; nothing for what was not tried.
    pub outcomes: [Option<Outcome>; 3],
    /// If something failed: the likely cause.
    pub cause: Option<String>,
}

impl Tried {
    /// Whether all that was tried worked; of a way that is to be none: whether nothing did.
    #[must_use]
    pub fn works(&self) -> bool {
        let is_answered = |outcome: &Outcome| matches!(outcome, Outcome::Answered(_));
        self.outcomes.iter().flatten().all(|outcome| is_answered(outcome) != self.way.closed)
    }
}

/// Tries every way of a network.
///
/// `lacking` are the steps by which `up` would make what is missing of it.
///
/// # Errors
/// The kernel's; that something does not work is none.
pub fn verify(
    network: &Recorded,
    observed: &Observed,
    lacking: &[Step],
    question: &Question,
) -> Result<Report> {
    let topology = &network.topology;
    let outside = question.outside.or_else(|| next_hop(topology, observed).map(|hop| (hop, None)));
    let lacks = Lacks::new(topology, observed, lacking);
    let nets = nets(topology, observed)?;
    let published = topology.published.iter().flat_map(|publish| {
        let inside = ways::ends(publish).into_iter().map(|(_, inside)| inside);
        inside.map(|port| (publish.namespace.clone(), publish.proto, port))
    });
    let servers = Servers::start(&nets, &published.collect::<Vec<_>>())?;
    let mut left_out = Vec::new();
    let ways = ways::all(topology, observed, &servers, outside, &mut left_out);
    let outcomes = probe::run(&nets, &ways, servers.token(), question.patience)?;
    let mut tried: Vec<Tried> = ways
        .into_iter()
        .zip(outcomes)
        .map(|(way, outcomes)| Tried { way, outcomes, cause: None })
        .collect();
    drop(servers);
    let causes: Vec<Option<String>> =
        tried.iter().map(|one| (!one.works()).then(|| cause::of(one, &tried, &lacks))).collect();
    for (one, cause) in tried.iter_mut().zip(causes) {
        one.cause = cause;
    }
    if outside.is_none() {
        left_out.push("the outside: the host has no default route by an uplink".to_owned());
    }
    Ok(Report { outside: outside.map(|(addr, _)| addr), ways: tried, left_out })
}

/// The host, and every namespace of the network that is there.
fn nets(topology: &Topology, observed: &Observed) -> Result<Vec<Net>> {
    let mut nets = vec![Net::host(topology, observed)];
    for endpoint in &topology.endpoints {
        if !matches!(observed.inside.get(&endpoint.namespace), Some(Inside::Ours { .. })) {
            continue;
        }
        if let Named::Namespace(file) = netns::look_up(endpoint.namespace.as_str())? {
            nets.push(Net::namespace(endpoint, file));
        }
    }
    Ok(nets)
}

/// The router by which the host reaches the outside: that of its default route by
/// one of the uplinks.
fn next_hop(topology: &Topology, observed: &Observed) -> Option<Ipv4Addr> {
    let is_uplink = |index: u32| {
        let link = observed.links.iter().find(|link| link.index == index);
        link.is_some_and(|link| {
            topology.uplinks.iter().any(|uplink| uplink.name.as_str() == link.name)
        })
    };
    let mut routes: Vec<_> = observed.routes.iter().filter(|route| route.is_default()).collect();
    routes.sort_by_key(|route| route.metric);
    routes.into_iter().filter(|route| route.ifindex.is_some_and(is_uplink)).find_map(|r| r.gateway)
}

/// Reads `ADDR[:PORT]`.
///
/// # Errors
/// It is something else.
pub fn parse_outside(text: &str) -> Result<(Ipv4Addr, Option<u16>)> {
    if let Ok(addr) = text.parse() {
        return Ok((addr, None));
    }
    match text.parse::<SocketAddrV4>() {
        Ok(socket) if socket.port() != 0 => Ok((*socket.ip(), Some(socket.port()))),
        _ => Err(Error::usage(format!("{text:?} is no address"))
            .hint("write an IPv4 address, with or without a port: --outside 192.0.2.1:443")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outside_is_an_address_with_or_without_a_port() {
        let addr = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(parse_outside("192.0.2.1").unwrap(), (addr, None));
        assert_eq!(parse_outside("192.0.2.1:443").unwrap(), (addr, Some(443)));
        for wrong in ["", "example.org", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:70000", "::1"] {
            assert!(parse_outside(wrong).is_err(), "{wrong}");
        }
    }
}
