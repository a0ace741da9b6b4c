//! What `netbpf bench parts` measures: the datapath's path of every packet, cut off
//! after each of its parts.
//!
//! Each program does what the one before it does and one thing more, by the datapath's
//! own functions and on the maps of one that runs, and then sends the packet where the
//! whole datapath would. What it cannot go on with it leaves to that.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![cfg_attr(
    not(target_arch = "bpf"),
    allow(dead_code, reason = "on the host the programs are only type-checked")
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers' argument types; values are small constants and indices"
)]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "of the functions that #[classifier] generates and the signature it asks for"
)]

#[path = ".."]
#[allow(dead_code, reason = "the datapath needs more of it")]
mod glue {
    #[path = "glue/atomic.rs"]
    pub(crate) mod atomic;
    #[path = "glue/env.rs"]
    pub(crate) mod env;
    #[path = "glue/maps.rs"]
    pub(crate) mod maps;
    #[path = "glue/skb.rs"]
    pub(crate) mod skb;
    #[path = "glue/word.rs"]
    pub(crate) mod word;

    /// What is rare, and left to the datapath.
    pub(crate) mod apart {
        use aya_ebpf::bindings::__sk_buff;
        use netbpf_common::{EndpointId, PortOwner};
        use netbpf_ebpf::{
            Stop,
            flow::NewFlow,
            ports::Claim,
            rare::{Decided, Rare, Step},
            seam::InsertError,
        };

        pub(crate) fn take_step(
            _: Step,
            _: *mut __sk_buff,
            id: EndpointId,
            _: &mut Rare,
        ) -> EndpointId {
            id
        }

        pub(crate) fn prepare_outward(_: *mut __sk_buff, _: EndpointId, _: bool) -> Decided {
            Decided::so_far(Err(Stop::ToStack))
        }

        pub(crate) fn prepare_inward(_: *mut __sk_buff, _: &mut EndpointId) -> Result<(), Stop> {
            Err(Stop::ToStack)
        }

        pub(crate) fn try_port(
            _: *mut __sk_buff,
            _: &mut NewFlow,
            _: PortOwner,
            _: Claim,
        ) -> Result<(), InsertError> {
            Err(InsertError::Full)
        }
    }
}

use aya_ebpf::{
    Global,
    bindings::tcx_action_base::TCX_NEXT,
    helpers::{bpf_redirect, bpf_redirect_peer, bpf_skb_change_type},
    macros::classifier,
    programs::TcContext,
};
use netbpf_common::Flow;
use netbpf_ebpf::{
    Verdict, flow, guard, l2, next_hop,
    parse::{self, Parsed, Translate as _},
    rewrite,
    seam::{Env as _, FlowEntry as _, Seam, Skb as _, Tables},
    snat,
    wire::eth::{self, Eth},
};

use glue::{
    env::Kernel,
    maps::KernelMaps,
    skb::{Frame, TRANSLATED},
    word,
};

/// Index of the device that packets leave by; set by the loader.
#[unsafe(no_mangle)]
static OUT: Global<u32> = Global::new(0);
/// Index of the device whose peer packets to a namespace go to.
#[unsafe(no_mangle)]
static PEER: Global<u32> = Global::new(0);
/// As the datapath's.
#[unsafe(no_mangle)]
static RETYPE_PEER: Global<u32> = Global::new(0);

/// After which part a program ends.
mod until {
    pub(super) const NOTHING: u8 = 0;
    pub(super) const ENDPOINT: u8 = 1;
    pub(super) const GUARD: u8 = 2;
    pub(super) const TRANSPORT: u8 = 3;
    pub(super) const CLOCK: u8 = 4;
    pub(super) const FLOW: u8 = 5;
    pub(super) const NEXT_HOP: u8 = 6;
    pub(super) const TRACK: u8 = 7;
    pub(super) const TRANSLATE: u8 = 8;
    pub(super) const MACS: u8 = 9;
    pub(super) const MAC: u8 = 10;
    pub(super) const COUNT: u8 = 11;
}

/// Has the compiler have the value at hand, as if it was used.
#[inline(always)]
fn keep(value: u32) {
    let _ = word::unknown(value as usize);
}

#[inline(always)]
fn out() -> i32 {
    // SAFETY: no pointers; a device that is gone drops the packet.
    unsafe { bpf_redirect(OUT.load(), 0) as i32 }
}

#[inline(always)]
fn peer(ctx: &TcContext) -> i32 {
    if RETYPE_PEER.load() != 0 {
        // SAFETY: a plain helper call on the program's own context.
        unsafe { bpf_skb_change_type(ctx.skb.skb, 0) };
    }
    // SAFETY: no pointers; a device that is gone drops the packet.
    unsafe { bpf_redirect_peer(PEER.load(), 0) as i32 }
}

/// From a namespace to the outside: what `from_endpoint` does, step by step.
#[inline(always)]
fn outward<const UNTIL: u8>(ctx: &TcContext) -> Option<i32> {
    if UNTIL == until::NOTHING {
        return Some(out());
    }
    let skb = Frame::new(ctx);
    let mut seam = Seam { skb, tables: KernelMaps, env: Kernel(skb.raw()) };
    let id = seam.tables.endpoint_id(seam.skb.ifindex())?;
    let endpoint = seam.tables.endpoint(id)?;
    if UNTIL == until::ENDPOINT {
        return Some(out());
    }
    let eth = Eth::load(&seam.skb)?;
    guard::check_mac(&mut seam, id, &endpoint, eth.src).ok()?;
    if seam.skb.vlan_id().is_some() || eth.ethertype != eth::IPV4 {
        return None;
    }
    let header = parse::header(&seam.skb).ok()?;
    guard::check_address(&seam, &endpoint, eth.src, header.saddr).ok()?;
    if eth.dst.is_multicast() || eth.dst != endpoint.gateway_mac {
        return None;
    }
    if UNTIL == until::GUARD {
        return Some(out());
    }
    let Ok(Parsed::Packet(packet)) = parse::packet(&seam.skb, header) else {
        return None;
    };
    if packet.header.ttl <= 1 {
        return None;
    }
    if UNTIL == until::TRANSPORT {
        packet.tuple.words().into_iter().for_each(keep);
        return Some(out());
    }
    let now = seam.env.now_at_hand();
    if UNTIL == until::CLOCK {
        packet.tuple.words().into_iter().chain([now.0]).for_each(keep);
        return Some(out());
    }
    let key = KernelMaps::key(&packet.tuple);
    let mut entry = seam.tables.flow(&key)?;
    let flow = entry.get();
    let is_ours = flow.endpoint == id && !flow.kind.is_to_endpoint() && !flow.is_by_stack();
    if !is_ours || flow.route_epoch != Flow::epoch(now) {
        return None;
    }
    if UNTIL == until::FLOW {
        return Some(out());
    }
    let hop = next_hop::find(&mut seam, &flow, now);
    if packet.is_longer_than(&seam.skb, hop.mtu) || flow.kind.is_narrow() {
        return None;
    }
    if UNTIL == until::NEXT_HOP {
        return Some(out());
    }
    flow::track(&mut seam, &mut entry, &flow, &packet, now);
    if UNTIL == until::TRACK {
        return Some(out());
    }
    rewrite::trim(&mut seam.skb, packet.len)?;
    let ttl = packet.header.ttl - 1;
    packet.translate(&mut seam.skb, &flow, ttl)?;
    if UNTIL == until::TRANSLATE {
        return Some(out());
    }
    let verdict = next_hop::send(&mut seam.skb, &flow, &hop).ok()?;
    // (Now and then the kernel's neighbour output has it, which sends it the same way.)
    if let Verdict::Uplink { ifindex } = verdict {
        keep(ifindex);
    }
    if UNTIL == until::MACS {
        return Some(out());
    }
    seam.tables.count(id, snat::counter(&flow), packet.len);
    seam.skb.set_mark(TRANSLATED);
    Some(out())
}

/// From a namespace to another one.
#[inline(always)]
fn across<const UNTIL: u8>(ctx: &TcContext) -> Option<i32> {
    if UNTIL == until::NOTHING {
        return Some(peer(ctx));
    }
    let skb = Frame::new(ctx);
    let mut seam = Seam { skb, tables: KernelMaps, env: Kernel(skb.raw()) };
    let id = seam.tables.endpoint_id(seam.skb.ifindex())?;
    let endpoint = seam.tables.endpoint(id)?;
    if UNTIL == until::ENDPOINT {
        return Some(peer(ctx));
    }
    let eth = Eth::load(&seam.skb)?;
    guard::check_mac(&mut seam, id, &endpoint, eth.src).ok()?;
    if seam.skb.vlan_id().is_some() || eth.ethertype != eth::IPV4 {
        return None;
    }
    let header = parse::header(&seam.skb).ok()?;
    guard::check_address(&seam, &endpoint, eth.src, header.saddr).ok()?;
    if eth.dst.is_multicast() || eth.dst == endpoint.gateway_mac {
        return None;
    }
    if UNTIL == until::GUARD {
        return Some(peer(ctx));
    }
    let forward = l2::forward(&seam, id, &endpoint, &eth).ok()?;
    let Verdict::Peer { ifindex } = forward.verdict else {
        return None;
    };
    keep(ifindex);
    if UNTIL == until::MAC {
        return Some(peer(ctx));
    }
    let bytes = seam.skb.l3_len();
    seam.tables.count(id, forward.counter, bytes);
    Some(peer(ctx))
}

macro_rules! programs {
    ($($name:ident: $way:ident $until:ident;)*) => {
        $(
            #[classifier]
            pub fn $name(ctx: TcContext) -> i32 {
                $way::<{ until::$until }>(&ctx).unwrap_or(TCX_NEXT)
            }
        )*
    };
}

programs! {
    out_nothing: outward NOTHING;
    out_endpoint: outward ENDPOINT;
    out_guard: outward GUARD;
    out_transport: outward TRANSPORT;
    out_clock: outward CLOCK;
    out_flow: outward FLOW;
    out_next_hop: outward NEXT_HOP;
    out_track: outward TRACK;
    out_translate: outward TRANSLATE;
    out_macs: outward MACS;
    out_count: outward COUNT;
    peer_nothing: across NOTHING;
    peer_endpoint: across ENDPOINT;
    peer_guard: across GUARD;
    peer_mac: across MAC;
    peer_count: across COUNT;
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
