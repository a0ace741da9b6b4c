//! From one datapath to the other, while the network runs.

use super::{Planner, Step, is_to_go, undo};
use crate::{
    bpf::Hook,
    datapath::{
        Kind,
        iptables::{Table, TableRules},
    },
    net::Link,
    observe::{Observed, RulesSeen},
    state::Store,
    topology::Topology,
};

/// The steps that switch a network over to its datapath from the former one, as
/// far as they have not been taken.
///
/// All of the new datapath is made beside the old one that can be without the other
/// noticing. Then what namespaces send is held, that is lost, for the moment in which
/// connections are handed over: a packet that goes by one datapath when the other has
/// its connection would be refused by whoever gets it.
#[must_use]
pub fn switch(topology: &Topology, observed: &Observed, store: &Store) -> Vec<Step> {
    let Some(from) = topology.former else { return Vec::new() };
    let to = topology.datapath;
    let mut steps = vec![Step::MarkSwitching { from, to }];
    if to == Kind::Iptables && observed.others_of(topology, to).next().is_none() {
        steps.push(Step::KeepTables);
    }
    let mut new = Planner::new(topology, observed, store).up(&[]);
    new.retain(|step| !matches!(step, Step::Record { .. } | Step::KeepTables | Step::MarkUp));
    let old = removal(&Topology { datapath: from, ..topology.clone() }, observed, store);
    match to {
        Kind::Ebpf => to_ebpf(topology, new, old, &mut steps),
        Kind::Iptables => {
            let carries = observed.datapath.is_some();
            to_iptables((topology, observed), new, old, carries, &mut steps);
        }
    }
    steps.push(Step::MarkUp);
    steps
}

/// From outside packets come by eBPF first; of what it does not know, the stack goes
/// on to take care. The kernel's connections end before namespaces send by eBPF: what
/// comes from there by `lo` would not get past them.
fn to_ebpf(topology: &Topology, new: Vec<Step>, old: Vec<Step>, steps: &mut Vec<Step>) {
    let (ports, rest): (Vec<Step>, Vec<Step>) = new.into_iter().partition(is_attached_port);
    let (nat, old): (Vec<Step>, Vec<Step>) = old
        .into_iter()
        .partition(|step| matches!(step, Step::ClearRules { rules } if rules.table == Table::Nat));
    steps.extend(rest);
    steps.push(Step::Hold { rules: TableRules::holding(topology) });
    steps.push(Step::AdoptFlows);
    steps.extend(nat);
    steps.extend(ports);
    steps.extend(old);
}

/// The kernel knows the connections before there are rules that would translate their
/// packets as those of new ones. Those that came up meanwhile follow when none can come
/// up any more.
fn to_iptables(
    (topology, observed): (&Topology, &Observed),
    new: Vec<Step>,
    old: Vec<Step>,
    carries: bool,
    steps: &mut Vec<Step>,
) {
    let of = |step: &Step, table| matches!(step, Step::SetRules { rules } if rules.table == table);
    let (nat, mut rest): (Vec<Step>, Vec<Step>) =
        new.into_iter().partition(|step| of(step, Table::Nat));
    rest.retain(|step| !of(step, Table::Raw));
    let is_port = |step: &Step| matches!(step, Step::Detach { hook: Hook::FromEndpoint, .. });
    let (ports, old): (Vec<Step>, Vec<Step>) = old.into_iter().partition(is_port);
    let is_way_in = |step: &Step| matches!(step, Step::Detach { hook, .. } if !hook.is_guard());
    let (ways_in, old): (Vec<Step>, Vec<Step>) = old.into_iter().partition(is_way_in);
    let carry = || carries.then_some(Step::CarryFlows);
    steps.push(Step::Hold { rules: TableRules::holding(topology) });
    steps.extend(rest);
    steps.extend(ports);
    steps.extend(carry());
    steps.extend(nat);
    steps.extend(ways_in);
    steps.extend(carry());
    steps.extend(old);
    let [raw, ..] = TableRules::of(topology, observed);
    steps.push(Step::SetRules { rules: raw });
}

fn is_attached_port(step: &Step) -> bool {
    matches!(step, Step::Attach { hook: Hook::FromEndpoint, .. })
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
        judged: observed.unreflecting.contains(&old.name) || observed.judged,
        unreflecting: std::collections::BTreeSet::new(),
        ..observed.clone()
    };
    let all = Planner::new(old, &bare, store).up(&[]);
    let is_datapaths = |step: &&Step| match step {
        Step::SetRules { .. } | Step::DropReflected { .. } => true,
        Step::SwitchOn { switch } => *switch != crate::net::sysctl::Switch::IpForward,
        step => step.is_of_ebpf(),
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
