//! What is to be seen of networks; nothing is changed.

use std::collections::{BTreeMap, HashSet};

use netbpf_common::{Counters, EndpointId};

use super::{LiveFlow, Network, walk};
use crate::{
    bpf::{Datapath, FlowHead, look_beneath},
    datapath::Kind,
    drift::{self, Finding},
    error::{Error, Result},
    host::Host,
    observe::Observed,
    plan,
    session::{Session, block_on},
    state::{Phase, Recorded},
    topology::{EndpointPlan, LinkName, NamespaceName},
};

/// How a network is: STATE of `netbpf status`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// How far it is.
    pub phase: Phase,
    /// What is missing of it, in words: what `netbpf up` would make.
    pub missing: Vec<String>,
}

impl Status {
    /// Whether every piece that should exist does.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up && self.missing.is_empty()
    }
}

/// What is not as it should be of the networks that `choose` chooses: by their names, or all
/// for none. Must be called on a thread that may go to a mount namespace of its own.
///
/// # Errors
/// They cannot be looked at, or that of `choose`.
pub(crate) fn check(
    host: Host,
    choose: impl FnOnce(&[Recorded]) -> Result<Option<LinkName>>,
) -> Result<Vec<Finding>> {
    let cover = host.cover()?;
    if cover.is_some() {
        look_beneath(&host.pins)?;
    }
    block_on(async {
        let session = Session::open(host)?;
        let mut observed = session.observe().await?;
        session.look_at_flows(&mut observed)?;
        let chosen = choose(&observed.networks)?;
        let networks = observed.networks.iter();
        let networks =
            networks.filter(|one| chosen.as_ref().is_none_or(|name| one.topology.name == *name));
        let cover = networks.clone().next().zip(cover);
        let cover = cover.map(|(first, cover)| drift::covered(&first.topology.name, cover));
        let found = networks.flat_map(|one| drift::find(one, &observed, &session.host.store));
        let found = cover.into_iter().chain(found);
        // What networks share is found of each.
        let mut told = HashSet::new();
        let is_new = |found: &Finding| told.insert((found.thing.clone(), found.amiss.clone()));
        Ok(found.filter(is_new).collect())
    })
}

impl Network {
    /// What of it was changed by hand, or by others: what `netbpf check` finds, of what networks
    /// share, too. [`Network::mend`] puts it right.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn check(&self) -> Result<Vec<Finding>> {
        let name = &self.topology.name;
        self.host.run(|| check(Host::here()?, |_| Ok(Some(name.clone()))))?
    }

    /// Whether every piece that should exist does, and what is missing.
    ///
    /// # Errors
    /// It cannot be looked at, or is not there any more.
    pub fn status(&self) -> Result<Status> {
        let name = self.topology.name.as_str();
        self.host.run(|| {
            block_on(async {
                let session = Session::open(Host::here()?)?;
                let observed = session.observe().await?;
                let network = recorded(&observed, name)?;
                let missing = plan::missing(&network.topology, &observed, &session.host.store);
                let missing = missing.iter().map(plan::Step::lack).collect();
                Ok(Status { phase: network.phase, missing })
            })
        })?
    }

    /// The flows of its namespaces that live, whichever datapath has them, in no order.
    /// Frames between its namespaces make none. Of a large table the walk takes a second.
    ///
    /// # Errors
    /// The datapath cannot be looked at.
    pub fn flows(&self) -> Result<Vec<LiveFlow>> {
        let own: HashSet<EndpointId> =
            self.topology.endpoints.iter().map(EndpointPlan::endpoint_id).collect();
        self.host.run(|| {
            let host = Host::here()?;
            let ebpf = Datapath::open(&host.pins)?;
            let is_of_ebpf = self.topology.datapath == Kind::Ebpf;
            let topology = std::slice::from_ref(&self.topology);
            let (ebpf, classical) = match (self.topology.direct, is_of_ebpf) {
                (true, _) => (None, &[][..]),
                (false, true) => (ebpf.as_ref(), &[][..]),
                (false, false) => (None, topology),
            };
            let mut flows = Vec::new();
            let is_own = |head: &FlowHead| own.contains(&head.endpoint);
            walk(ebpf, classical, is_own, |flow| {
                flows.push(flow.clone());
                Ok(())
            })?;
            Ok(flows)
        })?
    }

    /// What became of each namespace's packets since it was made: forwarded, translated,
    /// passed to the kernel's stack, or dropped and why. [`Counters`] are read by
    /// [`Counter`](netbpf_common::Counter) and
    /// [`DropReason`](netbpf_common::DropReason).
    ///
    /// # Errors
    /// The network is not of eBPF, which alone counts them, or cannot be looked at.
    pub fn counters(&self) -> Result<BTreeMap<NamespaceName, Counters>> {
        let is_of_ebpf = self.topology.datapath == Kind::Ebpf;
        self.host.run(|| {
            let host = Host::here()?;
            let is_counted = is_of_ebpf && !self.topology.direct;
            let Some(datapath) = Datapath::open(&host.pins)?.filter(|_| is_counted) else {
                let what = format!("packets of network {} are not counted", self.topology.name);
                return Err(Error::failed(what)
                    .because("only the eBPF datapath counts them")
                    .hint("`iptables -vnL` counts packets by rules"));
            };
            let endpoints = self.topology.endpoints.iter();
            let each = endpoints.map(|endpoint| {
                Ok((endpoint.namespace.clone(), datapath.counters(endpoint.endpoint_id())?))
            });
            each.collect()
        })?
    }
}

/// The network as it is remembered.
///
/// # Errors
/// It is not.
pub(super) fn recorded<'a>(observed: &'a Observed, name: &str) -> Result<&'a Recorded> {
    observed.network(name).ok_or_else(|| {
        Error::failed(format!("the network {name} is gone"))
            .because("it was taken down by somebody else")
    })
}
