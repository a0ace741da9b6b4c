//! `netbpf switch`: another datapath for a network that runs.

use std::process::ExitCode;

use crate::{
    cli::Globals,
    commands::{change::print_steps, status},
    datapath::Kind,
    error::Result,
    host::{self, Host},
    network::{Wanted, exchange, switched},
    plan,
    progress::{Teller, say},
    session::{Session, block_on},
};

/// Switch a running network over to another datapath
///
/// Namespaces, addresses and published ports stay as they are, and connections
/// go on: the new datapath is made beside the old one, takes its connections over,
/// and then that is taken away. What was interrupted goes on with the next call, or
/// with `up`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf switch netbpf0 --datapath iptables
  netbpf switch netbpf0 --datapath ebpf
  netbpf switch netbpf0 --datapath ebpf --dry-run

Connections of TCP and UDP and pings go on, with the ports that they have. What
namespaces send in the moment in which they are handed over is lost: TCP sends it
again. Flows of other protocols begin anew.")]
pub struct Args {
    /// The network
    #[arg(value_name = "NET")]
    network: String,
    /// What is to move the packets
    #[arg(long, value_enum, value_name = "KIND")]
    datapath: Kind,
    /// Print the steps that would be taken, and take none
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    /// Switches the network over.
    ///
    /// # Errors
    /// There is no such network, it cannot be had so, or what went wrong.
    pub fn run(self, globals: &Globals) -> Result<ExitCode> {
        host::require_privileges("switch")?;
        block_on(self.switch(globals))?;
        Ok(ExitCode::SUCCESS)
    }

    async fn switch(self, globals: &Globals) -> Result<()> {
        crate::interrupt::catch()?;
        let host = Host::here()?;
        let _lock = host.hold()?;
        let mut upgraded = 0;
        if !self.dry_run {
            let listener = &mut Teller::new(globals);
            upgraded = exchange(&host, Wanted::Whole, listener).await?.steps;
        }
        let mut session = Session::open(host)?.following(upgraded);
        let observed = session.observe().await?;
        let name = status::find(&observed.networks, &self.network)?;
        let Some(network) = observed.network(name.as_str()) else { return Ok(()) };
        session.datapaths().of(self.datapath).probe()?;
        let topology = switched(&network.topology, self.datapath, observed.datapath.as_ref())?;
        let steps = plan::switch(&topology, &observed, &session.host.store);
        if self.dry_run {
            return print_steps(&topology, &steps, globals);
        }
        if steps.is_empty() {
            let kind = self.datapath.name();
            say(globals, format_args!("network {name} has the {kind} datapath: nothing to do"));
        } else {
            let mut teller = Teller::new(globals);
            let done = session.build(&topology, Some(network), &steps, &mut teller).await?;
            teller.finish();
            for warning in done.warnings {
                say(globals, format_args!("warning: {warning}"));
            }
        }
        if globals.quiet {
            return Ok(());
        }
        let observed = session.observe().await?;
        status::print(&observed, &session, Some(&name), globals)
    }
}
