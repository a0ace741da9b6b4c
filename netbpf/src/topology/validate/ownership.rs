//! Whether the names are free, or what has them is the network's own.

use super::super::{EndpointPlan, Topology};
use crate::{
    error::{Error, Key, Result},
    net::{Link, netns},
    observe::{Inside, Observed},
    state::Recorded,
};

/// The kind of the bridges' ports.
const PORT: &str = "veth";

/// What an interface of a network should be: all of it is set in the message
/// that makes it, or soon after.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owned {
    kind: &'static str,
    mac: netbpf_common::MacAddr,
    alias: String,
}

impl Owned {
    /// The network's bridge.
    #[must_use]
    pub fn bridge(topology: &Topology) -> Self {
        Self { kind: "bridge", mac: topology.gateway_mac(), alias: topology.alias() }
    }

    /// The host side of a namespace's veth.
    #[must_use]
    pub fn port(topology: &Topology, endpoint: &EndpointPlan) -> Self {
        Self { kind: PORT, mac: endpoint.link_mac(), alias: topology.alias_of(endpoint) }
    }

    /// Whether it is to be the host side of a veth.
    #[must_use]
    pub fn is_port(&self) -> bool {
        self.kind == PORT
    }

    /// Whether it is this interface: of its kind, and with its MAC (set from
    /// the first moment on) or its alias (which nobody sets by chance).
    #[must_use]
    pub fn is(&self, link: &Link) -> bool {
        link.kind.as_deref() == Some(self.kind)
            && (link.mac == Some(self.mac) || link.alias.as_deref() == Some(&self.alias))
    }
}

/// Checks that the interfaces' names are free.
pub(super) fn check_links(
    topology: &Topology,
    existing: Option<&Recorded>,
    observed: &Observed,
) -> Result<()> {
    let bridge = (topology.name.as_str(), Owned::bridge(topology), "choose another with --name");
    let ports = topology.endpoints.iter().map(|endpoint| {
        let owned = Owned::port(topology, endpoint);
        (endpoint.link.as_str(), owned, "choose another network name with --name")
    });
    for (name, owned, hint) in std::iter::once(bridge).chain(ports) {
        let Some(link) = observed.link(name) else { continue };
        if existing.is_none() || !owned.is(link) {
            let kind = link.kind.as_deref().unwrap_or("hardware");
            return Err(Error::usage(format!("the interface name {name} is taken"))
                .because(format!("there is one ({kind}) that is not of this network"))
                .hint(format!("{hint}, or remove it: ip link delete {name}")));
        }
    }
    Ok(())
}

/// The interface in a namespace of the network that has the name of the network's own.
#[must_use]
pub fn intruder<'a>(
    endpoint: &EndpointPlan,
    topology: &Topology,
    observed: &'a Observed,
) -> Option<&'a Link> {
    let Some(Inside::Ours { links, .. }) = observed.inside.get(&endpoint.namespace) else {
        return None;
    };
    let link = links.iter().find(|link| link.name == endpoint.inside.as_str())?;
    let recorded = observed.network(topology.name.as_str()).map(|network| &network.topology);
    let all = recorded.into_iter().chain([topology]).flat_map(Topology::all_endpoints);
    // One that is being moved may have the veth that it had.
    let mut ports = all.filter(|one| one.namespace == endpoint.namespace);
    let is_own = if topology.direct {
        link.kind.as_deref() == Some(PORT)
    } else {
        // Without its other end, a veth would not be there.
        ports.any(|one| observed.link(one.link.as_str()).is_some_and(|port| link.is_peer_of(port)))
    };
    (!is_own).then_some(link)
}

/// Checks that the namespaces' names are free.
pub(super) fn check_namespaces(
    topology: &Topology,
    existing: Option<&Recorded>,
    observed: &Observed,
) -> Result<()> {
    for (n, endpoint) in topology.endpoints.iter().enumerate() {
        let name = &endpoint.namespace;
        let is_ours =
            matches!(observed.inside.get(name), Some(Inside::Ours { .. } | Inside::Missing));
        // Of one that is somebody else's it has been found out which one it is.
        let is_named = matches!(&endpoint.adopted, Some(adoption) if adoption.from.is_none());
        let is_vacant = endpoint.adopted.is_none() && observed.vacant.contains(name);
        let can_be_had = is_named || existing.is_some() && (is_ours || is_vacant);
        if observed.namespaces.contains(name.as_str()) && !can_be_had {
            return Err(netns::taken(name.as_str()).about(Key::nth("ns", n).field("name")));
        }
        if let Some(link) = existing.and_then(|_| intruder(endpoint, topology, observed)) {
            let kind = link.kind.as_deref().unwrap_or("hardware");
            return Err(Error::usage(format!(
                "the interface name {} in {name} is taken",
                link.name
            ))
            .because(format!("there is one ({kind}) that is not of this network"))
            .hint(format!("remove it: ip -n {name} link delete {}", link.name))
            .about(Key::nth("ns", n)));
        }
    }
    Ok(())
}
