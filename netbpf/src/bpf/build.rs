//! Of which build of netbpf a datapath's programs are.

use std::{fmt, fs, hash::BuildHasher as _, io, os::unix::fs::symlink, path::Path, sync::OnceLock};

use foldhash::quality::FixedState;
use serde::{Serialize, Serializer};

use super::{load::object, pins};
use crate::error::{Context as _, Result};

/// A build, told from others by its programs: the version of netbpf, and a hash of the
/// compiled object. Two builds of the same programs are one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Build(String);

impl Build {
    /// This netbpf's.
    #[must_use]
    pub fn own() -> &'static Self {
        static OWN: OnceLock<Build> = OnceLock::new();
        OWN.get_or_init(|| {
            // Numbers of another version of the hash are others: then the programs are
            // replaced once more than need be.
            let hash = FixedState::default().hash_one(object());
            Self(format!("{} {hash:016x}", env!("CARGO_PKG_VERSION")))
        })
    }

    /// That of the datapath in a directory; nothing if its netbpf did not say so yet.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn of(pin_dir: &Path) -> Result<Option<Self>> {
        let mark = pins::build(pin_dir);
        match fs::read_link(&mark) {
            Ok(text) => Ok(Some(Self(text.to_string_lossy().into_owned()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(format!("cannot read {}", mark.display())),
        }
    }

    /// Says in the directory of a datapath whose programs it has: this netbpf's.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn mark(pin_dir: &Path) -> io::Result<()> {
        symlink(&Self::own().0, pins::build(pin_dir))
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Build {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_found_again_as_it_was_marked() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Build::of(dir.path()).unwrap(), None);
        Build::mark(dir.path()).unwrap();
        assert_eq!(Build::of(dir.path()).unwrap().as_ref(), Some(Build::own()));
        assert!(Build::own().to_string().starts_with(env!("CARGO_PKG_VERSION")));
    }
}
