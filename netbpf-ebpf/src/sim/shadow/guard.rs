//! What a namespace may send, and bridging.

use netbpf_common::{DropReason, Endpoint, EndpointId, Ipv4, MacAddr, SourceGuard};

use super::{Expected, Shadow, read, world};
use crate::sim::{Frame, Sim};

impl Shadow {
    /// Whether a namespace may send from a MAC. One that is nobody's is learnt.
    pub(super) fn may_speak_from(
        &mut self,
        world: &Sim,
        id: EndpointId,
        endpoint: &Endpoint,
        mac: MacAddr,
    ) -> bool {
        if mac == endpoint.mac {
            return true;
        }
        let guard = SourceGuard::from_u8(endpoint.guard);
        let owner = self.behind(world, mac);
        let is_anothers = owner.is_some_and(|owner| owner != id);
        if guard == SourceGuard::Strict
            || mac == MacAddr::ZERO
            || mac.octets()[0] & 1 != 0
            || is_anothers && guard != SourceGuard::Off
        {
            return false;
        }
        self.macs.retain(|(known, ..)| *known != mac);
        self.macs.push((mac, id, self.now));
        true
    }

    /// Whether it may send as an address from a MAC, or why not.
    pub(super) fn may_speak_as(
        world: &Sim,
        endpoint: &Endpoint,
        mac: MacAddr,
        addr: Ipv4,
    ) -> Result<(), DropReason> {
        match SourceGuard::from_u8(endpoint.guard) {
            _ if (mac, addr) == (endpoint.mac, endpoint.addr) => Ok(()),
            SourceGuard::Off => Ok(()),
            SourceGuard::Learn if addr == endpoint.addr => Err(DropReason::SourceMac),
            SourceGuard::Learn => {
                let mask = endpoint.mask.to_host();
                let subnet = endpoint.subnet.to_host();
                let hosts = subnet + 1..subnet | !mask;
                let is_free = world::owner(world, addr).is_none();
                let is_ok = is_free && hosts.contains(&addr.to_host());
                is_ok.then_some(()).ok_or(DropReason::SourceAddress)
            }
            SourceGuard::Strict => Err(DropReason::SourceAddress),
        }
    }

    /// Whether it may say so by ARP.
    pub(super) fn may_announce(world: &Sim, endpoint: &Endpoint, bytes: &[u8]) -> bool {
        if SourceGuard::from_u8(endpoint.guard) == SourceGuard::Off {
            return true;
        }
        let Some((mac, addr)) = arp_sender(bytes) else { return false };
        let is_probe = addr == Ipv4::ANY;
        mac == read::mac(bytes, 6)
            && (is_probe || Self::may_speak_as(world, endpoint, mac, addr).is_ok())
    }

    /// What a bridge does with a frame.
    pub(super) fn bridge(
        &self,
        world: &Sim,
        id: EndpointId,
        endpoint: &Endpoint,
        frame: &Frame,
    ) -> Expected {
        let Some(to) = self.behind(world, read::mac(&frame.bytes, 0)) else {
            return Expected::Passed(id);
        };
        if to == id {
            return Expected::Dropped(id, &[DropReason::SameEndpoint]);
        }
        let beside = world::endpoint(world, to);
        let beside = beside.filter(|other| other.bridge_ifindex == endpoint.bridge_ifindex);
        match beside {
            Some(_) if world::are_apart(world, (id, endpoint), to) => {
                Expected::Dropped(id, &[DropReason::Isolated])
            }
            _ if world::has_rules(endpoint) => Expected::Passed(id),
            Some(other) => {
                if frame.gso_size == 0 && frame.bytes.len() - 14 > other.mtu as usize {
                    Expected::Dropped(id, &[DropReason::TooBig])
                } else {
                    Expected::Bridged(id, other.ifindex)
                }
            }
            None => Expected::Passed(id),
        }
    }
}

/// Who speaks by ARP: MAC and address.
pub(super) fn arp_sender(bytes: &[u8]) -> Option<(MacAddr, Ipv4)> {
    let is_arp = bytes.len() >= 32 && bytes[14..20] == [0, 1, 8, 0, 6, 4];
    is_arp.then(|| (read::mac(bytes, 22), read::addr(bytes, 28)))
}
