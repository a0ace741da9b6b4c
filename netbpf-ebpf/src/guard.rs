//! Source guard: no namespace impersonates another, the gateway or the host.

use netbpf_common::{DropReason, Endpoint, EndpointId, FdbEntry, Flow, Ipv4, MacAddr, SourceGuard};

use crate::{
    l2, parse,
    seam::{Env, Seam, Skb, Tables},
    wire::{
        arp,
        eth::{self, Eth},
        ipv4::Header,
    },
};

/// Whether the endpoint may send frames with this source MAC. A MAC that is
/// nobody else's is learnt on the way.
///
/// # Errors
/// [`DropReason::SourceMac`], [`DropReason::LearnLimit`].
#[inline(always)]
pub fn check_mac<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    endpoint: &Endpoint,
    mac: MacAddr,
) -> Result<(), DropReason> {
    if mac == endpoint.mac { Ok(()) } else { check_foreign_mac(seam, id, endpoint, mac) }
}

/// Not inlined, as it is rare.
#[inline(never)]
fn check_foreign_mac<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    endpoint: &Endpoint,
    mac: MacAddr,
) -> Result<(), DropReason> {
    let guard = SourceGuard::from_u8(endpoint.guard);
    if guard == SourceGuard::Strict || mac.is_multicast() || mac == MacAddr::ZERO {
        return Err(DropReason::SourceMac);
    }
    let owner = l2::lookup(seam, mac);
    if owner.is_some_and(|owner| owner != id) && guard != SourceGuard::Off {
        return Err(DropReason::SourceMac);
    }
    let now = seam.env.now();
    if owner != Some(id) && !seam.tables.may_learn(id, now) {
        return Err(DropReason::LearnLimit);
    }
    seam.tables.learn(mac, FdbEntry { endpoint: id, pad: 0, last_seen: now });
    Ok(())
}

/// Whether the endpoint may send IPv4 packets from `addr` in frames from `mac`.
///
/// # Errors
/// [`DropReason::SourceAddress`] for an address that is somebody else's or
/// none of the subnet's, [`DropReason::SourceMac`] for the own address from a
/// foreign MAC.
#[inline(always)]
pub fn check_address<S: Skb, T: Tables, E: Env>(
    seam: &Seam<S, T, E>,
    endpoint: &Endpoint,
    mac: MacAddr,
    addr: Ipv4,
) -> Result<(), DropReason> {
    if addr == endpoint.addr && mac == endpoint.mac {
        Ok(())
    } else {
        check_second_address(seam, endpoint, addr)
    }
}

/// Not inlined, as it is rare.
#[inline(never)]
fn check_second_address<S, T: Tables, E>(
    seam: &Seam<S, T, E>,
    endpoint: &Endpoint,
    addr: Ipv4,
) -> Result<(), DropReason> {
    match SourceGuard::from_u8(endpoint.guard) {
        SourceGuard::Off => Ok(()),
        SourceGuard::Strict => Err(DropReason::SourceAddress),
        SourceGuard::Learn if addr == endpoint.addr => Err(DropReason::SourceMac),
        SourceGuard::Learn => {
            let host_bits = addr.to_host() & !endpoint.mask.to_host();
            let is_host = host_bits != 0 && host_bits != !endpoint.mask.to_host();
            let is_free = seam.tables.address_owner(addr).is_none();
            if endpoint.has_on_link(addr) && is_host && is_free {
                Ok(())
            } else {
                Err(DropReason::SourceAddress)
            }
        }
    }
}

/// Whether a packet that is left to the stack is its to forward, or its own: one of IPv4 to
/// the gateway's MAC.
#[inline(always)]
pub fn is_routed<S: Skb, T: Tables, E>(seam: &Seam<S, T, E>, id: EndpointId) -> bool {
    let (Some(endpoint), Some(eth)) = (seam.tables.endpoint(id), Eth::load(&seam.skb)) else {
        return false;
    };
    eth.ethertype == eth::IPV4 && eth.dst == endpoint.gateway_mac
}

/// Whether a packet that is left to the stack may be forwarded by it: not to another
/// namespace of an isolated network; and not while an uplink
/// is gone, if an interface that is no uplink would take it out with an address of a
/// namespace. The uplink may be back as that interface, which nothing guards before the
/// next `up` (see [`crate::to_uplink`]).
///
/// Not inlined, as what is left to the stack is rare.
///
/// # Errors
/// [`DropReason::Isolated`], [`DropReason::PrivateSource`].
#[inline(never)]
pub fn check_way_out<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
) -> Result<(), DropReason> {
    let endpoint = seam.tables.endpoint(id).ok_or(DropReason::EndpointGone)?;
    if !is_routed(seam, id) {
        return Ok(());
    }
    let Some(header) = Header::load(&seam.skb) else {
        return Ok(());
    };
    // (What has no hop left is not forwarded, and the stack says so.)
    let is_apart = endpoint.is_isolated() && header.ttl > 1;
    if is_apart && !l2::may_be_routed(seam, id, &endpoint, &header) {
        return Err(DropReason::Isolated);
    }
    let Seam { tables, env, .. } = seam;
    if !tables.any_uplink(|ifindex| !env.has_interface(ifindex)) {
        return Ok(());
    }
    let way = seam.env.route(endpoint.bridge_ifindex, &parse::addresses(&header));
    let is_guarded =
        matches!(way.ifindex, 0 | Flow::LOOPBACK) || seam.tables.uplink(way.ifindex).is_some();
    if is_guarded || !seam.tables.is_private(header.saddr) {
        return Ok(());
    }
    Err(DropReason::PrivateSource)
}

/// Whether the endpoint may send this ARP packet: its sender fields must be as
/// true as a frame's source.
///
/// # Errors
/// [`DropReason::ArpSpoof`].
#[inline(always)]
pub fn check_arp<S: Skb, T: Tables, E: Env>(
    seam: &Seam<S, T, E>,
    endpoint: &Endpoint,
    eth: &Eth,
) -> Result<(), DropReason> {
    if SourceGuard::from_u8(endpoint.guard) == SourceGuard::Off {
        return Ok(());
    }
    let sender = arp::sender(&seam.skb).ok_or(DropReason::ArpSpoof)?;
    if sender.mac != eth.src {
        return Err(DropReason::ArpSpoof);
    }
    if sender.addr == Ipv4::ANY {
        return Ok(());
    }
    check_address(seam, endpoint, sender.mac, sender.addr).map_err(|_| DropReason::ArpSpoof)
}
