//! `netbpf exec`: runs a command inside a namespace.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

use crate::{
    cli::{Globals, report},
    error::{Context as _, Error, Result},
    host::{self, Host},
    namespace::Namespace,
    net::netns::{self, Named},
    network,
    sandbox::{HOST, OUTSIDE},
};

/// Exit code of a command that cannot be run, as shells give it.
const CANNOT_RUN: u8 = 126;

/// Exit code of a command that does not exist, as shells give it.
const NOT_FOUND: u8 = 127;

/// Where `ip netns` has files that a namespace sees instead of those in `/etc`.
const ETC: &str = "/etc/netns";

/// What is mounted below `/sys` and not part of it.
const SYS_MOUNTS: [&str; 2] = ["/sys/fs/bpf", "/sys/fs/cgroup"];

/// Run a command inside a namespace
///
/// The command takes netbpf's place: its exit code is its own. As with
/// `ip netns exec`, it sees the namespace's interfaces in /sys, and the files
/// in /etc/netns/NS in the place of those in /etc.
///
/// A sandbox has two namespaces of its own: host and outside.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf exec ns1 -- ping -c1 172.19.0.3
  netbpf exec ns1 -- ip route
  netbpf exec ns1 -- sh
  netbpf exec --sandbox outside -- ping -c1 203.0.113.1

Exit codes: the command's own; 126 if it cannot be run, 127 if it does not exist.")]
pub struct Args {
    /// A namespace of one of this host's networks
    #[arg(value_name = "NS")]
    namespace: String,
    /// The command and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

impl Args {
    /// Becomes the command.
    ///
    /// # Errors
    /// There is no such namespace, or it cannot be entered.
    pub fn run(self, globals: &Globals) -> Result<ExitCode> {
        host::require_privileges("exec")?;
        let name = self.enter(globals)?;
        let is_machine = globals.sandbox && name == HOST;
        show_namespace(&name, is_machine)
            .context(format!("cannot prepare {name}'s file systems"))?;
        let Some((program, arguments)) = self.command.split_first() else {
            return Ok(ExitCode::SUCCESS);
        };
        let error = Command::new(program).args(arguments).exec();
        let what = format!("cannot run {}", Path::new(program).display());
        let failed = Error::failed(what).because(&error);
        let (code, failed) = match error.kind() {
            io::ErrorKind::NotFound => {
                (NOT_FOUND, failed.hint("it is looked for in the directories of PATH"))
            }
            io::ErrorKind::PermissionDenied => (CANNOT_RUN, failed.hint("is it executable?")),
            _ => (CANNOT_RUN, failed),
        };
        report(&failed, globals);
        Ok(code.into())
    }

    /// Enters the namespace, if it is of one of the host's networks and the one
    /// that was made.
    fn enter(&self, globals: &Globals) -> Result<String> {
        let sandboxs: &[&str] = if globals.sandbox { &[HOST, OUTSIDE] } else { &[] };
        let networks = Host::here()?.store.networks()?;
        let wanted = &self.namespace;
        if sandboxs.contains(&wanted.as_str())
            && let Named::Namespace(netns) = netns::look_up(wanted)?
        {
            setns(&netns, CloneFlags::CLONE_NEWNET).context(format!("cannot enter {wanted}"))?;
            return Ok(wanted.clone());
        }
        let all = || networks.iter().flat_map(|network| &network.topology.endpoints);
        let Some(endpoint) = all().find(|endpoint| endpoint.namespace.as_str() == wanted) else {
            let names = all().map(|endpoint| endpoint.namespace.as_str());
            let names: Vec<&str> = names.chain(sandboxs.iter().copied()).collect();
            let error = Error::usage(format!("no network of this host has a namespace {wanted}"));
            return Err(error.hint(if names.is_empty() {
                "bring a network up first: netbpf up --namespaces 3".to_owned()
            } else {
                format!("there are {}", names.join(", "))
            }));
        };
        let name = endpoint.namespace.clone();
        let found = network::namespace(&Namespace::here(HOST)?, &networks, &name)?;
        found.enter_net().context(format!("cannot enter {name}"))?;
        Ok(name.to_string())
    }
}

/// Gives this process a view of the file system as it is in the namespace, in
/// a mount namespace of its own.
///
/// In a sandbox's host, `is_machine`, what is mounted reaches the sandbox all the same:
/// whoever makes networks and namespaces there makes them on that machine.
fn show_namespace(name: &str, is_machine: bool) -> Result<(), Errno> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What is mounted from now on stays in here; what others mount or unmount is seen.
    let own = if is_machine { "/sys" } else { "/" };
    mount(none, own, none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
    let kept: Vec<(&str, File)> =
        SYS_MOUNTS.into_iter().filter_map(|path| Some((path, File::open(path).ok()?))).collect();
    // Over the old one instead of in its place, so that the kept can be had from it.
    mount(Some(name), "/sys", Some("sysfs"), MsFlags::empty(), none)?;
    for (path, old) in kept {
        let source =
            PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&old)));
        // Without them the command sees less, as with `ip netns exec`.
        let _ = mount(Some(&source), path, none, MsFlags::MS_BIND | MsFlags::MS_REC, none);
    }
    let Ok(files) = fs::read_dir(Path::new(ETC).join(name)) else { return Ok(()) };
    for file in files.filter(|_| !is_machine).filter_map(Result::ok) {
        let place = Path::new("/etc").join(file.file_name());
        let _ = mount(Some(&file.path()), &place, none, MsFlags::MS_BIND, none);
    }
    Ok(())
}
