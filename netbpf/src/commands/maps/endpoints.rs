//! `netbpf maps endpoints`: namespaces as the datapath knows them.

use std::io::Write;

use netbpf_common::{
    Endpoint, EndpointId, SourceGuard,
    maps::{self, FlowCounts},
};
use serde::Serialize;

use super::Subject;
use crate::{
    error::Result,
    network::tracked_flows,
    output::{Column, Format, JsonList, Style, Table},
    plan::endpoint_row,
    topology::Guard,
};

const COLUMNS: &[Column] = &[
    Column::right("ID"),
    Column::left("NETWORK"),
    Column::left("NS"),
    Column::right("IFINDEX"),
    Column::left("ADDRESS"),
    Column::left("MAC"),
    Column::right("MTU"),
    Column::left("GUARD"),
    Column::right("FLOWS"),
    Column::right("LIMIT"),
];

/// An endpoint in JSON.
#[derive(Serialize)]
struct View<'a> {
    id: u16,
    network: Option<&'a str>,
    ns: Option<&'a str>,
    ifindex: u32,
    bridge_ifindex: u32,
    address: String,
    gateway: String,
    mac: String,
    gateway_mac: String,
    mtu: u32,
    guard: &'a str,
    flows: u64,
    /// Null for iptables: all of the host share the kernel's table.
    flow_limit: Option<u32>,
}

/// An endpoint, of either datapath.
struct Line {
    id: EndpointId,
    endpoint: Endpoint,
    guard: &'static str,
    flows: u64,
    flow_limit: Option<u32>,
}

/// The endpoints of both datapaths, in the order of their numbers.
fn lines(subject: &Subject) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    if let Some(datapath) = subject.ebpf() {
        let counts = datapath.map::<FlowCounts>()?;
        for (id, endpoint) in live(subject)? {
            let flows = counts.get(&id.index())?.unwrap_or_default();
            let guard = guard(&endpoint);
            lines.push(Line { id, endpoint, guard, flows, flow_limit: Some(endpoint.flow_limit) });
        }
    }
    let flows = tracked_flows(&subject.classical, |_| true)?;
    for topology in &subject.classical {
        let bridge_ifindex = index(topology.name.as_str());
        let guard = if topology.guard == Guard::Off { "off" } else { "routed" };
        for plan in &topology.endpoints {
            let id = plan.endpoint_id();
            let ifindex = index(plan.link.as_str());
            let endpoint = Endpoint { ifindex, bridge_ifindex, ..endpoint_row(topology, plan) };
            let flows = flows.iter().filter(|flow| flow.head.endpoint == id).count() as u64;
            lines.push(Line { id, endpoint, guard, flows, flow_limit: None });
        }
    }
    lines.sort_by_key(|line| line.id.0);
    Ok(lines)
}

/// The index of an interface; 0 if it is gone.
fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap_or_default()
}

/// Shows each endpoint.
pub(super) fn show(subject: &Subject, style: Style, out: &mut dyn Write) -> Result<()> {
    match style.format {
        Format::Json => {
            let mut list = JsonList::begin(out, "endpoints")?;
            for Line { id, endpoint, guard, flows, flow_limit } in lines(subject)? {
                let name = subject.names.get(id);
                list.item(&View {
                    id: id.0,
                    network: name.map(|name| name.network.as_str()),
                    ns: name.map(|name| name.ns.as_str()),
                    ifindex: endpoint.ifindex,
                    bridge_ifindex: endpoint.bridge_ifindex,
                    address: endpoint.addr.to_string(),
                    gateway: endpoint.gateway.to_string(),
                    mac: endpoint.mac.to_string(),
                    gateway_mac: endpoint.gateway_mac.to_string(),
                    mtu: endpoint.mtu,
                    guard,
                    flows,
                    flow_limit,
                })?;
            }
            list.end()
        }
        Format::Table => {
            let mut table = Table::new(out, COLUMNS, style.headers);
            for Line { id, endpoint, guard, flows, flow_limit } in lines(subject)? {
                let network = subject.names.get(id).map_or("", |name| name.network.as_str());
                let limit = flow_limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
                table.row(|row| {
                    row.cell(id.0)
                        .cell(network)
                        .cell(subject.names.ns(id))
                        .cell(endpoint.ifindex)
                        .cell(endpoint.addr)
                        .cell(endpoint.mac)
                        .cell(endpoint.mtu)
                        .cell(guard)
                        .cell(flows)
                        .cell(limit);
                })?;
            }
            table.end()
        }
    }
}

/// The slots that are in use.
pub(super) fn live(subject: &Subject) -> Result<Vec<(EndpointId, Endpoint)>> {
    let mut live = Vec::new();
    subject.datapath()?.map::<maps::Endpoints>()?.for_each(|index, endpoint| {
        if endpoint.ifindex != 0 {
            // The array has 4096 elements.
            live.extend(u16::try_from(*index).map(|index| (EndpointId(index), *endpoint)));
        }
        Ok(())
    })?;
    Ok(live)
}

/// The guard's name, as on the command line.
fn guard(endpoint: &Endpoint) -> &'static str {
    match SourceGuard::from_u8(endpoint.guard) {
        SourceGuard::Off => "off",
        SourceGuard::Learn => "learn",
        SourceGuard::Strict => "strict",
    }
}
