//! `netbpf status`: what there is of each network, and what is missing.

use std::{collections::BTreeMap, io::Write as _, process::ExitCode};

use serde::Serialize;

use crate::{
    cli::Globals,
    error::{Context as _, Error, Result},
    host,
    observe::{Inside, Observed},
    output::{CANNOT_WRITE, Column, Format, Row, Sink, Table, write_json},
    plan::{self, Step},
    session::{Session, block_on},
    state::{Phase, Recorded},
    topology::{EndpointPlan, INSIDE, LinkName, Topology},
};

/// Show networks and whether every piece that should exist does
///
/// The first row of a network is its bridge, and the others are its namespaces.
/// STATE is "up", or tells what is missing.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf status
  netbpf status shop
  netbpf -o json status | jq '.networks[].state'")]
pub struct Args {
    /// The network; all if none is named
    #[arg(value_name = "NET")]
    network: Option<String>,
}

const COLUMNS: &[Column] = &[
    Column::left("NETWORK"),
    Column::left("NS"),
    Column::left("IFACE"),
    Column::left("MAC"),
    Column::left("IPV4"),
    Column::left("PORTS"),
    Column::left("DATAPATH"),
    Column::left("STATE"),
];

/// What is shown where all is there.
const UP: &str = "up";

impl Args {
    /// Shows the networks.
    ///
    /// # Errors
    /// There is no such network, or it cannot be looked at.
    pub fn run(self, globals: &Globals) -> Result<ExitCode> {
        host::require_privileges("status")?;
        block_on(async {
            let session = Session::open()?;
            let observed = session.observe().await?;
            let chosen = self.network.map(|name| find(&observed, &name)).transpose()?;
            print(&observed, &session, chosen.as_ref(), globals)
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn find(observed: &Observed, name: &str) -> Result<LinkName> {
    let found = observed.network(name).map(|network| network.topology.name.clone());
    found.ok_or_else(|| {
        let mut names = observed.networks.iter().map(|network| network.topology.name.as_str());
        let first = names.next();
        Error::usage(format!("there is no network {name}")).hint(match first {
            Some(first) => names.fold(format!("there are {first}"), |all, name| all + ", " + name),
            None => "there are none: netbpf up --namespaces 3 makes one".into(),
        })
    })
}

/// Shows the network of that name, or all.
///
/// # Errors
/// The result cannot be written.
pub fn print(
    observed: &Observed,
    session: &Session,
    only: Option<&LinkName>,
    globals: &Globals,
) -> Result<()> {
    let chosen = observed
        .networks
        .iter()
        .filter(|network| only.is_none_or(|name| network.topology.name == *name));
    let views: Vec<NetworkView> =
        chosen.map(|network| NetworkView::of(network, observed, session)).collect();
    let mut out = Sink::stdout();
    if globals.format() == Format::Json {
        write_json(&mut out, &StatusView { networks: &views })?;
    } else if views.is_empty() {
        crate::progress::say(globals, "there is no network: netbpf up --namespaces 3 makes one");
    } else {
        print_table(&mut out, &views, globals)?;
    }
    out.flush().context(CANNOT_WRITE)
}

fn print_table(out: &mut Sink, views: &[NetworkView], globals: &Globals) -> Result<()> {
    let mut table = Table::new(out, COLUMNS, !globals.no_headers);
    for view in views {
        let bridge = [&view.network[..], "", &view.network, &view.bridge.mac, &view.bridge.ipv4];
        let gateway = format!("uplink {} {}", view.uplink.name, view.uplink.ipv4);
        table.row(|row| {
            cells(row, &bridge)
                .cell(gateway.trim_end())
                .cell(view.datapath)
                .cell(state(&view.missing));
        })?;
        for ns in &view.namespaces {
            let known = [&view.network[..], &ns.name, ns.iface, &ns.mac, &ns.ipv4];
            table.row(|row| {
                cells(row, &known)
                    .cell(ns.ports.join(" "))
                    .cell(view.datapath)
                    .cell(state(&ns.missing));
            })?;
        }
    }
    table.end()
}

fn cells<'a>(row: &'a mut Row, texts: &[&str]) -> &'a mut Row {
    for text in texts {
        row.cell(text);
    }
    row
}

/// A row's last cell.
fn state(missing: &[String]) -> String {
    if missing.is_empty() { UP.into() } else { missing.join(", ") }
}

/// All of `status` in JSON.
#[derive(Serialize)]
struct StatusView<'a> {
    networks: &'a [NetworkView],
}

/// A network in JSON.
#[derive(Serialize)]
struct NetworkView {
    network: String,
    /// "up", "incomplete", "building" or "removing".
    state: &'static str,
    subnet: String,
    gateway: String,
    mtu: u32,
    bridge: BridgeView,
    uplink: UplinkView,
    datapath: &'static str,
    /// The programs that should be attached, and whether they are.
    programs: Vec<ProgramView>,
    ip_forward: bool,
    max_flows: u32,
    flow_limit: u32,
    source_guard: String,
    log_level: &'static str,
    namespaces: Vec<NamespaceView>,
    /// What is missing, but of namespaces.
    missing: Vec<String>,
}

#[derive(Serialize)]
struct BridgeView {
    name: String,
    mac: String,
    ipv4: String,
    /// Its ports, as the kernel has them.
    members: Vec<String>,
}

#[derive(Serialize)]
struct UplinkView {
    name: String,
    /// The address that packets to the outside carry.
    ipv4: String,
}

#[derive(Serialize)]
struct ProgramView {
    program: &'static str,
    interface: String,
    attached: bool,
}

#[derive(Serialize)]
struct NamespaceView {
    #[serde(rename = "ns")]
    name: String,
    endpoint: u16,
    iface: &'static str,
    link: String,
    mac: String,
    ipv4: String,
    gateway: String,
    ports: Vec<String>,
    /// Addresses that its interface has in fact.
    addresses: Vec<String>,
    missing: Vec<String>,
}

impl NetworkView {
    fn of(network: &Recorded, observed: &Observed, session: &Session) -> Self {
        let topology = &network.topology;
        let lacks = lacks(topology, observed, session);
        let missing = lacks.get(&None).cloned().unwrap_or_default();
        let prefix_len = topology.subnet.prefix_len();
        let bridge = observed.link(topology.name.as_str());
        let members = observed
            .links
            .iter()
            .filter(|link| bridge.is_some_and(|bridge| link.master == Some(bridge.index)));
        let uplink = observed.link(topology.uplink.as_str());
        let uplink_addr = uplink.and_then(|uplink| observed.uplink_address(uplink));
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
            },
            uplink: UplinkView {
                name: topology.uplink.to_string(),
                ipv4: uplink_addr.map(|addr| addr.to_string()).unwrap_or_default(),
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
                    let key = Some(endpoint.namespace.to_string());
                    let missing = lacks.get(&key).cloned().unwrap_or_default();
                    NamespaceView::of(topology, endpoint, observed, missing)
                })
                .collect(),
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

/// What is missing, by the namespace that it is missing of: what `up` would do.
fn lacks(
    topology: &Topology,
    observed: &Observed,
    session: &Session,
) -> BTreeMap<Option<String>, Vec<String>> {
    let mut lacks: BTreeMap<Option<String>, Vec<String>> = BTreeMap::new();
    for step in plan::up(topology, observed, &session.host.store) {
        let namespace = step.namespace().map(ToString::to_string);
        lacks.entry(namespace).or_default().push(step.lack());
    }
    for endpoint in &topology.endpoints {
        if let Some(Inside::Foreign) = observed.inside.get(&endpoint.namespace) {
            let lack = "namespace replaced by another".to_owned();
            lacks.insert(Some(endpoint.namespace.to_string()), vec![lack]);
        }
    }
    if observed.link(topology.uplink.as_str()).is_none() {
        lacks.entry(None).or_default().push(format!("no uplink {}", topology.uplink));
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
