//! The exchange of the datapath's programs.

use super::{Apply, Failed, append};
use crate::{
    apply::Fault,
    error::{Error, Result},
    plan::{self, Step, UpgradeStep},
};

impl Apply<'_> {
    /// Runs the steps of an upgrade, or none: if one fails, or the user interrupts, what
    /// was done is undone, and the old programs run as before.
    ///
    /// # Errors
    /// The failed step's, and those of undoing.
    pub async fn upgrade(&mut self, steps: &[Step]) -> Result<()> {
        let Err(Failed { n, step, error }) = self.forward(steps).await else { return Ok(()) };
        let (done, left) = steps.split_at(n.saturating_sub(1));
        if done.contains(&Step::Upgrade(UpgradeStep::CarryOver)) {
            // The new programs make flows that the old ones do not know.
            let errors = self.run_all(left, Fault::None).await;
            let what = cannot("upgrade", n, steps, step);
            if errors.is_empty() {
                self.warnings.push(format!("{what}: {error}; the second time it did not"));
                return Ok(());
            }
            let mut why = format!("{error}; nor did it the second time");
            append(&mut why, &errors);
            return Err(Error::failed(what).because(why).hint("try again: netbpf upgrade"));
        }
        let undo = plan::undo(steps.get(..n).unwrap_or(steps));
        let errors = self.run_all(&undo, Fault::None).await;
        let what = cannot("upgrade", n, steps, step);
        if errors.is_empty() {
            let hint = error.advice().map(|hint| format!("{hint}; ")).unwrap_or_default();
            let hint = format!("{hint}the old programs run as before");
            return Err(Error::failed(what).because(error).hint(hint));
        }
        let mut why = format!("{error}; undoing it failed, too");
        append(&mut why, &errors);
        Err(Error::failed(what).because(why).hint("try again: netbpf upgrade"))
    }

    /// Runs the steps that finish an upgrade that was interrupted. If one fails, what was
    /// done stays, and goes on from there.
    ///
    /// # Errors
    /// The failed step's.
    pub async fn finish_upgrade(&mut self, steps: &[Step]) -> Result<()> {
        self.forward(steps).await.map_err(|Failed { n, step, error }| {
            Error::failed(cannot("finish an upgrade", n, steps, step))
                .because(error)
                .hint("try again: netbpf upgrade")
        })
    }

    pub(super) fn upgrade_step(&mut self, step: &UpgradeStep) -> Result<()> {
        let upgrade = self.datapaths.ebpf.upgrade();
        match step {
            UpgradeStep::Stage { options, .. } => upgrade.stage(*options),
            UpgradeStep::CopyFlows => {
                self.replica = Some(upgrade.copy_flows()?);
                Ok(())
            }
            UpgradeStep::Exchange { to } => upgrade.exchange(*to),
            UpgradeStep::Replace { by, hook, ifindex, .. } => upgrade.replace(*by, *hook, *ifindex),
            UpgradeStep::HandOver { to } => upgrade.hand_over(*to),
            UpgradeStep::CarryOver => upgrade.carry_over(self.replica.take()),
            UpgradeStep::Retire => {
                self.replaced = upgrade.retire()?;
                Ok(())
            }
            UpgradeStep::Discard => upgrade.discard(),
        }
    }
}

fn cannot(deed: &str, n: usize, steps: &[Step], step: &Step) -> String {
    format!("cannot {deed}: step {n} of {} failed: {step}", steps.len())
}
