//! What undoes a step.

use super::Step;
use crate::topology::Adoption;

impl Step {
    /// The step that takes away what this one makes; nothing for what goes
    /// along with something else, and for steps that take away.
    #[must_use]
    pub fn inverse(&self) -> Option<Self> {
        Some(match self.clone() {
            Self::Record { path } => Self::Forget { path },
            Self::LoadDatapath { .. } => Self::UnloadDatapath,
            Self::AddBridge { name, owned, .. } => Self::DeleteLink { name, owned },
            Self::AddNamespace { name } => Self::DeleteNamespace { name },
            Self::BorrowNamespace { name, adoption: Adoption { from: Some(_), .. } } => {
                Self::ReleaseNamespace { name }
            }
            Self::AddVeth { endpoint, owned, .. } => {
                Self::DeleteLink { name: endpoint.link, owned }
            }
            Self::AddPair { ends: [end, _], .. } => Self::DeletePair { end },
            Self::SwitchOn { switch } => Self::SwitchBack { switch },
            Self::SetGateway { addr, mac } => Self::ClearGateway { addr, mac },
            Self::SetSubnet { subnet } => Self::ClearSubnet { subnet },
            Self::SetEndpoint { endpoint, .. } => Self::ClearEndpoint { endpoint },
            Self::SetAllowed { endpoints, .. } => Self::ClearAllowed { endpoints },
            Self::KeepApart { bridge, .. } => Self::ClearApart { bridge },
            Self::SetUplink { link, .. } => Self::ClearUplink { link },
            Self::SetPublished { others, .. } => Self::Withdraw { others },
            Self::Attach { hook, link, .. } => Self::Detach { hook, link },
            Self::KeepTables => Self::TidyTables,
            Self::SetRules { rules } => Self::ClearRules { rules },
            Self::DropReflected { bridge, .. } => Self::ClearReflected { bridge },
            Self::Upgrade(step) => Self::Upgrade(step.inverse()?),
            Self::MarkUp => Self::MarkRemoving,
            Self::LinkUp { .. }
            | Self::SetMtu { .. }
            | Self::SetMac { .. }
            | Self::Rename { .. }
            | Self::NameNamespace { .. }
            | Self::AdoptNamespace { .. }
            | Self::DeleteAddress { .. }
            | Self::Repin { .. }
            | Self::SetTimeouts
            | Self::SetPortSecret
            | Self::EndBroken { .. }
            | Self::CountFlows
            | Self::SetPrograms
            | Self::ClearStray { .. }
            | Self::SetMaster { .. }
            | Self::SetIsolated { .. }
            | Self::AddAddress { .. }
            | Self::AddSubnetRoute { .. }
            | Self::AddDefaultRoute { .. }
            | Self::DeleteDefaultRoute { .. }
            | Self::AddFdb { .. }
            | Self::SetHairpin { .. }
            | Self::SetRouteLocalnet { .. }
            | Self::MarkSwitching { .. }
            | Self::Hold { .. }
            | Self::MarkChanging { .. }
            | Self::EndConnections { .. }
            | Self::CarryFlows
            | Self::AdoptFlows
            | Self::MarkRemoving
            | Self::Detach { .. }
            | Self::Withdraw { .. }
            | Self::ClearUplink { .. }
            | Self::ClearEndpoint { .. }
            | Self::ClearSubnet { .. }
            | Self::ClearGateway { .. }
            | Self::TidyTables
            | Self::ClearRules { .. }
            | Self::ClearReflected { .. }
            | Self::ClearAllowed { .. }
            | Self::ClearApart { .. }
            | Self::SwitchBack { .. }
            | Self::DeleteLink { .. }
            | Self::DeletePair { .. }
            | Self::DeleteNamespace { .. }
            | Self::BorrowNamespace { .. }
            | Self::ReleaseNamespace { .. }
            | Self::UnloadDatapath
            | Self::Forget { .. } => return None,
        })
    }
}
