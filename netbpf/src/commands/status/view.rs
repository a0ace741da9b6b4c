//! What `status` tells of networks.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    observe::{Inside, Observed},
    plan::{self, Step},
    session::Session,
    state::{Phase, Recorded},
    topology::{EndpointPlan, INSIDE, NamespaceName, Topology},
};

use super::UP;

/// All of `status` in JSON.
#[derive(Serialize)]
pub(super) struct StatusView<'a> {
    pub(super) networks: &'a [NetworkView],
}

/// A network in JSON.
#[derive(Serialize)]
pub(super) struct NetworkView {
    pub(super) network: String,
    /// "up", "incomplete", "building" or "removing".
    state: &'static str,
    subnet: String,
    gateway: String,
    mtu: u32,
    pub(super) bridge: BridgeView,
    pub(super) uplink: UplinkView,
    pub(super) datapath: &'static str,
    /// The programs that should be attached, and whether they are.
    programs: Vec<ProgramView>,
    ip_forward: bool,
    max_flows: u32,
    flow_limit: u32,
    source_guard: String,
    log_level: &'static str,
    pub(super) namespaces: Vec<NamespaceView>,
}

#[derive(Serialize)]
pub(super) struct BridgeView {
    pub(super) name: String,
    pub(super) mac: String,
    pub(super) ipv4: String,
    /// Its ports, as the kernel has them.
    members: Vec<String>,
    /// What is missing of it, and of what belongs to no other row.
    pub(super) missing: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct UplinkView {
    pub(super) name: String,
    pub(super) mac: String,
    /// The address that packets to the outside carry.
    pub(super) ipv4: String,
    pub(super) missing: Vec<String>,
}

#[derive(Serialize)]
struct ProgramView {
    program: &'static str,
    interface: String,
    attached: bool,
}

#[derive(Serialize)]
pub(super) struct NamespaceView {
    #[serde(rename = "ns")]
    pub(super) name: String,
    endpoint: u16,
    pub(super) iface: &'static str,
    /// The host side of its veth.
    link: String,
    pub(super) mac: String,
    pub(super) ipv4: String,
    gateway: String,
    pub(super) ports: Vec<String>,
    /// Addresses that its interface has in fact.
    addresses: Vec<String>,
    pub(super) missing: Vec<String>,
}

impl NetworkView {
    pub(super) fn of(network: &Recorded, observed: &Observed, session: &Session) -> Self {
        let topology = &network.topology;
        let lacks = lacks(topology, observed, session);
        let missing = |of: &Of| lacks.get(of).cloned().unwrap_or_default();
        let prefix_len = topology.subnet.prefix_len();
        let bridge = observed.link(topology.name.as_str());
        let members = observed
            .links
            .iter()
            .filter(|link| bridge.is_some_and(|bridge| link.master == Some(bridge.index)));
        let uplink = observed.link(topology.uplink.as_str());
        let uplink_addr = observed.addresses.iter().find(|address| {
            uplink.is_some_and(|uplink| {
                address.ifindex == uplink.index
                    && Some(address.addr) == observed.uplink_address(uplink)
            })
        });
        Self {
            network: topology.name.to_string(),
            state: match network.phase {
                Phase::Building => "building",
                Phase::Removing => "removing",
                Phase::Up if lacks.is_empty() => UP,
                Phase::Up => "incomplete",
            },
            subnet: topology.subnet.to_string(),
            gateway: topology.gateway().to_string(),
            mtu: topology.mtu,
            bridge: BridgeView {
                name: topology.name.to_string(),
                mac: topology.gateway_mac().to_string(),
                ipv4: format!("{}/{prefix_len}", topology.gateway()),
                members: members.map(|link| link.name.clone()).collect(),
                missing: missing(&Of::Bridge),
            },
            uplink: UplinkView {
                name: topology.uplink.to_string(),
                mac: uplink
                    .and_then(|uplink| uplink.mac)
                    .map(|mac| mac.to_string())
                    .unwrap_or_default(),
                ipv4: uplink_addr
                    .map(|address| format!("{}/{}", address.addr, address.prefix_len))
                    .unwrap_or_default(),
                missing: missing(&Of::Uplink),
            },
            datapath: session.datapath().name(),
            programs: programs(topology, observed),
            ip_forward: observed.forwarding,
            max_flows: topology.max_flows,
            flow_limit: topology.flow_limit,
            source_guard: format!("{:?}", topology.guard).to_lowercase(),
            log_level: topology.log_level.name(),
            namespaces: topology
                .endpoints
                .iter()
                .map(|endpoint| {
                    let missing = missing(&Of::Namespace(endpoint.namespace.clone()));
                    NamespaceView::of(topology, endpoint, observed, missing)
                })
                .collect(),
        }
    }
}

impl NamespaceView {
    fn of(
        topology: &Topology,
        endpoint: &EndpointPlan,
        observed: &Observed,
        missing: Vec<String>,
    ) -> Self {
        let addresses = match observed.inside.get(&endpoint.namespace) {
            Some(Inside::Ours { links, addresses, .. }) => {
                let eth0 = links.iter().find(|link| link.name == INSIDE).map(|link| link.index);
                let own = addresses.iter().filter(|address| Some(address.ifindex) == eth0);
                own.map(|address| format!("{}/{}", address.addr, address.prefix_len)).collect()
            }
            _ => Vec::new(),
        };
        Self {
            name: endpoint.namespace.to_string(),
            endpoint: endpoint.id,
            iface: INSIDE,
            link: endpoint.link.to_string(),
            mac: endpoint.mac.to_string(),
            ipv4: format!("{}/{}", endpoint.addr, topology.subnet.prefix_len()),
            gateway: topology.gateway().to_string(),
            ports: topology.published_to(&endpoint.namespace).map(ToString::to_string).collect(),
            addresses,
            missing,
        }
    }
}

/// What something is missing of: a row of the table.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Bridge,
    Uplink,
    Namespace(NamespaceName),
}

impl Of {
    fn step(step: &Step) -> Self {
        match (step.namespace(), step) {
            (Some(namespace), _) => Self::Namespace(namespace.clone()),
            (None, Step::SetUplink { .. } | Step::Attach { .. }) => Self::Uplink,
            _ => Self::Bridge,
        }
    }
}

/// What is missing: what `up` would make.
fn lacks(topology: &Topology, observed: &Observed, session: &Session) -> BTreeMap<Of, Vec<String>> {
    let mut lacks: BTreeMap<Of, Vec<String>> = BTreeMap::new();
    for step in plan::missing(topology, observed, &session.host.store) {
        lacks.entry(Of::step(&step)).or_default().push(step.lack());
    }
    for endpoint in &topology.endpoints {
        if let Some(Inside::Foreign) = observed.inside.get(&endpoint.namespace) {
            let lack = "namespace replaced by another".to_owned();
            lacks.insert(Of::Namespace(endpoint.namespace.clone()), vec![lack]);
        }
    }
    let uplink = observed.link(topology.uplink.as_str());
    let lack = match uplink {
        None => Some("interface gone"),
        Some(uplink) if !uplink.up => Some("interface down"),
        Some(uplink) if observed.uplink_address(uplink).is_none() => Some("no IPv4 address"),
        Some(_) => None,
    };
    if let Some(lack) = lack {
        lacks.insert(Of::Uplink, vec![lack.to_owned()]);
    }
    lacks
}

/// The programs that should be attached: those that a plan from nothing attaches.
fn programs(topology: &Topology, observed: &Observed) -> Vec<ProgramView> {
    let attached = |hook, link: &str| {
        let index = observed.link(link).map(|link| link.index);
        let seen = observed.datapath.as_ref();
        index.is_some_and(|index| seen.is_some_and(|seen| seen.attached.contains(&(hook, index))))
    };
    plan::attachments(topology)
        .filter_map(|step| match step {
            Step::Attach { hook, link, .. } => Some(ProgramView {
                program: hook.program(),
                attached: attached(hook, link.as_str()),
                interface: link.to_string(),
            }),
            _ => None,
        })
        .collect()
}
