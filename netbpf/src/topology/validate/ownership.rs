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

/// Checks that the namespaces' names are free.
pub(super) fn check_namespaces(
    topology: &Topology,
    existing: Option<&Recorded>,
    observed: &Observed,
) -> Result<()> {
    for (n, endpoint) in topology.endpoints.iter().enumerate() {
        let name = &endpoint.namespace;
        let ours = existing.is_some()
            && matches!(observed.inside.get(name), Some(Inside::Ours { .. } | Inside::Missing));
        if observed.namespaces.contains(name.as_str()) && !ours {
            return Err(netns::taken(name.as_str()).about(Key::nth("ns", n).field("name")));
        }
    }
    Ok(())
}
