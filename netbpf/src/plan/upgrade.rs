//! Other programs in the place of those that run, of all networks of the host at once:
//! there is one datapath for all.

use std::fmt;

use super::{Step, words::side};
use crate::bpf::{Build, Hook, LoadOptions, ProgramSet, Standing};

/// One change of the exchange of a datapath's programs: see [`crate::bpf::Upgrade`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UpgradeStep {
    /// Load the new programs beside the old ones.
    Stage {
        /// Of which build the old ones are, if that is known.
        from: Option<Build>,
        /// What they are loaded with, if not with the same as the old ones.
        options: Option<LoadOptions>,
    },
    /// Copy the flows to the table of the new programs, while the old ones run.
    CopyFlows,
    /// Have the pins of a set take the place of the other's.
    Exchange {
        /// Which set's.
        to: ProgramSet,
    },
    /// Have an attachment run another program.
    Replace {
        /// That of which set.
        by: ProgramSet,
        /// Which attachment.
        hook: Hook,
        /// The interface's index.
        ifindex: u32,
        /// Its name.
        device: String,
    },
    /// Have another program expire the flows.
    HandOver {
        /// That of which set.
        to: ProgramSet,
    },
    /// Carry over what has become of flows since they were copied: from here on the new
    /// programs make more.
    CarryOver,
    /// Take the old programs away.
    Retire,
    /// Take the new programs away, which nothing uses.
    Discard,
}

impl UpgradeStep {
    /// The step that undoes it. What was taken away does not come back.
    pub(super) fn inverse(&self) -> Option<Self> {
        Some(match self.clone() {
            Self::Stage { .. } => Self::Discard,
            Self::Exchange { to } => Self::Exchange { to: to.other() },
            Self::Replace { by, hook, ifindex, device } => {
                Self::Replace { by: by.other(), hook, ifindex, device }
            }
            Self::HandOver { to } => Self::HandOver { to: to.other() },
            Self::CopyFlows | Self::CarryOver | Self::Retire | Self::Discard => return None,
        })
    }
}

impl fmt::Display for UpgradeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage { from, options } => {
                write!(f, "bpf: load the programs of netbpf {} beside those of ", Build::own())?;
                match from {
                    Some(build) => write!(f, "netbpf {build}")?,
                    None => f.write_str("another netbpf")?,
                }
                options.map_or(Ok(()), |options| write!(f, ", with {options}"))
            }
            Self::Exchange { to } => {
                write!(f, "bpf: pin the {} programs in the place of the others", to.name())
            }
            Self::Replace { by, hook, device, .. } => write!(
                f,
                "tc: replace {} on {} of {device} by the {} one",
                hook.program(),
                side(*hook),
                by.name()
            ),
            Self::HandOver { to } => {
                write!(f, "bpf: flows expire by the {} program", to.name())
            }
            Self::CopyFlows => f.write_str("bpf: copy the flows to the new table"),
            Self::CarryOver => f.write_str("bpf: carry over what has become of flows since"),
            Self::Retire => f.write_str("bpf: unpin and unload the old programs"),
            Self::Discard => f.write_str("bpf: unpin and unload the new programs"),
        }
    }
}

/// The steps that have this netbpf's programs run, loaded with other options if there are
/// any, and with the flows in another table if they have to move.
#[must_use]
pub fn upgrade(standing: &Standing, options: Option<LoadOptions>, moves_flows: bool) -> Vec<Step> {
    let stage = UpgradeStep::Stage { from: standing.build.clone(), options };
    let copy = moves_flows.then_some(UpgradeStep::CopyFlows);
    let exchange = UpgradeStep::Exchange { to: ProgramSet::New };
    let begin = [stage].into_iter().chain(copy).chain([exchange]);
    begin.map(Step::Upgrade).chain(finish(standing, moves_flows)).collect()
}

/// The steps that finish an upgrade of which the programs are in their place. Flows
/// expire by the old program until all packets go by new ones; either may.
#[must_use]
pub fn finish_upgrade(standing: &Standing) -> Vec<Step> {
    finish(standing, standing.is_held)
}

fn finish(standing: &Standing, moves_flows: bool) -> Vec<Step> {
    let by = ProgramSet::New;
    let replaced = standing.attachments.iter().cloned().map(|attached| UpgradeStep::Replace {
        by,
        hook: attached.hook,
        ifindex: attached.ifindex,
        device: attached.device,
    });
    let carry = moves_flows.then_some(UpgradeStep::CarryOver);
    let end = [UpgradeStep::HandOver { to: by }].into_iter().chain(carry);
    replaced.chain(end).chain([UpgradeStep::Retire]).map(Step::Upgrade).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bpf::Attached, plan::undo};

    #[test]
    fn it_is_undone_step_by_step() {
        let attached =
            |hook, ifindex, device: &str| Attached { hook, ifindex, device: device.into() };
        let standing = Standing {
            build: None,
            is_interrupted: false,
            is_held: false,
            attachments: vec![
                attached(Hook::FromHost, 1, "lo"),
                attached(Hook::FromEndpoint, 7, "netbpf0-1"),
            ],
        };
        let steps = upgrade(&standing, None, false);
        let texts: Vec<String> = undo(&steps).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "bpf: flows expire by the old program",
                "tc: replace from_endpoint on ingress of netbpf0-1 by the old one",
                "tc: replace from_uplink on ingress of lo by the old one",
                "bpf: pin the old programs in the place of the others",
                "bpf: unpin and unload the new programs",
            ]
        );
        assert_eq!(steps[2..], finish_upgrade(&standing));
        // What copies has nothing to be undone but with the copy.
        let moving = upgrade(&standing, None, true);
        assert_eq!(moving.len(), steps.len() + 2);
        assert_eq!(undo(&moving), undo(&steps));
        let held = Standing { is_held: true, ..standing };
        assert_eq!(moving[3..], finish_upgrade(&held));
    }
}
