//! Two namespaces that are connected with each other and nothing else. Nothing of
//! it is on the host, so that nothing there can be in its way but names.

use std::{collections::HashSet, net::Ipv4Addr, ops::RangeInclusive};

use super::{
    super::{EndpointPlan, Guard, Leaving, NamespaceSpec, Request, Subnet, Topology, mac},
    MTUS,
    address::{asked_subnet, check_prefixes, inside, reserved},
    default_subnet, exists,
    ownership::check_namespaces,
};
use crate::{
    bpf::LogLevel,
    datapath::Kind,
    error::{Error, Result},
    observe::Observed,
};

/// Largest IP packet, unless told otherwise: a veth's own.
const MTU: u32 = 1500;

/// Validates what was asked for.
pub(super) fn validate(request: &Request, observed: &Observed) -> Result<Topology> {
    let existing = observed.network(request.name.as_str());
    let recorded = existing.map(|network| &network.topology);
    let [first, second] = &request.namespaces[..] else {
        let count = request.namespaces.len();
        return Err(Error::usage(format!("a direct network of {count} namespaces"))
            .because("one veth pair connects exactly two")
            .hint("for example: netbpf up --direct --ns a=10.0.0.1/24 --ns b=10.0.0.2/24"));
    };
    if first.name == second.name {
        return Err(Error::usage(format!("the namespace {} is named twice", first.name))
            .hint("give every --ns another name"));
    }
    let subnet = asked_subnet(request)
        .or(recorded.map(|topology| topology.subnet))
        .unwrap_or_else(default_subnet);
    check_prefixes(subnet, request)?;
    if let Some(why) = reserved(subnet) {
        return Err(Error::usage(format!("the subnet {subnet} cannot be used"))
            .because(why)
            .hint("choose another with --subnet"));
    }
    let kept = recorded.filter(|_| request.keeps);
    let mtu = request.mtu.or(kept.map(|topology| topology.mtu)).unwrap_or(MTU);
    if !MTUS.contains(&mtu) {
        return Err(Error::usage(format!("invalid MTU {mtu}"))
            .because(format!("IPv4 needs {} to {}", MTUS.start(), MTUS.end()))
            .hint(format!("leave --mtu out for {MTU}")));
    }
    let topology = Topology {
        name: request.name.clone(),
        direct: true,
        uplinks: Vec::new(),
        // Neither is asked for anything.
        datapath: Kind::Ebpf,
        fallback: None,
        former: None,
        leaving: Leaving::default(),
        subnet,
        mtu,
        guard: Guard::Off,
        routed: false,
        respect_netfilter: false,
        isolate: false,
        allowed: Vec::new(),
        flow_limit: 0,
        max_flows: 0,
        log_level: LogLevel::default(),
        endpoints: assign([first, second], request, subnet, kept)?,
        published: Vec::new(),
    };
    let topology = match recorded {
        None => topology,
        Some(recorded) => match recorded.difference(&topology) {
            None => recorded.clone(),
            Some(difference) => return Err(exists(&topology.name, difference)),
        },
    };
    check_namespaces(&topology, existing, observed)?;
    Ok(topology)
}

/// Gives both their addresses and MACs. They have no number: no datapath knows them.
fn assign(
    specs: [&NamespaceSpec; 2],
    request: &Request,
    subnet: Subnet,
    kept: Option<&Topology>,
) -> Result<Vec<EndpointPlan>> {
    let asked: HashSet<Ipv4Addr> = specs.iter().filter_map(|spec| spec.addr).collect();
    let hosts = hosts(subnet);
    let mut free = hosts.clone().map(Ipv4Addr::from_bits).filter(|addr| !asked.contains(addr));
    let mut endpoints: Vec<EndpointPlan> = Vec::with_capacity(specs.len());
    for (n, spec) in specs.into_iter().enumerate() {
        let name = &spec.name;
        let addr = match spec.addr {
            Some(addr) => addr,
            None => free.next().ok_or_else(|| {
                Error::usage(format!("the subnet {subnet} is too small"))
                    .because("it has no two addresses")
                    .hint("choose a larger one, for example --subnet 10.0.0.0/30")
            })?,
        };
        let wrong = |what: String, why: String| {
            Err(Error::usage(format!("the namespace {name} cannot have the {what}"))
                .because(why)
                .hint("choose another, or leave it out"))
        };
        if !hosts.contains(&addr.to_bits()) {
            let why = format!("it is no address of a host in the subnet {subnet}");
            return wrong(format!("address {addr}"), why);
        }
        if spec.origin.is_elsewhere() {
            return Err(Error::usage(format!("the namespace {name} cannot be adopted"))
                .because("a direct network makes its two namespaces itself")
                .hint("leave --direct out"));
        }
        let endpoint = EndpointPlan {
            adopted: None,
            id: 0,
            namespace: name.clone(),
            addr,
            mac: spec.mac.unwrap_or_else(|| mac::generated(addr)),
            link: request.name.clone(),
            inside: inside(request, kept.and_then(|old| old.endpoint(name)), n)?,
        };
        for other in &endpoints {
            let why = format!("the namespace {} has it", other.namespace);
            if other.addr == addr {
                return wrong(format!("address {addr}"), why);
            }
            if other.mac == endpoint.mac {
                return wrong(format!("MAC {}", endpoint.mac), why);
            }
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

/// The addresses that hosts can have: without a gateway its address, too, and where
/// there are only two, both (RFC 3021).
fn hosts(subnet: Subnet) -> RangeInclusive<u32> {
    let (first, last) = (subnet.addr().to_bits(), subnet.broadcast().to_bits());
    let edge = u32::from(subnet.prefix_len() < 31);
    first.saturating_add(edge)..=last.saturating_sub(edge)
}
