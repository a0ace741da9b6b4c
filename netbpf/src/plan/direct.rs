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
            self.namespace(endpoint, &mut steps);
        }
        let ends = [self.end(first), self.end(second)];
        let is_whole = matches!(ends, [Some(a), Some(b)] if a.is_peer_of(b));
        if !is_whole {
            // One without the other, which is elsewhere.
            let own = [first, second].into_iter().zip(ends);
            for (endpoint, _) in own.filter(|(one, end)| end.is_some_and(|end| one.is_end(end))) {
                steps.push(Step::DeletePair { end: endpoint.clone() });
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
        let is_veth = |link: &&Link| link.kind.as_deref() == Some("veth");
        links.iter().filter(is_veth).find(|link| link.name == endpoint.inside.as_str())
    }
}
