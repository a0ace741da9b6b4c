//! The ways to the outside.

use std::collections::HashSet;

use super::super::{LinkName, MAX_UPLINKS, Request, UplinkPlan};
use crate::{
    error::{Error, Key, Result},
    net::{Framing, Link},
    observe::Observed,
    state::Recorded,
};

/// What the network remembers of an uplink.
pub(super) fn plan_of(link: &Link) -> Result<UplinkPlan> {
    let ethernet = link.framing == Framing::Ethernet;
    Ok(UplinkPlan { name: LinkName::existing(&link.name)?, ethernet })
}

/// The uplinks that were asked for, or that of the default route; in order.
pub(super) fn check_uplinks<'a>(
    request: &Request,
    existing: Option<&Recorded>,
    observed: &'a Observed,
) -> Result<Vec<&'a Link>> {
    let recorded = existing.map(|network| network.topology.uplinks.iter());
    let recorded = recorded.into_iter().flatten().map(|uplink| &uplink.name);
    let asked = &request.uplinks;
    let named: Vec<&LinkName> =
        if asked.is_empty() { recorded.collect() } else { asked.iter().collect() };
    let at = |n, error: Error| error.about(Key::nth("uplink", n));
    let mut seen = HashSet::new();
    for (n, name) in named.iter().enumerate() {
        if !seen.insert(*name) {
            return Err(Error::usage(format!("the uplink {name} is named twice"))
                .hint("name each --uplink once")
                .about(Key::nth("uplink", n)));
        }
    }
    let links = if named.is_empty() {
        vec![default_uplink(observed)?]
    } else {
        let each = named.iter().enumerate();
        each.map(|(n, name)| find(name, observed).map_err(|error| at(n, error)))
            .collect::<Result<_>>()?
    };
    for (n, link) in links.iter().enumerate() {
        check(link, request, observed).map_err(|error| at(n, error))?;
    }
    check_number(request, &links, observed)?;
    Ok(links)
}

fn find<'a>(name: &LinkName, observed: &'a Observed) -> Result<&'a Link> {
    observed.link(name.as_str()).ok_or_else(|| {
        Error::usage(format!("there is no interface {name} to be the uplink"))
            .hint(format!("name one of those that there are: {}", candidates(observed)))
    })
}

/// The interface of the default route; of the best if there are several.
fn default_uplink(observed: &Observed) -> Result<&Link> {
    let defaults = observed.routes.iter().filter(|route| route.is_default() && route.unicast);
    let best = defaults.min_by_key(|route| route.metric);
    let index = best.and_then(|route| route.ifindex);
    let found = observed.links.iter().find(|link| Some(link.index) == index);
    found.ok_or_else(|| {
        Error::usage("no uplink")
            .because("there is no default route that would tell, and none was named")
            .hint(format!("name one: --uplink DEV (there are: {})", candidates(observed)))
    })
}

/// Checks that an interface can be an uplink.
fn check(link: &Link, request: &Request, observed: &Observed) -> Result<()> {
    let name = &link.name;
    let cannot = |why: String| {
        Error::usage(format!("{name} cannot be the uplink"))
            .because(why)
            .hint(format!("name another: {}", candidates(observed)))
    };
    if link.loopback {
        return Err(cannot("it is the loopback interface, which leads nowhere".into()));
    }
    if request.name.as_str() == name {
        return Err(cannot("it is the network's own bridge".into()));
    }
    if observed.networks.iter().any(|network| network.topology.has_link(name)) {
        return Err(cannot("it is part of a netbpf network".into()));
    }
    if !link.up {
        return Err(Error::failed(format!("the uplink {name} is down"))
            .hint(format!("switch it on: ip link set {name} up")));
    }
    if observed.uplink_address(link).is_none() {
        let error = Error::failed(format!("the uplink {name} has no IPv4 address"))
            .because("packets to the outside carry the uplink's address");
        let bridge = observed.links.iter().find(|bridge| Some(bridge.index) == link.master);
        return Err(error.hint(match bridge {
            Some(bridge) => format!("it is a port of {0}: try --uplink {0}", bridge.name),
            None => format!("give it one: ip address add ADDRESS/PREFIX dev {name}"),
        }));
    }
    match link.framing {
        Framing::Ethernet if link.mac.is_some() => Ok(()),
        Framing::Bare => Ok(()),
        _ => Err(cannot("its packets begin with neither an Ethernet nor an IP header".into())),
    }
}

/// Checks that the datapath's table has room for the uplinks of all networks.
fn check_number(request: &Request, links: &[&Link], observed: &Observed) -> Result<()> {
    let others = observed.others(request.name.as_str());
    let others = others.flat_map(|network| &network.topology.uplinks);
    let names = others.map(|uplink| uplink.name.as_str());
    let all: HashSet<&str> = names.chain(links.iter().map(|link| link.name.as_str())).collect();
    if all.len() <= MAX_UPLINKS {
        return Ok(());
    }
    Err(Error::usage(format!("{} are too many uplinks", links.len()))
        .because(format!("all networks of a host can have {MAX_UPLINKS} together"))
        .hint("name only those by which destinations are reached"))
}

/// The interfaces that could be an uplink, for hints.
fn candidates(observed: &Observed) -> String {
    let usable = observed.links.iter().filter(|link| {
        let ours = observed.networks.iter().any(|network| network.topology.has_link(&link.name));
        !link.loopback && !ours && link.up && observed.uplink_address(link).is_some()
    });
    let names: Vec<&str> = usable.map(|link| link.name.as_str()).collect();
    if names.is_empty() { "none has an IPv4 address".into() } else { names.join(", ") }
}
