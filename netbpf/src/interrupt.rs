//! Ctrl-C and termination, noticed between steps: half a step is never left.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::{
    libc,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

use crate::error::{Context as _, Error, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn remember(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP are only remembered.
///
/// # Errors
/// The kernel's.
pub(crate) fn catch() -> Result<()> {
    let action =
        SigAction::new(SigHandler::Handler(remember), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is safe in a
        // signal handler, and replaces no other.
        unsafe { sigaction(signal, &action) }.context("cannot catch signals")?;
    }
    Ok(())
}

/// Fails if there was such a signal.
///
/// # Errors
/// That the run was interrupted.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Error::failed("interrupted")) } else { Ok(()) }
}
