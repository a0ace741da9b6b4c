//! Published ports: where they lead, and that they do not meet.

use super::super::{EndpointPlan, MAX_PUBLISHED, Publish, PublishSpec, Request};
use crate::{
    error::{Error, Key, Result},
    observe::Observed,
};

/// Names that a hint lists.
const HINTED: usize = 8;

/// Looks up the targets of the published ports and checks what they are published on.
pub(super) fn resolve(
    request: &Request,
    endpoints: &[EndpointPlan],
    observed: &Observed,
) -> Result<Vec<Publish>> {
    let mut published: Vec<Publish> = Vec::with_capacity(request.publish.len());
    for (n, spec) in request.publish.iter().enumerate() {
        let at = |error: Error| error.about(Key::nth("publish", n));
        check_address(spec, observed).map_err(at)?;
        let publish = Publish {
            proto: spec.proto,
            host_addr: spec.host_addr,
            host: spec.host,
            namespace: target(spec, endpoints).map_err(at)?.namespace.clone(),
            inside: spec.inside,
        };
        if let Some(other) = published.iter().find(|other| other.overlaps(&publish)) {
            return Err(at(spec
                .wrong(format!("{other} of {} is published, too", other.namespace))
                .hint("publish every port once")));
        }
        for network in observed.others(request.name.as_str()) {
            let mut others = network.topology.published.iter();
            if let Some(other) = others.find(|other| other.overlaps(&publish)) {
                let name = &network.topology.name;
                return Err(at(spec
                    .wrong(format!("the network {name} publishes {other} of {}", other.namespace))
                    .hint("choose another port on the host")));
            }
        }
        published.push(publish);
    }
    let others = observed.others(request.name.as_str());
    let taken: usize = others.map(|network| network.topology.published.len()).sum();
    if taken + published.len() > MAX_PUBLISHED {
        return Err(Error::usage(format!("{} are too many published ranges", published.len()))
            .because(format!(
                "all networks of a host can have {MAX_PUBLISHED} together, others have {taken}"
            ))
            .hint("publish ranges instead of single ports: -p 8000-8099:ns1:8000-8099"));
    }
    Ok(published)
}

/// Checks that the host's address, if one is named, is one of the host's. All of
/// 127.0.0.0/8 is, whatever `lo` says of it.
fn check_address(spec: &PublishSpec, observed: &Observed) -> Result<()> {
    let Some(addr) = spec.host_addr else { return Ok(()) };
    if addr.is_loopback() || observed.addresses.iter().any(|address| address.addr == addr) {
        return Ok(());
    }
    let mut has: Vec<String> =
        observed.addresses.iter().map(|address| address.addr.to_string()).collect();
    let more = if has.len() > HINTED { " ..." } else { "" };
    has.truncate(HINTED);
    Err(spec.wrong(format!("{addr} is not an address of this host")).hint(format!(
        "publish on one of {}{more}, or leave the address out for all of them",
        has.join(", ")
    )))
}

/// The namespace that the ports lead to.
fn target<'a>(spec: &PublishSpec, endpoints: &'a [EndpointPlan]) -> Result<&'a EndpointPlan> {
    let Some(target) = &spec.target else {
        return match endpoints {
            [only] => Ok(only),
            _ => Err(spec.wrong("it does not say which namespace, and there are several").hint(
                format!(
                    "name it, for example -p {}:{}:{}",
                    spec.host,
                    first(endpoints),
                    spec.inside
                ),
            )),
        };
    };
    endpoints
        .iter()
        .find(|endpoint| endpoint.namespace.as_str() == target)
        .or_else(|| endpoints.iter().find(|endpoint| endpoint.addr.to_string() == *target))
        .ok_or_else(|| {
            let names: Vec<&str> =
                endpoints.iter().map(|e| e.namespace.as_str()).take(HINTED).collect();
            let more = if endpoints.len() > names.len() { " ..." } else { "" };
            spec.wrong(format!("the network has no namespace {target}"))
                .hint(format!("it has {}{more}", names.join(", ")))
        })
}

fn first(endpoints: &[EndpointPlan]) -> &str {
    endpoints.first().map_or("ns1", |endpoint| endpoint.namespace.as_str())
}
