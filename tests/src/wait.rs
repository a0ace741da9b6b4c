//! Waiting for conditions, never for time.

use std::{
    env, thread,
    time::{Duration, Instant},
};

/// How long a condition may take. Generous: a busy machine is not a failure.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// How many times as long as usual everything may take: `$NETBPF_PATIENCE`, which is set
/// on emulated machines.
pub fn patience() -> u32 {
    env::var("NETBPF_PATIENCE").map_or(1, |times| times.parse().expect("a number"))
}

/// Between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(5);

/// Calls `look` until it gives something, and returns that.
///
/// Panics with `what` when [`DEADLINE`], times [`patience`], is over.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let (start, deadline) = (Instant::now(), DEADLINE * patience());
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain until {what}");
        thread::sleep(INTERVAL);
    }
}

/// Calls `holds` until it is true.
pub fn until_true(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || holds().then_some(()));
}
