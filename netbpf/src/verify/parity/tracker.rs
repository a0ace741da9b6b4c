//! What the host's connection tracking says of itself.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    sync::{Mutex, PoisonError},
};

use crate::error::{Context as _, Result};

/// The counters of a network namespace's connection tracking, a line for each CPU,
/// in hexadecimal (`ct_cpu_seq_show()` of the kernel).
const COUNTERS: &str = "/proc/thread-self/net/stat/nf_conntrack";

/// Reads the counters of one host's connection tracking.
#[derive(Debug)]
pub struct Tracker(Mutex<File>);

impl Tracker {
    /// Opens them, of the host that this thread is in.
    ///
    /// # Errors
    /// The kernel has none.
    pub fn open() -> Result<Self> {
        let file = File::open(COUNTERS);
        Ok(Self(Mutex::new(file.context(format!("cannot open {COUNTERS}"))?)))
    }

    /// How many packets it has taken for invalid.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn invalid(&self) -> Result<u64> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut read = || -> io::Result<String> {
            let mut text = String::new();
            file.rewind()?;
            file.read_to_string(&mut text)?;
            Ok(text)
        };
        Ok(total(&read().context(format!("cannot read {COUNTERS}"))?, "invalid"))
    }
}

/// The sum of a column; 0 if there is none of that name.
fn total(text: &str, column: &str) -> u64 {
    let mut lines = text.lines();
    let names = lines.next().unwrap_or_default();
    let Some(at) = names.split_whitespace().position(|name| name == column) else { return 0 };
    let cells = lines.filter_map(|line| line.split_whitespace().nth(at));
    cells.filter_map(|cell| u64::from_str_radix(cell, 16).ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_summed_over_all_cpus() {
        let text = "entries  clashres found new invalid ignore\n\
                    00000004  00000000 00000000 00000000 0000001a 00000000\n\
                    00000004  00000000 00000000 00000000 00000006 00000000\n";
        assert_eq!(total(text, "invalid"), 0x20);
        assert_eq!(total(text, "absent"), 0);
    }
}
