//! The packet: `struct __sk_buff` behind [`Skb`].

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::{bpf_l4_csum_replace, bpf_skb_pull_data},
    programs::TcContext,
};
use netbpf_ebpf::seam::{Covered, Skb};

use super::word;

/// Bytes of the longest headers that the logic reads: Ethernet, IPv4, TCP.
const HEADERS: u32 = 14 + 20 + 20;
/// The VLAN's number in a tag (IEEE 802.1Q).
const VLAN_ID: u16 = 0xfff;
/// `PACKET_HOST` of `linux/if_packet.h`: the frame was addressed to the device.
const PACKET_HOST: u32 = 0;

/// The packet that a program was called for.
#[derive(Clone, Copy)]
pub(crate) struct Packet(*mut __sk_buff);

impl Packet {
    /// Takes the packet of the context, with its headers where direct packet
    /// access reaches them.
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        let packet = Self(ctx.skb.skb);
        let (start, end) = packet.bounds();
        let wanted = packet.field_len().min(HEADERS);
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
        let (start, end) = self.bounds();
        (start + offset + len <= end).then_some(start + offset)
    }

    #[inline(always)]
    fn field_len(self) -> u32 {
        // SAFETY: as in `bounds`.
        unsafe { (*self.0).len }
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
}

impl Skb for Packet {
    #[inline(always)]
    fn l3_len(&self) -> u32 {
        self.field_len().saturating_sub(14)
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
        // SAFETY: `at` vouches for the bytes.
        self.at(offset, 2).map(|at| unsafe { word::read_u16(at) })
    }

    #[inline(always)]
    fn load_u32(&self, offset: usize) -> Option<u32> {
        // SAFETY: `at` vouches for the bytes.
        self.at(offset, 4).map(|at| unsafe { word::read_u32(at) })
    }

    #[inline(always)]
    fn store_u8(&mut self, offset: usize, value: u8) -> Option<()> {
        // SAFETY: `at` vouches for the bytes; the kernel has made the linear
        // part private to this packet, having seen that the program writes.
        self.at(offset, 1).map(|at| unsafe { word::write_u8(at, value) })
    }

    #[inline(always)]
    fn store_u16(&mut self, offset: usize, value: u16) -> Option<()> {
        // SAFETY: `at` vouches for the bytes; the kernel has made the linear
        // part private to this packet, having seen that the program writes.
        self.at(offset, 2).map(|at| unsafe { word::write_u16(at, value) })
    }

    #[inline(always)]
    fn store_u32(&mut self, offset: usize, value: u32) -> Option<()> {
        // SAFETY: `at` vouches for the bytes; the kernel has made the linear
        // part private to this packet, having seen that the program writes.
        self.at(offset, 4).map(|at| unsafe { word::write_u32(at, value) })
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
        let zero = if keep_zero { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        // Size 0 means: `to` is a difference already.
        // SAFETY: a plain helper call on the program's own context.
        let error = unsafe {
            bpf_l4_csum_replace(self.0, offset as u32, 0, u64::from(delta), pseudo | zero)
        };
        (error == 0).then_some(())
    }
}
