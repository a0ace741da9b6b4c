//! Network interfaces.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use futures_util::TryStreamExt as _;
use netbpf_common::MacAddr;
use rtnetlink::{
    LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::link::{
        BridgeStpState, InfoBridgePort, InfoData, InfoPortData, InfoVeth, LinkAttribute, LinkFlags,
        LinkInfo, LinkLayerType, LinkMessage,
    },
};

use super::{Answer as _, Netlink};
use crate::error::{Error, Result};

/// What packets on an interface begin with.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Framing {
    /// An Ethernet header.
    #[default]
    Ethernet,
    /// The IP header: tun, PPP, tunnels.
    Bare,
    /// Something else.
    Other,
}

impl From<LinkLayerType> for Framing {
    /// As the kernel's `dev_is_mac_header_xmit` tells them apart, by which it
    /// redirects packets.
    fn from(layer: LinkLayerType) -> Self {
        use LinkLayerType as Type;
        match layer {
            Type::Ether | Type::Loopback => Self::Ethernet,
            Type::None
            | Type::Ppp
            | Type::Rawip
            | Type::Tunnel
            | Type::Tunnel6
            | Type::Sit
            | Type::Ipgre
            | Type::Ip6gre => Self::Bare,
            _ => Self::Other,
        }
    }
}

/// What is known of an interface.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the kernel's")]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind ("bridge", "veth" ...); nothing for hardware.
    pub kind: Option<String>,
    /// What its packets begin with.
    pub framing: Framing,
    /// Its MAC; nothing where it has an address of another kind.
    pub mac: Option<MacAddr>,
    /// Largest IP packet that it takes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it takes packets: it is switched on and has a carrier.
    pub running: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// Index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// Whether the bridge that it is a port of sends packets back by it.
    pub hairpin: bool,
    /// Whether the bridge that it is a port of forwards nothing between it and others like
    /// it.
    pub isolated: bool,
    /// Its alias.
    pub alias: Option<String>,
    /// Index of the other end of a veth, wherever that is.
    pub peer: Option<u32>,
}

/// The interfaces that a kernel with tunnels makes in each namespace by itself
/// (`net.core.fb_tunnels_only_for_init_net`).
const FALLBACK_TUNNELS: [&str; 9] =
    ["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"];

impl Link {
    /// Whether it is one that the kernel makes in each namespace, as it made it.
    #[must_use]
    pub fn is_the_kernels(&self) -> bool {
        self.loopback || !self.up && FALLBACK_TUNNELS.contains(&self.name.as_str())
    }

    /// Whether it may be the other end of that veth, which is in another namespace. (Each
    /// knows but the other's index.)
    #[must_use]
    pub fn is_peer_of(&self, other: &Self) -> bool {
        let is_of = |a: &Self, b: &Self| a.peer.is_none_or(|peer| peer == b.index);
        is_of(self, other) && is_of(other, self) && self.kind == other.kind
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            framing: message.header.link_layer_type.into(),
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::Running),
            loopback: flags.contains(LinkFlags::Loopback),
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(MacAddr::new),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Link(index) => link.peer = Some(index),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                            LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                                link.hairpin = port.contains(&InfoBridgePort::HairpinMode(true));
                                link.isolated = port.contains(&InfoBridgePort::Isolated(true));
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        // To other kinds it is what they are made on.
        link.peer = link.peer.filter(|_| link.kind.as_deref() == Some("veth"));
        link
    }
}

/// A bridge to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewBridge<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its MAC, which then stays whatever ports it gets.
    pub mac: MacAddr,
    /// Its MTU.
    pub mtu: u32,
}

/// A veth pair to be made: one end here, the other in another namespace.
#[derive(Clone, Copy, Debug)]
pub struct NewVeth<'a> {
    /// Name of the end here.
    pub name: &'a str,
    /// MAC of the end here.
    pub mac: MacAddr,
    /// Name of the end there.
    pub peer: &'a str,
    /// MAC of the end there.
    pub peer_mac: MacAddr,
    /// The namespace of the end there.
    pub peer_netns: BorrowedFd<'a>,
    /// MTU of both.
    pub mtu: u32,
}

impl Netlink {
    /// All interfaces.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn links(&self) -> Result<Vec<Link>> {
        self.handle
            .link()
            .get()
            .execute()
            .map_ok(Link::from)
            .try_collect()
            .await
            .or_failed(|| "cannot list the network interfaces".into())
    }

    /// The interface of that name, if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn link(&self, name: &str) -> Result<Option<Link>> {
        let found = self
            .handle
            .link()
            .get()
            .match_name(name)
            .execute()
            .try_next()
            .await
            .if_any(|| format!("cannot look up the interface {name}"))?;
        Ok(found.flatten().map(Link::from))
    }

    /// Index of the interface of that name.
    ///
    /// # Errors
    /// The kernel's, and that there is none.
    pub async fn index(&self, name: &str) -> Result<u32> {
        match self.link(name).await? {
            Some(link) => Ok(link.index),
            None => Err(Error::failed(format!("there is no interface {name}"))),
        }
    }

    /// Makes a bridge, switched on, that forwards from the first moment:
    /// without STP there is nothing to wait for.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_bridge(&self, bridge: NewBridge<'_>) -> Result<()> {
        let message = LinkBridge::new(bridge.name)
            .address(bridge.mac.octets().to_vec())
            .mtu(bridge.mtu)
            .stp_state(BridgeStpState::Disabled)
            .forward_delay(0)
            .build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .or_failed(|| format!("cannot create the bridge {}", bridge.name))
    }

    /// Makes a veth pair, the end here switched on, in one message: there is
    /// never a half-configured pair.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_veth(&self, veth: NewVeth<'_>) -> Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(veth.peer)
            .address(veth.peer_mac.octets().to_vec())
            .mtu(veth.mtu)
            .setns_by_fd(veth.peer_netns.as_raw_fd())
            .build();
        let message = LinkVeth::new(veth.name, veth.peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(veth.mac.octets().to_vec())
            .mtu(veth.mtu)
            .up()
            .build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .or_failed(|| format!("cannot create the veth {}", veth.name))
    }

    /// Sets the alias, which `ip link` shows.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn set_alias(&self, index: u32, alias: &str) -> Result<()> {
        self.set(LinkUnspec::new_with_index(index).alias(alias), "name").await
    }

    /// Switches the interface on.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn set_up(&self, index: u32) -> Result<()> {
        self.set(LinkUnspec::new_with_index(index).up(), "switch on").await
    }

    /// Makes the interface a port of the bridge.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn set_master(&self, index: u32, bridge: u32) -> Result<()> {
        self.set(LinkUnspec::new_with_index(index).controller(bridge), "move to its bridge").await
    }

    /// Has the bridge send packets back by the port that they came by, or not.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn set_hairpin(&self, port: u32, on: bool) -> Result<()> {
        let message = LinkBridgePort::new(port).hairpin(on).build();
        let set = self.handle.link().set_port(message).execute().await;
        set.or_failed(|| "cannot set the hairpin mode of the bridge's port".into())
    }

    /// Has the bridge forward nothing between this port and others like it, or all.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn set_isolated(&self, port: u32, on: bool) -> Result<()> {
        let message = LinkBridgePort::new(port).isolated(on).build();
        let set = self.handle.link().set_port(message).execute().await;
        set.or_failed(|| "cannot isolate the bridge's port".into())
    }

    /// Sets the MTU.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<()> {
        self.set(LinkUnspec::new_with_index(index).mtu(mtu), "set the MTU of").await
    }

    /// Sets the MAC.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn set_mac(&self, index: u32, mac: MacAddr) -> Result<()> {
        let change = LinkUnspec::new_with_index(index).address(mac.octets().to_vec());
        self.set(change, "set the MAC of").await
    }

    /// Gives the interface another name. Kernels before 6.2 rename none that is
    /// switched on (`IFF_LIVE_RENAME_OK`): there it is off for a moment, and loses its
    /// routes.
    ///
    /// # Errors
    /// The kernel's: that the name is taken, for example.
    pub async fn rename(&self, index: u32, name: &str) -> Result<()> {
        let named = || LinkUnspec::new_with_index(index).name(name.to_owned());
        if self.handle.link().set(named().build()).execute().await.is_ok() {
            return Ok(());
        }
        self.set(LinkUnspec::new_with_index(index).down(), "switch off").await?;
        let renamed = self.set(named(), "rename").await;
        self.set_up(index).await?;
        renamed
    }

    async fn set(&self, change: LinkMessageBuilder<LinkUnspec>, doing: &str) -> Result<()> {
        self.handle
            .link()
            .set(change.build())
            .execute()
            .await
            .or_failed(|| format!("cannot {doing} the interface"))
    }

    /// Removes the interface; one that is gone is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn delete_link(&self, index: u32) -> Result<()> {
        self.handle
            .link()
            .del(index)
            .execute()
            .await
            .if_any(|| "cannot remove the interface".into())
            .map(|_| ())
    }
}
