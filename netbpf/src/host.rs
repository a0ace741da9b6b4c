//! The host: the network namespace that netbpf is started in, and where its
//! things are.

use std::{fs, path::PathBuf};

use crate::{
    bpf::{self, Cover},
    datapath::Kind,
    error::{Context as _, Error, Result},
    names::{Name, Names},
    net::NetnsId,
    state::{Lock, Recorded, Store},
    topology::Topology,
};

/// Where networks are remembered, a directory per host.
pub(crate) const RUN: &str = "/run/netbpf";

/// Where datapaths are pinned, a directory per host.
pub(crate) const PINS: &str = "/sys/fs/bpf/netbpf";

/// Bits of `CapEff` in `/proc/self/status` that netbpf needs, and their names.
pub(crate) const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// A host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its network namespace.
    pub id: NetnsId,
    /// Where its datapath is pinned.
    pub pins: PathBuf,
    /// Where its networks are remembered.
    pub store: Store,
}

impl Host {
    /// The host that this process is on.
    ///
    /// # Errors
    /// The kernel does not tell which one it is.
    pub fn here() -> Result<Self> {
        let id = NetnsId::here()?;
        let name = id.cookie.to_string();
        Ok(Self {
            id,
            pins: PathBuf::from(PINS).join(&name),
            store: Store::new(PathBuf::from(RUN).join(&name)),
        })
    }

    /// The same, to be looked at and not changed: if something hides the datapath's pins, the
    /// calling thread goes to a mount namespace of its own, in which nothing does.
    ///
    /// # Errors
    /// The kernel does not tell, or refuses.
    pub fn to_look_at() -> Result<Self> {
        let host = Self::here()?;
        if host.cover()?.is_some() {
            bpf::look_beneath(&host.pins)?;
        }
        Ok(host)
    }

    /// What the endpoints of its networks are called.
    ///
    /// # Errors
    /// What is remembered cannot be read.
    pub fn names(&self) -> Result<Names> {
        let networks = self.store.networks()?;
        let networks = networks.iter().filter(|network| !network.topology.direct);
        let endpoints = networks.flat_map(|network| {
            network.topology.all_endpoints().map(|endpoint| {
                let name = Name {
                    network: network.topology.name.to_string(),
                    ns: endpoint.namespace.to_string(),
                };
                (endpoint.endpoint_id(), name)
            })
        });
        Ok(endpoints.collect())
    }

    /// What hides the datapath's pins, if a network has one and they are hidden.
    ///
    /// # Errors
    /// What is remembered cannot be read.
    pub fn cover(&self) -> Result<Option<Cover>> {
        let has_datapath = |network: &Recorded| {
            let Topology { direct, datapath, former, .. } = network.topology;
            !direct && (datapath == Kind::Ebpf || former == Some(Kind::Ebpf))
        };
        let is_needed = self.store.networks()?.iter().any(has_datapath);
        Ok(Some(&self.pins).filter(|_| is_needed).and_then(|pins| bpf::cover(pins)))
    }

    /// Waits for the right to change something, and puts right what is in the way of it:
    /// grace periods that a killed run has left short, what an earlier boot has left, and
    /// what hides the datapath's pins.
    ///
    /// # Errors
    /// Another run does not end, what hides the pins is in use, or the file system's.
    pub fn hold(&self) -> Result<Lock> {
        let lock = self.store.lock()?;
        bpf::put_back_grace_periods();
        self.store.forget_earlier_boots()?;
        self.uncover()?;
        Ok(lock)
    }

    /// Takes away what hides the datapath's pins. The host's lock must be held.
    ///
    /// # Errors
    /// It is in use.
    fn uncover(&self) -> Result<()> {
        match self.cover()? {
            Some(_) => bpf::uncover(&self.pins),
            None => Ok(()),
        }
    }

    /// Takes away the directory of all hosts' pins, if none is left in it.
    pub fn tidy_pins(&self) {
        if let Some(all) = self.pins.parent() {
            // It stays as long as there is something in it.
            let _ = fs::remove_dir(all);
        }
    }
}

/// The effective capabilities of this process, a bit each.
///
/// # Errors
/// The kernel does not tell.
pub(crate) fn effective_capabilities() -> Result<u64> {
    let path = "/proc/self/status";
    let status = fs::read_to_string(path).context(format!("cannot read {path}"))?;
    Ok(status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or_default())
}

/// Checks that this process may do what `verb` needs.
///
/// # Errors
/// It may not.
pub fn require_privileges(verb: &str) -> Result<()> {
    let effective = effective_capabilities()?;
    match CAPABILITIES.iter().find(|(bit, _)| effective >> bit & 1 == 0) {
        None => Ok(()),
        Some((_, lacking)) => Err(Error::failed(format!("netbpf {verb} needs to be run as root"))
            .because(format!("this process lacks {lacking}"))
            .hint(format!("try: sudo netbpf {verb} ..."))),
    }
}
