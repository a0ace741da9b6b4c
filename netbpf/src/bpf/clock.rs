//! The datapath's clock, read from outside.

use std::time::Duration;

use netbpf_common::Ticks;
use nix::time::{ClockId, clock_gettime};

use crate::error::{Context as _, Result};

/// Now, as the datapath sees it: `CLOCK_MONOTONIC`.
///
/// # Errors
/// It cannot be read.
pub fn now() -> Result<Ticks> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the clock")?;
    let nanos = Duration::from(now).as_nanos();
    Ok(Ticks::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
}

/// A span of the datapath's clock.
#[must_use]
pub fn span(ticks: Ticks) -> Duration {
    Duration::from_millis(ticks.as_millis())
}
