//! `netbpf down`: takes networks away.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use serde::Serialize;

use crate::{
    cli::Globals,
    error::{Context as _, Error, Result},
    host::{self, Host},
    interrupt, network,
    output::{CANNOT_WRITE, Format, Sink, write_json},
    progress::{Teller, say},
    session::{Session, block_on},
    spec::File,
    state::Recorded,
};

/// Take networks away, whatever state they are in
///
/// Removes all that `up` made, also when that was interrupted, and puts back
/// what it changed. What was removed by hand is no error; what somebody else
/// put in its place stays. With --all also programs and maps that no network has.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf down            the only network
  netbpf down shop       that one
  netbpf down -f FILE    that of the file
  netbpf down --all      all of this host
  netbpf down --sandbox  the sandbox, with all networks in it")]
pub struct Args {
    /// The network; can be left out if there is only one
    #[arg(value_name = "NET", conflicts_with = "all")]
    network: Option<String>,
    /// The network that this file is about
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["network", "all"])]
    file: Option<PathBuf>,
    /// All networks of this host
    #[arg(long)]
    all: bool,
}

/// What `-o json` tells.
#[derive(Serialize)]
struct Removed {
    removed: Vec<String>,
    /// Of `--sandbox` without a network: whether there was one, which is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_removed: Option<bool>,
}

/// Tells programs what was taken away; and of the sandbox, if it was to be, whether
/// there was one.
///
/// # Errors
/// The result cannot be written.
pub(crate) fn tell(
    removed: Vec<String>,
    sandbox_removed: Option<bool>,
    globals: &Globals,
) -> Result<()> {
    if globals.format() == Format::Json {
        let mut out = Sink::stdout();
        write_json(&mut out, &Removed { removed, sandbox_removed })?;
        out.flush().context(CANNOT_WRITE)?;
    }
    Ok(())
}

impl Args {
    /// Reads which network is meant, if a file says so.
    ///
    /// # Errors
    /// The file system's, or that the file cannot be understood.
    pub(crate) fn load(&mut self) -> Result<()> {
        if let Some(path) = self.file.take() {
            self.network = Some(File::read(path)?.network()?);
        }
        Ok(())
    }

    /// Takes the networks away.
    ///
    /// # Errors
    /// What is left, and why.
    pub fn run(self, globals: &Globals) -> Result<ExitCode> {
        host::require_privileges("down")?;
        tell(block_on(self.remove(globals))?, None, globals)?;
        Ok(ExitCode::SUCCESS)
    }

    /// Whether no network is named: of a sandbox, all of it is meant.
    pub(crate) fn takes_all(&self) -> bool {
        self.network.is_none()
    }

    /// Takes all networks away, and gives their names.
    ///
    /// # Errors
    /// What is left, and why.
    pub(crate) fn remove_all(globals: &Globals) -> Result<Vec<String>> {
        block_on(Self { network: None, file: None, all: true }.remove(globals))
    }

    async fn remove(self, globals: &Globals) -> Result<Vec<String>> {
        interrupt::catch()?;
        let host = Host::here()?;
        let _lock = host.hold()?;
        let networks = host.store.networks()?;
        let chosen = self.choose(&networks)?;
        network::check_removable(&host, &networks, &chosen)?;
        let mut session = Session::open_to_remove(host)?;
        let is_none = chosen.is_empty();
        let mut removed = Vec::with_capacity(chosen.len());
        for name in chosen {
            if network::remove(&mut session, &name, &mut Teller::new(globals)).await? {
                removed.push(name);
            }
        }
        if self.all && network::unload_unused(&session.host)? {
            say(globals, "the programs and maps that no network had are gone");
        } else if is_none {
            say(
                globals,
                match &self.network {
                    Some(name) => format!("there is no network {name}: nothing to do"),
                    None => "there is no network: nothing to do".to_owned(),
                },
            );
        }
        Ok(removed)
    }

    /// The networks to be taken away.
    fn choose(&self, networks: &[Recorded]) -> Result<Vec<String>> {
        let names = || networks.iter().map(|network| network.topology.name.to_string());
        match (&self.network, networks) {
            (Some(wanted), _) => Ok(names().filter(|name| name == wanted).collect()),
            (None, [_, _, ..]) if !self.all => {
                let names: Vec<String> = names().collect();
                Err(Error::usage("which network?")
                    .because(format!("there are {}", names.join(", ")))
                    .hint("name one: netbpf down NET; or take all: netbpf down --all"))
            }
            _ => Ok(names().collect()),
        }
    }
}
