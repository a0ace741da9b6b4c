//! `netbpf ... --sandbox`: each verb, inside the sandbox that is kept.

use std::{process::ExitCode, sync::Arc};

use super::{down, plan, up};
use crate::{
    cli::{Globals, Verb},
    error::{Error, Result},
    host, interrupt,
    progress::say,
    sandbox::{
        Sandbox, World,
        kept::{self, Keeper},
    },
};

/// Does what was asked for inside the sandbox. Must be called while the process
/// has one thread.
///
/// # Errors
/// The verb's, and that there is no sandbox.
pub(crate) fn run(verb: Verb, globals: &Globals) -> Result<ExitCode> {
    match verb {
        Verb::Generate(args) => args.run(),
        // In sandboxes of its own.
        verb @ (Verb::Verify(_) | Verb::Bench(_)) => verb.run(globals),
        Verb::Up(args) => bring_up(args, globals),
        Verb::Plan(args) => plan(args, globals),
        Verb::Down(args) if args.takes_all() => take_down(globals),
        verb => {
            host::require_privileges(verb.name())?;
            let mounts = kept::find()?.ok_or_else(|| {
                Error::usage("there is no sandbox").hint("make one: netbpf up --namespaces 3")
            })?;
            Sandbox::of(Arc::new(mounts))?.enter()?;
            verb.run(globals)
        }
    }
}

/// Builds a network in the sandbox, which is made if there is none; and kept
/// when the network is there.
fn bring_up(args: up::Args, globals: &Globals) -> Result<ExitCode> {
    host::require_privileges("up")?;
    interrupt::catch()?;
    let keeper = Keeper::lock()?;
    let (sandbox, is_kept) = match kept::find()? {
        Some(mounts) => (Sandbox::of(Arc::new(mounts))?, true),
        None if args.only_plans() => (Sandbox::new(&World::default())?, true),
        None => (keeper.make(&World::default())?, false),
    };
    let code = sandbox.host().run(|| args.run(globals))??;
    if !is_kept {
        keeper.keep(&sandbox)?;
        if kept::is_passing() {
            say(
                globals,
                "warning: this shell has mounts of its own, and the sandbox is among them only: \
                 it goes with the last process that has them",
            );
        }
    }
    Ok(code)
}

/// Plans in the sandbox, or in one like that which `up` would make.
fn plan(args: plan::Args, globals: &Globals) -> Result<ExitCode> {
    host::require_privileges("plan")?;
    let _keeper = Keeper::lock()?;
    let sandbox = match kept::find()? {
        Some(mounts) => Sandbox::of(Arc::new(mounts))?,
        None => Sandbox::new(&World::default())?,
    };
    sandbox.host().run(|| args.run(globals))?
}

/// Takes all networks and the sandbox away. What goes wrong inside is no
/// obstacle: the kernel takes all of it away.
fn take_down(globals: &Globals) -> Result<ExitCode> {
    host::require_privileges("down")?;
    interrupt::catch()?;
    let keeper = Keeper::lock()?;
    let mut removed = Vec::new();
    match kept::find()? {
        None => say(globals, "there is no sandbox: nothing to do"),
        Some(mounts) => {
            let mounts = Arc::new(mounts);
            refuse_while_used(&kept::processes(&mounts)?)?;
            let done = Sandbox::of(mounts)
                .and_then(|sandbox| sandbox.host().run(|| down::Args::remove_all(globals))?);
            match done {
                Ok(names) => removed = names,
                Err(error) => say(globals, format_args!("warning: {error}")),
            }
        }
    }
    let was_there = kept::find()?.is_some();
    keeper.discard()?;
    if was_there {
        say(globals, "the sandbox is gone");
    }
    down::tell(removed, Some(was_there), globals)?;
    Ok(ExitCode::SUCCESS)
}

fn refuse_while_used(processes: &[(u32, String)]) -> Result<()> {
    if processes.is_empty() {
        return Ok(());
    }
    let list = |one: fn(&(u32, String)) -> String, between: &str| {
        processes.iter().map(one).collect::<Vec<_>>().join(between)
    };
    Err(Error::failed("processes still run in the sandbox")
        .because(list(|(number, command)| format!("{command} ({number})"), ", "))
        .hint(format!("end them, then repeat: kill {}", list(|it| it.0.to_string(), " "))))
}
