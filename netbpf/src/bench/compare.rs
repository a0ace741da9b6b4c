//! Two reports side by side: what has changed beyond the noise.

use std::io::Write;

use serde::Serialize;

use super::{
    contender::Contender,
    report::{Key, Mode, Report, Row},
};
use crate::{
    error::{Context as _, Result},
    output::{CANNOT_WRITE, Column, Table},
};

/// Less of a change is none, whatever the rounds say: from run to run memory lies
/// elsewhere.
const LEAST: f64 = 0.03;

/// What became of a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Better, and not by chance.
    Better,
    /// Worse, and not by chance.
    Worse,
    /// The difference is noise.
    Same,
    /// Packets got lost, now or before: nothing can be said.
    Doubtful,
}

/// A number before and after.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Change {
    /// What it tells.
    #[serde(flatten)]
    pub key: Key,
    /// The median before.
    pub before: f64,
    /// The median after.
    pub after: f64,
    /// Change in percent of what was before.
    pub percent: f64,
    /// What is noise, in percent of what was before.
    pub noise: f64,
    /// What became of it.
    pub verdict: Verdict,
}

/// Two reports compared.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Comparison {
    /// Each number that both have.
    pub changes: Vec<Change>,
    /// By what the machine was faster in the run after, as a factor: the median of
    /// what became of everything that is not netbpf. 1 where it was the same.
    pub machine: f64,
    /// What only one of them has.
    pub only_in_one: usize,
    /// In what the machines differ.
    pub machines: Vec<String>,
}

/// Compares two reports.
#[must_use]
pub fn compare(before: &Report, after: &Report) -> Comparison {
    let changes: Vec<Change> =
        before.rows.iter().filter_map(|row| Some(change(row, after.row(&row.key)?))).collect();
    let mut others: Vec<f64> = changes
        .iter()
        .filter(|change| change.key.contender != Contender::Netbpf)
        .filter(|change| !matches!(change.key.mode, Mode::Control | Mode::Prog | Mode::Parts))
        .map(|change| change.key.metric.advantage(change.after, change.before))
        .collect();
    others.sort_by(f64::total_cmp);
    let machine = others.get(others.len() / 2).copied().unwrap_or(1.0);
    let only_in_one = before.rows.len() + after.rows.len() - 2 * changes.len();
    let mut machines = Vec::new();
    let (one, other) = (&before.machine, &after.machine);
    for (what, before, after) in [
        ("kernel", &one.kernel, &other.kernel),
        ("CPU", &one.cpu, &other.cpu),
        ("number of CPUs", &one.cpus.to_string(), &other.cpus.to_string()),
    ] {
        if before != after {
            machines.push(format!("{what}: {before}, then {after}"));
        }
    }
    Comparison { changes, machine, only_in_one, machines }
}

fn change(before: &Row, after: &Row) -> Change {
    let (one, other) = (before.stats, after.stats);
    let difference = other.median - one.median;
    // Both medians may be off, independently.
    let noise = one.noise().hypot(other.noise()).max(LEAST * one.median.abs());
    let is_better = (difference > 0.0) == before.key.metric.more_is_better();
    let verdict = if before.is_doubtful() || after.is_doubtful() {
        Verdict::Doubtful
    } else if difference.abs() <= noise {
        Verdict::Same
    } else if is_better {
        Verdict::Better
    } else {
        Verdict::Worse
    };
    let percent = |value: f64| if one.median == 0.0 { 0.0 } else { 100.0 * value / one.median };
    Change {
        key: before.key.clone(),
        before: one.median,
        after: other.median,
        percent: percent(difference),
        noise: percent(noise),
        verdict,
    }
}

const COLUMNS: &[Column] = &[
    Column::left("MODE"),
    Column::left("WAY"),
    Column::left("CASE"),
    Column::left("CONTENDER"),
    Column::right("BEFORE"),
    Column::right("AFTER"),
    Column::left("UNIT"),
    Column::right("CHANGE"),
    Column::right("NOISE"),
    Column::left("VERDICT"),
];

/// Writes what has changed; all numbers if `all`.
///
/// # Errors
/// If it cannot be written.
pub fn show(out: &mut dyn Write, found: &Comparison, all: bool, headers: bool) -> Result<()> {
    let is_shown = |change: &&Change| all || change.verdict != Verdict::Same;
    let mut table = Table::new(out, COLUMNS, headers);
    for change in found.changes.iter().filter(is_shown) {
        table.row(|cells| {
            cells
                .cell(change.key.mode)
                .cell(change.key.way.map_or("", |way| way.name()))
                .cell(&change.key.case)
                .cell(change.key.contender)
                .cell(super::show::short(change.before))
                .cell(super::show::short(change.after))
                .cell(change.key.metric.unit())
                .cell(format!("{:+.1}%", change.percent))
                .cell(format!("{:.1}%", change.noise))
                .cell(match change.verdict {
                    Verdict::Better => "better",
                    Verdict::Worse => "worse",
                    Verdict::Same => "same",
                    Verdict::Doubtful => "doubtful",
                });
        })?;
    }
    table.end()?;
    let same = found.changes.iter().filter(|change| change.verdict == Verdict::Same).count();
    let mut lines = vec![format!("{same} of {} numbers are the same", found.changes.len())];
    if (found.machine - 1.0).abs() > LEAST {
        let percent = 100.0 * (found.machine - 1.0);
        lines.push(format!(
            "note: what is not netbpf has become {percent:+.1}% better, too: compare the ratios"
        ));
    }
    if found.only_in_one > 0 {
        lines.push(format!("note: {} numbers are in one of the reports only", found.only_in_one));
    }
    lines.extend(found.machines.iter().map(|what| format!("note: the machines differ in {what}")));
    for line in lines {
        writeln!(out, "{line}").context(CANNOT_WRITE)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Metric, Stats, testing};

    #[test]
    fn a_change_within_the_noise_is_none() {
        let before = testing::row(Contender::Netbpf, Metric::NsPerPacket, &[200.0, 210.0, 190.0]);
        let verdict = |rounds: &[f64]| {
            let after = testing::row(Contender::Netbpf, Metric::NsPerPacket, rounds);
            change(&before, &after).verdict
        };
        assert_eq!(verdict(&[215.0, 220.0, 210.0]), Verdict::Same);
        assert_eq!(verdict(&[300.0, 310.0, 290.0]), Verdict::Worse);
        assert_eq!(verdict(&[100.0, 105.0, 95.0]), Verdict::Better);
    }

    #[test]
    fn more_may_be_better() {
        let row = |value| testing::row(Contender::Netbpf, Metric::GbitPerSecond, &[value]);
        assert_eq!(change(&row(10.0), &row(20.0)).verdict, Verdict::Better);
        assert_eq!(change(&row(20.0), &row(10.0)).verdict, Verdict::Worse);
    }

    #[test]
    fn nothing_is_said_of_what_got_lost() {
        let row = testing::row(Contender::Netbpf, Metric::NsPerPacket, &[200.0]);
        let lossy =
            Row { loss: Some(0.5), stats: Stats { median: 900.0, ..row.stats }, ..row.clone() };
        assert_eq!(change(&row, &lossy).verdict, Verdict::Doubtful);
    }

    #[test]
    fn a_faster_machine_is_told_from_a_faster_datapath() {
        let report = |netbpf, bridge| {
            let row = |who, ns| testing::row(who, Metric::NsPerPacket, &[ns]);
            testing::report(vec![row(Contender::Netbpf, netbpf), row(Contender::Bridge, bridge)])
        };
        let found = compare(&report(200.0, 300.0), &report(100.0, 150.0));
        assert!((found.machine - 2.0).abs() < 1e-9, "{found:?}");
        let mut text = Vec::new();
        show(&mut text, &found, false, true).expect("a vector takes everything");
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains("-50.0%") && text.contains("+100.0% better, too"), "{text}");
    }

    #[test]
    fn what_only_one_has_is_counted() {
        let row = testing::row(Contender::Netbpf, Metric::NsPerPacket, &[200.0]);
        let found = compare(&testing::report(vec![row]), &testing::report(Vec::new()));
        assert_eq!((found.changes.len(), found.only_in_one), (0, 1));
    }
}
