//! Networks as a library has them: made, changed and taken away by calls, with the same
//! code as the verbs of the command line.
//!
//! Like the command, a call acts on the network namespace of the thread that makes it. It
//! works on a thread of its own and blocks, so it can be used with any runtime or none.
//!
//! ```no_run
//! use netbpf::{network::Network, spec::Spec};
//!
//! # fn main() -> netbpf::error::Result<()> {
//! let mut network = Network::up(Spec {
//!     ns: vec!["web=172.19.0.10".into(), "db".into()],
//!     publish: vec!["8080:web:80".into()],
//!     ..Spec::default()
//! })?;
//! let ping = network.namespace("db")?.command("ping").args(["-c1", "172.19.0.10"]).status();
//! assert!(ping.is_ok_and(|status| status.success()));
//! network.change(|wanted| {
//!     wanted.namespaces.push("cache".parse()?);
//!     Ok(())
//! })?;
//! network.down()
//! # }
//! ```
//!
//! What there is of it is read without changing anything: [`Network::status`],
//! [`Network::check`], [`Network::flows`], [`Network::counters`].
//!
//! In a [sandbox](crate::sandbox) it touches nothing of the machine: `examples/lab.rs`.

mod flows;
mod inside;
mod look;
mod make;
mod remove;
mod switch;
mod tracked;
mod upgrade;

use crate::{
    apply::Progress,
    datapath::Kind,
    error::{Error, Result},
    host::{self, Host},
    namespace::Namespace,
    observe::Observed,
    plan::Step,
    session::{Session, block_on},
    spec::Spec,
    topology::{Request, Topology},
};

pub use flows::LiveFlow;
pub use look::Status;

pub(crate) use flows::walk;
pub(crate) use inside::namespace;
pub(crate) use look::check;
pub(crate) use make::{look_at_flows, make, nothing_to_do, open, prepare};
pub(crate) use remove::{check_removable, remove, unload_unused};
pub(crate) use switch::{switch, to_be_switched};
pub(crate) use tracked::{
    flows as tracked_flows, flush as flush_tracked, uplinks as tracked_uplinks,
};
pub(crate) use upgrade::{
    OtherOptions, Wanted, exchange, is_of_ebpf, other_options, reload_steps,
    steps as upgrade_steps, told,
};

/// Who is told how it goes.
pub trait Listener: Progress {
    /// A note or a warning: nothing has failed.
    fn say(&mut self, text: &str);
}

/// Has the logger of the program, if it has one, write down what is said.
#[derive(Clone, Copy, Debug)]
struct Log;

impl Progress for Log {
    fn step(&mut self, n: usize, total: usize, step: &Step) {
        log::debug!("[{n}/{total}] {step}");
    }
}

impl Listener for Log {
    fn say(&mut self, text: &str) {
        match text.strip_prefix("warning: ") {
            Some(warning) => log::warn!("{warning}"),
            None => log::info!("{text}"),
        }
    }
}

/// A network that was made here. It is taken down when this is dropped, on whichever
/// thread and in whichever namespace that is.
///
/// What is said meanwhile goes to the `log` crate. SIGINT and the like end a program
/// without dropping anything: what it has made then stays until `netbpf down`, as does
/// what a kill leaves.
#[derive(Debug)]
#[must_use = "it is taken down when this is dropped"]
pub struct Network {
    /// Where it was made.
    host: Namespace,
    topology: Topology,
    /// Whether somebody else takes it down.
    is_kept: bool,
}

impl Network {
    /// Makes a network: what `netbpf up` does with these options, but that there must be
    /// none of its name.
    ///
    /// # Errors
    /// What was asked wrongly, what the host lacks, or what went wrong; nothing was
    /// changed then.
    pub fn up(spec: Spec) -> Result<Self> {
        let host = Namespace::here("host")?;
        let request = spec.request(true)?;
        let name = request.name.clone();
        let (direct, wanted) = (request.direct, Wanted::by(&request));
        let topology = host.run(|| {
            host::require_privileges("up")?;
            block_on(async {
                let ask = |observed: &Observed| match observed.network(name.as_str()) {
                    None => request.or_as_it_is(None),
                    Some(_) => Err(Error::usage(format!("there is a network {name} already"))
                        .because("what is taken down with its guard must be made with it")
                        .hint(format!("choose another name, or: netbpf down {name}"))),
                };
                Ok(make(ask, direct, wanted, &mut Log).await?.topology)
            })
        })??;
        Ok(Self { host, topology, is_kept: false })
    }

    /// What it is like.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// One of its namespaces, to run code or commands in.
    ///
    /// # Errors
    /// It has none of that name, or that is gone.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        let network = &self.topology.name;
        let mut endpoints = self.topology.endpoints.iter().map(|endpoint| &endpoint.namespace);
        let Some(name) = endpoints.find(|known| known.as_str() == name) else {
            return Err(Error::usage(format!("the network {network} has no namespace {name}")));
        };
        let networks = self.host.run(|| Host::here()?.store.networks())??;
        namespace(&self.host, &networks, name)
    }

    /// Changes it: `ask` makes of a request for the network as it is one for it as it
    /// should be. Flows that this ends are counted.
    ///
    /// # Errors
    /// What was asked wrongly, what the host lacks, or what went wrong; nothing was
    /// changed then, or the error says so.
    pub fn change(&mut self, ask: impl FnOnce(&mut Request) -> Result<()> + Send) -> Result<u64> {
        let mut request = Request::of(&self.topology);
        self.host.run(|| ask(&mut request))??;
        self.make_again(request, Wanted::Whole)
    }

    fn make_again(&mut self, request: Request, wanted: Wanted) -> Result<u64> {
        let direct = request.direct;
        let made = self.host.run(|| {
            block_on(async {
                let made = make(|_| Ok(request), direct, wanted, &mut Log).await?;
                Ok((made.topology, made.ended_flows))
            })
        });
        let ended_flows;
        (self.topology, ended_flows) = made??;
        Ok(ended_flows)
    }

    /// Switches it over to another datapath: what `netbpf switch` does.
    ///
    /// # Errors
    /// It cannot be had so, or what went wrong.
    pub fn switch(&mut self, to: Kind) -> Result<()> {
        let name = &self.topology.name;
        self.topology = self.host.run(|| {
            block_on(async { Ok(switch(|_| Ok(name.clone()), to, &mut Log).await?.topology) })
        })??;
        Ok(())
    }

    /// Makes anew what is missing of it, and puts right what others have changed: what
    /// `netbpf up` does with nothing else. Returns how many flows that ended.
    ///
    /// # Errors
    /// What went wrong; nothing was changed then, or the error says so.
    pub fn mend(&mut self) -> Result<u64> {
        let request = Request::of(&self.topology);
        let wanted = Wanted::by(&request);
        self.make_again(request, wanted)
    }

    /// Leaves it to somebody else to take it down: `netbpf down`, for example.
    pub fn keep(mut self) {
        self.is_kept = true;
    }

    /// Takes it down. Dropping does as much, but can only log what went wrong.
    ///
    /// # Errors
    /// What is left, and why.
    pub fn down(mut self) -> Result<()> {
        self.is_kept = true;
        self.remove()
    }

    fn remove(&self) -> Result<()> {
        let name = self.topology.name.as_str();
        self.host.run(|| {
            block_on(async {
                let host = Host::here()?;
                let _lock = host.hold()?;
                check_removable(&host, &host.store.networks()?, &[name.to_owned()])?;
                let mut session = Session::open_to_remove(host)?;
                remove(&mut session, name, &mut Log).await.map(drop)
            })
        })?
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Err(error) = self.remove() {
            log::error!("the network {} cannot be taken down: {error}", self.topology.name);
        }
    }
}
