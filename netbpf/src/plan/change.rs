//! From what a network is to what it should be, while it runs.
//!
//! What comes is made before what goes is taken away, so that a change that cannot
//! be made takes nothing from anybody. Only what is in the way of something new goes
//! first: another namespace with its address or MAC, an interface in the same
//! namespace, a gateway with an address of the new subnet. The way back is the change from what there is then to what there was.

use std::collections::HashSet;

use super::{Place, Step};
use crate::{
    datapath::Kind,
    net::Address,
    observe::{Inside, Observed},
    state::{Phase, Recorded},
    topology::{Adoption, EndpointPlan, Leaving, Owned, Subnet, Topology, UplinkPlan, mac},
};

/// Whether the network is to be another one than it was, or is not done becoming it.
pub(super) fn is_under_way(topology: &Topology, recorded: &Recorded) -> bool {
    recorded.topology != *topology || !topology.leaving.is_empty()
}

/// The network with all that may be there of what it was.
pub(super) fn with_leaving(topology: &Topology) -> Topology {
    // (What there is of subnets is not made from a topology: see `of_subnets`.)
    let Leaving { endpoints, uplinks, published, subnets: _ } = &topology.leaving;
    let mut whole = Topology { leaving: Leaving::default(), ..topology.clone() };
    whole.endpoints.extend(endpoints.iter().cloned());
    whole.uplinks.extend(uplinks.iter().cloned());
    whole.published.extend(published.iter().cloned());
    whole
}

/// The steps of a change, `new` being those that make what is missing.
pub(super) fn change(
    topology: &Topology,
    recorded: &Recorded,
    observed: &Observed,
    new: Vec<Step>,
) -> Vec<Step> {
    let removal = Removal { topology, observed };
    let (first, last): (Vec<_>, Vec<_>) =
        topology.leaving.endpoints.iter().partition(|gone| removal.is_in_the_way(gone));
    let (first_subnets, last_subnets): (Vec<Subnet>, Vec<Subnet>) =
        topology.leaving.subnets.iter().partition(|gone| removal.is_gateway_in_the_way(**gone));
    let mut steps = Vec::new();
    if recorded.topology != *topology || recorded.phase != Phase::Building {
        steps.push(Step::MarkChanging { leaving: topology.leaving.clone() });
    }
    removal.of(&first, &[], &mut steps);
    removal.of_subnets(&first_subnets, &mut steps);
    steps.extend(new.into_iter().filter(|step| !matches!(step, Step::MarkUp)));
    if topology.datapath == Kind::Iptables && !topology.leaving.is_empty() {
        steps.push(removal.connections());
    }
    removal.of(&last, &topology.leaving.uplinks, &mut steps);
    removal.of_subnets(&last_subnets, &mut steps);
    steps.push(Step::MarkUp);
    steps
}

/// What is to be taken away of a network that stays.
struct Removal<'a> {
    topology: &'a Topology,
    observed: &'a Observed,
}

impl Removal<'_> {
    /// Whether something new needs what one has that is to go. So does what is not in the
    /// subnet any more, of which no rule says that it must not leave as it is.
    fn is_in_the_way(&self, gone: &EndpointPlan) -> bool {
        !self.topology.subnet.has_host(gone.addr)
            || self.topology.endpoints.iter().any(|new| {
                new.namespace == gone.namespace || new.addr == gone.addr || new.mac == gone.mac
            })
    }

    /// Whether a namespace needs what the gateway of a former subnet has.
    fn is_gateway_in_the_way(&self, gone: Subnet) -> bool {
        let (addr, mac) = (gone.gateway(), mac::generated(gone.gateway()));
        self.topology.endpoints.iter().any(|new| new.addr == addr || new.mac == mac)
    }

    /// The steps that take namespaces and uplinks away.
    fn of(&self, endpoints: &[&EndpointPlan], uplinks: &[UplinkPlan], steps: &mut Vec<Step>) {
        if self.topology.datapath == Kind::Ebpf {
            self.of_datapath(endpoints, uplinks, steps);
        }
        let stays = |gone: &EndpointPlan| self.topology.endpoint(&gone.namespace).is_some();
        let (replaced, gone): (Vec<_>, Vec<_>) = endpoints.iter().partition(|gone| stays(gone));
        self.links(&replaced, steps);
        let mut named = HashSet::new();
        for endpoint in &gone {
            let name = &endpoint.namespace;
            let is_there = !matches!(self.observed.inside.get(name), Some(Inside::Missing));
            if is_there && named.insert(name) {
                let name = name.clone();
                steps.extend(match &endpoint.adopted {
                    None => Some(Step::DeleteNamespace { name }),
                    Some(Adoption { from: Some(_), .. }) => Some(Step::ReleaseNamespace { name }),
                    Some(Adoption { from: None, .. }) => None,
                });
            }
        }
        // The kernel takes most of them away along with their namespaces.
        self.links(&gone, steps);
    }

    fn links(&self, endpoints: &[&EndpointPlan], steps: &mut Vec<Step>) {
        let are_there =
            endpoints.iter().filter(|gone| self.observed.link(gone.link.as_str()).is_some());
        steps.extend(are_there.map(|endpoint| Step::DeleteLink {
            name: endpoint.link.clone(),
            owned: Owned::port(self.topology, endpoint),
        }));
    }

    /// First no packet passes by it, then it forgets; the guards of uplinks go last.
    fn of_datapath(
        &self,
        endpoints: &[&EndpointPlan],
        uplinks: &[UplinkPlan],
        steps: &mut Vec<Step>,
    ) {
        for endpoint in endpoints {
            let (hook, link) = (crate::bpf::Hook::FromEndpoint, endpoint.link.clone());
            steps.push(Step::Detach { hook, link });
        }
        let hooks = |is_guard: bool| {
            let all = uplinks.iter().flat_map(|uplink| uplink.hooks().map(|hook| (uplink, hook)));
            let unused = all.filter(move |(uplink, hook)| {
                hook.is_guard() == is_guard && !self.is_attached_for_others(uplink)
            });
            unused.map(|(uplink, hook)| Step::Detach { hook, link: uplink.name.clone() })
        };
        steps.extend(hooks(false));
        for &endpoint in endpoints {
            steps.push(Step::ClearEndpoint { endpoint: endpoint.clone() });
        }
        let unknown = uplinks.iter().filter(|uplink| !self.is_known_to_others(uplink));
        steps.extend(unknown.map(|uplink| Step::ClearUplink { link: uplink.name.clone() }));
        steps.extend(hooks(true));
    }

    /// The steps that take former subnets away: their gateways, unless one is the new one's,
    /// and that their addresses do not leave.
    fn of_subnets(&self, subnets: &[Subnet], steps: &mut Vec<Step>) {
        let is_known = self.topology.datapath == Kind::Ebpf;
        let bridge = self.observed.link(self.topology.name.as_str());
        let bridge = bridge.filter(|link| Owned::bridge(self.topology).is(link));
        for &subnet in subnets {
            let (addr, mac) = (subnet.gateway(), mac::generated(subnet.gateway()));
            if addr != self.topology.gateway() {
                let prefix_len = subnet.prefix_len();
                let is_it = |it: &Address| (it.addr, it.prefix_len) == (addr, prefix_len);
                let mut addresses = self.observed.addresses.iter().filter(|it| is_it(it));
                if bridge.is_some_and(|bridge| addresses.any(|it| it.ifindex == bridge.index)) {
                    let (place, link) = (Place::Host, self.topology.name.to_string());
                    steps.push(Step::DeleteAddress { place, link, addr, prefix_len });
                }
                steps.extend(is_known.then_some(Step::ClearGateway { addr, mac }));
            }
            steps.extend(is_known.then_some(Step::ClearSubnet { subnet }));
        }
    }

    /// Whether the programs of such an uplink are needed there all the same.
    fn is_attached_for_others(&self, uplink: &UplinkPlan) -> bool {
        let others = self.observed.others_of(self.topology, Kind::Ebpf);
        let uplinks = others.flat_map(|other| &other.topology.uplinks);
        uplinks.chain(&self.topology.uplinks).any(|other| other == uplink)
    }

    /// Whether the datapath must know the interface all the same.
    fn is_known_to_others(&self, uplink: &UplinkPlan) -> bool {
        let mut others = self.observed.others_of(self.topology, Kind::Ebpf);
        self.topology.has_uplink(&uplink.name)
            || others.any(|other| other.topology.has_uplink(&uplink.name))
    }

    /// The step that ends the connections that the kernel tracks of all that goes.
    fn connections(&self) -> Step {
        let leaving = self.topology.leaving.clone();
        let gone = leaving.uplinks.iter().filter(|gone| !self.topology.has_uplink(&gone.name));
        let links = gone.filter_map(|gone| self.observed.link(gone.name.as_str()));
        let indexes: Vec<u32> = links.map(|link| link.index).collect();
        let addresses = self.observed.addresses.iter();
        let uplink_addrs = addresses
            .filter(|address| indexes.contains(&address.ifindex) && address.global)
            .map(|address| address.addr)
            .collect();
        Step::EndConnections { leaving, uplink_addrs }
    }
}
