//! The packet: `struct __sk_buff` behind [`Skb`].

use core::mem::size_of;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{
        bpf_clone_redirect, bpf_csum_diff, bpf_l4_csum_replace, bpf_skb_adjust_room,
        bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_pull_data,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use netbpf_common::{EndpointId, Flow, HeldFragment, Ipv4, PortOwner};
use netbpf_ebpf::{
    Stop, Verdict, checksum,
    flow::NewFlow,
    ports::Claim,
    prepare,
    rare::{Decided, Rare, Step},
    seam::{Covered, Env, InsertError, Seam, Skb, Tables},
};

use super::{apart, env::Kernel, word};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Offset of the ethertype in it.
const ETHERTYPE: usize = 12;
/// Bytes of the longest headers that the logic reads: Ethernet, IPv4, TCP.
const HEADERS: u32 = 14 + 20 + 20;
/// The VLAN's number in a tag (IEEE 802.1Q).
const VLAN_ID: u16 = 0xfff;
/// `PACKET_HOST` of `linux/if_packet.h`: the frame was addressed to the device.
const PACKET_HOST: u32 = 0;
/// Ethertype of IPv4, as the CPU loads it.
const IPV4: u16 = 0x0800_u16.to_be();
/// Bytes that are summed up at a time: they are on the stack.
const CHUNK: usize = 32;
/// Longest message that is summed up: an ICMP error may quote all of a packet.
const MOST_SUMMED: u32 = 65_535;
/// Bytes that are cut off from the front at most (`bpf_skb_adjust_room()` takes 4095):
/// more than headers are long, within which the checksum of a packet begins.
const MOST_CUT: u32 = 4000;
/// Mark of packets that this datapath sends to an uplink, so that its own
/// program at the way out lets them by. Taken off there.
pub(crate) const TRANSLATED: u32 = 0x6e65_7462;

/// Mark of packets that this datapath sends in again by the loopback device.
const HAIRPIN: u32 = 0x6e65_7463;
/// Mark of packets to the host itself that come by the loopback device.
pub(crate) const TO_HOST: u32 = 0x6e65_7464;

/// A packet of a device with Ethernet headers.
pub(crate) type Frame = Packet<true>;
/// A packet of a device without: offsets count as if there was one, of zeros.
pub(crate) type L3Packet = Packet<false>;

/// The packet that a program was called for.
#[derive(Clone, Copy)]
pub(crate) struct Packet<const HAS_ETHERNET: bool>(*mut __sk_buff);

impl Frame {
    /// Takes the packet of a device without Ethernet headers and gives it one,
    /// if it is of IPv4. If not, it stays as it is, and is too short for anything.
    #[inline(always)]
    pub(crate) fn with_header(ctx: &TcContext) -> Option<Self> {
        let packet = Self(ctx.skb.skb);
        if packet.protocol() != IPV4 {
            return None;
        }
        // SAFETY: a plain helper call on the program's own context.
        if unsafe { bpf_skb_change_head(packet.0, ETHERNET as u32, 0) } != 0 {
            return None;
        }
        let mut packet = Self::new(ctx);
        packet.store_u16(ETHERTYPE, IPV4)?;
        Some(packet)
    }
}

impl<const HAS_ETHERNET: bool> Packet<HAS_ETHERNET> {
    /// What an offset is less in the packet itself.
    const MISSING: usize = if HAS_ETHERNET { 0 } else { ETHERNET };

    /// The packet of a context.
    #[inline(always)]
    pub(crate) const fn of(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }

    /// Takes the packet of the context, with its headers where direct packet
    /// access reaches them.
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        let packet = Self(ctx.skb.skb);
        let (start, end) = packet.bounds();
        let wanted = packet.field_len().min(HEADERS - Self::MISSING as u32);
        if end - start < wanted as usize {
            // SAFETY: a plain helper call on the program's own context. If it
            // fails the headers stay out of reach and loads say so.
            unsafe { bpf_skb_pull_data(packet.0, wanted) };
        }
        packet
    }

    /// First byte of the packet and the one behind its last linear one.
    #[inline(always)]
    fn bounds(self) -> (usize, usize) {
        // SAFETY: the context outlives the program's run, and these fields are
        // readable in tc programs. They are read anew for each access because
        // helpers may move the packet.
        unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) }
    }

    /// Address of the `len` bytes at `offset`, if they lie within the packet's
    /// linear part. The verifier checks the same.
    #[inline(always)]
    fn at(self, offset: usize, len: usize) -> Option<usize> {
        let offset = offset.checked_sub(Self::MISSING)?;
        let (start, end) = self.bounds();
        (start + offset + len <= end).then_some(start + offset)
    }

    #[inline(always)]
    fn field_len(self) -> u32 {
        // SAFETY: as in `bounds`.
        unsafe { (*self.0).len }
    }

    /// The ethertype, as the CPU loads it.
    #[inline(always)]
    fn protocol(self) -> u16 {
        // SAFETY: as in `bounds`.
        unsafe { (*self.0).protocol as u16 }
    }

    /// The raw context, for helpers.
    #[inline(always)]
    pub(crate) const fn raw(self) -> *mut __sk_buff {
        self.0
    }

    /// The packet's mark.
    #[inline(always)]
    pub(crate) fn mark(self) -> u32 {
        // SAFETY: as in `bounds`.
        unsafe { (*self.0).mark }
    }

    /// Sets the packet's mark.
    #[inline(always)]
    pub(crate) fn set_mark(self, mark: u32) {
        // SAFETY: as in `bounds`; `mark` is writable in tc programs.
        unsafe { (*self.0).mark = mark }
    }

    /// Marks a packet that goes to the loopback device.
    #[inline(always)]
    pub(crate) fn mark_loopback(self, next_hop: Ipv4) {
        self.set_mark(if next_hop == Flow::HOST { TO_HOST } else { HAIRPIN });
    }

    /// Takes the mark of a packet off that has come in again.
    #[inline(always)]
    pub(crate) fn forget_hairpin(self) {
        if self.mark() == HAIRPIN {
            self.set_mark(0);
        }
    }

    /// Leaves two words to the program that goes on with the packet.
    #[inline(always)]
    pub(crate) fn leave(self, words: (u32, u32)) {
        // SAFETY: as in `bounds`; `cb` is the tc programs' own.
        unsafe { ((*self.0).cb[0], (*self.0).cb[1]) = words }
    }

    /// The two words that a program has left.
    #[inline(always)]
    pub(crate) fn left(self) -> (u32, u32) {
        // SAFETY: as in `leave`.
        unsafe { ((*self.0).cb[0], (*self.0).cb[1]) }
    }
}

impl<const HAS_ETHERNET: bool> Skb for Packet<HAS_ETHERNET> {
    #[inline(always)]
    fn l3_len(&self) -> u32 {
        let header = (ETHERNET - Self::MISSING) as u32;
        let len = self.field_len();
        // A branch that is never taken, in the place of the four that a
        // `saturating_sub` becomes.
        if len < header { word::unknown(0) as u32 } else { len - header }
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: as in `bounds`.
        unsafe { (*self.0).gso_size }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: as in `bounds`.
        unsafe { (*self.0).ifindex }
    }

    #[inline(always)]
    fn is_to_us(&self) -> bool {
        // SAFETY: as in `bounds`.
        unsafe { (*self.0).pkt_type == PACKET_HOST }
    }

    #[inline(always)]
    fn is_from_host(&self) -> bool {
        self.ifindex() == Flow::LOOPBACK && self.mark() != HAIRPIN
    }

    #[inline(always)]
    fn vlan_id(&self) -> Option<u16> {
        // SAFETY: as in `bounds`.
        let (is_tagged, tci) = unsafe { ((*self.0).vlan_present != 0, (*self.0).vlan_tci) };
        is_tagged.then_some(tci as u16 & VLAN_ID)
    }

    #[inline(always)]
    fn load_u8(&self, offset: usize) -> Option<u8> {
        // SAFETY: `at` vouches for the bytes.
        self.at(offset, 1).map(|at| unsafe { word::read_u8(at) })
    }

    #[inline(always)]
    fn load_u16(&self, offset: usize) -> Option<u16> {
        if offset < Self::MISSING {
            return Some(if offset == ETHERTYPE { self.protocol() } else { 0 });
        }
        // SAFETY: `at` vouches for the bytes.
        self.at(offset, 2).map(|at| unsafe { word::read_u16(at) })
    }

    #[inline(always)]
    fn load_u32(&self, offset: usize) -> Option<u32> {
        // SAFETY: `at` vouches for the bytes.
        self.at(offset, 4).map(|at| unsafe { word::read_u32(at) })
    }

    #[inline(always)]
    fn load_words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let mut words = [0; N];
        // The MACs of an Ethernet header that is not there.
        if offset + 4 * N <= Self::MISSING {
            return Some(words);
        }
        let at = self.at(offset, 4 * N)?;
        let mut index = 0;
        while index < N {
            // SAFETY: `at` vouches for the bytes.
            words[index] = unsafe { word::read_u32(at + 4 * index) };
            index += 1;
        }
        Some(words)
    }

    #[inline(always)]
    fn store_u16(&mut self, offset: usize, value: u16) -> Option<()> {
        // SAFETY: `at` vouches for the bytes; the kernel has made the linear
        // part private to this packet, having seen that the program writes.
        self.at(offset, 2).map(|at| unsafe { word::write_u16(at, value) })
    }

    #[inline(always)]
    fn store_words<const N: usize>(&mut self, offset: usize, words: [u32; N]) -> Option<()> {
        let at = self.at(offset, 4 * N)?;
        let mut index = 0;
        while index < N {
            // SAFETY: `at` vouches for the bytes; the kernel has made the linear
            // part private to this packet, having seen that the program writes.
            unsafe { word::write_u32(at + 4 * index, words[index]) };
            index += 1;
        }
        Some(())
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let offset = offset.checked_sub(Self::MISSING)?;
        // SAFETY: the pointer is to N writable bytes.
        let error = unsafe {
            bpf_skb_load_bytes(self.0.cast(), offset as u32, bytes.as_mut_ptr().cast(), N as u32)
        };
        (error == 0).then_some(bytes)
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let offset = offset.checked_sub(Self::MISSING)?;
        // SAFETY: the pointer is to N readable bytes.
        let error = unsafe {
            bpf_skb_store_bytes(self.0, offset as u32, bytes.as_ptr().cast(), N as u32, 0)
        };
        (error == 0).then_some(())
    }

    #[inline(never)]
    fn sum(&self, offset: usize, len: u32) -> Option<u16> {
        let mut at = offset.checked_sub(Self::MISSING)? as u32;
        let mut left = len;
        if len > MOST_SUMMED {
            return None;
        }
        let mut sum = 0_i64;
        let mut is_whole = true;
        let skb = self.0;
        Kernel::repeat(MOST_SUMMED.div_ceil(CHUNK as u32), |_| {
            let mut chunk = [0_u32; CHUNK / size_of::<u32>()];
            let Some(some) = one_to::<CHUNK>(left.min(CHUNK as u32)) else {
                return false;
            };
            // SAFETY: the pointers are to CHUNK bytes, of which `some` are written,
            // at least one and at most all; the rest are zeros.
            let error =
                unsafe { bpf_skb_load_bytes(skb.cast(), at, chunk.as_mut_ptr().cast(), some) };
            is_whole &= error == 0;
            // SAFETY: as above; no bytes are subtracted.
            sum = unsafe {
                bpf_csum_diff(
                    core::ptr::null_mut(),
                    0,
                    chunk.as_mut_ptr(),
                    CHUNK as u32,
                    sum.cast_unsigned() as u32,
                )
            };
            at += some;
            left -= some;
            is_whole && left != 0
        });
        is_whole.then(|| checksum::fold(sum.cast_unsigned() as u32))
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> Option<()> {
        let len = len.checked_sub(Self::MISSING as u32)?;
        // SAFETY: a plain helper call on the program's own context.
        (unsafe { bpf_skb_change_tail(self.0, len, 0) } == 0).then_some(())
    }

    #[inline(always)]
    fn start_afresh(&mut self, len: u32) -> Option<()> {
        // The kernel forgets a checksum that is to be finished when the place where that
        // begins is cut off from the front, and segments when the length is changed.
        let old = self.l3_len().min(MOST_CUT);
        self.resize(len + old)?;
        // SAFETY: a plain helper call on the program's own context.
        let error = unsafe { bpf_skb_adjust_room(self.0, -old.cast_signed(), BPF_ADJ_ROOM_MAC, 0) };
        (error == 0).then_some(())
    }

    #[inline(always)]
    fn save(&self, into: &mut [u8; HeldFragment::LEN], len: u32) -> Option<()> {
        let len = one_to::<{ HeldFragment::LEN }>(len)?;
        // SAFETY: the pointer is to LEN writable bytes, and `len` is no more.
        let error = unsafe { bpf_skb_load_bytes(self.0.cast(), 0, into.as_mut_ptr().cast(), len) };
        (error == 0).then_some(())
    }

    #[inline(always)]
    fn restore(&mut self, from: &[u8; HeldFragment::LEN], len: u32) -> Option<()> {
        let len = one_to::<{ HeldFragment::LEN }>(len)?;
        self.resize(len)?;
        // SAFETY: the pointer is to LEN readable bytes, and `len` is no more.
        let error = unsafe { bpf_skb_store_bytes(self.0, 0, from.as_ptr().cast(), len, 0) };
        (error == 0).then_some(())
    }

    #[inline(always)]
    fn send_copy(&mut self, verdict: Verdict) -> bool {
        let (ifindex, flags) = match verdict {
            Verdict::Peer { ifindex } => (ifindex, 0),
            Verdict::Uplink { ifindex } => {
                self.set_mark(TRANSLATED);
                (ifindex, 0)
            }
            Verdict::Neighbour { ifindex: Flow::LOOPBACK, next_hop } => {
                self.mark_loopback(next_hop);
                (Flow::LOOPBACK, u64::from(BPF_F_INGRESS))
            }
            _ => return false,
        };
        // SAFETY: a plain helper call on the program's own context.
        unsafe { bpf_clone_redirect(self.0, ifindex, flags) == 0 }
    }

    #[inline(always)]
    fn come_in_again(&mut self, ifindex: u32) -> bool {
        // A frame with an Ethernet header does not fit into a packet without.
        // SAFETY: a plain helper call on the program's own context.
        HAS_ETHERNET
            && unsafe { bpf_clone_redirect(self.0, ifindex, u64::from(BPF_F_INGRESS)) == 0 }
    }

    #[inline(always)]
    fn fix_l4_checksum(
        &mut self,
        offset: usize,
        delta: u16,
        covered: Covered,
        keep_zero: bool,
    ) -> Option<()> {
        let pseudo = match covered {
            Covered::PseudoHeader => u64::from(BPF_F_PSEUDO_HDR),
            Covered::Directly => 0,
        };
        let offset = offset.checked_sub(Self::MISSING)?;
        let zero = if keep_zero { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        // Size 0 means: `to` is a difference already.
        // SAFETY: a plain helper call on the program's own context.
        let error = unsafe {
            bpf_l4_csum_replace(self.0, offset as u32, 0, u64::from(delta), pseudo | zero)
        };
        (error == 0).then_some(())
    }

    #[inline(always)]
    fn prepare_outward<T: Tables, E: Env>(
        seam: &mut Seam<Self, T, E>,
        id: EndpointId,
        has_flow: bool,
    ) -> Decided {
        if !HAS_ETHERNET {
            return Decided::so_far(prepare::outward(seam, id, has_flow));
        }
        apart::prepare_outward(seam.skb.raw(), id, has_flow)
    }

    #[inline(always)]
    fn prepare_inward<T: Tables, E: Env>(
        seam: &mut Seam<Self, T, E>,
        id: &mut EndpointId,
    ) -> Result<(), Stop> {
        if !HAS_ETHERNET {
            return prepare::inward(seam, id);
        }
        apart::prepare_inward(seam.skb.raw(), id)
    }

    #[inline(always)]
    fn try_port<T: Tables, E: Env>(
        seam: &mut Seam<Self, T, E>,
        flow: &mut NewFlow,
        owner: PortOwner,
        claim: Claim,
    ) -> Result<(), InsertError> {
        apart::try_port(seam.skb.raw(), flow, owner, claim)
    }

    #[inline(always)]
    fn take_step<T: Tables, E: Env>(
        seam: &mut Seam<Self, T, E>,
        step: Step,
        id: EndpointId,
        rare: &mut Rare,
    ) -> EndpointId {
        if !HAS_ETHERNET {
            return step.take(seam, id, rare);
        }
        apart::take_step(step, seam.skb.raw(), id, rare)
    }
}

/// `len`, if it is from 1 to `MOST`, in a way that the verifier sees: that of Linux 6.1
/// forgets what a comparison has told of one register about its copies.
#[inline(always)]
fn one_to<const MOST: usize>(len: u32) -> Option<u32> {
    let less = word::unknown(len.wrapping_sub(1) as usize);
    (less < MOST).then(|| less as u32 + 1)
}
