//! The datapath as the control plane sees it: loading, pins, typed maps.
//!
//! One datapath serves all networks of a host network namespace. It is pinned
//! below a directory that the caller names, and lives on without a process.
//! Nothing in here knows of links, addresses or routes.

mod abi;
mod attach;
mod bpffs;
mod build;
pub mod clock;
mod clsact;
mod code;
mod convert;
mod copies;
mod endpoints;
mod flaws;
mod flows;
mod image;
mod kernel;
mod load;
mod map;
mod options;
mod others;
mod pins;
mod probe;
mod publish;
mod rcu;
mod repin;
mod replica;
mod secret;
mod shape;
mod stats;
mod stray;
mod support;
mod sys;
mod upgrade;
mod usage;

use std::path::{Path, PathBuf};

use aya::{TestRun as _, TestRunOptions, programs::SchedClassifier};
use netbpf_common::{
    Config,
    maps::{ConfigMap, MapDef},
};

use crate::error::{Context as _, Result};

pub use abi::{check_layout, is_to_be_converted};
pub use attach::{Attachment, Hook, interface, is_attached, is_detached};
pub use bpffs::{Cover, cover, has_bpffs, look_beneath, uncover};
pub use build::Build;
pub use code::{CodeSize, code_sizes};
pub use flaws::{Flaw, Flaws, Miscount, Places};
pub use flows::{Direction, FlowHead, FlowRow};
pub use image::Image;
pub use load::object;
pub use map::{Map, PerCpuMap};
pub use options::{LoadOptions, LogLevel};
pub use others::{Other, others};
pub(crate) use probe::must_retype_peers;
pub use probe::{Probe, probe};
pub use rcu::put_back as put_back_grace_periods;
pub use repin::{lost, repin};
pub use replica::Replica;
pub use stray::{By, Stray};
pub use support::lacking;
pub use upgrade::{Attached, ProgramSet, Replaced, Standing, Upgrade};
pub use usage::MapUsage;

/// Bytes of an Ethernet header: less than this is no packet to a test run.
const ETHERNET_HEADER: usize = 14;

/// A loaded, pinned datapath.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datapath {
    pin_dir: PathBuf,
}

impl Datapath {
    /// Opens the datapath that is pinned in a directory; nothing if none is.
    ///
    /// # Errors
    /// If it is incomplete, or its maps are not laid out as this netbpf's are.
    pub fn open(pin_dir: &Path) -> Result<Option<Self>> {
        if !pin_dir.try_exists().context(format!("cannot look for {}", pin_dir.display()))? {
            return Ok(None);
        }
        check_layout(pin_dir)?;
        let datapath = Self { pin_dir: pin_dir.to_owned() };
        datapath.verify(&datapath.config()?)?;
        Ok(Some(datapath))
    }

    /// Takes the datapath away: attachments, programs, maps, directories. What
    /// is missing already is no error.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn unload(pin_dir: &Path) -> Result<()> {
        pins::remove(pin_dir)
    }

    /// The directory that it is pinned in.
    #[must_use]
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// Where one of its maps is pinned.
    pub(crate) fn map_pin(&self, name: &str) -> PathBuf {
        pins::map(&self.pin_dir, name)
    }

    /// Opens one of its maps.
    ///
    /// # Errors
    /// If it cannot be opened or is not what the definition says.
    pub fn map<D: MapDef<Key: aya::Pod, Value: aya::Pod>>(&self) -> Result<Map<D>> {
        Map::open(&self.pin_dir)
    }

    /// Its configuration.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn config(&self) -> Result<Config> {
        let config = self.map::<ConfigMap>()?.get(&0)?;
        config.ok_or_else(|| pins::damaged(&self.pin_dir, "its configuration is empty"))
    }

    /// Whether the programs run as machine code; interpreted, as where
    /// `net.core.bpf_jit_enable` is 0, they are many times slower.
    ///
    /// # Errors
    /// If a program cannot be asked.
    pub fn is_compiled(&self) -> Result<bool> {
        let info = self.program(Hook::FromEndpoint.program())?.info();
        Ok(info.context("cannot ask about the datapath's programs")?.size_jitted() > 0)
    }

    /// The kernel-wide number of a program that writes to the log.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub fn log_source(&self) -> Result<u32> {
        let info = self.program(Hook::FromEndpoint.program())?.info();
        Ok(info.context("cannot ask about the datapath's programs")?.id())
    }

    /// Opens one of its programs.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn program(&self, name: &str) -> Result<SchedClassifier> {
        SchedClassifier::from_pin(pins::program(&self.pin_dir, name)).map_err(|error| {
            pins::damaged(&self.pin_dir, &format!("its program {name} cannot be opened: {error}"))
        })
    }

    /// Opens one of its programs; nothing if it is not pinned.
    ///
    /// # Errors
    /// It is there, and cannot be opened.
    fn program_if_any(&self, name: &str) -> Result<Option<SchedClassifier>> {
        let is_there = pins::program(&self.pin_dir, name).exists();
        is_there.then(|| self.program(name)).transpose()
    }

    /// Runs a program once, on a packet of an empty Ethernet header and `payload`.
    fn run(&self, name: &str, payload: &[u8]) -> Result<u32> {
        let mut packet = vec![0; ETHERNET_HEADER];
        packet.extend_from_slice(payload);
        if payload.is_empty() {
            // Newer kernels run nothing on a packet that ends with its Ethernet header.
            packet.resize(64, 0);
        }
        run(&self.program(name)?, name, &packet)
    }
}

/// Runs a program once, on a packet.
fn run(program: &SchedClassifier, name: &str, packet: &[u8]) -> Result<u32> {
    let options = TestRunOptions { data_in: Some(packet), ..TestRunOptions::default() };
    let result = program.test_run(options);
    Ok(result.context(format!("cannot run program {name}"))?.return_value)
}
