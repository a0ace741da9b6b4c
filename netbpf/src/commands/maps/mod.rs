//! `netbpf maps`: what the datapath knows, counts and carries.

mod endpoints;
mod fdb;
mod filter;
mod flows;
mod publish;
mod stats;
mod subject;
mod summary;
mod watch;

use std::{io::Write, process::ExitCode};

use clap::Subcommand;

use crate::{
    error::{Context as _, Result},
    output::{CANNOT_WRITE, Sink, Style},
};

pub use subject::Subject;

/// Show what the datapath knows, counts and carries
///
/// Without a subcommand: each map with its entries, its capacity and its memory.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf maps
  netbpf maps flows --ns ns1 --proto tcp
  netbpf maps flows --port 443 --watch
  netbpf maps flows flush --to 203.0.113.2:443
  netbpf maps stats --watch
  netbpf -o json maps flows | jq '.flows[].state'")]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Flows that eBPF carries, or iptables: both directions, state, age, packets and bytes
    Flows(flows::Args),
    /// MACs and the namespaces behind which they are
    #[command(after_help = "Example: netbpf maps fdb")]
    Fdb,
    /// Namespaces on the bridge, as the datapath knows them
    #[command(after_help = "Example: netbpf maps endpoints")]
    Endpoints,
    /// Published ports and where they lead
    #[command(after_help = "Example: netbpf maps publish")]
    Publish,
    /// What became of each namespace's packets
    Stats(stats::Args),
}

impl Args {
    /// Shows what was asked for.
    ///
    /// # Errors
    /// If no datapath is loaded, or its maps cannot be read.
    pub fn run(&self, subject: &Subject, style: Style) -> Result<ExitCode> {
        let mut out = Sink::stdout();
        match &self.what {
            None => summary::show(subject, style, &mut out)?,
            Some(What::Flows(args)) => args.run(subject, style, &mut out)?,
            Some(What::Fdb) => fdb::show(subject, style, &mut out)?,
            Some(What::Endpoints) => endpoints::show(subject, style, &mut out)?,
            Some(What::Publish) => publish::show(subject, style, &mut out)?,
            Some(What::Stats(args)) => args.run(subject, style, &mut out)?,
        }
        out.flush().context(CANNOT_WRITE)?;
        Ok(ExitCode::SUCCESS)
    }
}
