//! IPv4 addresses of interfaces.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
};

use super::{Answer as _, Netlink};
use crate::{error::Result, topology::Subnet};

/// An interface's IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// Index of the interface.
    pub ifindex: u32,
    /// The address.
    pub addr: Ipv4Addr,
    /// Bits of its prefix.
    pub prefix_len: u8,
    /// Whether it can be used beyond the host.
    pub global: bool,
    /// Whether another address of the same subnet precedes it.
    pub secondary: bool,
}

impl Address {
    /// The subnet that it is in.
    #[must_use]
    pub fn subnet(&self) -> Subnet {
        Subnet::containing(self.addr, self.prefix_len)
    }

    fn read(message: &AddressMessage) -> Option<Self> {
        let mut secondary = message.header.flags.contains(AddressHeaderFlags::Secondary);
        let (mut local, mut address) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                // On a point-to-point interface `Address` is the other end's.
                AddressAttribute::Local(IpAddr::V4(addr)) => local = Some(*addr),
                AddressAttribute::Address(IpAddr::V4(addr)) => address = Some(*addr),
                AddressAttribute::Flags(flags) => {
                    secondary |= flags.contains(AddressFlags::Secondary);
                }
                _ => {}
            }
        }
        Some(Self {
            ifindex: message.header.index,
            addr: local.or(address)?,
            prefix_len: message.header.prefix_len,
            global: message.header.scope == AddressScope::Universe,
            secondary,
        })
    }
}

impl Netlink {
    /// The IPv4 addresses of all interfaces.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn addresses(&self) -> Result<Vec<Address>> {
        let mut request = self.handle.address().get();
        request.message_mut().header.family = AddressFamily::Inet;
        let all: Vec<AddressMessage> = request
            .execute()
            .try_collect()
            .await
            .or_failed(|| "cannot list the addresses".into())?;
        Ok(all.iter().filter_map(Address::read).collect())
    }

    /// Takes an address from the interface; one that is gone is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn delete_address(&self, ifindex: u32, addr: Ipv4Addr, prefix_len: u8) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.index = ifindex;
        message.header.prefix_len = prefix_len;
        // The kernel looks at the prefix only where it is told both.
        message.attributes.push(AddressAttribute::Local(addr.into()));
        message.attributes.push(AddressAttribute::Address(addr.into()));
        let deleted = self.handle.address().del(message).execute().await;
        deleted.if_any(|| format!("cannot remove the address {addr}/{prefix_len}")).map(drop)
    }

    /// Gives the interface an address.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_address(&self, ifindex: u32, addr: Ipv4Addr, prefix_len: u8) -> Result<()> {
        self.handle
            .address()
            .add(ifindex, addr.into(), prefix_len)
            .replace()
            .execute()
            .await
            .or_failed(|| format!("cannot add the address {addr}/{prefix_len}"))
    }
}
