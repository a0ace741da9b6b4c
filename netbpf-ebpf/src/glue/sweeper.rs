//! The timer that expires flows while no process of netbpf runs.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_timer,
    btf_maps::Array,
    helpers::{bpf_loop, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start},
    macros::btf_map,
};
use netbpf_common::{EndpointId, maps::PURGE_BATCH};
use netbpf_ebpf::{
    expire::{self, Look, Visited},
    seam::{Seam, Tables},
};

use super::{env, maps::KernelMaps};

/// Rounds that it takes to visit every flow: at most one flow in so many is
/// visited each time, so that no single run takes long.
const ROUNDS: u64 = 64;
/// Visits that are worth a run.
const LEAST_VISITS: u64 = 64;
/// Most visits in a run; some 3 ms.
const MOST_VISITS: u64 = 16_384;
/// Time between two runs when there is much to visit, in nanoseconds.
const BUSY_PERIOD: u64 = 64_000_000;
/// Time between two runs when there is little, in nanoseconds.
const IDLE_PERIOD: u64 = 500_000_000;

const CLOCK_MONOTONIC: u64 = 1;
const EBUSY: i64 = -16;

#[repr(C)]
#[derive(Clone, Copy)]
struct Sweeper {
    timer: bpf_timer,
}

#[btf_map]
static SWEEPER: Array<Sweeper, 1> = Array::new();

/// Arms the timer, or hands it over to this very program's code; 0 if it runs.
#[inline(always)]
pub(crate) fn start() -> i32 {
    let Some(sweeper) = SWEEPER.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the timer is in the map's value, as the helpers ask; the callback
    // has the signature that they call.
    unsafe {
        let timer = &raw mut (*sweeper).timer;
        let initialised =
            bpf_timer_init(timer, (&raw const SWEEPER).cast_mut().cast(), CLOCK_MONOTONIC);
        if initialised != 0 && initialised != EBUSY {
            return 2;
        }
        if bpf_timer_set_callback(timer, sweep as *mut c_void) != 0 {
            return 3;
        }
        if bpf_timer_start(timer, IDLE_PERIOD, 0) != 0 {
            return 4;
        }
    }
    0
}

extern "C" fn sweep(_map: *mut c_void, _key: *mut u32, sweeper: *mut Sweeper) -> i32 {
    let flows = KernelMaps.flow_count(EndpointId::NONE);
    let visits = match KernelMaps.max_flows() {
        // Flows move into the table: those of the other one may still be what counts.
        0 => 0,
        _ => (flows / ROUNDS).clamp(LEAST_VISITS, MOST_VISITS),
    };
    let period = if flows > ROUNDS * LEAST_VISITS { BUSY_PERIOD } else { IDLE_PERIOD };
    // SAFETY: the callback has the signature that the helper calls, and needs
    // no context; the timer is the one that has just fired.
    unsafe {
        bpf_loop(visits as u32, visit_next as *mut c_void, core::ptr::null_mut(), 0);
        bpf_timer_start(&raw mut (*sweeper).timer, period, 0);
    }
    0
}

/// Looks through the next reminders for those of flows that are gone.
#[inline(always)]
pub(crate) fn purge() {
    // SAFETY: the callback has the signature that the helper calls, and needs no context.
    unsafe {
        bpf_loop(PURGE_BATCH, purge_next as *mut c_void, core::ptr::null_mut(), 0);
    }
}

extern "C" fn visit_next(_index: u32, _ctx: *mut c_void) -> i64 {
    visit(Look::Due)
}

extern "C" fn purge_next(_index: u32, _ctx: *mut c_void) -> i64 {
    visit(Look::All)
}

/// A visit: 0 if another may follow.
#[inline(always)]
fn visit(look: Look) -> i64 {
    let mut seam = Seam { skb: (), tables: KernelMaps, env: () };
    match expire::visit(&mut seam, env::now(), look) {
        Visited::None => 1,
        Visited::Alive | Visited::Gone => 0,
    }
}
