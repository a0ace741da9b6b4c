//! The datapath made of eBPF programs.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use netbpf_common::{
    ABI_VERSION, Endpoint, EndpointId, MacAddr, PublishEntry, Uplink,
    maps::{self, Addresses, ConfigMap, Endpoints, MapDef as _, Subnets, Uplinks},
};

use super::Datapath;
use crate::{
    bpf::{self, Hook, LoadOptions, Map},
    error::{Error, Result},
    observe::DatapathSeen,
    topology::Subnet,
};

/// The datapath made of eBPF programs, pinned in a directory.
#[derive(Debug)]
pub struct Ebpf {
    pin_dir: PathBuf,
    /// Nothing, too, if what is pinned is only parts of one.
    loaded: Option<bpf::Datapath>,
}

impl Ebpf {
    /// The datapath that is pinned, or will be, in a directory. One of which
    /// something is missing counts as none.
    ///
    /// # Errors
    /// One is there that is another netbpf's.
    pub fn open(pin_dir: &Path) -> Result<Self> {
        let loaded = match bpf::Datapath::open(pin_dir) {
            _ if is_damaged(pin_dir) => None,
            opened => opened?,
        };
        Ok(Self { pin_dir: pin_dir.to_owned(), loaded })
    }

    /// The same, but one that cannot be used counts as none: it can still be
    /// taken away.
    #[must_use]
    pub fn open_to_remove(pin_dir: &Path) -> Self {
        let loaded = Self::open(pin_dir).ok().and_then(|opened| opened.loaded);
        Self { pin_dir: pin_dir.to_owned(), loaded }
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
    let whole = maps::NAMES.iter().all(|name| is_pinned("maps", name))
        && Hook::ALL.iter().all(|hook| is_pinned("programs", hook.program()));
    pin_dir.exists() && of_this_netbpf && !whole
}

impl Datapath for Ebpf {
    fn name(&self) -> &'static str {
        "ebpf"
    }

    fn probe(&self) -> Result<()> {
        bpf::probe().map(|_| ())
    }

    fn observe(&self, hooks: &[(Hook, u32)]) -> Result<Option<DatapathSeen>> {
        let Some(loaded) = &self.loaded else { return Ok(None) };
        let mut seen = DatapathSeen {
            options: loaded.options()?,
            published: loaded.published()?,
            ..DatapathSeen::default()
        };
        loaded.map::<Endpoints>()?.for_each(|&id, endpoint| {
            if let (Ok(id), true) = (u16::try_from(id), endpoint.ifindex != 0) {
                seen.endpoints.insert(id, *endpoint);
            }
            Ok(())
        })?;
        loaded.map::<Uplinks>()?.for_each(|&ifindex, uplink| {
            seen.uplinks.insert(ifindex, *uplink);
            Ok(())
        })?;
        loaded.map::<Addresses>()?.for_each(|&addr, &endpoint| {
            if endpoint == EndpointId::NONE.index() {
                seen.gateways.insert(addr.into());
            }
            Ok(())
        })?;
        loaded.map::<Subnets>()?.for_each(|key, _| {
            seen.subnets.extend(u8::try_from(key.prefix_len).map(|len| (key.addr.into(), len)));
            Ok(())
        })?;
        for &(hook, ifindex) in hooks {
            if loaded.attached(hook, ifindex)? {
                seen.attached.insert((hook, ifindex));
            }
        }
        Ok(Some(seen))
    }

    fn load(&mut self, options: &LoadOptions) -> Result<()> {
        if is_damaged(&self.pin_dir) {
            bpf::Datapath::unload(&self.pin_dir)?;
        }
        self.loaded = Some(bpf::Datapath::load(&self.pin_dir, options)?);
        Ok(())
    }

    fn unload(&mut self) -> Result<()> {
        self.loaded = None;
        bpf::Datapath::unload(&self.pin_dir)
    }

    fn set_endpoint(&self, id: EndpointId, endpoint: &Endpoint) -> Result<()> {
        self.loaded()?.set_endpoint(id, endpoint)
    }

    fn clear_endpoint(&self, id: EndpointId) -> Result<()> {
        match &self.loaded {
            Some(loaded) => loaded.clear_endpoint(id).map(|_| ()),
            None => Ok(()),
        }
    }

    fn set_gateway(&self, addr: Ipv4Addr, mac: MacAddr) -> Result<()> {
        self.loaded()?.set_gateway(addr.into(), mac)
    }

    fn clear_gateway(&self, addr: Ipv4Addr, mac: MacAddr) -> Result<()> {
        self.loaded.as_ref().map_or(Ok(()), |loaded| loaded.clear_gateway(addr.into(), mac))
    }

    fn set_subnet(&self, subnet: Subnet) -> Result<()> {
        self.loaded()?.set_subnet(subnet.addr().into(), subnet.prefix_len())
    }

    fn clear_subnet(&self, subnet: Subnet) -> Result<()> {
        let (addr, len) = (subnet.addr().into(), subnet.prefix_len());
        self.loaded.as_ref().map_or(Ok(()), |loaded| loaded.clear_subnet(addr, len))
    }

    fn set_uplink(&self, ifindex: u32, uplink: &Uplink) -> Result<()> {
        self.loaded()?.set_uplink(ifindex, uplink)
    }

    fn clear_uplink(&self, ifindex: u32) -> Result<()> {
        self.loaded.as_ref().map_or(Ok(()), |loaded| loaded.clear_uplink(ifindex))
    }

    fn set_published(&self, all: &[PublishEntry]) -> Result<()> {
        self.loaded()?.set_published(all)
    }

    fn withdraw(&self, left: &[PublishEntry]) -> Result<()> {
        self.loaded.as_ref().map_or(Ok(()), |loaded| loaded.set_published(left))
    }

    fn attach(&self, hook: Hook, ifindex: u32) -> Result<()> {
        self.loaded()?.attach(hook, ifindex)
    }

    fn detach(&self, hook: Hook, ifindex: u32) -> Result<()> {
        bpf::Datapath::detach(&self.pin_dir, hook, ifindex)
    }
}
