//! The MACs of neighbours.

use std::net::{IpAddr, Ipv4Addr};

use netbpf_common::MacAddr;
use rtnetlink::packet_route::neighbour::NeighbourState;

use super::{Answer as _, Netlink};
use crate::error::Result;

impl Netlink {
    /// Says once and for all which MAC an address behind an interface has: nobody
    /// asks any more.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn set_neighbour(&self, ifindex: u32, addr: Ipv4Addr, mac: MacAddr) -> Result<()> {
        self.handle
            .neighbours()
            .add(ifindex, IpAddr::V4(addr))
            .link_layer_address(&mac.octets())
            .state(NeighbourState::Permanent)
            .replace()
            .execute()
            .await
            .or_failed(|| format!("cannot say which MAC {addr} has"))
    }
}
