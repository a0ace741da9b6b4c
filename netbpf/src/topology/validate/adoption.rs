//! Namespaces that exist already: which ones are meant, and whether they have room.

use std::collections::HashMap;

use super::super::{
    Adoption, EndpointPlan, LinkName, NamespaceName, NamespaceSpec, Origin, Request, Subnet,
};
use crate::{
    error::{Error, Key, Result},
    net::{Link, NetnsId, Route, netns},
    observe::{Existing, Found, Inside, Observed},
};

/// Longest prefix of a route that leads everywhere: it is in nobody's way.
const LEADS_EVERYWHERE: u8 = 1;

/// The namespace that is meant, if it is one that somebody else has made; `old` is what the
/// network has of that name.
pub(super) fn of(
    spec: &NamespaceSpec,
    old: Option<&EndpointPlan>,
    observed: &Observed,
) -> Result<Option<Adoption>> {
    let name = &spec.name;
    let found = match observed.found.get(name) {
        None => None,
        Some(Found::Existing(existing)) => Some(existing.id),
        Some(Found::Unreachable(why)) => {
            // What the network has is there, whatever has become of where it was found.
            let has = old.filter(|old| old.adopted.is_some() && is_there(name, observed));
            return match (has, &spec.origin) {
                (Some(old), _) => Ok(old.adopted.clone()),
                (None, Origin::At(path)) => Err(Error::usage(format!(
                    "the namespace {name} cannot be adopted from {}",
                    path.display()
                ))
                .because(why)
                .hint("name a process that runs, or a path as of /run/netns or /proc/PID/ns/net")),
                (None, _) => {
                    Err(Error::failed(format!("cannot look at the namespace {name}")).because(why))
                }
            };
        }
    };
    let from = match &spec.origin {
        Origin::At(path) => Some(path.clone()),
        Origin::New | Origin::Named => None,
    };
    match (old.map(|old| &old.adopted), found) {
        (None, None) => Ok(None),
        (None, Some(id)) => Ok(Some(Adoption { id, from })),
        (Some(None), _) if from.is_none() => Ok(None),
        (Some(None), _) => Err(Error::usage(format!("the namespace {name} cannot be adopted"))
            .because("the network has made one of that name itself")
            .hint(format!("choose another name, or remove that one first: netbpf ns rm {name}"))),
        (Some(Some(has)), Some(id)) if has.id == id => Ok(Some(has.clone())),
        (Some(Some(has)), None) if is_there(name, observed) => Ok(Some(has.clone())),
        // Made anew under its name.
        (Some(Some(Adoption { from: None, .. })), Some(id)) if from.is_none() => {
            Ok(Some(Adoption { id, from: None }))
        }
        (Some(Some(_)), Some(_)) => {
            Err(Error::usage(format!("the namespace {name} is another one by now"))
                .because("the network has adopted a namespace of that name, and this is not it")
                .hint(format!("remove that one first: netbpf ns rm {name}")))
        }
        (Some(Some(_)), None) => Err(Error::failed(format!("the namespace {name} is gone"))
            .because(format!(
                "it was adopted, and {} is there no longer",
                netns::path(name.as_str()).display()
            ))
            .hint(format!(
                "make it again: ip netns add {name}; or take it out: netbpf ns rm {name}"
            ))),
    }
}

/// Whether the namespace that the network has of that name is there.
fn is_there(name: &NamespaceName, observed: &Observed) -> bool {
    matches!(observed.inside.get(name), Some(Inside::Ours { .. }))
}

/// Checks that an adopted namespace is nobody else's, and has room for an interface of that
/// name and for the subnet's addresses. `own` is what the network has, or had, of the name.
pub(super) fn check(
    (n, endpoint): (usize, &EndpointPlan),
    subnet: Subnet,
    own: &[&EndpointPlan],
    observed: &Observed,
) -> Result<()> {
    let EndpointPlan { namespace: name, inside, .. } = endpoint;
    let Some(Found::Existing(existing)) = observed.found.get(name) else { return Ok(()) };
    let wrong = |why: String, hint: String| {
        Err(Error::usage(format!("the namespace {name} cannot be adopted"))
            .because(why)
            .hint(hint)
            .about(Key::nth("ns", n)))
    };
    if existing.is_host {
        let why = "it is the host's own, in which netbpf acts";
        return wrong(why.into(), "name the namespace of a container, or one of ip netns".into());
    }
    let is_own = |link: &Link| {
        let mut all = own.iter().filter(|own| own.namespace == *name);
        let is_end = all.any(|own| link.name == own.inside.as_str() && link.mac == Some(own.mac));
        is_end && link.kind.as_deref() == Some("veth")
    };
    if let Some(taken) = existing.links.iter().find(|l| l.name == inside.as_str() && !is_own(l)) {
        let why = format!("it has an interface {} already", taken.name);
        let hint = "have netbpf's be called otherwise: --ifname net0, or `ifname` of the \
                    namespace in a file";
        return wrong(why, hint.into());
    }
    match conflict(existing, subnet, is_own) {
        None => Ok(()),
        Some(why) => wrong(why, "choose another subnet, for example --subnet 10.8.0.0/24".into()),
    }
}

/// What the namespace has itself of the subnet.
fn conflict(existing: &Existing, subnet: Subnet, is_own: impl Fn(&Link) -> bool) -> Option<String> {
    let others: HashMap<u32, &str> = existing
        .links
        .iter()
        .filter(|link| !is_own(link))
        .map(|link| (link.index, link.name.as_str()))
        .collect();
    for address in &existing.addresses {
        if let (Some(link), true) =
            (others.get(&address.ifindex), address.subnet().overlaps(subnet))
        {
            let (addr, len) = (address.addr, address.prefix_len);
            return Some(format!(
                "its {link} has the address {addr}/{len}, and the subnet is {subnet}"
            ));
        }
    }
    existing.routes.iter().find_map(|route| {
        let by = route.ifindex.and_then(|index| others.get(&index))?;
        let is_in_the_way =
            route.destination.prefix_len() > LEADS_EVERYWHERE && route.destination.overlaps(subnet);
        is_in_the_way.then(|| format!("it has a route to {} by {by}", route.destination))
    })
}

/// Checks that no namespace is in networks twice, by whatever names.
pub(super) fn check_once(
    endpoints: &[EndpointPlan],
    request: &Request,
    observed: &Observed,
) -> Result<()> {
    let mut seen: HashMap<NetnsId, &NamespaceName> = HashMap::new();
    for (n, endpoint) in endpoints.iter().enumerate() {
        let Some(Adoption { id, .. }) = &endpoint.adopted else { continue };
        let name = &endpoint.namespace;
        let twice = |other: String| {
            Err(Error::usage(format!("the namespace {name} cannot be adopted"))
                .because(format!("it is the very one that is {other} already"))
                .hint("name every namespace once")
                .about(Key::nth("ns", n)))
        };
        if let Some(other) = seen.insert(*id, name) {
            return twice(format!("{other} of this network"));
        }
        for network in &observed.networks {
            let is_this = network.topology.name == request.name;
            let mut noted = network.journal.namespaces.iter();
            let other = noted.find(|(other, has)| *has == id && !(is_this && *other == name));
            let Some((other, _)) = other else { continue };
            // One that the network has no more is only remembered.
            if network.topology.all_endpoints().any(|e| e.namespace == *other) {
                return twice(format!("{other} of the network {}", network.topology.name));
            }
        }
    }
    Ok(())
}

/// The name of its interface, if one is asked for.
pub(super) fn ifname<'a>(spec: &'a NamespaceSpec, request: &'a Request) -> Option<&'a LinkName> {
    spec.ifname.as_ref().or(request.ifname.as_ref())
}

/// What should be known of namespaces that are adopted now, and were not before.
pub(super) fn notes(endpoints: &[EndpointPlan], observed: &Observed) -> Vec<String> {
    let mut notes = Vec::new();
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.adopted.is_some()) {
        let name = &endpoint.namespace;
        let Some(Found::Existing(existing)) = observed.found.get(name) else { continue };
        if is_there(name, observed) {
            continue;
        }
        notes.push(format!("{name} exists already: it is adopted, and given back by `down`"));
        if existing.routes.iter().any(Route::is_default) {
            notes.push(format!(
                "{name} has a default route of its own, which comes before netbpf's: by that one \
                 it reaches the outside, and answers those who come by a published port"
            ));
        }
    }
    notes
}
