//! What there is: everything that validation and planning look at, as plain
//! data, and how it is collected.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::File,
    net::Ipv4Addr,
};

use netbpf_common::{AllowedPair, Endpoint, PublishEntry, Uplink};

use crate::{
    bpf::{Build, Flaws, Hook, LoadOptions, Stray},
    datapath::{Datapaths, Kind},
    error::Result,
    net::{
        Address, Entered, FdbRow, Link, Netlink, NetnsId, Route, Worker,
        ctnetlink::apart,
        netns::{self, Named},
        sysctl::{self, Switch},
    },
    state::{Recorded, Store},
    topology::{EndpointPlan, LinkName, NamespaceName, Origin, Request, Topology},
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
    /// Those of them that have lost their names, and that processes are in all the same.
    pub nameless: BTreeSet<NamespaceName>,
    /// Names under which there is another namespace, with nothing in it that somebody
    /// would have put there.
    pub vacant: BTreeSet<NamespaceName>,
    /// Interfaces of recorded networks that have been given other names, with those. (All
    /// else tells of them by the names that they should have.)
    pub renamed: BTreeMap<(Option<NamespaceName>, LinkName), String>,
    /// Namespaces that are asked for and that exist already, by the names that they have or
    /// are to have; see [`Observed::find`].
    pub found: BTreeMap<NamespaceName, Found>,
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
    /// By bridges of recorded networks: the chain by which rules of their own say what they
    /// forward between some of their ports.
    pub apart: BTreeMap<LinkName, String>,
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

/// A namespace that may be adopted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// It is there.
    Existing(Existing),
    /// It cannot be entered, and why.
    Unreachable(String),
}

/// A namespace that exists already, and what is in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Existing {
    /// Which one it is.
    pub id: NetnsId,
    /// Whether it is the host's own.
    pub is_host: bool,
    /// Its interfaces.
    pub links: Vec<Link>,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Its routes.
    pub routes: Vec<Route>,
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
    /// The pairs of isolated endpoints that it lets reach each other.
    pub allowed: BTreeSet<AllowedPair>,
    /// What is attached, of what was asked about.
    pub attached: HashSet<(Hook, u32)>,
    /// Endpoints that it does not find as it should, with the map in which that is so.
    pub skewed: HashMap<u16, &'static str>,
    /// What is in its maps and pins that belongs to no network.
    pub strays: Vec<Stray>,
    /// Its pins that are gone, by their names. If there are any, nothing else of it is seen.
    pub lost: Vec<String>,
    /// What of it was changed that belongs to all networks.
    pub changed: BTreeSet<Shared>,
    /// What is amiss with its flows; nothing unless they were looked at.
    pub flaws: Flaws,
}

/// What all networks of a datapath share, besides rows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Shared {
    /// How long flows may be idle.
    Timeouts,
    /// From what outside ports follow.
    PortSecret,
    /// To which programs it hands over what is rare.
    Programs,
    /// The bits that tell which ports are published.
    PublishedBits,
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
        let mut links = netlink.links().await?;
        let mut renamed = BTreeMap::new();
        recognise(&networks, &mut links, &mut renamed);
        let mut inside = BTreeMap::new();
        let (mut nameless, mut vacant) = (BTreeSet::new(), BTreeSet::new());
        for network in &networks {
            for endpoint in network.topology.all_endpoints() {
                let name = &endpoint.namespace;
                let (mut seen, state) = look_inside(worker, network, name).await?;
                match state {
                    State::Ordinary => {}
                    State::Nameless => drop(nameless.insert(name.clone())),
                    State::Vacant => drop(vacant.insert(name.clone())),
                }
                if let Inside::Ours { links: inside, .. } = &mut seen {
                    recognise_inside(&network.topology, endpoint, &links, inside, &mut renamed);
                }
                inside.insert(name.clone(), seen);
            }
        }
        let mut switches = BTreeSet::new();
        for switch in Switch::ALL {
            switches.extend(switch.is_on()?.then_some(switch));
        }
        let mut localnet = BTreeSet::new();
        for network in &networks {
            let bridge = &network.topology.name;
            let now = renamed.get(&(None, bridge.clone())).map_or(bridge.as_str(), String::as_str);
            if sysctl::routes_localnet(now)? {
                localnet.insert(bridge.clone());
            }
        }
        let apart = apart::chains(networks.iter().map(|network| &network.topology.name));
        let mut observed = Self {
            links,
            addresses: netlink.addresses().await?,
            routes: netlink.routes().await?,
            fdb: netlink.fdb().await?,
            switches,
            switched: store.kept_sysctls()?.into_keys().collect(),
            namespaces: netns::names()?.into_iter().collect(),
            inside,
            nameless,
            vacant,
            renamed,
            found: BTreeMap::new(),
            networks,
            datapath: None,
            rules: RulesSeen::default(),
            localnet,
            judged: sysctl::judges_bridged(),
            unreflecting: BTreeSet::new(),
            apart,
        };
        for datapath in datapaths.all() {
            datapath.observe(&mut observed)?;
        }
        observed.agree();
        Ok(observed)
    }

    /// Takes what the datapath that runs is loaded with for what its networks have: what
    /// is remembered of them may be from before it was loaded anew, for another one.
    fn agree(&mut self) {
        let Some(seen) = self.datapath.as_ref().filter(|seen| seen.lost.is_empty()) else { return };
        for Recorded { topology, .. } in &mut self.networks {
            let of_ebpf = !topology.direct && topology.datapath == Kind::Ebpf;
            if of_ebpf && topology.options() != seen.options {
                *topology = topology.loaded_with(seen.options);
            }
        }
    }
}

/// What else there is to be said of a namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ordinary,
    /// See [`Observed::nameless`].
    Nameless,
    /// See [`Observed::vacant`].
    Vacant,
}

impl Observed {
    /// Looks for the namespaces that are asked for and that may exist already.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn find(&mut self, request: &Request, worker: &Worker) -> Result<()> {
        let here = NetnsId::here()?;
        let recorded = self.network(request.name.as_str()).map(|network| &network.topology);
        let made = recorded.into_iter().flat_map(|topology| &topology.endpoints);
        let made: HashSet<NamespaceName> = made
            .filter(|endpoint| endpoint.adopted.is_none())
            .map(|endpoint| endpoint.namespace.clone())
            .collect();
        for spec in &request.namespaces {
            let opened = match &spec.origin {
                Origin::New => continue,
                // What the network has made itself has been looked at.
                Origin::Named if made.contains(&spec.name) => continue,
                Origin::Named => match netns::look_up(spec.name.as_str())? {
                    Named::Nothing | Named::File => continue,
                    Named::Namespace(netns) => Ok(netns),
                },
                Origin::At(path) => File::open(path).map_err(|error| error.to_string()),
            };
            let entered = match opened {
                Ok(netns) => worker.enter(netns).await.map_err(|error| error.to_string()),
                Err(why) => Err(why),
            };
            let found = match entered {
                Ok(Entered { id, netlink, .. }) => Found::Existing(Existing {
                    id,
                    is_host: id == here,
                    links: netlink.links().await?,
                    addresses: netlink.addresses().await?,
                    routes: netlink.routes().await?,
                }),
                Err(why) => Found::Unreachable(why),
            };
            self.found.insert(spec.name.clone(), found);
        }
        Ok(())
    }
}

/// Looks at a namespace of a recorded network.
async fn look_inside(
    worker: &Worker,
    network: &Recorded,
    name: &NamespaceName,
) -> Result<(Inside, State)> {
    let noted = network.journal.namespaces.get(name);
    let (named, missing) = match netns::look_up(name.as_str())? {
        Named::Namespace(netns) => (Some(netns), Inside::Missing),
        Named::Nothing => (None, Inside::Missing),
        Named::File => (None, Inside::File),
    };
    let is_named = named.is_some();
    // Whoever is still inside goes on to use it, and it can be given its name again.
    let is_free = is_named || matches!(missing, Inside::Missing) || netns::is_empty(name.as_str());
    let held = || noted.filter(|_| is_free).and_then(|id| netns::of_process(id.inode));
    let Some(netns) = named.or_else(held) else { return Ok((missing, State::Ordinary)) };
    let entered = worker.enter(netns).await?;
    let links = entered.netlink.links().await?;
    // The identity is recorded before the name is given, so a namespace without
    // a record is somebody else's.
    if noted != Some(&entered.id) {
        let is_vacant = links.iter().all(Link::is_the_kernels);
        return Ok(match (is_named, is_vacant) {
            (true, true) => (Inside::Foreign, State::Vacant),
            (true, false) => (Inside::Foreign, State::Ordinary),
            // Numbers are given out again.
            (false, _) => (missing, State::Ordinary),
        });
    }
    let addresses = entered.netlink.addresses().await?;
    let inside = Inside::Ours { links, addresses, routes: entered.netlink.routes().await? };
    Ok((inside, if is_named { State::Ordinary } else { State::Nameless }))
}

/// Interfaces of the host by the names that they should have: an alias is nobody else's.
fn recognise(
    networks: &[Recorded],
    links: &mut [Link],
    renamed: &mut BTreeMap<(Option<NamespaceName>, LinkName), String>,
) {
    for Recorded { topology, .. } in networks.iter().filter(|network| !network.topology.direct) {
        let ports = topology.all_endpoints();
        let ports = ports.map(|port| (&port.link, "veth", topology.alias_of(port)));
        for (name, kind, alias) in ports.chain([(&topology.name, "bridge", topology.alias())]) {
            let is_it = |link: &Link| {
                link.alias.as_deref() == Some(&*alias) && link.kind.as_deref() == Some(kind)
            };
            rename(links, (None, name), is_it, renamed);
        }
    }
}

/// The same of a namespace's own interface: it is the other end of the port, or in a
/// direct network the veth with its MAC.
fn recognise_inside(
    topology: &Topology,
    endpoint: &EndpointPlan,
    host: &[Link],
    inside: &mut [Link],
    renamed: &mut BTreeMap<(Option<NamespaceName>, LinkName), String>,
) {
    let port = host.iter().find(|link| link.name == endpoint.link.as_str());
    let port = port.filter(|_| !topology.direct);
    let is_it = |link: &Link| match port {
        Some(port) => link.is_peer_of(port),
        None => {
            topology.direct
                && link.kind.as_deref() == Some("veth")
                && link.mac == Some(endpoint.mac)
        }
    };
    rename(inside, (Some(&endpoint.namespace), &endpoint.inside), is_it, renamed);
}

/// Gives an interface the name that it should have, in thought, if none has that.
fn rename(
    links: &mut [Link],
    (namespace, name): (Option<&NamespaceName>, &LinkName),
    is_it: impl Fn(&Link) -> bool,
    renamed: &mut BTreeMap<(Option<NamespaceName>, LinkName), String>,
) {
    if links.iter().any(|link| link.name == name.as_str()) {
        return;
    }
    if let Some(link) = links.iter_mut().find(|link| is_it(link)) {
        let now = std::mem::replace(&mut link.name, name.to_string());
        renamed.insert((namespace.cloned(), name.clone()), now);
    }
}
