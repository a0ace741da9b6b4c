//! `install`: the binary, its manual pages, its completions and the unit for systemd.

use std::{
    fs,
    path::{Path, PathBuf, absolute},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{process, setup, toolchain::workspace};

/// Where each shell looks for completions, below the prefix.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/netbpf"),
    ("zsh", "share/zsh/site-functions/_netbpf"),
    ("fish", "share/fish/vendor_completions.d/netbpf.fish"),
];

/// The unit that brings a file's network up at boot.
const UNIT: &str = "netbpf@.service";

#[derive(clap::Args)]
pub(crate) struct Install {
    /// Where netbpf will live
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,

    /// Put the files below this folder instead of the root, as packagers do
    #[arg(long, value_name = "DIR")]
    destdir: Option<PathBuf>,

    /// Install this executable instead of building one
    #[arg(skip)]
    binary: Option<PathBuf>,
}

impl Install {
    /// The files of a prefix below a folder.
    pub(crate) fn staged(prefix: PathBuf, destdir: PathBuf, binary: Option<PathBuf>) -> Self {
        Self { prefix, destdir: Some(destdir), binary }
    }

    pub(crate) fn run(&self) -> Result<()> {
        for path in self.files()? {
            println!("{}", path.display());
        }
        Ok(())
    }

    /// Writes the files, and tells them: the executable first.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        let binary = if let Some(binary) = &self.binary {
            absolute(binary).with_context(|| format!("cannot find {}", binary.display()))?
        } else {
            setup::ensure()?;
            process::build_release()?
        };
        let prefix = self.target();

        let installed = prefix.join("bin/netbpf");
        create_parent(&installed)?;
        // The old one may be running, and then cannot be written to.
        let _ = fs::remove_file(&installed);
        fs::copy(&binary, &installed).with_context(|| cannot_write(&installed))?;
        let mut files = vec![installed];

        let man = prefix.join("share/man/man1");
        fs::create_dir_all(&man).with_context(|| cannot_write(&man))?;
        process::run(Command::new(&binary).args(["generate", "man"]).arg(&man))?;
        files.push(man);

        for (shell, path) in COMPLETIONS {
            let file = prefix.join(path);
            let script =
                process::output(Command::new(&binary).args(["generate", "completions", shell]))?;
            create_parent(&file)?;
            fs::write(&file, script).with_context(|| cannot_write(&file))?;
            files.push(file);
        }

        let unit = prefix.join("lib/systemd/system").join(UNIT);
        let text = fs::read_to_string(workspace().join("packaging").join(UNIT))?;
        let own = Path::new("/").join(&self.prefix).join("bin/netbpf");
        create_parent(&unit)?;
        fs::write(&unit, text.replace("/usr/bin/netbpf", &own.to_string_lossy()))
            .with_context(|| cannot_write(&unit))?;
        files.push(unit);
        Ok(files)
    }

    /// The prefix as seen from here: below the destdir if there is one.
    fn target(&self) -> PathBuf {
        let Some(destdir) = &self.destdir else { return self.prefix.clone() };
        destdir.join(self.prefix.strip_prefix("/").unwrap_or(&self.prefix))
    }
}

fn create_parent(file: &Path) -> Result<()> {
    let parent = file.parent().context("a file lies in a folder")?;
    fs::create_dir_all(parent).with_context(|| cannot_write(parent))
}

fn cannot_write(path: &Path) -> String {
    format!(
        "cannot write {}\n\
         what to do: repeat as root, or choose another folder with --prefix or --destdir",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_below_destdir() {
        let install = |prefix: &str, destdir: Option<&str>| {
            let destdir = destdir.map(Into::into);
            Install { prefix: prefix.into(), destdir, binary: None }.target()
        };
        assert_eq!(install("/usr", None), Path::new("/usr"));
        assert_eq!(install("/usr", Some("/tmp/root")), Path::new("/tmp/root/usr"));
        assert_eq!(install("usr", Some("out")), Path::new("out/usr"));
    }
}
