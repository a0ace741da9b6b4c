//! The host: what `up` would find.

use super::Finding;
use crate::{
    bpf::{self, By},
    datapath::{Datapath as _, Kind},
    error::Result,
    firewall,
    net::{
        Link, listeners,
        sysctl::{self, Switch},
    },
    observe::Observed,
    session::Session,
    spec::Spec,
    topology::{LinkName, Request, Topology},
};

/// The name of the network that is asked for in thought.
const NAME: &str = "netbpf-doctor";

/// Looks at it: at the networks that there are, or at one as `up --namespaces 1` would make.
///
/// # Errors
/// The kernel's.
pub async fn look(session: &Session, uplinks: &[LinkName]) -> Result<Vec<Finding>> {
    let observed = session.observe().await?;
    let mut found = Vec::new();
    let networks = observed.networks.iter().map(|network| network.topology.clone());
    let mut networks: Vec<Topology> = networks.filter(|one| !one.direct).collect();
    if networks.is_empty() || !uplinks.is_empty() {
        match asked_for(session, &observed, uplinks) {
            Ok(topology) => networks = vec![topology],
            Err(error) => found.push(Finding::of("network", &error)),
        }
    }
    for topology in &networks {
        found.extend(network(topology, &observed));
    }
    let mut links: Vec<&Link> = Vec::new();
    for uplink in networks.iter().flat_map(|topology| &topology.uplinks) {
        let link = observed.link(uplink.name.as_str());
        links.extend(link.filter(|link| !links.contains(link)));
    }
    for link in links {
        found.extend(uplink(link, session)?);
    }
    let forwarding = Switch::IpForward.to_string();
    found.push(if observed.switches.contains(&Switch::IpForward) {
        Finding::ok(forwarding, "on")
    } else {
        Finding::note(forwarding, "off: up switches it on, and down puts it back")
    });
    Ok(found)
}

/// The network that `up --namespaces 1` would make.
fn asked_for(session: &Session, observed: &Observed, uplinks: &[LinkName]) -> Result<Topology> {
    let datapaths = session.datapaths();
    let kind = if datapaths.ebpf.probe().is_ok() { Kind::Ebpf } else { Kind::Iptables };
    let spec = Spec {
        name: NAME.to_owned(),
        ns: vec![NAME.into()],
        uplink: uplinks.iter().map(ToString::to_string).collect(),
        ..Spec::default()
    };
    let request = Request { datapath: Some(kind), ..spec.request(true)? };
    Topology::validate(&request, observed)
}

/// What there is to be said of a network.
fn network(topology: &Topology, observed: &Observed) -> Vec<Finding> {
    let about = || match topology.name.as_str() {
        NAME => "network".to_owned(),
        name => format!("network {name}"),
    };
    let mut found: Vec<Finding> = topology
        .warnings(observed, &listeners())
        .into_iter()
        .map(|it| Finding::note(about(), it))
        .collect();
    let rules = firewall::past(topology, observed).into_iter();
    found.extend(rules.map(|it| Finding::note("firewall", it.replace(NAME, "a network"))));
    if found.is_empty() {
        let uplinks: Vec<&str> =
            topology.uplinks.iter().map(|uplink| uplink.name.as_str()).collect();
        let what = format!("{} by {}, MTU {}", topology.subnet, uplinks.join(", "), topology.mtu);
        found.push(Finding::ok(about(), what));
    }
    found
}

/// What there is to be said of an uplink.
fn uplink(link: &Link, session: &Session) -> Result<Vec<Finding>> {
    let about = || format!("uplink {}", link.name);
    let mut found = Vec::new();
    if link.mtu < 1500 {
        let what = format!("MTU {}: networks that are given none have it, too", link.mtu);
        found.push(Finding::note(about(), what));
    }
    if sysctl::filters_reverse_path(&link.name)? {
        let what = "rp_filter is strict: what the stack gets by it is dropped if the way back is \
                    by another interface";
        found.push(Finding::note(about(), what).hint(format!(
            "where there are several uplinks: sysctl net.ipv4.conf.{}.rp_filter=2",
            link.name
        )));
    }
    for other in bpf::others(&session.host.pins, link.index)? {
        let side = if other.egress { "egress" } else { "ingress" };
        let by = match other.by {
            By::Link(_) | By::Program(_) => "by TCX".to_owned(),
            By::Filter { priority, .. } => format!("by a filter of priority {priority}"),
        };
        let order = if other.is_first {
            "in front of netbpf's: it sees all, and what it ends netbpf does not see"
        } else {
            "behind netbpf's: it sees what that passes on to the stack, not what it forwards or drops"
        };
        found.push(Finding::note(about(), format!("{} on {side}, {by}, runs {order}", other.name)));
    }
    if found.is_empty() {
        found.push(Finding::ok(about(), "no programs of others, rp_filter not strict"));
    }
    Ok(found)
}
