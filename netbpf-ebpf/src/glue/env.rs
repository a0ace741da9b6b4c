//! Clock, dice, routing table, neighbours and sockets: helpers behind [`Env`].

use core::{
    ffi::c_void,
    mem::{offset_of, size_of, zeroed},
};

use aya_ebpf::{
    bindings::{
        BPF_F_CURRENT_NETNS, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LOOKUP_OUTPUT, bpf_fib_lookup as FibParams, bpf_sock_tuple,
    },
    helpers::{
        bpf_fib_lookup, bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_loop, bpf_sk_lookup_udp,
        bpf_sk_release, bpf_skc_lookup_tcp,
    },
};
use netbpf_common::{Ipv4, MacAddr, Ticks, Tuple, proto};
use netbpf_ebpf::seam::{Env, Neighbour, Route};

use super::skb::Packet;

const AF_INET: u8 = 2;
/// Bytes of `struct bpf_sock_tuple` that make an IPv4 tuple: both addresses, both
/// ports, with which [`Tuple`] begins.
const TUPLE_LEN: u32 = 12;

const _: () = assert!(
    offset_of!(Tuple, saddr) == 0
        && offset_of!(Tuple, daddr) == 4
        && offset_of!(Tuple, sport) == 8
        && offset_of!(Tuple, dport) == 10
);

/// The kernel, asked on behalf of a packet.
#[derive(Clone, Copy)]
pub(crate) struct Kernel(pub(crate) Packet);

/// The time, without a packet.
#[inline(always)]
pub(crate) fn now() -> Ticks {
    // SAFETY: no arguments, no obligations.
    Ticks::from_nanos(unsafe { bpf_ktime_get_coarse_ns() })
}

impl Kernel {
    /// Asks the routing table; whether the packet is to be forwarded. Zero MACs
    /// in the answer mean that the next hop is not resolved.
    #[inline(always)]
    fn fib(self, params: &mut FibParams, flags: u32) -> bool {
        // SAFETY: the pointers are to the program's context and to a structure
        // of the length that is given along.
        let result = unsafe {
            bpf_fib_lookup(self.0.raw().cast(), params, size_of::<FibParams>() as i32, flags)
        };
        result == i64::from(BPF_FIB_LKUP_RET_SUCCESS)
            || result == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH)
    }
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
        // The way may lead by an IPv6 router (RFC 8950).
        if !self.fib(&mut params, 0) || params.family != AF_INET {
            return Route::STACK;
        }
        // SAFETY: the helper fills in the IPv4 member for AF_INET.
        let next_hop = unsafe { params.__bindgen_anon_4.ipv4_dst };
        Route { ifindex: params.ifindex, next_hop: Ipv4::from_be(next_hop) }
    }

    #[inline(always)]
    fn resolve(&mut self, ifindex: u32, next_hop: Ipv4) -> Neighbour {
        // SAFETY: as in `route`. The MACs stay zero if there is no neighbour.
        let mut params: FibParams = unsafe { zeroed() };
        params.family = AF_INET;
        params.ifindex = ifindex;
        params.__bindgen_anon_4.ipv4_dst = next_hop.to_be();
        if !self.fib(&mut params, BPF_FIB_LOOKUP_OUTPUT) {
            return Neighbour::default();
        }
        // SAFETY: as in `route`. Another router's MACs are not the next hop's.
        let found = unsafe { params.__bindgen_anon_4.ipv4_dst };
        if params.ifindex != ifindex || params.family != AF_INET || found != next_hop.to_be() {
            return Neighbour::default();
        }
        Neighbour { mac: MacAddr::new(params.dmac), source_mac: MacAddr::new(params.smac) }
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
    fn has_socket(&mut self, tuple: &Tuple) -> bool {
        // Addresses and ports, in the order of the kernel's structure too.
        let wanted = (&raw const *tuple).cast_mut().cast::<bpf_sock_tuple>();
        let ctx = self.0.raw().cast();
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
