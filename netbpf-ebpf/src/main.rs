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
        BPF_F_INGRESS, bpf_redir_neigh,
        tcx_action_base::{TCX_DROP, TCX_NEXT},
    },
    helpers::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_type},
    macros::classifier,
    programs::TcContext,
};
use aya_log_ebpf::{debug, trace, warn};
use netbpf_common::{
    DropReason, EndpointId, Flow, Ipv4, KnownFlow, Port, RareProgram, Seen, Translation, Tuple,
    maps::FLUSH_BATCH,
};
use netbpf_ebpf::{
    Lack, Outcome, Verdict, adopt, answer, flow, prepare,
    rare::{self, Rare},
    seam::{Env as _, Seam, Skb},
};

use glue::{
    env::{self, Kernel},
    maps::{self, KernelMaps, PROGRAMS},
    skb::{Frame, L3Packet, Packet, TO_HOST, TRANSLATED},
    sweeper,
};

/// `AF_INET`.
const AF_INET: u32 = 2;

/// Set by the loader on kernels before 6.15, where a packet that goes to a
/// peer keeps the type that it had for the bridge port: "for somebody else".
#[unsafe(no_mangle)]
static RETYPE_PEER: Global<u32> = Global::new(0);

#[inline(always)]
fn seam<const HAS_ETHERNET: bool>(
    skb: Packet<HAS_ETHERNET>,
) -> Seam<Packet<HAS_ETHERNET>, KernelMaps, Kernel> {
    Seam { skb, tables: KernelMaps, env: Kernel(skb.raw()) }
}

/// Hands over to another program; what comes back is for the case that it is
/// not there.
#[inline(always)]
fn hand_over(ctx: &TcContext, program: RareProgram) -> i32 {
    // SAFETY: nothing of this program is left to be done or dropped.
    unsafe { PROGRAMS.tail_call(ctx, program as u32) };
    TCX_DROP
}

/// Where a packet has come by. It is left to the program that goes on with it: there is
/// one for all of them, as the verifier looks at all that is rare in each that has it.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Entry {
    FromEndpoint,
    FromUplink,
    ToUplink,
}

/// Hands over what is rare.
#[inline(always)]
fn go_on<const HAS_ETHERNET: bool>(
    ctx: &TcContext,
    skb: Packet<HAS_ETHERNET>,
    entry: Entry,
) -> i32 {
    skb.leave((entry as u32, 0));
    hand_over(ctx, if HAS_ETHERNET { RareProgram::Rare } else { RareProgram::RareL3 })
}

/// Does what was decided, and says so if anybody listens. What is rare goes on in
/// another program.
#[inline(always)]
fn apply<const HAS_ETHERNET: bool>(
    ctx: &TcContext,
    skb: Packet<HAS_ETHERNET>,
    outcome: Outcome,
    entry: Entry,
) -> i32 {
    let endpoint = outcome.endpoint.0;
    match outcome.result {
        Ok(Verdict::Pass) => {
            trace!(ctx, "endpoint {}: passed up", endpoint);
            skb.forget_hairpin();
            TCX_NEXT
        }
        Ok(Verdict::Peer { ifindex }) => {
            trace!(ctx, "endpoint {}: into the namespace behind {}", endpoint, ifindex);
            skb.forget_hairpin();
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
        Ok(Verdict::Neighbour { ifindex: Flow::LOOPBACK, next_hop }) => {
            trace!(ctx, "endpoint {}: to the host's own address", endpoint);
            skb.mark_loopback(next_hop);
            // SAFETY: no pointers; a device that is down drops the packet.
            unsafe { bpf_redirect(Flow::LOOPBACK, u64::from(BPF_F_INGRESS)) as i32 }
        }
        Ok(Verdict::Neighbour { ifindex, next_hop }) => {
            trace!(ctx, "endpoint {}: out by {} to {:i}", endpoint, ifindex, next_hop.to_host());
            skb.set_mark(TRANSLATED);
            redirect_neigh(ifindex, next_hop)
        }
        Ok(Verdict::Rare) => go_on(ctx, skb, entry),
        Ok(Verdict::Prepare(lack)) => {
            skb.leave((entry as u32, lack as u32));
            hand_over(ctx, RareProgram::Prepare)
        }
        Ok(Verdict::Held | Verdict::Sent) => TCX_DROP,
        Err(reason) => {
            match reason {
                DropReason::FlowTableFull | DropReason::FlowLimit | DropReason::PortsExhausted => {
                    warn!(ctx, "endpoint {}: no new flow, reason {}", endpoint, reason as u8);
                }
                _ => debug!(ctx, "endpoint {}: dropped, reason {}", endpoint, reason as u8),
            }
            if HAS_ETHERNET && answer::is_answered(reason) {
                skb.leave((u32::from(endpoint), reason as u32));
                return hand_over(ctx, RareProgram::SendError);
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
    let mut seam = seam(Frame::new(&ctx));
    let outcome = netbpf_ebpf::from_endpoint(&mut seam);
    apply(&ctx, seam.skb, outcome, Entry::FromEndpoint)
}

/// Frames from outside, or from the host itself: tc ingress of the uplinks and
/// of the host's loopback device.
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let mut seam = seam(Frame::new(&ctx));
    if seam.skb.mark() == TO_HOST {
        seam.skb.set_mark(0);
        return TCX_NEXT;
    }
    let outcome = netbpf_ebpf::from_uplink(&mut seam);
    apply(&ctx, seam.skb, outcome, Entry::FromUplink)
}

/// The same of an uplink without Ethernet headers.
#[classifier]
pub fn from_uplink_l3(ctx: TcContext) -> i32 {
    let Some(frame) = Frame::with_header(&ctx) else {
        return TCX_NEXT;
    };
    let mut seam = seam(frame);
    let outcome = netbpf_ebpf::from_uplink(&mut seam);
    apply(&ctx, seam.skb, outcome, Entry::FromUplink)
}

/// Frames to the outside: tc egress of the uplink.
#[classifier]
pub fn to_uplink(ctx: TcContext) -> i32 {
    out(&ctx, Frame::new(&ctx))
}

/// The same of an uplink without Ethernet headers.
#[classifier]
pub fn to_uplink_l3(ctx: TcContext) -> i32 {
    out(&ctx, L3Packet::new(&ctx))
}

#[inline(always)]
fn out<const HAS_ETHERNET: bool>(ctx: &TcContext, skb: Packet<HAS_ETHERNET>) -> i32 {
    if skb.mark() == TRANSLATED {
        skb.set_mark(0);
        return TCX_NEXT;
    }
    let mut seam = seam(skb);
    let outcome = netbpf_ebpf::to_uplink(&mut seam);
    apply(ctx, skb, outcome, Entry::ToUplink)
}

/// Goes on for `from_endpoint`, `from_uplink` and `from_uplink_l3` with what lacks something.
#[classifier]
pub fn prepare(ctx: TcContext) -> i32 {
    // A way that is looked up now is as old as the clock says, and is not to be from before
    // the time that is at hand when that is judged.
    env::set_clock();
    let mut seam = seam(Frame::new(&ctx));
    let (entry, lack) = seam.skb.left();
    if entry == Entry::FromEndpoint as u32 {
        let outcome = prepare::from_endpoint(&mut seam, Lack::of(lack));
        apply(&ctx, seam.skb, outcome, Entry::FromEndpoint)
    } else {
        let outcome = prepare::from_uplink(&mut seam);
        apply(&ctx, seam.skb, outcome, Entry::FromUplink)
    }
}

/// Goes on for `from_endpoint`, `from_uplink`, `from_uplink_l3` and `to_uplink`.
#[classifier]
pub fn rare(ctx: TcContext) -> i32 {
    let (entry, _) = Frame::new(&ctx).left();
    let Some(place) = maps::rare() else {
        return TCX_DROP;
    };
    let (endpoint, entry) = if entry == Entry::FromEndpoint as u32 {
        (rare_from_endpoint(&ctx, place), Entry::FromEndpoint)
    } else if entry == Entry::FromUplink as u32 {
        (rare_from_uplink(&ctx, place), Entry::FromUplink)
    } else {
        (rare_to_uplink::<true>(&ctx, place), Entry::ToUplink)
    };
    conclude::<true>(&ctx, endpoint, place, entry)
}

/// Goes on for `to_uplink_l3`.
#[classifier]
pub fn rare_l3(ctx: TcContext) -> i32 {
    let Some(place) = maps::rare() else {
        return TCX_DROP;
    };
    let endpoint = rare_to_uplink::<false>(&ctx, place);
    conclude::<false>(&ctx, endpoint, place, Entry::ToUplink)
}

// Not inlined, so that the stack of one is not there in another.

#[inline(never)]
fn rare_from_endpoint(ctx: &TcContext, place: &mut Rare) -> EndpointId {
    rare::from_endpoint(&mut seam(Frame::new(ctx)), place)
}

#[inline(never)]
fn rare_from_uplink(ctx: &TcContext, place: &mut Rare) -> EndpointId {
    rare::from_uplink(&mut seam(Frame::new(ctx)), place)
}

#[inline(never)]
fn rare_to_uplink<const HAS_ETHERNET: bool>(ctx: &TcContext, place: &mut Rare) -> EndpointId {
    rare::to_uplink(&mut seam(Packet::<HAS_ETHERNET>::new(ctx)), place)
}

/// Does what was decided in the end about a packet that is rare.
#[inline(never)]
fn conclude<const HAS_ETHERNET: bool>(
    ctx: &TcContext,
    endpoint: EndpointId,
    place: &Rare,
    entry: Entry,
) -> i32 {
    let outcome = place.decided().outcome(endpoint);
    apply(ctx, Packet::<HAS_ETHERNET>::of(ctx.skb.skb), outcome, entry)
}

/// Answers a packet that another program has dropped, if an answer is due.
#[classifier]
pub fn send_error(ctx: TcContext) -> i32 {
    let mut seam = seam(Frame::new(&ctx));
    let (endpoint, reason) = seam.skb.left();
    let reason = DropReason::ALL.iter().find(|known| **known as u32 == reason);
    let Some(reason) = reason else {
        return TCX_DROP;
    };
    match answer::dropped(&mut seam, EndpointId(endpoint as u16), *reason) {
        Some(verdict) => {
            let outcome = Outcome { endpoint: EndpointId(endpoint as u16), result: Ok(verdict) };
            apply(&ctx, seam.skb, outcome, Entry::ToUplink)
        }
        None => TCX_DROP,
    }
}

/// Run once by the loader: arms the expiry timer. 0 if it runs.
#[classifier]
pub fn start_sweeper(_ctx: TcContext) -> i32 {
    sweeper::start()
}

/// Run by the control plane to end flows. The "packet" is an empty Ethernet
/// header and up to [`FLUSH_BATCH`] keys of flows' opening directions; how many
/// flows it ended is the result. If none, it looks for reminders of flows that are
/// gone, through the next [`maps::PURGE_BATCH`](netbpf_common::maps::PURGE_BATCH).
#[classifier]
pub fn flush_flows(ctx: TcContext) -> i32 {
    let mut seam = seam(Frame::new(&ctx));
    let mut ended = 0;
    Kernel::repeat(FLUSH_BATCH, |index| {
        let Some(tuple) = load_key(&seam.skb, 14 + index as usize * size_of::<Tuple>()) else {
            return false;
        };
        if flow::remove(&mut seam, &tuple) {
            ended += 1;
        }
        true
    });
    if ended == 0 {
        sweeper::purge();
    }
    ended
}

/// Run by the control plane to go on with flows of the kernel's connection
/// tracking. The "packet" is an empty Ethernet header and up to
/// [`KnownFlow::BATCH`] of [`KnownFlow`]; how many it made is the result.
#[classifier]
pub fn adopt_flows(ctx: TcContext) -> i32 {
    let mut seam = seam(Frame::new(&ctx));
    let mut adopted = 0;
    Kernel::repeat(KnownFlow::BATCH as u32, |index| {
        let Some(known) = load_known(&seam.skb, 14 + index as usize * KnownFlow::LEN) else {
            return false;
        };
        if adopt::adopt(&mut seam, &known) {
            adopted += 1;
        }
        true
    });
    adopted
}

#[inline(always)]
fn load_known(skb: &impl Skb, offset: usize) -> Option<KnownFlow> {
    let original = load_key(skb, offset)?;
    let translated = load_key(skb, offset + size_of::<Tuple>())?;
    let [seen, reply_seen] = skb.read(offset + size_of::<Tuple>() + size_of::<Translation>())?;
    let (seen, reply_seen) = (Seen(seen), Seen(reply_seen));
    Some(KnownFlow { original, translated: translated.into(), seen, reply_seen, pad: [0; 2] })
}

#[inline(always)]
fn load_key(skb: &impl Skb, offset: usize) -> Option<Tuple> {
    let bytes: [u8; size_of::<Tuple>()] = skb.read(offset)?;
    let [s0, s1, s2, s3, d0, d1, d2, d3, sport @ .., proto, from_host, _, _] = bytes;
    let [sport_high, sport_low, dport_high, dport_low] = sport;
    Some(Tuple {
        saddr: Ipv4::new([s0, s1, s2, s3]),
        daddr: Ipv4::new([d0, d1, d2, d3]),
        sport: Port::from_bytes([sport_high, sport_low]),
        dport: Port::from_bytes([dport_high, dport_low]),
        proto,
        from_host,
        pad: [0; 2],
    })
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
