//! Second copies: programs that are this datapath's, or the same, and attached besides.
//! Each of them would do once more to a packet what has been done.

use std::{collections::HashMap, os::fd::AsFd as _};

use aya::programs::TcAttachType;

use super::{
    By, Datapath, Hook, Stray, attach, clsact,
    kernel::{self, OnTcx, ProgramInfo},
    pins, sys,
};
use crate::error::{Context as _, Error, Result};

const SIDES: [TcAttachType; 2] = [TcAttachType::Ingress, TcAttachType::Egress];

impl Datapath {
    /// The second copies on devices of this network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn copies(&self, devices: impl Iterator<Item = u32>) -> Result<Vec<Stray>> {
        let what = "cannot ask what is attached";
        let mut same = Same::of(self)?;
        let with_qdisc = clsact::devices().context(what)?;
        let mut copies = Vec::new();
        for ifindex in devices {
            for side in SIDES {
                let egress = matches!(side, TcAttachType::Egress);
                let mut found = Vec::new();
                for on in kernel::on_tcx(ifindex, side).context(what)? {
                    if self.holds(on, ifindex, side, &same)? {
                        continue;
                    }
                    let by = on.link.map_or(By::Program(on.program), By::Link);
                    found.push((on.program, by));
                }
                if with_qdisc.contains(&ifindex) {
                    found.extend(self.other_filters(ifindex, side, &same)?);
                }
                for (number, by) in found {
                    if let Some(program) = same.name(number)? {
                        copies.push(Stray::Copy { program, ifindex, egress, by });
                    }
                }
            }
        }
        Ok(copies)
    }

    /// Whether a program by TCX is an attachment of this datapath, or what is left of one
    /// whose pin is gone: the kernel takes that away, or whoever attaches it again.
    fn holds(&self, on: OnTcx, ifindex: u32, side: TcAttachType, same: &Same) -> Result<bool> {
        let Some(link) = on.link else { return Ok(false) };
        let mut has_pin = false;
        for hook in on_side(side) {
            let pin = pins::link(self.pin_dir(), hook, ifindex);
            if pin.is_symlink() || !pin.exists() {
                continue;
            }
            let pinned = sys::obj_get(&pin).and_then(|link| kernel::link_info(link.as_fd()));
            let (pinned, _) = pinned.context("cannot ask about a link")?;
            has_pin |= pinned != link;
            if pinned == link {
                return Ok(true);
            }
        }
        Ok(!has_pin && same.is_own(on.program))
    }

    /// The filters on a side of a device that are no attachments of this datapath: priority
    /// and handle say nothing of who made them.
    fn other_filters(
        &self,
        ifindex: u32,
        side: TcAttachType,
        same: &Same,
    ) -> Result<Vec<(u32, By)>> {
        let is_attached = |filter: &clsact::Filter, program: u32| {
            on_side(side).any(|hook| {
                let pin = pins::link(self.pin_dir(), hook, ifindex);
                filter.is_of(hook) && pin.is_symlink() && same.is_hooks(program, hook)
            })
        };
        let filters = clsact::filters(ifindex, side)?;
        let others = filters.into_iter().filter_map(|filter| {
            let program = filter.program?;
            let by = By::Filter { priority: filter.priority, handle: filter.handle };
            (!is_attached(&filter, program)).then_some((program, by))
        });
        Ok(others.collect())
    }

    /// Takes a second copy away.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn remove_copy(ifindex: u32, egress: bool, by: By) -> Result<()> {
        let side = if egress { TcAttachType::Egress } else { TcAttachType::Ingress };
        let what = || format!("cannot detach a program from interface {ifindex}");
        match by {
            By::Filter { priority, handle } => clsact::remove(ifindex, side, priority, handle)
                .map_err(|why| Error::failed(what()).because(why)),
            By::Program(number) => attach::detach_program(number, ifindex, side).context(what()),
            By::Link(number) => {
                let on = kernel::on_tcx(ifindex, side).context(what())?;
                let on = on.into_iter().find(|on| on.link == Some(number));
                on.map_or(Ok(()), |on| attach::detach_program(on.program, ifindex, side))
                    .context(what())
            }
        }
    }
}

fn on_side(side: TcAttachType) -> impl Iterator<Item = Hook> {
    let egress = matches!(side, TcAttachType::Egress);
    Hook::ALL.into_iter().filter(move |hook| hook.is_guard() == egress)
}

/// The datapath's programs, and which others are the same.
struct Same {
    own: HashMap<&'static str, ProgramInfo>,
    known: HashMap<u32, Option<String>>,
}

impl Same {
    fn of(datapath: &Datapath) -> Result<Self> {
        let mut own = HashMap::new();
        for name in Hook::ALL.map(Hook::program) {
            let pin = pins::program(datapath.pin_dir(), name);
            if !pin.exists() {
                continue;
            }
            let info = sys::obj_get(&pin).and_then(|it| kernel::program_info(it.as_fd()));
            own.insert(name, info.context(format!("cannot ask about program {name}"))?);
        }
        Ok(Self { own, known: HashMap::new() })
    }

    fn is_own(&self, number: u32) -> bool {
        self.own.values().any(|own| own.id == number)
    }

    fn is_hooks(&self, number: u32, hook: Hook) -> bool {
        self.own.get(hook.program()).is_some_and(|own| own.id == number)
    }

    /// The name of the program of that number, if it is one of the datapath's or the same:
    /// its name and its instructions are.
    fn name(&mut self, number: u32) -> Result<Option<String>> {
        if let Some(known) = self.known.get(&number) {
            return Ok(known.clone());
        }
        let info = kernel::program(number).and_then(|it| kernel::program_info(it.as_fd()));
        let info = match info {
            // It has just gone.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            info => info.context(format!("cannot ask about program {number}"))?,
        };
        let mut own = self.own.values();
        let is_same = own.any(|own| own.tag == info.tag && own.name == info.name);
        let name = is_same.then_some(info.name);
        self.known.insert(number, name.clone());
        Ok(name)
    }
}
