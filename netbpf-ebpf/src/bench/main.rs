//! What `netbpf bench` measures with: a generator of frames, a sink that counts
//! them, and the programs that show how fast a datapath could be at most.

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

#[path = "../glue/word.rs"]
#[allow(dead_code, reason = "the datapath needs other words")]
mod word;

use aya_ebpf::{
    Global,
    bindings::{
        tcx_action_base::{TCX_DROP, TCX_NEXT},
        xdp_action::{XDP_ABORTED, XDP_PASS},
    },
    btf_maps::{Array, PerCpuArray},
    helpers::{bpf_redirect, bpf_redirect_peer, bpf_skb_change_type},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use netbpf_common::{
    Ipv4,
    bench::{Arrivals, Generator},
};

/// Offsets in a frame.
const MACS: usize = 0;
const CHECKSUM: usize = 14 + 10;
const SADDR: usize = 14 + 12;
const DADDR: usize = 14 + 16;
const SPORT: usize = 14 + 20;
const DPORT: usize = 14 + 22;

#[btf_map]
static GENERATOR: Array<Generator, 1> = Array::new();
#[btf_map]
static ARRIVALS: PerCpuArray<Arrivals, 1> = PerCpuArray::new();
/// Not 0 while sinks send back what arrives.
#[btf_map]
static REFLECT: Array<u32, 1> = Array::new();

/// Index of the device that the limits redirect to; set by the loader.
#[unsafe(no_mangle)]
static TARGET: Global<u32> = Global::new(0);
/// As the datapath's.
#[unsafe(no_mangle)]
static RETYPE_PEER: Global<u32> = Global::new(0);

/// Writes the next frame, all of it: the buffers come back as others left them.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + Generator::FRAME > end {
        return XDP_ABORTED;
    }
    let Some(generator) = GENERATOR.get_ptr_mut(0) else {
        return XDP_ABORTED;
    };
    // SAFETY: an element of a map, which lives as long as the program. One thread
    // runs the program, and changes the element only while it does not.
    let generator = unsafe { &mut *generator };
    let [addr, port, flow] = generator.at;
    let addr_half = generator.first_addr + addr;
    let sum = generator.sum + addr_half;
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    // SAFETY: all offsets are within the frame, which is within the buffer.
    unsafe {
        for (index, word) in generator.frame.iter().enumerate() {
            write_u64(start + 8 * index, *word);
        }
        word::write_u16(start + CHECKSUM, checksum.to_be());
        word::write_u16(start + SPORT, (generator.first_port + port).to_be_u16());
        if generator.walks_source == 0 {
            word::write_u16(start + DADDR + 2, addr_half.to_be_u16());
        } else {
            word::write_u16(start + SADDR + 2, addr_half.to_be_u16());
        }
    }
    generator.at = if flow + 1 >= generator.flows {
        [0, 0, 0]
    } else if port + 1 >= generator.ports {
        [addr + 1, 0, flow + 1]
    } else {
        [addr, port + 1, flow + 1]
    };
    XDP_PASS
}

/// The lower half of a number as it lies in a packet.
trait ToBe {
    fn to_be_u16(self) -> u16;
}

impl ToBe for u32 {
    #[inline(always)]
    fn to_be_u16(self) -> u16 {
        (self as u16).to_be()
    }
}

/// Overwrites the 8-byte word at `at`.
///
/// # Safety
/// `at` must be the address of 8 writable bytes of a packet.
#[inline(always)]
unsafe fn write_u64(at: usize, value: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: a store to the bytes that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "*(u64 *)({at} + 0) = {value}",
            at = in(reg) at,
            value = in(reg) value,
            options(nostack, preserves_flags),
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        (at as *mut u64).write_unaligned(value);
    }
}

/// Counts the generator's frames, and drops them or sends them back. All others
/// go on: a network with a sink works.
#[classifier]
pub fn sink(ctx: TcContext) -> i32 {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + Generator::HEADERS + Generator::MARK.len() > end {
        return TCX_NEXT;
    }
    // SAFETY: the mark and all headers are within the packet.
    let (mark, saddr, daddr) = unsafe {
        let mark = word::read_u32(start + Generator::HEADERS);
        (mark, word::read_u32(start + SADDR), word::read_u32(start + DADDR))
    };
    if mark != u32::from_ne_bytes(Generator::MARK) {
        return TCX_NEXT;
    }
    if let Some(arrivals) = ARRIVALS.get_ptr_mut(0) {
        // SAFETY: an element of a map, which is this CPU's own.
        let arrivals = unsafe { &mut *arrivals };
        arrivals.packets += 1;
        arrivals.saddr = Ipv4::new(saddr.to_ne_bytes());
        arrivals.daddr = Ipv4::new(daddr.to_ne_bytes());
    }
    if REFLECT.get(0).is_none_or(|reflect| *reflect == 0) {
        return TCX_DROP;
    }
    // SAFETY: the headers are within the packet; its sender's addresses and ports
    // change places with the receiver's, which changes no checksum.
    unsafe {
        let (to, from) = (MACS, MACS + 6);
        let macs = [0, 2, 4]
            .map(|at| (at, word::read_u16(start + to + at), word::read_u16(start + from + at)));
        for (at, receiver, sender) in macs {
            word::write_u16(start + to + at, sender);
            word::write_u16(start + from + at, receiver);
        }
        word::write_u32(start + SADDR, daddr);
        word::write_u32(start + DADDR, saddr);
        let (sport, dport) = (word::read_u16(start + SPORT), word::read_u16(start + DPORT));
        word::write_u16(start + SPORT, dport);
        word::write_u16(start + DPORT, sport);
        bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32
    }
}

/// The limit of what leads into a namespace: redirects all packets to the peer
/// of a device, without a look at them.
#[classifier]
pub fn limit_peer(ctx: TcContext) -> i32 {
    if RETYPE_PEER.load() != 0 {
        // SAFETY: a plain helper call on the program's own context.
        unsafe { bpf_skb_change_type(ctx.skb.skb, 0) };
    }
    // SAFETY: no pointers; a device that is gone drops the packet.
    unsafe { bpf_redirect_peer(TARGET.load(), 0) as i32 }
}

/// The limit of what leads out by a device.
#[classifier]
pub fn limit_out(_ctx: TcContext) -> i32 {
    // SAFETY: no pointers; a device that is gone drops the packet.
    unsafe { bpf_redirect(TARGET.load(), 0) as i32 }
}

/// Does nothing: what running a program costs by itself.
#[classifier]
pub fn nothing(_ctx: TcContext) -> i32 {
    TCX_NEXT
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
