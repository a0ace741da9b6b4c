//! What `status` tells of networks.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    bpf::Build,
    datapath::Kind,
    net::sysctl::Switch,
    observe::{Inside, Observed},
    plan::{self, Step},
    session::Session,
    state::{Phase, Recorded},
    topology::{EndpointPlan, LinkName, NamespaceName, Topology, UplinkPlan},
};

use super::UP;

/// What is shown as the datapath where there is none.
const NO_DATAPATH: &str = "none";

/// All of `status` in JSON.
#[derive(Serialize)]
pub(super) struct StatusView<'a> {
    pub(super) networks: &'a [NetworkView],
    /// What the host's firewall would filter, were it asked.
    pub(super) warnings: Vec<String>,
}

/// A network in JSON.
#[derive(Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a yes or no of the network's")]
pub(super) struct NetworkView {
    pub(super) network: String,
    /// "up", "incomplete", "building" or "removing".
    state: &'static str,
    /// Whether it is two namespaces and nothing else.
    direct: bool,
    subnet: String,
    /// None in a direct network.
    gateway: Option<String>,
    mtu: u32,
    /// None in a direct network.
    pub(super) bridge: Option<BridgeView>,
    pub(super) uplinks: Vec<UplinkView>,
    pub(super) datapath: &'static str,
    /// Why it is not the datapath that is tried first, if it is not.
    fallback: Option<String>,
    /// The programs that should be attached, and whether they are.
    programs: Vec<ProgramView>,
    ip_forward: bool,
    /// Whether namespaces' own addresses are reached from outside.
    routed: bool,
    /// Whether the host's own rules say what is forwarded of its packets.
    respect_netfilter: bool,
    /// Whether its namespaces reach everybody but each other.
    isolate: bool,
    /// The pairs that reach each other all the same.
    allow: Vec<[String; 2]>,
    /// What only the eBPF datapath has; null with the other.
    max_flows: Option<u32>,
    flow_limit: Option<u32>,
    source_guard: String,
    log_level: Option<&'static str>,
    /// Of which build of netbpf the programs that run are; null if there are none, or
    /// their netbpf did not say so yet.
    build: Option<Build>,
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
    pub(super) iface: String,
    /// The host side of its veth; none in a direct network.
    link: Option<String>,
    pub(super) mac: String,
    pub(super) ipv4: String,
    gateway: Option<String>,
    /// Whether it is somebody else's, and given back.
    pub(super) adopted: bool,
    pub(super) ports: Vec<String>,
    /// Addresses that its interface has in fact.
    addresses: Vec<String>,
    pub(super) missing: Vec<String>,
}

impl NetworkView {
    pub(super) fn of(network: &Recorded, observed: &Observed, session: &Session) -> Self {
        let topology = &network.topology;
        let of_ebpf = topology.datapath == Kind::Ebpf;
        let lacks = lacks(topology, observed, session);
        let missing = |of: &Of| lacks.get(of).cloned().unwrap_or_default();
        let prefix_len = topology.subnet.prefix_len();
        let bridge = observed.link(topology.name.as_str());
        let members = observed
            .links
            .iter()
            .filter(|link| bridge.is_some_and(|bridge| link.master == Some(bridge.index)));
        Self {
            network: topology.name.to_string(),
            state: match network.phase {
                Phase::Building => "building",
                Phase::Removing => "removing",
                Phase::Up if lacks.is_empty() => UP,
                Phase::Up => "incomplete",
            },
            subnet: topology.subnet.to_string(),
            direct: topology.direct,
            gateway: (!topology.direct).then(|| topology.gateway().to_string()),
            mtu: topology.mtu,
            bridge: (!topology.direct).then(|| BridgeView {
                name: topology.name.to_string(),
                mac: topology.gateway_mac().to_string(),
                ipv4: format!("{}/{prefix_len}", topology.gateway()),
                members: members.map(|link| link.name.clone()).collect(),
                missing: missing(&Of::Bridge),
            }),
            uplinks: topology
                .uplinks
                .iter()
                .map(|uplink| {
                    UplinkView::of(uplink, observed, missing(&Of::Uplink(uplink.name.clone())))
                })
                .collect(),
            datapath: if topology.direct { NO_DATAPATH } else { topology.datapath.name() },
            fallback: topology.fallback.clone(),
            programs: programs(topology, observed),
            ip_forward: observed.switches.contains(&Switch::IpForward),
            routed: topology.routed,
            respect_netfilter: topology.respect_netfilter,
            isolate: topology.isolate,
            allow: topology
                .allowed
                .iter()
                .map(|pair| pair.both().map(ToString::to_string))
                .collect(),
            max_flows: of_ebpf.then_some(topology.max_flows),
            flow_limit: of_ebpf.then_some(topology.flow_limit),
            source_guard: format!("{:?}", topology.guard).to_lowercase(),
            log_level: of_ebpf.then(|| topology.log_level.name()),
            build: observed
                .datapath
                .as_ref()
                .filter(|_| of_ebpf && !topology.direct)
                .and_then(|seen| seen.build.clone()),
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

impl NetworkView {
    /// What moves its packets, whether the host's rules let them by, and whether
    /// namespaces are kept apart.
    pub(super) fn datapath_cell(&self) -> String {
        let rules = if self.respect_netfilter { "+netfilter" } else { "" };
        let isolated = if self.isolate { "+isolated" } else { "" };
        format!("{}{rules}{isolated}", self.datapath)
    }
}

impl UplinkView {
    fn of(uplink: &UplinkPlan, observed: &Observed, missing: Vec<String>) -> Self {
        let link = observed.link(uplink.name.as_str());
        let mac = link.and_then(|link| link.mac).map(|mac| mac.to_string());
        let address = link.and_then(|link| observed.uplink_address(link));
        let ipv4 = address.map(|address| format!("{}/{}", address.addr, address.prefix_len));
        Self {
            name: uplink.name.to_string(),
            mac: mac.unwrap_or_default(),
            ipv4: ipv4.unwrap_or_default(),
            missing,
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
                let eth0 = links
                    .iter()
                    .find(|link| link.name == endpoint.inside.as_str())
                    .map(|link| link.index);
                let own = addresses.iter().filter(|address| Some(address.ifindex) == eth0);
                own.map(|address| format!("{}/{}", address.addr, address.prefix_len)).collect()
            }
            _ => Vec::new(),
        };
        Self {
            name: endpoint.namespace.to_string(),
            endpoint: endpoint.id,
            iface: endpoint.inside.to_string(),
            link: (!topology.direct).then(|| endpoint.link.to_string()),
            mac: endpoint.mac.to_string(),
            ipv4: format!("{}/{}", endpoint.addr, topology.subnet.prefix_len()),
            gateway: (!topology.direct).then(|| topology.gateway().to_string()),
            adopted: endpoint.adopted.is_some(),
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
    Uplink(LinkName),
    Namespace(NamespaceName),
}

impl Of {
    fn step(step: &Step, topology: &Topology) -> Self {
        match (step.namespace(), step) {
            (Some(namespace), _) => Self::Namespace(namespace.clone()),
            (None, Step::SetUplink { link, .. } | Step::Attach { link, .. })
                if topology.has_uplink(link) =>
            {
                Self::Uplink(link.clone())
            }
            // A direct network has no row of its own.
            _ => match topology.endpoints.first().filter(|_| topology.direct) {
                Some(first) => Self::Namespace(first.namespace.clone()),
                None => Self::Bridge,
            },
        }
    }
}

/// What is missing: what `up` would make.
fn lacks(topology: &Topology, observed: &Observed, session: &Session) -> BTreeMap<Of, Vec<String>> {
    let mut lacks: BTreeMap<Of, Vec<String>> = BTreeMap::new();
    for step in plan::missing(topology, observed, &session.host.store) {
        lacks.entry(Of::step(&step, topology)).or_default().push(step.lack());
    }
    let is_of_ebpf = topology.datapath == Kind::Ebpf && !topology.direct;
    if is_of_ebpf && observed.datapath.as_ref().is_some_and(|seen| seen.is_between) {
        lacks.entry(Of::Bridge).or_default().push("upgrade interrupted".into());
    }
    for endpoint in &topology.endpoints {
        if let Some(Inside::Foreign) = observed.inside.get(&endpoint.namespace) {
            let lack = "namespace replaced by another".to_owned();
            lacks.insert(Of::Namespace(endpoint.namespace.clone()), vec![lack]);
        }
    }
    for uplink in &topology.uplinks {
        let lack = match observed.link(uplink.name.as_str()) {
            None => "interface gone",
            Some(link) if !link.up => "interface down",
            Some(link) if observed.uplink_address(link).is_none() => "no IPv4 address",
            Some(_) => continue,
        };
        lacks.insert(Of::Uplink(uplink.name.clone()), vec![lack.to_owned()]);
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
    let is_of_ebpf = |topology: &&Topology| topology.datapath == Kind::Ebpf && !topology.direct;
    let all = Some(topology).filter(is_of_ebpf).into_iter().flat_map(plan::attachments);
    all.filter_map(|step| match step {
        Step::Attach { hook, link, .. } => Some(ProgramView {
            program: hook.program(),
            attached: attached(hook, link.as_str()),
            interface: link.to_string(),
        }),
        _ => None,
    })
    .collect()
}
