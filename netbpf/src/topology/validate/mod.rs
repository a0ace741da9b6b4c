//! From a request and what there is on the host to a network that can be built.

mod address;
mod adoption;
mod datapath;
mod direct;
mod isolation;
mod ownership;
mod ports;
mod uplinks;

use std::{collections::HashSet, net::Ipv4Addr};

use netbpf_common::maps::DEFAULT_MAX_FLOWS;

pub use ownership::{Owned, intruder};

use self::{
    address::{asked_subnet, assign, check_subnet},
    datapath::check_datapath,
    ownership::{check_links, check_namespaces},
    ports::resolve,
    uplinks::{check_uplinks, plan_of},
};
use super::{
    Guard, LOOPBACK, Leaving, LinkName, MAX_ENDPOINTS, MAX_LINK_NAME, Request, Subnet, Topology,
};
use crate::{
    bpf::LoadOptions,
    datapath::Kind,
    error::{Error, Key, Result},
    net::{Link, Listener},
    observe::Observed,
    state::Recorded,
};

/// Largest flow table: beyond it the numbers of its slots would not fit.
pub const MAX_MAX_FLOWS: u32 = 16_777_216;

/// The MTUs that an interface with IPv4 can have.
const MTUS: std::ops::RangeInclusive<u32> = 68..=65_535;

impl Topology {
    /// Validates what was asked for against what there is. What the request
    /// leaves open is as it is in the network of that name, if there is one,
    /// and gets its default otherwise.
    ///
    /// # Errors
    /// Usage errors for what was asked wrongly, failures for what the host lacks.
    pub fn validate(request: &Request, observed: &Observed) -> Result<Self> {
        let existing = observed.network(request.name.as_str());
        let recorded = existing.map(|network| &network.topology);
        let kept = recorded.filter(|_| request.keeps);
        if let Some(recorded) = recorded.filter(|recorded| recorded.direct != request.direct) {
            let is = if recorded.direct { "it is direct" } else { "it is not direct" };
            return Err(exists(&request.name, is.to_owned()));
        }
        if request.direct {
            return direct::validate(request, observed);
        }
        if request.namespaces.is_empty() {
            let network = &request.name;
            return Err(Error::usage(format!("the network {network} would have no namespace"))
                .hint(format!("take it down: netbpf down {network}")));
        }
        let datapath = request.datapath.or(recorded.map(|topology| topology.datapath));
        let datapath = datapath.unwrap_or(Kind::Ebpf);
        check_datapath(datapath, request)?;
        let uplinks = check_uplinks(request, existing, observed)?;
        let subnet = asked_subnet(request)
            .or(recorded.map(|topology| topology.subnet))
            .unwrap_or_else(default_subnet);
        check_subnet(subnet, request, observed).map_err(|error| error.about(Key::of("subnet")))?;
        let options = match datapath {
            Kind::Ebpf => options(request, observed)?,
            Kind::Iptables => LoadOptions::default(),
        };
        let endpoints = assign(request, subnet, observed)?;
        let published = resolve(request, &endpoints, observed)?;
        let isolate = request.isolate.or(kept.map(|topology| topology.isolate)).unwrap_or_default();
        let allowed = isolation::allowed(request, isolate, &endpoints, observed)?;
        let topology = Self {
            name: request.name.clone(),
            direct: false,
            uplinks: uplinks.iter().map(|link| plan_of(link)).collect::<Result<_>>()?,
            datapath,
            fallback: request.fallback.clone(),
            former: None,
            leaving: Leaving::default(),
            subnet,
            mtu: mtu(request, &uplinks, kept)?,
            guard: request
                .guard
                .or(kept.map(|topology| topology.guard))
                .unwrap_or(Guard::default_of(datapath)),
            routed: request.routed.or(kept.map(|topology| topology.routed)).unwrap_or_default(),
            respect_netfilter: request
                .respect_netfilter
                .or(kept.map(|topology| topology.respect_netfilter))
                .unwrap_or_default(),
            isolate,
            allowed,
            flow_limit: flow_limit(request, options.max_flows, endpoints.len(), kept)?,
            max_flows: options.max_flows,
            log_level: options.log_level,
            endpoints,
            published,
        };
        let topology = match recorded {
            None => topology,
            Some(recorded) if recorded.is_same(&topology) => recorded.clone(),
            Some(recorded) => {
                check_change(recorded, &topology)?;
                topology.in_place_of(recorded)
            }
        };
        check_links(&topology, existing, observed)?;
        check_namespaces(&topology, existing, observed)?;
        Ok(topology)
    }

    /// What should be known of namespaces that it is about to adopt.
    #[must_use]
    pub fn adoption_notes(&self, observed: &Observed) -> Vec<String> {
        adoption::notes(&self.endpoints, observed)
    }

    /// What is allowed, but may not be what was meant.
    #[must_use]
    pub fn warnings(&self, observed: &Observed, sockets: &[Listener]) -> Vec<String> {
        let links = self.uplinks.iter().filter_map(|uplink| observed.link(uplink.name.as_str()));
        let mut warnings: Vec<String> = links
            .filter(|link| self.mtu > link.mtu)
            .map(|link| {
                format!(
                    "the MTU {} is above that of the uplink {} ({}): packets that are too large \
                     for it are answered with \"fragmentation needed\" or dropped",
                    self.mtu, link.name, link.mtu
                )
            })
            .collect();
        if observed.link(LOOPBACK).is_some_and(|link| !link.up) {
            warnings.push(format!(
                "{LOOPBACK} is down: published ports are not reached from the host itself, nor \
                 from a namespace by the host's address, before: ip link set {LOOPBACK} up"
            ));
        }
        let taken = self.published.iter().filter_map(|publish| {
            let socket = sockets.iter().find(|socket| publish.takes_from(socket))?;
            let Listener { addr, port, .. } = socket;
            Some(format!(
                "a program of the host listens on {addr}:{port}: what comes for it goes to {} now, \
                 as {publish} says",
                publish.namespace
            ))
        });
        warnings.extend(taken);
        warnings
    }
}

/// The subnet of a network that is given none.
fn default_subnet() -> Subnet {
    Subnet::containing(Ipv4Addr::new(172, 19, 0, 0), 24)
}

/// A network of that name exists and is not the one that was asked for.
fn exists(name: &LinkName, difference: String) -> Error {
    Error::usage(format!("the network {name} exists already, and is not what was asked for"))
        .because(difference)
        .hint(format!("take it down first: netbpf down {name}; or choose another --name"))
}

/// Refuses what cannot be changed while a network runs.
fn check_change(recorded: &Topology, topology: &Topology) -> Result<()> {
    let name = &topology.name;
    if let Some(from) = recorded.former {
        let (from, to) = (from.name(), recorded.datapath.name());
        return Err(Error::usage(format!("the network {name} cannot be changed now"))
            .because(format!("it is being switched from {from} to {to}"))
            .hint(format!("finish that first: netbpf switch {name} --datapath {to}")));
    }
    if recorded.datapath != topology.datapath {
        let (has, to) = (recorded.datapath.name(), topology.datapath.name());
        return Err(Error::usage(format!("the network {name} has another datapath"))
            .because(format!("datapath: it has {has}, {to} was asked for"))
            .hint(format!("switch it over: netbpf switch {name} --datapath {to}"))
            .about(Key::of("datapath")));
    }
    Ok(())
}

/// The MTU that was asked for, or the largest that all uplinks take.
fn mtu(request: &Request, uplinks: &[&Link], recorded: Option<&Topology>) -> Result<u32> {
    let all = uplinks.iter().map(|uplink| uplink.mtu).min().unwrap_or(*MTUS.end());
    match request.mtu {
        Some(mtu) if MTUS.contains(&mtu) => Ok(mtu),
        Some(mtu) => Err(Error::usage(format!("invalid MTU {mtu}"))
            .because(format!("IPv4 needs {} to {}", MTUS.start(), MTUS.end()))
            .hint(format!("leave --mtu out for the uplink's: {all}"))
            .about(Key::of("mtu"))),
        None => Ok(recorded.map_or(all.min(*MTUS.end()), |topology| topology.mtu)),
    }
}

/// What the host's datapath is or will be loaded with: what is asked for, for all of its
/// networks, and else what it has.
fn options(request: &Request, observed: &Observed) -> Result<LoadOptions> {
    request.max_flows.map_or(Ok(()), check_max_flows)?;
    let seen = observed.datapath.as_ref().filter(|seen| seen.lost.is_empty());
    let loaded = seen.map(|datapath| datapath.options);
    // If it was lost, it is loaded again as it was.
    let lost = observed.networks_of(Kind::Ebpf).next();
    let lost = lost.map(|Recorded { topology, .. }| topology.options());
    let current = loaded.or(lost).unwrap_or_default();
    Ok(LoadOptions {
        max_flows: request.max_flows.unwrap_or(current.max_flows),
        log_level: request.log_level.unwrap_or(current.log_level),
    })
}

/// Checks how many flows a table is to hold.
///
/// # Errors
/// It cannot be of that size.
pub fn check_max_flows(flows: u32) -> Result<()> {
    if (1..=MAX_MAX_FLOWS).contains(&flows) {
        return Ok(());
    }
    Err(Error::usage(format!("invalid --max-flows {flows}"))
        .because(format!("the flow table holds 1 to {MAX_MAX_FLOWS} flows"))
        .hint(format!("leave it out for {DEFAULT_MAX_FLOWS}"))
        .about(Key::of("max-flows")))
}

/// How many flows each namespace may have: a fair share unless told otherwise, also
/// when there are more or fewer than before.
fn flow_limit(
    request: &Request,
    max_flows: u32,
    endpoints: usize,
    kept: Option<&Topology>,
) -> Result<u32> {
    match request.flow_limit {
        Some(limit) if (1..=max_flows).contains(&limit) => Ok(limit),
        Some(limit) => Err(Error::usage(format!("invalid --flow-limit {limit}"))
            .because(format!("the whole flow table holds {max_flows} flows"))
            .hint("choose a limit from 1 to that number, or a larger table with --max-flows")
            .about(Key::of("flow-limit"))),
        None => {
            let share = share(max_flows, endpoints);
            let was_told = |topology: &&Topology| {
                topology.flow_limit != self::share(topology.max_flows, topology.endpoints.len())
            };
            let told = kept.filter(was_told).map(|topology| topology.flow_limit);
            Ok(told.map_or(share, |limit| limit.min(max_flows)))
        }
    }
}

/// An equal part of the table.
fn share(max_flows: u32, endpoints: usize) -> u32 {
    let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX).max(1);
    (max_flows / endpoints).max(1)
}

impl Topology {
    /// What the datapath is loaded with for it.
    #[must_use]
    pub fn options(&self) -> LoadOptions {
        LoadOptions { max_flows: self.max_flows, log_level: self.log_level }
    }

    /// The network with a datapath that is loaded so: a limit of flows that is an equal
    /// part of the table stays one.
    #[must_use]
    pub fn loaded_with(&self, options: LoadOptions) -> Self {
        let LoadOptions { max_flows, log_level } = options;
        let count = self.endpoints.len();
        let is_share = self.flow_limit == share(self.max_flows, count);
        let limit = if is_share { share(max_flows, count) } else { self.flow_limit };
        Self { max_flows, log_level, flow_limit: limit.min(max_flows), ..self.clone() }
    }

    /// Whether the host's interface of that name is part of the network.
    #[must_use]
    pub fn has_link(&self, name: &str) -> bool {
        if self.direct {
            return false;
        }
        self.name.as_str() == name || self.all_endpoints().any(|e| e.link.as_str() == name)
    }
}

/// Name of the host side of the veth of a network's `n`th namespace: speaking
/// if it fits, else with the network's name made short.
fn link_name(network: &LinkName, n: usize) -> Result<LinkName> {
    let speaking = format!("{network}-{n}");
    if speaking.len() <= MAX_LINK_NAME {
        return LinkName::existing(&speaking);
    }
    // FNV-1a, 24 bits of it: the names must be the same in every run.
    let hash = network
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    LinkName::existing(&format!("nb{:06x}-{n}", hash >> 8))
}

/// The numbers that no endpoint has, in order: neither one of another network, nor
/// one of this one.
fn free_ids(request: &Request, observed: &Observed) -> impl Iterator<Item = u16> + use<> {
    let own = observed.network(request.name.as_str()).into_iter();
    let own = own.flat_map(|network| network.topology.all_endpoints());
    let taken: HashSet<u16> = observed
        .others(request.name.as_str())
        .flat_map(|network| network.topology.all_endpoints().map(|endpoint| endpoint.id))
        .chain(own.map(|endpoint| endpoint.id))
        .collect();
    (1..=MAX_ENDPOINTS).filter(move |id| !taken.contains(id))
}

#[cfg(test)]
mod tests;
