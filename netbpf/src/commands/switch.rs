//! `netbpf switch`: another datapath for a network that runs.

use std::process::ExitCode;

use crate::{
    cli::Globals,
    commands::{change::print_steps, status},
    datapath::Kind,
    error::Result,
    host::{self, Host},
    network::{switch, to_be_switched},
    progress::{Teller, say},
    session::{Session, block_on},
    state::Recorded,
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
        let find = |networks: &[Recorded]| status::find(networks, &self.network);
        if self.dry_run {
            let session = Session::open(Host::to_look_at()?)?;
            let observed = session.observe().await?;
            let name = find(&observed.networks)?;
            let (topology, steps) = to_be_switched(&session, &observed, &name, self.datapath)?;
            return print_steps(&topology.name, &steps, globals);
        }
        crate::interrupt::catch()?;
        let mut teller = Teller::new(globals);
        let switched = switch(find, self.datapath, &mut teller).await?;
        teller.finish();
        let name = &switched.topology.name;
        if switched.is_as_before {
            let kind = self.datapath.name();
            say(globals, format_args!("network {name} has the {kind} datapath: nothing to do"));
        }
        if globals.quiet {
            return Ok(());
        }
        let observed = switched.session.observe().await?;
        status::print(&observed, &switched.session, Some(name), globals)
    }
}
