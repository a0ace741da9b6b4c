//! What networks have left that are not known any more: their record is gone, or the host
//! that they were on. Only what is provably netbpf's is an orphan.

mod elsewhere;
mod here;

use std::{fmt, path::PathBuf};

use crate::{
    bpf::Stray,
    datapath::iptables::Table,
    error::Result,
    host::Host,
    net::{NetnsId, sysctl::Switch},
    session::Session,
};

/// Something that belongs to no network that is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Orphan {
    /// An interface of this host, by its alias.
    Link {
        /// Its name.
        name: String,
        /// Its index.
        index: u32,
        /// The network that it was made for.
        network: String,
    },
    /// A name of a network namespace.
    Namespace {
        /// The name.
        name: String,
        /// The namespace; nothing if the name leads nowhere.
        id: Option<NetnsId>,
    },
    /// Programs and maps that are pinned in a directory.
    Pins(PathBuf),
    /// What is remembered of networks of a host that is gone.
    State(PathBuf),
    /// A chain of iptables.
    Chain {
        /// The table that it is in.
        table: Table,
        /// Its name.
        name: String,
    },
    /// A table of `nf_tables` of a bridge.
    BridgeTable(String),
    /// A sysctl that is to be put back.
    Sysctl(Switch),
    /// What is in the datapath of the networks that there are.
    Stray(Stray),
    /// Published ports of no network.
    Published,
}

/// What it is.
impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link { name, network, .. } => write!(f, "interface {name} of network {network}"),
            Self::Namespace { name, .. } => write!(f, "namespace {name}"),
            Self::Pins(dir) => write!(f, "programs and maps in {}", dir.display()),
            Self::State(dir) => write!(f, "state in {}", dir.display()),
            Self::Chain { table, name } => write!(f, "chain {name} of table {}", table.name()),
            Self::BridgeTable(table) => write!(f, "table bridge {table}"),
            Self::Sysctl(switch) => write!(f, "{switch}, switched on"),
            Self::Stray(stray) => write!(f, "{stray}"),
            Self::Published => f.write_str("published ports of no network"),
        }
    }
}

/// All that is found.
///
/// # Errors
/// The kernel's, or the file system's.
pub async fn find(session: &Session) -> Result<Vec<Orphan>> {
    let mut orphans = here::find(session).await?;
    orphans.extend(elsewhere::find(session).await?);
    Ok(orphans)
}

/// Takes one away; what is gone is no error.
///
/// # Errors
/// The kernel's, or the file system's.
pub async fn remove(orphan: &Orphan, session: &mut Session, host: &Host) -> Result<()> {
    match orphan {
        Orphan::Pins(_) | Orphan::State(_) => elsewhere::remove(orphan),
        orphan => here::remove(orphan, session, host).await,
    }
}
