//! Why something probably does not work.

use std::collections::BTreeMap;

use super::{Outcome, Target, Tried};
use crate::{
    observe::{Inside, Observed},
    plan::Step,
    topology::{NamespaceName, Topology},
};

/// What is missing of a network, by what it is missing of.
#[derive(Debug, Default)]
pub struct Lacks {
    /// Of the host and its bridge, but for what is for the outside only.
    host: Vec<String>,
    /// Of what leads to the outside: uplinks, their programs, forwarding, ports.
    beyond: Vec<String>,
    /// Of what keeps isolated namespaces apart.
    isolation: Vec<String>,
    /// Of namespaces.
    namespaces: BTreeMap<NamespaceName, Vec<String>>,
}

impl Lacks {
    /// What is missing: what `up` would make, and what it could not.
    #[must_use]
    pub fn new(topology: &Topology, observed: &Observed, lacking: &[Step]) -> Self {
        let mut lacks = Self::default();
        for step in lacking {
            let list = match (step.namespace(), step) {
                (Some(namespace), _) => lacks.namespaces.entry(namespace.clone()).or_default(),
                (None, Step::AddBridge { .. } | Step::LinkUp { .. } | Step::AddAddress { .. }) => {
                    &mut lacks.host
                }
                _ => &mut lacks.beyond,
            };
            list.push(step.lack());
            if is_isolation(step, topology) {
                lacks.isolation.push(step.lack());
            }
        }
        for uplink in &topology.uplinks {
            let lack = match observed.link(uplink.name.as_str()) {
                None => "gone",
                Some(link) if !link.up => "down",
                Some(link) if observed.uplink_address(link).is_none() => "without an IPv4 address",
                Some(_) => continue,
            };
            lacks.beyond.push(format!("uplink {} {lack}", uplink.name));
        }
        for endpoint in &topology.endpoints {
            let lack = match observed.inside.get(&endpoint.namespace) {
                Some(Inside::Foreign) => "namespace replaced by another",
                Some(Inside::Missing | Inside::File) | None => "namespace gone",
                Some(Inside::Ours { .. }) => continue,
            };
            // Nothing else counts then.
            lacks.namespaces.insert(endpoint.namespace.clone(), vec![lack.to_owned()]);
        }
        lacks
    }

    /// What is missing of a namespace.
    fn of(&self, namespace: &NamespaceName) -> impl Iterator<Item = String> {
        let lacks = self.namespaces.get(namespace).into_iter().flatten();
        lacks.map(move |lack| format!("{namespace}: {lack}"))
    }
}

/// Whether isolated namespaces may reach each other for want of it.
fn is_isolation(step: &Step, topology: &Topology) -> bool {
    let is_isolations = matches!(
        step,
        Step::SetIsolated { on: true, .. }
            | Step::KeepApart { .. }
            | Step::SetAllowed { .. }
            | Step::SetEndpoint { .. }
            | Step::Attach { .. }
            | Step::SetRules { .. }
            | Step::LoadDatapath { .. }
    );
    topology.isolate && is_isolations
}

/// The likely cause of what does not work of a way, given how the others do.
#[must_use]
pub fn of(one: &Tried, all: &[Tried], lacks: &Lacks) -> String {
    let way = &one.way;
    if way.closed && lacks.isolation.is_empty() {
        return "they are isolated, and nothing is missing: something else leads there".to_owned();
    }
    if way.closed {
        return lacks.isolation.join(", ");
    }
    let mut missing: Vec<String> = way.from.iter().flat_map(|from| lacks.of(from)).collect();
    if let Target::Namespace(to) | Target::Published(to) = &way.target {
        missing.extend(lacks.of(to));
    }
    missing.extend(lacks.host.iter().cloned());
    if matches!(way.target, Target::Outside | Target::Published(_) | Target::Host) {
        missing.extend(lacks.beyond.iter().cloned());
    }
    if !missing.is_empty() {
        missing.dedup();
        return missing.join(", ");
    }
    let same = |other: &&Tried| other.way.target == way.target && other.way.addr == way.addr;
    let host_fails =
        all.iter().filter(same).any(|other| other.way.from.is_none() && !other.works());
    let pinged = matches!(one.outcomes[0], Some(Outcome::Answered(_)));
    match &way.target {
        Target::Outside if way.from.is_none() => {
            "the host itself gets no answer: not the network's fault".to_owned()
        }
        Target::Outside if host_fails => {
            "the host gets no answer either: not the network's fault".to_owned()
        }
        Target::Gateway | Target::Host if pinged => {
            "ping works: a firewall of the host (INPUT) may be in the way".to_owned()
        }
        Target::Gateway | Target::Host => {
            "nothing is missing: a firewall of the host (INPUT) may be in the way".to_owned()
        }
        Target::Namespace(_) if way.from.is_some() => {
            "nothing is missing: a firewall in either namespace, or of the host's bridge, may be \
             in the way"
                .to_owned()
        }
        Target::Namespace(to) | Target::Published(to) => {
            format!("nothing is missing: a firewall of the host or in {to} may be in the way")
        }
        Target::Outside => {
            "the host gets an answer: a firewall of the host (FORWARD) may be in the way".to_owned()
        }
    }
}
