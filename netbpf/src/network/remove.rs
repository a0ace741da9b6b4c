//! From what there is to nothing.

use super::Listener;
use crate::{error::Result, plan, session::Session};

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
