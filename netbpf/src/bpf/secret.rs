//! The secret from which outside ports follow: made, and noted.
//!
//! Who changes it in the configuration gives ports to all whose choice can be foreseen, or
//! other ports than those that they have. So it is noted beside the maps, where only root
//! may look.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::symlink,
    path::Path,
};

use netbpf_common::{Config, maps::ConfigMap};

use super::{Datapath, load, pins};
use crate::error::{Context as _, Result};

/// A number that nobody else knows: low half, high half.
pub(super) fn new() -> Result<[u32; 2]> {
    random().context("cannot read /dev/urandom")
}

fn random() -> io::Result<[u32; 2]> {
    let mut halves = [[0; 4]; 2];
    let mut random = fs::File::open("/dev/urandom")?;
    for half in &mut halves {
        random.read_exact(half)?;
    }
    Ok(halves.map(u32::from_ne_bytes))
}

/// Notes the secret in the directory of a datapath.
pub(super) fn note(pin_dir: &Path, [low, high]: [u32; 2]) -> Result<()> {
    let note = pins::port_secret(pin_dir);
    symlink(format!("{high:08x}{low:08x}"), &note).map_err(|error| load::cannot_pin(&note, &error))
}

/// Notes in the directory of a datapath what is noted in that of another one, or else the
/// secret that this one has.
pub(super) fn note_again(from: &Path, to: &Path, now: [u32; 2]) -> Result<()> {
    note(to, noted(from).unwrap_or(now))
}

/// What is noted; nothing if the netbpf that loaded the datapath noted none.
fn noted(pin_dir: &Path) -> Option<[u32; 2]> {
    let text = fs::read_link(pins::port_secret(pin_dir)).ok()?;
    let number = u64::from_str_radix(text.to_str()?, 16).ok()?;
    let [low, high] = [number & u64::from(u32::MAX), number >> 32].map(u32::try_from);
    Some([low.ok()?, high.ok()?])
}

impl Datapath {
    /// Whether outside ports follow from the secret that is noted, if one is.
    ///
    /// # Errors
    /// What the map says.
    pub fn has_port_secret(&self) -> Result<bool> {
        let now = self.config()?.port_secret;
        Ok(noted(self.pin_dir()).is_none_or(|noted| noted == now))
    }

    /// Makes outside ports follow from the secret that is noted, if one is.
    ///
    /// # Errors
    /// What the map says.
    pub fn set_port_secret(&self) -> Result<()> {
        let config = self.config()?;
        let port_secret = noted(self.pin_dir()).unwrap_or(config.port_secret);
        self.map::<ConfigMap>()?.set(&0, &Config { port_secret, ..config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_again_as_it_was_noted() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(noted(dir.path()), None);
        note(dir.path(), [0xffff_fffe, 7]).unwrap();
        assert_eq!(noted(dir.path()), Some([0xffff_fffe, 7]));
    }

    #[test]
    fn secrets_are_not_the_same() {
        assert_ne!(new().unwrap(), new().unwrap());
    }
}
