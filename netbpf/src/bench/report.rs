//! What a bench has found, as it is written to JSON and read again.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    contender::{Contender, Way},
    goals::Goal,
    machine::MachineInfo,
    stats::Stats,
};

/// Version of the report's JSON. Fields may be added without a new version; it is
/// raised when one goes or changes its meaning.
pub const REPORT_VERSION: u32 = 1;

/// What is measured.
#[derive(
    clap::ValueEnum,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Packets: what each costs, made by a generator in the kernel
    Pps,
    /// The same with many flows at a time
    Flows,
    /// New flows and connections
    Cps,
    /// TCP throughput
    Stream,
    /// Request and response, TCP and UDP: how long one waits
    Rr,
    /// Each program by itself
    Prog,
    /// Each part of a packet's way through the programs
    Parts,
    /// up, down and listings
    Control,
}

impl Mode {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 8] = [
        Self::Pps,
        Self::Flows,
        Self::Cps,
        Self::Stream,
        Self::Rr,
        Self::Prog,
        Self::Parts,
        Self::Control,
    ];

    /// Its name in tables, in JSON and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pps => "pps",
            Self::Flows => "flows",
            Self::Cps => "cps",
            Self::Stream => "stream",
            Self::Rr => "rr",
            Self::Prog => "prog",
            Self::Parts => "parts",
            Self::Control => "control",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a number counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Nanoseconds of CPU time per packet that arrived.
    NsPerPacket,
    /// Nanoseconds of CPU time per packet more than without the part.
    NsAdded,
    /// Nanoseconds of CPU time per new flow.
    NsPerFlow,
    /// TCP connections, opened and closed, per second.
    ConnectionsPerSecond,
    /// Gigabits (10^9) of payload per second.
    GbitPerSecond,
    /// Microseconds from a request to its response, half of them sooner.
    P50Us,
    /// The same, nine of ten sooner.
    P90Us,
    /// The same, 99 of a hundred sooner.
    P99Us,
    /// The same, 999 of a thousand sooner.
    P999Us,
    /// Nanoseconds of one run of a program.
    NsPerRun,
    /// Instructions of a program as the kernel has loaded it.
    Instructions,
    /// Bytes of stack that a program takes with all that it calls.
    StackBytes,
    /// Seconds of a command from beginning to end.
    Seconds,
    /// Bytes of kernel memory per flow.
    BytesPerFlow,
}

impl Metric {
    /// Its unit, for people.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::NsPerPacket => "ns/packet",
            Self::NsAdded => "ns more",
            Self::NsPerFlow => "ns/flow",
            Self::ConnectionsPerSecond => "conn/s",
            Self::GbitPerSecond => "Gbit/s",
            Self::P50Us => "us p50",
            Self::P90Us => "us p90",
            Self::P99Us => "us p99",
            Self::P999Us => "us p99.9",
            Self::NsPerRun => "ns/run",
            Self::Instructions => "instructions",
            Self::StackBytes => "stack bytes",
            Self::Seconds => "s",
            Self::BytesPerFlow => "bytes/flow",
        }
    }

    /// Whether more of it is better.
    #[must_use]
    pub const fn more_is_better(self) -> bool {
        matches!(self, Self::ConnectionsPerSecond | Self::GbitPerSecond)
    }

    /// How many times better `one` is than `other`.
    #[must_use]
    pub fn advantage(self, one: f64, other: f64) -> f64 {
        if self.more_is_better() { one / other } else { other / one }
    }
}

/// What tells a row from all others, in this report and between reports.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Key {
    /// What was measured.
    pub mode: Mode,
    /// From where to where; nothing where nothing goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<Way>,
    /// Which of the mode's cases: "1 flow", "tcp", "up 100".
    pub case: String,
    /// Whom.
    pub contender: Contender,
    /// What the number counts.
    pub metric: Metric,
}

impl Key {
    /// The same of another contender.
    #[must_use]
    pub fn of(&self, contender: Contender) -> Self {
        Self { contender, ..self.clone() }
    }
}

/// A number.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What it tells.
    #[serde(flatten)]
    pub key: Key,
    /// The number, of several rounds.
    #[serde(flatten)]
    pub stats: Stats,
    /// Packets that did not arrive, of all sent; nothing where none can get lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// CPUs that were busy with it, on average: 1 is one CPU all of the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
}

/// More loss than this makes a number doubtful.
const TOLERATED_LOSS: f64 = 0.01;

impl Row {
    /// Whether so many packets got lost that the number tells little.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        self.loss.is_some_and(|loss| loss > TOLERATED_LOSS)
    }
}

/// A whole bench.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`] of who wrote it.
    pub report_version: u32,
    /// When it began, as RFC 3339 has it, in UTC.
    pub date: String,
    /// Seconds that it took.
    pub seconds: f64,
    /// What it was asked for, as on the command line.
    pub command: String,
    /// Where it ran.
    pub machine: MachineInfo,
    /// What is to be known of it: who is absent and why, what was changed for it.
    pub notes: Vec<String>,
    /// The numbers.
    pub rows: Vec<Row>,
    /// What was set as a goal, and what was reached.
    pub goals: Vec<Goal>,
}

impl Report {
    /// The row of a key.
    #[must_use]
    pub fn row(&self, key: &Key) -> Option<&Row> {
        self.rows.iter().find(|row| row.key == *key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::testing;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let report = testing::full();
        let text = serde_json::to_string(&report).expect("a report can be written");
        assert_eq!(serde_json::from_str::<Report>(&text).expect("a report"), report);
    }

    /// What scripts rely on: a change of this text is a new [`REPORT_VERSION`],
    /// unless it only adds to it.
    #[test]
    fn the_json_of_a_row_stays() {
        let row = testing::row(Contender::Netbpf, Metric::NsPerPacket, &[200.0, 210.0, 190.0]);
        let json = serde_json::to_value(row).expect("a row can be written");
        let expected = serde_json::json!({
            "mode": "pps", "way": "ns-to-ns", "case": "1 flow", "contender": "netbpf",
            "metric": "ns_per_packet", "median": 200.0, "min": 190.0, "max": 210.0, "mad": 10.0,
            "rounds": 3, "loss": 0.0, "cpus": 1.0,
        });
        assert_eq!(json, expected);
        assert_eq!(REPORT_VERSION, 1);
    }

    #[test]
    fn names_are_those_of_json() {
        for mode in Mode::ALL {
            assert_eq!(serde_json::to_value(mode).expect("a name"), mode.name());
        }
    }

    #[test]
    fn better_is_less_time_or_more_throughput() {
        assert!((Metric::NsPerPacket.advantage(100.0, 300.0) - 3.0).abs() < 1e-9);
        assert!((Metric::GbitPerSecond.advantage(30.0, 10.0) - 3.0).abs() < 1e-9);
    }
}
