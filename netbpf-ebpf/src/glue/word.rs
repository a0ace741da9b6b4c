//! Words: loads and stores at any alignment, and a blindfold for the compiler.
//!
//! A packet's words lie wherever its headers put them. BPF programs may access
//! them in one instruction all the same, which Rust's own pointers may not
//! promise: they would go byte by byte.

/// The 1-byte word at `at`.
///
/// # Safety
/// `at` must be the address of 1 readable byte of a packet.
#[inline(always)]
pub(crate) unsafe fn read_u8(at: usize) -> u8 {
    #[cfg(target_arch = "bpf")]
    {
        let value: u64;
        // SAFETY: a load of the bytes that the caller vouches for.
        unsafe {
            core::arch::asm!(
                "{value} = *(u8 *)({at} + 0)",
                value = out(reg) value,
                at = in(reg) at,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        value as u8
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        (at as *const u8).read_unaligned()
    }
}

/// The 2-byte word at `at`.
///
/// # Safety
/// `at` must be the address of 2 readable bytes of a packet.
#[inline(always)]
pub(crate) unsafe fn read_u16(at: usize) -> u16 {
    #[cfg(target_arch = "bpf")]
    {
        let value: u64;
        // SAFETY: a load of the bytes that the caller vouches for.
        unsafe {
            core::arch::asm!(
                "{value} = *(u16 *)({at} + 0)",
                value = out(reg) value,
                at = in(reg) at,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        value as u16
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        (at as *const u16).read_unaligned()
    }
}

/// The 4-byte word at `at`.
///
/// # Safety
/// `at` must be the address of 4 readable bytes of a packet.
#[inline(always)]
pub(crate) unsafe fn read_u32(at: usize) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let value: u64;
        // SAFETY: a load of the bytes that the caller vouches for.
        unsafe {
            core::arch::asm!(
                "{value} = *(u32 *)({at} + 0)",
                value = out(reg) value,
                at = in(reg) at,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        value as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        (at as *const u32).read_unaligned()
    }
}

/// Overwrites the 1-byte word at `at`.
///
/// # Safety
/// `at` must be the address of 1 writable byte of a packet.
#[inline(always)]
pub(crate) unsafe fn write_u8(at: usize, value: u8) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: a store to the bytes that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "*(u8 *)({at} + 0) = {value}",
            at = in(reg) at,
            value = in(reg) u64::from(value),
            options(nostack, preserves_flags),
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        (at as *mut u8).write_unaligned(value);
    }
}

/// Overwrites the 2-byte word at `at`.
///
/// # Safety
/// `at` must be the address of 2 writable bytes of a packet.
#[inline(always)]
pub(crate) unsafe fn write_u16(at: usize, value: u16) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: a store to the bytes that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "*(u16 *)({at} + 0) = {value}",
            at = in(reg) at,
            value = in(reg) u64::from(value),
            options(nostack, preserves_flags),
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        (at as *mut u16).write_unaligned(value);
    }
}

/// Overwrites the 4-byte word at `at`.
///
/// # Safety
/// `at` must be the address of 4 writable bytes of a packet.
#[inline(always)]
pub(crate) unsafe fn write_u32(at: usize, value: u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: a store to the bytes that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "*(u32 *)({at} + 0) = {value}",
            at = in(reg) at,
            value = in(reg) u64::from(value),
            options(nostack, preserves_flags),
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        (at as *mut u32).write_unaligned(value);
    }
}

/// `value`, of which the compiler no longer knows anything.
#[inline(always)]
pub(crate) fn unknown(value: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: a register moved to itself. (Without any instruction at all two
        // lines of source would share an address, which the kernel refuses.)
        unsafe {
            core::arch::asm!(
                "{value} = {value}",
                value = inout(reg) value,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

/// `place`, of which the verifier then knows what it does of `address`, the same one.
#[inline(always)]
pub(crate) fn known_as<T>(place: *mut T, address: *mut T) -> *mut T {
    #[cfg(target_arch = "bpf")]
    {
        let mut place = place;
        // SAFETY: a register overwritten with what is in it. (Neither `pure` nor `nomem`:
        // to the compiler it is `place` still that is read and written.)
        unsafe {
            core::arch::asm!(
                "{place} = {address}",
                place = inout(reg) place,
                address = in(reg) address,
                options(nostack, preserves_flags),
            );
        }
        place
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = address;
        place
    }
}
