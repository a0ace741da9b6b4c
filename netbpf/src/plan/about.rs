//! What a step is about.

use super::{Place, Step};
use crate::topology::NamespaceName;

impl Step {
    /// Whether something may be seen to be missing only when it was taken.
    #[must_use]
    pub fn reveals(&self) -> bool {
        // Of older kernels it loses its routes.
        matches!(self, Self::Rename { .. } | Self::Repin { .. })
    }

    /// Whether it makes something of eBPF's datapath: a program's place, or what maps say.
    #[must_use]
    pub fn is_of_ebpf(&self) -> bool {
        matches!(
            self,
            Self::LoadDatapath { .. }
                | Self::SetGateway { .. }
                | Self::SetSubnet { .. }
                | Self::SetEndpoint { .. }
                | Self::SetUplink { .. }
                | Self::SetPublished { .. }
                | Self::SetAllowed { .. }
                | Self::Attach { .. }
        )
    }

    /// The namespace that it is about.
    #[must_use]
    pub fn namespace(&self) -> Option<&NamespaceName> {
        match self {
            Self::AddNamespace { name }
            | Self::NameNamespace { name }
            | Self::AdoptNamespace { name }
            | Self::BorrowNamespace { name, .. }
            | Self::ReleaseNamespace { name }
            | Self::DeleteNamespace { name } => Some(name),
            Self::AddVeth { endpoint, .. }
            | Self::SetMaster { endpoint, .. }
            | Self::AddFdb { endpoint }
            | Self::SetHairpin { endpoint, .. }
            | Self::SetIsolated { endpoint, .. }
            | Self::SetEndpoint { endpoint, .. }
            | Self::ClearEndpoint { endpoint } => Some(&endpoint.namespace),
            Self::AddPair { ends: [end, _], .. } | Self::DeletePair { end } => Some(&end.namespace),
            Self::AddDefaultRoute { namespace, .. }
            | Self::DeleteDefaultRoute { namespace, .. }
            | Self::LinkUp {
                place: Place::HostSide(namespace) | Place::Inside(namespace), ..
            }
            | Self::SetMtu {
                place: Place::HostSide(namespace) | Place::Inside(namespace), ..
            }
            | Self::SetMac {
                place: Place::HostSide(namespace) | Place::Inside(namespace), ..
            }
            | Self::Rename {
                place: Place::HostSide(namespace) | Place::Inside(namespace), ..
            }
            | Self::AddAddress { place: Place::Inside(namespace), .. }
            | Self::DeleteAddress { place: Place::Inside(namespace), .. }
            | Self::AddSubnetRoute { place: Place::Inside(namespace), .. } => Some(namespace),
            Self::Attach { namespace, .. } => namespace.as_ref(),
            _ => None,
        }
    }
}
