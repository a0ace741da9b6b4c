//! What every verb that looks at or changes networks begins with.

use std::{collections::HashMap, time::Duration};

use tokio::runtime;

use crate::{
    apply::{Apply, Fault, Progress},
    bpf::Replaced,
    datapath::Datapaths,
    error::{Context as _, Result},
    host::Host,
    net::{Netlink, Worker},
    observe::Observed,
    plan::{self, Step},
    state::{Journal, Recorded},
    topology::{Request, Topology},
};

/// How long the kernel may take to remove interfaces along with their
/// namespaces. It takes longer only where a process holds a namespace.
const PATIENCE: Duration = Duration::from_secs(1);

/// The host, and the means to look at and to change it.
pub struct Session {
    /// The host.
    pub host: Host,
    netlink: Netlink,
    worker: Worker,
    datapaths: Datapaths,
    /// Steps that were taken before these, in the same run.
    taken: usize,
}

/// What became of a network.
#[derive(Clone, Default, Debug)]
pub struct Done {
    /// What was left alone, and why.
    pub warnings: Vec<String>,
    /// Flows that were ended.
    pub ended_flows: u64,
    /// Programs that were replaced.
    pub replaced: Vec<Replaced>,
}

impl Done {
    fn of(apply: Apply<'_>) -> Self {
        Self { warnings: apply.warnings, ended_flows: apply.ended_flows, replaced: apply.replaced }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("host", &self.host).finish_non_exhaustive()
    }
}

/// Runs asynchronous work on this thread, which stays in the host's namespace.
///
/// # Errors
/// The work's, and that there is no runtime.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the asynchronous runtime")?.block_on(work)
}

impl Session {
    fn begin(host: Host, datapaths: Datapaths) -> Result<Self> {
        let (netlink, worker) = (Netlink::here()?, Worker::spawn()?);
        Ok(Self { host, netlink, worker, datapaths, taken: 0 })
    }

    /// Begins with the host's datapaths, which must be such that can be used. Who
    /// wants to change something holds the host's lock already: what is seen
    /// from here on must stay so. Must be called in the context of a runtime.
    ///
    /// # Errors
    /// It cannot.
    pub fn open(host: Host) -> Result<Self> {
        let datapaths = Datapaths::open(&host.pins)?;
        Self::begin(host, datapaths)
    }

    /// The same, but the datapaths need not be such that can be used.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_to_remove(host: Host) -> Result<Self> {
        let datapaths = Datapaths::open_to_remove(&host.pins);
        Self::begin(host, datapaths)
    }

    /// Counts the steps of this session as following so many of another.
    #[must_use]
    pub fn following(mut self, taken: usize) -> Self {
        self.taken = taken;
        self
    }

    /// Counts so many steps more as taken.
    pub(crate) fn took(&mut self, steps: usize) {
        self.taken = self.taken.saturating_add(steps);
    }

    /// The datapaths.
    #[must_use]
    pub fn datapaths(&self) -> &Datapaths {
        &self.datapaths
    }

    /// A connection into the host's namespace.
    pub(crate) fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// The thread that enters other namespaces.
    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Looks at everything.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn observe(&self) -> Result<Observed> {
        Observed::collect(&self.netlink, &self.worker, &self.datapaths, &self.host.store).await
    }

    /// Looks for the namespaces that are asked for and that may exist already.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn find(&self, request: &Request, observed: &mut Observed) -> Result<()> {
        observed.find(request, &self.worker).await
    }

    /// Looks at the flows of eBPF's datapath, too: a million of them take seconds.
    ///
    /// # Errors
    /// The kernel's.
    pub fn look_at_flows(&self, observed: &mut Observed) -> Result<()> {
        self.datapaths.ebpf.look_at_flows(observed)
    }

    /// Runs the steps that build a network, that change the one there is, or that
    /// switch it over.
    ///
    /// # Errors
    /// What went wrong; nothing was changed then, or the error says so.
    pub async fn build(
        &mut self,
        topology: &Topology,
        existing: Option<&Recorded>,
        steps: &[Step],
        progress: &mut dyn Progress,
    ) -> Result<Done> {
        let journal = existing.map(|network| network.journal.clone()).unwrap_or_default();
        let before = existing.map(|network| &network.topology);
        if let Some(before) = before.filter(|&before| before != topology)
            && topology.former.is_none()
        {
            let done = self.change(topology, before, journal, steps, progress).await;
            self.host.tidy_pins();
            return done;
        }
        let mut apply = self.apply(topology, journal, progress)?;
        let done = if topology.former.is_some() {
            apply.switch(steps).await
        } else if !topology.leaving.is_empty() {
            // What an interrupted change was to be: there is no way back that is known.
            apply.finish(steps).await
        } else {
            apply.build(steps).await
        };
        let done = done.map(|()| Done::of(apply));
        self.host.tidy_pins();
        done
    }

    /// Runs the steps of an upgrade, or those that finish one; `topology` is any of the
    /// networks whose programs these are.
    ///
    /// # Errors
    /// What went wrong; the old programs run as before then, or the error says so.
    pub async fn upgrade(
        &mut self,
        topology: &Topology,
        steps: &[Step],
        is_begun: bool,
        progress: &mut dyn Progress,
    ) -> Result<Done> {
        let mut apply = self.apply(topology, Journal::default(), progress)?;
        if is_begun {
            apply.finish_upgrade(steps).await?;
        } else {
            apply.upgrade(steps).await?;
        }
        let done = Done::of(apply);
        self.took(steps.len());
        Ok(done)
    }

    /// Runs the steps of a change; if one fails, those from what there is then to
    /// what there was.
    async fn change(
        &mut self,
        topology: &Topology,
        before: &Topology,
        journal: Journal,
        steps: &[Step],
        progress: &mut dyn Progress,
    ) -> Result<Done> {
        let mut apply = self.apply(topology, journal, progress)?;
        let failed = match apply.change(steps).await {
            Ok(()) => return Ok(Done::of(apply)),
            Err(failed) => failed,
        };
        let journal = apply.journal;
        let observed = self.observe().await?;
        let before = before.in_place_of(topology);
        let back = plan::up(&before, &observed, &self.host.store);
        let mut apply = self.apply(&before, journal, progress)?;
        Err(apply.lead_back(&failed, steps.len(), &back).await)
    }

    /// Runs the steps that take a network away. What was left alone is added
    /// to `warnings`.
    ///
    /// # Errors
    /// What went wrong in all of them.
    pub async fn tear_down(
        &mut self,
        topology: &Topology,
        journal: Journal,
        steps: &[Step],
        progress: &mut dyn Progress,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let mut apply = self.apply(topology, journal, progress)?;
        let done = apply.tear_down(steps).await;
        warnings.append(&mut apply.warnings);
        self.host.tidy_pins();
        done
    }

    fn apply<'a>(
        &'a mut self,
        topology: &'a Topology,
        journal: Journal,
        progress: &'a mut dyn Progress,
    ) -> Result<Apply<'a>> {
        Ok(Apply {
            netlink: &self.netlink,
            worker: &self.worker,
            datapaths: &mut self.datapaths,
            store: &self.host.store,
            topology,
            journal,
            progress,
            warnings: Vec::new(),
            ended_flows: 0,
            replaced: Vec::new(),
            replica: None,
            fault: Fault::from_environment()?.after(self.taken),
            patience: PATIENCE,
            removed_namespace: false,
            entered: None,
            indexes: HashMap::new(),
        })
    }
}
