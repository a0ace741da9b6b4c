//! Atomic addition, which `core` lacks on this target.

/// Adds `delta` to `*counter` as one step for all CPUs.
///
/// # Safety
/// `counter` must point to a live, aligned `u64` of a map's value.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, delta: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the instruction (BPF_XADD) writes the eight bytes that the caller
    // vouches for, and nothing else.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({counter} + 0) += {delta}",
            counter = in(reg) counter,
            delta = in(reg) delta,
        );
    }
    // Type-checked on the host, where it never runs.
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        *counter = (*counter).wrapping_add(delta);
    }
}
