//! netbpf's datapath: what becomes of a packet, as safe, pure Rust.
//!
//! This file is the table of contents. A packet comes in by one of
//! [`from_endpoint`], [`from_uplink`] and [`to_uplink`], which decide and
//! return; only [`rewrite`] changes bytes. All of it is generic over the
//! [`seam`], so that the very code that runs in the kernel runs in unit tests,
//! properties, models and fuzzers.

#![cfg_attr(not(any(test, feature = "sim")), no_std)]
#![forbid(unsafe_code)]

pub mod checksum;
pub mod dnat;
pub mod expire;
pub mod flow;
pub mod guard;
pub mod l2;
pub mod next_hop;
pub mod parse;
pub mod ports;
pub mod rewrite;
pub mod seam;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod snat;
pub mod wire;

use netbpf_common::{Counter, DropReason, EndpointId, Ipv4};

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
    /// Out by an uplink, the MACs given by the kernel's neighbour output.
    Neighbour {
        /// The uplink's interface index.
        ifindex: u32,
        /// The next hop's address.
        next_hop: Ipv4,
    },
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
}

/// Why a packet does not simply go where it is to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It goes nowhere.
    Dropped(DropReason),
    /// There is no flow that says where: one has to be made first.
    NeedsFlow,
    /// No flow is to be made for it: it is the stack's.
    ToStack,
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
    let forward = match decision {
        Ok(forward) => forward,
        Err(Stop::Dropped(reason)) => {
            seam.tables.count_drop(endpoint, reason);
            return Outcome { endpoint, result: Err(reason) };
        }
        Err(Stop::NeedsFlow | Stop::ToStack) => Forward::PASS,
    };
    let bytes = seam.skb.l3_len();
    seam.tables.count(endpoint, forward.counter, bytes);
    Outcome { endpoint, result: Ok(forward.verdict) }
}

/// Makes room if a flow was not made for want of it; whether it did: from a
/// full table closed connections go early, from a full share its own ones.
#[inline(always)]
fn makes_room<S, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    id: EndpointId,
    opened: Result<(), Stop>,
) -> bool {
    match opened {
        Err(Stop::Dropped(DropReason::FlowTableFull)) => expire::reclaim(seam, EndpointId::NONE),
        Err(Stop::Dropped(DropReason::FlowLimit)) => expire::reclaim(seam, id),
        Ok(()) | Err(_) => false,
    }
}

/// A frame from a namespace, at its bridge port.
#[inline(always)]
pub fn from_endpoint<S: Skb, T: Tables, E: Env>(seam: &mut Seam<S, T, E>) -> Outcome {
    let id = seam.tables.endpoint_id(seam.skb.ifindex()).unwrap_or(EndpointId::NONE);
    let mut decision = decide_from_endpoint(seam, id);
    if decision == Err(Stop::NeedsFlow) {
        let mut opened = snat::open(seam, id);
        if makes_room(seam, id, opened) {
            opened = snat::open(seam, id);
        }
        decision = match opened {
            Ok(()) => decide_from_endpoint(seam, id),
            Err(stop) => Err(stop),
        };
    }
    account(seam, id, decision)
}

/// Not inlined: it is called for once more when a flow has been made, and the
/// frames of the two do not add up on the stack.
#[inline(never)]
fn decide_from_endpoint<S: Skb, T: Tables, E: Env>(
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
            if header.daddr == endpoint.gateway {
                return Ok(Forward::PASS);
            }
            match parse::packet(&seam.skb, header)? {
                Parsed::Packet(packet) => snat::by_flow(seam, id, &packet),
                // To the host: fine. To the outside: to_uplink() drops it.
                Parsed::Other(_) => Ok(Forward::PASS),
            }
        }
        _ if eth.dst.is_multicast() || eth.dst == endpoint.gateway_mac => Ok(Forward::PASS),
        _ => l2::forward(seam, id, &endpoint, &eth),
    }
}

/// A frame from outside, at the uplink.
#[inline(always)]
pub fn from_uplink<S: Skb, T: Tables, E: Env>(seam: &mut Seam<S, T, E>) -> Outcome {
    let mut id = EndpointId::NONE;
    let mut decision = decide_from_uplink(seam, &mut id);
    if decision == Err(Stop::NeedsFlow) {
        let mut opened = dnat::open(seam, &mut id);
        if makes_room(seam, id, opened) {
            opened = dnat::open(seam, &mut id);
        }
        decision = match opened {
            Ok(()) => decide_from_uplink(seam, &mut id),
            Err(stop) => Err(stop),
        };
    }
    account(seam, id, decision)
}

/// Not inlined: as [`decide_from_endpoint`].
#[inline(never)]
fn decide_from_uplink<S: Skb, T: Tables, E: Env>(
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
    match parse::packet(&seam.skb, header) {
        Ok(Parsed::Packet(packet)) if seam.skb.is_to_us() => dnat::by_flow(seam, &packet, id),
        // The stack forwards what it does not understand, too.
        Ok(_) | Err(_) => match dnat::to_stack(seam, &header) {
            Stop::ToStack => Ok(Forward::PASS),
            stop => Err(stop),
        },
    }
}

/// A frame that the host is about to send by the uplink: its own, or one that
/// its stack forwards. Translated frames do not come by here.
///
/// Nothing with an address of our subnets leaves: what the fast path could not
/// translate ends here, counted for the namespace that sent it. And what the
/// host sends itself ends a namespace's flow that has the very same tuple: the
/// answers are the host's.
#[inline(always)]
pub fn to_uplink<S: Skb, T: Tables, E>(seam: &mut Seam<S, T, E>) -> Outcome {
    let pass = Outcome { endpoint: EndpointId::NONE, result: Ok(Verdict::Pass) };
    let Some(eth) = Eth::load(&seam.skb) else {
        return pass;
    };
    let source = match eth.ethertype {
        eth::IPV4 => wire::ipv4::Header::load(&seam.skb).map(|header| header.saddr),
        eth::ARP => wire::arp::sender(&seam.skb).map(|sender| sender.addr),
        _ => None,
    };
    let Some(source) = source else {
        return pass;
    };
    if !seam.tables.is_private(source) {
        if eth.ethertype == eth::IPV4 {
            flow::yield_to_host(seam);
        }
        return pass;
    }
    let endpoint = seam.tables.address_owner(source).unwrap_or(EndpointId::NONE);
    seam.tables.count_drop(endpoint, DropReason::PrivateSource);
    Outcome { endpoint, result: Err(DropReason::PrivateSource) }
}
