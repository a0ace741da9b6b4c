//! Numbers of several rounds in a few: the middle, and how far apart they were.

use serde::{Deserialize, Serialize};

/// What the rounds of a measurement came to.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Stats {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Median of the distances from the median: half of the rounds are nearer.
    pub mad: f64,
    /// How many rounds there were.
    pub rounds: usize,
}

impl Stats {
    /// Of the rounds' numbers; nothing if there are none.
    #[must_use]
    pub fn of(rounds: &[f64]) -> Option<Self> {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let median = middle(&sorted);
        let mut distances: Vec<f64> = sorted.iter().map(|value| (value - median).abs()).collect();
        distances.sort_by(f64::total_cmp);
        Some(Self { median, min, max, mad: middle(&distances), rounds: rounds.len() })
    }

    /// How far a median of such rounds may be off by chance: three times its
    /// standard error, were the rounds distributed normally.
    ///
    /// 1.4826 leads from the MAD to the standard deviation, 1.2533 from the mean's
    /// standard error to the median's.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "there are few rounds")]
    pub fn noise(&self) -> f64 {
        3.0 * 1.2533 * 1.4826 * self.mad / (self.rounds.max(1) as f64).sqrt()
    }

    /// The MAD in percent of the median.
    #[must_use]
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { 100.0 * self.mad / self.median.abs() }
    }
}

/// The middle of numbers in order, of which there is at least one.
fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[half - 1], sorted[half])
    } else {
        sorted[half]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_round_out_of_line_does_not_move_the_median() {
        let stats = Stats::of(&[3.0, 1.0, 2.0, 900.0, 2.5]).expect("rounds");
        assert_eq!(stats, Stats { median: 2.5, min: 1.0, max: 900.0, mad: 0.5, rounds: 5 });
        assert!((stats.spread() - 20.0).abs() < 1e-9);
    }

    #[test]
    fn the_middle_of_an_even_number_is_between_two() {
        let stats = Stats::of(&[4.0, 1.0, 2.0, 3.0]).expect("rounds");
        assert!((stats.median - 2.5).abs() < 1e-9);
        assert!((stats.mad - 1.0).abs() < 1e-9);
    }

    #[test]
    fn more_rounds_are_less_noise() {
        let few = Stats { median: 100.0, min: 90.0, max: 110.0, mad: 4.0, rounds: 4 };
        let many = Stats { rounds: 16, ..few };
        assert!((few.noise() - 2.0 * many.noise()).abs() < 1e-9);
        let alike = Stats { mad: 0.0, ..few };
        assert!(alike.noise().abs() < 1e-9);
    }

    #[test]
    fn nothing_comes_of_no_rounds() {
        assert_eq!(Stats::of(&[]), None);
    }
}
