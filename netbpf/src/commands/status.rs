//! `netbpf status`: what there is of each network, and what is missing.

mod view;

use std::{io::Write as _, process::ExitCode};

use crate::{
    bpf::Build,
    cli::Globals,
    datapath::Kind,
    error::{Context as _, Error, Result},
    firewall,
    host::{self, Host},
    observe::Observed,
    output::{CANNOT_WRITE, Column, Format, Row, Sink, Table, write_json},
    progress::say,
    session::{Session, block_on},
    state::Recorded,
    topology::LinkName,
};

use self::view::{NetworkView, StatusView};

/// Show networks and whether every piece that should exist does
///
/// The first row of a network is its bridge, the next are its uplinks, and the
/// others are its namespaces, which are all that a direct network has. STATE is
/// "up", or tells what is missing.
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
            let session = Session::open(Host::here()?)?;
            let observed = session.observe().await?;
            let chosen = self.network.map(|name| find(&observed.networks, &name)).transpose()?;
            if globals.format() != Format::Json {
                for warning in warnings(&observed, chosen.as_ref()) {
                    say(globals, format_args!("warning: {warning}"));
                }
            }
            print(&observed, &session, chosen.as_ref(), globals)
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The warnings about the network of that name, or about all.
fn warnings(observed: &Observed, only: Option<&LinkName>) -> Vec<String> {
    let chosen: Vec<&Recorded> =
        chosen(observed, only).filter(|network| !network.topology.direct).collect();
    let mut warnings: Vec<String> =
        chosen.iter().flat_map(|network| firewall::past(&network.topology, observed)).collect();
    if chosen.iter().any(|network| network.topology.datapath == Kind::Ebpf) {
        warnings.extend(build_warning(observed));
    }
    warnings
}

/// That the programs that run are another netbpf's.
fn build_warning(observed: &Observed) -> Option<String> {
    let (seen, own) = (observed.datapath.as_ref()?, Build::own());
    let other = match &seen.build {
        Some(build) if build == own => return None,
        Some(build) => format!("netbpf {build}"),
        None => "another netbpf".to_owned(),
    };
    Some(format!(
        "the programs that run are those of {other}, not of this netbpf {own}: \
         `netbpf upgrade` replaces them"
    ))
}

/// The network of that name, or all.
fn chosen<'a>(
    observed: &'a Observed,
    only: Option<&'a LinkName>,
) -> impl Iterator<Item = &'a Recorded> {
    let networks = observed.networks.iter();
    networks.filter(move |network| only.is_none_or(|name| network.topology.name == *name))
}

/// The network of that name.
///
/// # Errors
/// There is none.
pub fn find(networks: &[Recorded], name: &str) -> Result<LinkName> {
    let mut names = networks.iter().map(|network| &network.topology.name);
    names.find(|known| known.as_str() == name).cloned().ok_or_else(|| {
        let mut names = networks.iter().map(|network| network.topology.name.as_str());
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
    let chosen = chosen(observed, only);
    let views: Vec<NetworkView> =
        chosen.map(|network| NetworkView::of(network, observed, session)).collect();
    let mut out = Sink::stdout();
    if globals.format() == Format::Json {
        write_json(&mut out, &StatusView { networks: &views, warnings: warnings(observed, only) })?;
    } else if views.is_empty() {
        say(globals, "there is no network: netbpf up --namespaces 3 makes one");
    } else {
        print_table(&mut out, &views, globals)?;
    }
    out.flush().context(CANNOT_WRITE)
}

fn print_table(out: &mut Sink, views: &[NetworkView], globals: &Globals) -> Result<()> {
    let mut table = Table::new(out, COLUMNS, !globals.no_headers);
    for view in views {
        let NetworkView { network, bridge, .. } = view;
        let datapath = view.datapath_cell();
        let bridge = bridge.iter();
        let bridge =
            bridge.map(|bridge| (&bridge.name, &bridge.mac, &bridge.ipv4, &bridge.missing));
        let uplinks = view.uplinks.iter();
        let uplinks =
            uplinks.map(|uplink| (&uplink.name, &uplink.mac, &uplink.ipv4, &uplink.missing));
        for (name, mac, ipv4, missing) in bridge.chain(uplinks) {
            table.row(|row| {
                cells(row, &[network, "", name, mac, ipv4, "", &datapath, &state(missing)]);
            })?;
        }
        for ns in &view.namespaces {
            let (ports, mut state) = (ns.ports.join(" "), state(&ns.missing));
            if ns.adopted {
                state.push_str(", adopted");
            }
            let texts: [&str; 8] =
                [network, &ns.name, &ns.iface, &ns.mac, &ns.ipv4, &ports, &datapath, &state];
            table.row(|row| cells(row, &texts))?;
        }
    }
    table.end()
}

fn cells(row: &mut Row, texts: &[&str]) {
    for text in texts {
        row.cell(text);
    }
}

/// A row's last cell.
fn state(missing: &[String]) -> String {
    if missing.is_empty() { UP.into() } else { missing.join(", ") }
}
