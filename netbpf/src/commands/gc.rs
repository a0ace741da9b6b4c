//! `netbpf gc`: removes what networks have left that are not known any more.

use std::{io::Write as _, process::ExitCode};

use serde::Serialize;

use crate::{
    cli::Globals,
    error::{Context as _, Error, Result},
    gc::{self, Orphan},
    host::{self, Host},
    interrupt,
    output::{CANNOT_WRITE, Format, Sink, write_json},
    progress::say,
    session::{Session, block_on},
};

/// Remove what networks have left that are not known any more
///
/// After a reboot, or when `/run`, a host's network namespace or pins were lost: programs,
/// maps and names of namespaces of hosts that are gone; interfaces, namespaces, rules and
/// entries of maps of networks of this host that are not recorded. Removed is only what is
/// provably netbpf's: what a record tells, or an alias together with kind and MAC, and the
/// other end of such a veth. Networks that are known stay as they are.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf gc --dry-run
  netbpf gc")]
pub struct Args {
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// What `-o json` tells.
#[derive(Serialize)]
struct View {
    /// What was removed, or would be.
    orphans: Vec<String>,
    removed: bool,
}

impl Args {
    /// Removes it, and says what.
    ///
    /// # Errors
    /// What is left, and why.
    pub fn run(self, globals: &Globals) -> Result<ExitCode> {
        host::require_privileges("gc")?;
        interrupt::catch()?;
        let (orphans, errors) = block_on(self.collect())?;
        let texts: Vec<String> = orphans.iter().map(ToString::to_string).collect();
        print(texts, !self.dry_run, globals)?;
        let Some((first, others)) = errors.split_first() else { return Ok(ExitCode::SUCCESS) };
        let why = others.iter().fold(first.to_string(), |all, error| format!("{all}; {error}"));
        Err(Error::failed("cannot remove all of it").because(why).hint("try again: netbpf gc"))
    }

    async fn collect(&self) -> Result<(Vec<Orphan>, Vec<Error>)> {
        let host = Host::here()?;
        let lock = (!self.dry_run).then(|| host.hold()).transpose()?;
        let mut session = Session::open_to_remove(host.clone())?;
        let orphans = gc::find(&session).await?;
        let mut errors = Vec::new();
        if lock.is_some() {
            for orphan in &orphans {
                errors.extend(gc::remove(orphan, &mut session, &host).await.err());
            }
            host.tidy_pins();
        }
        Ok((orphans, errors))
    }
}

fn print(orphans: Vec<String>, removed: bool, globals: &Globals) -> Result<()> {
    let mut out = Sink::stdout();
    if globals.format() == Format::Json {
        write_json(&mut out, &View { orphans, removed })?;
    } else if orphans.is_empty() {
        say(globals, "there is nothing to remove");
    } else {
        let done = if removed { "removed" } else { "would remove" };
        for orphan in orphans {
            writeln!(out, "{done} {orphan}").context(CANNOT_WRITE)?;
        }
    }
    out.flush().context(CANNOT_WRITE)
}
