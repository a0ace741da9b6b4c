//! Waiting for conditions, never for time.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a condition may take. Generous: a busy machine is not a failure.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(5);

/// Calls `look` until it gives something, and returns that.
///
/// Panics with `what` when [`DEADLINE`] is over.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        thread::sleep(INTERVAL);
    }
}

/// Calls `holds` until it is true.
pub fn until_true(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || holds().then_some(()));
}
