//! Two namespaces, a veth pair, and nothing else.

use super::{Phase, Planner, Step, undo};
use crate::{
    net::Link,
    observe::{Inside, Observed},
    state::Store,
    topology::{EndpointPlan, Topology},
};

/// The steps that take a direct network away, but for what is gone already.
pub(super) fn down(topology: &Topology, observed: &Observed, store: &Store) -> Vec<Step> {
    let nothing = Observed::default();
    let is_gone = |step: &Step| {
        let inside = step.namespace().and_then(|name| observed.inside.get(name));
        matches!(inside, Some(Inside::Missing))
    };
    let all = Planner::new(topology, &nothing, store).direct();
    undo(&all).into_iter().filter(|step| !is_gone(step)).collect()
}

impl Planner<'_> {
    /// The steps from what there is to a direct network.
    pub(super) fn direct(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.existing.is_none() {
            steps.push(Step::Record { path: self.path.clone() });
        }
        let [first, second] = &self.topology.endpoints[..] else { return steps };
        for endpoint in [first, second] {
            if self.inside(endpoint).is_none() {
                steps.push(Step::AddNamespace { name: endpoint.namespace.clone() });
            }
        }
        let ends = [self.end(first), self.end(second)];
        let is_whole = ends.iter().all(Option::is_some);
        if !is_whole {
            // One without the other: its peer has another name, or is elsewhere.
            for (endpoint, _) in [first, second].iter().zip(ends).filter(|(_, end)| end.is_some()) {
                steps.push(Step::DeletePair { end: (*endpoint).clone() });
            }
            let ends = [first.clone(), second.clone()];
            steps.push(Step::AddPair { ends, mtu: self.topology.mtu });
        }
        for (endpoint, end) in [first, second].into_iter().zip(ends) {
            let end = end.filter(|_| is_whole);
            let inside = self.inside(endpoint).unwrap_or_default();
            self.interface(endpoint, end, inside, &mut steps);
        }
        if self.existing.is_none_or(|network| network.phase != Phase::Up) {
            steps.push(Step::MarkUp);
        }
        steps
    }

    /// The end of the pair in a namespace, if it is there.
    fn end(&self, endpoint: &EndpointPlan) -> Option<&Link> {
        let (links, _, _) = self.inside(endpoint)?;
        links.iter().find(|link| endpoint.is_end(link))
    }
}
