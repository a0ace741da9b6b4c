//! What the datapath should know of a network.

use netbpf_common::{Endpoint, MacAddr, PublishEntry, SourceGuard, Uplink};

use super::{Planner, Step};
use crate::{
    bpf::Flaws,
    datapath::Kind,
    net::Link,
    observe::Shared,
    topology::{EndpointPlan, Topology, UplinkPlan},
};

/// The datapath's row of a namespace, but for the interface indexes.
#[must_use]
pub fn endpoint_row(topology: &Topology, endpoint: &EndpointPlan) -> Endpoint {
    Endpoint {
        addr: endpoint.addr.into(),
        gateway: topology.gateway().into(),
        subnet: topology.subnet.addr().into(),
        mask: topology.subnet.mask().into(),
        mtu: topology.mtu,
        flow_limit: topology.flow_limit,
        mac: endpoint.mac,
        gateway_mac: topology.gateway_mac(),
        guard: SourceGuard::from(topology.guard) as u8,
        flags: if topology.routed { Endpoint::ROUTED } else { 0 }
            | if topology.respect_netfilter { Endpoint::BY_STACK } else { 0 }
            | if topology.isolate { Endpoint::ISOLATED } else { 0 },
        pad: [0; 2],
        ..Endpoint::default()
    }
}

/// The datapath's rows of a network's published ports.
pub fn publish_entries(topology: &Topology) -> impl Iterator<Item = PublishEntry> {
    topology.published.iter().filter_map(|publish| {
        let endpoint = topology.endpoint(&publish.namespace)?;
        let addr = publish.host_addr.map_or(netbpf_common::Ipv4::ANY, Into::into);
        Some(PublishEntry {
            order: PublishEntry::order_of(publish.proto.number(), addr, publish.host.first),
            last: publish.host.last,
            target_port: publish.inside.first,
            target: endpoint.addr.into(),
            endpoint: endpoint.endpoint_id(),
            ..PublishEntry::default()
        })
    })
}

impl Planner<'_> {
    /// The steps that tell the datapath what it does not know.
    pub(super) fn rows(&self, steps: &mut Vec<Step>) {
        let topology = self.topology;
        let seen = self.observed.datapath.as_ref();
        let (addr, mac) = (topology.gateway(), topology.gateway_mac());
        if !seen.is_some_and(|seen| seen.gateways.contains(&addr)) {
            steps.push(Step::SetGateway { addr, mac });
        }
        // Before they are told that they are isolated.
        self.allowed_rows(steps);
        let bridge = self.own_bridge().map(|link| link.index);
        for endpoint in &topology.endpoints {
            let row = endpoint_row(topology, endpoint);
            let port = self.own_port(endpoint).map(|link| link.index);
            let wanted = port.zip(bridge).map(|(ifindex, bridge_ifindex)| Endpoint {
                ifindex,
                bridge_ifindex,
                ..row
            });
            let has = seen.and_then(|seen| seen.endpoints.get(&endpoint.id).copied());
            let is_skewed = seen.is_some_and(|seen| seen.skewed.contains_key(&endpoint.id));
            if has.is_none() || has != wanted || is_skewed {
                let (endpoint, bridge) = (endpoint.clone(), topology.name.clone());
                steps.push(Step::SetEndpoint { endpoint, bridge, row });
            }
        }
        for uplink in &topology.uplinks {
            self.uplink_row(uplink, steps);
        }
    }

    /// The steps that put right what all networks share.
    pub(super) fn shared(&self, steps: &mut Vec<Step>) {
        let Some(seen) = &self.observed.datapath else { return };
        let strays = seen.strays.iter().cloned();
        steps.extend(strays.map(|stray| Step::ClearStray { stray }));
        for (what, step) in [
            (Shared::Timeouts, Step::SetTimeouts),
            (Shared::PortSecret, Step::SetPortSecret),
            (Shared::Programs, Step::SetPrograms),
        ] {
            steps.extend(seen.changed.contains(&what).then_some(step));
        }
        let Flaws { broken, miscounted } = &seen.flaws;
        if !broken.is_empty() {
            steps.push(Step::EndBroken { entries: broken.clone() });
        }
        // What has been changed of a broken flow may count elsewhere.
        if !broken.is_empty() || !miscounted.is_empty() {
            steps.push(Step::CountFlows);
        }
    }

    /// The step that tells it which addresses never leave by an uplink.
    pub(super) fn subnet_row(&self, steps: &mut Vec<Step>) {
        let subnet = self.topology.subnet;
        let key = (subnet.addr(), subnet.prefix_len());
        let seen = self.observed.datapath.as_ref();
        if !seen.is_some_and(|seen| seen.subnets.contains(&key)) {
            steps.push(Step::SetSubnet { subnet });
        }
    }

    fn uplink_row(&self, uplink: &UplinkPlan, steps: &mut Vec<Step>) {
        let link = self.observed.link(uplink.name.as_str());
        let row = match link.and_then(|link| self.uplink(uplink, link)) {
            Some(row) => row,
            // Of one that is gone there is nothing to tell ...
            None if self.existing.is_some() => return,
            // ... but all to forget: only what is taken down is planned from
            // nothing without being validated.
            None => Uplink::default(),
        };
        let seen = self.observed.datapath.as_ref();
        let has = link.and_then(|link| seen?.uplinks.get(&link.index));
        let step = Step::SetUplink { link: uplink.name.clone(), row };
        // Another network's plan may be in the same list, and have the same uplink.
        if has != Some(&row) && !steps.contains(&step) {
            steps.push(step);
        }
    }

    fn uplink(&self, uplink: &UplinkPlan, link: &Link) -> Option<Uplink> {
        let address = self.observed.uplink_address(link)?;
        let mac = link.mac.filter(|_| uplink.ethernet);
        Some(Uplink {
            addr: address.addr.into(),
            mtu: link.mtu,
            mac: mac.unwrap_or(MacAddr::ZERO),
            prefix_len: address.prefix_len,
            flags: if uplink.ethernet { 0 } else { Uplink::NO_ETHERNET },
        })
    }

    /// The step that tells it of all published ports of the host.
    pub(super) fn published(&self, steps: &mut Vec<Step>) {
        let others: Vec<PublishEntry> = self
            .observed
            .others(self.topology.name.as_str())
            .filter(|other| other.topology.datapath == Kind::Ebpf)
            .flat_map(|network| publish_entries(&network.topology))
            .collect();
        let mut all: Vec<_> = publish_entries(self.topology).chain(others.clone()).collect();
        all.sort_by_key(|entry| entry.order);
        let seen = self.observed.datapath.as_ref();
        let has = seen.map(|seen| &seen.published[..]);
        let is_skewed = seen.is_some_and(|seen| seen.changed.contains(&Shared::PublishedBits));
        if has.unwrap_or_default() != all || is_skewed {
            steps.push(Step::SetPublished { all, others });
        }
    }
}
