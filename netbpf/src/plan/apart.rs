//! What keeps namespaces of an isolated network apart that the bridge and the stack
//! connect. A port is isolated by itself, as far as that will do: to the kernel's bridge
//! isolated ports reach all but each other. Where some of them may, or packets to a
//! published port are sent on by the bridge, rules of its own say so instead.

use netbpf_common::AllowedPair;

use super::{Planner, Step};
use crate::{
    datapath::Kind,
    net::{Link, ctnetlink::apart::Apart},
    topology::{EndpointPlan, Topology},
};

/// The pairs that may reach each other, as the datapath knows them.
fn allowed_pairs(topology: &Topology) -> impl Iterator<Item = AllowedPair> {
    topology.allowed.iter().filter_map(|pair| {
        let [one, other] = pair.both().map(|name| topology.endpoint(name));
        Some(AllowedPair::of(one?.endpoint_id(), other?.endpoint_id()))
    })
}

impl Planner<'_> {
    /// What the bridge's own rules say, if there is need of them.
    fn apart(&self) -> Apart {
        let topology = self.topology;
        if !topology.isolate {
            return Apart::default();
        }
        let ruled = topology.endpoints.iter().filter(|endpoint| self.is_ruled(endpoint));
        let port = |name| topology.endpoint(name).map(|endpoint| endpoint.link.clone());
        let pairs = topology.allowed.iter().filter_map(|pair| {
            let [one, other] = pair.both().map(port);
            Some([one?, other?])
        });
        Apart {
            ports: ruled.map(|endpoint| endpoint.link.clone()).collect(),
            pairs: pairs.collect(),
            marked: self.bridges_published(),
        }
    }

    /// Whether what is sent to a published port is sent on by the bridge: iptables has
    /// translated it there, and knows how to tell it from all else.
    fn bridges_published(&self) -> bool {
        let Topology { datapath, published, .. } = self.topology;
        *datapath == Kind::Iptables && self.observed.judged && !published.is_empty()
    }

    /// Whether the bridge's rules say whom a namespace reaches, and not its port's own
    /// isolation.
    fn is_ruled(&self, endpoint: &EndpointPlan) -> bool {
        let name = &endpoint.namespace;
        self.topology.allowed.iter().any(|pair| pair.has(name))
            || self.bridges_published() && self.topology.published_to(name).next().is_some()
    }

    /// Whether a namespace's port is to be isolated by itself.
    fn is_isolated(&self, endpoint: &EndpointPlan) -> bool {
        self.topology.isolate && !self.is_ruled(endpoint)
    }

    /// A namespace's port, if it is one of the bridge's already.
    fn joined(&self, endpoint: &EndpointPlan) -> Option<&Link> {
        let bridge = self.own_bridge().map(|link| link.index);
        self.own_port(endpoint).filter(|port| port.master.is_some() && port.master == bridge)
    }

    /// What keeps apart, before anything that would connect: ports that are there, then
    /// the bridge's rules.
    pub(super) fn keep_apart(&self, steps: &mut Vec<Step>) {
        for endpoint in self.topology.endpoints.iter().filter(|e| self.is_isolated(e)) {
            if self.joined(endpoint).is_some_and(|port| !port.isolated) {
                steps.push(Step::SetIsolated { endpoint: endpoint.clone(), on: true });
            }
        }
        let (bridge, apart) = (&self.topology.name, self.apart());
        if !apart.is_empty() && self.observed.apart.get(bridge) != Some(&apart.chain()) {
            steps.push(Step::KeepApart { bridge: bridge.clone(), apart });
        }
    }

    /// The step that isolates a port that has just joined the bridge, if it is to be.
    pub(super) fn isolate_new(&self, endpoint: &EndpointPlan, steps: &mut Vec<Step>) {
        if self.is_isolated(endpoint) {
            steps.push(Step::SetIsolated { endpoint: endpoint.clone(), on: true });
        }
    }

    /// What is kept apart no longer, or by rules that are there now.
    pub(super) fn let_together(&self, steps: &mut Vec<Step>) {
        for endpoint in self.topology.endpoints.iter().filter(|e| !self.is_isolated(e)) {
            if self.joined(endpoint).is_some_and(|port| port.isolated) {
                steps.push(Step::SetIsolated { endpoint: endpoint.clone(), on: false });
            }
        }
        let bridge = &self.topology.name;
        if self.apart().is_empty() && self.observed.apart.contains_key(bridge) {
            steps.push(Step::ClearApart { bridge: bridge.clone() });
        }
    }

    /// The step that tells the datapath which of the isolated reach each other.
    pub(super) fn allowed_rows(&self, steps: &mut Vec<Step>) {
        let endpoints: Vec<_> =
            self.topology.all_endpoints().map(EndpointPlan::endpoint_id).collect();
        let mut pairs: Vec<AllowedPair> = allowed_pairs(self.topology).collect();
        pairs.sort();
        let seen = self.observed.datapath.iter().flat_map(|seen| &seen.allowed).copied();
        let has: Vec<AllowedPair> =
            seen.filter(|pair| endpoints.iter().any(|&id| pair.has(id))).collect();
        if has != pairs {
            let names = self.topology.allowed.clone();
            steps.push(Step::SetAllowed { names, endpoints, pairs });
        }
    }
}
