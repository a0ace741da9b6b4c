//! What there is: everything that validation and planning look at, as plain
//! data, and how it is collected.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::Ipv4Addr,
};

use netbpf_common::{Endpoint, PublishEntry, Uplink};

use crate::{
    bpf::{Build, Hook, LoadOptions},
    datapath::{Datapaths, Kind},
    error::Result,
    net::{
        Address, FdbRow, Link, Netlink, Route, Worker,
        netns::{self, Named},
        sysctl::{self, Switch},
    },
    state::{Recorded, Store},
    topology::{LinkName, NamespaceName, Topology},
};

pub use crate::datapath::iptables::RulesSeen;

/// What there is on the host.
#[derive(Clone, Default, Debug)]
pub struct Observed {
    /// Interfaces of the host.
    pub links: Vec<Link>,
    /// Its IPv4 addresses.
    pub addresses: Vec<Address>,
    /// Its IPv4 routes.
    pub routes: Vec<Route>,
    /// The forwarding databases of its bridges.
    pub fdb: Vec<FdbRow>,
    /// The switches that are on.
    pub switches: BTreeSet<Switch>,
    /// Those that were switched on for a network, and are to be put back.
    pub switched: BTreeSet<Switch>,
    /// Names of namespaces that are taken, whatever by.
    pub namespaces: BTreeSet<String>,
    /// The namespaces of recorded networks.
    pub inside: BTreeMap<NamespaceName, Inside>,
    /// The recorded networks.
    pub networks: Vec<Recorded>,
    /// The host's eBPF datapath; nothing if none is loaded.
    pub datapath: Option<DatapathSeen>,
    /// The rules of iptables in chains of recorded networks, and those that lead
    /// there; not looked at where no network has any.
    pub rules: RulesSeen,
    /// Bridges of recorded networks whose `route_localnet` is on.
    pub localnet: BTreeSet<LinkName>,
    /// Whether bridges have their packets judged by iptables.
    pub judged: bool,
    /// Bridges of recorded networks that drop what they would reflect; not looked
    /// at where no network has rules of iptables.
    pub unreflecting: BTreeSet<LinkName>,
}

/// What there is under the name of a namespace of a recorded network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Inside {
    /// Nothing.
    Missing,
    /// A file that is no namespace.
    File,
    /// A namespace that is not the one that was made.
    Foreign,
    /// The namespace, and what is in it.
    Ours {
        /// Its interfaces.
        links: Vec<Link>,
        /// Its addresses.
        addresses: Vec<Address>,
        /// Its routes.
        routes: Vec<Route>,
    },
}

/// What there is of the eBPF datapath.
#[derive(Clone, Default, Debug)]
pub struct DatapathSeen {
    /// What it was loaded with.
    pub options: LoadOptions,
    /// Of which build its programs are; nothing if their netbpf did not say so yet.
    pub build: Option<Build>,
    /// Whether an upgrade of them was interrupted.
    pub is_between: bool,
    /// Its endpoints.
    pub endpoints: HashMap<u16, Endpoint>,
    /// Its uplinks by interface index.
    pub uplinks: HashMap<u32, Uplink>,
    /// The gateways whose addresses it knows.
    pub gateways: HashSet<Ipv4Addr>,
    /// The networks' subnets that it knows, by address and prefix.
    pub subnets: HashSet<(Ipv4Addr, u8)>,
    /// Its published ports.
    pub published: Vec<PublishEntry>,
    /// What is attached, of what was asked about.
    pub attached: HashSet<(Hook, u32)>,
}

impl Observed {
    /// The interface of that name.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The recorded network of that name.
    #[must_use]
    pub fn network(&self, name: &str) -> Option<&Recorded> {
        self.networks.iter().find(|network| network.topology.name.as_str() == name)
    }

    /// The recorded networks that a datapath of the host serves, but the one of that name.
    pub fn others<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Recorded> {
        let networks = self.networks.iter().filter(|network| !network.topology.direct);
        networks.filter(move |network| network.topology.name.as_str() != name)
    }

    /// The recorded networks that have a kind of datapath, or are being switched from it.
    pub fn networks_of(&self, kind: Kind) -> impl Iterator<Item = &Recorded> {
        self.networks.iter().filter(move |network| {
            let Topology { datapath, former, direct, .. } = network.topology;
            !direct && (datapath == kind || former == Some(kind))
        })
    }

    /// Those but the given one.
    pub fn others_of<'a>(
        &'a self,
        one: &'a Topology,
        kind: Kind,
    ) -> impl Iterator<Item = &'a Recorded> {
        self.networks_of(kind).filter(move |other| other.topology.name != one.name)
    }

    /// The address that translated packets of the uplink carry: its primary one.
    #[must_use]
    pub fn uplink_address(&self, uplink: &Link) -> Option<&Address> {
        let mut all = self.addresses.iter().filter(|address| address.ifindex == uplink.index);
        all.find(|address| address.global && !address.secondary)
    }

    /// Looks at the host, its recorded networks and its datapaths.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn collect(
        netlink: &Netlink,
        worker: &Worker,
        datapaths: &Datapaths,
        store: &Store,
    ) -> Result<Self> {
        let networks = store.networks()?;
        let links = netlink.links().await?;
        let mut inside = BTreeMap::new();
        for network in &networks {
            for endpoint in network.topology.all_endpoints() {
                let name = &endpoint.namespace;
                inside.insert(name.clone(), look_inside(worker, network, name).await?);
            }
        }
        let mut switches = BTreeSet::new();
        for switch in Switch::ALL {
            switches.extend(switch.is_on()?.then_some(switch));
        }
        let mut localnet = BTreeSet::new();
        for network in &networks {
            let bridge = &network.topology.name;
            if sysctl::routes_localnet(bridge.as_str())? {
                localnet.insert(bridge.clone());
            }
        }
        let mut observed = Self {
            links,
            addresses: netlink.addresses().await?,
            routes: netlink.routes().await?,
            fdb: netlink.fdb().await?,
            switches,
            switched: store.kept_sysctls()?.into_keys().collect(),
            namespaces: netns::names()?.into_iter().collect(),
            inside,
            networks,
            datapath: None,
            rules: RulesSeen::default(),
            localnet,
            judged: sysctl::judges_bridged(),
            unreflecting: BTreeSet::new(),
        };
        for datapath in datapaths.all() {
            datapath.observe(&mut observed)?;
        }
        Ok(observed)
    }
}

/// Looks at a namespace of a recorded network.
async fn look_inside(worker: &Worker, network: &Recorded, name: &NamespaceName) -> Result<Inside> {
    let netns = match netns::look_up(name.as_str())? {
        Named::Nothing => return Ok(Inside::Missing),
        Named::File => return Ok(Inside::File),
        Named::Namespace(netns) => netns,
    };
    let entered = worker.enter(netns).await?;
    // The identity is recorded before the name is given, so a namespace without
    // a record is somebody else's.
    if network.journal.namespaces.get(name) != Some(&entered.id) {
        return Ok(Inside::Foreign);
    }
    Ok(Inside::Ours {
        links: entered.netlink.links().await?,
        addresses: entered.netlink.addresses().await?,
        routes: entered.netlink.routes().await?,
    })
}
