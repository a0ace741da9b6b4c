//! How much is measured.

use std::time::Duration;

use super::report::Mode;

/// How much is measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// What.
    pub modes: Vec<Mode>,
    /// Rounds of each measurement.
    pub rounds: usize,
    /// How long the kernel's generator runs in a round.
    pub burst: Duration,
    /// How long sockets are at it in a round.
    pub slice: Duration,
    /// Numbers of flows.
    pub flows: Vec<u32>,
    /// New flows in a round.
    pub new_flows: u32,
    /// Numbers of TCP connections side by side.
    pub connections: Vec<usize>,
    /// Numbers of namespaces that networks are built of.
    pub namespaces: Vec<u16>,
    /// Flows that are listed.
    pub listed: u32,
    /// How often up, down and listings are timed.
    pub repetitions: usize,
}

impl Settings {
    /// Everything, for numbers that can be shown around.
    #[must_use]
    pub fn full() -> Self {
        Self {
            modes: Mode::ALL.to_vec(),
            rounds: 15,
            burst: Duration::from_millis(50),
            slice: Duration::from_millis(300),
            flows: vec![1, 1_000, 30_000, 200_000, 1_000_000],
            new_flows: 31_000,
            connections: vec![1, 4],
            namespaces: vec![3, 100, 1_000],
            listed: 1_000_000,
            repetitions: 3,
        }
    }

    /// All of it in less than half a minute, but for the parts, which a few rounds do not
    /// tell apart: for a first impression.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            modes: Mode::ALL.into_iter().filter(|mode| *mode != Mode::Parts).collect(),
            rounds: 3,
            burst: Duration::from_millis(20),
            slice: Duration::from_millis(50),
            flows: vec![1, 1_000, 30_000],
            new_flows: 10_000,
            connections: vec![1],
            namespaces: vec![3],
            listed: 30_000,
            ..Self::full()
        }
    }

    /// Hardly anything: whether all of it works at all.
    #[must_use]
    pub fn tiny() -> Self {
        Self {
            rounds: 2,
            burst: Duration::from_millis(2),
            slice: Duration::from_millis(10),
            flows: vec![1, 1_000],
            new_flows: 1_000,
            connections: vec![1, 2],
            namespaces: vec![3],
            listed: 1_000,
            repetitions: 1,
            ..Self::full()
        }
    }

    /// How long a round with so many flows takes: each has its turn twice, at about
    /// three quarters of a microsecond.
    pub(super) fn burst_of(&self, flows: u32) -> Duration {
        self.burst.max(Duration::from_nanos(1500) * flows)
    }
}
