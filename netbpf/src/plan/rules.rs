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
        self.hairpin(steps);
        let bridge = &self.topology.name;
        let has = self.own_bridge().is_some() && self.observed.localnet.contains(bridge);
        if !has && needs_localnet(self.topology) {
            steps.push(Step::SetRouteLocalnet { bridge: bridge.clone(), on: true });
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
        if !self.observed.judged || published.is_empty() {
            return;
        }
        let bridge = topology.name.clone();
        if !self.observed.unreflecting.contains(&bridge) {
            let endpoints = published.iter().map(|&endpoint| endpoint.clone()).collect();
            steps.push(Step::DropReflected { bridge, endpoints });
        }
        let is_set =
            |endpoint: &EndpointPlan| self.own_port(endpoint).is_some_and(|port| port.hairpin);
        steps.extend(
            published
                .into_iter()
                .filter(|endpoint| !is_set(endpoint))
                .map(|endpoint| Step::SetHairpin { endpoint: endpoint.clone(), on: true }),
        );
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
