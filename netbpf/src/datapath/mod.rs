//! What moves the packets of a host's networks: one trait, and the two that
//! there are. What a plan says of them is data; how they are told is theirs.

mod ebpf;
pub mod iptables;
mod known;

use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{error::Result, observe::Observed};

pub use ebpf::Ebpf;
pub use iptables::Iptables;

/// The datapaths that there are.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// eBPF programs beside the kernel's bridge and stack
    Ebpf,
    /// The kernel's bridge and stack, with rules of iptables
    Iptables,
}

impl Kind {
    /// Its name, as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Iptables => "iptables",
        }
    }
}

/// A way to move a host's packets.
pub trait Datapath {
    /// Which one it is.
    fn kind(&self) -> Kind;

    /// Finds out whether it can run here; changes nothing.
    ///
    /// # Errors
    /// What is lacking.
    fn probe(&self) -> Result<()>;

    /// Adds what there is of it to what is seen of the host, of which links and
    /// recorded networks are known already.
    ///
    /// # Errors
    /// It is there, but not one that this netbpf can use, or cannot be looked at.
    fn observe(&self, observed: &mut Observed) -> Result<()>;
}

/// The datapaths of a host, which may have networks of both.
#[derive(Debug)]
pub struct Datapaths {
    /// That of eBPF.
    pub ebpf: Ebpf,
    /// That of iptables.
    pub iptables: Iptables,
}

impl Datapaths {
    /// Those of the host whose eBPF programs and maps are, or will be, pinned in
    /// a directory.
    ///
    /// # Errors
    /// Another netbpf's are pinned there.
    pub fn open(pin_dir: &Path) -> Result<Self> {
        Ok(Self { ebpf: Ebpf::open(pin_dir)?, iptables: Iptables::find() })
    }

    /// The same, but what cannot be used counts as not there: it can still be
    /// taken away.
    #[must_use]
    pub fn open_to_remove(pin_dir: &Path) -> Self {
        Self { ebpf: Ebpf::open_to_remove(pin_dir), iptables: Iptables::find() }
    }

    /// That of a kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> &dyn Datapath {
        match kind {
            Kind::Ebpf => &self.ebpf,
            Kind::Iptables => &self.iptables,
        }
    }

    /// Both.
    #[must_use]
    pub fn all(&self) -> [&dyn Datapath; 2] {
        [&self.ebpf, &self.iptables]
    }
}
