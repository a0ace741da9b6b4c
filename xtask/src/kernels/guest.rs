//! A virtual machine, and what it tells by its serial line.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::packages::{self, Kernel};
use crate::test::{self, Counts};

/// How long a machine may take. Without hardware's help everything is some ten times
/// slower than usual, and a kernel that hangs says nothing.
const PATIENCE: &str = "1500";
/// Its memory in MiB, in which its root file system is as well.
const MEMORY: &str = "3072";
/// Lines of the kernel's own that are shown when it does not come to its end.
const CONSOLE_LINES: usize = 40;

/// What happens in a machine.
pub(super) enum Event {
    /// The tests of a file begin.
    Begin(String),
    /// They have said how they came out.
    Results(Counts),
    /// They have ended with this code.
    End(i32),
}

/// What the first process (`init.sh`) begins its own lines with.
const MARK: &str = "guest: ";

/// Boots a kernel with a root file system, passes on what it prints, and tells of what
/// happens. Whether it came to its end by itself.
pub(super) fn run(kernel: &Kernel, image: &Path, mut tell: impl FnMut(Event)) -> Result<bool> {
    let console = image.with_extension("console");
    let mut command = command(kernel, image, &console);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let stdout = child.stdout.take().context("the output is piped")?;
    let mut is_done = false;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{} | {line}", kernel.version);
        if let Some(counts) = test::parse_results(&line) {
            tell(Event::Results(counts));
        }
        let words = line.strip_prefix(MARK).map(|own| own.split_whitespace().collect::<Vec<_>>());
        match words.as_deref() {
            Some(["begin", name]) => tell(Event::Begin((*name).to_owned())),
            Some(["end", code]) => tell(Event::End(code.parse().unwrap_or(-1))),
            Some(["done"]) => is_done = true,
            _ => {}
        }
    }
    let status = child.wait()?;
    if !is_done {
        println!("{}: {status}; the kernel's last words:", kernel.release);
        let text = fs::read(&console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(CONSOLE_LINES)..] {
            println!("{} | {line}", kernel.version);
        }
    }
    Ok(is_done && status.success())
}

/// The kernel has the first serial line, the tests have the second one.
fn command(kernel: &Kernel, image: &Path, console: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", PATIENCE]);
    packages::qemu(&mut command);
    command.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", MEMORY]);
    command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(image);
    command.args(["-append", "console=ttyS0 quiet panic=-1 oops=panic mitigations=off"]);
    let console: PathBuf = ["file:", &console.display().to_string()].concat().into();
    command.arg("-serial").arg(console).args(["-serial", "stdio"]);
    command
}
