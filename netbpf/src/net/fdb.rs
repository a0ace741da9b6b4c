//! Static entries of a bridge's forwarding database.

use futures_util::TryStreamExt as _;
use netbpf_common::MacAddr;
use rtnetlink::packet_route::{
    AddressFamily,
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};

use super::{Answer as _, Netlink};
use crate::error::Result;

/// A MAC that a bridge expects behind a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FdbRow {
    /// Index of the port.
    pub ifindex: u32,
    /// The MAC.
    pub mac: MacAddr,
    /// Whether it stays there, whatever frames say.
    pub fixed: bool,
}

impl FdbRow {
    fn read(message: &NeighbourMessage) -> Option<Self> {
        let mac = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                bytes.as_slice().try_into().ok().map(MacAddr::new)
            }
            _ => None,
        })?;
        let fixed =
            matches!(message.header.state, NeighbourState::Noarp | NeighbourState::Permanent);
        Some(Self { ifindex: message.header.ifindex, mac, fixed })
    }
}

impl Netlink {
    /// What `bridge fdb` shows.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn fdb(&self) -> Result<Vec<FdbRow>> {
        let all: Vec<NeighbourMessage> = self
            .handle
            .neighbours()
            .get()
            .set_address_family(AddressFamily::Bridge)
            .execute()
            .try_collect()
            .await
            .or_failed(|| "cannot list the bridges' forwarding databases".into())?;
        Ok(all.iter().filter_map(FdbRow::read).collect())
    }

    /// Tells the port's bridge that the MAC is behind it, for good.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_fdb(&self, ifindex: u32, mac: MacAddr) -> Result<()> {
        self.handle
            .neighbours()
            .add_bridge(ifindex, &mac.octets())
            .state(NeighbourState::Noarp)
            .flags(NeighbourFlags::Controller)
            .replace()
            .execute()
            .await
            .or_failed(|| format!("cannot add the forwarding entry of {mac}"))
    }
}
