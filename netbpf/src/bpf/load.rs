//! Loading the datapath: all of it, unattached, in its place at once.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::{PermissionsExt as _, symlink},
    },
    panic::resume_unwind,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::ProgramArray,
    programs::{Program, ProgramError, SchedClassifier},
};
use netbpf_common::{
    ABI_VERSION, Config, RareProgram,
    maps::{self, ConfigMap, FlowQueue, Flows, MapDef as _, Programs},
};

use super::{
    Build, Datapath, Hook, LoadOptions, LogLevel, abi, bpffs, map::Map, pins, probe, secret, shape,
    upgrade::mark_generation,
};
use crate::error::{Context as _, Error, Result};

/// The compiled datapath; empty where it was built without the eBPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netbpf-datapath"));

/// The compiled datapath, an ELF object; empty where this was built without the
/// eBPF toolchain.
#[must_use]
pub fn object() -> &'static [u8] {
    OBJECT
}

/// The ring buffer of the log, which its library names.
pub(super) const LOG_MAP: &str = "AYA_LOGS";

/// The most flows: twice as many entries must fit into 32 bits, and the
/// kernel rounds its number of hash buckets up to a power of two.
const MOST_FLOWS: u32 = 1 << 29;

impl Datapath {
    /// Loads the datapath and pins its maps and programs, attached to nothing.
    ///
    /// What an interrupted run left is cleared away first. If loading fails,
    /// nothing stays pinned.
    ///
    /// # Errors
    /// If a datapath is loaded already, this netbpf was built without one, or
    /// the kernel refuses it.
    pub fn load(pin_dir: &Path, options: &LoadOptions) -> Result<Self> {
        if OBJECT.is_empty() {
            return Err(Error::failed("this netbpf was built without its eBPF datapath")
                .because("there was no eBPF toolchain when it was built")
                .hint("run `cargo xtask setup`, then build it again"));
        }
        if options.max_flows == 0 || options.max_flows > MOST_FLOWS {
            return Err(Error::usage(format!("{} flows are no sensible limit", options.max_flows))
                .hint(format!("choose a number from 1 to {MOST_FLOWS}")));
        }
        bpffs::ensure()?;
        pins::tidy(pin_dir)?;
        if pin_dir.exists() {
            return Err(Error::failed("a datapath is loaded already")
                .because(format!("{} exists", pin_dir.display()))
                .hint("take it away with `netbpf down --all`"));
        }
        let loading = pins::loading(pin_dir);
        let loaded = make(&loading, *options).and_then(|()| {
            fs::rename(&loading, pin_dir)
                .context(format!("cannot put the datapath in {}", pin_dir.display()))
        });
        if let Err(error) = loaded {
            // The first error is what counts; what cannot be cleared away now
            // is at the next call.
            drop(pins::remove(pin_dir));
            return Err(error);
        }
        Ok(Self { pin_dir: pin_dir.to_owned() })
    }

    /// What the datapath was loaded with.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn options(&self) -> Result<LoadOptions> {
        let level = pins::log_level(&self.pin_dir);
        let name = fs::read_link(&level).context(format!("cannot read {}", level.display()))?;
        let log_level = name.to_str().and_then(LogLevel::from_name).ok_or_else(|| {
            pins::damaged(&self.pin_dir, &format!("unknown log level {}", name.display()))
        })?;
        Ok(LoadOptions { max_flows: self.table_size()?, log_level })
    }

    /// Flows that the table holds, also while it is held.
    pub(super) fn table_size(&self) -> Result<u32> {
        shape::entries(&self.pin_dir, Flows::NAME).map(|entries| entries / 2)
    }
}

/// Makes a complete datapath in a directory that does not exist.
fn make(dir: &Path, options: LoadOptions) -> Result<()> {
    make_dirs(dir)?;
    make_programs(dir, options, false)?;
    let made = Datapath { pin_dir: dir.to_owned() };
    let port_secret = secret::new()?;
    secret::note(dir, port_secret)?;
    let config = Config { max_flows: options.max_flows, port_secret, ..Config::default() };
    Map::<ConfigMap>::open(dir)?.set(&0, &config)?;
    made.verify(&config)?;
    mark_generation(dir, 0)?;
    made.start_sweeper()
}

/// Makes the directories of a datapath.
pub(super) fn make_dirs(dir: &Path) -> Result<()> {
    for sub in ["maps", "programs", "links"] {
        let sub = dir.join(sub);
        fs::create_dir_all(&sub).map_err(|error| cannot_pin(&sub, &error))?;
    }
    // Links can be read by whoever sees them, and one tells a secret.
    let only_root = fs::Permissions::from_mode(0o700);
    fs::set_permissions(dir, only_root).map_err(|error| cannot_pin(dir, &error))
}

/// Makes programs in a directory, and those of their maps that are not pinned in it
/// already. Those that are loaded on demand are where they are wanted.
pub(super) fn make_programs(dir: &Path, options: LoadOptions, on_demand: bool) -> Result<()> {
    let is_wanted = |name: &str| name != ADOPT_FLOWS && (on_demand || !ON_DEMAND.contains(&name));
    let mut ebpf = load_maps(dir, options)?;
    load_programs(&mut ebpf, dir, is_wanted)?;
    fill_programs(&mut ebpf, |rare| is_wanted(rare.name()))?;
    let level = pins::log_level(dir);
    symlink(options.log_level.name(), &level).map_err(|error| cannot_pin(&level, &error))?;
    Build::mark(dir).map_err(|error| cannot_pin(&pins::build(dir), &error))
}

/// The program that starts the timer by which flows expire.
pub(super) const START_SWEEPER: &str = "start_sweeper";

/// The program that ends flows.
pub(super) const FLUSH_FLOWS: &str = "flush_flows";

/// The programs that only uplinks without Ethernet header need: [`Datapath::attach`]
/// loads them for the first of those.
const ON_DEMAND: [&str; 3] =
    [Hook::FromUplinkL3.program(), Hook::ToUplinkL3.program(), RareProgram::RareL3.name()];

/// The program that makes flows of those that the kernel tracks: loaded to be run,
/// and never pinned.
const ADOPT_FLOWS: &str = "adopt_flows";

/// Loads and pins the programs that are wanted, as many at a time as there are
/// CPUs: nearly all of their time goes into the kernel's verifier, which takes
/// each by itself.
fn load_programs(ebpf: &mut Ebpf, dir: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
    let wanted = ebpf.programs_mut().filter(|(name, _)| is_wanted(name));
    let queue = Mutex::new(wanted.collect::<Vec<_>>());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || {
        while let Some((name, program)) = next() {
            load_program(name, program, dir)?;
        }
        Ok(())
    };
    let others = thread::available_parallelism().map_or(1, usize::from) - 1;
    thread::scope(|scope| {
        let others: Vec<_> = (0..others.min(MOST_THREADS)).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for other in others {
            done = done.and(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    })
}

/// More threads than this have nothing left to do.
const MOST_THREADS: usize = 4;

fn load_program(name: &str, program: &mut Program, dir: &Path) -> Result<()> {
    let classifier: &mut SchedClassifier =
        program.try_into().context(format!("program {name} is no classifier"))?;
    classifier.load().map_err(|error| refused(name, error))?;
    classifier.pin(pins::program(dir, name)).context(format!("cannot pin program {name}"))
}

/// What `start_sweeper` returns if there is no memory for the timer. Kernels of today
/// ask for it without waiting for anybody, and so in vain if somebody else does so on the
/// same CPU (`bpf_map_kmalloc_nolock()` in `__bpf_async_init()`).
const NO_TIMER: u32 = 2;

/// How often, and how long apart, they are asked again.
const TIMER_TRIES: u32 = 100;
const TIMER_PAUSE: Duration = Duration::from_millis(10);

/// Tells the programs of those to which they hand over.
fn fill_programs(ebpf: &mut Ebpf, is_loaded: impl Fn(RareProgram) -> bool) -> Result<()> {
    for rare in RareProgram::ALL.into_iter().filter(|&rare| is_loaded(rare)) {
        let name = rare.name();
        let what = || format!("cannot hand over to program {name}");
        let program: &SchedClassifier = ebpf
            .program(name)
            .ok_or_else(|| Error::failed(what()).because("there is none"))?
            .try_into()
            .context(what())?;
        let fd = program.fd().context(what())?.try_clone().context(what())?;
        let map = ebpf.map_mut(Programs::NAME);
        let map =
            map.ok_or_else(|| Error::failed(what()).because("there is no map of programs"))?;
        let mut programs = ProgramArray::try_from(map).context(what())?;
        programs.set(rare as u32, &fd, 0).context(what())?;
    }
    Ok(())
}

pub(super) fn cannot_pin(path: &Path, error: &io::Error) -> Error {
    Error::failed(format!("cannot create {}", path.display()))
        .because(error)
        .hint("a BPF file system must be mounted on /sys/fs/bpf, writable by this user")
}

/// Makes the maps, pinned, and reads the programs.
fn load_maps(dir: &Path, options: LoadOptions) -> Result<Ebpf> {
    let level = options.log_level.number();
    let retype = u32::from(probe::must_retype_peers()?);
    let mut loader = EbpfLoader::new();
    loader
        // Nothing in the object depends on the kernel's own types. (`new` has read
        // their megabytes all the same; nothing else makes a loader.)
        .btf(None)
        .override_global("AYA_LOG_LEVEL", &level, false)
        .override_global("RETYPE_PEER", &retype, false)
        .map_max_entries(Flows::NAME, 2 * options.max_flows)
        .map_max_entries(FlowQueue::NAME, maps::flow_queue_len(options.max_flows));
    for name in maps::NAMES.iter().copied().chain([LOG_MAP]) {
        loader.map_pin_path(name, pins::map(dir, name));
    }
    let loaded = loader.load(OBJECT);
    let no_map = matches!(loaded, Err(EbpfError::MapError(_)));
    loaded.context("cannot create the datapath's maps").map_err(|error| {
        if no_map && options.max_flows > maps::DEFAULT_MAX_FLOWS {
            error.hint(format!(
                "{} flows need about {} MiB of kernel memory: try fewer with --max-flows",
                options.max_flows,
                options.flow_memory() >> 20
            ))
        } else {
            error
        }
    })
}

/// Lines of the verifier's log that are shown: its verdict is in the last ones.
const VERIFIER_LINES: usize = 20;

/// Why the kernel refused a program, without the megabyte of its reasoning.
fn refused(name: &str, error: ProgramError) -> Error {
    let what = format!("the kernel refuses program {name}");
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().filter(|line| !line.is_empty()).collect();
            let last = &lines[lines.len().saturating_sub(VERIFIER_LINES)..];
            Error::failed(what).because(format!("{io_error}\n{}", last.join("\n")))
        }
        other => Error::failed(what).because(other),
    }
    .hint("please report it, with the kernel's version")
}

/// The program that adopts flows, loaded.
pub(super) struct Adoption {
    ebpf: Ebpf,
}

impl Adoption {
    /// The program.
    ///
    /// # Errors
    /// The object has none.
    pub(super) fn program(&mut self) -> Result<&mut SchedClassifier> {
        let what = "cannot adopt flows";
        let program = self.ebpf.program_mut(ADOPT_FLOWS);
        let program = program.ok_or_else(|| Error::failed(what).because("there is no program"))?;
        program.try_into().context(what)
    }
}

impl Datapath {
    /// Loads the hook's programs if they are of those that are loaded on demand, and
    /// are not there. A run that is killed leaves some, which the next one replaces.
    ///
    /// # Errors
    /// If the kernel refuses them.
    pub fn demand(&self, hook: Hook) -> Result<()> {
        let dir = &self.pin_dir;
        if !hook.is_on_demand() || self.has_on_demand() {
            return Ok(());
        }
        for name in ON_DEMAND {
            pins::remove_file(&pins::program(dir, name))?;
        }
        // The maps are there, and are taken by their pins.
        let mut ebpf = load_maps(dir, self.options()?)?;
        load_programs(&mut ebpf, dir, |name| ON_DEMAND.contains(&name))?;
        fill_programs(&mut ebpf, |rare| ON_DEMAND.contains(&rare.name()))
    }

    /// Whether the programs are there that are loaded on demand.
    pub(super) fn has_on_demand(&self) -> bool {
        ON_DEMAND.iter().all(|name| pins::program(&self.pin_dir, name).exists())
    }

    /// Has flows expire, and by this datapath's program if another one's has done so.
    ///
    /// # Errors
    /// It does not run.
    pub(super) fn start_sweeper(&self) -> Result<()> {
        let mut code = self.run(START_SWEEPER, &[])?;
        for _ in 0..TIMER_TRIES {
            if code != NO_TIMER {
                break;
            }
            thread::sleep(TIMER_PAUSE);
            code = self.run(START_SWEEPER, &[])?;
        }
        match code {
            0 => Ok(()),
            code => Err(Error::failed("the expiry of flows does not start")
                .because(format!("{START_SWEEPER} returned {code}"))),
        }
    }

    /// Loads and pins programs of which there is nothing left.
    pub(super) fn load_again(&self, names: &[&str]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let mut ebpf = load_maps(&self.pin_dir, self.options()?)?;
        load_programs(&mut ebpf, &self.pin_dir, |name| names.contains(&name))
    }

    /// Sets how long flows may be idle to what they should.
    ///
    /// # Errors
    /// What the map says.
    pub fn set_timeouts(&self) -> Result<()> {
        let config = Config { timeouts: Config::default().timeouts, ..self.config()? };
        self.map::<ConfigMap>()?.set(&0, &config)
    }

    /// Makes the datapath hand over what is rare to those programs for it that are loaded.
    ///
    /// # Errors
    /// What the map says, or a program cannot be opened.
    pub fn set_programs(&self) -> Result<()> {
        let map = self.map::<Programs>()?;
        for rare in RareProgram::ALL {
            let Some(program) = self.program_if_any(rare.name())? else { continue };
            let fd = program.fd().context("cannot open the datapath's programs")?;
            // The element is written as a descriptor, and read as the program's number.
            map.set(&(rare as u32), &fd.as_fd().as_raw_fd().cast_unsigned())?;
        }
        Ok(())
    }

    /// Loads the program that adopts flows, for one time.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub(super) fn load_adoption(&self) -> Result<Adoption> {
        let ebpf = load_maps(&self.pin_dir, self.options()?)?;
        let mut adoption = Adoption { ebpf };
        adoption.program()?.load().map_err(|error| refused(ADOPT_FLOWS, error))?;
        Ok(adoption)
    }

    /// Compares every map with its definition and the version with this netbpf's.
    pub(super) fn verify(&self, config: &Config) -> Result<()> {
        if config.abi_version != ABI_VERSION {
            return Err(abi::refused(&self.pin_dir, config.abi_version));
        }
        let max_flows = match config.max_flows {
            // Flows move into it.
            0 => self.table_size()?,
            max_flows => max_flows,
        };
        shape::verify(&self.pin_dir, max_flows)
    }
}
