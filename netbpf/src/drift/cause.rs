//! Which step is necessary because of what: a veth that is gone takes along its address,
//! its route, its place in the bridge and in the datapath, which are not amiss themselves.

use std::collections::BTreeSet;

use super::{former_index, has_intruder, uplink_lack};
use crate::{
    datapath::iptables::Table,
    observe::{Inside, Observed},
    plan::{Place, Step},
    state::Recorded,
    topology::{LinkName, NamespaceName, Topology},
};

/// What makes steps necessary.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Cause {
    /// The datapath is not loaded.
    Datapath,
    /// An uplink is gone, was made anew, or is of no use.
    Uplink(LinkName),
    /// The bridge is gone.
    Bridge,
    /// A namespace is gone, or another one has its name.
    Namespace(NamespaceName),
    /// Another interface has the name of a namespace's own.
    Intruder(NamespaceName),
    /// A namespace's veth is gone, or one end of it.
    Veth(NamespaceName),
    /// Nothing but what the step of that number mends.
    Step(usize),
}

/// What there is of them.
pub(super) struct Causes<'a> {
    network: &'a Recorded,
    /// Those that make steps necessary besides that which mends them.
    present: BTreeSet<Cause>,
    /// Those of which nothing of the network's may tell.
    own: Vec<Cause>,
}

impl<'a> Causes<'a> {
    pub(super) fn of(network: &'a Recorded, observed: &Observed, steps: &[Step]) -> Self {
        let topology = &network.topology;
        let mut present: BTreeSet<Cause> = steps.iter().filter_map(made).collect();
        let mut own = Vec::new();
        for uplink in &topology.uplinks {
            let link = observed.link(uplink.name.as_str());
            let is_another = former_index(network, uplink, observed).is_some();
            if uplink_lack(link, observed).is_some() || is_another {
                own.push(Cause::Uplink(uplink.name.clone()));
            }
        }
        for endpoint in &topology.endpoints {
            let name = &endpoint.namespace;
            if let Some(Inside::Foreign | Inside::File) = observed.inside.get(name) {
                own.push(Cause::Namespace(name.clone()));
            } else if has_intruder(name, topology, observed) {
                own.push(Cause::Intruder(name.clone()));
            }
        }
        present.extend(own.iter().cloned());
        // What an index of eBPF's was is of no concern to rules by names.
        let is_told = |cause: &Cause| match cause {
            Cause::Uplink(name) => {
                uplink_lack(observed.link(name.as_str()), observed).is_some()
                    || steps.iter().any(|step| is_of_uplink(step, name, network))
            }
            _ => true,
        };
        own.retain(is_told);
        Self { network, present, own }
    }

    /// Those that are to be told though no step may mend them.
    pub(super) fn own(&self) -> impl Iterator<Item = Cause> {
        self.own.iter().cloned()
    }

    /// What makes a step necessary, which is the `n`th of all.
    pub(super) fn cause(&self, n: usize, step: &Step, all: &[Step]) -> Cause {
        let topology = &self.network.topology;
        let mut candidates: Vec<Cause> = Vec::new();
        if step.is_of_ebpf() {
            candidates.push(Cause::Datapath);
        }
        candidates.extend(self.uplink(step).map(Cause::Uplink));
        if let Some(name) = self.namespace(step) {
            candidates.push(Cause::Namespace(name.clone()));
            candidates.push(Cause::Intruder(name.clone()));
            let is_loopback =
                matches!(step, Step::LinkUp { place: Place::Inside(_), link } if link == "lo");
            // The ends of a pair come and go together.
            let both = topology.endpoints.iter().filter(|_| topology.direct && !is_loopback);
            let both = both.map(|endpoint| endpoint.namespace.clone());
            candidates.extend(both.clone().map(Cause::Namespace));
            candidates.extend(both.clone().map(Cause::Intruder));
            candidates.extend(both.map(Cause::Veth));
            candidates.extend((!is_loopback).then_some(Cause::Veth(name)));
        }
        candidates.extend(is_bridges(step, topology).then_some(Cause::Bridge));
        let present = candidates.into_iter().find(|cause| self.present.contains(cause));
        present.unwrap_or_else(|| {
            let earlier = all.iter().take(n).position(|cause| follows(step, cause));
            Cause::Step(earlier.unwrap_or(n))
        })
    }

    /// The namespace that a step is about.
    fn namespace(&self, step: &Step) -> Option<NamespaceName> {
        let of = |link: &LinkName| {
            let mut all = self.network.topology.endpoints.iter();
            all.find(|endpoint| endpoint.link == *link).map(|endpoint| endpoint.namespace.clone())
        };
        match step {
            Step::DeleteLink { name, .. } => of(name),
            Step::ClearStray { stray } => of(&self.noted(stray.ifindex()?)?),
            step => step.namespace().cloned(),
        }
    }

    /// The uplink that a step is about.
    fn uplink(&self, step: &Step) -> Option<LinkName> {
        let topology = &self.network.topology;
        if matches!(step, Step::SetRules { rules } if rules.table == Table::Nat) {
            // Its rules name the uplinks' addresses.
            return self.own.iter().find_map(|cause| match cause {
                Cause::Uplink(name) => Some(name.clone()),
                _ => None,
            });
        }
        let mut all = topology.uplinks.iter().map(|uplink| &uplink.name);
        all.find(|name| is_of_uplink(step, name, self.network)).cloned()
    }

    /// The interface that had an index when the datapath was told of it.
    fn noted(&self, index: u32) -> Option<LinkName> {
        let mut links = self.network.journal.links.iter();
        links.find(|(_, noted)| **noted == index).map(|(name, _)| name.clone())
    }
}

/// The cause that a step tells of, which makes others necessary.
fn made(step: &Step) -> Option<Cause> {
    Some(match step {
        Step::LoadDatapath { .. } => Cause::Datapath,
        Step::AddBridge { .. } => Cause::Bridge,
        Step::AddNamespace { name }
        | Step::AdoptNamespace { name }
        | Step::BorrowNamespace { name, .. } => Cause::Namespace(name.clone()),
        Step::AddVeth { endpoint, .. } => Cause::Veth(endpoint.namespace.clone()),
        Step::AddPair { ends: [end, _], .. } => Cause::Veth(end.namespace.clone()),
        _ => return None,
    })
}

/// Whether it is about an uplink, as it is now or was.
fn is_of_uplink(step: &Step, name: &LinkName, network: &Recorded) -> bool {
    match step {
        Step::SetUplink { link, .. } | Step::Attach { link, namespace: None, .. } => link == name,
        Step::ClearStray { stray } => {
            let noted = network.journal.links.get(name).copied();
            stray.ifindex().is_some_and(|index| Some(index) == noted)
        }
        _ => false,
    }
}

/// Whether it goes along with making the bridge.
fn is_bridges(step: &Step, topology: &Topology) -> bool {
    match step {
        Step::AddBridge { .. }
        | Step::SetMaster { .. }
        | Step::AddFdb { .. }
        | Step::SetEndpoint { .. }
        | Step::SetHairpin { .. }
        | Step::SetIsolated { .. }
        | Step::SetRouteLocalnet { .. } => true,
        Step::LinkUp { place: Place::Host, link }
        | Step::SetMtu { place: Place::Host, link, .. }
        | Step::SetMac { place: Place::Host, link, .. }
        | Step::AddAddress { place: Place::Host, link, .. }
        | Step::DeleteAddress { place: Place::Host, link, .. }
        | Step::AddSubnetRoute { place: Place::Host, link, .. } => {
            link.as_str() == topology.name.as_str()
        }
        _ => false,
    }
}

/// Whether a step is necessary because of what another one mends.
fn follows(step: &Step, cause: &Step) -> bool {
    match (step, cause) {
        // Without an address, or switched off, an interface has no routes.
        (
            Step::AddDefaultRoute { namespace, link, .. },
            Step::LinkUp { place: Place::Inside(of), link: other }
            | Step::AddAddress { place: Place::Inside(of), link: other, .. },
        ) => namespace == of && link.as_str() == other,
        (
            Step::DeleteAddress { place, addr, .. },
            Step::AddAddress { place: of, addr: other, .. },
        ) => place == of && addr == other,
        (Step::CountFlows, Step::EndBroken { .. }) => true,
        // The bridge forgets what it knows of a port along with it.
        (
            Step::AddFdb { endpoint }
            | Step::SetHairpin { endpoint, .. }
            | Step::SetIsolated { endpoint, .. },
            Step::SetMaster { endpoint: of, .. },
        ) => endpoint == of,
        _ => false,
    }
}
