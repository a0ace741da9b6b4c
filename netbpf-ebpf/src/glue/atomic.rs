//! Atomic instructions, which `core` lacks on this target.

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

/// Adds `delta` to `*counter` as one step for all CPUs; what it was before.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub(crate) unsafe fn fetch_add(counter: *mut u64, delta: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = delta;
        // SAFETY: the instruction writes the eight bytes that the caller vouches for.
        unsafe {
            core::arch::asm!(
                "{value} = atomic_fetch_add((u64 *)({counter} + 0), {value})",
                counter = in(reg) counter,
                value = inout(reg) value,
            );
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        let before = *counter;
        *counter = before.wrapping_add(delta);
        before
    }
}

/// Replaces `*word` by `new` as one step for all CPUs, if it is `old`; whether
/// it was.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub(crate) unsafe fn replace_u64(word: *mut u64, old: u64, new: u64) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        let mut seen = old;
        // SAFETY: the instruction writes the eight bytes that the caller vouches for.
        unsafe {
            core::arch::asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {new})",
                word = in(reg) word,
                new = in(reg) new,
                inout("r0") seen,
            );
        }
        seen == old
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        let is_old = *word == old;
        if is_old {
            *word = new;
        }
        is_old
    }
}

/// The same for four bytes.
///
/// # Safety
/// `word` must point to a live, aligned `u32` of a map's value.
#[inline(always)]
pub(crate) unsafe fn replace_u32(word: *mut u32, old: u32, new: u32) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        let mut seen = u64::from(old);
        // SAFETY: the instruction writes the four bytes that the caller vouches for.
        unsafe {
            core::arch::asm!(
                "w0 = cmpxchg32_32({word} + 0, w0, w2)",
                word = in(reg) word,
                in("r2") u64::from(new),
                inout("r0") seen,
            );
        }
        seen == u64::from(old)
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        let is_old = *word == old;
        if is_old {
            *word = new;
        }
        is_old
    }
}
