//! The datapath made of eBPF programs.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use netbpf_common::{
    ABI_VERSION, AllowedPair, Endpoint, EndpointId, MacAddr, PublishEntry, Tuple, Uplink,
    maps::{self, ConfigMap, MapDef as _},
};

use super::{Datapath, Kind, known::Known};
use crate::{
    bpf::{self, Hook, LoadOptions, Map, Stray},
    error::{Error, Result},
    observe::{DatapathSeen, Observed, Shared},
    topology::{LOOPBACK, Subnet},
};

/// The datapath made of eBPF programs, pinned in a directory.
#[derive(Debug)]
pub struct Ebpf {
    pin_dir: PathBuf,
    /// Nothing, too, if what is pinned is only parts of one.
    loaded: Option<bpf::Datapath>,
    /// The pins that are to be made again before it can be looked into.
    lost: Vec<String>,
}

impl Ebpf {
    /// The datapath that is pinned, or will be, in a directory. One of which
    /// something is missing counts as none.
    ///
    /// # Errors
    /// One is there that is another netbpf's.
    pub fn open(pin_dir: &Path) -> Result<Self> {
        let mut lost = Vec::new();
        let loaded = match bpf::Datapath::open(pin_dir) {
            _ if is_damaged(pin_dir) => {
                lost = bpf::lost(pin_dir)?.unwrap_or_default();
                None
            }
            opened => opened?,
        };
        Ok(Self { pin_dir: pin_dir.to_owned(), loaded, lost })
    }

    /// The same, but one that cannot be used counts as none: it can still be
    /// taken away.
    #[must_use]
    pub fn open_to_remove(pin_dir: &Path) -> Self {
        let loaded = Self::open(pin_dir).ok().and_then(|opened| opened.loaded);
        Self { pin_dir: pin_dir.to_owned(), loaded, lost: Vec::new() }
    }

    /// Its maps, if it is loaded.
    #[must_use]
    pub fn maps(&self) -> Option<&bpf::Datapath> {
        self.loaded.as_ref()
    }

    /// The exchange of its programs.
    #[must_use]
    pub fn upgrade(&self) -> bpf::Upgrade {
        bpf::Upgrade::of(&self.pin_dir)
    }

    fn loaded(&self) -> Result<&bpf::Datapath> {
        self.loaded.as_ref().ok_or_else(|| {
            Error::failed("the datapath is not loaded")
                .because(format!("nothing is pinned in {}", self.pin_dir.display()))
                .hint("take the network down and up again: netbpf down; netbpf up ...")
        })
    }
}

/// Whether there is a datapath of this netbpf, of which something was removed.
fn is_damaged(pin_dir: &Path) -> bool {
    let is_pinned = |sub: &str, name: &str| pin_dir.join(sub).join(name).exists();
    let of_this_netbpf = match Map::<ConfigMap>::open(pin_dir).and_then(|map| map.get(&0)) {
        Ok(config) => config.is_none_or(|config| config.abi_version == ABI_VERSION),
        Err(_) => !is_pinned("maps", ConfigMap::NAME),
    };
    let is_there = |hook: &Hook| hook.is_on_demand() || is_pinned("programs", hook.program());
    let whole =
        maps::NAMES.iter().all(|name| is_pinned("maps", name)) && Hook::ALL.iter().all(is_there);
    // What else is pinned is of no use without, but can be had again.
    let whole = whole && bpf::lost(pin_dir).is_ok_and(|lost| lost.is_some_and(|it| it.is_empty()));
    pin_dir.exists() && of_this_netbpf && !whole
}

impl Datapath for Ebpf {
    fn kind(&self) -> Kind {
        Kind::Ebpf
    }

    fn probe(&self) -> Result<()> {
        bpf::probe().map(|_| ())
    }

    fn observe(&self, observed: &mut Observed) -> Result<()> {
        observed.datapath = self.seen(observed)?;
        Ok(())
    }
}

/// Where it should be attached for the recorded networks.
fn hooks(observed: &Observed) -> Vec<(Hook, u32)> {
    let index = |name: &str| observed.link(name).map(|link| link.index);
    let mut hooks = Vec::new();
    for network in observed.networks_of(Kind::Ebpf) {
        let topology = &network.topology;
        for endpoint in topology.all_endpoints() {
            hooks.extend(index(endpoint.link.as_str()).map(|index| (Hook::FromEndpoint, index)));
        }
        for uplink in &topology.uplinks {
            let index = index(uplink.name.as_str());
            hooks.extend(
                index.into_iter().flat_map(|index| uplink.hooks().map(|hook| (hook, index))),
            );
        }
    }
    hooks.extend(index(LOOPBACK).map(|index| (Hook::FromHost, index)));
    hooks
}

/// Setting a row that is set and clearing one that is not are no errors.
impl Ebpf {
    /// What there is of it, for the recorded networks.
    fn seen(&self, observed: &Observed) -> Result<Option<DatapathSeen>> {
        let Some(loaded) = &self.loaded else {
            let lost = self.lost.clone();
            let is_whole = !lost.is_empty();
            return Ok(is_whole.then(|| DatapathSeen { lost, ..DatapathSeen::default() }));
        };
        let image = loaded.image()?;
        let known = Known::of(observed);
        let mut seen = DatapathSeen {
            options: loaded.options()?,
            build: loaded.build()?,
            is_between: self.upgrade().look()?.is_some_and(|standing| standing.is_interrupted),
            published: loaded.published()?,
            gateways: known.gateways(&image),
            skewed: known.skewed(&image),
            strays: known.strays(&image),
            allowed: image.allowed.into_iter().collect(),
            uplinks: image.uplinks,
            endpoints: image.endpoints,
            ..DatapathSeen::default()
        };
        for (addr, len) in image.subnets {
            seen.subnets.extend(u8::try_from(len).map(|len| (addr.into(), len)));
        }
        for (is_right, what) in [
            (loaded.has_timeouts()?, Shared::Timeouts),
            (loaded.has_port_secret()?, Shared::PortSecret),
            (loaded.has_programs()?, Shared::Programs),
            (loaded.has_published_bits()?, Shared::PublishedBits),
        ] {
            seen.changed.extend((!is_right).then_some(what));
        }
        let hooks = hooks(observed);
        let devices: BTreeSet<u32> = hooks.iter().map(|(_, ifindex)| *ifindex).collect();
        seen.strays.extend(loaded.copies(devices.into_iter())?);
        for (hook, ifindex) in hooks {
            if loaded.attached(hook, ifindex)? {
                seen.attached.insert((hook, ifindex));
            }
        }
        Ok(Some(seen))
    }

    /// Looks at the flows as well, once all else is seen: a million of them take seconds.
    ///
    /// # Errors
    /// What the maps say.
    pub fn look_at_flows(&self, observed: &mut Observed) -> Result<()> {
        let Some(loaded) = &self.loaded else { return Ok(()) };
        let places = Known::of(observed).places(&loaded.image()?);
        let flaws = loaded.flaws(&places)?;
        if let Some(seen) = &mut observed.datapath {
            seen.flaws = flaws;
        }
        Ok(())
    }

    /// Ends broken flows; returns how many.
    ///
    /// # Errors
    /// The kernel's.
    pub fn end_broken(&self, entries: &[Tuple]) -> Result<u64> {
        self.loaded()?.end_broken(entries)
    }

    /// Puts the counts of flows right.
    ///
    /// # Errors
    /// What the maps say.
    pub fn count_flows(&self) -> Result<()> {
        self.loaded()?.count_again()
    }

    /// Makes outside ports follow from the secret that is noted.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_port_secret(&self) -> Result<()> {
        self.loaded()?.set_port_secret()
    }

    /// Loads it: no packet passes by it yet.
    ///
    /// # Errors
    /// The kernel's.
    pub fn load(&mut self, options: &LoadOptions) -> Result<()> {
        if is_damaged(&self.pin_dir) {
            bpf::Datapath::unload(&self.pin_dir)?;
        }
        self.loaded = Some(bpf::Datapath::load(&self.pin_dir, options)?);
        Ok(())
    }

    /// Makes pins again that are gone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn repin(&mut self) -> Result<()> {
        bpf::repin(&self.pin_dir)?;
        self.lost = Vec::new();
        self.loaded = bpf::Datapath::open(&self.pin_dir)?;
        Ok(())
    }

    /// Takes all of it away.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unload(&mut self) -> Result<()> {
        self.loaded = None;
        bpf::Datapath::unload(&self.pin_dir)
    }

    /// Tells it of a namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_endpoint(&self, id: EndpointId, endpoint: &Endpoint) -> Result<()> {
        self.loaded()?.set_endpoint(id, endpoint)
    }

    /// Tells it which of some isolated namespaces reach each other, and others.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_allowed(&self, endpoints: &[EndpointId], pairs: &[AllowedPair]) -> Result<()> {
        self.loaded()?.set_allowed(endpoints, pairs)
    }

    /// Makes it forget all pairs with one of some namespaces.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear_allowed(&self, endpoints: &[EndpointId]) -> Result<()> {
        self.loaded.as_ref().map_or(Ok(()), |loaded| loaded.set_allowed(endpoints, &[]))
    }

    /// Makes it forget a namespace and its flows; returns how many those were.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear_endpoint(&self, id: EndpointId) -> Result<u64> {
        self.loaded.as_ref().map_or(Ok(0), |loaded| loaded.clear_endpoint(id))
    }

    /// Tells it of a gateway.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_gateway(&self, addr: Ipv4Addr, mac: MacAddr) -> Result<()> {
        self.loaded()?.set_gateway(addr.into(), mac)
    }

    /// Makes it forget a gateway.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear_gateway(&self, addr: Ipv4Addr, mac: MacAddr) -> Result<()> {
        self.loaded.as_ref().map_or(Ok(()), |loaded| loaded.clear_gateway(addr.into(), mac))
    }

    /// Tells it of a network's subnet.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_subnet(&self, subnet: Subnet) -> Result<()> {
        self.loaded()?.set_subnet(subnet.addr().into(), subnet.prefix_len())
    }

    /// Makes it forget a network's subnet.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear_subnet(&self, subnet: Subnet) -> Result<()> {
        let (addr, len) = (subnet.addr().into(), subnet.prefix_len());
        self.loaded.as_ref().map_or(Ok(()), |loaded| loaded.clear_subnet(addr, len))
    }

    /// Tells it of an uplink.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_uplink(&self, ifindex: u32, uplink: &Uplink) -> Result<()> {
        self.loaded()?.set_uplink(ifindex, uplink)
    }

    /// Makes it forget an uplink and the flows that leave by it; returns how many
    /// those were.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear_uplink(&self, ifindex: u32) -> Result<u64> {
        self.loaded.as_ref().map_or(Ok(0), |loaded| loaded.clear_uplink(ifindex))
    }

    /// Sets how long flows may be idle.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_timeouts(&self) -> Result<()> {
        self.loaded()?.set_timeouts()
    }

    /// Makes it hand over what is rare to the programs for it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_programs(&self) -> Result<()> {
        self.loaded()?.set_programs()
    }

    /// Makes it forget what belongs to no network; returns how many flows ended.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear_stray(&self, stray: &Stray) -> Result<u64> {
        self.loaded.as_ref().map_or(Ok(0), |loaded| loaded.clear_stray(stray))
    }

    /// Makes it forget an interface, if that is gone: what was attached there, and that
    /// it was an uplink.
    ///
    /// # Errors
    /// The kernel's.
    pub fn forget_if_gone(&self, ifindex: u32) -> Result<()> {
        if bpf::interface(ifindex).is_some() {
            return Ok(());
        }
        Hook::ALL.into_iter().try_for_each(|hook| self.detach(hook, ifindex))?;
        self.clear_uplink(ifindex).map(drop)
    }

    /// Replaces the published ports of all networks; returns how many flows ended.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_published(&self, all: &[PublishEntry]) -> Result<u64> {
        self.loaded()?.set_published(all)
    }

    /// The same with fewer than there were; nothing is to be done if it is not loaded.
    ///
    /// # Errors
    /// The kernel's.
    pub fn withdraw(&self, left: &[PublishEntry]) -> Result<u64> {
        self.loaded.as_ref().map_or(Ok(0), |loaded| loaded.set_published(left))
    }

    /// From now on packets of the interface pass by it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn attach(&self, hook: Hook, ifindex: u32) -> Result<()> {
        self.loaded()?.attach(hook, ifindex)
    }

    /// Packets of the interface, which may be gone, pass by it no longer.
    ///
    /// # Errors
    /// The kernel's.
    pub fn detach(&self, hook: Hook, ifindex: u32) -> Result<()> {
        bpf::Datapath::detach(&self.pin_dir, hook, ifindex)
    }
}
