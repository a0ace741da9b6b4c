//! What the user wants, validated into a type that cannot be invalid. Pure: the
//! host is looked at elsewhere, and given.

mod adoption;
mod leaving;
pub mod mac;
mod name;
mod pair;
mod publish;
mod request;
mod subnet;
mod validate;

use std::net::Ipv4Addr;

use netbpf_common::{EndpointId, MacAddr};
use serde::{Deserialize, Serialize};

use crate::{
    bpf::{Hook, LogLevel},
    datapath::Kind,
    net::Link,
};

pub use adoption::{ADOPTED_METRIC, Adoption, Origin};
pub use leaving::Leaving;
pub use name::{LinkName, MAX_LINK_NAME, MAX_NAMESPACE_NAME, NamespaceName};
pub use pair::Pair;
pub use publish::{HostPorts, Ports, Proto, Publish, PublishSpec};
pub use request::{Guard, NamespaceSpec, Request};
pub use subnet::Subnet;
pub use validate::{MAX_MAX_FLOWS, Owned, check_max_flows, intruder};

/// The interface inside each namespace, unless another name is asked for.
pub const INSIDE: &str = "eth0";

/// The host's loopback interface.
pub const LOOPBACK: &str = "lo";

/// Most uplinks of all networks of a host: the datapath's table.
pub const MAX_UPLINKS: usize = 64;

/// Most namespaces of all networks of a host: the datapath's table less its
/// unused first row.
pub const MAX_ENDPOINTS: u16 = 4095;

/// Most published ranges of all networks of a host: half of the datapath's
/// table, the other half being for changes.
pub const MAX_PUBLISHED: usize = 2048;

/// A network that can be built: made by [`Topology::validate`], or read back
/// from where such a one was recorded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(clippy::struct_excessive_bools, reason = "each is a yes or no of the network's")]
pub struct Topology {
    /// Name of the network and its bridge.
    pub name: LinkName,
    /// Whether it is two namespaces that are connected with each other and nothing
    /// else: no bridge, no gateway, no uplinks, no datapath.
    #[serde(default)]
    pub direct: bool,
    /// The ways to the outside, at least one but for a direct network.
    pub uplinks: Vec<UplinkPlan>,
    /// What moves its packets.
    pub datapath: Kind,
    /// Why it is not the datapath that is tried first, if it is not.
    pub fallback: Option<String>,
    /// What has moved them until now, while they are being switched over.
    pub former: Option<Kind>,
    /// What it had and is to have no longer, while it is being changed.
    #[serde(default)]
    pub leaving: Leaving,
    /// The network's addresses.
    pub subnet: Subnet,
    /// Largest IP packet of its interfaces.
    pub mtu: u32,
    /// What namespaces may send.
    pub guard: Guard,
    /// Whether a namespace's own address is reached from outside, by who routes
    /// to it.
    pub routed: bool,
    /// Whether the host's own rules for what is forwarded say what becomes of its
    /// packets.
    #[serde(default)]
    pub respect_netfilter: bool,
    /// Whether its namespaces reach everybody but each other.
    #[serde(default)]
    pub isolate: bool,
    /// The pairs of them that reach each other all the same, in order.
    #[serde(default)]
    pub allowed: Vec<Pair>,
    /// Flows that each namespace may have.
    pub flow_limit: u32,
    /// Flows that the host's table holds.
    pub max_flows: u32,
    /// What the host's datapath logs.
    pub log_level: LogLevel,
    /// The namespaces.
    pub endpoints: Vec<EndpointPlan>,
    /// Published ports.
    pub published: Vec<Publish>,
}

/// A way to the outside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UplinkPlan {
    /// The interface.
    pub name: LinkName,
    /// Whether its packets begin with an Ethernet header.
    pub ethernet: bool,
}

impl UplinkPlan {
    /// Where the datapath is attached to it: on the way out, and on the way in.
    #[must_use]
    pub fn hooks(&self) -> [Hook; 2] {
        if self.ethernet {
            [Hook::ToUplink, Hook::FromUplink]
        } else {
            [Hook::ToUplinkL3, Hook::FromUplinkL3]
        }
    }
}

/// A namespace's place in the network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EndpointPlan {
    /// Its number, of which there is one in the host.
    pub id: u16,
    /// The namespace.
    pub namespace: NamespaceName,
    /// Its address.
    pub addr: Ipv4Addr,
    /// MAC of its interface.
    #[serde(with = "mac::text")]
    pub mac: MacAddr,
    /// The host side of its veth, a port of the bridge.
    pub link: LinkName,
    /// Its interface inside.
    #[serde(default = "LinkName::inside")]
    pub inside: LinkName,
    /// The namespace is somebody else's, and given back.
    #[serde(default)]
    pub adopted: Option<Adoption>,
}

impl EndpointPlan {
    /// Its number as the datapath knows it.
    #[must_use]
    pub fn endpoint_id(&self) -> EndpointId {
        EndpointId(self.id)
    }

    /// Whether the interface is the namespace's own end of a direct network's pair.
    #[must_use]
    pub fn is_end(&self, link: &Link) -> bool {
        let is_veth = link.kind.as_deref() == Some("veth");
        is_veth && link.name == self.inside.as_str() && link.mac == Some(self.mac)
    }

    /// Metric of its default route: that of an adopted namespace's own comes first.
    #[must_use]
    pub fn metric(&self) -> u32 {
        if self.adopted.is_some() { ADOPTED_METRIC } else { 0 }
    }

    /// MAC of the host side of its veth.
    #[must_use]
    pub fn link_mac(&self) -> MacAddr {
        mac::host_side(self.addr)
    }
}

impl Topology {
    /// The gateway's address, on the bridge.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet.gateway()
    }

    /// The gateway's MAC: the bridge's.
    #[must_use]
    pub fn gateway_mac(&self) -> MacAddr {
        mac::generated(self.gateway())
    }

    /// The bridge's alias.
    #[must_use]
    pub fn alias(&self) -> String {
        format!("netbpf:{}", self.name)
    }

    /// The alias of the host side of a namespace's veth.
    #[must_use]
    pub fn alias_of(&self, endpoint: &EndpointPlan) -> String {
        format!("netbpf:{}:{}", self.name, endpoint.namespace)
    }

    /// Whether the host's interface of that name is one of the uplinks.
    #[must_use]
    pub fn has_uplink(&self, name: &LinkName) -> bool {
        self.uplinks.iter().any(|uplink| uplink.name == *name)
    }

    /// The address that a namespace reaches first: the gateway's, or in a direct
    /// network that of the other namespace.
    #[must_use]
    pub fn neighbour_of(&self, endpoint: &EndpointPlan) -> Ipv4Addr {
        let other = self.endpoints.iter().find(|other| other.namespace != endpoint.namespace);
        other.filter(|_| self.direct).map_or(self.gateway(), |other| other.addr)
    }

    /// The namespaces that it has, and those that it is to have no longer.
    pub fn all_endpoints(&self) -> impl Iterator<Item = &EndpointPlan> {
        self.endpoints.iter().chain(&self.leaving.endpoints)
    }

    /// The endpoint of that namespace.
    #[must_use]
    pub fn endpoint(&self, namespace: &NamespaceName) -> Option<&EndpointPlan> {
        self.endpoints.iter().find(|endpoint| endpoint.namespace == *namespace)
    }

    /// Whether two namespaces of the network reach each other by their own addresses.
    #[must_use]
    pub fn may_reach(&self, one: &NamespaceName, other: &NamespaceName) -> bool {
        !self.isolate || self.allowed.iter().any(|pair| pair.has(one) && pair.has(other))
    }

    /// The ports that lead to that namespace.
    pub fn published_to<'a>(
        &'a self,
        namespace: &'a NamespaceName,
    ) -> impl Iterator<Item = &'a Publish> {
        self.published.iter().filter(move |publish| publish.namespace == *namespace)
    }

    /// The first thing in which the two differ, in words; nothing if in nothing.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        let differ = |what: &str, a: &dyn std::fmt::Display, b: &dyn std::fmt::Display| {
            let (a, b) = (a.to_string(), b.to_string());
            (a != b).then(|| format!("{what}: it has {a}, {b} was asked for"))
        };
        let namespaces = |topology: &Self| {
            let all = topology.endpoints.iter();
            let mut all: Vec<_> = all
                .map(|e| {
                    let adopted =
                        e.adopted.as_ref().map(|it| format!(", adopted ({})", it.id.cookie));
                    let adopted = adopted.unwrap_or_default();
                    format!("{}={}/{} on {}{adopted}", e.namespace, e.addr, e.mac, e.inside)
                })
                .collect();
            all.sort();
            all
        };
        let ports = |topology: &Self| {
            let all = topology.published.iter();
            let mut all: Vec<_> = all.map(|p| format!("{}:{p}", p.namespace)).collect();
            all.sort();
            if all.is_empty() { "none".to_owned() } else { all.join(" ") }
        };
        let uplinks = |topology: &Self| {
            let all = topology.uplinks.iter();
            let mut all: Vec<_> = all
                .map(|uplink| {
                    let kind = if uplink.ethernet { "" } else { " (without Ethernet header)" };
                    format!("{}{kind}", uplink.name)
                })
                .collect();
            all.sort();
            all.join(" ")
        };
        let allowed = |topology: &Self| {
            let all: Vec<_> = topology.allowed.iter().map(ToString::to_string).collect();
            if all.is_empty() { "none".to_owned() } else { all.join(" ") }
        };
        let switch = |is_on: bool| if is_on { "on" } else { "off" };
        let guard = |topology: &Self| format!("{:?}", topology.guard).to_lowercase();
        let datapath = |topology: &Self| topology.datapath.name();
        None.or_else(|| differ("datapath", &datapath(self), &datapath(other)))
            .or_else(|| differ("subnet", &self.subnet, &other.subnet))
            .or_else(|| {
                let (a, b) = (namespaces(self), namespaces(other));
                differ("number of namespaces", &a.len(), &b.len())
                    .or_else(|| a.iter().zip(&b).find_map(|(a, b)| differ("namespace", a, b)))
            })
            .or_else(|| differ("published ports", &ports(self), &ports(other)))
            .or_else(|| differ("uplinks", &uplinks(self), &uplinks(other)))
            .or_else(|| differ("MTU", &self.mtu, &other.mtu))
            .or_else(|| differ("source guard", &guard(self), &guard(other)))
            .or_else(|| differ("routed", &switch(self.routed), &switch(other.routed)))
            .or_else(|| {
                let of = |topology: &Self| switch(topology.respect_netfilter);
                differ("respect of netfilter", &of(self), &of(other))
            })
            .or_else(|| differ("isolation", &switch(self.isolate), &switch(other.isolate)))
            .or_else(|| differ("allowed pairs", &allowed(self), &allowed(other)))
            .or_else(|| differ("flow limit", &self.flow_limit, &other.flow_limit))
            .or_else(|| differ("flow table", &self.max_flows, &other.max_flows))
            .or_else(|| differ("log level", &self.log_level.name(), &other.log_level.name()))
    }
}
