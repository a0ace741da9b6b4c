//! The steps that build and take away networks.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

use netbpf_common::{AllowedPair, Endpoint, EndpointId, MacAddr, PublishEntry, Tuple, Uplink};

use super::UpgradeStep;
use crate::{
    bpf::{Flaw, Hook, LoadOptions, Stray},
    datapath::{Kind, iptables::TableRules},
    net::{ctnetlink::apart::Apart, sysctl::Switch},
    topology::{Adoption, EndpointPlan, Leaving, LinkName, NamespaceName, Owned, Pair, Subnet},
};

/// Where an interface is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// On the host.
    Host,
    /// On the host, the host side of a namespace's veth.
    HostSide(NamespaceName),
    /// In a namespace.
    Inside(NamespaceName),
}

impl Place {
    /// The namespace, if it is in one.
    #[must_use]
    pub fn namespace(&self) -> Option<&NamespaceName> {
        match self {
            Self::Host | Self::HostSide(_) => None,
            Self::Inside(namespace) => Some(namespace),
        }
    }
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Remember the network before anything of it is made.
    Record {
        /// The file.
        path: PathBuf,
    },
    /// Load the datapath.
    LoadDatapath {
        /// With what.
        options: LoadOptions,
    },
    /// Make the bridge.
    AddBridge {
        /// Its name.
        name: LinkName,
        /// Its MAC.
        mac: MacAddr,
        /// Its MTU.
        mtu: u32,
        /// What it should be.
        owned: Owned,
    },
    /// Make a namespace.
    AddNamespace {
        /// Its name.
        name: NamespaceName,
    },
    /// Take a namespace that exists already, and give it the name if it has it not.
    BorrowNamespace {
        /// Its name.
        name: NamespaceName,
        /// Which one it is.
        adoption: Adoption,
    },
    /// Make a namespace's veth, which is no port of the bridge yet.
    AddVeth {
        /// The namespace.
        endpoint: EndpointPlan,
        /// The MTU of both ends.
        mtu: u32,
        /// What its host side should be.
        owned: Owned,
    },
    /// Connect two namespaces by a veth pair.
    AddPair {
        /// The namespaces.
        ends: [EndpointPlan; 2],
        /// The MTU of both ends.
        mtu: u32,
    },
    /// Switch an interface on.
    LinkUp {
        /// Where it is.
        place: Place,
        /// Its name.
        link: String,
    },
    /// Set an interface's MTU.
    SetMtu {
        /// Where it is.
        place: Place,
        /// Its name.
        link: String,
        /// The MTU.
        mtu: u32,
    },
    /// Set an interface's MAC.
    SetMac {
        /// Where it is.
        place: Place,
        /// Its name.
        link: String,
        /// The MAC.
        mac: MacAddr,
    },
    /// Give an interface back its name.
    Rename {
        /// Where it is.
        place: Place,
        /// The name that it has.
        from: String,
        /// The name that it should have.
        to: LinkName,
    },
    /// Give a namespace back its name, which processes are in.
    NameNamespace {
        /// The name.
        name: NamespaceName,
    },
    /// Take a namespace for the network's that was made anew under its name and has
    /// nothing in it.
    AdoptNamespace {
        /// Its name.
        name: NamespaceName,
    },
    /// Make a veth a port of the bridge.
    SetMaster {
        /// The veth's host side.
        endpoint: EndpointPlan,
        /// The bridge.
        bridge: LinkName,
    },
    /// Have the bridge forward nothing between a namespace's port and others like it, or
    /// all.
    SetIsolated {
        /// The namespace.
        endpoint: EndpointPlan,
        /// Whether it is switched on or off.
        on: bool,
    },
    /// Have rules of the bridge say what it forwards between some of its ports.
    KeepApart {
        /// The bridge.
        bridge: LinkName,
        /// What they say.
        apart: Apart,
    },
    /// Give an interface an address.
    AddAddress {
        /// Where it is.
        place: Place,
        /// Its name.
        link: String,
        /// The address.
        addr: Ipv4Addr,
        /// Bits of its prefix.
        prefix_len: u8,
    },
    /// Take an address from an interface that it has with another prefix than it should, or
    /// from the bridge that of a subnet which the network has no longer.
    DeleteAddress {
        /// Where it is.
        place: Place,
        /// Its name.
        link: String,
        /// The address.
        addr: Ipv4Addr,
        /// Bits of its prefix.
        prefix_len: u8,
    },
    /// Give an interface the route to its subnet, which it lost: it comes with
    /// the address.
    AddSubnetRoute {
        /// Where it is.
        place: Place,
        /// Its name.
        link: String,
        /// The subnet.
        subnet: Subnet,
        /// The interface's address.
        source: Ipv4Addr,
    },
    /// Give a namespace its default route.
    AddDefaultRoute {
        /// The namespace.
        namespace: NamespaceName,
        /// Its interface.
        link: LinkName,
        /// The gateway.
        gateway: Ipv4Addr,
        /// Its metric: the lowest wins.
        metric: u32,
    },
    /// Take the default route by a gateway of former times from a namespace.
    DeleteDefaultRoute {
        /// The namespace.
        namespace: NamespaceName,
        /// Its interface.
        link: LinkName,
        /// The gateway.
        gateway: Ipv4Addr,
        /// The route's metric.
        metric: u32,
    },
    /// Tell the bridge where a namespace's MAC is.
    AddFdb {
        /// The namespace.
        endpoint: EndpointPlan,
    },
    /// Switch a sysctl on.
    SwitchOn {
        /// Which one.
        switch: Switch,
    },
    /// Tell the datapath of the gateway.
    SetGateway {
        /// Its address.
        addr: Ipv4Addr,
        /// Its MAC.
        mac: MacAddr,
    },
    /// Tell the datapath of the subnet.
    SetSubnet {
        /// The subnet.
        subnet: Subnet,
    },
    /// Tell the datapath of a namespace.
    SetEndpoint {
        /// The namespace.
        endpoint: EndpointPlan,
        /// The bridge.
        bridge: LinkName,
        /// The row but for the interface indexes, which are known only when
        /// there are interfaces.
        row: Endpoint,
    },
    /// Tell the datapath which isolated namespaces reach each other.
    SetAllowed {
        /// The pairs.
        names: Vec<Pair>,
        /// The numbers that the network's namespaces have and have had: none else reach
        /// anybody.
        endpoints: Vec<EndpointId>,
        /// The pairs as the datapath knows them.
        pairs: Vec<AllowedPair>,
    },
    /// Tell the datapath of an uplink.
    SetUplink {
        /// The uplink.
        link: LinkName,
        /// The row.
        row: Uplink,
    },
    /// Make pins of the datapath again that are gone.
    Repin {
        /// Their names, below its directory.
        pins: Vec<String>,
    },
    /// Tell the datapath how long flows may be idle.
    SetTimeouts,
    /// Make outside ports follow from the secret from which they did.
    SetPortSecret,
    /// End flows that the datapath would not have made so.
    EndBroken {
        /// Keys of their entries, by what is amiss with them.
        entries: BTreeMap<Flaw, Vec<Tuple>>,
    },
    /// Count the datapath's flows anew.
    CountFlows,
    /// Make the datapath hand over what is rare to the programs for it.
    SetPrograms,
    /// Make the datapath forget what nobody has told it.
    ClearStray {
        /// What it is.
        stray: Stray,
    },
    /// Tell the datapath of the published ports.
    SetPublished {
        /// Those of all networks.
        all: Vec<PublishEntry>,
        /// Those of all other networks.
        others: Vec<PublishEntry>,
    },
    /// Attach a program.
    Attach {
        /// Which one, and on which side.
        hook: Hook,
        /// To which interface.
        link: LinkName,
        /// The namespace that the interface belongs to, if to one.
        namespace: Option<NamespaceName>,
    },
    /// Remember which tables of `nf_tables` there are before iptables makes more.
    KeepTables,
    /// Set rules of iptables.
    SetRules {
        /// What the network should have in a table.
        rules: TableRules,
    },
    /// Have the bridge drop what it would send back by the port that it came by,
    /// but for what a namespace sends to itself by a published port.
    DropReflected {
        /// The bridge.
        bridge: LinkName,
        /// The namespaces whose ports have hairpin mode.
        endpoints: Vec<EndpointPlan>,
    },
    /// Have the bridge send packets back by the port that they came by, where
    /// they are the namespace's own to itself.
    SetHairpin {
        /// The namespace.
        endpoint: EndpointPlan,
        /// Whether it is switched on or off.
        on: bool,
    },
    /// Let the host's own connections from 127.0.0.1 go by the bridge.
    SetRouteLocalnet {
        /// The bridge.
        bridge: LinkName,
        /// Whether it is switched on or off.
        on: bool,
    },
    /// Remember that the network is being switched over to another datapath.
    MarkSwitching {
        /// From which one.
        from: Kind,
        /// To which one.
        to: Kind,
    },
    /// Drop what the namespaces send to the stack, until rules are set or cleared.
    Hold {
        /// What the network has in the table of such rules meanwhile.
        rules: TableRules,
    },
    /// Remember what the network is to be, and what of it is to go.
    MarkChanging {
        /// What is to go.
        leaving: Leaving,
    },
    /// Have the kernel track the flows of eBPF that live.
    CarryFlows,
    /// Have eBPF go on with the connections that the kernel tracks.
    AdoptFlows,
    /// Exchange the datapath's programs.
    Upgrade(UpgradeStep),
    /// Remember that the network is complete.
    MarkUp,

    /// Remember that the network is being taken away.
    MarkRemoving,
    /// Detach a program.
    Detach {
        /// Which one, and on which side.
        hook: Hook,
        /// From which interface.
        link: LinkName,
    },
    /// Withdraw published ports.
    Withdraw {
        /// Those of all other networks, which stay.
        others: Vec<PublishEntry>,
    },
    /// Make the datapath forget an uplink.
    ClearUplink {
        /// The uplink.
        link: LinkName,
    },
    /// Make the datapath forget a namespace.
    ClearEndpoint {
        /// The namespace.
        endpoint: EndpointPlan,
    },
    /// Make the datapath forget the subnet.
    ClearSubnet {
        /// The subnet.
        subnet: Subnet,
    },
    /// Make the datapath forget the gateway.
    ClearGateway {
        /// Its address.
        addr: Ipv4Addr,
        /// Its MAC.
        mac: MacAddr,
    },
    /// Remove what iptables has made of tables, if nobody uses it.
    TidyTables,
    /// Take rules of iptables away, and with those that translate the connections
    /// that they have translated.
    ClearRules {
        /// What the network has in a table.
        rules: TableRules,
    },
    /// Undo [`Step::SetAllowed`].
    ClearAllowed {
        /// The numbers of namespaces that reach none of the isolated any more.
        endpoints: Vec<EndpointId>,
    },
    /// Undo [`Step::KeepApart`].
    ClearApart {
        /// The bridge.
        bridge: LinkName,
    },
    /// Undo [`Step::DropReflected`].
    ClearReflected {
        /// The bridge.
        bridge: LinkName,
    },
    /// End the connections that the kernel tracks of what a network has no longer.
    EndConnections {
        /// What it has no longer.
        leaving: Leaving,
        /// The addresses of its uplinks among it.
        uplink_addrs: Vec<Ipv4Addr>,
    },
    /// Put back what [`Step::SwitchOn`] changed.
    SwitchBack {
        /// Which one.
        switch: Switch,
    },
    /// Remove an interface that is the network's.
    DeleteLink {
        /// Its name.
        name: LinkName,
        /// What it is if it is the network's.
        owned: Owned,
    },
    /// Remove the veth pair of two namespaces, by one of its ends.
    DeletePair {
        /// The end.
        end: EndpointPlan,
    },
    /// Remove a namespace that is the network's.
    DeleteNamespace {
        /// Its name.
        name: NamespaceName,
    },
    /// Take the name away that an adopted namespace has got.
    ReleaseNamespace {
        /// The name.
        name: NamespaceName,
    },
    /// Take the datapath away.
    UnloadDatapath,
    /// Forget the network.
    Forget {
        /// The file.
        path: PathBuf,
    },
}
