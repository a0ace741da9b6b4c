//! Sandboxes: a machine with an outside world, made of private namespaces, for
//! trying, comparing and measuring without touching the machine underneath.
//!
//! ```text
//!   outside                         host
//!  +-------------------+           +-------------------+
//!  | eth0 203.0.113.2  +-----------+ eth0 203.0.113.1  |   netbpf runs here
//!  +-------------------+   veth    +-------------------+
//! ```
//!
//! Both are network namespaces in a mount namespace with a `/run` and a BPF file
//! system of its own. So names below `/run/netns`, what netbpf remembers and what
//! it pins are nobody else's, and `ip netns` shows them to whoever is inside.
//!
//! Nothing holds a sandbox but file descriptors and the processes inside: when
//! the last of them goes, however that comes about, the kernel takes everything
//! away.

mod build;
pub(crate) mod kept;
mod mounts;
mod world;

use std::{env, ffi::OsStr, fs::File, process::Command, sync::Arc};

use crate::{
    error::{Context as _, Error, Result},
    namespace::{self, Namespace},
    net::netns::{self, Named},
};

pub use world::{Wire, World};

/// Name of the network namespace that plays the machine.
pub const HOST: &str = "host";

/// Name of the network namespace that plays the world outside.
pub const OUTSIDE: &str = "outside";

/// This very program, wherever it lies.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// A private mount namespace, and the network namespaces [`HOST`] and
/// [`OUTSIDE`] in it. A clone is the same sandbox.
#[derive(Clone, Debug)]
pub struct Sandbox {
    mounts: Arc<File>,
    host: Namespace,
    outside: Namespace,
}

impl Sandbox {
    /// Makes a sandbox, in which the outside answers pings of the host.
    ///
    /// Sysctls of IPv4 are as on a machine that was just booted: it does not
    /// forward. The kernel gives each new namespace `bridge-nf-call-iptables=1`
    /// where `br_netfilter` is loaded, whatever the machine has it set to.
    ///
    /// # Errors
    /// The kernel's, and that this process may not make namespaces.
    pub fn new(world: &World) -> Result<Self> {
        world.validate()?;
        Self::within(Arc::new(mounts::isolate(None)?), world)
    }

    /// Makes a sandbox of a mount namespace that was made for it.
    fn within(mounts: Arc<File>, world: &World) -> Result<Self> {
        let (host, outside) = build::build(&mounts, world)?;
        Ok(Self { mounts, host, outside })
    }

    /// The sandbox that has this mount namespace.
    ///
    /// # Errors
    /// A piece of it is gone.
    pub(crate) fn of(mounts: Arc<File>) -> Result<Self> {
        let open = |name: &str| {
            namespace::on_a_thread(|| {
                namespace::enter_mounts(&mounts).context("cannot enter the sandbox")?;
                match netns::look_up(name)? {
                    Named::Namespace(net) => Ok(Namespace::new(name, &mounts, net)),
                    Named::Nothing | Named::File => Err(Error::failed("the sandbox is damaged")
                        .because(format!("its namespace {name} is gone"))
                        .hint("take it away: netbpf down")),
                }
            })
        };
        let (host, outside) = (open(HOST)?, open(OUTSIDE)?);
        Ok(Self { mounts, host, outside })
    }

    /// Moves this process, which has one thread, into the sandbox's host.
    ///
    /// # Errors
    /// It cannot be entered.
    pub(crate) fn enter(&self) -> Result<()> {
        let directory = env::current_dir();
        self.host.enter().context("cannot enter the sandbox")?;
        // Entering has led to the root directory: at worst it stays there.
        let _ = directory.and_then(env::set_current_dir);
        Ok(())
    }

    /// The namespace that plays the machine.
    #[must_use]
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// The namespace that plays the world outside.
    #[must_use]
    pub fn outside(&self) -> &Namespace {
        &self.outside
    }

    /// The network namespace of that name, as it is below the sandbox's
    /// `/run/netns`: one that netbpf has made, for example.
    ///
    /// # Errors
    /// There is none.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        match self.host.run(|| netns::look_up(name))?? {
            Named::Namespace(net) => Ok(Namespace::new(name, &self.mounts, net)),
            Named::Nothing | Named::File => {
                Err(Error::usage(format!("the sandbox has no namespace {name}")))
            }
        }
    }

    /// This very program, ready to run in the sandbox's host with the arguments.
    pub fn netbpf(&self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Command {
        let mut command = self.host.command(OWN_PROGRAM);
        command.args(arguments);
        command
    }
}
