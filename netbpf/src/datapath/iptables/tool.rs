//! The commands of iptables, and running them.

use std::{
    collections::HashSet,
    env, fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use super::RulesSeen;
use crate::error::{Context as _, Error, Result};

/// What the commands may be called, less `-save` and `-restore`: first as
/// everybody calls them, then as Debian tells the two kinds apart.
const NAMES: [&str; 3] = ["iptables", "iptables-nft", "iptables-legacy"];

/// Where they are, if they are not in `PATH`, as in that of many a user.
const PLACES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Seconds for which another run of iptables is waited for.
const PATIENCE: &str = "10";

/// An iptables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tool {
    save: PathBuf,
    restore: PathBuf,
}

/// All that there are; of several names of the same one the first.
pub(super) fn find() -> Vec<Tool> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> =
        env::split_paths(&path).chain(PLACES.iter().map(PathBuf::from)).collect();
    let command = |name: String| {
        let mut all = places.iter().map(|place| place.join(&name));
        all.find(|path| is_command(path))
    };
    let mut known = HashSet::new();
    let mut tools = Vec::new();
    for name in NAMES {
        let both = command(format!("{name}-save")).zip(command(format!("{name}-restore")));
        let Some((save, restore)) = both else { continue };
        // All are one program, which goes by the name that it is called by.
        if known.insert(fs::canonicalize(&restore).unwrap_or_else(|_| restore.clone())) {
            tools.push(Tool { save, restore });
        }
    }
    tools
}

fn is_command(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

impl Tool {
    /// The rules that there are.
    ///
    /// # Errors
    /// It refuses.
    pub(super) fn save(&self) -> Result<RulesSeen> {
        let what = "cannot look at the rules of iptables";
        let output = Command::new(&self.save).stdin(Stdio::null()).output();
        let output = self.succeed(&self.save, what, output.context(what)?)?;
        Ok(RulesSeen::read(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Changes rules: a table's all at once, the others not at all.
    ///
    /// # Errors
    /// It refuses; nothing was changed then.
    pub(super) fn restore(&self, text: &str) -> Result<()> {
        let what = "cannot change the rules of iptables";
        let mut command = Command::new(&self.restore);
        command.args(["--noflush", "--wait", PATIENCE]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context(what)?;
        // Closed when it is written, which is the end of the text. One that does
        // not read it to the end says why.
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(text.as_bytes());
        }
        let output = child.wait_with_output().context(what)?;
        self.succeed(&self.restore, what, output).map(|_| ())
    }

    fn succeed(&self, command: &Path, what: &str, output: Output) -> Result<Output> {
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> =
            said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let said = if lines.is_empty() { output.status.to_string() } else { lines.join("; ") };
        Err(Error::failed(what).because(format!("{}: {said}", command.display())).hint(format!(
            "does `{} < /dev/null` work? The kernel needs iptables (legacy) or nf_tables, connection tracking and NAT",
            self.restore.display()
        )))
    }
}
