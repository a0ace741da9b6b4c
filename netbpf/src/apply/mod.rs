//! Runs steps. When one fails, those that were done are undone in reverse, and
//! every error is reported.

mod adopt;
mod carry;
mod fault;
mod mend;
mod remove;
mod run;
mod upgrade;

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use crate::{
    bpf::{Replaced, Replica},
    datapath::Datapaths,
    error::{Error, Result},
    interrupt,
    net::{Entered, Netlink, Worker},
    plan::{self, Step},
    state::{Entry, Journal, Store},
    topology::{NamespaceName, Topology},
};

pub use fault::Fault;

/// Told of each step before it is run.
pub trait Progress {
    /// Step `n` of `total` comes now.
    fn step(&mut self, n: usize, total: usize, step: &Step);
}

/// A step that failed.
#[derive(Debug)]
pub struct Failed<'a> {
    /// Its number, from 1.
    pub n: usize,
    /// The step.
    pub step: &'a Step,
    /// Why.
    pub error: Error,
}

/// What steps work on.
pub struct Apply<'a> {
    /// A connection into the host's namespace.
    pub netlink: &'a Netlink,
    /// The thread that enters other namespaces.
    pub worker: &'a Worker,
    /// The host's datapaths.
    pub datapaths: &'a mut Datapaths,
    /// Where the host's networks are remembered.
    pub store: &'a Store,
    /// The network.
    pub topology: &'a Topology,
    /// What was made of it.
    pub journal: Journal,
    /// Who is told.
    pub progress: &'a mut dyn Progress,
    /// What was left alone, and why.
    pub warnings: Vec<String>,
    /// Flows that were ended.
    pub ended_flows: u64,
    /// Programs that were replaced.
    pub replaced: Vec<Replaced>,
    /// Flows that were copied to another table.
    pub replica: Option<Replica>,
    /// What is to go wrong, in tests, in the steps that are asked for; undoing
    /// is not disturbed.
    pub fault: Fault,
    /// How long the kernel may still take to remove interfaces along with their
    /// namespaces; then they are removed by themselves.
    pub patience: Duration,
    /// Whether a namespace was removed, whose interface is then going, too.
    pub removed_namespace: bool,
    /// The namespace that the last step was in: the next one is likely to be, too.
    pub entered: Option<(NamespaceName, Entered)>,
    /// Indexes of interfaces that were looked up, those of namespaces by their names.
    pub indexes: HashMap<(Option<NamespaceName>, String), u32>,
}

impl std::fmt::Debug for Apply<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Apply").field("network", &self.topology.name).finish_non_exhaustive()
    }
}

impl Apply<'_> {
    /// Runs all steps, or none: if one fails, or the user interrupts, what was
    /// done is undone.
    ///
    /// # Errors
    /// The failed step's, and those of undoing.
    pub async fn build(&mut self, steps: &[Step]) -> Result<()> {
        let Err(Failed { n, step, error }) = self.forward(steps).await else { return Ok(()) };
        // The failed one included: it may have been done in part. Only
        // loading the datapath is done whole or not at all.
        let whole = matches!(step, Step::LoadDatapath { .. });
        let begun = steps.get(..n - usize::from(whole)).unwrap_or(steps);
        let undo = plan::undo(begun);
        let errors = self.run_all(&undo, Fault::None).await;
        Err(self.failure("bring up", n, steps.len(), step, &error, &errors))
    }

    /// Runs the steps until one fails, or the user interrupts.
    async fn forward<'a>(&mut self, steps: &'a [Step]) -> Result<(), Failed<'a>> {
        for (n, step) in (1..).zip(steps) {
            self.progress.step(n, steps.len(), step);
            let ready = interrupt::check().and_then(|()| self.fault.check(n));
            let done = match ready {
                Ok(()) => self.run(step).await,
                error => error,
            };
            done.map_err(|error| Failed { n, step, error })?;
        }
        Ok(())
    }

    /// Runs the steps that change a network, up to the first that fails; whoever
    /// calls leads back from there.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn change<'a>(&mut self, steps: &'a [Step]) -> Result<(), Failed<'a>> {
        self.forward(steps).await
    }

    /// Runs the steps that finish a change that was interrupted. If one fails, what
    /// was done stays: it is remembered, and goes on from there.
    ///
    /// # Errors
    /// The failed step's.
    pub async fn finish(&mut self, steps: &[Step]) -> Result<()> {
        self.forward(steps).await.map_err(|Failed { n, step, error }| {
            let (name, total) = (&self.topology.name, steps.len());
            Error::failed(format!(
                "cannot finish changing {name}: step {n} of {total} failed: {step}"
            ))
            .because(error)
            .hint(format!("repeat it to go on; or take the network down: netbpf down {name}"))
        })
    }

    /// Runs the steps that lead back from a change that failed, whatever becomes of
    /// some of them, and returns the error that tells of both.
    pub async fn lead_back(&mut self, failed: &Failed<'_>, total: usize, back: &[Step]) -> Error {
        let errors = self.run_all(back, Fault::None).await;
        self.failure("change", failed.n, total, failed.step, &failed.error, &errors)
    }

    /// Runs the steps that switch a network over. If one fails, what was done
    /// stays: it is remembered, and goes on from there.
    ///
    /// # Errors
    /// The failed step's.
    pub async fn switch(&mut self, steps: &[Step]) -> Result<()> {
        self.forward(steps).await.map_err(|Failed { n, step, error }| {
            let Topology { name, datapath, .. } = self.topology;
            let total = steps.len();
            let what = format!("cannot switch {name} over: step {n} of {total} failed: {step}");
            let kind = datapath.name();
            Error::failed(what).because(error).hint(format!(
                "finish it: netbpf switch {name} --datapath {kind}; or take it down: netbpf down {name}"
            ))
        })
    }

    /// Runs all steps, whatever becomes of some; but as long as something may
    /// be left, the network is not forgotten.
    ///
    /// # Errors
    /// Those of all steps that failed, in one.
    pub async fn tear_down(&mut self, steps: &[Step]) -> Result<()> {
        let errors = self.run_all(steps, self.fault).await;
        let Some((first, others)) = errors.split_first() else { return Ok(()) };
        let name = &self.topology.name;
        let mut why = first.to_string();
        append(&mut why, others);
        Err(Error::failed(format!("cannot take all of network {name} away"))
            .because(why)
            .hint(format!("try again: netbpf down {name}")))
    }

    async fn run_all(&mut self, steps: &[Step], fault: Fault) -> Vec<Error> {
        let mut errors = Vec::new();
        for (n, step) in (1..).zip(steps) {
            // Whatever may be left is remembered: that it is the network's, and which
            // tables there were before it.
            let forgets = matches!(step, Step::Forget { .. } | Step::TidyTables);
            if forgets && !errors.is_empty() {
                continue;
            }
            self.progress.step(n, steps.len(), step);
            let done = match fault.check(n) {
                Ok(()) => self.run(step).await,
                error => error,
            };
            if let Err(error) = done {
                errors.push(error);
            }
        }
        errors
    }

    fn failure(
        &self,
        deed: &str,
        n: usize,
        total: usize,
        step: &Step,
        error: &Error,
        undo: &[Error],
    ) -> Error {
        let name = &self.topology.name;
        let mut why = error.to_string();
        let what = format!("cannot {deed} network {name}: step {n} of {total} failed: {step}");
        if undo.is_empty() {
            let hint = error.advice().map(|hint| format!("{hint}; ")).unwrap_or_default();
            return Error::failed(what)
                .because(why)
                .hint(format!("{hint}what had been done was undone"));
        }
        why.push_str("; undoing it failed, too");
        append(&mut why, undo);
        Error::failed(what).because(why).hint(format!("take away what is left: netbpf down {name}"))
    }

    /// Writes a line to the journal, and remembers it.
    fn note(&mut self, entry: Entry) -> Result<()> {
        self.store.note(&self.topology.name, &entry)?;
        self.journal.add(entry);
        Ok(())
    }
}

fn append(text: &mut String, errors: &[Error]) {
    for error in errors {
        // Writing to a string cannot fail.
        let _ = write!(text, "; {error}");
    }
}
