//! The datapath's programs on devices.

use std::{
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
    },
    sys::SyscallError,
};
use nix::{errno::Errno, libc, net::if_::if_indextoname};

use super::{Datapath, clsact, kernel, pins, probe, rcu::ExpeditedRcu, sys};
use crate::error::{Context as _, Error, Result};

/// Where a program is attached, and with it which one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hook {
    /// Ingress of a namespace's host-side veth: what the namespace sends.
    FromEndpoint,
    /// Ingress of an uplink: what comes from outside.
    FromUplink,
    /// Egress of an uplink: what the host's stack sends out.
    ToUplink,
    /// Ingress of an uplink without Ethernet header.
    FromUplinkL3,
    /// Egress of an uplink without Ethernet header.
    ToUplinkL3,
    /// Ingress of the host's `lo`: what the host sends to itself, and what a
    /// namespace sends to a published port by the host's address.
    FromHost,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::FromEndpoint,
        Self::FromUplink,
        Self::ToUplink,
        Self::FromUplinkL3,
        Self::ToUplinkL3,
        Self::FromHost,
    ];

    /// The hook's name, which its pins have.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromEndpoint => "from_endpoint",
            Self::FromUplink => "from_uplink",
            Self::ToUplink => "to_uplink",
            Self::FromUplinkL3 => "from_uplink_l3",
            Self::ToUplinkL3 => "to_uplink_l3",
            Self::FromHost => "from_host",
        }
    }

    /// The program's name. On `lo` packets have an Ethernet header, and come as
    /// from outside.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::FromHost => Self::FromUplink.name(),
            hook => hook.name(),
        }
    }

    /// Whether it keeps what has a private address from leaving.
    #[must_use]
    pub const fn is_guard(self) -> bool {
        matches!(self, Self::ToUplink | Self::ToUplinkL3)
    }

    /// Whether its program is loaded only when it is first attached.
    #[must_use]
    pub const fn is_on_demand(self) -> bool {
        matches!(self, Self::FromUplinkL3 | Self::ToUplinkL3)
    }

    /// The side of the device.
    pub(super) const fn side(self) -> TcAttachType {
        if self.is_guard() { TcAttachType::Egress } else { TcAttachType::Ingress }
    }
}

/// By what a program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attachment {
    /// A TCX link: kernel 6.6 and later.
    Tcx,
    /// A filter on a clsact qdisc.
    Filter,
}

impl Attachment {
    /// The best that this kernel has.
    #[must_use]
    pub fn best() -> Self {
        if probe::has_tcx() { Self::Tcx } else { Self::Filter }
    }

    /// All that this kernel has.
    #[must_use]
    pub fn all() -> &'static [Self] {
        if probe::has_tcx() { &[Self::Tcx, Self::Filter] } else { &[Self::Filter] }
    }
}

/// A pinned attachment, as its name tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pin {
    path: PathBuf,
    hook: Hook,
    ifindex: u32,
}

impl Pin {
    /// Its file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is attached.
    pub(super) fn place(&self) -> (Hook, u32) {
        (self.hook, self.ifindex)
    }

    fn parse(path: PathBuf) -> Option<Self> {
        let (name, ifindex) = path.file_name()?.to_str()?.rsplit_once('-')?;
        let hook = Hook::ALL.into_iter().find(|hook| hook.name() == name)?;
        let ifindex = ifindex.parse().ok()?;
        Some(Self { path, hook, ifindex })
    }
}

/// The attachments that are pinned in a datapath directory, in any order.
pub(super) fn pinned(pin_dir: &Path) -> Result<Vec<Pin>> {
    let links = pins::links(pin_dir);
    let cannot = || format!("cannot read {}", links.display());
    let entries = match fs::read_dir(&links) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(cannot())?,
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(Pin::parse(entry.context(cannot())?.path()));
    }
    Ok(found)
}

/// Detaches what is pinned and removes the pin. A device that is gone has
/// detached it already.
pub(super) fn detach_pin(pin: &Pin) -> Result<()> {
    let what = format!("cannot detach {} from interface {}", pin.hook.program(), pin.ifindex);
    if pin.path.is_symlink() {
        return clsact::detach(&pin.path, pin.hook, pin.ifindex)
            .map_err(|why| Error::failed(what).because(why));
    }
    let link = match sys::obj_get(&pin.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        link => link.context(what.as_str())?,
    };
    {
        let _expedited = ExpeditedRcu::hold();
        sys::link_detach(link.as_fd()).context(what.as_str())?;
    }
    pins::remove_file(&pin.path)
}

/// Whether a link that is pinned in a datapath directory is attached to a device, in
/// whichever network namespace that is.
#[must_use]
pub fn is_attached(pin_dir: &Path) -> bool {
    devices(pin_dir).iter().any(Option::is_some)
}

/// Whether links are pinned in a datapath directory, and the devices of all are gone.
#[must_use]
pub fn is_detached(pin_dir: &Path) -> bool {
    let devices = devices(pin_dir);
    !devices.is_empty() && devices.iter().all(Option::is_none)
}

/// The devices of the links that are pinned in a datapath directory.
fn devices(pin_dir: &Path) -> Vec<Option<u32>> {
    let pins = pinned(pin_dir).unwrap_or_default();
    let links = pins.iter().filter_map(|pin| sys::obj_get(&pin.path).ok());
    links.filter_map(|link| kernel::device(link.as_fd()).ok()).collect()
}

/// The interface's name in this network namespace; nothing if there is none.
#[must_use]
pub fn interface(ifindex: u32) -> Option<String> {
    let name = if_indextoname(ifindex).ok()?;
    // nix takes the failure for a success, and returns its empty buffer.
    (!name.is_empty()).then(|| name.to_string_lossy().into_owned())
}

/// Whether a pinned link holds the program of this kernel-wide number on a side of a device.
fn is_on_tcx(pin: &Path, ifindex: u32, side: TcAttachType, program: u32) -> Result<bool> {
    let what = || format!("cannot ask what is attached to interface {ifindex}");
    let link = match sys::obj_get(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        link => link.context(what())?,
    };
    let (link, _) = kernel::link_info(link.as_fd()).context(what())?;
    let held = kernel::OnTcx { program, link: Some(link) };
    Ok(kernel::on_tcx(ifindex, side).context(what())?.contains(&held))
}

/// How often, and how long apart, an attachment is tried while the one before
/// is still there.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Attaches the program to the device, behind all others.
fn attach_tcx(
    program: &mut SchedClassifier,
    device: &str,
    (hook, ifindex): (Hook, u32),
) -> Result<FdLink> {
    let number = program.info().context("TCX link")?.id();
    let mut tries = 0;
    let id = loop {
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let attached = {
            let _expedited = ExpeditedRcu::hold();
            program.attach_with_options(device, hook.side(), order)
        };
        match attached {
            // A link whose pin was removed by hand goes some time later, when a
            // kernel worker comes round to it; unless somebody holds it.
            Err(error) if is_errno(&error, Errno::EEXIST) && tries < TRIES => {
                detach_program(number, ifindex, hook.side()).context("TCX link")?;
                thread::sleep(PAUSE);
            }
            done => break done.context("TCX link")?,
        }
        tries += 1;
    };
    program.take_link(id).context("TCX link")?.try_into().context("TCX link")
}

/// Takes the program of that number from a side of a device, whatever holds it there.
pub(super) fn detach_program(number: u32, ifindex: u32, side: TcAttachType) -> io::Result<()> {
    let all = kernel::on_tcx(ifindex, side)?;
    let Some(on) = all.into_iter().find(|on| on.program == number) else { return Ok(()) };
    let done = match on.link {
        Some(link) => kernel::link(link).and_then(|link| sys::link_detach(link.as_fd())),
        None => kernel::program(number)
            .and_then(|program| kernel::detach(ifindex, side, program.as_fd())),
    };
    match done {
        // It has just gone.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOLINK)) => Ok(()),
        done => done,
    }
}

/// Whether the kernel has said this.
fn is_errno(error: &ProgramError, errno: Errno) -> bool {
    matches!(error, ProgramError::SyscallError(SyscallError { io_error, .. })
        if io_error.raw_os_error() == Some(errno as i32))
}

impl Datapath {
    /// Attaches the hook's program to the interface of this network namespace,
    /// by the best means that the kernel has. Where it is attached already,
    /// nothing happens.
    ///
    /// # Errors
    /// If the interface is not there, or the kernel refuses.
    pub fn attach(&self, hook: Hook, ifindex: u32) -> Result<()> {
        self.attach_by(Attachment::best(), hook, ifindex)
    }

    /// [`Datapath::attach`] by a means of the caller's choice.
    ///
    /// # Errors
    /// If the interface is not there, or the kernel refuses.
    pub fn attach_by(&self, means: Attachment, hook: Hook, ifindex: u32) -> Result<()> {
        let what = format!("cannot attach {} to interface {ifindex}", hook.program());
        let Some(device) = interface(ifindex) else {
            return Err(Error::failed(what).because("there is no such interface"));
        };
        self.demand(hook)?;
        let mut program = self.program(hook.program())?;
        let pin = Pin { path: pins::link(&self.pin_dir, hook, ifindex), hook, ifindex };
        if self.attached(hook, ifindex)? {
            return Ok(());
        }
        // What is attached may be another datapath's program.
        if self.take_over(hook, ifindex)? && self.attached(hook, ifindex)? {
            return Ok(());
        }
        // A pin may be left of a device that is gone and whose number this one has now.
        detach_pin(&pin)?;
        match means {
            Attachment::Filter => clsact::attach(&mut program, &pin.path, hook, ifindex, &device)
                .map_err(|why| Error::failed(what).because(why)),
            Attachment::Tcx => {
                let link =
                    attach_tcx(&mut program, &device, (hook, ifindex)).context(what.as_str())?;
                link.pin(&pin.path).context(what.as_str())?;
                Ok(())
            }
        }
    }

    /// Has the attachment that is pinned for the hook and the interface run this
    /// datapath's program, whichever it has run so far, from one packet to the next;
    /// false if there is none.
    ///
    /// # Errors
    /// The program is not there, or the kernel refuses.
    pub(super) fn take_over(&self, hook: Hook, ifindex: u32) -> Result<bool> {
        let what = format!("cannot replace {} on interface {ifindex}", hook.program());
        let pin = pins::link(&self.pin_dir, hook, ifindex);
        let Some(device) = interface(ifindex) else { return Ok(false) };
        if pin.is_symlink() {
            let mut program = self.program(hook.program())?;
            return clsact::take_over(&mut program, hook, ifindex, &device)
                .map_err(|why| Error::failed(what).because(why));
        }
        if !pin.exists() {
            return Ok(false);
        }
        let link: FdLink = PinnedLink::from_pin(&pin).context(what.as_str())?.into();
        let link = SchedClassifierLink::try_from(link).context(what.as_str())?;
        match self.program(hook.program())?.attach_to_link(link) {
            // The device went, and this one has its number now.
            Err(error) if is_errno(&error, Errno::ENOLINK) => Ok(false),
            done => done.context(what).map(|_| true),
        }
    }

    /// Detaches the hook's program from the interface, whether the device
    /// still exists or not. Where it is not attached, nothing happens.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn detach(pin_dir: &Path, hook: Hook, ifindex: u32) -> Result<()> {
        let path = pins::link(pin_dir, hook, ifindex);
        detach_pin(&Pin { path, hook, ifindex })
    }

    /// Whether this datapath's program is attached to the interface, to stay:
    /// the kernel says that it is there, and a pin that nothing takes it away. While an
    /// upgrade is under way, that of the other set of programs does as well.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn attached(&self, hook: Hook, ifindex: u32) -> Result<bool> {
        let pin = pins::link(&self.pin_dir, hook, ifindex);
        if interface(ifindex).is_none() || !(pin.exists() || pin.is_symlink()) {
            return Ok(false);
        }
        // The next to attach it loads it anew.
        if hook.is_on_demand() && !pins::program(&self.pin_dir, hook.program()).exists() {
            return Ok(false);
        }
        let mut ids = vec![self.program_id(hook)?];
        let staged = Self { pin_dir: pins::staged(&self.pin_dir) };
        if pins::program(&staged.pin_dir, hook.program()).exists() {
            ids.push(staged.program_id(hook)?);
        }
        for id in ids {
            let is_on = if pin.is_symlink() {
                clsact::is_on(ifindex, hook, id)?
            } else {
                is_on_tcx(&pin, ifindex, hook.side(), id)?
            };
            if is_on {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The kernel-wide number of a hook's program.
    fn program_id(&self, hook: Hook) -> Result<u32> {
        let info = self.program(hook.program())?.info();
        Ok(info.context(format!("cannot ask about program {}", hook.program()))?.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_tells_hook_and_interface() {
        let pin = Pin::parse(PathBuf::from("/x/links/from_uplink-12")).expect("a pin");
        assert_eq!((pin.hook, pin.ifindex), (Hook::FromUplink, 12));
        for hook in Hook::ALL {
            let path = pins::link(Path::new("/x"), hook, 7);
            assert_eq!(Pin::parse(path).expect("a pin").hook, hook, "each hook has its own");
        }
        for other in ["/x/links/clsact-12", "/x/links/from_uplink-", "/x/links/from_uplink"] {
            assert_eq!(Pin::parse(PathBuf::from(other)), None, "{other}");
        }
    }
}
