//! What netbpf remembers of a host's networks, in `/run/netbpf/<host>/`:
//!
//! ```text
//! <NET>.json      the network as it was asked for, and how far it is
//! <NET>.journal   a line for each thing that was made: what tells it from others
//! sysctls         what was set before a network changed it
//! tables          the tables of nf_tables before iptables made more
//! lock            held by whoever changes something
//! ```
//!
//! The network is recorded before the first thing is made, and each thing's
//! identity as soon as it can be known. So whenever a run ends, however it
//! ends, what it made can be found and told from what others made.

mod lock;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    error::{Context as _, Error, Result},
    net::{
        NetnsId,
        ctnetlink::tables::Tables,
        sysctl::{Switch, Sysctl},
    },
    topology::{LinkName, NamespaceName, Topology},
};

pub use lock::Lock;

/// Number of the layout of the files.
const VERSION: u32 = 3;

/// How far a network is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It is being built, or that was interrupted.
    Building,
    /// It was built.
    Up,
    /// It is being taken down, or that was interrupted.
    Removing,
}

/// A network that is remembered.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The network.
    pub topology: Topology,
    /// How far it is.
    pub phase: Phase,
    /// What was made.
    pub journal: Journal,
}

/// What was made of a network, by what tells it from others.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Journal {
    /// Its namespaces.
    pub namespaces: BTreeMap<NamespaceName, NetnsId>,
    /// Indexes of its interfaces, and of its uplinks and `lo`.
    pub links: BTreeMap<LinkName, u32>,
}

/// A line of the journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// A namespace, which has no name yet.
    Netns {
        /// The name that it will have.
        name: NamespaceName,
        /// What it is.
        id: NetnsId,
    },
    /// An interface that was made or is used.
    Link {
        /// Its name.
        name: LinkName,
        /// Its index.
        index: u32,
    },
}

impl Journal {
    /// Adds what a line tells.
    pub fn add(&mut self, entry: Entry) {
        match entry {
            Entry::Netns { name, id } => drop(self.namespaces.insert(name, id)),
            Entry::Link { name, index } => drop(self.links.insert(name, index)),
        }
    }
}

/// The contents of a network's file.
#[derive(Serialize, Deserialize)]
struct Document<T> {
    version: u32,
    /// The boot that it is about: what it tells of is gone after the next one.
    boot: String,
    phase: Phase,
    topology: T,
}

/// The directory in which all this is.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The store in a directory, which need not be there yet.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The file of a network.
    #[must_use]
    pub fn path(&self, network: &LinkName) -> PathBuf {
        self.dir.join(format!("{network}.json"))
    }

    fn journal(&self, network: &LinkName) -> PathBuf {
        self.dir.join(format!("{network}.journal"))
    }

    fn sysctls(&self) -> PathBuf {
        self.dir.join("sysctls")
    }

    fn tables(&self) -> PathBuf {
        self.dir.join("tables")
    }

    /// All networks, by name. Those of an earlier boot do not count.
    ///
    /// # Errors
    /// A file cannot be read or understood.
    pub fn networks(&self) -> Result<Vec<Recorded>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.context(format!("cannot list {}", self.dir.display()))?,
        };
        let boot = boot_id()?;
        let mut networks = Vec::new();
        for entry in entries {
            let path = entry.context(format!("cannot list {}", self.dir.display()))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let Some(Document { topology, phase, boot: of, .. }) = read_document(&path)? else {
                continue;
            };
            if of == boot {
                let journal = self.read_journal(&topology)?;
                networks.push(Recorded { topology, phase, journal });
            }
        }
        networks.sort_by(|a, b| a.topology.name.cmp(&b.topology.name));
        Ok(networks)
    }

    /// Forgets what an earlier boot left.
    ///
    /// # Errors
    /// The file system's.
    pub fn forget_earlier_boots(&self) -> Result<()> {
        let boot = boot_id()?;
        let Ok(entries) = fs::read_dir(&self.dir) else { return Ok(()) };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.extension().is_some_and(|extension| extension == "json")
                && let Some(document) = read_document(&path)?
                && document.boot != boot
            {
                self.forget(&document.topology.name)?;
                remove(&self.sysctls())?;
                self.forget_tables()?;
            }
        }
        Ok(())
    }

    /// Remembers a network.
    ///
    /// # Errors
    /// The file system's.
    pub fn record(&self, topology: &Topology, phase: Phase) -> Result<()> {
        let document = Document { version: VERSION, boot: boot_id()?, phase, topology };
        write(&self.path(&topology.name), &document)
    }

    /// Adds a line to a network's journal. A kill leaves the line or none; a
    /// crash of the machine takes along what it tells of, so there is no sync.
    ///
    /// # Errors
    /// The file system's.
    pub fn note(&self, network: &LinkName, entry: &Entry) -> Result<()> {
        let path = self.journal(network);
        let what = || format!("cannot write {}", path.display());
        let mut line = serde_json::to_vec(entry).context(what())?;
        line.push(b'\n');
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(&line)).context(what())
    }

    fn read_journal(&self, topology: &Topology) -> Result<Journal> {
        let path = self.journal(&topology.name);
        let mut journal = Journal::default();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(journal),
            other => other.context(format!("cannot read {}", path.display()))?,
        };
        for line in text.lines() {
            journal.add(serde_json::from_str(line).map_err(|error| damaged(&path, &error))?);
        }
        Ok(journal)
    }

    /// Forgets a network.
    ///
    /// # Errors
    /// The file system's.
    pub fn forget(&self, network: &LinkName) -> Result<()> {
        // The network's file last: as long as it is there, `down` goes on.
        remove(&self.journal(network))?;
        remove(&self.path(network))
    }

    /// Remembers sysctls as they were before a switch is switched on. What was
    /// remembered earlier stays.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep_sysctls(&self, switch: Switch, before: Vec<Sysctl>) -> Result<()> {
        let mut kept = self.kept_sysctls()?;
        if kept.contains_key(&switch) {
            return Ok(());
        }
        kept.insert(switch, before);
        write(&self.sysctls(), &kept)
    }

    /// The switches that were switched on, and the sysctls as they were before.
    ///
    /// # Errors
    /// The file cannot be read or understood.
    pub fn kept_sysctls(&self) -> Result<BTreeMap<Switch, Vec<Sysctl>>> {
        Ok(read(&self.sysctls())?.unwrap_or_default())
    }

    /// Forgets how it was before a switch was switched on.
    ///
    /// # Errors
    /// The file system's.
    pub fn forget_sysctls(&self, switch: Switch) -> Result<()> {
        let mut kept = self.kept_sysctls()?;
        match kept.remove(&switch) {
            None => Ok(()),
            Some(_) if kept.is_empty() => remove(&self.sysctls()),
            Some(_) => write(&self.sysctls(), &kept),
        }
    }
}

impl Store {
    /// Remembers the tables of `nf_tables` before iptables makes more. What was
    /// remembered earlier stays.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep_tables(&self, before: &Tables) -> Result<()> {
        match self.kept_tables()? {
            None => write(&self.tables(), before),
            Some(_) => Ok(()),
        }
    }

    /// The tables that there were before, if they are remembered.
    ///
    /// # Errors
    /// The file cannot be read or understood.
    pub fn kept_tables(&self) -> Result<Option<Tables>> {
        read(&self.tables())
    }

    /// Forgets them.
    ///
    /// # Errors
    /// The file system's.
    pub fn forget_tables(&self) -> Result<()> {
        remove(&self.tables())
    }
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(path).context(format!("cannot read {path}"))?;
    Ok(id.trim().to_owned())
}

fn read_document(path: &Path) -> Result<Option<Document<Topology>>> {
    // The version first: what another one means can only be guessed at.
    let Some(document) = read::<Document<serde_json::Value>>(path)? else { return Ok(None) };
    let Document { version, boot, phase, topology } = document;
    if version != VERSION {
        return Err(Error::failed(format!("{} is of another version of netbpf", path.display()))
            .because(format!("it has layout {version}, this netbpf knows {VERSION}"))
            .hint("use the netbpf that made the network to take it down"));
    }
    let topology = serde_json::from_value(topology).map_err(|error| damaged(path, &error))?;
    Ok(Some(Document { version, boot, phase, topology }))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => {
            let bytes = other.context(format!("cannot read {}", path.display()))?;
            serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(path, &error))
        }
    }
}

fn damaged(path: &Path, error: &serde_json::Error) -> Error {
    Error::failed(format!("{} cannot be understood", path.display()))
        .because(error)
        .hint("it was changed by something else than netbpf: mend or remove it")
}

/// Writes a file so that there is the old one or the new one at any time.
fn write<T: Serialize + ?Sized>(path: &Path, contents: &T) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let bytes = serde_json::to_vec_pretty(contents).context(what())?;
    let new = path.with_extension("new");
    let written = (|| {
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    written.context(what())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
