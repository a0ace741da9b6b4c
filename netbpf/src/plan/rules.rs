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
        for endpoint in &self.topology.endpoints {
            let has = self.own_port(endpoint).is_some_and(|port| port.hairpin);
            if !has && needs_hairpin(self.topology, endpoint) {
                steps.push(Step::SetHairpin { endpoint: endpoint.clone(), on: true });
            }
        }
        let bridge = &self.topology.name;
        let has = self.own_bridge().is_some() && self.observed.localnet.contains(bridge);
        if !has && needs_localnet(self.topology) {
            steps.push(Step::SetRouteLocalnet { bridge: bridge.clone(), on: true });
        }
    }
}

/// Whether a namespace may reach itself by a published port. Where the bridge
/// has iptables translate what it bridges (`bridge-nf-call-iptables`), such a
/// packet leaves by the port that it came by.
fn needs_hairpin(topology: &Topology, endpoint: &EndpointPlan) -> bool {
    topology.published_to(&endpoint.namespace).next().is_some()
}

/// Whether something is published on 127.0.0.1.
fn needs_localnet(topology: &Topology) -> bool {
    let is_local = |addr: Option<std::net::Ipv4Addr>| addr.is_none_or(|addr| addr.is_loopback());
    topology.published.iter().any(|publish| is_local(publish.host_addr))
}
