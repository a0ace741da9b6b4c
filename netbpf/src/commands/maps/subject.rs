//! The datapaths that are looked at, and the names of their endpoints.

use netbpf_common::EndpointId;

use crate::{
    bpf::Datapath,
    datapath::Kind,
    error::{Error, Result},
    host::Host,
    names::Names,
    topology::Topology,
};

/// The datapaths that are looked at, and the names of their endpoints.
#[derive(Clone, Debug)]
pub struct Subject {
    ebpf: Option<Datapath>,
    /// The networks of iptables.
    pub classical: Vec<Topology>,
    /// What endpoints are called.
    pub names: Names,
}

impl Subject {
    /// Opens the datapaths of a host.
    ///
    /// # Errors
    /// There are none, or one is another netbpf's.
    pub fn open(host: &Host) -> Result<Self> {
        let ebpf = Datapath::open(&host.pins)?;
        let networks = host.store.networks()?;
        let topologies = networks.into_iter().map(|network| network.topology);
        let classical: Vec<Topology> =
            topologies.filter(|topology| topology.datapath == Kind::Iptables).collect();
        if ebpf.is_none() && classical.is_empty() {
            return Err(Error::failed("no datapath is loaded in this network namespace")
                .hint("bring a network up first: `netbpf up --namespaces 3`"));
        }
        Ok(Self { ebpf, classical, names: host.names()? })
    }

    /// The eBPF datapath, whose maps are looked into.
    ///
    /// # Errors
    /// All networks of the host are of iptables.
    pub fn datapath(&self) -> Result<&Datapath> {
        self.ebpf.as_ref().ok_or_else(|| {
            Error::failed("only the eBPF datapath has these maps")
                .because("this host's networks have the iptables datapath")
                .hint(
                    "`netbpf maps flows`, `endpoints` and `publish` show these, too; \
                     `bridge fdb` shows MACs, `iptables -vnL` counts packets",
                )
        })
    }

    /// The same, if it is loaded.
    #[must_use]
    pub fn ebpf(&self) -> Option<&Datapath> {
        self.ebpf.as_ref()
    }

    /// The endpoint that the namespace is.
    pub(super) fn endpoint(&self, ns: &str) -> Result<EndpointId> {
        self.names.find(ns).ok_or_else(|| {
            let known: Vec<&str> = self.names.namespaces().collect();
            Error::usage(format!("no network of this host has a namespace {ns}")).hint(
                if known.is_empty() {
                    "`netbpf status` shows the networks".to_owned()
                } else {
                    format!("there are {}", known.join(", "))
                },
            )
        })
    }
}
