//! Results on standard output: tables for people, JSON for programs.

use std::io::{self, BufWriter, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::error::{Context as _, Result};

mod human;
mod table;

pub use human::{Bytes, Span};
pub use table::{Align, Column, Row, Table};

/// Version of the JSON that every verb writes. Fields may be added without a
/// new version; it is raised when one goes or changes its meaning.
pub const JSON_VERSION: u32 = 2;

/// How results are shown.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Format {
    /// A table for people
    #[default]
    Table,
    /// JSON for programs
    Json,
}

/// How results are shown, in full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    /// Table or JSON.
    pub format: Format,
    /// Whether tables begin with the names of their columns.
    pub headers: bool,
}

/// Standard output for results of any length.
///
/// When nobody reads any longer (`netbpf maps flows | head`) that is no error:
/// what follows is thrown away, and [`Sink::is_closed`] says so.
#[derive(Debug)]
pub struct Sink {
    out: BufWriter<io::Stdout>,
    closed: bool,
}

impl Sink {
    /// Standard output.
    #[must_use]
    pub fn stdout() -> Self {
        Self { out: BufWriter::with_capacity(64 * 1024, io::stdout()), closed: false }
    }

    /// Whether nobody reads any longer.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The result that stands for a write's, a closed pipe being a success.
    fn unless_closed<T>(&mut self, result: io::Result<T>, otherwise: T) -> io::Result<T> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(otherwise)
            }
            result => result,
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Ok(bytes.len());
        }
        let written = self.out.write(bytes);
        self.unless_closed(written, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        let flushed = self.out.flush();
        self.unless_closed(flushed, ())
    }
}

/// A JSON document: the version, then the body's fields.
#[derive(Serialize)]
struct Document<'a, T> {
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// Writes a JSON document, in one line: the version, then the body's fields.
///
/// # Errors
/// If it cannot be written.
pub fn write_json(out: &mut dyn Write, body: &impl Serialize) -> Result<()> {
    let document = Document { version: JSON_VERSION, body };
    serde_json::to_writer(&mut *out, &document).context(CANNOT_WRITE)?;
    writeln!(out).context(CANNOT_WRITE)
}

/// What is said when standard output does not take what is written.
pub const CANNOT_WRITE: &str = "cannot write the result";

/// A JSON document with one list of any length, written as its items come.
pub struct JsonList<'a> {
    out: &'a mut dyn Write,
    empty: bool,
    /// Serialising writes a few bytes at a time, which is quicker into memory.
    text: Vec<u8>,
}

impl<'a> JsonList<'a> {
    /// Begins the document; `name` is the list's field and must need no escaping.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(out: &'a mut dyn Write, name: &str) -> Result<Self> {
        write!(out, "{{\"version\":{JSON_VERSION},\"{name}\":[").context(CANNOT_WRITE)?;
        Ok(Self { out, empty: true, text: Vec::new() })
    }

    /// Adds an item.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn item(&mut self, item: &impl Serialize) -> Result<()> {
        self.text.clear();
        if !self.empty {
            self.text.push(b',');
        }
        self.empty = false;
        serde_json::to_writer(&mut self.text, item).context(CANNOT_WRITE)?;
        self.out.write_all(&self.text).context(CANNOT_WRITE)
    }

    /// Ends the document.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn end(self) -> Result<()> {
        self.out.write_all(b"]}\n").context(CANNOT_WRITE)
    }
}

impl std::fmt::Debug for JsonList<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JsonList").field("empty", &self.empty).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Body {
        name: &'static str,
    }

    #[test]
    fn a_document_begins_with_its_version() {
        let mut out = Vec::new();
        write_json(&mut out, &Body { name: "x" }).expect("a vector takes everything");
        assert_eq!(String::from_utf8_lossy(&out), "{\"version\":2,\"name\":\"x\"}\n");
    }

    #[test]
    fn a_list_is_a_document_too() {
        for (items, text) in [
            (&[][..], "{\"version\":2,\"list\":[]}\n"),
            (&[1, 2][..], "{\"version\":2,\"list\":[1,2]}\n"),
        ] {
            let mut out = Vec::new();
            let mut list = JsonList::begin(&mut out, "list").expect("a vector takes everything");
            for item in items {
                list.item(item).expect("a vector takes everything");
            }
            list.end().expect("a vector takes everything");
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }
}
