//! From what is asked for to what there is: looking, planning, doing.

use super::{
    Listener, Wanted, exchange, told,
    upgrade::{self, reload},
};
use crate::{
    bpf::Upgrade,
    datapath::{Datapath as _, Kind},
    error::Result,
    firewall,
    host::Host,
    net::listeners,
    observe::Observed,
    plan::{self, Step},
    session::Session,
    topology::{LinkName, Request, Topology},
};

/// A network that was made, or changed.
pub(crate) struct Made {
    pub(crate) session: Session,
    pub(crate) topology: Topology,
    /// Flows that were ended.
    pub(crate) ended_flows: u64,
}

/// Begins. A direct network asks nothing of the host's datapath, whatever that is.
///
/// # Errors
/// It cannot.
pub(crate) fn open(host: Host, direct: bool) -> Result<Session> {
    if direct { Session::open_to_remove(host) } else { Session::open(host) }
}

/// Finds out what is to be done, and warns of what may not be meant.
///
/// # Errors
/// What was asked wrongly, or what the host lacks.
pub(crate) fn prepare(
    session: &Session,
    request: &Request,
    observed: &Observed,
    listener: &mut dyn Listener,
) -> Result<(Topology, Vec<Step>)> {
    let request = choose(session, request, observed)?;
    let topology = Topology::validate(&request, observed)?;
    if let Some(why) = &request.fallback {
        listener.say(&format!("note: iptables moves the packets, not eBPF: {why}"));
    }
    if !topology.direct {
        let warnings = topology.warnings(observed, &listeners());
        for warning in warnings.into_iter().chain(firewall::past(&topology, observed)) {
            listener.say(&format!("warning: {warning}"));
        }
    }
    for note in topology.adoption_notes(observed) {
        listener.say(&format!("note: {note}"));
    }
    let steps = plan::up(&topology, observed, &session.host.store);
    Ok((topology, steps))
}

/// The request with a datapath that can run here: the one that was asked for or
/// that the network has, else eBPF, else iptables.
fn choose(session: &Session, request: &Request, observed: &Observed) -> Result<Request> {
    let mut request = request.clone();
    if request.direct {
        return Ok(request);
    }
    let existing = observed.network(request.name.as_str());
    let kind = request.datapath.or(existing.map(|network| network.topology.datapath));
    let datapaths = session.datapaths();
    match kind {
        Some(kind) => datapaths.of(kind).probe()?,
        None => match datapaths.ebpf.probe() {
            Ok(()) => request.datapath = Some(Kind::Ebpf),
            Err(lacking) => {
                datapaths.iptables.probe().map_err(|neither| neither.besides(&lacking))?;
                request.datapath = Some(Kind::Iptables);
                request.fallback = Some(lacking.to_string());
            }
        },
    }
    Ok(request)
}

/// Makes what `ask` asks for, which sees what there is, or changes what there is to it.
///
/// # Errors
/// What was asked wrongly, what the host lacks, or what went wrong; nothing was
/// changed then, or the error says so.
pub(crate) async fn make(
    ask: impl FnOnce(&Observed) -> Result<Request>,
    direct: bool,
    wanted: Wanted,
    listener: &mut dyn Listener,
) -> Result<Made> {
    let host = Host::here()?;
    let _lock = host.hold()?;
    let upgraded = exchange(&host, wanted, listener).await?;
    if let Some(now) = Upgrade::of(&host.pins).look()?
        && upgraded.steps > 0
    {
        listener.say(&told(&upgraded, &now));
    }
    let mut session = open(host, direct)?.following(upgraded.steps);
    let mut observed = session.observe().await?;
    look_at_flows(&session, &mut observed, wanted)?;
    let request = ask(&observed)?;
    session.find(&request, &mut observed).await?;
    let (topology, steps) = prepare(&session, &request, &observed, listener)?;
    let mut reloaded = None;
    if let Some(options) = upgrade::other_options(&topology, &observed) {
        reloaded = reload(&mut session, &mut observed, options, listener).await?;
    }
    let ended_flows = match build(&mut session, &topology, &observed, &steps, listener).await {
        Ok(ended_flows) => ended_flows,
        Err(error) => {
            let back =
                upgrade::reload_back(&mut session, Some(&topology), reloaded, listener).await;
            return Err(upgrade::and_back(error, back));
        }
    };
    Ok(Made { session, topology, ended_flows })
}

/// Takes the steps to a network; returns how many flows that has ended.
async fn build(
    session: &mut Session,
    topology: &Topology,
    observed: &Observed,
    steps: &[Step],
    listener: &mut dyn Listener,
) -> Result<u64> {
    upgrade::agree(session, observed, Some(topology), listener).await?;
    if steps.is_empty() {
        listener.say(&nothing_to_do(&topology.name));
        return Ok(0);
    }
    let existing = observed.network(topology.name.as_str());
    let done = session.build(topology, existing, steps, listener).await?;
    for warning in done.warnings {
        listener.say(&format!("warning: {warning}"));
    }
    if steps.iter().any(Step::reveals) {
        more(session, topology, listener).await?;
    }
    if existing.is_some_and(|existing| existing.topology != *topology) {
        listener.say(&changed(topology, done.ended_flows));
    }
    Ok(done.ended_flows)
}

/// Looks at the flows, too, where all is to be as it should: with a million of them that
/// takes longer than any change.
///
/// # Errors
/// The kernel's.
pub(crate) fn look_at_flows(
    session: &Session,
    observed: &mut Observed,
    wanted: Wanted,
) -> Result<()> {
    if wanted == Wanted::Own { session.look_at_flows(observed) } else { Ok(()) }
}

/// Makes what was seen to be missing only when something had been mended.
async fn more(
    session: &mut Session,
    topology: &Topology,
    listener: &mut dyn Listener,
) -> Result<()> {
    let mut observed = session.observe().await?;
    session.look_at_flows(&mut observed)?;
    let existing = observed.network(topology.name.as_str());
    let Some(topology) = existing.map(|network| &network.topology) else { return Ok(()) };
    let steps = plan::up(topology, &observed, &session.host.store);
    if !steps.is_empty() {
        session.build(topology, existing, &steps, listener).await?;
    }
    Ok(())
}

/// What has become of a network that was changed.
fn changed(topology: &Topology, ended_flows: u64) -> String {
    let flows = if ended_flows == 1 { "flow" } else { "flows" };
    format!("network {} is changed: {ended_flows} {flows} ended", topology.name)
}

/// What is said where all is there.
pub(crate) fn nothing_to_do(name: &LinkName) -> String {
    format!("network {name} is up already: nothing to do")
}
