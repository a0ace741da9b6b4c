//! `netbpf publish`: published ports of a network that runs.

use std::{io::Write as _, process::ExitCode};

use clap::Subcommand;
use serde::Serialize;

use super::{
    change::{Which, change},
    status::find,
};
use crate::{
    cli::Globals,
    error::{Context as _, Error, Result},
    host::{self, Host},
    output::{CANNOT_WRITE, Column, Format, Sink, Table, write_json},
    topology::{HostPorts, PublishSpec, Request},
};

/// Publish ports of a network that runs, withdraw them, and show them
///
/// What all other ports carry goes on.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf publish add 8080:web:80 53:dns:53/udp
  netbpf publish rm 8080 53/udp
  netbpf publish ls")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Publish ports of a namespace on the host
    Add {
        /// The ports, and where they lead
        #[arg(value_name = "[HOSTIP:]PORT[-END]:[NS:]PORT[-END][/PROTO]", required = true)]
        ports: Vec<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Withdraw published ports, and end their flows
    Rm {
        /// The ports on the host
        #[arg(value_name = "[HOSTIP:]PORT[-END][/PROTO]", required = true)]
        ports: Vec<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Show the published ports of all networks
    Ls {
        /// Those of this network only
        #[arg(long, value_name = "NET")]
        name: Option<String>,
    },
}

const COLUMNS: &[Column] = &[
    Column::left("NETWORK"),
    Column::left("PROTO"),
    Column::left("HOST-ADDR"),
    Column::left("PORTS"),
    Column::left("NS"),
    Column::left("TARGET"),
];

/// What is shown where a port is published on every address.
const ANY: &str = "0.0.0.0";

/// A published range in JSON.
#[derive(Serialize)]
struct View {
    network: String,
    proto: String,
    host_addr: String,
    ports: String,
    ns: String,
    target: String,
}

#[derive(Serialize)]
struct Views<'a> {
    published: &'a [View],
}

impl Args {
    /// Publishes, withdraws or shows them.
    ///
    /// # Errors
    /// What was asked wrongly, what the host lacks, or what went wrong; nothing
    /// was changed then.
    pub fn run(self, globals: &Globals) -> Result<ExitCode> {
        match self.what {
            What::Add { ports, which } => {
                let new: Vec<PublishSpec> =
                    ports.iter().map(|text| text.parse()).collect::<Result<_>>()?;
                change("publish add", &which, globals, |request| {
                    request.publish.extend(new);
                    Ok(())
                })
            }
            What::Rm { ports, which } => {
                let gone: Vec<HostPorts> =
                    ports.iter().map(|text| text.parse()).collect::<Result<_>>()?;
                change("publish rm", &which, globals, |request| {
                    gone.iter().zip(&ports).try_for_each(|(gone, text)| remove(request, gone, text))
                })
            }
            What::Ls { name } => {
                host::require_privileges("publish ls")?;
                show(&views(name.as_deref())?, globals)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn remove(request: &mut Request, gone: &HostPorts, text: &str) -> Result<()> {
    let before = request.publish.len();
    request.publish.retain(|spec| !gone.is_of(spec));
    if request.publish.len() < before {
        return Ok(());
    }
    let network = &request.name;
    let all = request.publish.iter().map(|spec| {
        let on = spec.host_addr.map_or(String::new(), |addr| format!("{addr}:"));
        format!("{on}{}/{}", spec.host, spec.proto)
    });
    let all: Vec<String> = all.collect();
    let error = Error::usage(format!("the network {network} does not publish {text}"));
    Err(if all.is_empty() {
        error.hint("it publishes nothing")
    } else {
        error.hint(format!("it publishes {}; what is a range goes as a whole", all.join(", ")))
    })
}

/// What networks publish, by what is remembered of them.
fn views(only: Option<&str>) -> Result<Vec<View>> {
    let networks = Host::here()?.store.networks()?;
    let only = only.map(|name| find(&networks, name)).transpose()?;
    let mut views = Vec::new();
    for network in &networks {
        let topology = &network.topology;
        if only.as_ref().is_some_and(|name| topology.name != *name) {
            continue;
        }
        for publish in &topology.published {
            let addr = topology.endpoint(&publish.namespace).map(|endpoint| endpoint.addr);
            let addr = addr.map_or(String::new(), |addr| format!("{addr}:"));
            views.push(View {
                network: topology.name.to_string(),
                proto: publish.proto.to_string(),
                host_addr: publish.host_addr.map_or(ANY.into(), |addr| addr.to_string()),
                ports: publish.host.to_string(),
                ns: publish.namespace.to_string(),
                target: format!("{addr}{}", publish.inside),
            });
        }
    }
    Ok(views)
}

fn show(views: &[View], globals: &Globals) -> Result<()> {
    let mut out = Sink::stdout();
    if globals.format() == Format::Json {
        write_json(&mut out, &Views { published: views })?;
    } else {
        let mut table = Table::new(&mut out, COLUMNS, !globals.no_headers);
        for view in views {
            table.row(|row| {
                row.cell(&view.network)
                    .cell(&view.proto)
                    .cell(&view.host_addr)
                    .cell(&view.ports)
                    .cell(&view.ns)
                    .cell(&view.target);
            })?;
        }
        table.end()?;
    }
    out.flush().context(CANNOT_WRITE)
}
