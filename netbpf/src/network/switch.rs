//! From one datapath to the other.

use crate::{
    datapath::Kind,
    error::{Error, Result},
    observe::DatapathSeen,
    topology::{Guard, Topology},
};

/// The network with that datapath; switched back if it is being switched away
/// from it. Of the host's datapath that is `loaded` it takes what all networks share.
///
/// # Errors
/// It cannot be had so.
pub(crate) fn switched(
    topology: &Topology,
    to: Kind,
    loaded: Option<&DatapathSeen>,
) -> Result<Topology> {
    if topology.direct {
        return Err(Error::usage(format!("the network {} has no datapath", topology.name))
            .because("it is direct: the kernel's veth alone moves its packets"));
    }
    if !topology.leaving.is_empty() {
        return Err(Error::usage(format!("the network {} cannot be switched now", topology.name))
            .because("it is being changed, and that was interrupted")
            .hint("finish that first: netbpf up with what it is to be"));
    }
    let former = if topology.datapath == to { topology.former } else { Some(topology.datapath) };
    let guard = match topology.guard {
        guard if guard.is_possible(to) => guard,
        Guard::Strict => {
            return Err(Error::usage("the source guard strict is not for the iptables datapath")
                .because("rules of iptables do not see what namespaces send one another, nor ARP")
                .hint("take the network down and up again with another --source-guard"));
        }
        _ => Guard::default_of(to),
    };
    let mut switched = Topology { datapath: to, former, guard, fallback: None, ..topology.clone() };
    if let Some(seen) = loaded {
        switched.max_flows = seen.options.max_flows;
        switched.log_level = seen.options.log_level;
        switched.flow_limit = switched.flow_limit.min(switched.max_flows);
    }
    Ok(switched)
}
