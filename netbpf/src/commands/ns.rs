//! `netbpf ns`: namespaces of a network that runs.

use std::process::ExitCode;

use clap::Subcommand;

use super::{
    change::{Which, change},
    up::refuse_clash,
};
use crate::{
    cli::Globals,
    error::{Error, Result},
    topology::{LinkName, NamespaceName, NamespaceSpec, Request},
};

/// Add and remove namespaces of a network that runs
///
/// What all others send and receive goes on.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf ns add cache
  netbpf ns add cache=10.8.0.20 queue
  netbpf ns add --ifname net0 proxy@4711
  netbpf ns rm cache
  netbpf ns rm --name shop cache queue")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Make namespaces, or adopt those there are, and connect them
    Add {
        /// The namespaces
        #[arg(value_name = "NS[@PID|@PATH][=IP[/LEN][/MAC]]", required = true)]
        namespaces: Vec<String>,
        /// Name of the interface inside
        #[arg(long, value_name = "NAME")]
        ifname: Option<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Remove namespaces, or give them back, with their published ports and their flows
    Rm {
        /// The namespaces
        #[arg(value_name = "NS", required = true)]
        namespaces: Vec<String>,
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
        match self.what {
            What::Add { namespaces, ifname, which } => {
                let ifname = ifname.as_deref().map(LinkName::existing).transpose()?;
                let mut new: Vec<NamespaceSpec> =
                    namespaces.iter().map(|text| text.parse()).collect::<Result<_>>()?;
                for spec in &mut new {
                    spec.ifname.clone_from(&ifname);
                }
                change("ns add", &which, globals, |request| {
                    add(request, new)?;
                    if globals.sandbox { refuse_clash(request) } else { Ok(()) }
                })
            }
            What::Rm { namespaces, which } => {
                let gone: Vec<NamespaceName> =
                    namespaces.iter().map(|text| text.parse()).collect::<Result<_>>()?;
                change("ns rm", &which, globals, |request| remove(request, &gone))
            }
        }
    }
}

fn add(request: &mut Request, new: Vec<NamespaceSpec>) -> Result<()> {
    for spec in new {
        if request.namespaces.iter().any(|has| has.name == spec.name) {
            let (network, name) = (&request.name, &spec.name);
            return Err(Error::usage(format!("the network {network} has a namespace {name}"))
                .hint("choose another name, or remove it first: netbpf ns rm"));
        }
        request.namespaces.push(spec);
    }
    Ok(())
}

fn remove(request: &mut Request, gone: &[NamespaceName]) -> Result<()> {
    for name in gone {
        if !request.namespaces.iter().any(|has| has.name == *name) {
            let names = request.namespaces.iter().map(|has| has.name.as_str());
            let names: Vec<&str> = names.collect();
            let network = &request.name;
            return Err(Error::usage(format!("the network {network} has no namespace {name}"))
                .hint(format!("it has {}", names.join(", "))));
        }
    }
    let is_gone = |name: &str| gone.iter().any(|gone| gone.as_str() == name);
    request.namespaces.retain(|has| !is_gone(has.name.as_str()));
    request.allow.retain(|pair| !gone.iter().any(|gone| pair.has(gone)));
    request.publish.retain(|spec| !spec.target.as_deref().is_some_and(is_gone));
    Ok(())
}
