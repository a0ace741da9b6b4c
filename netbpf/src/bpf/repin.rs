//! Pins that were removed by hand, made again: what is attached is there all the same,
//! and with it the maps and all flows in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::maps::MapData;
use netbpf_common::{
    RareProgram,
    maps::{self, MapDef as _, Programs, Sweeper},
};

use super::{
    Datapath, Hook, attach, kernel,
    load::{self, LOG_MAP, START_SWEEPER},
    map::Map,
    pins, sys,
};
use crate::error::{Context as _, Result};

/// The pins that a datapath lacks.
#[derive(Default)]
struct Lost {
    maps: Vec<&'static str>,
    programs: Vec<&'static str>,
}

impl Lost {
    fn of(pin_dir: &Path) -> Self {
        let maps = maps::NAMES.iter().copied().chain([LOG_MAP]);
        let maps = maps.filter(|name| !pins::map(pin_dir, name).exists()).collect();
        let hooks = Hook::ALL.into_iter().filter(|hook| !hook.is_on_demand()).map(Hook::program);
        let rare = RareProgram::ALL.into_iter().filter(|rare| *rare != RareProgram::RareL3);
        let all = hooks.chain(rare.map(RareProgram::name));
        let all: BTreeSet<&str> = all.chain([START_SWEEPER, load::FLUSH_FLOWS]).collect();
        let is_gone = |name: &&str| !pins::program(pin_dir, name).exists();
        Self { maps, programs: all.into_iter().filter(is_gone).collect() }
    }
}

/// The names of the pins that a datapath lacks, below its directory, if all of it is still
/// in the kernel; none if it lacks none.
///
/// # Errors
/// The kernel's.
pub fn lost(pin_dir: &Path) -> Result<Option<Vec<String>>> {
    let Lost { mut maps, programs } = Lost::of(pin_dir);
    let found = if maps.is_empty() { BTreeMap::new() } else { found_maps(pin_dir)? };
    // Not every datapath has a log.
    maps.retain(|name| *name != LOG_MAP || found.contains_key(*name));
    // A program can be loaded again.
    if !maps.iter().all(|name| found.contains_key(*name)) {
        return Ok(None);
    }
    let maps = maps.iter().map(|name| format!("maps/{name}"));
    Ok(Some(maps.chain(programs.iter().map(|name| format!("programs/{name}"))).collect()))
}

/// Pins again what a datapath lacks.
///
/// # Errors
/// The kernel's.
pub fn repin(pin_dir: &Path) -> Result<()> {
    let Lost { mut maps, programs } = Lost::of(pin_dir);
    let found = found_maps(pin_dir)?;
    maps.retain(|name| *name != LOG_MAP || found.contains_key(*name));
    let attached = found_programs(pin_dir)?;
    for name in &maps {
        let what = || format!("cannot pin map {name} again");
        let id = found
            .get(*name)
            .copied()
            .ok_or_else(|| pins::damaged(pin_dir, &format!("its map {name} is gone")))?;
        let map = MapData::from_id(id).context(what())?;
        map.pin(pins::map(pin_dir, name)).context(what())?;
    }
    let mut gone = Vec::new();
    for name in &programs {
        let path: PathBuf = pins::program(pin_dir, name);
        match attached.get(*name) {
            Some(program) => kernel::pin(program.as_fd(), &path)
                .context(format!("cannot pin program {name} again"))?,
            None => gone.push(*name),
        }
    }
    let datapath = Datapath { pin_dir: pin_dir.to_owned() };
    datapath.load_again(&gone)?;
    // The kernel empties it, and stops timers, when nobody has them open any more.
    if maps.contains(&Programs::NAME) || programs.iter().any(|name| is_rare(name)) {
        datapath.set_programs()?;
    }
    if maps.contains(&Sweeper::NAME) {
        datapath.start_sweeper()?;
    }
    Ok(())
}

fn is_rare(name: &str) -> bool {
    RareProgram::ALL.into_iter().any(|rare| rare.name() == name)
}

/// The datapath's programs that can be had in spite of it all, by their names: those that
/// are pinned or attached, and those that these hand over to.
fn found_programs(pin_dir: &Path) -> Result<BTreeMap<String, OwnedFd>> {
    let what = "cannot ask about the datapath's programs";
    let mut all = Vec::new();
    for pin in attach::pinned(pin_dir)? {
        // The mark of a filter has none.
        let Ok(link) = sys::obj_get(pin.path()) else { continue };
        let (_, number) = kernel::link_info(link.as_fd()).context(what)?;
        all.extend(kernel::program(number).ok());
    }
    if pins::map(pin_dir, Programs::NAME).exists() {
        let programs = Map::<Programs>::open(pin_dir)?;
        for rare in RareProgram::ALL {
            let number = programs.get(&(rare as u32))?;
            all.extend(number.and_then(|number| kernel::program(number).ok()));
        }
    }
    let pinned = std::fs::read_dir(pin_dir.join("programs")).into_iter().flatten();
    all.extend(pinned.filter_map(|entry| sys::obj_get(&entry.ok()?.path()).ok()));
    let mut named = BTreeMap::new();
    for program in all {
        named.insert(kernel::program_info(program.as_fd()).context(what)?.name, program);
    }
    Ok(named)
}

/// The numbers of the maps that these programs have, by their names.
fn found_maps(pin_dir: &Path) -> Result<BTreeMap<String, u32>> {
    let mut found = BTreeMap::new();
    for program in found_programs(pin_dir)?.values() {
        let what = "cannot ask about the datapath's maps";
        for id in kernel::map_ids(program.as_fd()).context(what)? {
            let info = MapData::from_id(id).and_then(|map| map.info()).context(what)?;
            found.extend(info.name_as_str().map(|name| (name.to_owned(), id)));
        }
    }
    Ok(found)
}
