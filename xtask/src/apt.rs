//! Debian's package manager.

use std::{
    cell::OnceCell,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{is_command, output, run},
    root,
};

/// Debian's package manager. Its lists are brought up to date once, and only
/// when something has to be looked up in them.
#[derive(Default)]
pub(crate) struct Apt {
    updated: OnceCell<()>,
}

impl Apt {
    /// The version that apt would install; none where there is no apt.
    pub(crate) fn candidate(&self, package: &str) -> Option<String> {
        self.update();
        let policy = output(Command::new("apt-cache").args(["policy", package])).ok()?;
        parse_candidate(&String::from_utf8_lossy(&policy))
    }

    /// The newest of the packages that it offers and whose name this regular expression
    /// matches, by the numbers in their names.
    pub(crate) fn newest(&self, pattern: &str) -> Option<String> {
        self.update();
        let search = ["search", "--names-only", pattern];
        let found = output(Command::new("apt-cache").args(search)).ok()?;
        let found = String::from_utf8_lossy(&found);
        let mut names: Vec<&str> =
            found.lines().filter_map(|line| line.split_whitespace().next()).collect();
        names.sort_by_key(|name| numbers(name));
        let newest = names.into_iter().rev().find(|name| self.candidate(name).is_some())?;
        Some(newest.to_owned())
    }

    pub(crate) fn install(&self, packages: &[impl AsRef<str>]) -> Result<()> {
        self.update();
        // A conflicting package of the user's must stay: better fail and say so.
        let fixed = ["install", "--yes", "--no-install-recommends", "--no-remove"];
        let packages = packages.iter().map(AsRef::as_ref);
        apt_get(fixed.into_iter().chain(packages), "installing packages")
    }

    /// Puts the files of a package into a directory, which does not exist yet, without
    /// installing it.
    pub(crate) fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        self.update();
        unpack(into, |archives| {
            let mut command = Command::new("apt-get");
            // As the user that we are: apt's own may not write there.
            command.args(["-qq", "-o", "APT::Sandbox::User=root", "download", package]);
            run(command.current_dir(archives))
        })
    }

    /// The same of a package and of all that it needs and the machine does not have.
    pub(crate) fn unpack_with_dependencies(&self, package: &str, into: &Path) -> Result<()> {
        self.update();
        unpack(into, |archives| {
            let place = format!("Dir::Cache::archives={}", archives.display());
            let fixed = ["install", "--yes", "--no-install-recommends", "--download-only", "-o"];
            apt_get(fixed.into_iter().chain([&*place, package]), "downloading packages")
        })
    }

    fn update(&self) {
        self.updated.get_or_init(|| {
            const PURPOSE: &str = "updating the package lists";
            if !is_command("apt-get") || root::require(PURPOSE).is_err() {
                return;
            }
            eprintln!("apt:      updating the package lists");
            // Old lists may do as well; if not, the installation fails and says why.
            if let Err(error) = apt_get(["update"], PURPOSE) {
                eprintln!("apt:      {error:#}");
            }
        });
    }
}

/// Unpacks the archives that `download` puts into the directory that it is given. The
/// directory is there when it is complete.
fn unpack(into: &Path, download: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let what = || format!("cannot create {}", into.display());
    let beside = |suffix: &str| {
        let mut path = into.as_os_str().to_owned();
        path.push(suffix);
        PathBuf::from(path)
    };
    let (archives, partial) = (beside(".archives"), beside(".partial"));
    for made in [&archives, &partial] {
        // What an interrupted run has left.
        if made.exists() {
            fs::remove_dir_all(made).with_context(what)?;
        }
        fs::create_dir_all(made).with_context(what)?;
    }
    download(&archives)?;
    let mut unpacked = 0;
    for entry in fs::read_dir(&archives).with_context(what)? {
        let archive = entry.with_context(what)?.path();
        if archive.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&partial))?;
            unpacked += 1;
        }
    }
    if unpacked == 0 {
        bail!("{}: apt-get has downloaded no package", what());
    }
    fs::remove_dir_all(&archives).and_then(|()| fs::rename(&partial, into)).with_context(what)
}

/// Runs apt-get without its chatter, which is shown only if it fails.
fn apt_get<'a>(args: impl IntoIterator<Item = &'a str>, purpose: &str) -> Result<()> {
    let mut command = root::command("env", purpose)?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]).args(args);
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&said).trim());
    }
    Ok(())
}

/// The candidate in what `apt-cache policy` prints.
fn parse_candidate(policy: &str) -> Option<String> {
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (candidate != "(none)").then(|| candidate.to_owned())
}

/// The numbers in a name.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidate_of_known_and_unknown_packages() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n";
        assert_eq!(parse_candidate(policy).as_deref(), Some("1.96.0+dfsg1-1~deb12u2"));
        assert_eq!(parse_candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(parse_candidate(""), None);
    }

    #[test]
    fn kernels_are_ordered_by_their_numbers() {
        assert!(numbers("linux-image-6.1.0-9-cloud") < numbers("linux-image-6.1.0-56-cloud"));
        assert!(numbers("image-6.12.99+deb12") < numbers("image-6.12.117+deb12"));
    }
}
