//! Other programs in the place of those that run, without a packet noticing.
//!
//! The new programs get a datapath of their own beside the one that runs, with the same
//! maps and the same links, which are pinned once more. Its own are but the maps in which
//! the programs of a set hand a packet to each other, so that old and new never meet in
//! these, and the configuration, which names the layout that programs are made for. Then
//! the two directories change places, by one rename, and each attachment gets its new
//! program, by one system call: the packet before it meets the old program, the next one
//! the new. For a moment both kinds run, on the same flows. The old directory goes when
//! no packet is left in an old program.
//!
//! What a run leaves that ends in between is told by [generations](pins::generation):
//! while the new one is not in place nothing uses it, and it goes; once it is, the
//! attachments follow, by whoever comes next.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use aya::{
    maps::MapData,
    programs::links::{FdLink, PinnedLink},
};
use netbpf_common::{
    ABI_VERSION, Config, EndpointId,
    maps::{self, ConfigMap, FlowQueue, Flows, MapDef as _, Programs, Rare},
};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::Serialize;

use super::{
    Build, Datapath, Hook, LoadOptions, Map, Replica, abi, attach, convert, interface,
    load::{self, LOG_MAP},
    pins, rcu, secret,
};
use crate::error::{Context as _, Error, Key, Result};

/// The maps that each set of programs has for itself.
const OWN: [&str; 3] = [ConfigMap::NAME, Programs::NAME, Rare::NAME];
/// Those that each has where the flows move into another table.
const TABLES: [&str; 2] = [Flows::NAME, FlowQueue::NAME];

/// One of the two sets of programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgramSet {
    /// Those that come.
    New,
    /// Those that go.
    Old,
}

impl ProgramSet {
    /// Its name, in a sentence.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Old => "old",
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::New => Self::Old,
            Self::Old => Self::New,
        }
    }
}

/// A program on a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// Where it is attached.
    pub hook: Hook,
    /// The device's index.
    pub ifindex: u32,
    /// Its name.
    pub device: String,
}

/// What there is to be upgraded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Of which build the programs are; nothing if their netbpf did not say so yet.
    pub build: Option<Build>,
    /// Whether an upgrade has ended when its programs were in place, but not all of
    /// the old ones gone.
    pub is_interrupted: bool,
    /// Whether flows were still to be carried over then.
    pub is_held: bool,
    /// Where programs are attached.
    pub attachments: Vec<Attached>,
}

impl Standing {
    /// Whether the programs are this netbpf's.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.build.as_ref() == Some(Build::own())
    }
}

/// A program that was replaced, by the kernel's tags: a tag is a hash of a program's
/// instructions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Replaced {
    /// The program's name.
    pub program: String,
    /// The old one's tag; nothing if it had none of that name.
    pub from: Option<String>,
    /// The new one's tag; nothing if there is none of that name any more.
    pub to: Option<String>,
}

/// The exchange of a datapath's programs.
#[derive(Clone, Debug)]
pub struct Upgrade {
    pin_dir: PathBuf,
}

impl Upgrade {
    /// Of the datapath that is pinned in a directory.
    #[must_use]
    pub fn of(pin_dir: &Path) -> Self {
        Self { pin_dir: pin_dir.to_owned() }
    }

    /// What there is; nothing if no datapath is loaded.
    ///
    /// # Errors
    /// The file system's.
    pub fn look(&self) -> Result<Option<Standing>> {
        if !self.pin_dir.exists() {
            return Ok(None);
        }
        let mut attachments: Vec<Attached> = attach::pinned(&self.pin_dir)?
            .into_iter()
            .filter_map(|pin| {
                let (hook, ifindex) = pin.place();
                interface(ifindex).map(|device| Attached { hook, ifindex, device })
            })
            .collect();
        attachments.sort_by_key(|attached| (attached.ifindex, attached.hook.name()));
        let (build, is_interrupted) = (Build::of(&self.pin_dir)?, self.is_exchanged()?);
        // (Of an older layout it cannot be told, and no older netbpf holds any.)
        let config = abi::known_config(&self.pin_dir);
        let is_held = is_interrupted && config.is_ok_and(|config| config.max_flows == 0);
        Ok(Some(Standing { build, is_interrupted, is_held, attachments }))
    }

    /// Whether flows must move into another table, for the datapath to be loaded with other
    /// options, or because theirs is of an older layout.
    ///
    /// # Errors
    /// They would not go in, or they cannot be converted.
    pub fn moves_flows(&self, options: Option<LoadOptions>) -> Result<bool> {
        let running = Running::of(&self.pin_dir)?;
        let live = running.datapath.flow_count(EndpointId::NONE)?;
        let size = options.map_or(running.options.max_flows, |options| options.max_flows);
        if live <= u64::from(size) {
            return Ok(running.moves_flows(size));
        }
        Err(Error::failed(format!("a table of {size} flows is too small"))
            .because(format!("{live} flows live, of all networks of this host"))
            .hint(format!(
                "choose at least {live}; or see which they are and end some: netbpf maps flows, \
                 netbpf maps flows flush --ns NS"
            ))
            .about(Key::of("max-flows")))
    }

    /// Loads this netbpf's programs beside those that run, with other options if there are
    /// any; no packet meets them yet.
    ///
    /// # Errors
    /// There is no datapath, its maps are not laid out as this netbpf's are, or the
    /// kernel refuses a program. Then nothing is left of it.
    pub fn stage(&self, options: Option<LoadOptions>) -> Result<()> {
        self.discard()?;
        if !self.pin_dir.exists() {
            let why = format!("nothing is pinned in {}", self.pin_dir.display());
            return Err(Error::failed("there are no programs to be replaced").because(why));
        }
        let running = Running::of(&self.pin_dir)?;
        let (staging, staged) = (pins::staging(&self.pin_dir), pins::staged(&self.pin_dir));
        let options = options.unwrap_or(running.options);
        let made = make_beside(&running, &staging, options).and_then(|()| {
            let what = || format!("cannot rename {} to {}", staging.display(), staged.display());
            fs::rename(&staging, &staged).context(what())
        });
        if made.is_err() {
            // What cannot be cleared away now is by the next call; the first error counts.
            drop(pins::remove_dir(&staging));
        }
        made
    }

    /// Has the pins of a set take the place of the other's. If they are there, nothing
    /// happens.
    ///
    /// # Errors
    /// The file system's, and that there is no other set.
    pub fn exchange(&self, set: ProgramSet) -> Result<()> {
        if self.dir_of(set)? == self.pin_dir {
            return Ok(());
        }
        let staged = pins::staged(&self.pin_dir);
        let what = || {
            format!("cannot have {} and {} change places", self.pin_dir.display(), staged.display())
        };
        let exchange = RenameFlags::RENAME_EXCHANGE;
        renameat2(AT_FDCWD, &self.pin_dir, AT_FDCWD, &staged, exchange)
            .map_err(io::Error::from)
            .context(what())
    }

    /// Has an attachment run the program of a set, from one packet to the next. Where
    /// nothing is attached any more, nothing happens.
    ///
    /// # Errors
    /// The kernel's.
    pub fn replace(&self, set: ProgramSet, hook: Hook, ifindex: u32) -> Result<()> {
        self.datapath(set)?.take_over(hook, ifindex).map(drop)
    }

    /// Copies the flows to the table of the new programs, while the old ones run. What
    /// this returns is what [`Self::carry_over`] needs to be quick.
    ///
    /// # Errors
    /// They do not go in, or the kernel's.
    pub fn copy_flows(&self) -> Result<Replica> {
        let (old, new) = (self.dir_of(ProgramSet::Old)?, self.dir_of(ProgramSet::New)?);
        Replica::begin((&old, version_of(&old)?), &new)
    }

    /// Has the new programs, by which all packets go, go on with the flows as the old ones
    /// have left them, and make new ones. If they do already, nothing happens.
    ///
    /// # Errors
    /// They do not go in, or the kernel's.
    pub fn carry_over(&self, replica: Option<Replica>) -> Result<()> {
        let (old, new) = (self.dir_of(ProgramSet::Old)?, self.dir_of(ProgramSet::New)?);
        let made = Datapath { pin_dir: new.clone() };
        if made.config()?.max_flows != 0 {
            return Ok(());
        }
        let resume = || Replica::resume((&old, version_of(&old)?), &new);
        let replica = replica.map_or_else(resume, Ok)?;
        replica.finish(&made.map()?, made.table_size()?)
    }

    /// Has a set's program expire the flows from now on.
    ///
    /// # Errors
    /// It does not run.
    pub fn hand_over(&self, set: ProgramSet) -> Result<()> {
        self.datapath(set)?.start_sweeper()
    }

    /// Takes the old programs away; returns which they were, and by which they were
    /// replaced.
    ///
    /// # Errors
    /// The new ones are not in place, or the file system's.
    pub fn retire(&self) -> Result<Vec<Replaced>> {
        let replaced = compare(&self.dir_of(ProgramSet::Old)?, &self.dir_of(ProgramSet::New)?)?;
        let what = "cannot take the old programs away";
        if !self.is_exchanged()? {
            return Err(Error::failed(what).because("the new ones are not in their place"));
        }
        // A packet may still be in one of them, and want to go on in another: the map by
        // which it finds that is emptied with its pin.
        rcu::wait_for_programs();
        let retired = pins::retired(&self.pin_dir);
        pins::remove_dir(&retired)?;
        fs::rename(pins::staged(&self.pin_dir), &retired).context(what)?;
        // From here on they are gone; what cannot be removed is by the next call.
        drop(pins::remove_dir(&retired));
        Ok(replaced)
    }

    /// Clears away what nothing uses: a set that is not in its place, and what is left of
    /// one that was retired.
    ///
    /// # Errors
    /// The file system's.
    pub fn discard(&self) -> Result<()> {
        let staged = pins::staged(&self.pin_dir);
        if staged.exists() && !self.is_exchanged()? {
            // A packet may be left in them, if this is how an upgrade is undone.
            rcu::wait_for_programs();
            pins::remove_dir(&staged)?;
        }
        pins::remove_dir(&pins::staging(&self.pin_dir))?;
        pins::remove_dir(&pins::retired(&self.pin_dir))
    }

    /// Whether new programs are in the place of old ones, which are still there.
    fn is_exchanged(&self) -> Result<bool> {
        let staged = generation(&pins::staged(&self.pin_dir))?;
        let here = generation(&self.pin_dir)?.unwrap_or_default();
        Ok(staged.is_some_and(|staged| staged < here))
    }

    /// The directory of a set.
    fn dir_of(&self, set: ProgramSet) -> Result<PathBuf> {
        let is_here = self.is_exchanged()? == (set == ProgramSet::New);
        let dir = if is_here { self.pin_dir.clone() } else { pins::staged(&self.pin_dir) };
        if dir.exists() {
            return Ok(dir);
        }
        Err(Error::failed(format!("there are no {} programs", set.name()))
            .because(format!("{} does not exist", dir.display())))
    }

    fn datapath(&self, set: ProgramSet) -> Result<Datapath> {
        Ok(Datapath { pin_dir: self.dir_of(set)? })
    }
}

/// How often the programs of a datapath were replaced; nothing if that is not said.
fn generation(dir: &Path) -> Result<Option<u64>> {
    let mark = pins::generation(dir);
    match fs::read_link(&mark) {
        Ok(text) => match text.to_str().and_then(|text| text.parse().ok()) {
            None => Err(pins::damaged(dir, &format!("unknown generation {}", text.display()))),
            number => Ok(number),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(format!("cannot read {}", mark.display())),
    }
}

/// Says how often the programs of a datapath were replaced.
pub(super) fn mark_generation(dir: &Path, number: u64) -> Result<()> {
    let mark = pins::generation(dir);
    symlink(number.to_string(), &mark).map_err(|error| load::cannot_pin(&mark, &error))
}

/// The datapath that runs, of this layout or of an older one.
struct Running {
    datapath: Datapath,
    version: u32,
    /// As it is in this layout.
    config: Config,
    options: LoadOptions,
}

impl Running {
    /// That which is pinned in a directory.
    ///
    /// # Errors
    /// It is incomplete, or of a layout that cannot be converted.
    fn of(pin_dir: &Path) -> Result<Self> {
        let config = abi::known_config(pin_dir)?;
        let datapath = Datapath { pin_dir: pin_dir.to_owned() };
        if config.abi_version == ABI_VERSION {
            datapath.verify(&config)?;
        }
        let (version, options) = (config.abi_version, datapath.options()?);
        let config = Config { abi_version: ABI_VERSION, ..config };
        Ok(Self { datapath, version, config, options })
    }

    /// Whether its flows have to move for a table of that size.
    fn moves_flows(&self, size: u32) -> bool {
        size != self.options.max_flows || convert::has_other_flows(self.version)
    }
}

fn version_of(pin_dir: &Path) -> Result<u32> {
    Ok(abi::version(pin_dir)?.unwrap_or(ABI_VERSION))
}

/// Makes a datapath of this netbpf's programs, with the maps and links of another.
fn make_beside(running: &Running, dir: &Path, options: LoadOptions) -> Result<()> {
    let (from, mut config) = (&running.datapath.pin_dir, running.config);
    let number = generation(from)?;
    if number.is_none() {
        // Its netbpf did not say so yet.
        mark_generation(from, 0)?;
    }
    load::make_dirs(dir)?;
    let moves = running.moves_flows(options.max_flows);
    let is_own = |name: &str| OWN.contains(&name) || moves && TABLES.contains(&name);
    let shared = maps::NAMES.iter().copied().filter(|name| !is_own(name));
    for name in shared.chain([LOG_MAP]) {
        let pin = pins::map(from, name);
        // Not every datapath has a log, nor one of an older layout each map.
        let is_optional = name == LOG_MAP || running.version != ABI_VERSION;
        if !is_optional || pin.exists() {
            pin_map_again(&pin, &pins::map(dir, name))?;
        }
    }
    load::make_programs(dir, options, running.datapath.has_on_demand())?;
    if moves {
        config = Config { max_flows: 0, ..config };
    }
    Map::<ConfigMap>::open(dir)?.set(&0, &config)?;
    secret::note_again(from, dir, config.port_secret)?;
    let made = Datapath { pin_dir: dir.to_owned() };
    made.verify(&config)?;
    convert::fill(running.version, &made)?;
    pin_links_again(from, dir)?;
    mark_generation(dir, number.unwrap_or_default() + 1)
}

fn pin_map_again(pin: &Path, again: &Path) -> Result<()> {
    let what = format!("cannot pin {} once more", pin.display());
    let map = MapData::from_pin(pin).context(what.as_str())?;
    map.pin(again).context(what)
}

/// Pins the links of a datapath once more, and copies the marks of filters.
fn pin_links_again(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (pins::links(from), pins::links(to));
    let cannot = || format!("cannot read {}", from.display());
    for entry in fs::read_dir(&from).context(cannot())? {
        let entry = entry.context(cannot())?;
        let (pin, again) = (entry.path(), to.join(entry.file_name()));
        let what = format!("cannot pin {} once more", pin.display());
        if pin.is_symlink() {
            let word = fs::read_link(&pin).context(what.as_str())?;
            symlink(word, &again).context(what)?;
        } else {
            let link: FdLink = PinnedLink::from_pin(&pin).context(what.as_str())?.into();
            link.pin(&again).context(what)?;
        }
    }
    Ok(())
}

/// The programs of two datapaths by their tags.
fn compare(old: &Path, new: &Path) -> Result<Vec<Replaced>> {
    let mut all: BTreeMap<String, Replaced> = BTreeMap::new();
    for (dir, is_new) in [(old, false), (new, true)] {
        let datapath = Datapath { pin_dir: dir.to_owned() };
        for name in datapath.program_names()? {
            let info = datapath.program(&name)?.info();
            let info = info.context(format!("cannot ask about program {name}"))?;
            let tag = Some(format!("{:016x}", info.tag()));
            let replaced = all.entry(name.clone()).or_insert_with(|| Replaced {
                program: name,
                from: None,
                to: None,
            });
            *(if is_new { &mut replaced.to } else { &mut replaced.from }) = tag;
        }
    }
    Ok(all.into_values().collect())
}

impl Datapath {
    /// The names of the programs that are pinned.
    fn program_names(&self) -> Result<Vec<String>> {
        let dir = pins::programs(&self.pin_dir);
        let cannot = || format!("cannot read {}", dir.display());
        let entries = fs::read_dir(&dir).context(cannot())?;
        entries
            .map(|entry| {
                let name = entry.context(cannot())?.file_name();
                Ok(name.to_string_lossy().into_owned())
            })
            .collect()
    }

    /// Of which build its programs are; nothing if their netbpf did not say so yet.
    ///
    /// # Errors
    /// The file system's.
    pub fn build(&self) -> Result<Option<Build>> {
        Build::of(&self.pin_dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A datapath and one beside it, of these generations.
    fn pair(here: u64, staged: u64) -> (tempfile::TempDir, Upgrade) {
        let root = tempfile::tempdir().unwrap();
        let pin_dir = root.path().join("7");
        for (dir, number) in [(pin_dir.clone(), here), (pins::staged(&pin_dir), staged)] {
            fs::create_dir(&dir).unwrap();
            mark_generation(&dir, number).unwrap();
        }
        (root, Upgrade::of(&pin_dir))
    }

    #[test]
    fn the_new_set_is_that_of_the_later_generation() {
        let (_root, upgrade) = pair(4, 5);
        let staged = pins::staged(&upgrade.pin_dir);
        assert_eq!(upgrade.dir_of(ProgramSet::Old).unwrap(), upgrade.pin_dir);
        assert_eq!(upgrade.dir_of(ProgramSet::New).unwrap(), staged);
        for _ in 0..2 {
            upgrade.exchange(ProgramSet::New).unwrap();
            assert_eq!(generation(&upgrade.pin_dir).unwrap(), Some(5), "twice is as once");
            assert_eq!(upgrade.dir_of(ProgramSet::New).unwrap(), upgrade.pin_dir);
        }
        assert!(upgrade.look().unwrap().unwrap().is_interrupted);
        for _ in 0..2 {
            upgrade.exchange(ProgramSet::Old).unwrap();
            assert_eq!(generation(&upgrade.pin_dir).unwrap(), Some(4));
        }
    }

    #[test]
    fn only_what_is_not_in_use_is_discarded() {
        let (_root, upgrade) = pair(4, 5);
        upgrade.exchange(ProgramSet::New).unwrap();
        upgrade.discard().unwrap();
        assert!(pins::staged(&upgrade.pin_dir).exists(), "attachments may still be the old ones");
        upgrade.exchange(ProgramSet::Old).unwrap();
        assert!(upgrade.retire().is_err(), "the old programs are in their place");
        upgrade.discard().unwrap();
        assert!(!pins::staged(&upgrade.pin_dir).exists());
        assert!(upgrade.dir_of(ProgramSet::New).is_err());
    }

    #[test]
    fn what_has_no_generation_is_none_that_was_completed() {
        let (_root, upgrade) = pair(0, 1);
        fs::remove_file(pins::generation(&pins::staged(&upgrade.pin_dir))).unwrap();
        assert!(!upgrade.is_exchanged().unwrap());
        upgrade.discard().unwrap();
        assert!(!pins::staged(&upgrade.pin_dir).exists());
    }
}
