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
    output::{Column, Format, JsonList, Style, Table},
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
    flow_limit: u32,
}

/// Shows each endpoint.
pub(super) fn show(subject: &Subject, style: Style, out: &mut dyn Write) -> Result<()> {
    let counts = subject.datapath()?.map::<FlowCounts>()?;
    let flows = |id: EndpointId| Ok(counts.get(&id.index())?.unwrap_or_default());
    match style.format {
        Format::Json => {
            let mut list = JsonList::begin(out, "endpoints")?;
            for (id, endpoint) in live(subject)? {
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
                    guard: guard(&endpoint),
                    flows: flows(id)?,
                    flow_limit: endpoint.flow_limit,
                })?;
            }
            list.end()
        }
        Format::Table => {
            let mut table = Table::new(out, COLUMNS, style.headers);
            for (id, endpoint) in live(subject)? {
                let network = subject.names.get(id).map_or("", |name| name.network.as_str());
                let live = flows(id)?;
                table.row(|row| {
                    row.cell(id.0)
                        .cell(network)
                        .cell(subject.names.ns(id))
                        .cell(endpoint.ifindex)
                        .cell(endpoint.addr)
                        .cell(endpoint.mac)
                        .cell(endpoint.mtu)
                        .cell(guard(&endpoint))
                        .cell(live)
                        .cell(endpoint.flow_limit);
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
