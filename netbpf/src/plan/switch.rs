//! From one datapath to the other, while the network runs.

use super::{Planner, Step, is_to_go, undo};
use crate::{
    bpf::Hook,
    datapath::Kind,
    net::Link,
    observe::{Observed, RulesSeen},
    state::Store,
    topology::Topology,
};

/// The steps that switch a network over to its datapath from the former one, as
/// far as they have not been taken: first all of the new one is made, beside the
/// old one, then that is taken away.
#[must_use]
pub fn switch(topology: &Topology, observed: &Observed, store: &Store) -> Vec<Step> {
    let Some(from) = topology.former else { return Vec::new() };
    let to = topology.datapath;
    let mut steps = vec![Step::MarkSwitching { from, to }];
    if to == Kind::Iptables && observed.others_of(topology, to).next().is_none() {
        steps.push(Step::KeepTables);
    }
    let new = Planner::new(topology, observed, store).up(&[]);
    steps.extend(
        new.into_iter()
            .filter(|step| !matches!(step, Step::Record { .. } | Step::KeepTables | Step::MarkUp)),
    );
    let old = removal(&Topology { datapath: from, ..topology.clone() }, observed, store);
    let carries = to == Kind::Iptables && observed.datapath.is_some();
    if carries {
        steps.push(Step::CarryFlows);
    }
    let is_detached = |step: &Step| matches!(step, Step::Detach { hook, .. } if !hook.is_guard());
    let last = old.iter().rposition(is_detached).map_or(0, |last| last + 1);
    for (n, step) in old.into_iter().enumerate() {
        // What came up meanwhile. From here on nothing does.
        if carries && n == last {
            steps.push(Step::CarryFlows);
        }
        steps.push(step);
    }
    steps.push(Step::MarkUp);
    steps
}

/// The steps that take a datapath away from a network of which all else stays.
fn removal(old: &Topology, observed: &Observed, store: &Store) -> Vec<Step> {
    let without = |link: &Link| Link { hairpin: false, ..link.clone() };
    let bare = Observed {
        links: observed.links.iter().map(without).collect(),
        datapath: None,
        rules: RulesSeen::default(),
        localnet: std::collections::BTreeSet::new(),
        switches: std::collections::BTreeSet::new(),
        ..observed.clone()
    };
    let all = Planner::new(old, &bare, store).up(&[]);
    let is_datapaths = |step: &&Step| match step {
        Step::LoadDatapath { .. }
        | Step::SetGateway { .. }
        | Step::SetSubnet { .. }
        | Step::SetEndpoint { .. }
        | Step::SetUplink { .. }
        | Step::SetPublished { .. }
        | Step::Attach { .. }
        | Step::SetRules { .. } => true,
        Step::SwitchOn { switch } => *switch != crate::net::sysctl::Switch::IpForward,
        _ => false,
    };
    let made: Vec<Step> = all.iter().filter(is_datapaths).cloned().collect();
    let mut steps: Vec<Step> =
        undo(&made).into_iter().filter(|step| is_to_go(step, old, observed)).collect();
    for step in all {
        match step {
            Step::SetHairpin { endpoint, .. } => {
                steps.push(Step::SetHairpin { endpoint, on: false });
            }
            Step::SetRouteLocalnet { bridge, .. } => {
                steps.push(Step::SetRouteLocalnet { bridge, on: false });
            }
            _ => {}
        }
    }
    if old.datapath == Kind::Iptables && is_to_go(&Step::TidyTables, old, observed) {
        steps.push(Step::TidyTables);
    }
    // Its last guard goes when nothing else is left that could let anything out.
    steps.sort_by_key(|step| {
        matches!(
            step,
            Step::Detach { hook: Hook::ToUplink | Hook::ToUplinkL3, .. }
                | Step::ClearSubnet { .. }
                | Step::UnloadDatapath
        )
    });
    steps
}
