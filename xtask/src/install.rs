//! `install`: the binary, its manual pages and its completions.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{process, setup};

/// Where each shell looks for completions, below the prefix.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/netbpf"),
    ("zsh", "share/zsh/site-functions/_netbpf"),
    ("fish", "share/fish/vendor_completions.d/netbpf.fish"),
];

#[derive(clap::Args)]
pub(crate) struct Install {
    /// Where netbpf will live
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,

    /// Put the files below this folder instead of the root, as packagers do
    #[arg(long, value_name = "DIR")]
    destdir: Option<PathBuf>,
}

impl Install {
    pub(crate) fn run(&self) -> Result<()> {
        setup::ensure()?;
        let binary = process::build_release()?;
        let prefix = self.target();

        let installed = prefix.join("bin/netbpf");
        create_parent(&installed)?;
        // The old one may be running, and then cannot be written to.
        let _ = fs::remove_file(&installed);
        fs::copy(&binary, &installed).with_context(|| cannot_write(&installed))?;
        println!("{}", installed.display());

        let man = prefix.join("share/man/man1");
        fs::create_dir_all(&man).with_context(|| cannot_write(&man))?;
        process::run(Command::new(&binary).args(["generate", "man"]).arg(&man))?;
        println!("{}/", man.display());

        for (shell, path) in COMPLETIONS {
            let file = prefix.join(path);
            let script =
                process::output(Command::new(&binary).args(["generate", "completions", shell]))?;
            create_parent(&file)?;
            fs::write(&file, script).with_context(|| cannot_write(&file))?;
            println!("{}", file.display());
        }
        Ok(())
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
            Install { prefix: prefix.into(), destdir: destdir.map(Into::into) }.target()
        };
        assert_eq!(install("/usr", None), Path::new("/usr"));
        assert_eq!(install("/usr", Some("/tmp/root")), Path::new("/tmp/root/usr"));
        assert_eq!(install("usr", Some("out")), Path::new("out/usr"));
    }
}
