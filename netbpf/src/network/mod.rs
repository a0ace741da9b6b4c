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
//! In a [sandbox](crate::sandbox) it touches nothing of the machine: `examples/lab.rs`.

mod make;
mod remove;
mod switch;
mod upgrade;

use crate::{
    apply::Progress,
    datapath::Kind,
    error::{Error, Result},
    host::{self, Host},
    namespace::Namespace,
    net::{
        NetnsId,
        netns::{self, Named},
    },
    observe::Observed,
    plan::{self, Step},
    session::{Session, block_on},
    spec::Spec,
    topology::{Request, Topology},
};

pub(crate) use make::{look_at_flows, make, nothing_to_do, open, prepare};
pub(crate) use remove::{check_removable, remove};
pub(crate) use switch::switched;
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
        let mut endpoints = self.topology.endpoints.iter();
        if !endpoints.any(|endpoint| endpoint.namespace.as_str() == name) {
            return Err(Error::usage(format!("the network {network} has no namespace {name}")));
        }
        let gone = |why: &str| {
            Error::failed(format!("the namespace {name} is gone")).because(why.to_owned())
        };
        let Named::Namespace(netns) = self.host.run(|| netns::look_up(name))?? else {
            return Err(gone("it was removed by something else than netbpf"));
        };
        let found = self.host.beside(name, netns);
        let id = found.run(NetnsId::here)??;
        let noted = self.host.run(|| Host::here()?.store.networks())??;
        let noted = noted.iter().find(|recorded| recorded.topology.name == *network);
        let is_it = noted.and_then(|recorded| {
            let mut all = recorded.journal.namespaces.iter();
            all.find(|(noted, _)| noted.as_str() == name).map(|(_, noted)| *noted == id)
        });
        if is_it == Some(true) { Ok(found) } else { Err(gone("another one has its name")) }
    }

    /// Changes it: `ask` makes of a request for the network as it is one for it as it
    /// should be. Flows that this ends are counted.
    ///
    /// # Errors
    /// What was asked wrongly, what the host lacks, or what went wrong; nothing was
    /// changed then, or the error says so.
    pub fn change(&mut self, ask: impl FnOnce(&mut Request) -> Result<()> + Send) -> Result<u64> {
        let mut request = Request::of(&self.topology);
        let direct = request.direct;
        let made = self.host.run(|| {
            block_on(async {
                ask(&mut request)?;
                let made = make(|_| Ok(request), direct, Wanted::Whole, &mut Log).await?;
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
        let before = &self.topology;
        self.topology = self.host.run(|| {
            block_on(async {
                let host = Host::here()?;
                let _lock = host.hold()?;
                let upgraded = exchange(&host, Wanted::Whole, &mut Log).await?;
                let mut session = Session::open(host)?.following(upgraded.steps);
                let observed = session.observe().await?;
                session.datapaths().of(to).probe()?;
                let topology = switched(before, to, observed.datapath.as_ref())?;
                let steps = plan::switch(&topology, &observed, &session.host.store);
                let existing = observed.network(before.name.as_str());
                let done = session.build(&topology, existing, &steps, &mut Log).await?;
                done.warnings.iter().for_each(|warning| log::warn!("{warning}"));
                Ok(Topology { former: None, ..topology })
            })
        })??;
        Ok(())
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
