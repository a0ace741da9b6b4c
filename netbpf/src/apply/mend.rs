//! What the steps do that put right what somebody has changed.

use netbpf_common::Tuple;

use super::Apply;
use crate::{
    error::{Error, Result},
    net::{
        Link,
        netns::{self, Named},
    },
    plan::{Place, Step},
    state::Entry,
    topology::NamespaceName,
};

impl Apply<'_> {
    /// Runs a step that puts something right, or takes what is there.
    pub(super) async fn run_mending(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::SetMac { place, link, mac } => {
                let (netlink, index) = self.find(place, link).await?;
                netlink.set_mac(index, *mac).await
            }
            Step::Rename { place, from, to } => {
                let (netlink, index) = self.find(place, from).await?;
                netlink.rename(index, to.as_str()).await
            }
            Step::NameNamespace { name } => self.name_namespace(name).await,
            Step::BorrowNamespace { name, adoption } => self.borrow_namespace(name, adoption).await,
            Step::AdoptNamespace { name } => self.adopt_namespace(name).await,
            Step::DeleteAddress { place, link, addr, prefix_len } => {
                let (netlink, index) = self.find(place, link).await?;
                netlink.delete_address(index, *addr, *prefix_len).await
            }
            Step::DeleteDefaultRoute { namespace, link, gateway, metric } => {
                let place = Place::Inside(namespace.clone());
                let (netlink, index) = self.find(&place, link.as_str()).await?;
                netlink.delete_default_route(*gateway, index, *metric).await
            }
            Step::Repin { .. } => self.datapaths.ebpf.repin(),
            Step::SetTimeouts => self.datapaths.ebpf.set_timeouts(),
            Step::SetPortSecret => self.datapaths.ebpf.set_port_secret(),
            Step::EndBroken { entries } => {
                let entries: Vec<Tuple> = entries.values().flatten().copied().collect();
                let ended = self.datapaths.ebpf.end_broken(&entries)?;
                self.ended_flows += ended;
                let flows = if ended == 1 { "flow was" } else { "flows were" };
                self.warnings.push(format!("{ended} broken {flows} ended"));
                Ok(())
            }
            Step::CountFlows => self.datapaths.ebpf.count_flows(),
            Step::SetPrograms => self.datapaths.ebpf.set_programs(),
            Step::ClearStray { stray } => {
                self.ended_flows += self.datapaths.ebpf.clear_stray(stray)?;
                Ok(())
            }
            step => self.run_removal(step).await,
        }
    }

    /// Gives a namespace the name that it had. A process in it leads there.
    async fn name_namespace(&mut self, name: &NamespaceName) -> Result<()> {
        let gone = || Error::failed(format!("the namespace {name} is gone"));
        let noted = self.journal.namespaces.get(name).copied().ok_or_else(gone)?;
        let netns = netns::of_process(noted.inode).ok_or_else(gone)?;
        let entered = self.worker.enter(netns).await?;
        if entered.id != noted {
            return Err(gone());
        }
        if netns::is_empty(name.as_str()) {
            netns::remove_name(name.as_str())?;
        }
        netns::give_name(&entered.netns, name.as_str())?;
        self.entered = Some((name.clone(), entered));
        Ok(())
    }

    /// Takes the namespace of that name for the network's, if there is still nothing in it.
    async fn adopt_namespace(&mut self, name: &NamespaceName) -> Result<()> {
        let Named::Namespace(netns) = netns::look_up(name.as_str())? else {
            return Err(Error::failed(format!("the namespace {name} is gone")));
        };
        let entered = self.worker.enter(netns).await?;
        if !entered.netlink.links().await?.iter().all(Link::is_the_kernels) {
            return Err(netns::taken(name.as_str()));
        }
        self.note(Entry::Netns { name: name.clone(), id: entered.id })?;
        self.entered = Some((name.clone(), entered));
        Ok(())
    }
}
