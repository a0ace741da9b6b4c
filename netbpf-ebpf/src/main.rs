//! The tc programs: a thin skin around the datapath.
//!
//! Each takes a packet, asks the library what becomes of it, and turns the
//! answer into a TC code.

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

mod glue;

use aya_ebpf::{
    Global,
    bindings::{
        bpf_redir_neigh,
        tcx_action_base::{TCX_DROP, TCX_NEXT},
    },
    helpers::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_type},
    macros::classifier,
    programs::TcContext,
};
use aya_log_ebpf::{debug, trace, warn};
use netbpf_common::{DropReason, Ipv4, Port, Tuple};
use netbpf_ebpf::{
    Outcome, Verdict, flow,
    seam::{Seam, Skb},
};

use glue::{env::Kernel, maps::KernelMaps, skb::Packet, sweeper};

/// Mark of packets that this datapath sends to an uplink, so that its own
/// program at the way out lets them by. Taken off there.
const TRANSLATED: u32 = 0x6e65_7462;
/// `AF_INET`.
const AF_INET: u32 = 2;

/// Set by the loader on kernels before 6.15, where a packet that goes to a
/// peer keeps the type that it had for the bridge port: "for somebody else".
#[unsafe(no_mangle)]
static RETYPE_PEER: Global<u32> = Global::new(0);

#[inline(always)]
fn seam(ctx: &TcContext) -> Seam<Packet, KernelMaps, Kernel> {
    let skb = Packet::new(ctx);
    Seam { skb, tables: KernelMaps, env: Kernel(skb) }
}

/// Does what was decided, and says so if anybody listens.
#[inline(always)]
fn apply(ctx: &TcContext, skb: Packet, outcome: Outcome) -> i32 {
    let endpoint = outcome.endpoint.0;
    match outcome.result {
        Ok(Verdict::Pass) => {
            trace!(ctx, "endpoint {}: passed up", endpoint);
            TCX_NEXT
        }
        Ok(Verdict::Peer { ifindex }) => {
            trace!(ctx, "endpoint {}: into the namespace behind {}", endpoint, ifindex);
            if RETYPE_PEER.load() != 0 {
                // SAFETY: a plain helper call on the program's own context.
                unsafe { bpf_skb_change_type(skb.raw(), 0) };
            }
            // SAFETY: no pointers; a device that is gone drops the packet.
            unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
        }
        Ok(Verdict::Uplink { ifindex }) => {
            trace!(ctx, "endpoint {}: out by {}", endpoint, ifindex);
            skb.set_mark(TRANSLATED);
            // SAFETY: no pointers; a device that is gone drops the packet.
            unsafe { bpf_redirect(ifindex, 0) as i32 }
        }
        Ok(Verdict::Neighbour { ifindex, next_hop }) => {
            trace!(ctx, "endpoint {}: out by {} to {:i}", endpoint, ifindex, next_hop.to_host());
            skb.set_mark(TRANSLATED);
            redirect_neigh(ifindex, next_hop)
        }
        Err(reason) => {
            match reason {
                DropReason::FlowTableFull | DropReason::FlowLimit | DropReason::PortsExhausted => {
                    warn!(ctx, "endpoint {}: no new flow, reason {}", endpoint, reason as u8);
                }
                _ => debug!(ctx, "endpoint {}: dropped, reason {}", endpoint, reason as u8),
            }
            TCX_DROP
        }
    }
}

#[inline(always)]
fn redirect_neigh(ifindex: u32, next_hop: Ipv4) -> i32 {
    // SAFETY: an integer and a union of integers, of which zero is a value.
    let mut params: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    params.nh_family = AF_INET;
    params.__bindgen_anon_1.ipv4_nh = next_hop.to_be();
    let len = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the pointer is to a structure of the length that is given along.
    unsafe { bpf_redirect_neigh(ifindex, &raw mut params, len, 0) as i32 }
}

/// Frames from a namespace: tc ingress of the veth's host side.
#[classifier]
pub fn from_endpoint(ctx: TcContext) -> i32 {
    let mut seam = seam(&ctx);
    let outcome = netbpf_ebpf::from_endpoint(&mut seam);
    apply(&ctx, seam.skb, outcome)
}

/// Frames from outside: tc ingress of the uplink.
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let mut seam = seam(&ctx);
    let outcome = netbpf_ebpf::from_uplink(&mut seam);
    apply(&ctx, seam.skb, outcome)
}

/// Frames to the outside: tc egress of the uplink.
#[classifier]
pub fn to_uplink(ctx: TcContext) -> i32 {
    let mut seam = seam(&ctx);
    if seam.skb.mark() == TRANSLATED {
        seam.skb.set_mark(0);
        return TCX_NEXT;
    }
    let outcome = netbpf_ebpf::to_uplink(&mut seam);
    apply(&ctx, seam.skb, outcome)
}

/// Run once by the loader: arms the expiry timer. 0 if it runs.
#[classifier]
pub fn start_sweeper(_ctx: TcContext) -> i32 {
    sweeper::start()
}

/// Run by the control plane to end flows. The "packet" is an empty Ethernet
/// header and up to [`FLUSH_BATCH`] keys of flows' opening directions; how many
/// flows it ended is the result.
#[classifier]
pub fn flush_flows(ctx: TcContext) -> i32 {
    let mut seam = seam(&ctx);
    let mut ended = 0;
    let mut index = 0;
    while index < FLUSH_BATCH {
        let Some(tuple) = load_key(&seam.skb, 14 + index * size_of::<Tuple>()) else {
            break;
        };
        if flow::remove(&mut seam, &tuple) {
            ended += 1;
        }
        index += 1;
    }
    ended
}

#[inline(always)]
fn load_key(skb: &impl Skb, offset: usize) -> Option<Tuple> {
    Some(Tuple {
        saddr: Ipv4::from_be(skb.load_u32(offset)?),
        daddr: Ipv4::from_be(skb.load_u32(offset + 4)?),
        sport: Port::from_be(skb.load_u16(offset + 8)?),
        dport: Port::from_be(skb.load_u16(offset + 10)?),
        proto: skb.load_u8(offset + 12)?,
        pad: [0; 3],
    })
}

/// Most keys that one run of `flush_flows` takes.
const FLUSH_BATCH: usize = 64;

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
