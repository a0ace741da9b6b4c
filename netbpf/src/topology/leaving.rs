//! A network that is being changed: what it had and is to have no longer. It is
//! remembered with the network until the change is done, so that whoever comes
//! after an interrupted one knows all that may still be there.

use std::{fmt, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::{EndpointPlan, Publish, Subnet, Topology, UplinkPlan};

/// What a network had before it was changed, and may still have.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Leaving {
    /// Namespaces, by their numbers and veths. A namespace that only gets another
    /// address, MAC or name of its interface has a new number and veth, and is in
    /// here with the old ones.
    pub endpoints: Vec<EndpointPlan>,
    /// Uplinks.
    pub uplinks: Vec<UplinkPlan>,
    /// Published ports.
    pub published: Vec<Publish>,
    /// Subnets, of which there may be addresses, and gateways.
    pub subnets: Vec<Subnet>,
}

impl Leaving {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
            && self.uplinks.is_empty()
            && self.published.is_empty()
            && self.subnets.is_empty()
    }
}

/// In words: `ns2 (172.19.0.3), uplink eth1, port 8080->80/tcp, subnet 172.19.0.0/24`.
impl fmt::Display for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.endpoints.iter().map(|e| format!("{} ({})", e.namespace, e.addr));
        let uplinks = self.uplinks.iter().map(|uplink| format!("uplink {}", uplink.name));
        let published = self.published.iter().map(|publish| format!("port {publish}"));
        let subnets = self.subnets.iter().map(|subnet| format!("subnet {subnet}"));
        let all: Vec<String> = endpoints.chain(uplinks).chain(published).chain(subnets).collect();
        f.write_str(&all.join(", "))
    }
}

impl Topology {
    /// This network, with what is to go of one of the same name that it takes the
    /// place of; whatever that one was still to lose is among it.
    #[must_use]
    pub fn in_place_of(&self, old: &Self) -> Self {
        let leaving = Leaving {
            endpoints: without(old.all_endpoints(), &self.endpoints),
            uplinks: without(old.uplinks.iter().chain(&old.leaving.uplinks), &self.uplinks),
            published: without(old.published.iter().chain(&old.leaving.published), &self.published),
            subnets: without(old.all_subnets(), &[self.subnet]),
        };
        Self { leaving, ..self.clone() }
    }

    /// The subnet that it has, and those that it is to have no longer.
    pub fn all_subnets(&self) -> impl Iterator<Item = &Subnet> {
        [&self.subnet].into_iter().chain(&self.leaving.subnets)
    }

    /// The gateways that it is to have no longer.
    pub fn leaving_gateways(&self) -> impl Iterator<Item = Ipv4Addr> {
        let gateways = self.leaving.subnets.iter().map(|subnet| subnet.gateway());
        gateways.filter(|&gateway| gateway != self.gateway())
    }

    /// Whether the network is the other one, or is being changed to be it.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.difference(other).is_none()
    }
}

/// Those that are not among the others, each once.
fn without<'a, T: PartialEq + Clone + 'a>(
    all: impl Iterator<Item = &'a T>,
    others: &[T],
) -> Vec<T> {
    let mut left: Vec<T> = Vec::new();
    for one in all {
        if !others.contains(one) && !left.contains(one) {
            left.push(one.clone());
        }
    }
    left
}
