//! From one datapath to the other.

use super::{Listener, Wanted, exchange, look};
use crate::{
    datapath::Kind,
    error::{Error, Result},
    host::Host,
    observe::{DatapathSeen, Observed},
    plan::{self, Step},
    session::Session,
    state::Recorded,
    topology::{Guard, LinkName, Topology},
};

/// A network that has another datapath, or had it already.
pub(crate) struct Switched {
    pub(crate) session: Session,
    pub(crate) topology: Topology,
    /// Whether there was nothing to be done.
    pub(crate) is_as_before: bool,
}

/// What a network will be, and the steps to that.
///
/// # Errors
/// It cannot be had so.
pub(crate) fn to_be_switched(
    session: &Session,
    observed: &Observed,
    name: &LinkName,
    to: Kind,
) -> Result<(Topology, Vec<Step>)> {
    let network = look::recorded(observed, name.as_str())?;
    session.datapaths().of(to).probe()?;
    let topology = switched(&network.topology, to, observed.datapath.as_ref())?;
    let steps = plan::switch(&topology, observed, &session.host.store);
    Ok((topology, steps))
}

/// Switches the network over that `find` finds.
///
/// # Errors
/// That of `find`, that it cannot be had so, or what went wrong.
pub(crate) async fn switch(
    find: impl FnOnce(&[Recorded]) -> Result<LinkName>,
    to: Kind,
    listener: &mut dyn Listener,
) -> Result<Switched> {
    let host = Host::here()?;
    let _lock = host.hold()?;
    let upgraded = exchange(&host, Wanted::Whole, listener).await?;
    let mut session = Session::open(host)?.following(upgraded.steps);
    let observed = session.observe().await?;
    let name = find(&observed.networks)?;
    let network = look::recorded(&observed, name.as_str())?;
    let (topology, steps) = to_be_switched(&session, &observed, &name, to)?;
    if !steps.is_empty() {
        let done = session.build(&topology, Some(network), &steps, listener).await?;
        for warning in done.warnings {
            listener.say(&format!("warning: {warning}"));
        }
    }
    let topology = Topology { former: None, ..topology };
    Ok(Switched { session, topology, is_as_before: steps.is_empty() })
}

/// The network with that datapath; switched back if it is being switched away
/// from it. Of the host's datapath that is `loaded` it takes what all networks share.
///
/// # Errors
/// It cannot be had so.
fn switched(topology: &Topology, to: Kind, loaded: Option<&DatapathSeen>) -> Result<Topology> {
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
