//! What the kernel's bridge and stack need to do all of it themselves.

use super::{Planner, Step};
use crate::{
    datapath::{Kind, iptables::TableRules},
    state::Phase,
    topology::{EndpointPlan, Topology},
};

impl Planner<'_> {
    /// The rules before anything that they are about: nothing leaves as it is,
    /// and nothing gets in, at any time. The host forwards last of all.
    pub(super) fn with_iptables(&self, steps: &mut Vec<Step>) {
        let is_whole = self.existing.is_some_and(|network| network.phase == Phase::Up);
        let mut others = self.observed.others_of(self.topology, Kind::Iptables);
        if !is_whole && others.next().is_none() {
            steps.push(Step::KeepTables);
        }
        let rules = TableRules::of(self.topology, self.observed);
        let differ = rules.into_iter().filter(|rules| !self.observed.rules.has(rules));
        steps.extend(differ.map(|rules| Step::SetRules { rules }));
        self.links(steps);
        self.let_together(steps);
        self.hairpin(steps);
        let bridge = &self.topology.name;
        let has = self.own_bridge().is_some() && self.observed.localnet.contains(bridge);
        let on = needs_localnet(self.topology);
        // What a network has no need of is switched off along with the need.
        if has != on && (on || self.is_changing()) {
            steps.push(Step::SetRouteLocalnet { bridge: bridge.clone(), on });
        }
    }

    /// What a namespace sends to itself by a published port is routed, and comes
    /// back from the bridge as from anybody. But where the bridge has iptables
    /// translate what it bridges, it leaves by the port that it came by; and what is
    /// flooded must not, or a namespace would hear itself.
    fn hairpin(&self, steps: &mut Vec<Step>) {
        let topology = self.topology;
        let endpoints = topology.endpoints.iter();
        let published: Vec<&EndpointPlan> =
            endpoints.filter(|endpoint| is_published(topology, endpoint)).collect();
        let bridge = topology.name.clone();
        let has_table = self.observed.unreflecting.contains(&bridge);
        let is_set =
            |endpoint: &EndpointPlan| self.own_port(endpoint).is_some_and(|port| port.hairpin);
        let needs = self.observed.judged && !published.is_empty();
        // Whose port has hairpin mode is in the table at any time.
        let is_unused = |e: &&EndpointPlan| is_set(e) && !is_published(topology, e);
        let unused = topology.endpoints.iter().filter(|e| self.is_changing() && is_unused(e));
        let unused = unused.map(|e| Step::SetHairpin { endpoint: e.clone(), on: false });
        steps.extend(unused);
        // The table is of all ports: it is set anew for others, and for those that go.
        if needs && (!has_table || self.is_changing()) {
            let going = topology.leaving.endpoints.iter();
            let going = going.filter(|e| self.any_port(e).is_some_and(|port| port.hairpin));
            let endpoints = published.iter().copied().chain(going).cloned().collect();
            steps.push(Step::DropReflected { bridge: bridge.clone(), endpoints });
        }
        if needs {
            let lacking = published.iter().filter(|endpoint| !is_set(endpoint));
            steps.extend(
                lacking.map(|&endpoint| Step::SetHairpin { endpoint: endpoint.clone(), on: true }),
            );
        }
        if self.is_changing() && published.is_empty() && has_table {
            steps.push(Step::ClearReflected { bridge });
        }
    }

    /// Whether the network is not yet what it is to be.
    fn is_changing(&self) -> bool {
        let is_under_way = |network| super::change::is_under_way(self.topology, network);
        self.existing.is_some_and(|network| network.phase != Phase::Up || is_under_way(network))
    }
}

/// Whether a namespace may reach itself by a published port.
fn is_published(topology: &Topology, endpoint: &EndpointPlan) -> bool {
    topology.published_to(&endpoint.namespace).next().is_some()
}

/// Whether something is published on 127.0.0.1.
fn needs_localnet(topology: &Topology) -> bool {
    let is_local = |addr: Option<std::net::Ipv4Addr>| addr.is_none_or(|addr| addr.is_loopback());
    topology.published.iter().any(|publish| is_local(publish.host_addr))
}
