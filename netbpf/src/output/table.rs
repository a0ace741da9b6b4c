//! Tables: upper-case columns, padded, two spaces between them.

use std::{
    fmt::{self, Display, Write as _},
    io::{self, Write},
};

use super::CANNOT_WRITE;
use crate::error::{Context as _, Result};

/// On which side of its column a cell stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A column of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Column {
    name: &'static str,
    align: Align,
}

impl Column {
    /// A column of words; the name is in upper case.
    #[must_use]
    pub const fn left(name: &'static str) -> Self {
        Self { name, align: Align::Left }
    }

    /// A column of numbers; the name is in upper case.
    #[must_use]
    pub const fn right(name: &'static str) -> Self {
        Self { name, align: Align::Right }
    }
}

/// The cells of a row, one after another in one string.
#[derive(Clone, Default, Debug)]
pub struct Row {
    text: String,
    /// Where each cell ends in `text`.
    ends: Vec<usize>,
}

impl Row {
    /// Adds a cell; an empty one becomes a dash, so that columns can be counted.
    pub fn cell(&mut self, value: impl Display) -> &mut Self {
        let start = self.text.len();
        // Writing to a string fails only if the value's own formatting does,
        // which then has nothing to show.
        let _ = write!(self.text, "{value}");
        if self.text.len() == start {
            self.text.push('-');
        }
        self.ends.push(self.text.len());
        self
    }

    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    fn cells(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.text[start..*end])
    }
}

/// Rows that are kept back to find out how wide the columns are. Longer tables
/// go on with these widths, and need no memory.
const SAMPLE: usize = 1000;

/// A table of any length, written as its rows come.
pub struct Table<'a> {
    out: &'a mut dyn Write,
    columns: &'static [Column],
    headers: bool,
    sample: Vec<Row>,
    /// Empty while rows are kept back.
    widths: Vec<usize>,
    row: Row,
    line: String,
}

impl fmt::Debug for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("columns", &self.columns).finish_non_exhaustive()
    }
}

impl<'a> Table<'a> {
    /// Begins a table.
    #[must_use]
    pub fn new(out: &'a mut dyn Write, columns: &'static [Column], headers: bool) -> Self {
        Self {
            out,
            columns,
            headers,
            sample: Vec::new(),
            widths: Vec::new(),
            row: Row::default(),
            line: String::new(),
        }
    }

    /// Adds a row: `fill` adds a cell for each column.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn row(&mut self, fill: impl FnOnce(&mut Row)) -> Result<()> {
        self.row.clear();
        fill(&mut self.row);
        debug_assert_eq!(self.row.ends.len(), self.columns.len(), "a cell for each column");
        if self.widths.is_empty() {
            self.sample.push(self.row.clone());
            if self.sample.len() < SAMPLE {
                return Ok(());
            }
            return self.write_sample().context(CANNOT_WRITE);
        }
        write_line(self.out, &mut self.line, self.columns, &self.widths, &self.row)
            .context(CANNOT_WRITE)
    }

    /// Ends the table.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn end(mut self) -> Result<()> {
        if self.widths.is_empty() {
            self.write_sample().context(CANNOT_WRITE)?;
        }
        Ok(())
    }

    fn write_sample(&mut self) -> io::Result<()> {
        let mut names = Row::default();
        for column in self.columns {
            names.cell(column.name);
        }
        if self.headers {
            self.sample.insert(0, names);
        }
        self.widths = vec![0; self.columns.len()];
        for row in &self.sample {
            for (width, cell) in self.widths.iter_mut().zip(row.cells()) {
                *width = (*width).max(width_of(cell));
            }
        }
        for row in self.sample.drain(..) {
            write_line(self.out, &mut self.line, self.columns, &self.widths, &row)?;
        }
        Ok(())
    }
}

/// Writes a row, padded; `line` is scratch.
fn write_line(
    out: &mut dyn Write,
    line: &mut String,
    columns: &[Column],
    widths: &[usize],
    row: &Row,
) -> io::Result<()> {
    line.clear();
    let last = columns.len() - 1;
    for (i, cell) in row.cells().enumerate() {
        let padding = widths[i].saturating_sub(width_of(cell));
        match columns[i].align {
            Align::Right => {
                pad(line, padding);
                line.push_str(cell);
            }
            Align::Left => {
                line.push_str(cell);
                // No blanks at the end of a line.
                if i != last {
                    pad(line, padding);
                }
            }
        }
        line.push_str(if i == last { "\n" } else { "  " });
    }
    out.write_all(line.as_bytes())
}

/// Columns of the screen that a cell takes. Nearly all cells are ASCII, which
/// is quicker found out than characters are counted.
fn width_of(cell: &str) -> usize {
    if cell.is_ascii() { cell.len() } else { cell.chars().count() }
}

fn pad(line: &mut String, mut padding: usize) {
    const BLANKS: &str = "                                ";
    while padding > 0 {
        let some = padding.min(BLANKS.len());
        line.push_str(&BLANKS[..some]);
        padding -= some;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[Column::left("NAME"), Column::right("N"), Column::left("WHY")];

    fn table(headers: bool, rows: &[(&str, u32, &str)]) -> String {
        let mut out = Vec::new();
        let mut table = Table::new(&mut out, COLUMNS, headers);
        for (name, n, why) in rows {
            table
                .row(|row| {
                    row.cell(name).cell(n).cell(why);
                })
                .expect("a vector takes everything");
        }
        table.end().expect("a vector takes everything");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = table(true, &[("a", 1, "x"), ("longer", 100, "")]);
        assert_eq!(text, "NAME      N  WHY\na         1  x\nlonger  100  -\n");
    }

    #[test]
    fn headers_can_be_left_out() {
        assert_eq!(table(false, &[("a", 1, "x")]), "a  1  x\n");
        assert_eq!(table(false, &[]), "");
        assert_eq!(table(true, &[]), "NAME  N  WHY\n");
    }

    #[test]
    fn a_long_table_keeps_its_widths() {
        let mut rows = vec![("a", 1, "x"); SAMPLE];
        rows.push(("much longer", 22, "y"));
        let text = table(true, &rows);
        assert_eq!(text.lines().count(), SAMPLE + 2);
        assert!(text.ends_with("a     1  x\nmuch longer  22  y\n"), "{}", &text[text.len() - 60..]);
    }
}
