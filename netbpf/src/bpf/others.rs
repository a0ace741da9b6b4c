//! The programs of others on a device, and where in their order this datapath's are.

use std::{os::fd::AsFd as _, path::Path};

use aya::programs::TcAttachType;

use super::{By, Hook, clsact, kernel, pins, sys};
use crate::error::{Context as _, Result};

/// A program of somebody else's on a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// Whether it is on the way out.
    pub egress: bool,
    /// What holds it there.
    pub by: By,
    /// Whether it runs before this datapath's, or would where that is still to be attached.
    pub is_first: bool,
}

/// The programs of others on a device, in the order in which they run.
///
/// # Errors
/// The kernel's.
pub fn others(pin_dir: &Path, ifindex: u32) -> Result<Vec<Other>> {
    let what = "cannot ask what is attached";
    let mut others = Vec::new();
    for side in [TcAttachType::Ingress, TcAttachType::Egress] {
        let egress = matches!(side, TcAttachType::Egress);
        let own = own_links(pin_dir, ifindex, egress);
        let mut is_first = true;
        for on in kernel::on_tcx(ifindex, side).context(what)? {
            if on.link.is_some_and(|link| own.contains(&link)) {
                is_first = false;
                continue;
            }
            let by = on.link.map_or(By::Program(on.program), By::Link);
            others.push(Other { name: name(on.program), egress, by, is_first });
        }
        let hooks = || Hook::ALL.into_iter().filter(|hook| hook.is_guard() == egress);
        let filters = if clsact::devices().context(what)?.contains(&ifindex) {
            clsact::filters(ifindex, side)?
        } else {
            Vec::new()
        };
        let own = filters.iter().find(|filter| hooks().any(|hook| filter.is_of(hook)));
        let own = own.map(|filter| filter.priority);
        for filter in filters.iter().filter(|filter| !hooks().any(|hook| filter.is_of(hook))) {
            let Some(program) = filter.program else { continue };
            // Filters run after all that TCX has.
            let is_first = own.is_some_and(|own| filter.priority < own);
            let by = By::Filter { priority: filter.priority, handle: filter.handle };
            others.push(Other { name: name(program), egress, by, is_first });
        }
    }
    Ok(others)
}

/// The numbers of this datapath's links on a side of a device.
fn own_links(pin_dir: &Path, ifindex: u32, egress: bool) -> Vec<u32> {
    let hooks = Hook::ALL.into_iter().filter(|hook| hook.is_guard() == egress);
    let links = hooks.filter_map(|hook| sys::obj_get(&pins::link(pin_dir, hook, ifindex)).ok());
    links.filter_map(|link| Some(kernel::link_info(link.as_fd()).ok()?.0)).collect()
}

/// A program's name, or its number where it has none.
fn name(number: u32) -> String {
    let info = kernel::program(number).and_then(|program| kernel::program_info(program.as_fd()));
    let name = info.map(|info| info.name).unwrap_or_default();
    if name.is_empty() { format!("program {number}") } else { name }
}
