//! What each step does.

use std::fs::File;

use netbpf_common::Endpoint;

use super::Apply;
use crate::{
    error::{Context as _, Error, Result},
    net::{
        Netlink, NewBridge, NewVeth,
        ctnetlink::{apart, reflection, tables},
        netns::{self, Named},
        sysctl,
    },
    plan::{Place, Step},
    state::{Entry, Phase},
    topology::{Adoption, EndpointPlan, Leaving, LinkName, NamespaceName, Topology},
};

impl Apply<'_> {
    /// Runs one step.
    pub(super) async fn run(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Record { .. } => self.record().await,
            Step::LoadDatapath { options } => self.datapaths.ebpf.load(options),
            Step::AddBridge { name, mac, mtu, .. } => {
                let bridge = NewBridge { name: name.as_str(), mac: *mac, mtu: *mtu };
                self.netlink.add_bridge(bridge).await?;
                self.adopt(name, &self.topology.alias()).await
            }
            Step::AddNamespace { name } => self.add_namespace(name).await,
            Step::AddVeth { endpoint, mtu, .. } => self.add_veth(endpoint, *mtu).await,
            Step::AddPair { ends: [first, second], mtu } => {
                self.add_pair(first, second, *mtu).await
            }
            Step::LinkUp { place, link } => {
                let (netlink, index) = self.find(place, link).await?;
                netlink.set_up(index).await
            }
            Step::SetMtu { place, link, mtu } => {
                let (netlink, index) = self.find(place, link).await?;
                netlink.set_mtu(index, *mtu).await
            }
            Step::SetMaster { endpoint, bridge } => {
                let (_, bridge) = self.find(&Place::Host, bridge.as_str()).await?;
                let (netlink, port) = self.find(&Place::Host, endpoint.link.as_str()).await?;
                netlink.set_master(port, bridge).await
            }
            Step::SetIsolated { .. } | Step::KeepApart { .. } | Step::SetAllowed { .. } => {
                self.isolate(step).await
            }
            Step::AddAddress { place, link, addr, prefix_len } => {
                let (netlink, index) = self.find(place, link).await?;
                netlink.add_address(index, *addr, *prefix_len).await
            }
            Step::AddSubnetRoute { place, link, subnet, source } => {
                let (netlink, index) = self.find(place, link).await?;
                netlink.add_subnet_route(*subnet, *source, index).await
            }
            Step::AddDefaultRoute { namespace, link, gateway, metric } => {
                let place = Place::Inside(namespace.clone());
                let (netlink, index) = self.find(&place, link.as_str()).await?;
                netlink.add_default_route(*gateway, index, *metric).await
            }
            Step::AddFdb { endpoint } => {
                let (netlink, port) = self.find(&Place::Host, endpoint.link.as_str()).await?;
                netlink.add_fdb(port, endpoint.mac).await
            }
            Step::SwitchOn { switch } => {
                // Before it is changed, so that a kill in between loses nothing.
                self.store.keep_sysctls(*switch, switch.read()?)?;
                switch.switch_on()
            }
            Step::SetGateway { addr, mac } => self.datapaths.ebpf.set_gateway(*addr, *mac),
            Step::SetSubnet { subnet } => self.datapaths.ebpf.set_subnet(*subnet),
            Step::SetEndpoint { endpoint, bridge, row } => {
                let (_, ifindex) = self.find(&Place::Host, endpoint.link.as_str()).await?;
                let (_, bridge_ifindex) = self.find(&Place::Host, bridge.as_str()).await?;
                let row = Endpoint { ifindex, bridge_ifindex, ..*row };
                self.datapaths.ebpf.set_endpoint(endpoint.endpoint_id(), &row)
            }
            Step::SetUplink { link, row } => {
                let index = self.note_index(link).await?;
                self.datapaths.ebpf.set_uplink(index, row)
            }
            Step::SetPublished { all, .. } => {
                self.ended_flows += self.datapaths.ebpf.set_published(all)?;
                Ok(())
            }
            Step::Attach { hook, link, .. } => {
                let index = self.note_index(link).await?;
                self.datapaths.ebpf.attach(*hook, index)
            }
            Step::KeepTables => self.store.keep_tables(&tables::all()),
            Step::SetRules { rules } | Step::Hold { rules } => self.datapaths.iptables.set(rules),
            Step::DropReflected { bridge, endpoints } => {
                let ports = endpoints.iter().map(|endpoint| (&endpoint.link, endpoint.mac));
                if let Err(error) = reflection::drop_reflected(bridge, ports) {
                    let what = "namespaces with published ports hear their own broadcasts";
                    self.warnings.push(format!("{what}: {error}"));
                }
                Ok(())
            }
            Step::SetHairpin { endpoint, on } => {
                let port = self.netlink.index(endpoint.link.as_str()).await?;
                self.netlink.set_hairpin(port, *on).await
            }
            Step::SetRouteLocalnet { bridge, on } => sysctl::route_localnet(bridge.as_str(), *on),
            Step::MarkSwitching { .. } | Step::MarkChanging { .. } => {
                self.store.record(self.topology, Phase::Building)
            }
            Step::CarryFlows => self.carry_flows(),
            Step::AdoptFlows => self.adopt_flows().await,
            Step::Upgrade(step) => self.upgrade_step(step),
            Step::MarkUp => {
                let leaving = Leaving::default();
                let topology = Topology { former: None, leaving, ..self.topology.clone() };
                self.store.record(&topology, Phase::Up)
            }
            step => self.run_mending(step).await,
        }
    }

    /// Says who of an isolated network reaches whom.
    async fn isolate(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::SetIsolated { endpoint, on } => {
                let port = self.netlink.index(endpoint.link.as_str()).await?;
                self.netlink.set_isolated(port, *on).await
            }
            Step::KeepApart { bridge, apart } => apart::set(bridge, apart),
            Step::SetAllowed { endpoints, pairs, .. } => {
                self.datapaths.ebpf.set_allowed(endpoints, pairs)
            }
            // The others are run elsewhere.
            _ => Ok(()),
        }
    }

    async fn record(&mut self) -> Result<()> {
        self.store.record(self.topology, Phase::Building)?;
        for uplink in &self.topology.uplinks {
            self.note_index(&uplink.name).await?;
        }
        Ok(())
    }

    /// The index of an interface that the datapath is about to know by it:
    /// noted, because it cannot be looked up any more once the interface is gone.
    async fn note_index(&mut self, link: &LinkName) -> Result<u32> {
        let (_, index) = self.find(&Place::Host, link.as_str()).await?;
        let noted = self.journal.links.get(link).copied();
        if noted != Some(index) {
            // It has been made anew.
            if let Some(former) = noted {
                self.datapaths.ebpf.forget_if_gone(former)?;
            }
            self.note(Entry::Link { name: link.clone(), index })?;
        }
        Ok(index)
    }

    /// Makes an interface that was just made known as the network's.
    async fn adopt(&mut self, name: &LinkName, alias: &str) -> Result<()> {
        self.indexes.remove(&(None, name.to_string()));
        let index = self.note_index(name).await?;
        self.netlink.set_alias(index, alias).await
    }

    /// A namespace is noted while it has no name: there is no moment at which
    /// one with a name could be anybody's.
    async fn add_namespace(&mut self, name: &NamespaceName) -> Result<()> {
        let entered = self.worker.create().await?;
        self.free_name(name)?;
        self.note(Entry::Netns { name: name.clone(), id: entered.id })?;
        netns::give_name(&entered.netns, name.as_str())?;
        self.entered = Some((name.clone(), entered));
        Ok(())
    }

    /// Sees to it that nothing has the name: at most what an interrupted run of this
    /// network left.
    fn free_name(&self, name: &NamespaceName) -> Result<()> {
        match netns::look_up(name.as_str())? {
            Named::Nothing => Ok(()),
            Named::File if self.journal.namespaces.contains_key(name) => {
                netns::remove_name(name.as_str())
            }
            Named::File | Named::Namespace(_) => Err(netns::taken(name.as_str())),
        }
    }

    /// A namespace of somebody else's is the one that was looked at, or none; it is noted
    /// before it has a name from us.
    pub(super) async fn borrow_namespace(
        &mut self,
        name: &NamespaceName,
        adoption: &Adoption,
    ) -> Result<()> {
        let path = adoption.from.clone().unwrap_or_else(|| netns::path(name.as_str()));
        let what = || format!("cannot adopt the namespace {name} from {}", path.display());
        let netns = File::open(&path).context(what())?;
        let entered = self.worker.enter(netns).await?;
        if entered.id != adoption.id {
            return Err(Error::failed(what())
                .because("it is another one by now")
                .hint("ask for it once more"));
        }
        if adoption.from.is_some() {
            self.free_name(name)?;
        }
        self.note(Entry::Netns { name: name.clone(), id: entered.id })?;
        if adoption.from.is_some() {
            netns::give_name(&entered.netns, name.as_str())?;
        }
        self.entered = Some((name.clone(), entered));
        Ok(())
    }

    async fn add_veth(&mut self, endpoint: &EndpointPlan, mtu: u32) -> Result<()> {
        self.enter(&Place::Inside(endpoint.namespace.clone())).await?;
        let Some((_, entered)) = &self.entered else {
            return Err(Error::failed(format!("cannot enter {}", endpoint.namespace)));
        };
        let veth = NewVeth {
            name: endpoint.link.as_str(),
            mac: endpoint.link_mac(),
            peer: endpoint.inside.as_str(),
            peer_mac: endpoint.mac,
            peer_netns: std::os::fd::AsFd::as_fd(&entered.netns),
            mtu,
        };
        self.netlink.add_veth(veth).await?;
        self.adopt(&endpoint.link, &self.topology.alias_of(endpoint)).await
    }

    /// Both ends are where they belong from the first moment on.
    async fn add_pair(
        &mut self,
        first: &EndpointPlan,
        second: &EndpointPlan,
        mtu: u32,
    ) -> Result<()> {
        self.enter(&Place::Inside(second.namespace.clone())).await?;
        let Some((_, there)) = self.entered.take() else {
            return Err(Error::failed(format!("cannot enter {}", second.namespace)));
        };
        let netlink = self.enter(&Place::Inside(first.namespace.clone())).await?;
        let veth = NewVeth {
            name: first.inside.as_str(),
            mac: first.mac,
            peer: second.inside.as_str(),
            peer_mac: second.mac,
            peer_netns: std::os::fd::AsFd::as_fd(&there.netns),
            mtu,
        };
        netlink.add_veth(veth).await
    }

    /// A connection into a place, and the index of an interface there. It is looked
    /// up once: whoever changes interfaces meanwhile makes a step fail.
    pub(super) async fn find(&mut self, place: &Place, link: &str) -> Result<(Netlink, u32)> {
        let netlink = self.enter(place).await?;
        let key = (place.namespace().cloned(), link.to_owned());
        if let Some(&index) = self.indexes.get(&key) {
            return Ok((netlink, index));
        }
        let index = netlink.index(link).await?;
        self.indexes.insert(key, index);
        Ok((netlink, index))
    }

    /// A connection into a place.
    async fn enter(&mut self, place: &Place) -> Result<Netlink> {
        let name = match place {
            Place::Host | Place::HostSide(_) => return Ok(self.netlink.clone()),
            Place::Inside(name) => name,
        };
        if let Some((last, entered)) = &self.entered
            && last == name
        {
            return Ok(entered.netlink.clone());
        }
        let Named::Namespace(netns) = netns::look_up(name.as_str())? else {
            return Err(Error::failed(format!("the namespace {name} is gone")));
        };
        let entered = self.worker.enter(netns).await?;
        if self.journal.namespaces.get(name) != Some(&entered.id) {
            return Err(netns::taken(name.as_str()));
        }
        let netlink = entered.netlink.clone();
        self.entered = Some((name.clone(), entered));
        Ok(netlink)
    }
}
