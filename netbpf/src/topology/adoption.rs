//! Namespaces that somebody else has made, and that are a network's for a while.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    net::NetnsId,
};

/// Metric of the default route that an adopted namespace gets: one of its own comes first.
pub const ADOPTED_METRIC: u32 = 4096;

/// Which namespace is meant by a name.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Origin {
    /// One that is made; what has the name already is in its way.
    New,
    /// The one that has the name already; if there is none, it is made.
    #[default]
    Named,
    /// The one at this path, which gets the name.
    At(PathBuf),
}

impl Origin {
    /// The namespace of a process, by its number.
    #[must_use]
    pub fn of_process(pid: u32) -> Self {
        Self::At(format!("/proc/{pid}/ns/net").into())
    }

    /// Whether it is told where the namespace is.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        matches!(self, Self::At(_))
    }

    /// Reads a process's number, or a path.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<Self> {
        if let Ok(pid) = text.parse() {
            return Ok(Self::of_process(pid));
        }
        if Path::new(text).is_absolute() {
            return Ok(Self::At(text.into()));
        }
        Err(Error::usage(format!("invalid namespace {text:?}"))
            .because("it is neither the number of a process nor a path that begins with /")
            .hint("for example --ns web@4711 or --ns web@/proc/4711/ns/net"))
    }
}

/// A namespace that a network has adopted: `down` gives it back as it was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Adoption {
    /// Which one it is, whatever gets its name, path or process number later.
    pub id: NetnsId,
    /// Where it was found, if it has the name from netbpf; nothing if it had it before.
    pub from: Option<PathBuf>,
}
