//! `netbpf uplink`: the ways to the outside of a network that runs.

use std::process::ExitCode;

use clap::Subcommand;

use super::change::{Which, change};
use crate::{
    cli::Globals,
    error::{Error, Result},
    topology::{LinkName, Request},
};

/// Add and remove uplinks of a network that runs
///
/// The host's routes say by which of them a destination is reached. Flows that leave
/// by the others go on; those by one that is removed end.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf uplink add ens192
  netbpf uplink rm eth0")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Let the network use interfaces to the outside
    Add {
        /// The interfaces
        #[arg(value_name = "DEV", required = true)]
        uplinks: Vec<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Let it use them no longer, and end the flows by them
    Rm {
        /// The interfaces
        #[arg(value_name = "DEV", required = true)]
        uplinks: Vec<String>,
        #[command(flatten)]
        which: Which,
    },
}

impl Args {
    /// Adds or removes them.
    ///
    /// # Errors
    /// What was asked wrongly, what the host lacks, or what went wrong; nothing
    /// was changed then.
    pub fn run(self, globals: &Globals) -> Result<ExitCode> {
        let (verb, uplinks, which, each): (_, _, _, fn(&mut Request, &LinkName) -> Result<()>) =
            match self.what {
                What::Add { uplinks, which } => ("uplink add", uplinks, which, add),
                What::Rm { uplinks, which } => ("uplink rm", uplinks, which, remove),
            };
        let uplinks: Vec<LinkName> =
            uplinks.iter().map(|name| LinkName::existing(name)).collect::<Result<_>>()?;
        change(verb, &which, globals, |request| {
            uplinks.iter().try_for_each(|uplink| each(request, uplink))
        })
    }
}

fn add(request: &mut Request, uplink: &LinkName) -> Result<()> {
    if request.uplinks.contains(uplink) {
        let network = &request.name;
        return Err(Error::usage(format!("the network {network} has the uplink {uplink}"))
            .hint("`netbpf status` shows its uplinks"));
    }
    request.uplinks.push(uplink.clone());
    Ok(())
}

fn remove(request: &mut Request, uplink: &LinkName) -> Result<()> {
    let (network, all) = (request.name.clone(), request.uplinks.clone());
    request.uplinks.retain(|has| has != uplink);
    if request.uplinks.len() == all.len() {
        let names: Vec<&str> = all.iter().map(LinkName::as_str).collect();
        return Err(Error::usage(format!("the network {network} has no uplink {uplink}"))
            .hint(format!("it has {}", names.join(", "))));
    }
    if request.uplinks.is_empty() {
        return Err(Error::usage(format!("the network {network} would have no uplink"))
            .because(format!("{uplink} is the only one"))
            .hint("add another one first: netbpf uplink add DEV"));
    }
    Ok(())
}
