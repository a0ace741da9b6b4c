//! Subnets, addresses, MACs and numbers.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
};

use netbpf_common::MacAddr;

use super::{
    super::{
        EndpointPlan, LinkName, MAX_ENDPOINTS, NamespaceName, NamespaceSpec, Request, Subnet,
        Topology, mac,
    },
    adoption, free_ids, link_name,
};
use crate::{
    error::{Error, Key, Result},
    observe::Observed,
};

/// Subnets that mean something else.
const RESERVED: [(Ipv4Addr, u8, &str); 3] = [
    (Ipv4Addr::UNSPECIFIED, 8, "\"this network\""),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(224, 0, 0, 0), 3, "multicast, broadcast or reserved"),
];

/// Longest prefix of a route that leads everywhere: VPNs replace the default
/// route by two halves.
const LEADS_EVERYWHERE: u8 = 1;

/// Checks that the subnet is free and large enough.
pub(super) fn check_subnet(subnet: Subnet, request: &Request, observed: &Observed) -> Result<()> {
    check_prefixes(subnet, request)?;
    let wanted = request.namespaces.len();
    if subnet.room() < wanted {
        let fits = Subnet::containing(subnet.addr(), Subnet::prefix_for(wanted));
        let name = &request.name;
        let has = observed.network(name.as_str()).map(|network| network.topology.subnet);
        let hint = if has == Some(subnet) {
            format!("enlarge it, and its flows go on: netbpf up --name {name} --subnet {fits}")
        } else {
            format!("choose a larger one, for example --subnet {fits}")
        };
        return Err(Error::usage(format!("the subnet {subnet} is too small"))
            .because(format!(
                "it has room for {} namespaces, {wanted} were asked for",
                subnet.room()
            ))
            .hint(hint));
    }
    let Some(why) = conflict(subnet, request, observed) else { return Ok(()) };
    let error = Error::usage(format!("the subnet {subnet} cannot be used")).because(why);
    Err(match suggestion(subnet.prefix_len(), request, observed) {
        Some(free) => error.hint(format!("choose another, for example --subnet {free}")),
        None => error.hint("choose another with --subnet"),
    })
}

/// The subnet that was asked for, by itself or by a namespace's address and prefix.
pub(super) fn asked_subnet(request: &Request) -> Option<Subnet> {
    let of = |spec: &NamespaceSpec| Some(Subnet::containing(spec.addr?, spec.prefix_len?));
    request.subnet.or_else(|| request.namespaces.iter().find_map(of))
}

/// Checks that the prefixes that were given with addresses are the subnet's.
pub(super) fn check_prefixes(subnet: Subnet, request: &Request) -> Result<()> {
    for (n, spec) in request.namespaces.iter().enumerate() {
        let NamespaceSpec { name, addr, prefix_len, .. } = spec;
        let (Some(addr), Some(len)) = (addr, prefix_len) else { continue };
        if *len != subnet.prefix_len() || !subnet.holds(*addr) {
            return Err(Error::usage(format!("the namespace {name} cannot have {addr}/{len}"))
                .because(format!("the network's subnet is {subnet}"))
                .hint("give all of them addresses of one subnet, with its prefix length")
                .about(Key::nth("ns", n).field("address")));
        }
    }
    Ok(())
}

/// What is that a subnet cannot be: it means something else.
pub(super) fn reserved(subnet: Subnet) -> Option<String> {
    let mut all = RESERVED.iter().map(|(addr, len, what)| (Subnet::containing(*addr, *len), what));
    let found = all.find(|(reserved, _)| reserved.overlaps(subnet));
    found.map(|(reserved, what)| format!("{reserved} is {what}"))
}

/// What is in the subnet's way.
fn conflict(subnet: Subnet, request: &Request, observed: &Observed) -> Option<String> {
    if let Some(why) = reserved(subnet) {
        return Some(why);
    }
    for network in observed.others(request.name.as_str()) {
        let mut subnets = network.topology.all_subnets();
        if let Some(taken) = subnets.find(|taken| taken.overlaps(subnet)) {
            return Some(format!("the network {} has {taken}", network.topology.name));
        }
    }
    // What is on the network's own bridge is not in its way.
    let existing = observed.network(request.name.as_str());
    let bridge = existing.and_then(|_| observed.link(request.name.as_str()));
    let own = |ifindex: u32| bridge.is_some_and(|bridge| bridge.index == ifindex);
    let name_of = |ifindex: u32| {
        let link = observed.links.iter().find(|link| link.index == ifindex);
        link.map_or_else(|| format!("interface {ifindex}"), |link| link.name.clone())
    };
    let addresses = observed.addresses.iter().filter(|address| !own(address.ifindex));
    for address in addresses {
        if address.subnet().overlaps(subnet) {
            let (addr, len) = (address.addr, address.prefix_len);
            return Some(format!("{} has the address {addr}/{len}", name_of(address.ifindex)));
        }
    }
    let routes = observed.routes.iter();
    let routes = routes.filter(|route| route.destination.prefix_len() > LEADS_EVERYWHERE);
    for route in routes {
        let via = route.ifindex.filter(|&index| !own(index));
        if route.destination.overlaps(subnet) && (via.is_some() || route.ifindex.is_none()) {
            let way = via.map(|index| format!(" by {}", name_of(index))).unwrap_or_default();
            return Some(format!("there is a route to {}{way}", route.destination));
        }
    }
    None
}

/// A subnet of that size that is free.
fn suggestion(prefix_len: u8, request: &Request, observed: &Observed) -> Option<Subnet> {
    if !(16..=30).contains(&prefix_len) {
        return None;
    }
    let in_172 = (19..32).map(|second| Ipv4Addr::new(172, second, 0, 0));
    let in_10 = (0..=255).rev().map(|second| Ipv4Addr::new(10, second, 0, 0));
    in_172
        .chain(in_10)
        .map(|addr| Subnet::containing(addr, prefix_len))
        .find(|&subnet| conflict(subnet, request, observed).is_none())
}

/// Gives every namespace its number, address, MAC and veth. One that the network has
/// keeps them, unless something of it changes: then it is another one, with a number
/// and a veth of its own, and nothing of the old one can be mistaken for it.
pub(super) fn assign(
    request: &Request,
    subnet: Subnet,
    observed: &Observed,
) -> Result<Vec<EndpointPlan>> {
    check_specs(&request.namespaces, subnet)?;
    let recorded = observed.network(request.name.as_str()).map(|network| &network.topology);
    let has: Vec<&EndpointPlan> = recorded.into_iter().flat_map(Topology::all_endpoints).collect();
    let old = |spec: &NamespaceSpec| has.iter().find(|old| old.namespace == spec.name).copied();
    let mut free = Free::new(request, subnet, observed, &has);
    let mut endpoints: Vec<EndpointPlan> = Vec::with_capacity(request.namespaces.len());
    for spec in &request.namespaces {
        let old = old(spec);
        let addr = match spec.addr.or(free.kept.get(&spec.name).copied()) {
            Some(addr) => addr,
            None => free.addr()?,
        };
        let mac = spec.mac.unwrap_or_else(|| mac::generated(addr));
        let adopted = adoption::of(spec, old, observed)
            .map_err(|error| error.about(Key::nth("ns", endpoints.len())))?;
        let inside = match (adoption::ifname(spec, request), old) {
            (Some(name), Some(old)) if name.makes(&old.inside) => old.inside.clone(),
            (Some(name), _) => free.inside(name)?,
            (None, Some(old)) if request.keeps => old.inside.clone(),
            (None, _) => LinkName::inside(),
        };
        let is_same = |old: &&&EndpointPlan| {
            old.namespace == spec.name
                && old.addr == addr
                && old.mac == mac
                && old.inside == inside
                && old.adopted == adopted
        };
        endpoints.push(match has.iter().find(is_same) {
            Some(&same) => same.clone(),
            None => EndpointPlan {
                id: free.id()?,
                namespace: spec.name.clone(),
                addr,
                mac,
                link: free.link(&request.name)?,
                inside,
                adopted,
            },
        });
    }
    check_macs(&endpoints, request, subnet, observed)?;
    adoption::check_once(&endpoints, request, observed)?;
    let adopted = endpoints.iter().enumerate().filter(|(_, e)| e.adopted.is_some());
    for one in adopted {
        adoption::check(one, subnet, &has, observed)?;
    }
    Ok(endpoints)
}

/// What can still be given out.
struct Free<'a> {
    subnet: Subnet,
    /// The addresses that namespaces keep, as none is asked for them.
    kept: HashMap<NamespaceName, Ipv4Addr>,
    /// First those that nobody has had, then those that become free.
    addrs: Box<dyn Iterator<Item = Ipv4Addr> + 'a>,
    ids: Box<dyn Iterator<Item = u16> + 'a>,
    links: HashSet<&'a LinkName>,
    next_link: usize,
    insides: HashSet<LinkName>,
    next_inside: usize,
}

impl<'a> Free<'a> {
    fn new(
        request: &Request,
        subnet: Subnet,
        observed: &Observed,
        has: &[&'a EndpointPlan],
    ) -> Self {
        let asked: HashSet<Ipv4Addr> =
            request.namespaces.iter().filter_map(|spec| spec.addr).collect();
        let stays: HashSet<&NamespaceName> = request.namespaces.iter().map(|n| &n.name).collect();
        let staying = || has.iter().filter(|old| stays.contains(&old.namespace));
        let mut taken = asked;
        let mut kept = HashMap::new();
        let open = request.namespaces.iter().filter(|spec| spec.addr.is_none());
        let open: HashSet<&NamespaceName> = open.map(|spec| &spec.name).collect();
        // What a network has comes before what it is losing.
        let fits = |old: &&&EndpointPlan| subnet.has_host(old.addr);
        for old in staying().filter(|old| open.contains(&old.namespace)).filter(fits) {
            if !kept.contains_key(&old.namespace) && taken.insert(old.addr) {
                kept.insert(old.namespace.clone(), old.addr);
            }
        }
        let had: HashSet<Ipv4Addr> = has.iter().map(|old| old.addr).collect();
        let mut again: Vec<Ipv4Addr> = had
            .iter()
            .filter(|&addr| subnet.has_host(*addr) && !taken.contains(addr))
            .copied()
            .collect();
        again.sort_unstable();
        let never = subnet.hosts().filter(move |addr| !had.contains(addr) && !taken.contains(addr));
        Self {
            subnet,
            kept,
            addrs: Box::new(never.chain(again)),
            ids: Box::new(free_ids(request, observed)),
            links: has.iter().map(|old| &old.link).collect(),
            next_link: 1,
            insides: staying().map(|old| old.inside.clone()).collect(),
            next_inside: 0,
        }
    }

    fn addr(&mut self) -> Result<Ipv4Addr> {
        let subnet = self.subnet;
        self.addrs.next().ok_or_else(|| {
            Error::usage(format!("the subnet {subnet} is too small"))
                .hint("choose a larger one with --subnet")
        })
    }

    fn id(&mut self) -> Result<u16> {
        self.ids.next().ok_or_else(|| {
            Error::usage("too many namespaces")
                .because(format!("all networks of a host can have {MAX_ENDPOINTS} together"))
                .hint("take another network down, or ask for fewer")
        })
    }

    fn link(&mut self, network: &LinkName) -> Result<LinkName> {
        loop {
            let name = link_name(network, self.next_link)?;
            self.next_link += 1;
            if !self.links.contains(&name) {
                return Ok(name);
            }
        }
    }

    /// A name for a namespace's interface: with the lowest number that none has.
    fn inside(&mut self, pattern: &LinkName) -> Result<LinkName> {
        loop {
            let name = pattern.numbered(self.next_inside)?;
            self.next_inside += 1;
            if !pattern.is_pattern() || !self.insides.contains(&name) {
                return Ok(name);
            }
        }
    }
}

/// The name of a namespace's interface: what is asked for, what it has, or the usual.
pub(super) fn inside(request: &Request, old: Option<&EndpointPlan>, n: usize) -> Result<LinkName> {
    match (&request.ifname, old) {
        (Some(name), _) => name.numbered(n),
        (None, Some(old)) => Ok(old.inside.clone()),
        (None, None) => Ok(LinkName::inside()),
    }
}

/// Checks names and addresses that were asked for.
fn check_specs(specs: &[NamespaceSpec], subnet: Subnet) -> Result<()> {
    let mut names = HashSet::new();
    let mut owners = HashMap::new();
    for (n, NamespaceSpec { name, addr, .. }) in specs.iter().enumerate() {
        if !names.insert(name) {
            return Err(Error::usage(format!("the namespace {name} is named twice"))
                .hint("give every --ns another name")
                .about(Key::nth("ns", n).field("name")));
        }
        let Some(addr) = *addr else { continue };
        let wrong = |why: String| {
            Error::usage(format!("the namespace {name} cannot have the address {addr}"))
                .because(why)
                .hint(match subnet.hosts().next() {
                    Some(first) => format!("choose one of {subnet} from {first} on"),
                    None => "choose a larger subnet".into(),
                })
                .about(Key::nth("ns", n).field("address"))
        };
        if !subnet.holds(addr) {
            return Err(wrong(format!("it is not in the subnet {subnet}")));
        }
        if addr == subnet.addr() {
            return Err(wrong(format!("it is the address of the subnet {subnet} itself")));
        }
        if addr == subnet.broadcast() {
            return Err(wrong("it is the broadcast address".into()));
        }
        if addr == subnet.gateway() {
            return Err(wrong("it is the gateway's".into()));
        }
        if let Some(owner) = owners.insert(addr, name) {
            return Err(wrong(format!("the namespace {owner} has it")));
        }
    }
    Ok(())
}

/// Checks that no two interfaces have the same MAC: the datapath tells all
/// endpoints of the host apart by it.
fn check_macs(
    endpoints: &[EndpointPlan],
    request: &Request,
    subnet: Subnet,
    observed: &Observed,
) -> Result<()> {
    let mut owners: HashMap<MacAddr, String> = HashMap::new();
    owners.insert(mac::generated(subnet.gateway()), "the bridge".into());
    for network in observed.others(request.name.as_str()) {
        let topology = &network.topology;
        owners.insert(topology.gateway_mac(), format!("the bridge {}", topology.name));
        for other in &topology.endpoints {
            owners.insert(other.mac, format!("the namespace {}", other.namespace));
        }
    }
    for (n, endpoint) in endpoints.iter().enumerate() {
        let name = &endpoint.namespace;
        let owner = owners.insert(endpoint.mac, format!("the namespace {name}"));
        if let Some(owner) = owner {
            return Err(Error::usage(format!(
                "the namespace {name} cannot have the MAC {}",
                endpoint.mac
            ))
            .because(format!("{owner} has it"))
            .hint("choose another, or leave it out: --ns NAME=IP")
            .about(Key::nth("ns", n).field("mac")));
        }
    }
    Ok(())
}
