//! netbpf's datapath: what becomes of a packet, as safe, pure Rust.
//!
//! This file is the table of contents. A packet comes in by one of
//! [`from_endpoint`], [`from_uplink`] and [`to_uplink`], which decide and
//! return; only [`rewrite`] changes bytes. All of it is generic over the
//! [`seam`], so that the very code that runs in the kernel runs in unit tests,
//! properties, models and fuzzers.

#![cfg_attr(not(any(test, feature = "sim")), no_std)]
#![forbid(unsafe_code)]

pub mod adopt;
pub mod answer;
pub mod checksum;
pub mod dnat;
pub mod expire;
pub mod flow;
pub mod fragment;
pub mod guard;
pub mod host;
pub mod icmp_error;
pub mod l2;
pub mod next_hop;
pub mod parse;
pub mod ports;
pub mod prepare;
pub mod rare;
pub mod rewrite;
pub mod route;
pub mod seam;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod snat;
pub mod wire;

use netbpf_common::{Counter, DropReason, EndpointId, Flow, Ipv4, proto};

use crate::{
    parse::Parsed,
    seam::{Env, Seam, Skb, Tables},
    wire::eth::{self, Eth},
};

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// On, as if the program were not there: to the kernel's bridge and stack.
    Pass,
    /// Into the namespace behind a bridge port.
    Peer {
        /// Interface index of the port, the veth's host side.
        ifindex: u32,
    },
    /// Out by an uplink, MACs and all.
    Uplink {
        /// The uplink's interface index.
        ifindex: u32,
    },
    /// To the rest of the decision: see [`rare`].
    Rare,
    /// To where what it lacks is seen to, and then to the same decision once more: see
    /// [`prepare`].
    Prepare(Lack),
    /// Nowhere for now: it is held, and sent and counted later.
    Held,
    /// Nowhere any more: it has been sent.
    Sent,
    /// Out by an uplink, the MACs given by the kernel's neighbour output; or in
    /// again by the host's loopback device, as if the host had sent it.
    Neighbour {
        /// The uplink's interface index, or [`Flow::LOOPBACK`].
        ifindex: u32,
        /// The next hop's address.
        next_hop: Ipv4,
    },
}

/// What a packet lacks before it can go anywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Lack {
    /// A flow.
    Flow = 0,
    /// A way: that of its flow has to be looked up anew.
    Way = 1,
    /// A look at where the stack would send it: see [`guard::check_way_out`].
    Look = 2,
}

impl Lack {
    /// The one of a number; of an unknown one a look.
    #[must_use]
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number {
            0 => Self::Flow,
            1 => Self::Way,
            _ => Self::Look,
        }
    }
}

/// A packet that is not dropped: where to, and how it is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forward {
    /// Row of the endpoint's counters.
    pub counter: Counter,
    /// Where to.
    pub verdict: Verdict,
}

impl Forward {
    /// Up to the kernel.
    pub const PASS: Self = Self { counter: Counter::Passed, verdict: Verdict::Pass };
    /// Held.
    pub const HELD: Self = Self { counter: Counter::Passed, verdict: Verdict::Held };
}

/// Why a packet does not simply go where it is to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It goes nowhere.
    Dropped(DropReason),
    /// There is no flow that says where: one has to be made first.
    NeedsFlow,
    /// The way of its flow has to be looked up anew first.
    NeedsRoute,
    /// No flow is to be made for it: it is the stack's.
    ToStack,
    /// It is one of those that [`rare`] decides about.
    Rare,
}

impl From<DropReason> for Stop {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Dropped(reason)
    }
}

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Whose packet it was; [`EndpointId::NONE`] if nobody's.
    pub endpoint: EndpointId,
    /// Where it goes, or why it is dropped.
    pub result: Result<Verdict, DropReason>,
}

/// Counts a decision and makes it an outcome.
#[inline(always)]
fn account<S: Skb, T: Tables, E>(
    seam: &mut Seam<S, T, E>,
    endpoint: EndpointId,
    decision: Result<Forward, Stop>,
) -> Outcome {
    let Forward { counter, verdict } = match decision {
        Ok(forward) => forward,
        Err(Stop::Dropped(reason)) => {
            seam.tables.count_drop(endpoint, reason);
            return Outcome { endpoint, result: Err(reason) };
        }
        // Whoever decides in the end also counts.
        Err(Stop::Rare) => return Outcome { endpoint, result: Ok(Verdict::Rare) },
        Err(Stop::NeedsFlow | Stop::NeedsRoute | Stop::ToStack) => {
            let bytes = seam.skb.l3_len();
            seam.tables.count(endpoint, Counter::Passed, bytes);
            return Outcome { endpoint, result: Ok(Verdict::Pass) };
        }
    };
    if verdict == Verdict::Held {
        return Outcome { endpoint, result: Ok(Verdict::Held) };
    }
    let bytes = seam.skb.l3_len();
    seam.tables.count(endpoint, counter, bytes);
    Outcome { endpoint, result: Ok(verdict) }
}

/// A frame from a namespace, at its bridge port.
///
/// It is decided here once, without a call: all that is not decided by that is handed over,
/// to [`prepare::from_endpoint`] or to [`rare`].
#[inline(always)]
pub fn from_endpoint<S: Skb, T: Tables, E: Env>(seam: &mut Seam<S, T, E>) -> Outcome {
    let id = seam.tables.endpoint_id(seam.skb.ifindex()).unwrap_or(EndpointId::NONE);
    let decision = judge_from_endpoint(seam, id);
    let prepare = |lack| Outcome { endpoint: id, result: Ok(Verdict::Prepare(lack)) };
    match decision {
        Err(Stop::NeedsFlow) => return prepare(Lack::Flow),
        Err(Stop::NeedsRoute) => return prepare(Lack::Way),
        Err(Stop::ToStack) | Ok(Forward::PASS) if guard::is_routed(seam, id) => {
            return prepare(Lack::Look);
        }
        _ => {}
    }
    account(seam, id, decision)
}

#[inline(always)]
fn judge_from_endpoint<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
) -> Result<Forward, Stop> {
    // Gone: being taken down, and nothing of it goes anywhere.
    let endpoint = seam.tables.endpoint(id).ok_or(DropReason::EndpointGone)?;
    let eth = Eth::load(&seam.skb).ok_or(DropReason::Truncated)?;
    guard::check_mac(seam, id, &endpoint, eth.src)?;
    match seam.skb.vlan_id() {
        None => {}
        Some(0) => return Err(DropReason::PriorityTag.into()),
        Some(_) => return Ok(Forward::PASS),
    }
    match eth.ethertype {
        eth::ARP => {
            guard::check_arp(seam, &endpoint, &eth)?;
            Ok(Forward::PASS)
        }
        eth::IPV4 => {
            let header = parse::header(&seam.skb)?;
            if header.saddr == Ipv4::ANY && eth.dst.is_multicast() {
                // A host without an address asks for one (RFC 2131).
                return Ok(Forward::PASS);
            }
            guard::check_address(seam, &endpoint, eth.src, header.saddr)?;
            if eth.dst.is_multicast() {
                return Ok(Forward::PASS);
            }
            if eth.dst != endpoint.gateway_mac {
                return l2::forward(seam, id, &endpoint, &eth);
            }
            match parse::packet(&seam.skb, header)? {
                Parsed::Packet(packet) => snat::by_flow(seam, id, &packet),
                Parsed::Rare => Err(Stop::Rare),
            }
        }
        _ if eth.dst.is_multicast() || eth.dst == endpoint.gateway_mac => Ok(Forward::PASS),
        _ => l2::forward(seam, id, &endpoint, &eth),
    }
}

/// A frame from outside, at the uplink. Handed over as in [`from_endpoint`].
#[inline(always)]
pub fn from_uplink<S: Skb, T: Tables, E: Env>(seam: &mut Seam<S, T, E>) -> Outcome {
    let mut id = EndpointId::NONE;
    let decision = judge_from_uplink(seam, &mut id);
    if decision == Err(Stop::NeedsFlow) {
        return Outcome { endpoint: id, result: Ok(Verdict::Prepare(Lack::Flow)) };
    }
    account(seam, id, decision)
}

#[inline(always)]
fn judge_from_uplink<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: &mut EndpointId,
) -> Result<Forward, Stop> {
    let Some(eth) = Eth::load(&seam.skb) else {
        return Ok(Forward::PASS);
    };
    match seam.skb.vlan_id() {
        Some(0) if eth.has_vlan_tag() => return Err(DropReason::PriorityTag.into()),
        // A priority alone is no VLAN: real links send it. (But a tag within it
        // could hide anything.)
        None | Some(0) => {}
        Some(_) => return Ok(Forward::PASS),
    }
    if eth.ethertype != eth::IPV4 {
        return Ok(Forward::PASS);
    }
    // What is malformed the stack counts and drops itself.
    let Ok(header) = parse::header(&seam.skb) else {
        return Ok(Forward::PASS);
    };
    // What of the host's own stays on its loopback device needs no flow.
    if header.saddr.is_loopback() && is_hosts_own(seam, &header) {
        return Ok(Forward::PASS);
    }
    match parse::packet(&seam.skb, header) {
        Ok(parsed) if seam.skb.is_to_us() => match parsed {
            Parsed::Packet(packet) => dnat::by_flow(seam, &packet, id),
            Parsed::Rare => Err(Stop::Rare),
        },
        // The stack forwards what it does not understand, too.
        Ok(_) | Err(_) => match dnat::to_stack(seam, &header) {
            Stop::ToStack => Ok(Forward::PASS),
            stop => Err(stop),
        },
    }
}

/// Whether a packet from one of the host's loopback addresses is for nobody but
/// the host: one that is not for a published port.
#[inline(always)]
fn is_hosts_own<S: Skb, T: Tables, E>(seam: &Seam<S, T, E>, header: &wire::ipv4::Header) -> bool {
    if seam.skb.ifindex() != Flow::LOOPBACK || header.has_options() || header.is_fragment() {
        return false;
    }
    // The host may complain of what a namespace has sent it.
    if header.proto == proto::ICMP {
        return !seam.skb.load_u8(wire::l4::OFFSET).is_some_and(wire::icmp::is_error);
    }
    match wire::l4::ports(&seam.skb) {
        Some((_, dport)) => !ports::is_published(seam, header.proto, dport),
        None => true,
    }
}

/// A frame that the host is about to send by the uplink: its own, or one that
/// its stack forwards. Frames that the fast path sends do not come by here.
///
/// Nothing with an address of our subnets leaves: it is translated here, if the
/// fast path has left it to the stack, or dropped. And where the host itself
/// sends from the outside tuple of a namespace's flow, that is translated.
#[inline(always)]
pub fn to_uplink<S: Skb, T: Tables, E>(seam: &mut Seam<S, T, E>) -> Outcome {
    let nobodys = |result| Outcome { endpoint: EndpointId::NONE, result };
    let Some(eth) = Eth::load(&seam.skb) else {
        return nobodys(Ok(Verdict::Pass));
    };
    // By this device, but to another network.
    if seam.skb.vlan_id().is_some_and(|id| id != 0) {
        return nobodys(Ok(Verdict::Pass));
    }
    if eth.ethertype == eth::ARP {
        let sender = wire::arp::sender(&seam.skb).map(|sender| sender.addr);
        let Some(sender) = sender.filter(|addr| seam.tables.is_private(*addr)) else {
            return nobodys(Ok(Verdict::Pass));
        };
        let endpoint = seam.tables.address_owner(sender).unwrap_or(EndpointId::NONE);
        seam.tables.count_drop(endpoint, DropReason::PrivateSource);
        return Outcome { endpoint, result: Err(DropReason::PrivateSource) };
    }
    if eth.ethertype == eth::IPV4 && is_to_change(seam) {
        return nobodys(Ok(Verdict::Rare));
    }
    nobodys(Ok(Verdict::Pass))
}

/// Whether an IPv4 packet that the host sends by an uplink may not leave as it is.
#[inline(always)]
fn is_to_change<S: Skb, T: Tables, E>(seam: &mut Seam<S, T, E>) -> bool {
    // What is not even a header has no address that it could tell.
    let Some(header) = wire::ipv4::Header::load(&seam.skb) else {
        return false;
    };
    if seam.tables.is_private(header.saddr) {
        return true;
    }
    match parse::header(&seam.skb).and_then(|header| parse::packet(&seam.skb, header)) {
        Ok(Parsed::Packet(packet)) => host::is_translated(seam, &packet.tuple),
        // Where there are no flows, none has its tuple.
        Ok(Parsed::Rare) => {
            header.proto == proto::ICMP || seam.tables.flow_count(EndpointId::NONE) != 0
        }
        Err(_) => false,
    }
}
