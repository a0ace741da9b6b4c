//! A report as tables.

use std::io::Write;

use super::{
    contender::{Contender, Way},
    report::{Key, Metric, Mode, Report, Row},
};
use crate::{
    error::{Context as _, Result},
    output::{CANNOT_WRITE, Column, Table},
};

const COLUMNS: &[Column] = &[
    Column::left("MODE"),
    Column::left("WAY"),
    Column::left("CASE"),
    Column::left("CONTENDER"),
    Column::right("MEDIAN"),
    Column::left("UNIT"),
    Column::right("SPREAD"),
    Column::right("MPPS"),
    Column::right("CPUS"),
    Column::right("LOSS"),
    Column::right("USUAL"),
    Column::right("LIMIT"),
];

/// Of what one waits for, the quantiles side by side.
const WAITS: &[Column] = &[
    Column::left("MODE"),
    Column::left("WAY"),
    Column::left("CASE"),
    Column::left("CONTENDER"),
    Column::right("P50/us"),
    Column::right("P90/us"),
    Column::right("P99/us"),
    Column::right("P99.9/us"),
    Column::right("SPREAD"),
    Column::right("USUAL"),
    Column::right("LIMIT"),
];

const SIZES: &[Column] =
    &[Column::left("PROGRAM"), Column::right("INSTRUCTIONS"), Column::right("STACK")];

const PARTS: &[Column] = &[
    Column::left("WAY"),
    Column::left("PART"),
    Column::right("NS/PACKET"),
    Column::right("MORE"),
    Column::right("SPREAD"),
];

const GOALS: &[Column] = &[
    Column::left("GOAL"),
    Column::right("MEASURED"),
    Column::right("WANTED"),
    Column::left("REACHED"),
];

/// A number with three digits that count.
pub(super) fn short(value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// How many times better a row is than that of another contender.
fn advantage(report: &Report, row: &Row, over: impl Fn(Contender) -> bool) -> Option<f64> {
    let other = report
        .rows
        .iter()
        .find(|other| over(other.key.contender) && other.key == row.key.of(other.key.contender))?;
    if other.key.contender == row.key.contender {
        return None;
    }
    Some(row.key.metric.advantage(row.stats.median, other.stats.median))
}

/// What one waits for, with its own ratios to what is usual and what is possible.
fn ratios(report: &Report, row: &Row) -> [String; 2] {
    let usual = advantage(report, row, Contender::is_usual);
    // For sockets a pair of veths is what is possible.
    let is_limit = |other| matches!(other, Contender::Limit | Contender::Veth);
    let limit = advantage(report, row, is_limit);
    [usual, limit].map(|ratio| ratio.map_or(String::new(), |ratio| format!("{ratio:.2}x")))
}

fn spread(row: &Row) -> String {
    if row.stats.rounds > 1 { format!("{:.1}%", row.stats.spread()) } else { String::new() }
}

/// Writes the numbers, and below them the goals and what else is to be known.
///
/// # Errors
/// If they cannot be written.
pub fn report(out: &mut dyn Write, report: &Report, headers: bool) -> Result<()> {
    let mut begun = false;
    for part in [numbers, waits, sizes, parts, goals] {
        let mut text = Vec::new();
        part(&mut text, report, headers)?;
        if !text.is_empty() {
            let gap: &[u8] = if std::mem::replace(&mut begun, true) { b"\n" } else { b"" };
            out.write_all(gap).and_then(|()| out.write_all(&text)).context(CANNOT_WRITE)?;
        }
    }
    notes(out, report)
}

fn is_wait(row: &Row) -> bool {
    row.key.mode == Mode::Rr
}

fn is_size(row: &Row) -> bool {
    matches!(row.key.metric, Metric::Instructions | Metric::StackBytes)
}

fn is_part(row: &Row) -> bool {
    row.key.mode == Mode::Parts
}

fn numbers(out: &mut Vec<u8>, report: &Report, headers: bool) -> Result<()> {
    let is_other = |row: &&Row| !is_wait(row) && !is_size(row) && !is_part(row);
    let rows: Vec<&Row> = report.rows.iter().filter(is_other).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(out, COLUMNS, headers);
    for row in rows {
        let [usual, limit] = ratios(report, row);
        let loss = row.loss.map(|loss| {
            let mark = if row.is_doubtful() { "!" } else { "" };
            format!("{:.1}%{mark}", 100.0 * loss)
        });
        let rate =
            (row.key.metric == Metric::NsPerPacket).then(|| short(1000.0 / row.stats.median));
        table.row(|cells| {
            cells
                .cell(row.key.mode)
                .cell(row.key.way.map_or("", Way::name))
                .cell(&row.key.case)
                .cell(row.key.contender)
                .cell(short(row.stats.median))
                .cell(row.key.metric.unit())
                .cell(spread(row))
                .cell(rate.unwrap_or_default())
                .cell(row.cpus.map_or(String::new(), |cpus| format!("{cpus:.2}")))
                .cell(loss.unwrap_or_default())
                .cell(usual)
                .cell(limit);
        })?;
    }
    table.end()
}

fn waits(out: &mut Vec<u8>, report: &Report, headers: bool) -> Result<()> {
    let rows: Vec<&Row> =
        report.rows.iter().filter(|row| row.key.metric == Metric::P50Us).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(out, WAITS, headers);
    for row in rows {
        let at = |metric| report.row(&Key { metric, ..row.key.clone() });
        let text = |metric| at(metric).map_or(String::new(), |row| short(row.stats.median));
        let [usual, limit] = ratios(report, row);
        table.row(|cells| {
            cells
                .cell(row.key.mode)
                .cell(row.key.way.map_or("", Way::name))
                .cell(&row.key.case)
                .cell(row.key.contender)
                .cell(short(row.stats.median))
                .cell(text(Metric::P90Us))
                .cell(text(Metric::P99Us))
                .cell(text(Metric::P999Us))
                .cell(spread(row))
                .cell(usual)
                .cell(limit);
        })?;
    }
    table.end()
}

fn sizes(out: &mut Vec<u8>, report: &Report, headers: bool) -> Result<()> {
    let rows: Vec<&Row> = report.rows.iter().filter(|row| is_size(row)).collect();
    let mut cases: Vec<&str> = rows.iter().map(|row| row.key.case.as_str()).collect();
    cases.dedup();
    if cases.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(out, SIZES, headers);
    for case in cases {
        let of = |metric| {
            let row = rows.iter().find(|row| row.key.case == case && row.key.metric == metric);
            row.map_or(String::new(), |row| format!("{:.0}", row.stats.median))
        };
        table.row(|cells| {
            cells.cell(case).cell(of(Metric::Instructions)).cell(of(Metric::StackBytes));
        })?;
    }
    table.end()
}

/// What each part of a way adds, in nanoseconds, and the median distance of rounds from that.
fn parts(out: &mut Vec<u8>, report: &Report, headers: bool) -> Result<()> {
    let is_step = |row: &&Row| is_part(row) && row.key.metric == Metric::NsPerPacket;
    let rows: Vec<&Row> = report.rows.iter().filter(is_step).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(out, PARTS, headers);
    for row in rows {
        let added = report.row(&Key { metric: Metric::NsAdded, ..row.key.clone() });
        let text = |part: fn(&Row) -> f64| added.map_or(String::new(), |row| short(part(row)));
        table.row(|cells| {
            cells
                .cell(row.key.way.map_or("", Way::name))
                .cell(&row.key.case)
                .cell(short(row.stats.median))
                .cell(text(|row| row.stats.median))
                .cell(text(|row| row.stats.mad));
        })?;
    }
    table.end()
}

fn notes(out: &mut dyn Write, report: &Report) -> Result<()> {
    let doubts = report.rows.iter().filter(|row| row.is_doubtful()).map(|row| {
        format!(
            "{} {} {}: {} lost more than one packet in a hundred: its number tells little",
            row.key.mode,
            row.key.way.map_or("", Way::name),
            row.key.case,
            row.key.contender
        )
    });
    for note in report.notes.iter().cloned().chain(doubts) {
        writeln!(out, "note: {note}").context(CANNOT_WRITE)?;
    }
    Ok(())
}

fn goals(out: &mut Vec<u8>, report: &Report, headers: bool) -> Result<()> {
    let measured: Vec<_> =
        report.goals.iter().filter_map(|goal| Some((goal, goal.measured?))).collect();
    if measured.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(out, GOALS, headers);
    for (goal, value) in measured {
        let sign = if goal.at_most { "<=" } else { ">=" };
        table.row(|cells| {
            cells
                .cell(&goal.about)
                .cell(format!("{} {}", short(value), goal.unit))
                .cell(format!("{sign} {} {}", short(goal.wanted), goal.unit))
                .cell(if goal.is_reached() == Some(true) { "yes" } else { "no" });
        })?;
    }
    table.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::testing;

    #[test]
    fn a_table_tells_ratios_losses_and_goals() {
        let mut full = testing::full();
        full.rows[0].loss = Some(0.5);
        full.notes.push("something".to_owned());
        let mut text = Vec::new();
        report(&mut text, &full, true).expect("a vector takes everything");
        let text = String::from_utf8(text).expect("text");
        for part in ["50.0%!", "2.00x", "GOAL", "note: something", "netbpf lost more than one"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn parts_are_shown_with_what_they_add() {
        let part = |case: &str, metric, rounds: &[f64]| {
            let mut row = testing::row(Contender::Netbpf, metric, rounds);
            row.key = Key { mode: Mode::Parts, case: case.to_owned(), ..row.key };
            row
        };
        let rows = vec![
            part("nothing", Metric::NsPerPacket, &[150.0, 151.0, 152.0]),
            part("+ something", Metric::NsPerPacket, &[158.0, 160.0, 159.0]),
            part("+ something", Metric::NsAdded, &[8.0, 9.0, 7.5]),
        ];
        let mut text = Vec::new();
        report(&mut text, &testing::report(rows), false).expect("a vector takes everything");
        let text = String::from_utf8(text).expect("text");
        let words: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0][..3], ["ns-to-ns", "nothing", "151"], "{text}");
        assert_eq!(words[1], ["ns-to-ns", "+", "something", "159", "8.00", "0.500"], "{text}");
    }

    #[test]
    fn three_digits_count() {
        for (value, text) in
            [(1234.5, "1234"), (99.95, "100.0"), (12.34, "12.3"), (0.1234, "0.123")]
        {
            assert_eq!(short(value), text);
        }
    }
}
