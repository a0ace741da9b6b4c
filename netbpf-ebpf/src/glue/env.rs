//! Clock, dice, routing table, neighbours and sockets: helpers behind [`Env`].

use core::{
    ffi::c_void,
    mem::{offset_of, size_of, zeroed},
};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_CURRENT_NETNS, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NO_SRC_ADDR,
        BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT,
        BPF_FIB_LOOKUP_SRC, bpf_fib_lookup as FibParams, bpf_sock_tuple,
    },
    helpers::{
        bpf_check_mtu, bpf_fib_lookup, bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_coarse_ns,
        bpf_loop, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
    },
};
use netbpf_common::{Ipv4, MacAddr, Ticks, Tuple, proto};
use netbpf_ebpf::seam::{Env, Neighbour, Route};

use super::maps;

const AF_INET: u8 = 2;
const ENODEV: i64 = -19;
const EINVAL: i64 = -22;
/// Bytes of `struct bpf_sock_tuple` that make an IPv4 tuple: both addresses, both
/// ports, with which [`Tuple`] begins.
const TUPLE_LEN: u32 = 12;

const _: () = assert!(
    offset_of!(Tuple, saddr) == 0
        && offset_of!(Tuple, daddr) == 4
        && offset_of!(Tuple, sport) == 8
        && offset_of!(Tuple, dport) == 10
);

/// The kernel, asked on behalf of a packet, whose context this is.
#[derive(Clone, Copy)]
pub(crate) struct Kernel(pub(crate) *mut __sk_buff);

/// The time, without a packet.
#[inline(always)]
pub(crate) fn now() -> Ticks {
    // SAFETY: no arguments, no obligations.
    Ticks::from_nanos(unsafe { bpf_ktime_get_coarse_ns() })
}

/// What marks a word of `CLOCK` that has been written.
const IS_KNOWN: u64 = 1 << 63;

/// The jiffy that it is, in the upper half of a word.
#[inline(always)]
fn jiffy() -> u64 {
    // SAFETY: no arguments, no obligations.
    let jiffies = unsafe { bpf_jiffies64() };
    jiffies << 32 | IS_KNOWN
}

/// The time as it was in this jiffy when somebody asked first. The kernel's coarse clock
/// goes on with the jiffies, but asking it is a call, and a long one; jiffies are read in
/// three instructions. Whoever asks in the moment between the two leaves the time of the
/// jiffy before to others, for as long as this one lasts.
#[inline(always)]
fn now_at_hand() -> Ticks {
    let Some(place) = maps::clock() else {
        return now();
    };
    let jiffy = jiffy();
    // SAFETY: a look-up's pointer to an aligned u64 of the map, which is read and written
    // whole: time and jiffy belong together.
    unsafe {
        let known = place.read_volatile();
        if known >> 32 == jiffy >> 32 {
            return Ticks(known as u32);
        }
        let now = now();
        place.write_volatile(jiffy | u64::from(now.0));
        now
    }
}

/// Has the time at hand be what it is: to be asked for before something is made of which
/// the time is looked at again.
#[inline(always)]
pub(crate) fn set_clock() {
    if let Some(place) = maps::clock() {
        // SAFETY: as in `now_at_hand`.
        unsafe { place.write_volatile(jiffy() | u64::from(now().0)) }
    }
}

impl Kernel {
    /// Asks the routing table. Zero MACs in the answer mean that the next hop is
    /// not resolved.
    #[inline(always)]
    fn fib(self, params: &mut FibParams, flags: u32) -> i64 {
        // With a length the answer tells the MTU, and is the same for any packet.
        params.__bindgen_anon_1.tot_len = 1;
        // SAFETY: the pointers are to the program's context and to a structure
        // of the length that is given along.
        unsafe { bpf_fib_lookup(self.0.cast(), params, size_of::<FibParams>() as i32, flags) }
    }
}

/// Whether the answer of the routing table is a way on.
#[inline(always)]
fn is_forwarded(result: i64) -> bool {
    result == i64::from(BPF_FIB_LKUP_RET_SUCCESS)
        || result == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH)
        || result == i64::from(BPF_FIB_LKUP_RET_NO_SRC_ADDR)
}

/// The MTU of the way on; 0 where the kernel has not come so far as to tell.
#[inline(always)]
fn mtu(params: &FibParams, result: i64) -> u32 {
    if result != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        return 0;
    }
    // SAFETY: integers of the same size.
    u32::from(unsafe { params.__bindgen_anon_1.mtu_result })
}

/// What `bpf_loop` calls: 0 means go on.
extern "C" fn call<F: FnMut(u32) -> bool>(index: u32, step: *mut F) -> i64 {
    // SAFETY: `repeat` passes a pointer to its closure, which nobody else has.
    let step = unsafe { &mut *step };
    i64::from(!step(index))
}

impl Env for Kernel {
    #[inline(always)]
    fn now(&self) -> Ticks {
        now()
    }

    #[inline(always)]
    fn now_at_hand(&self) -> Ticks {
        now_at_hand()
    }

    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: no arguments, no obligations.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn route(&mut self, ifindex: u32, tuple: &Tuple) -> Route {
        // SAFETY: integers and unions of them, of which zero is a valid value.
        let mut params: FibParams = unsafe { zeroed() };
        params.family = AF_INET;
        params.l4_protocol = tuple.proto;
        params.sport = tuple.sport.to_be();
        params.dport = tuple.dport.to_be();
        params.ifindex = ifindex;
        params.__bindgen_anon_3.ipv4_src = tuple.saddr.to_be();
        params.__bindgen_anon_4.ipv4_dst = tuple.daddr.to_be();
        let mut result = self.fib(&mut params, BPF_FIB_LOOKUP_SRC);
        let has_source = result != EINVAL;
        if !has_source {
            // Before Linux 6.7.
            result = self.fib(&mut params, 0);
        }
        if result == i64::from(BPF_FIB_LKUP_RET_NOT_FWDED) {
            return Route::LOCAL;
        }
        // The way may lead by an IPv6 router (RFC 8950).
        if !is_forwarded(result) || params.family != AF_INET {
            return Route::STACK;
        }
        // SAFETY: the helper fills in the IPv4 members for AF_INET, and the MTU.
        unsafe {
            let source = if has_source { params.__bindgen_anon_3.ipv4_src } else { 0 };
            Route {
                ifindex: params.ifindex,
                next_hop: Ipv4::from_be(params.__bindgen_anon_4.ipv4_dst),
                source: Ipv4::from_be(source),
                mtu: mtu(&params, result),
            }
        }
    }

    #[inline(always)]
    fn resolve(&mut self, ifindex: u32, next_hop: Ipv4) -> Neighbour {
        // SAFETY: as in `route`. The MACs stay zero if there is no neighbour.
        let mut params: FibParams = unsafe { zeroed() };
        params.family = AF_INET;
        params.ifindex = ifindex;
        params.__bindgen_anon_4.ipv4_dst = next_hop.to_be();
        let result = self.fib(&mut params, BPF_FIB_LOOKUP_OUTPUT);
        if !is_forwarded(result) {
            return Neighbour::default();
        }
        // SAFETY: as in `route`. Another router's MACs are not the next hop's.
        let found = unsafe { params.__bindgen_anon_4.ipv4_dst };
        if params.ifindex != ifindex || params.family != AF_INET || found != next_hop.to_be() {
            return Neighbour::default();
        }
        Neighbour {
            mac: MacAddr::new(params.dmac),
            source_mac: MacAddr::new(params.smac),
            mtu: mtu(&params, result),
        }
    }

    #[inline(always)]
    fn repeat<F: FnMut(u32) -> bool>(times: u32, mut step: F) {
        // SAFETY: the callback has the signature that the helper calls, with a
        // context that is what it takes it for and outlives the loop.
        unsafe {
            bpf_loop(times, call::<F> as *mut c_void, (&raw mut step).cast(), 0);
        }
    }

    #[inline(always)]
    fn has_interface(&mut self, ifindex: u32) -> bool {
        // A packet of one byte fits everywhere.
        let mut len = 1;
        // SAFETY: pointers to the program's context and to a number, which the helper
        // reads and writes.
        unsafe { bpf_check_mtu(self.0.cast(), ifindex, &raw mut len, 0, 0) != ENODEV }
    }

    #[inline(always)]
    fn has_socket(&mut self, tuple: &Tuple) -> bool {
        // Addresses and ports, in the order of the kernel's structure too.
        let wanted = (&raw const *tuple).cast_mut().cast::<bpf_sock_tuple>();
        let ctx = self.0.cast();
        let netns = i64::from(BPF_F_CURRENT_NETNS).cast_unsigned();
        // SAFETY: pointers to the program's context and to 12 readable bytes, of
        // which the helper only reads; a socket that is found is released at once.
        unsafe {
            let socket = match tuple.proto {
                proto::TCP => bpf_skc_lookup_tcp(ctx, wanted, TUPLE_LEN, netns, 0),
                proto::UDP => bpf_sk_lookup_udp(ctx, wanted, TUPLE_LEN, netns, 0),
                _ => return false,
            };
            if socket.is_null() {
                return false;
            }
            bpf_sk_release(socket.cast());
        }
        true
    }
}
