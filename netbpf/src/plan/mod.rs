//! From what is wanted and what there is to the steps in between. Pure: what
//! `--dry-run` prints is what would be done.

mod about;
mod apart;
mod change;
mod direct;
mod inverse;
mod rows;
mod rules;
mod step;
mod switch;
mod upgrade;
mod words;

use std::{net::Ipv4Addr, path::PathBuf};

pub use rows::{endpoint_row, publish_entries};
pub use step::{Place, Step};
pub use switch::switch;
pub use upgrade::{UpgradeStep, finish_upgrade, upgrade};
pub(crate) use words::flaws;

use crate::{
    bpf::Hook,
    datapath::Kind,
    net::{Address, Link, Route, ctnetlink::apart::Apart, sysctl::Switch},
    observe::{Inside, Observed},
    state::{Phase, Recorded, Store},
    topology::{EndpointPlan, LinkName, NamespaceName, Owned, Topology, mac},
};

/// The steps from what there is to the network; none if it is all there.
#[must_use]
pub fn up(topology: &Topology, observed: &Observed, store: &Store) -> Vec<Step> {
    if topology.former.is_some() {
        return switch(topology, observed, store);
    }
    // If the datapath that all networks of eBPF share is lost, what is loaded in
    // its place must know the others, too.
    let others: Vec<Planner<'_>> = observed
        .others(topology.name.as_str())
        .filter(|other| observed.datapath.is_none() && other.topology.datapath == Kind::Ebpf)
        .map(|other| Planner::new(&other.topology, observed, store))
        .collect();
    let steps = Planner::new(topology, observed, store).up(&others);
    match observed.network(topology.name.as_str()) {
        Some(recorded) if change::is_under_way(topology, recorded) => {
            change::change(topology, recorded, observed, steps)
        }
        _ => steps,
    }
}

/// The steps from what there is to the network, but for what other networks
/// need; none if it is all there.
#[must_use]
pub fn missing(topology: &Topology, observed: &Observed, store: &Store) -> Vec<Step> {
    Planner::new(topology, observed, store).up(&[])
}

/// The steps from what there is of a network to nothing of it: those that
/// would build it from nothing, undone in reverse, but for what is gone
/// already and what other networks need.
#[must_use]
pub fn down(network: &Recorded, observed: &Observed, store: &Store) -> Vec<Step> {
    let whole = change::with_leaving(&network.topology);
    let topology = &whole;
    let name = topology.name.as_str();
    if topology.direct {
        return direct::down(topology, observed, store);
    }
    let nothing = Observed {
        // The uplinks are there whoever builds.
        links: observed
            .links
            .iter()
            .filter(|link| !topology.has_link(&link.name))
            .cloned()
            .collect(),
        addresses: observed.addresses.clone(),
        networks: observed.others(name).cloned().collect(),
        judged: observed.unreflecting.contains(&topology.name),
        ..Observed::default()
    };
    let mut all = missing(topology, &nothing, store);
    // What an interrupted change has left of it.
    let is_apart = |step: &Step| matches!(step, Step::KeepApart { .. });
    if observed.apart.contains_key(&topology.name) && !all.iter().any(is_apart) {
        let bridge = topology.name.clone();
        all.insert(1, Step::KeepApart { bridge, apart: Apart::default() });
    }
    // So are former subnets, which nothing else makes.
    let kinds = [Some(topology.datapath), topology.former];
    if kinds.contains(&Some(Kind::Ebpf)) {
        let subnets = network.topology.leaving.subnets.iter();
        let gateways = network.topology.leaving_gateways();
        let gateways = gateways.map(|addr| Step::SetGateway { addr, mac: mac::generated(addr) });
        let made = subnets.map(|&subnet| Step::SetSubnet { subnet }).chain(gateways);
        all.splice(1..1, made.collect::<Vec<_>>());
    }
    if let Some(former) = topology.former {
        // Of both datapaths there may be something.
        let new = std::mem::take(&mut all);
        let before = Topology { datapath: former, ..topology.clone() };
        all = missing(&before, &nothing, store);
        all.retain(|step| !new.contains(step) || !matches!(step, Step::MarkUp));
        let more: Vec<Step> = new.into_iter().filter(|step| !all.contains(step)).collect();
        all.extend(more);
    }
    let gone = undo(&all).into_iter().filter(|step| is_to_go(step, topology, observed));
    gone.filter(|step| match step {
        Step::DeleteLink { name, .. } => observed.link(name.as_str()).is_some(),
        Step::DeleteNamespace { name } => {
            !matches!(observed.inside.get(name), Some(Inside::Missing))
        }
        _ => true,
    })
    .collect()
}

/// Whether what a step takes away is not needed by other networks, nor goes along
/// with something else.
fn is_to_go(step: &Step, topology: &Topology, observed: &Observed) -> bool {
    let others = |kind: Kind| observed.others_of(topology, kind);
    // What is eBPF's is shared with the other networks of eBPF, forwarding with all.
    let last = others(Kind::Ebpf).next().is_none();
    let alone = observed.others(topology.name.as_str()).next().is_none();
    let is_others =
        |uplink: &LinkName| others(Kind::Ebpf).any(|other| other.topology.has_uplink(uplink));
    match step {
        Step::UnloadDatapath | Step::Detach { hook: Hook::FromHost, .. } => last,
        Step::SwitchBack { switch } => {
            let is_unused = if *switch == Switch::IpForward { alone } else { last };
            is_unused && observed.switched.contains(switch)
        }
        // Rows go with the maps.
        Step::Withdraw { .. }
        | Step::ClearEndpoint { .. }
        | Step::ClearAllowed { .. }
        | Step::ClearSubnet { .. }
        | Step::ClearGateway { .. } => !last,
        Step::ClearUplink { link } => !last && !is_others(link),
        Step::Detach { link, .. } => !is_others(link),
        Step::TidyTables => others(Kind::Iptables).next().is_none(),
        _ => true,
    }
}

/// The steps that undo some, in reverse; but veths after all namespaces. For
/// the kernel takes an interface away together with its namespace, and those of
/// many namespaces at once, where each alone has it wait for a grace period.
#[must_use]
pub fn undo(steps: &[Step]) -> Vec<Step> {
    let inverse = steps.iter().rev().filter_map(Step::inverse);
    let (links, mut undo): (Vec<Step>, Vec<Step>) =
        inverse.partition(|step| matches!(step, Step::DeleteLink { .. }));
    let is_namespace = |step: &Step| matches!(step, Step::DeleteNamespace { .. });
    // What was there before the first link goes after the last.
    let is_late = |step: &Step| {
        let is_guard = matches!(step, Step::Detach { hook, .. } if hook.is_guard());
        let is_subnet = matches!(step, Step::ClearSubnet { .. });
        let is_rules = matches!(step, Step::ClearRules { .. } | Step::TidyTables);
        let is_last = matches!(step, Step::UnloadDatapath | Step::Forget { .. });
        is_guard || is_subnet || is_rules || is_last
    };
    let first_late = || undo.iter().position(is_late).unwrap_or(undo.len());
    let behind = undo.iter().rposition(is_namespace).map_or_else(first_late, |last| last + 1);
    undo.splice(behind..behind, links);
    undo
}

struct Planner<'a> {
    topology: &'a Topology,
    observed: &'a Observed,
    existing: Option<&'a Recorded>,
    path: PathBuf,
}

impl<'a> Planner<'a> {
    fn new(topology: &'a Topology, observed: &'a Observed, store: &Store) -> Self {
        let existing = observed.network(topology.name.as_str());
        Self { topology, observed, existing, path: store.path(&topology.name) }
    }

    /// The guards of the uplinks before anything that they guard against; then the
    /// links, the datapath's rows and its other programs: packets pass by it only
    /// when it knows everything, and `lo` takes what it sends there. The host
    /// forwards last of all. So `down`, which
    /// goes the other way, lets no private address out either.
    fn up(&self, others: &[Planner<'_>]) -> Vec<Step> {
        if self.topology.direct {
            return self.direct();
        }
        let mut steps = Vec::new();
        if self.existing.is_none() {
            steps.push(Step::Record { path: self.path.clone() });
        }
        match self.topology.datapath {
            Kind::Ebpf => self.with_ebpf(others, &mut steps),
            Kind::Iptables => self.with_iptables(&mut steps),
        }
        self.switch_on(&[Switch::IpForward], &mut steps);
        if self.existing.is_none_or(|network| network.phase != Phase::Up) {
            steps.push(Step::MarkUp);
        }
        steps
    }

    fn links(&self, steps: &mut Vec<Step>) {
        self.keep_apart(steps);
        self.bridge(steps);
        for endpoint in &self.topology.endpoints {
            self.endpoint(endpoint, steps);
        }
        for endpoint in &self.topology.endpoints {
            self.port(endpoint, steps);
        }
    }

    fn with_ebpf(&self, others: &[Planner<'_>], steps: &mut Vec<Step>) {
        let lost = self.observed.datapath.as_ref().map(|seen| &seen.lost[..]).unwrap_or_default();
        if !lost.is_empty() {
            // What else there is of it is seen afterwards.
            steps.push(Step::Repin { pins: lost.to_vec() });
            return self.links(steps);
        }
        if self.observed.datapath.is_none() {
            let (max_flows, log_level) = (self.topology.max_flows, self.topology.log_level);
            let options = crate::bpf::LoadOptions { max_flows, log_level };
            steps.push(Step::LoadDatapath { options });
        }
        self.shared(steps);
        self.guard(steps);
        for other in others {
            other.guard(steps);
        }
        self.links(steps);
        self.rows(steps);
        self.let_together(steps);
        for other in others {
            other.rows(steps);
        }
        self.published(steps);
        self.switch_on(&[Switch::AcceptLocal, Switch::RouteLocalnet], steps);
        self.attachments(|hook| !hook.is_guard(), steps);
        for other in others {
            other.attachments(|hook| !hook.is_guard(), steps);
        }
    }

    fn switch_on(&self, switches: &[Switch], steps: &mut Vec<Step>) {
        let off = switches.iter().filter(|switch| !self.observed.switches.contains(switch));
        steps.extend(off.map(|&switch| Step::SwitchOn { switch }));
    }

    /// An interface of the host, if it is the network's.
    fn own_link(&self, name: &str, owned: &Owned) -> Option<&Link> {
        self.existing.and(self.observed.link(name)).filter(|link| owned.is(link))
    }

    fn own_bridge(&self) -> Option<&Link> {
        self.own_link(self.topology.name.as_str(), &Owned::bridge(self.topology))
    }

    /// The host side of a namespace's veth, if it stays: its other end is where
    /// it should be.
    fn own_port(&self, endpoint: &EndpointPlan) -> Option<&Link> {
        let (links, _, _) = self.inside(endpoint)?;
        let other_end = links.iter().find(|link| link.name == endpoint.inside.as_str())?;
        self.any_port(endpoint).filter(|port| other_end.is_peer_of(port))
    }

    /// The host side of a namespace's veth, wherever its other end is.
    fn any_port(&self, endpoint: &EndpointPlan) -> Option<&Link> {
        self.own_link(endpoint.link.as_str(), &Owned::port(self.topology, endpoint))
    }

    /// What is in a namespace, if it is the network's.
    fn inside(&self, endpoint: &EndpointPlan) -> Option<(&[Link], &[Address], &[Route])> {
        match self.existing.and(self.observed.inside.get(&endpoint.namespace)) {
            Some(Inside::Ours { links, addresses, routes }) => Some((links, addresses, routes)),
            _ => None,
        }
    }

    fn bridge(&self, steps: &mut Vec<Step>) {
        let topology = self.topology;
        let link = self.own_bridge();
        if let Some(link) = link {
            self.rename((None, &topology.name), Place::Host, steps);
            set_mac(link, &Place::Host, topology.gateway_mac(), steps);
            switch_on(link, &Place::Host, topology.mtu, steps);
        } else {
            steps.push(Step::AddBridge {
                name: topology.name.clone(),
                mac: topology.gateway_mac(),
                mtu: topology.mtu,
                owned: Owned::bridge(topology),
            });
        }
        let has = (&self.observed.addresses[..], &self.observed.routes[..]);
        let name = topology.name.as_str();
        self.address(Place::Host, name, link, topology.gateway(), has, steps);
    }

    /// The steps that give an interface its address and the route to its subnet.
    fn address(
        &self,
        place: Place,
        name: &str,
        link: Option<&Link>,
        addr: Ipv4Addr,
        (addresses, routes): (&[Address], &[Route]),
        steps: &mut Vec<Step>,
    ) {
        let subnet = self.topology.subnet;
        let own = |address: &&Address| {
            link.is_some_and(|link| address.ifindex == link.index) && address.addr == addr
        };
        let is_right = |address: &&Address| address.prefix_len == subnet.prefix_len();
        let (right, wrong): (Vec<_>, Vec<_>) = addresses.iter().filter(own).partition(is_right);
        let wrong: Vec<Step> = wrong
            .into_iter()
            .map(|&Address { prefix_len, .. }| {
                let (place, link) = (place.clone(), name.to_owned());
                Step::DeleteAddress { place, link, addr, prefix_len }
            })
            .collect();
        let link = link.filter(|_| !right.is_empty());
        let leads = |link: &Link| {
            routes.iter().any(|r| r.destination == subnet && r.ifindex == Some(link.index))
        };
        if link.is_none() {
            let prefix_len = subnet.prefix_len();
            steps.push(Step::AddAddress { place, link: name.into(), addr, prefix_len });
        } else if link.is_some_and(|link| link.up && !leads(link)) {
            // Of an interface that is down there are no routes; they come with it.
            steps.push(Step::AddSubnetRoute { place, link: name.into(), subnet, source: addr });
        }
        steps.extend(wrong);
    }

    fn endpoint(&self, endpoint: &EndpointPlan, steps: &mut Vec<Step>) {
        let topology = self.topology;
        let inside = self.inside(endpoint);
        self.namespace(endpoint, steps);
        let (links, addresses, routes) = inside.unwrap_or_default();
        let port = self.own_port(endpoint);
        let eth0 = links.iter().find(|link| link.name == endpoint.inside.as_str());
        let eth0 = eth0.filter(|_| port.is_some());
        if let Some(port) = port {
            let place = Place::HostSide(endpoint.namespace.clone());
            self.rename((None, &endpoint.link), place.clone(), steps);
            set_mac(port, &place, endpoint.link_mac(), steps);
            switch_on(port, &place, topology.mtu, steps);
        } else {
            let owned = Owned::port(topology, endpoint);
            if self.any_port(endpoint).is_some() {
                let name = endpoint.link.clone();
                steps.push(Step::DeleteLink { name, owned: owned.clone() });
            }
            steps.push(Step::AddVeth { endpoint: endpoint.clone(), mtu: topology.mtu, owned });
        }
        self.interface(endpoint, eth0, (links, addresses, routes), steps);
        let eth0 = eth0.map(|link| link.index);
        let gateway = topology.gateway();
        // Without its interface, or while that is down, there is no route.
        let lead = |r: &Route| r.is_default() && r.gateway == Some(gateway) && r.ifindex == eth0;
        if eth0.is_none() || !routes.iter().any(lead) {
            let (namespace, link) = (endpoint.namespace.clone(), endpoint.inside.clone());
            let metric = endpoint.metric();
            // In a namespace that is somebody else's no route is replaced by adding another.
            let own = |r: &&Route| r.is_default() && r.ifindex == eth0 && r.metric == metric;
            let former = topology
                .leaving_gateways()
                .find(|&gateway| routes.iter().filter(own).any(|r| r.gateway == Some(gateway)));
            if let Some(gateway) = former.filter(|_| eth0.is_some() && endpoint.adopted.is_some()) {
                let (namespace, link) = (namespace.clone(), link.clone());
                steps.push(Step::DeleteDefaultRoute { namespace, link, gateway, metric });
            }
            steps.push(Step::AddDefaultRoute { namespace, link, gateway, metric });
        }
    }

    /// The step that makes a namespace, or makes it what it was.
    fn namespace(&self, endpoint: &EndpointPlan, steps: &mut Vec<Step>) {
        let name = endpoint.namespace.clone();
        let adopted = endpoint.adopted.as_ref();
        if self.inside(endpoint).is_some() {
            // A name that was not ours is not ours to give.
            let is_ours = adopted.is_none_or(|adoption| adoption.from.is_some());
            let is_nameless = is_ours && self.observed.nameless.contains(&name);
            steps.extend(is_nameless.then_some(Step::NameNamespace { name }));
        } else if let Some(adoption) = adopted.cloned() {
            steps.push(Step::BorrowNamespace { name, adoption });
        } else if self.existing.is_some() && self.observed.vacant.contains(&name) {
            steps.push(Step::AdoptNamespace { name });
        } else {
            steps.push(Step::AddNamespace { name });
        }
    }

    /// The step that gives an interface back its name, if it has another one.
    fn rename(
        &self,
        (namespace, name): (Option<&NamespaceName>, &LinkName),
        place: Place,
        steps: &mut Vec<Step>,
    ) {
        let key = (namespace.cloned(), name.clone());
        let now = self.existing.and_then(|_| self.observed.renamed.get(&key));
        let rename = |from: &String| Step::Rename { place, from: from.clone(), to: name.clone() };
        steps.extend(now.map(rename));
    }

    /// The steps that make a namespace's veth a port of the bridge. After those that
    /// make all of them: each interface that comes up tells all others of its IPv6
    /// addresses, and by a bridge of a thousand ports that is a million frames.
    fn port(&self, endpoint: &EndpointPlan, steps: &mut Vec<Step>) {
        let port = self.own_port(endpoint);
        let bridge = self.own_bridge().map(|link| link.index);
        if !port.is_some_and(|port| port.master.is_some() && port.master == bridge) {
            let (endpoint, bridge) = (endpoint.clone(), self.topology.name.clone());
            steps.push(Step::SetMaster { endpoint: endpoint.clone(), bridge });
            self.isolate_new(&endpoint, steps);
        }
        let fixed = |port: &Link| {
            let mut rows = self.observed.fdb.iter();
            rows.any(|row| row.ifindex == port.index && row.mac == endpoint.mac && row.fixed)
        };
        if !port.is_some_and(fixed) {
            steps.push(Step::AddFdb { endpoint: endpoint.clone() });
        }
    }

    /// The steps that make a namespace's interface, and its loopback one, what they
    /// should be; `own` is the former, if it is there.
    fn interface(
        &self,
        endpoint: &EndpointPlan,
        own: Option<&Link>,
        (links, addresses, routes): (&[Link], &[Address], &[Route]),
        steps: &mut Vec<Step>,
    ) {
        let place = Place::Inside(endpoint.namespace.clone());
        let name = endpoint.inside.as_str();
        if let Some(own) = own {
            self.rename((Some(&endpoint.namespace), &endpoint.inside), place.clone(), steps);
            set_mac(own, &place, endpoint.mac, steps);
        }
        let lo = ("lo", links.iter().find(|link| link.name == "lo"));
        // That of a namespace that is somebody else's is as they have it.
        let lo = (endpoint.adopted.is_none()).then_some(lo);
        for (name, link) in lo.into_iter().chain([(name, own)]) {
            if !link.is_some_and(|link| link.up) {
                steps.push(Step::LinkUp { place: place.clone(), link: name.into() });
            }
        }
        if let Some(own) = own.filter(|own| own.mtu != self.topology.mtu) {
            let (place, link) = (place.clone(), own.name.clone());
            steps.push(Step::SetMtu { place, link, mtu: self.topology.mtu });
        }
        self.address(place, name, own, endpoint.addr, (addresses, routes), steps);
    }

    /// What keeps the network's addresses from leaving by the uplinks.
    fn guard(&self, steps: &mut Vec<Step>) {
        self.subnet_row(steps);
        self.attachments(Hook::is_guard, steps);
    }

    fn attachments(&self, is_wanted: impl Fn(Hook) -> bool, steps: &mut Vec<Step>) {
        let attached = |hook, index| {
            self.observed
                .datapath
                .as_ref()
                .is_some_and(|seen| seen.attached.contains(&(hook, index)))
        };
        let ports = self.topology.endpoints.iter().map(|endpoint| self.own_port(endpoint));
        let mut ports = ports.chain(std::iter::repeat(None));
        for step in attachments(self.topology) {
            let port = ports.next().flatten();
            let Step::Attach { hook, link, namespace } = &step else { continue };
            if !is_wanted(*hook) {
                continue;
            }
            let is_port = namespace.is_some();
            let link = if is_port { port } else { self.observed.link(link.as_str()) };
            // Another network's plan may be in the same list, and have the same uplinks.
            let is_planned = !is_port && steps.contains(&step);
            if !is_planned && !link.is_some_and(|link| attached(*hook, link.index)) {
                steps.push(step);
            }
        }
    }
}

/// The steps that attach all programs of a network of eBPF.
pub fn attachments(topology: &Topology) -> impl Iterator<Item = Step> {
    let ports = topology.endpoints.iter().map(|endpoint| Step::Attach {
        hook: Hook::FromEndpoint,
        link: endpoint.link.clone(),
        namespace: Some(endpoint.namespace.clone()),
    });
    let uplinks = topology.uplinks.iter().flat_map(|uplink| {
        let attach = |hook| Step::Attach { hook, link: uplink.name.clone(), namespace: None };
        uplink.hooks().map(attach)
    });
    let host = Step::Attach { hook: Hook::FromHost, link: LinkName::loopback(), namespace: None };
    ports.chain(uplinks).chain([host])
}

/// The step that gives an interface its MAC, if it has another one.
fn set_mac(link: &Link, place: &Place, mac: netbpf_common::MacAddr, steps: &mut Vec<Step>) {
    if link.mac != Some(mac) {
        steps.push(Step::SetMac { place: place.clone(), link: link.name.clone(), mac });
    }
}

/// The steps that make an interface what it should be.
fn switch_on(link: &Link, place: &Place, mtu: u32, steps: &mut Vec<Step>) {
    if link.mtu != mtu {
        steps.push(Step::SetMtu { place: place.clone(), link: link.name.clone(), mtu });
    }
    if !link.up {
        steps.push(Step::LinkUp { place: place.clone(), link: link.name.clone() });
    }
}

#[cfg(test)]
mod tests;
