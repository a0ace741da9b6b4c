//! A host on which steps are taken in thought.

use std::collections::BTreeMap;

use netbpf_common::{Endpoint, EndpointId, MacAddr, PublishEntry};

use super::{address, bare, link, route};
use crate::{
    datapath::{
        Kind,
        iptables::{Chain, RulesSeen, TableRules},
    },
    net::{Address, FdbRow, Link, Route, ctnetlink::apart::Apart},
    observe::{DatapathSeen, Inside, Observed},
    plan::{self, Place, Step},
    state::{Journal, Phase, Recorded},
    topology::{LinkName, NamespaceName, Request, Subnet, Topology},
};

/// What is in a namespace, and the host's interface that leads there.
#[derive(Clone, Default)]
struct Space {
    links: Vec<Link>,
    addresses: Vec<Address>,
    routes: Vec<Route>,
}

/// The host.
#[derive(Clone)]
pub(super) struct World {
    seen: Observed,
    spaces: BTreeMap<NamespaceName, Space>,
    /// Where the other end of a veth is.
    peers: BTreeMap<u32, (NamespaceName, String)>,
    rules: Vec<TableRules>,
    /// What the bridge's rules say.
    apart: Apart,
    /// The namespaces of whose ports a bridge sends nothing back.
    reflecting: Vec<NamespaceName>,
    next_index: u32,
}

impl World {
    /// A host with two uplinks and nothing else.
    pub(super) fn new() -> Self {
        let mut seen = bare();
        seen.links.push(link(3, "up1", "veth"));
        seen.addresses.push(address(3, [198, 51, 100, 1].into()));
        seen.judged = true;
        let (spaces, peers) = (BTreeMap::new(), BTreeMap::new());
        let (rules, reflecting) = (Vec::new(), Vec::new());
        let apart = Apart::default();
        Self { seen, spaces, peers, rules, apart, reflecting, next_index: 10 }
    }

    /// What there is, as it would be seen.
    pub(super) fn observed(&self) -> Observed {
        let mut seen = self.seen.clone();
        seen.namespaces = self.spaces.keys().map(ToString::to_string).collect();
        let recorded = seen.networks.iter().flat_map(|network| network.topology.all_endpoints());
        let inside = recorded.map(|endpoint| {
            let name = endpoint.namespace.clone();
            let inside = self.spaces.get(&name).map_or(Inside::Missing, |space| Inside::Ours {
                links: space.links.clone(),
                addresses: space.addresses.clone(),
                routes: space.routes.clone(),
            });
            (name, inside)
        });
        seen.inside = inside.collect();
        let mut lines = Vec::new();
        for TableRules { table, chains, jumps } in &self.rules {
            lines.push(format!("*{}", table.name()));
            for Chain { name, rules } in chains {
                lines.push(format!(":{name} - [0:0]"));
                lines.extend(rules.iter().map(|rule| format!("-A {name} {rule}")));
            }
            lines.extend(jumps.iter().map(|jump| format!("-A {} {}", jump.from, jump.rule())));
        }
        seen.rules = RulesSeen::read(&lines.join("\n"));
        seen
    }

    /// What is asked for, on this host; and the steps to it.
    pub(super) fn plan(&self, request: &Request) -> (Topology, Vec<Step>) {
        let observed = self.observed();
        let topology = Topology::validate(request, &observed).expect("a request that can be had");
        let steps = plan::up(&topology, &observed, &super::store());
        (topology, steps)
    }

    /// The same, taken.
    pub(super) fn make(&mut self, request: &Request) -> Topology {
        let (topology, steps) = self.plan(request);
        self.take(&topology, &steps);
        topology
    }

    /// Leads back to what there was.
    pub(super) fn lead_back(&mut self, before: &Topology, from: &Topology) {
        let before = before.in_place_of(from);
        let steps = plan::up(&before, &self.observed(), &super::store());
        self.take(&before, &steps);
    }

    /// Takes all networks down.
    pub(super) fn down(&mut self) {
        while let Some(network) = self.seen.networks.first().cloned() {
            let steps = plan::down(&network, &self.observed(), &super::store());
            self.take(&network.topology, &steps);
        }
    }

    /// Takes steps.
    pub(super) fn take(&mut self, topology: &Topology, steps: &[Step]) {
        for step in steps {
            self.step(topology, step);
        }
    }

    /// Everything that there is, for comparison.
    pub(super) fn listing(&self) -> Vec<String> {
        let seen = self.observed();
        let name = |index: u32| {
            let link = seen.links.iter().find(|link| link.index == index);
            link.unwrap_or_else(|| panic!("something is left of interface {index}")).name.clone()
        };
        let mut all: Vec<String> = Vec::new();
        for link in &seen.links {
            let master = link.master.map(name);
            let Link { name, mtu, hairpin, isolated, .. } = link;
            all.push(format!("{name} mtu {mtu} {master:?} {hairpin} {isolated}"));
        }
        all.extend(seen.addresses.iter().map(|a| format!("{} {}", name(a.ifindex), a.addr)));
        all.extend(seen.fdb.iter().map(|row| format!("{} {}", name(row.ifindex), row.mac)));
        for (ns, space) in &self.spaces {
            let links =
                space.links.iter().map(|link| format!("{} {} {}", link.name, link.mtu, link.up));
            let addresses = space.addresses.iter().map(|address| address.addr.to_string());
            let routes = space.routes.iter().map(|route| route.destination.to_string());
            all.extend(links.chain(addresses).chain(routes).map(|text| format!("{ns} {text}")));
        }
        if let Some(datapath) = &seen.datapath {
            let rows = datapath.endpoints.values();
            all.extend(rows.map(|row| {
                let Endpoint { ifindex, mtu, guard, flags, addr, mac, flow_limit, .. } = row;
                format!("{} {mtu} {guard} {flags} {addr} {mac} {flow_limit}", name(*ifindex))
            }));
            all.extend(datapath.attached.iter().map(|(hook, i)| format!("{hook:?} {}", name(*i))));
            all.extend(datapath.uplinks.keys().map(|index| format!("uplink {}", name(*index))));
            all.extend(
                datapath
                    .published
                    .iter()
                    .map(|entry| format!("{} {}", entry.first(), entry.target)),
            );
            all.push(format!("{:?} {:?}", datapath.gateways, datapath.subnets));
            let addr = |id: EndpointId| datapath.endpoints[&id.0].addr.to_string();
            all.extend(datapath.allowed.iter().map(|pair| {
                let mut both = pair.both().map(addr);
                both.sort();
                format!("allowed {both:?}")
            }));
        }
        all.extend(self.rules.iter().map(|rules| format!("{rules:#}")));
        all.push(format!("{:?} {}", seen.unreflecting, seen.apart.len()));
        all.extend(self.apart.pairs.iter().map(|[one, other]| format!("between {one} {other}")));
        all.extend(self.apart.ports.iter().map(|port| format!("nothing else from or to {port}")));
        for link in seen.links.iter().filter(|link| link.hairpin) {
            let (ns, _) = &self.peers[&link.index];
            assert!(self.reflecting.contains(ns), "{ns} hears itself");
        }
        all.push(format!("{:?} {:?} {:?}", seen.switches, seen.switched, seen.localnet));
        for Recorded { topology, phase, .. } in &seen.networks {
            all.push(format!("{} {phase:?} {:?}", topology.name, topology.leaving));
        }
        all.sort();
        all
    }

    fn index(&self, name: &str) -> u32 {
        self.seen.link(name).unwrap_or_else(|| panic!("there is no {name}")).index
    }

    fn add(&mut self, new: Link) -> u32 {
        assert!(self.seen.link(&new.name).is_none(), "{} is there already", new.name);
        self.next_index += 1;
        self.seen.links.push(Link { index: self.next_index, ..new });
        self.next_index
    }

    fn host_link(&mut self, name: &str) -> &mut Link {
        let mut links = self.seen.links.iter_mut();
        links.find(|link| link.name == name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    fn in_place(&mut self, place: &Place, name: &str) -> &mut Link {
        let Place::Inside(ns) = place else { return self.host_link(name) };
        let space = self.space(ns);
        space.links.iter_mut().find(|link| link.name == name).expect("an interface inside")
    }

    fn space(&mut self, name: &NamespaceName) -> &mut Space {
        self.spaces.get_mut(name).unwrap_or_else(|| panic!("there is no namespace {name}"))
    }

    fn datapath(&mut self) -> &mut DatapathSeen {
        self.seen.datapath.as_mut().expect("a datapath")
    }

    fn recorded(&mut self, topology: Topology, phase: Phase) {
        let name = topology.name.clone();
        self.seen.networks.retain(|network| network.topology.name != name);
        self.seen.networks.push(Recorded { topology, phase, journal: Journal::default() });
    }

    fn remove_link(&mut self, name: &str) {
        let Some(index) = self.seen.link(name).map(|link| link.index) else { return };
        if let Some((ns, inside)) = self.peers.remove(&index)
            && let Some(space) = self.spaces.get_mut(&ns)
        {
            let index = space.links.iter().find(|link| link.name == inside).map(|link| link.index);
            space.links.retain(|link| Some(link.index) != index);
            space.addresses.retain(|address| Some(address.ifindex) != index);
            space.routes.retain(|route| route.ifindex != index);
        }
        self.seen.links.retain(|link| link.index != index);
        self.seen.addresses.retain(|address| address.ifindex != index);
        self.seen.routes.retain(|route| route.ifindex != Some(index));
        self.seen.fdb.retain(|row| row.ifindex != index);
        self.seen.localnet.retain(|bridge| bridge.as_str() != name);
        for link in self.seen.links.iter_mut().filter(|link| link.master == Some(index)) {
            link.master = None;
        }
        if let Some(datapath) = &mut self.seen.datapath {
            datapath.attached.retain(|(_, of)| *of != index);
        }
    }

    fn set_published(&mut self, all: &[PublishEntry]) {
        self.datapath().published = all.to_vec();
    }

    #[allow(clippy::too_many_lines, reason = "a table: what each kind of step does")]
    fn step(&mut self, topology: &Topology, step: &Step) {
        match step.clone() {
            Step::Record { .. } | Step::MarkChanging { .. } | Step::MarkSwitching { .. } => {
                self.recorded(topology.clone(), Phase::Building);
            }
            Step::MarkUp => {
                let leaving = crate::topology::Leaving::default();
                self.recorded(Topology { former: None, leaving, ..topology.clone() }, Phase::Up);
            }
            Step::MarkRemoving => self.recorded(topology.clone(), Phase::Removing),
            Step::Forget { .. } => {
                self.seen.networks.retain(|network| network.topology.name != topology.name);
            }
            Step::LoadDatapath { options } => {
                self.seen.datapath = Some(DatapathSeen { options, ..DatapathSeen::default() });
            }
            Step::UnloadDatapath => self.seen.datapath = None,
            Step::AddBridge { name, mac, mtu, .. } => {
                let (name, alias) = (name.as_str(), Some(topology.alias()));
                self.add(Link { mac: Some(mac), mtu, alias, ..link(0, name, "bridge") });
            }
            Step::AddNamespace { name } => {
                let lo = Link { up: false, ..link(1, "lo", "loopback") };
                let space = Space { links: vec![lo], ..Space::default() };
                assert!(self.spaces.insert(name, space).is_none(), "it is there already");
            }
            Step::AddVeth { endpoint, mtu, .. } => {
                let alias = Some(topology.alias_of(&endpoint));
                let mac = Some(endpoint.link_mac());
                let name = endpoint.link.as_str();
                let index = self.add(Link { mac, mtu, alias, ..link(0, name, "veth") });
                let inside = endpoint.inside.as_str();
                let space = self.space(&endpoint.namespace);
                assert!(space.links.iter().all(|link| link.name != inside), "{inside} is there");
                let (mac, up) = (Some(endpoint.mac), false);
                space.links.push(Link { mac, mtu, up, ..link(index, inside, "veth") });
                self.peers.insert(index, (endpoint.namespace.clone(), inside.to_owned()));
            }
            Step::LinkUp { place, link } => self.in_place(&place, &link).up = true,
            Step::SetMtu { place, link, mtu } => self.in_place(&place, &link).mtu = mtu,
            Step::SetMac { place, link, mac } => {
                self.in_place(&place, link.as_str()).mac = Some(mac);
            }
            Step::SetMaster { endpoint, bridge } => {
                let bridge = Some(self.index(bridge.as_str()));
                let port = self.host_link(endpoint.link.as_str());
                (port.master, port.isolated) = (bridge, false);
            }
            Step::AddAddress { place, link, addr, prefix_len } => {
                let index = self.in_place(&place, &link).index;
                let to_subnet = route(Subnet::containing(addr, prefix_len), index);
                match place {
                    Place::Inside(ns) => {
                        let space = self.space(&ns);
                        space.addresses.push(Address { prefix_len, ..address(index, addr) });
                        space.routes.push(to_subnet);
                    }
                    Place::Host | Place::HostSide(_) => {
                        self.seen.addresses.push(Address { prefix_len, ..address(index, addr) });
                        self.seen.routes.push(to_subnet);
                    }
                }
            }
            Step::AddDefaultRoute { namespace, link, gateway, .. } => {
                let place = Place::Inside(namespace.clone());
                let index = self.in_place(&place, link.as_str()).index;
                let everywhere = Subnet::containing([0; 4].into(), 0);
                let default = Route { gateway: Some(gateway), ..route(everywhere, index) };
                let routes = &mut self.space(&namespace).routes;
                routes.retain(|route| !route.is_default());
                routes.push(default);
            }
            Step::DeleteAddress { place, link, addr, prefix_len } => {
                let index = self.in_place(&place, &link).index;
                let (addresses, routes) = match place {
                    Place::Inside(ns) => {
                        let space = self.space(&ns);
                        (&mut space.addresses, &mut space.routes)
                    }
                    _ => (&mut self.seen.addresses, &mut self.seen.routes),
                };
                let had = addresses.len();
                addresses
                    .retain(|it| (it.ifindex, it.addr, it.prefix_len) != (index, addr, prefix_len));
                assert_eq!(addresses.len() + 1, had, "{link} has no {addr}/{prefix_len}");
                let gone = Subnet::containing(addr, prefix_len);
                routes.retain(|it| it.ifindex != Some(index) || it.destination != gone);
            }
            Step::AddFdb { endpoint } => {
                let ifindex = self.index(endpoint.link.as_str());
                self.seen.fdb.push(FdbRow { ifindex, mac: endpoint.mac, fixed: true });
            }
            Step::SwitchOn { switch } => {
                self.seen.switches.insert(switch);
                self.seen.switched.insert(switch);
            }
            Step::SwitchBack { switch } => {
                self.seen.switches.remove(&switch);
                self.seen.switched.remove(&switch);
            }
            Step::SetGateway { addr, .. } => drop(self.datapath().gateways.insert(addr)),
            Step::SetSubnet { subnet } => {
                self.datapath().subnets.insert((subnet.addr(), subnet.prefix_len()));
            }
            Step::SetEndpoint { endpoint, bridge, row } => {
                let ifindex = self.index(endpoint.link.as_str());
                let bridge_ifindex = self.index(bridge.as_str());
                let row = Endpoint { ifindex, bridge_ifindex, ..row };
                let others = self.datapath().endpoints.iter().filter(|(id, _)| **id != endpoint.id);
                let same = |other: &Endpoint| other.addr == row.addr || other.mac == row.mac;
                assert!(!others.map(|(_, row)| row).any(same), "two with one address or MAC");
                self.datapath().endpoints.insert(endpoint.id, row);
            }
            Step::SetUplink { link, row } => {
                let index = self.index(link.as_str());
                self.datapath().uplinks.insert(index, row);
            }
            Step::SetPublished { all, .. } => self.set_published(&all),
            Step::Withdraw { others } => self.set_published(&others),
            Step::Attach { hook, link, .. } => {
                let index = self.index(link.as_str());
                self.datapath().attached.insert((hook, index));
            }
            Step::Detach { hook, link } => {
                let index = self.seen.link(link.as_str()).map(|link| link.index);
                if let (Some(index), Some(datapath)) = (index, &mut self.seen.datapath) {
                    datapath.attached.remove(&(hook, index));
                }
            }
            Step::ClearEndpoint { endpoint } => {
                self.datapath().endpoints.remove(&endpoint.id);
            }
            Step::ClearUplink { link } => {
                let index = self.index(link.as_str());
                self.datapath().uplinks.remove(&index);
            }
            Step::ClearSubnet { subnet } => {
                self.datapath().subnets.remove(&(subnet.addr(), subnet.prefix_len()));
            }
            Step::ClearGateway { addr, .. } => {
                self.datapath().gateways.remove(&addr);
            }
            Step::SetRules { rules } => {
                self.rules.retain(|other| other.table != rules.table);
                self.rules.push(rules);
            }
            Step::ClearRules { rules } => self.rules.retain(|other| other.table != rules.table),
            Step::DropReflected { bridge, endpoints } => {
                self.seen.unreflecting.insert(bridge);
                self.reflecting = endpoints.into_iter().map(|one| one.namespace).collect();
            }
            Step::ClearReflected { bridge } => {
                self.seen.unreflecting.remove(&bridge);
                self.reflecting.clear();
            }
            Step::SetHairpin { endpoint, on } => {
                self.host_link(endpoint.link.as_str()).hairpin = on;
            }
            Step::SetIsolated { endpoint, on } => {
                let port = self.host_link(endpoint.link.as_str());
                assert!(port.master.is_some(), "{} is no port", endpoint.link);
                port.isolated = on;
            }
            Step::KeepApart { bridge, apart } => {
                self.seen.apart.insert(bridge, apart.chain());
                self.apart = apart;
            }
            Step::ClearApart { bridge } => {
                self.seen.apart.remove(&bridge);
                self.apart = Apart::default();
            }
            Step::SetAllowed { endpoints, pairs, .. } => {
                let allowed = &mut self.datapath().allowed;
                allowed.retain(|pair| !endpoints.iter().any(|&id| pair.has(id)));
                allowed.extend(pairs);
            }
            Step::ClearAllowed { endpoints } => {
                let allowed = &mut self.datapath().allowed;
                allowed.retain(|pair| !endpoints.iter().any(|&id| pair.has(id)));
            }
            Step::SetRouteLocalnet { bridge, on: true } => drop(self.seen.localnet.insert(bridge)),
            Step::SetRouteLocalnet { bridge, on: false } => {
                self.seen.localnet.remove(&bridge);
            }
            Step::DeleteLink { name, owned } => {
                let link = self.seen.link(name.as_str()).cloned();
                if link.is_some_and(|link| owned.is(&link)) {
                    self.remove_link(name.as_str());
                }
            }
            Step::DeleteNamespace { name } => {
                self.spaces.remove(&name);
                let peers = self.peers.iter().filter(|(_, (ns, _))| *ns == name);
                let gone: Vec<u32> = peers.map(|(index, _)| *index).collect();
                let links = self.seen.links.iter().filter(|link| gone.contains(&link.index));
                let names: Vec<String> = links.map(|link| link.name.clone()).collect();
                for name in names {
                    self.remove_link(&name);
                }
            }
            Step::KeepTables | Step::TidyTables | Step::EndConnections { .. } => {}
            other => panic!("a change has no such step: {other}"),
        }
    }
}

/// A request of a network with namespaces and published ports.
pub(super) fn request(kind: Kind, ns: &[String], publish: &[String]) -> Request {
    Request {
        namespaces: ns.iter().map(|text| text.parse().unwrap()).collect(),
        uplinks: vec![LinkName::existing("up0").unwrap()],
        publish: publish.iter().map(|text| text.parse().unwrap()).collect(),
        datapath: Some(kind),
        keeps: false,
        ..Request::named("net0")
    }
}

/// The MAC with that last byte.
pub(super) fn mac(last: u8) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 0, last])
}
