//! Findings in words that a reader of `ip`, `tc` and `bpftool` understands.

use netbpf_common::{
    Endpoint, EndpointId, Uplink,
    maps::{
        Addresses, Allowed, Endpoints, Fdb, FlowCounts, Flows, MapDef as _, Programs, Publish,
        PublishedPorts, Subnets, Uplinks,
    },
};

use super::{Cause, former_index, uplink_lack};
use crate::{
    bpf::{By, Miscount, Stray},
    net::Link,
    observe::{DatapathSeen, Inside, Observed},
    plan::{Place, Step, flaws},
    state::Recorded,
    topology::{EndpointPlan, LinkName, Topology},
};

/// What it is, and what is amiss with it.
pub(super) fn of(
    cause: &Cause,
    steps: &[Step],
    network: &Recorded,
    observed: &Observed,
) -> (String, String) {
    let topology = &network.topology;
    match cause {
        Cause::Datapath => ("datapath".into(), "not loaded".into()),
        Cause::Bridge => (format!("bridge {}", topology.name), "gone".into()),
        Cause::Uplink(name) => (format!("uplink {name}"), uplink(name, network, observed)),
        Cause::Namespace(name) => {
            let amiss = match observed.inside.get(name) {
                Some(Inside::Foreign) if observed.vacant.contains(name) => {
                    "replaced by another one, which is empty"
                }
                Some(Inside::Foreign) => "replaced by another one, which is in use",
                Some(Inside::File) => "its name is a file",
                _ => "gone",
            };
            (format!("namespace {name}"), amiss.into())
        }
        Cause::Intruder(name) => {
            let inside = topology.endpoint(name).map_or("", |endpoint| endpoint.inside.as_str());
            (format!("{inside} in {name}"), "another interface has its name".into())
        }
        Cause::Veth(name) => {
            let is_half = steps
                .iter()
                .any(|step| matches!(step, Step::DeleteLink { .. } | Step::DeletePair { .. }));
            let endpoint = topology.endpoint(name);
            let inside = endpoint.map_or("", |endpoint| endpoint.inside.as_str());
            let thing = match endpoint.filter(|_| !topology.direct) {
                Some(endpoint) => format!("veth {}", endpoint.link),
                None => format!("{inside} in {name}"),
            };
            let amiss =
                if is_half { format!("its other end is not in {name}") } else { "gone".into() };
            (thing, amiss)
        }
        Cause::Step(_) => match steps.first() {
            Some(step) => of_step(step, steps, network, observed),
            None => (String::new(), String::new()),
        },
    }
}

/// What is amiss with an uplink itself.
fn uplink(name: &LinkName, network: &Recorded, observed: &Observed) -> String {
    let link = observed.link(name.as_str());
    let noted = network.journal.links.get(name).copied();
    match (link, uplink_lack(link, observed)) {
        (None, _) => match observed.links.iter().find(|link| Some(link.index) == noted) {
            Some(link) => format!("gone: its interface is called {} now", link.name),
            None => "gone".into(),
        },
        (Some(_), Some(lack)) => lack.into(),
        (Some(link), None) => {
            let mut uplinks = network.topology.uplinks.iter().filter(|uplink| uplink.name == *name);
            let former = uplinks.find_map(|uplink| former_index(network, uplink, observed));
            indexes(link.index, former.unwrap_or_default())
        }
    }
}

fn indexes(is: u32, was: u32) -> String {
    format!("its ifindex is {is} now, was {was}")
}

/// An interface, as people call it.
fn interface(place: &Place, link: &str) -> String {
    match place {
        Place::Host => format!("bridge {link}"),
        Place::HostSide(_) => format!("veth {link}"),
        Place::Inside(namespace) => format!("{link} in {namespace}"),
    }
}

fn should_be(is: impl std::fmt::Display, wanted: impl std::fmt::Display) -> String {
    format!("{is}, should be {wanted}")
}

fn link<'a>(place: &Place, name: &str, observed: &'a Observed) -> Option<&'a Link> {
    let Place::Inside(namespace) = place else { return observed.link(name) };
    match observed.inside.get(namespace) {
        Some(Inside::Ours { links, .. }) => links.iter().find(|link| link.name == name),
        _ => None,
    }
}

#[allow(clippy::too_many_lines, reason = "a table: a line or two for each kind of step")]
fn of_step(
    step: &Step,
    group: &[Step],
    network: &Recorded,
    observed: &Observed,
) -> (String, String) {
    let topology = &network.topology;
    let seen = observed.datapath.as_ref();
    match step {
        Step::NameNamespace { name } => {
            (format!("namespace {name}"), "its name is gone, though processes are in it".into())
        }
        Step::LinkUp { place, link } => (interface(place, link), "down".into()),
        Step::SetMtu { place, link: name, mtu } => {
            let is = link(place, name, observed).map_or(0, |link| link.mtu);
            (interface(place, name), format!("MTU {}", should_be(is, mtu)))
        }
        Step::SetMac { place, link: name, mac } => {
            let is = link(place, name, observed).and_then(|link| link.mac).unwrap_or_default();
            (interface(place, name), format!("MAC {}", should_be(is, mac)))
        }
        Step::Rename { place, from, to } => {
            (interface(place, to.as_str()), format!("called {from}"))
        }
        Step::SetMaster { endpoint, bridge } => {
            let master = observed.link(endpoint.link.as_str()).and_then(|port| port.master);
            let other = observed.links.iter().find(|link| Some(link.index) == master);
            let amiss = match other {
                Some(other) => format!("a port of {}, should be of {bridge}", other.name),
                None => format!("no port of {bridge}"),
            };
            (format!("veth {}", endpoint.link), amiss)
        }
        Step::AddAddress { place, link, addr, prefix_len } => {
            let wanted = format!("{addr}/{prefix_len}");
            let other = group.iter().find_map(|step| match step {
                Step::DeleteAddress { prefix_len, .. } => Some(format!("{addr}/{prefix_len}")),
                _ => None,
            });
            let amiss = match other {
                Some(other) => format!("address {}", should_be(other, wanted)),
                None => format!("without its address {wanted}"),
            };
            (interface(place, link), amiss)
        }
        Step::DeleteAddress { place, link, addr, prefix_len } => {
            (interface(place, link), format!("has {addr}/{prefix_len} besides"))
        }
        Step::AddSubnetRoute { place, link, subnet, .. } => {
            (interface(place, link), format!("without its route to {subnet}"))
        }
        Step::AddDefaultRoute { namespace, gateway, .. } => {
            (format!("namespace {namespace}"), format!("no default route via {gateway}"))
        }
        Step::AddFdb { endpoint } => {
            let amiss = format!("no static entry of {} behind {}", endpoint.mac, endpoint.link);
            (format!("forwarding database of {}", topology.name), amiss)
        }
        Step::SwitchOn { switch } => (format!("sysctl {switch}"), should_be(0, 1)),
        Step::SetRouteLocalnet { bridge, on } => {
            let on = u8::from(*on);
            (format!("sysctl net.ipv4.conf.{bridge}.route_localnet"), should_be(1 - on, on))
        }
        Step::SetGateway { addr, .. } => {
            let (addresses, fdb) = (Addresses::NAME, Fdb::NAME);
            let amiss = format!("its entry of {addresses} or {fdb} is gone, or another");
            (format!("gateway {addr}"), amiss)
        }
        Step::SetSubnet { subnet } => {
            (format!("subnet {subnet}"), format!("no entry of {}", Subnets::NAME))
        }
        Step::SetEndpoint { endpoint, row, .. } => {
            let thing = format!("endpoint {} ({})", endpoint.namespace, endpoint.addr);
            (thing, endpoint_differs(endpoint, row, topology, observed))
        }
        Step::SetUplink { link, row } => {
            let index = observed.link(link.as_str()).map(|link| link.index);
            let has = index.and_then(|index| seen?.uplinks.get(&index));
            (format!("uplink {link}"), uplink_differs(has, row))
        }
        Step::SetPublished { all, .. } => {
            let has = seen.map(|seen| &seen.published[..]).unwrap_or_default();
            let lacks = all.iter().filter(|entry| !has.contains(entry)).count();
            let more = has.iter().filter(|entry| !all.contains(entry)).count();
            let amiss = match (lacks, more) {
                (0, 0) => format!("the bits of {} are others", PublishedPorts::NAME),
                (0, more) => format!("{more} in {} that nobody has published", Publish::NAME),
                (lacks, 0) => format!("{lacks} not in {}", Publish::NAME),
                (lacks, more) => {
                    format!("{lacks} not in {}, {more} that nobody has published", Publish::NAME)
                }
            };
            ("published port ranges".into(), amiss)
        }
        Step::SetTimeouts => ("datapath".into(), "time-outs of flows are others".into()),
        Step::SetPortSecret => {
            ("datapath".into(), "the secret from which outside ports follow is another".into())
        }
        Step::EndBroken { entries } => (format!("map {}", Flows::NAME), flaws(entries)),
        Step::CountFlows => (format!("map {}", FlowCounts::NAME), miscounted(network, seen)),
        Step::SetPrograms => {
            (format!("map {}", Programs::NAME), "entries are gone, or others".into())
        }
        Step::Repin { pins } => {
            let (is, all) = (if pins.len() == 1 { "is" } else { "are" }, pins.join(", "));
            ("datapath".into(), format!("{all} {is} not pinned"))
        }
        Step::ClearStray { stray: Stray::Copy { program, ifindex, egress, by } } => {
            let link = observed.links.iter().find(|link| link.index == *ifindex);
            let device = link.map_or("", |link| &link.name);
            let side = if *egress { "egress" } else { "ingress" };
            let by = match by {
                By::Link(number) => format!("by link {number}"),
                By::Program(_) => "by TCX".to_owned(),
                By::Filter { priority, .. } => format!("by a filter of priority {priority}"),
            };
            (
                format!("program {program} on {device}"),
                format!("attached twice: {by} on {side}, too"),
            )
        }
        Step::ClearStray { stray } => ("datapath".into(), format!("has {stray}")),
        Step::Attach { hook, link, .. } => {
            (format!("program {} on {link}", hook.program()), "not attached".into())
        }
        Step::SetRules { rules } => {
            let thing = format!("rules of iptables in table {}", rules.table.name());
            (thing, observed.rules.difference(rules).unwrap_or_default())
        }
        Step::DropReflected { bridge, .. } => {
            (format!("bridge {bridge}"), "sends back what it should not".into())
        }
        Step::SetHairpin { endpoint, on } => {
            let (is, should) = if *on { ("off", "on") } else { ("on", "off") };
            let amiss = format!("hairpin mode {}", should_be(is, should));
            (format!("veth {}", endpoint.link), amiss)
        }
        Step::SetIsolated { endpoint, on } => {
            let (is, should) = if *on { ("off", "on") } else { ("on", "off") };
            (format!("veth {}", endpoint.link), format!("isolation {}", should_be(is, should)))
        }
        Step::KeepApart { bridge, .. } => {
            (format!("bridge {bridge}"), "its rules about isolated namespaces are others".into())
        }
        Step::ClearApart { bridge } => {
            (format!("bridge {bridge}"), "has rules as if namespaces were isolated".into())
        }
        Step::SetAllowed { .. } => {
            (format!("map {}", Allowed::NAME), "other pairs of isolated namespaces".into())
        }
        other => (format!("network {}", topology.name), other.lack()),
    }
}

/// Which flows are counted wrong, by the first whose they are.
fn miscounted(network: &Recorded, seen: Option<&DatapathSeen>) -> String {
    let wrong = seen.map(|seen| &seen.flaws.miscounted[..]).unwrap_or_default();
    let Some(Miscount { endpoint, counted, flows, .. }) = wrong.first() else {
        return String::new();
    };
    let mut all = network.topology.endpoints.iter();
    let whose = match all.find(|one| one.endpoint_id() == *endpoint) {
        Some(one) => format!("of {}", one.namespace),
        None if *endpoint == EndpointId::NONE => "of all together".to_owned(),
        None if *endpoint == EndpointId::HOST => "of the host".to_owned(),
        None => format!("of endpoint {}", endpoint.0),
    };
    let more = match wrong.len() - 1 {
        0 => String::new(),
        more => format!("; {more} more"),
    };
    format!("{counted} {whose}, there are {flows}{more}")
}

/// What the datapath has of an endpoint that it should not have.
fn endpoint_differs(
    endpoint: &EndpointPlan,
    wanted: &Endpoint,
    topology: &Topology,
    observed: &Observed,
) -> String {
    let index = |name: &LinkName| observed.link(name.as_str()).map(|link| link.index);
    let (ifindex, bridge) = (index(&endpoint.link), index(&topology.name));
    let nothing = DatapathSeen::default();
    let seen = observed.datapath.as_ref().unwrap_or(&nothing);
    let Some(has) = seen.endpoints.get(&endpoint.id) else {
        return format!("no entry of {}", Endpoints::NAME);
    };
    if let Some(ifindex) = ifindex.filter(|&ifindex| ifindex != has.ifindex) {
        return indexes(ifindex, has.ifindex);
    }
    if bridge.is_some_and(|bridge| bridge != has.bridge_ifindex) {
        let is = bridge.unwrap_or_default();
        return format!("its bridge's ifindex is {is} now, was {}", has.bridge_ifindex);
    }
    let differ = |what: &str, is: &dyn std::fmt::Display, wanted: &dyn std::fmt::Display| {
        let (is, wanted) = (is.to_string(), wanted.to_string());
        (is != wanted).then(|| format!("{what} {} in {}", should_be(is, wanted), Endpoints::NAME))
    };
    None.or_else(|| differ("address", &has.addr, &wanted.addr))
        .or_else(|| differ("MAC", &has.mac, &wanted.mac))
        .or_else(|| differ("gateway", &has.gateway, &wanted.gateway))
        .or_else(|| differ("gateway's MAC", &has.gateway_mac, &wanted.gateway_mac))
        .or_else(|| differ("subnet", &has.subnet, &wanted.subnet))
        .or_else(|| differ("mask", &has.mask, &wanted.mask))
        .or_else(|| differ("MTU", &has.mtu, &wanted.mtu))
        .or_else(|| differ("flow limit", &has.flow_limit, &wanted.flow_limit))
        .or_else(|| differ("guard", &has.guard, &wanted.guard))
        .or_else(|| differ("flags", &has.flags, &wanted.flags))
        .or_else(|| {
            let map = seen.skewed.get(&endpoint.id)?;
            Some(format!("its entry of {map} is gone, or another"))
        })
        .unwrap_or_else(|| format!("another entry of {}", Endpoints::NAME))
}

/// What the datapath has of an uplink that it should not have.
fn uplink_differs(has: Option<&Uplink>, wanted: &Uplink) -> String {
    let Some(has) = has else { return format!("no entry of {}", Uplinks::NAME) };
    let now = |what: &str, is: &dyn std::fmt::Display, had: &dyn std::fmt::Display| {
        let (is, had) = (is.to_string(), had.to_string());
        (is != had).then(|| format!("{what} {is} now, {} has {had}", Uplinks::NAME))
    };
    None.or_else(|| now("address", &wanted.addr, &has.addr))
        .or_else(|| now("MTU", &wanted.mtu, &has.mtu))
        .or_else(|| now("MAC", &wanted.mac, &has.mac))
        .or_else(|| now("prefix", &wanted.prefix_len, &has.prefix_len))
        .unwrap_or_else(|| format!("another entry of {}", Uplinks::NAME))
}
