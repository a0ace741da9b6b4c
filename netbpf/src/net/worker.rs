//! The one thread that is in other network namespaces.

use std::{fs::File, sync::mpsc, thread};

use nix::sched::{CloneFlags, setns, unshare};
use tokio::{runtime, sync::oneshot};

use super::{Netlink, NetnsId};
use crate::error::{Context as _, Error, Result};

/// A piece of work; it may leave the thread in any namespace.
type Job = Box<dyn FnOnce() + Send>;

/// A thread that goes from namespace to namespace and opens sockets there.
///
/// A namespace belongs to a thread, and tasks move between threads; so all
/// that needs to be inside one is done on this thread, and everybody else uses
/// the sockets that it brings back.
#[derive(Clone, Debug)]
pub struct Worker {
    jobs: mpsc::Sender<Job>,
    runtime: runtime::Handle,
}

/// A namespace that the worker has been in.
#[derive(Debug)]
pub struct Entered {
    /// Which one it is.
    pub id: NetnsId,
    /// A connection into it.
    pub netlink: Netlink,
    /// Keeps it.
    pub netns: File,
}

impl Worker {
    /// Starts the thread. Must be called in the context of a runtime.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn spawn() -> Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let here = "/proc/thread-self/ns/net";
        let home = File::open(here).context(format!("cannot open {here}"))?;
        let work = move || {
            for job in inbox {
                job();
                // A thread holds the namespace that it is in, which may be removed.
                // Where it cannot go home, the next job takes it elsewhere.
                let _ = setns(&home, CloneFlags::CLONE_NEWNET);
            }
        };
        let builder = thread::Builder::new().name("netns".into());
        builder.spawn(work).context("cannot start a thread")?;
        Ok(Self { jobs, runtime: runtime::Handle::current() })
    }

    /// Makes a namespace, which has no name yet.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn create(&self) -> Result<Entered> {
        self.run(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot create a network namespace")?;
            let here = "/proc/thread-self/ns/net";
            let netns = File::open(here).context(format!("cannot open {here}"))?;
            Entered::here(netns)
        })
        .await
    }

    /// Opens a connection into a namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn enter(&self, netns: File) -> Result<Entered> {
        self.run(move || {
            setns(&netns, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
            Entered::here(netns)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (result, answer) = oneshot::channel();
        let runtime = self.runtime.clone();
        let job: Job = Box::new(move || {
            let _in_runtime = runtime.enter();
            // Nobody waits for the answer if the task was given up.
            let _ = result.send(job());
        });
        let gone = || Error::failed("the thread that enters network namespaces died");
        self.jobs.send(job).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Entered {
    /// The namespace that this thread is in.
    fn here(netns: File) -> Result<Self> {
        Ok(Self { id: NetnsId::here()?, netlink: Netlink::here()?, netns })
    }
}
