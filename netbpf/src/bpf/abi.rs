//! Of which layout a pinned datapath's maps are: asked before anything else of them is
//! read, whichever netbpf has made them.

use std::{os::fd::AsFd as _, path::Path};

use aya::maps::{MapData, MapType};
use netbpf_common::{
    ABI_VERSION, Config,
    maps::{ConfigMap, MapDef as _},
};

use super::{Build, Map, convert, pins, sys};
use crate::error::{Context as _, Error, Result};

/// The version of the layout; nothing if the datapath does not say so.
///
/// The configuration may be longer or shorter than this netbpf's: that it begins with
/// this number is what all versions have in common.
pub(super) fn version(pin_dir: &Path) -> Result<Option<u32>> {
    Ok(config(pin_dir)?.and_then(|bytes| bytes.first_chunk().copied()).map(u32::from_ne_bytes))
}

/// The bytes of the configuration; nothing if it is not there, or none.
fn config(pin_dir: &Path) -> Result<Option<Vec<u8>>> {
    let Ok(map) = MapData::from_pin(pins::map(pin_dir, ConfigMap::NAME)) else { return Ok(None) };
    let what = || format!("cannot read map {}", ConfigMap::NAME);
    let info = map.info().context(what())?;
    let is_array = matches!(info.map_type(), Ok(MapType::Array));
    if !is_array || info.key_size() != 4 {
        return Ok(None);
    }
    let mut value = vec![0_u8; info.value_size() as usize];
    // SAFETY: keys of an array are of four bytes, and there is room for a value.
    let is_there = unsafe { sys::lookup_into(map.fd().as_fd(), &0_u32, value.as_mut_ptr()) };
    Ok(is_there.context(what())?.then_some(value))
}

/// The configuration of a datapath that is of this layout, or of one that is converted:
/// all that are known lay it out alike.
///
/// # Errors
/// It is of another one.
pub(super) fn known_config(pin_dir: &Path) -> Result<Config> {
    let found = version(pin_dir)?.unwrap_or_default();
    if !convert::is_known(found) {
        return Err(refused(pin_dir, found));
    }
    let config = Map::<ConfigMap>::open(pin_dir)?.get(&0)?;
    config.ok_or_else(|| pins::damaged(pin_dir, "its configuration is empty"))
}

/// Whether a datapath's maps, if there are any, are of an older layout that is converted.
///
/// # Errors
/// They are another netbpf's that cannot be.
pub fn is_to_be_converted(pin_dir: &Path) -> Result<bool> {
    match version(pin_dir)? {
        None | Some(ABI_VERSION) => Ok(false),
        Some(found) if convert::is_known(found) => Ok(true),
        Some(found) => Err(refused(pin_dir, found)),
    }
}

/// Checks that a datapath's maps, if there are any, are laid out as this netbpf's are.
///
/// # Errors
/// They are another netbpf's.
pub fn check_layout(pin_dir: &Path) -> Result<()> {
    match version(pin_dir)? {
        Some(found) if found != ABI_VERSION => Err(refused(pin_dir, found)),
        _ => Ok(()),
    }
}

/// Why a datapath of another layout cannot be used, and what can be done.
pub(super) fn refused(pin_dir: &Path, found: u32) -> Error {
    // Of what cannot be told, the number says enough.
    let build = Build::of(pin_dir).ok().flatten();
    let build = build.map(|build| format!(" ({build})")).unwrap_or_default();
    let age = if found > ABI_VERSION { "a newer" } else { "an older" };
    Error::failed(format!("the programs that run are those of {age} netbpf{build}"))
        .because(format!(
            "their maps in {} are of version {found}, this netbpf's of version {ABI_VERSION}",
            pin_dir.display()
        ))
        .hint(if found < ABI_VERSION && convert::is_known(found) {
            "netbpf upgrade has this netbpf's programs go on with them; or go on with that netbpf"
                .to_owned()
        } else {
            format!(
                "go on with that netbpf; or take all networks down, with either one (netbpf down \
                 --all), and bring them up with this one: that ends their connections (those of \
                 versions {} to {ABI_VERSION} go on)",
                convert::OLDEST
            )
        })
}
