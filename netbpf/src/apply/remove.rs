//! What the steps do that take away. What is gone is no error, and what is not
//! the network's stays.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    datapath::iptables::{Table, TableRules},
    error::Result,
    net::{
        ctnetlink::{Connection, Conntrack, apart, reflection, tables},
        netns::{self, Named},
        sysctl,
    },
    plan::Step,
    state::Phase,
    topology::{EndpointPlan, Leaving, LinkName, NamespaceName, Owned, Publish},
};

use super::Apply;

/// How often is looked whether the kernel has removed an interface.
const GLANCE: Duration = Duration::from_millis(2);

impl Apply<'_> {
    /// Runs a step that takes something away.
    pub(super) async fn run_removal(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::MarkRemoving => self.store.record(self.topology, Phase::Removing),
            Step::Detach { hook, link } => match self.known_index(link).await? {
                Some(index) => self.datapaths.ebpf.detach(*hook, index),
                None => Ok(()),
            },
            Step::Withdraw { others } => {
                self.ended_flows += self.datapaths.ebpf.withdraw(others)?;
                Ok(())
            }
            Step::ClearUplink { link } => {
                if let Some(index) = self.known_index(link).await? {
                    self.ended_flows += self.datapaths.ebpf.clear_uplink(index)?;
                }
                Ok(())
            }
            Step::ClearEndpoint { endpoint } => {
                let id = endpoint.endpoint_id();
                self.ended_flows += self.datapaths.ebpf.clear_endpoint(id)?;
                Ok(())
            }
            Step::EndConnections { leaving, uplink_addrs } => {
                self.end_connections(leaving, uplink_addrs)
            }
            Step::ClearSubnet { subnet } => self.datapaths.ebpf.clear_subnet(*subnet),
            Step::ClearGateway { addr, mac } => self.datapaths.ebpf.clear_gateway(*addr, *mac),
            Step::ClearRules { rules } => self.clear_rules(rules),
            Step::ClearAllowed { endpoints } => self.datapaths.ebpf.clear_allowed(endpoints),
            Step::ClearApart { bridge } => apart::clear(bridge),
            Step::ClearReflected { bridge } => reflection::clear(bridge),
            Step::TidyTables => {
                if let Some(before) = self.store.kept_tables()? {
                    tables::tidy(&Table::ALL.map(Table::name), &before);
                }
                self.store.forget_tables()
            }
            Step::SwitchBack { switch } => {
                if let Some(before) = self.store.kept_sysctls()?.get(switch) {
                    sysctl::restore(before)?;
                }
                self.store.forget_sysctls(*switch)
            }
            Step::DeleteLink { name, owned } => self.delete_link(name, owned).await,
            Step::DeletePair { end } => self.delete_pair(end).await,
            Step::DeleteNamespace { name } => self.delete_namespace(name, true).await,
            Step::ReleaseNamespace { name } => self.delete_namespace(name, false).await,
            Step::UnloadDatapath => self.datapaths.ebpf.unload(),
            Step::Forget { .. } => self.store.forget(&self.topology.name),
            // The steps that make something are run elsewhere.
            _ => Ok(()),
        }
    }

    fn clear_rules(&self, rules: &TableRules) -> Result<()> {
        self.datapaths.iptables.clear(rules)?;
        if rules.table == Table::Nat {
            let is_ours = |addr| self.topology.all_subnets().any(|subnet| subnet.holds(addr));
            let ours = |connection: &Connection| connection.concerns(is_ours);
            Conntrack::open()?.remove_all(ours)?;
        }
        Ok(())
    }

    /// Ends the connections that the kernel tracks of what has gone.
    fn end_connections(&mut self, leaving: &Leaving, uplink_addrs: &[Ipv4Addr]) -> Result<()> {
        let is_ours = |addr| self.topology.all_subnets().any(|subnet| subnet.holds(addr));
        let addrs: Vec<Ipv4Addr> = leaving.endpoints.iter().map(|gone| gone.addr).collect();
        let by_port = |connection: &Connection, publish: &Publish| {
            let all = leaving.endpoints.iter().chain(&self.topology.endpoints);
            let mut targets = all.filter(|endpoint| endpoint.namespace == publish.namespace);
            targets.any(|endpoint| publish.made(connection, endpoint.addr))
        };
        let has_gone = |connection: &Connection| {
            let Connection { original, reply, .. } = connection;
            let by_uplink = uplink_addrs.contains(&reply.dst) && is_ours(original.src)
                || uplink_addrs.contains(&original.dst) && is_ours(reply.src);
            by_uplink
                || connection.concerns(|addr| addrs.contains(&addr))
                || leaving.published.iter().any(|publish| by_port(connection, publish))
        };
        // Those that no NAT has translated are no flows, but are tracked where the
        // bridge has its packets judged, and would be taken for whoever comes next.
        let mut conntrack = Conntrack::open()?;
        self.ended_flows += conntrack.remove_all(|it| it.is_translated() && has_gone(it))?;
        conntrack.remove_all(has_gone)?;
        Ok(())
    }

    /// The index by which the datapath knows an interface, which may be gone.
    async fn known_index(&self, link: &LinkName) -> Result<Option<u32>> {
        if let Some(&index) = self.journal.links.get(link) {
            return Ok(Some(index));
        }
        Ok(self.netlink.link(link.as_str()).await?.map(|link| link.index))
    }

    async fn delete_link(&mut self, name: &LinkName, owned: &Owned) -> Result<()> {
        let begin = Instant::now();
        loop {
            let Some(link) = self.netlink.link(name.as_str()).await? else { return Ok(()) };
            let noted = self.journal.links.get(name);
            if !owned.is(&link) || noted.is_some_and(|&index| index != link.index) {
                let warning =
                    format!("the interface {name} stays: it is not the one that was made");
                self.warnings.push(warning);
                return Ok(());
            }
            // The kernel is about to remove it, and many others at once.
            let is_going = self.removed_namespace && owned.is_port() && !self.is_adopted(name);
            if !is_going || begin.elapsed() >= self.patience {
                self.patience = self.patience.saturating_sub(begin.elapsed());
                return self.netlink.delete_link(link.index).await;
            }
            sleep(GLANCE).await;
        }
    }

    /// Whether an interface leads into a namespace that stays.
    fn is_adopted(&self, link: &LinkName) -> bool {
        let mut all = self.topology.all_endpoints();
        all.any(|endpoint| endpoint.link == *link && endpoint.adopted.is_some())
    }

    /// Removes a veth pair by its end in a namespace, if both are the network's.
    async fn delete_pair(&mut self, end: &EndpointPlan) -> Result<()> {
        let name = &end.namespace;
        let (Some(noted), Named::Namespace(netns)) =
            (self.journal.namespaces.get(name).copied(), netns::look_up(name.as_str())?)
        else {
            return Ok(());
        };
        let entered = self.worker.enter(netns).await?;
        if entered.id != noted {
            return Ok(());
        }
        match entered.netlink.link(end.inside.as_str()).await?.filter(|link| end.is_end(link)) {
            Some(link) => entered.netlink.delete_link(link.index).await,
            None => Ok(()),
        }
    }

    /// Takes the name of a namespace away, and with it the namespace, if it `was_made` and
    /// was not adopted.
    async fn delete_namespace(&mut self, name: &NamespaceName, was_made: bool) -> Result<()> {
        let Some(noted) = self.journal.namespaces.get(name).copied() else {
            // It never got a name; if there is one, it is somebody else's.
            return Ok(());
        };
        self.entered = None;
        let ours = match netns::look_up(name.as_str())? {
            Named::Nothing => return Ok(()),
            // The name was made and not mounted on, or unmounted by hand.
            Named::File => netns::is_empty(name.as_str()),
            Named::Namespace(netns) => self.worker.enter(netns).await?.id == noted,
        };
        if !ours {
            let one = if was_made { "made" } else { "adopted" };
            self.warnings
                .push(format!("the namespace {name} stays: it is not the one that was {one}"));
            return Ok(());
        }
        self.removed_namespace |= was_made;
        netns::remove_name(name.as_str())
    }
}
