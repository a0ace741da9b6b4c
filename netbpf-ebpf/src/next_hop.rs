//! The last leg on the uplink: which MACs, and how a change of them is noticed.

use netbpf_common::{DropReason, Flow, Ipv4, MacAddr, NextHop, Ticks};

use crate::{
    Verdict, rewrite,
    seam::{Env, Seam, Skb, Tables},
};

/// How long a next hop's MACs are used without asking again: half a second,
/// so that a new MAC is followed within one.
const RECHECK_AFTER: Ticks = Ticks(8);

/// Largest packet of the loopback device: none is too large.
const LOOPBACK_MTU: u32 = u32::MAX;
/// Where an uplink has no MACs, these stand for "resolved". Nobody sees them.
/// As the source of a next hop that is not resolved: the stack has had a packet.
const NO_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 0]);

/// The way on from here.
#[derive(Clone, Copy, Debug)]
pub struct Hop {
    /// The next hop as the cache has it.
    pub next: NextHop,
    /// Largest IP packet that the uplink takes; 0 if the packet is to go by the stack.
    pub mtu: u32,
    /// Whether the frame goes by the kernel's neighbour output.
    by_kernel: bool,
}

/// The way to a flow's next hop.
///
/// As a rule its MACs come from the cache that all flows share. Now and then one
/// packet goes by the kernel's neighbour output instead: that keeps the kernel's
/// entry in use, so that it probes a neighbour that fell silent.
///
/// While the next hop is unresolved, the first packet goes by the neighbour output,
/// which resolves it whatever somebody's rules let the stack forward; every other one by
/// the stack, which keeps it until it is resolved, too, and tells its sender that the
/// host is unreachable if it never is.
#[inline(always)]
pub fn find<S, T: Tables, E: Env>(seam: &mut Seam<S, T, E>, flow: &Flow, now: Ticks) -> Hop {
    let slot = NextHop::slot(flow.next_hop, flow.uplink);
    let next = seam.tables.next_hop(slot);
    let is_fresh = now.since(next.checked).0 < RECHECK_AFTER.0;
    if next.is(flow.next_hop, flow.uplink) && is_fresh && next.mac != MacAddr::ZERO {
        return Hop { next, mtu: next.mtu, by_kernel: false };
    }
    if flow.uplink == Flow::LOOPBACK {
        return Hop { next, mtu: LOOPBACK_MTU, by_kernel: true };
    }
    let is_known = next.is(flow.next_hop, flow.uplink) && next.mac == MacAddr::ZERO;
    let was_sent = is_known && !is_left_to_stack(&next);
    recheck(seam, flow.uplink, flow.next_hop, was_sent, now);
    let next = seam.tables.next_hop(slot);
    let mtu = if is_left_to_stack(&next) { 0 } else { next.mtu };
    Hop { next, mtu, by_kernel: true }
}

/// Whether a next hop is unresolved, and the packet that asked for it was the stack's.
#[inline(always)]
fn is_left_to_stack(next: &NextHop) -> bool {
    next.mac == MacAddr::ZERO && next.source_mac == NO_MAC
}

/// Asks the kernel for a next hop and puts the answer into the cache; `was_sent` if
/// the neighbour output has had the packet before.
///
/// Not inlined, as it is rare.
#[inline(never)]
fn recheck<S, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    ifindex: u32,
    next_hop: Ipv4,
    was_sent: bool,
    now: Ticks,
) {
    let slot = NextHop::slot(next_hop, ifindex);
    let Some(uplink) = seam.tables.uplink(ifindex) else {
        // It is gone, and nothing is known of what is behind it: when it is back,
        // that has to be noticed at once.
        seam.tables.set_next_hop(slot, NextHop::default());
        return;
    };
    let (mut mtu, has_ethernet) = (uplink.mtu, uplink.has_ethernet());
    let found = seam.env.resolve(ifindex, next_hop);
    if found.mtu != 0 {
        mtu = found.mtu;
    }
    let macs = if !has_ethernet {
        (NO_MAC, NO_MAC)
    } else if found.mac == MacAddr::ZERO {
        (MacAddr::ZERO, if was_sent { NO_MAC } else { MacAddr::ZERO })
    } else {
        (found.mac, found.source_mac)
    };
    let next = NextHop::new((next_hop, ifindex), macs, now, mtu);
    seam.tables.set_next_hop(slot, next);
}

/// Sends a translated packet there.
///
/// # Errors
/// [`DropReason::Rewrite`].
#[inline(always)]
pub fn send(skb: &mut impl Skb, flow: &Flow, hop: &Hop) -> Result<Verdict, DropReason> {
    if hop.by_kernel {
        if flow.uplink == Flow::LOOPBACK {
            rewrite::macs(skb, MacAddr::ZERO, MacAddr::ZERO).ok_or(DropReason::Rewrite)?;
        }
        return Ok(Verdict::Neighbour { ifindex: flow.uplink, next_hop: flow.next_hop });
    }
    rewrite::macs(skb, hop.next.mac, hop.next.source_mac).ok_or(DropReason::Rewrite)?;
    Ok(Verdict::Uplink { ifindex: flow.uplink })
}
