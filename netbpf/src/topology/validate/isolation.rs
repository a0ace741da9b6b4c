//! Which namespaces of an isolated network may reach each other.

use netbpf_common::maps::{Allowed, MapDef as _};

use super::super::{EndpointPlan, NamespaceName, Pair, Request};
use crate::{
    error::{Error, Key, Result},
    observe::Observed,
};

/// The pairs that were asked for, each once and in order.
pub(super) fn allowed(
    request: &Request,
    is_isolated: bool,
    endpoints: &[EndpointPlan],
    observed: &Observed,
) -> Result<Vec<Pair>> {
    if !is_isolated && !request.allow.is_empty() {
        return Err(Error::usage("--allow is of no use without --isolate")
            .because("all namespaces of the network reach each other as it is")
            .hint("add --isolate to have the others kept apart, or leave --allow out")
            .about(Key::of("allow")));
    }
    for (n, pair) in request.allow.iter().enumerate() {
        let is_there =
            |name: &NamespaceName| endpoints.iter().any(|endpoint| endpoint.namespace == *name);
        if let Some(unknown) = pair.both().into_iter().find(|&name| !is_there(name)) {
            let names: Vec<&str> = endpoints.iter().map(|e| e.namespace.as_str()).collect();
            return Err(Error::usage(format!("invalid --allow {pair}"))
                .because(format!("the network has no namespace {unknown}"))
                .hint(format!("it has {}", names.join(", ")))
                .about(Key::nth("allow", n)));
        }
    }
    let mut pairs = request.allow.clone();
    pairs.sort();
    pairs.dedup();
    let others = observed.others(request.name.as_str());
    let taken: usize = others.map(|network| network.topology.allowed.len()).sum();
    let most = usize::try_from(Allowed::MAX_ENTRIES).unwrap_or(usize::MAX);
    if taken + pairs.len() > most {
        return Err(Error::usage(format!("{} are too many allowed pairs", pairs.len()))
            .because(format!("all networks of a host can have {most}, others have {taken}"))
            .hint("put namespaces that are to reach each other into a network of their own")
            .about(Key::of("allow")));
    }
    Ok(pairs)
}
