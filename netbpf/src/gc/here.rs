//! What networks of this host have left that are not recorded any more.

use std::collections::BTreeSet;

use netbpf_common::PublishEntry;

use super::Orphan;
use crate::{
    datapath::{Kind, iptables::TableRules},
    error::Result,
    host::Host,
    net::{
        Link,
        ctnetlink::bridge_table,
        netns::{self, Named},
        sysctl,
    },
    observe::Observed,
    plan::publish_entries,
    session::Session,
    topology::{ADOPTED_METRIC, mac},
};

/// What the names of chains and tables begin with.
const PREFIX: &str = "NETBPF-";

/// What is found on this host, in the order in which it is to be removed: nothing leads
/// anywhere before what translates and guards is taken away.
pub(super) async fn find(session: &Session) -> Result<Vec<Orphan>> {
    let observed = session.observe().await?;
    let known: BTreeSet<&str> =
        observed.networks.iter().map(|network| network.topology.name.as_str()).collect();
    let mut orphans = Vec::new();
    let links = observed.links.iter().filter_map(|link| Some((link, made_for(link)?)));
    let links: Vec<_> = links.filter(|(_, made)| !known.contains(made.network)).collect();
    for (link, made) in &links {
        if let Some(name) = made.namespace
            && let Some(orphan) = namespace(name, link, session).await?
        {
            orphans.push(orphan);
        }
    }
    orphans.extend(links.iter().map(|(link, made)| Orphan::Link {
        name: link.name.clone(),
        index: link.index,
        network: made.network.to_owned(),
    }));
    let has_datapath = observed.networks_of(Kind::Ebpf).next().is_some();
    if !has_datapath && session.host.pins.exists() {
        orphans.push(Orphan::Pins(session.host.pins.clone()));
    }
    if let Some(seen) = observed.datapath.as_ref().filter(|_| has_datapath) {
        orphans.extend(seen.strays.iter().cloned().map(Orphan::Stray));
        let wanted = published(&observed);
        let is_nobodys = |entry: &PublishEntry| !wanted.contains(entry);
        orphans.extend(seen.published.iter().any(is_nobodys).then_some(Orphan::Published));
    }
    let chains = session.datapaths().iptables.chains(PREFIX)?;
    let of_none = |name: &str| {
        let network = name.strip_prefix(PREFIX).and_then(|rest| rest.rsplit_once('-'));
        network.is_some_and(|(network, _)| !known.contains(network))
    };
    let chains = chains.into_iter().filter(|(_, name)| of_none(name));
    orphans.extend(chains.map(|(table, name)| Orphan::Chain { table, name }));
    let bridges = observed.networks.iter().map(|network| &network.topology.name);
    orphans.extend(bridge_table::of_others(bridges).into_iter().map(Orphan::BridgeTable));
    if observed.networks.is_empty() {
        orphans.extend(observed.switched.iter().copied().map(Orphan::Sysctl));
    }
    Ok(orphans)
}

/// For whom an interface was made.
struct Made<'a> {
    network: &'a str,
    namespace: Option<&'a str>,
}

/// For whom netbpf has made an interface, if it has: the alias says so, and its kind and its
/// MAC are those of such interfaces.
fn made_for(link: &Link) -> Option<Made<'_>> {
    let mut words = link.alias.as_deref()?.strip_prefix("netbpf:")?.splitn(2, ':');
    let network = words.next().filter(|name| !name.is_empty())?;
    let namespace = words.next();
    let is_ours = match namespace {
        None => link.kind.as_deref() == Some("bridge") && link.mac.is_some_and(mac::is_inside),
        Some(_) => link.kind.as_deref() == Some("veth") && link.mac.is_some_and(mac::is_host_side),
    };
    is_ours.then_some(Made { network, namespace })
}

/// The namespace of that name, if the other end of the veth is in it, with the address that
/// the veth's MAC tells, and the default route by it is that of a namespace that netbpf has
/// made: one that it has adopted has another metric, and is its owner's.
async fn namespace(name: &str, port: &Link, session: &Session) -> Result<Option<Orphan>> {
    let Named::Namespace(file) = netns::look_up(name)? else { return Ok(None) };
    let entered = session.worker().enter(file).await?;
    let links = entered.netlink.links().await?;
    let addresses = entered.netlink.addresses().await?;
    let routes = entered.netlink.routes().await?;
    let is_made = |link: &Link| {
        let mut own = routes.iter().filter(|route| route.ifindex == Some(link.index));
        own.any(|route| route.is_default() && route.metric != ADOPTED_METRIC)
    };
    let is_other_end = |link: &Link| {
        let mut own = addresses.iter().filter(|address| address.ifindex == link.index);
        link.peer.is_some()
            && link.is_peer_of(port)
            && is_made(link)
            && own.any(|address| port.mac == Some(mac::host_side(address.addr)))
    };
    let id = Some(entered.id);
    Ok(links.iter().any(is_other_end).then(|| Orphan::Namespace { name: name.to_owned(), id }))
}

/// The published ports of the networks that there are.
fn published(observed: &Observed) -> Vec<PublishEntry> {
    let networks = observed.networks_of(Kind::Ebpf);
    let mut all: Vec<_> = networks.flat_map(|one| publish_entries(&one.topology)).collect();
    all.sort_by_key(|entry| entry.order);
    all
}

/// Takes one away.
pub(super) async fn remove(orphan: &Orphan, session: &mut Session, host: &Host) -> Result<()> {
    match orphan {
        Orphan::Namespace { name, id } => {
            let is_same = match (netns::look_up(name)?, id) {
                (Named::Namespace(file), Some(id)) => session.worker().enter(file).await?.id == *id,
                (Named::File, None) => netns::is_empty(name),
                _ => false,
            };
            if is_same { netns::remove_name(name) } else { Ok(()) }
        }
        Orphan::Link { name, index, .. } => match session.netlink().link(name).await? {
            Some(link) if link.index == *index => session.netlink().delete_link(*index).await,
            _ => Ok(()),
        },
        Orphan::Stray(stray) => session.datapaths().ebpf.clear_stray(stray).map(drop),
        Orphan::Published => {
            let wanted = published(&session.observe().await?);
            session.datapaths().ebpf.set_published(&wanted).map(drop)
        }
        Orphan::Chain { table, name } => {
            let rules = TableRules::chain(*table, name.clone());
            session.datapaths().iptables.clear(&rules)
        }
        Orphan::BridgeTable(table) => bridge_table::clear(table),
        Orphan::Sysctl(switch) => {
            if let Some(before) = host.store.kept_sysctls()?.get(switch) {
                sysctl::restore(before)?;
            }
            host.store.forget_sysctls(*switch)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use netbpf_common::MacAddr;

    use super::*;

    #[test]
    fn an_alias_alone_makes_no_interface_ours() {
        let link = |kind: &str, mac: [u8; 6], alias: &str| Link {
            kind: Some(kind.to_owned()),
            mac: Some(MacAddr::new(mac)),
            alias: Some(alias.to_owned()),
            ..Link::default()
        };
        let (bridge, port) = ([2, 0x6e, 172, 19, 0, 1], [6, 0x6e, 172, 19, 0, 2]);
        for (link, made) in [
            (link("bridge", bridge, "netbpf:net0"), Some(("net0", None))),
            (link("veth", port, "netbpf:net0:ns1"), Some(("net0", Some("ns1")))),
            (link("veth", port, "netbpf:net0"), None),
            (link("bridge", port, "netbpf:net0"), None),
            (link("bridge", bridge, "netbpf:"), None),
            (link("bridge", bridge, "uplink of netbpf"), None),
        ] {
            let found = made_for(&link);
            assert_eq!(found.map(|found| (found.network, found.namespace)), made, "{link:?}");
        }
    }
}
