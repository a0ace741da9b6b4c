//! What is said on standard error while work is done.

use std::io::{self, IsTerminal as _, Write as _};

use crate::{apply::Progress, cli::Globals, network::Listener, plan::Step};

/// Tells of steps: each in a line if all is to be told, else all in one line
/// that is written over, and only on a terminal.
#[derive(Debug)]
pub(crate) struct Teller {
    manner: Manner,
    /// Whether only errors are said.
    is_quiet: bool,
    /// Whether there is a line to be wiped.
    line: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    Silent,
    OneLine,
    EachStep,
}

impl Teller {
    /// Tells as the options say.
    #[must_use]
    pub(crate) fn new(globals: &Globals) -> Self {
        let manner = if globals.verbose {
            Manner::EachStep
        } else if globals.quiet || !io::stderr().is_terminal() {
            Manner::Silent
        } else {
            Manner::OneLine
        };
        Self { manner, is_quiet: globals.quiet, line: false }
    }

    /// Ends the line that was written over.
    pub(crate) fn finish(&mut self) {
        if std::mem::take(&mut self.line) {
            // Nobody is harmed if standard error cannot be written to.
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Progress for Teller {
    fn step(&mut self, n: usize, total: usize, step: &Step) {
        let mut err = io::stderr();
        let _ = match self.manner {
            Manner::Silent => Ok(()),
            Manner::EachStep => writeln!(err, "[{n}/{total}] {step}"),
            Manner::OneLine => {
                self.line = true;
                let width = terminal_size::terminal_size_of(&err).map_or(80, |(w, _)| w.0 as usize);
                let text: String =
                    format!("[{n}/{total}] {step}").chars().take(width.saturating_sub(1)).collect();
                write!(err, "\r\x1b[K{text}").and_then(|()| err.flush())
            }
        };
    }
}

impl Listener for Teller {
    fn say(&mut self, text: &str) {
        self.finish();
        if !self.is_quiet {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Says something that is no result, unless asked to be quiet.
pub(crate) fn say(globals: &Globals, text: impl std::fmt::Display) {
    if !globals.quiet {
        let _ = writeln!(io::stderr(), "{text}");
    }
}
