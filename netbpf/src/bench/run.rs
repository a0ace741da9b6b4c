//! A bench as it runs: what is wanted, and what has been found so far.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use super::{
    arena::Absent,
    contender::{Contender, Way},
    report::{Key, Metric, Mode, Row},
    settings::Settings,
    stats::Stats,
};
use crate::{error::Result, interrupt, output::Span};

/// A number of one round.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(super) struct Sample {
    pub(super) value: f64,
    /// Of all packets those that did not arrive.
    pub(super) loss: Option<f64>,
    /// CPUs that were busy.
    pub(super) cpus: Option<f64>,
}

impl Sample {
    pub(super) fn of(value: f64) -> Self {
        Self { value, ..Self::default() }
    }
}

/// A bench that runs.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) settings: Settings,
    pub(super) absent: Absent,
    /// The CPUs that it may use: there is at least one.
    pub(super) cpus: Vec<usize>,
    pub(super) rows: Vec<Row>,
    pub(super) notes: Vec<String>,
    pub(super) progress: Progress,
}

/// What a group of numbers is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) mode: Mode,
    pub(super) way: Option<Way>,
    pub(super) case: &'a str,
}

impl Run {
    /// The last of the CPUs: the first has most of the machine's interrupts.
    pub(super) fn cpu(&self) -> usize {
        self.cpus.last().copied().unwrap_or_default()
    }

    /// Those of the contenders who take part.
    pub(super) fn present(&self, contenders: &[Contender]) -> Vec<Contender> {
        contenders.iter().copied().filter(|one| !self.absent.contains_key(one)).collect()
    }

    /// Measures all contenders in turn, several rounds, every other one backwards:
    /// what disturbs the machine disturbs all of them. Each round is expected to
    /// take `expected` per contender.
    pub(super) fn rounds<T>(
        &mut self,
        subject: Subject<'_>,
        contenders: &[Contender],
        expected: Duration,
        mut measure: impl FnMut(Contender) -> Result<T>,
    ) -> Result<BTreeMap<Contender, Vec<T>>> {
        let mut all: BTreeMap<Contender, Vec<T>> = BTreeMap::new();
        let mut order = contenders.to_vec();
        for _ in 0..self.settings.rounds {
            for contender in &order {
                interrupt::check()?;
                self.progress.tell(subject, *contender);
                all.entry(*contender).or_default().push(measure(*contender)?);
                self.progress.advance(expected);
            }
            order.reverse();
        }
        Ok(all)
    }

    /// Writes down a row for each contender that has rounds.
    pub(super) fn record(
        &mut self,
        subject: Subject<'_>,
        metric: Metric,
        all: &BTreeMap<Contender, Vec<Sample>>,
    ) {
        for (contender, samples) in all {
            let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
            let Some(stats) = Stats::of(&values) else { continue };
            let middle = |part: fn(&Sample) -> Option<f64>| {
                let parts: Vec<f64> = samples.iter().filter_map(part).collect();
                Stats::of(&parts).map(|stats| stats.median)
            };
            self.rows.push(Row {
                key: Key {
                    mode: subject.mode,
                    way: subject.way,
                    case: subject.case.to_owned(),
                    contender: *contender,
                    metric,
                },
                stats,
                loss: middle(|sample| sample.loss),
                cpus: middle(|sample| sample.cpus),
            });
        }
    }

    /// What is to be known of the results, said once.
    pub(super) fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// A line on standard error, written over and over: what is being measured, and
/// how long everything may still take.
#[derive(Debug)]
pub(super) struct Progress {
    shown: bool,
    begin: Instant,
    /// What everything is expected to take, and what of it is done.
    whole: Duration,
    done: Duration,
    line: bool,
}

impl Progress {
    /// Of a bench that is expected to take so long; silent if asked for, and where
    /// nobody looks.
    pub(super) fn new(whole: Duration, quiet: bool) -> Self {
        Self {
            shown: !quiet && io::stderr().is_terminal(),
            begin: Instant::now(),
            whole,
            done: Duration::ZERO,
            line: false,
        }
    }

    pub(super) fn advance(&mut self, expected: Duration) {
        self.done += expected;
    }

    /// Says what is measured now.
    pub(super) fn tell(&mut self, subject: Subject<'_>, contender: Contender) {
        let way = subject.way.map_or("", Way::name);
        self.say(&format!("{} {way} {}: {contender}", subject.mode, subject.case));
    }

    /// Says what is being done now.
    pub(super) fn say(&mut self, what: &str) {
        if !self.shown {
            return;
        }
        self.line = true;
        let mut err = io::stderr();
        let left = Span(remaining(self.whole, self.done, self.begin.elapsed()));
        let width = terminal_size::terminal_size_of(&err).map_or(80, |(width, _)| width.0 as usize);
        let text: String = format!("{left} left  {what}").chars().take(width - 1).collect();
        // Nobody is harmed if standard error cannot be written to.
        let _ = write!(err, "\r\x1b[K{text}").and_then(|()| err.flush());
    }

    /// Takes the line away.
    pub(super) fn finish(&mut self) {
        if std::mem::take(&mut self.line) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What is left of a whole, if it goes on as slowly as what is done has gone.
fn remaining(whole: Duration, done: Duration, elapsed: Duration) -> Duration {
    let left = whole.saturating_sub(done);
    // At the beginning little is known: what was expected is not far off.
    let known = done.as_secs_f64() / whole.as_secs_f64().max(0.001);
    let pace = if done.is_zero() { 1.0 } else { elapsed.as_secs_f64() / done.as_secs_f64() };
    left.mul_f64((known * pace + (1.0 - known) * 1.0).clamp(0.1, 10.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_the_pace() {
        let seconds = Duration::from_secs;
        assert_eq!(remaining(seconds(60), seconds(0), seconds(5)), seconds(60));
        assert_eq!(remaining(seconds(60), seconds(60), seconds(90)), seconds(0));
        let late = remaining(seconds(60), seconds(30), seconds(60));
        assert_eq!(late, seconds(45), "half of what is known is that it goes twice as slow");
    }
}
