//! Where the datapath is pinned, and how that is cleared away.
//!
//! ```text
//! <pin dir>/maps/<NAME>
//! <pin dir>/programs/<name>
//! <pin dir>/links/<hook>-<ifindex>      a TCX link, or a symbolic link to the word
//!                                       "filter" or "clsact": see `clsact`
//! <pin dir>/log_level                   a symbolic link to the level's name
//! <pin dir>/port_secret                 a symbolic link to the secret of its ports
//! <pin dir>/build                       a symbolic link to the build of its programs
//! <pin dir>/generation                  a symbolic link to how often they were replaced
//! ```
//!
//! A bpffs holds no ordinary files, but symbolic links, whose targets are as
//! good a place for a word. A datapath is made beside its place, in
//! `<pin dir>-loading`, and renamed; it is renamed to `<pin dir>-unloading`
//! before it is cleared away. So what is in the pin directory is complete, and
//! what an interrupted run left is recognised by its name. An upgrade makes its
//! datapath in `<pin dir>-staging`; complete, that is `<pin dir>-staged`, and changes
//! places with the pin directory; what is old then goes by `<pin dir>-retired`. These
//! have links, too, but second pins of the same ones: to clear them away detaches nothing.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use super::{Hook, attach};
use crate::error::{Error, Result};

/// The map's pin.
pub(super) fn map(pin_dir: &Path, name: &str) -> PathBuf {
    pin_dir.join("maps").join(name)
}

/// The directory of the programs' pins.
pub(super) fn programs(pin_dir: &Path) -> PathBuf {
    pin_dir.join("programs")
}

/// The program's pin.
pub(super) fn program(pin_dir: &Path, name: &str) -> PathBuf {
    programs(pin_dir).join(name)
}

/// The directory of the links' pins.
pub(super) fn links(pin_dir: &Path) -> PathBuf {
    pin_dir.join("links")
}

/// The link's pin. The kernel does not tell of which device a link was once the
/// device is gone, so the name does.
pub(super) fn link(pin_dir: &Path, hook: Hook, ifindex: u32) -> PathBuf {
    links(pin_dir).join(format!("{}-{ifindex}", hook.name()))
}

/// The symbolic link that tells the log level.
pub(super) fn log_level(pin_dir: &Path) -> PathBuf {
    pin_dir.join("log_level")
}

/// The symbolic link that tells the secret from which outside ports follow.
pub(super) fn port_secret(pin_dir: &Path) -> PathBuf {
    pin_dir.join("port_secret")
}

/// The symbolic link that tells the build of the programs.
pub(super) fn build(pin_dir: &Path) -> PathBuf {
    pin_dir.join("build")
}

/// The symbolic link that tells how often the programs were replaced.
pub(super) fn generation(pin_dir: &Path) -> PathBuf {
    pin_dir.join("generation")
}

/// Where an upgrade makes a datapath.
pub(super) fn staging(pin_dir: &Path) -> PathBuf {
    beside(pin_dir, "-staging")
}

/// Where it is, complete, before it takes its place; after that, the old one.
pub(super) fn staged(pin_dir: &Path) -> PathBuf {
    beside(pin_dir, "-staged")
}

/// Where an upgrade clears the old one away.
pub(super) fn retired(pin_dir: &Path) -> PathBuf {
    beside(pin_dir, "-retired")
}

/// Where a datapath is made before it takes its place.
pub(super) fn loading(pin_dir: &Path) -> PathBuf {
    beside(pin_dir, "-loading")
}

/// Where a datapath is cleared away.
fn unloading(pin_dir: &Path) -> PathBuf {
    beside(pin_dir, "-unloading")
}

/// A sibling; a bpffs takes no dots in names.
fn beside(pin_dir: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(pin_dir);
    name.push(suffix);
    PathBuf::from(name)
}

/// The pinned datapath lacks a piece.
pub(super) fn damaged(pin_dir: &Path, why: &str) -> Error {
    Error::failed(format!("the datapath pinned in {} is incomplete", pin_dir.display()))
        .because(why)
        .hint("take it away with `netbpf down --all`, then bring the networks up again")
}

/// The pinned datapath is of another version.
pub(super) fn other_version(pin_dir: &Path, why: &str) -> Error {
    Error::failed(format!("the datapath pinned in {} is another netbpf's", pin_dir.display()))
        .because(why)
        .hint(
            "use the netbpf that loaded it, or take it away with `netbpf down --all` and bring \
             the networks up again with this one",
        )
}

/// Clears away what interrupted runs left.
pub(super) fn tidy(pin_dir: &Path) -> Result<()> {
    clear(&loading(pin_dir))?;
    clear(&unloading(pin_dir))
}

/// Clears away everything: what is there and what interrupted runs left, and
/// the parent directory if nothing else is in it.
pub(super) fn remove(pin_dir: &Path) -> Result<()> {
    tidy(pin_dir)?;
    for left in [staging(pin_dir), staged(pin_dir), retired(pin_dir)] {
        remove_dir(&left)?;
    }
    match fs::rename(pin_dir, unloading(pin_dir)) {
        Ok(()) => clear(&unloading(pin_dir))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(cannot_remove(pin_dir, &error)),
    }
    if let Some(parent) = pin_dir.parent() {
        // It stays where another namespace's datapath is in it, or where it never was.
        drop(fs::remove_dir(parent));
    }
    Ok(())
}

/// Detaches the links of a datapath directory and removes it.
fn clear(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in attach::pinned(dir)? {
        attach::detach_pin(&entry)?;
    }
    remove_dir(dir)
}

/// Removes a datapath directory, of whose links there are other pins.
pub(super) fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot_remove(dir, &error)),
        _ => Ok(()),
    }
}

/// Removes a pin; one that is gone is no error.
pub(super) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot_remove(path, &error)),
        _ => Ok(()),
    }
}

fn cannot_remove(path: &Path, error: &io::Error) -> Error {
    Error::failed(format!("cannot remove {}", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pin_has_its_place() {
        let dir = Path::new("/sys/fs/bpf/netbpf/7");
        assert_eq!(map(dir, "FLOWS"), Path::new("/sys/fs/bpf/netbpf/7/maps/FLOWS"));
        assert_eq!(
            link(dir, Hook::ToUplink, 12),
            Path::new("/sys/fs/bpf/netbpf/7/links/to_uplink-12")
        );
        assert_eq!(loading(dir), Path::new("/sys/fs/bpf/netbpf/7-loading"));
    }
}
