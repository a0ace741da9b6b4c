//! Published ports: where they lead, and that they do not meet.

use super::super::{EndpointPlan, MAX_PUBLISHED, Publish, PublishSpec, Request};
use crate::{
    error::{Error, Result},
    net::Link,
    observe::Observed,
};

/// Looks up the targets of the published ports and checks what they are published on.
pub(super) fn resolve(
    request: &Request,
    endpoints: &[EndpointPlan],
    uplink: &Link,
    observed: &Observed,
) -> Result<Vec<Publish>> {
    let mut published: Vec<Publish> = Vec::with_capacity(request.publish.len());
    for spec in &request.publish {
        check_address(spec, uplink, observed)?;
        let publish = Publish {
            proto: spec.proto,
            host_addr: spec.host_addr,
            host: spec.host,
            namespace: target(spec, endpoints)?.namespace.clone(),
            inside: spec.inside,
        };
        if let Some(other) = published.iter().find(|other| other.overlaps(&publish)) {
            return Err(spec
                .wrong(format!("{other} of {} is published, too", other.namespace))
                .hint("publish every port once"));
        }
        for network in observed.others(request.name.as_str()) {
            let mut others = network.topology.published.iter();
            if let Some(other) = others.find(|other| other.overlaps(&publish)) {
                let name = &network.topology.name;
                return Err(spec
                    .wrong(format!("the network {name} publishes {other} of {}", other.namespace))
                    .hint("choose another port on the host"));
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

/// Checks that the host's address, if one is named, is the uplink's.
fn check_address(spec: &PublishSpec, uplink: &Link, observed: &Observed) -> Result<()> {
    let Some(addr) = spec.host_addr else { return Ok(()) };
    let mut of_uplink = observed.addresses.iter().filter(|a| a.ifindex == uplink.index);
    if of_uplink.clone().any(|address| address.addr == addr) {
        return Ok(());
    }
    let name = &uplink.name;
    let why = if addr.is_loopback() {
        "publishing on loopback addresses is not supported yet".to_owned()
    } else {
        format!("{addr} is not an address of the uplink {name}; others are not supported yet")
    };
    let has = of_uplink.next().map_or_else(|| "0.0.0.0".to_owned(), |a| a.addr.to_string());
    Err(spec
        .wrong(why)
        .hint(format!("publish on {has}, or leave the address out for all of {name}")))
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
            let names: Vec<&str> = endpoints.iter().map(|e| e.namespace.as_str()).take(8).collect();
            let more = if endpoints.len() > names.len() { " ..." } else { "" };
            spec.wrong(format!("the network has no namespace {target}"))
                .hint(format!("it has {}{more}", names.join(", ")))
        })
}

fn first(endpoints: &[EndpointPlan]) -> &str {
    endpoints.first().map_or("ns1", |endpoint| endpoint.namespace.as_str())
}
