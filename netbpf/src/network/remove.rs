//! From what there is to nothing.

use super::{Listener, is_of_ebpf};
use crate::{
    bpf::{Datapath, check_layout},
    error::{Error, Result},
    host::Host,
    plan,
    session::Session,
    state::Recorded,
};

/// Refuses to take some networks away, but not all, where what moves their packets is
/// another netbpf's: it would still have what belongs to them.
///
/// # Errors
/// That, and why.
pub(crate) fn check_removable(host: &Host, all: &[Recorded], going: &[String]) -> Result<()> {
    let is_going =
        |network: &Recorded| going.iter().any(|name| network.topology.name.as_str() == name);
    let (goes, stays): (Vec<_>, Vec<_>) =
        all.iter().filter(|network| is_of_ebpf(network)).partition(|network| is_going(network));
    let Err(error) = check_layout(&host.pins) else { return Ok(()) };
    match (goes.first(), stays.first()) {
        (Some(goes), Some(stays)) => {
            let (goes, stays) = (&goes.topology.name, &stays.topology.name);
            Err(Error::failed(format!("the network {goes} cannot go while {stays} stays"))
                .because(error)
                .hint("use that netbpf for it; or take all away: netbpf down --all"))
        }
        _ => Ok(()),
    }
}

/// Takes the datapath away that is pinned though no network has one; whether there was one.
/// The host's lock must be held.
///
/// # Errors
/// It cannot be removed.
pub(crate) fn unload_unused(host: &Host) -> Result<bool> {
    let is_unused = host.pins.exists() && !host.store.networks()?.iter().any(is_of_ebpf);
    if is_unused {
        Datapath::unload(&host.pins)?;
    }
    Ok(is_unused)
}

/// Takes the network of that name away, whatever state it is in; false if there is none.
/// The host's lock must be held.
///
/// # Errors
/// What is left, and why.
pub(crate) async fn remove(
    session: &mut Session,
    name: &str,
    listener: &mut dyn Listener,
) -> Result<bool> {
    // Anew for each: what the last one of several needs is not the others'.
    let observed = session.observe().await?;
    let Some(network) = observed.network(name) else { return Ok(false) };
    let steps = plan::down(network, &observed, &session.host.store);
    let mut warnings = Vec::new();
    let (topology, journal) = (&network.topology, network.journal.clone());
    let done = session.tear_down(topology, journal, &steps, listener, &mut warnings).await;
    for warning in warnings {
        listener.say(&format!("warning: {warning}"));
    }
    done?;
    listener.say(&format!("network {name} is gone"));
    Ok(true)
}
