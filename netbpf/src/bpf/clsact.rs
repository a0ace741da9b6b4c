//! Programs on devices of kernels before 6.6: filters on a clsact qdisc.
//!
//! Such a filter has no pin, it lives as long as its qdisc. So that it is
//! found again, a symbolic link stands in the place of its pin, and another
//! one, `links/clsact-<ifindex>`, tells that the qdisc is ours too and goes
//! with the last filter on it.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use aya::programs::{
    Link as _, SchedClassifier, TcAttachType,
    tc::{
        NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError, TcHandle,
        qdisc_add_clsact,
    },
};
use nix::errno::Errno;
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    },
    packet_route::{
        RouteNetlinkMessage,
        tc::{self, TcAttribute, TcFilterBpfOption, TcMessage, TcOption},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::{Hook, attach::interface};
use crate::error::{Context as _, Result};

/// The priority of our filters: the letters "nb". No other program uses it by default.
const PRIORITY: u16 = 0x6e62;

/// The handle of a hook's filter among those of that priority.
const fn handle(hook: Hook) -> TcHandle {
    match hook {
        Hook::FromEndpoint => TcHandle::new(0, 1),
        Hook::FromUplink => TcHandle::new(0, 2),
        Hook::ToUplink => TcHandle::new(0, 3),
        Hook::FromUplinkL3 => TcHandle::new(0, 4),
        Hook::ToUplinkL3 => TcHandle::new(0, 5),
        Hook::FromHost => TcHandle::new(0, 6),
    }
}

/// A filter that is on a device.
pub(super) struct Filter {
    pub(super) priority: u16,
    pub(super) handle: u32,
    /// The kernel-wide number of its BPF program, if it is a BPF filter.
    pub(super) program: Option<u32>,
}

impl Filter {
    /// Whether it is ours, for this hook.
    pub(super) fn is_of(&self, hook: Hook) -> bool {
        self.priority == PRIORITY && self.handle == u32::from(handle(hook))
    }
}

/// The symbolic link that tells that the device's qdisc is ours.
fn mark_of_qdisc(pin: &Path, ifindex: u32) -> PathBuf {
    pin.with_file_name(format!("clsact-{ifindex}"))
}

/// Attaches the program and leaves `pin` as a mark that it did.
pub(super) fn attach(
    program: &mut SchedClassifier,
    pin: &Path,
    hook: Hook,
    ifindex: u32,
    device: &str,
) -> Result<()> {
    // The marks come first: a run that is killed in between leaves a mark too
    // many, which does no harm, rather than a filter that nobody finds.
    let qdisc = mark_of_qdisc(pin, ifindex);
    if !has_qdisc(ifindex)? {
        mark(&qdisc, "qdisc")?;
    }
    mark(pin, "filter")?;
    match qdisc_add_clsact(device) {
        Err(error) if !is(&error, Errno::EEXIST) => return Err(error).context("clsact qdisc"),
        _ => {}
    }
    // One whose mark was removed by hand is there still.
    if take_over(program, hook, ifindex, device)? {
        return Ok(());
    }
    let options = NlOptions { priority: PRIORITY, handle: handle(hook), classid: None };
    let id = program
        .attach_with_options(device, hook.side(), TcAttachOptions::Netlink(options))
        .context("filter")?;
    keep(program, id)
}

/// Has the hook's filter run the program, from one packet to the next; false if there is
/// no such filter.
pub(super) fn take_over(
    program: &mut SchedClassifier,
    hook: Hook,
    ifindex: u32,
    device: &str,
) -> Result<bool> {
    if !filters(ifindex, hook.side())?.iter().any(|filter| filter.is_of(hook)) {
        return Ok(false);
    }
    let link = SchedClassifierLink::attached(device, hook.side(), PRIORITY, handle(hook), None)
        .context("filter")?;
    let id = program.attach_to_link(link).context("filter")?;
    keep(program, id).map(|()| true)
}

/// Has a filter outlive the program's descriptor.
fn keep(program: &mut SchedClassifier, id: SchedClassifierLinkId) -> Result<()> {
    let link = program.take_link(id).context("filter")?;
    // Dropping the link would remove the filter; forgetting it loses nothing,
    // as it holds no descriptor.
    std::mem::forget(link);
    Ok(())
}

/// Removes the filter, our qdisc with the last one, and the marks.
pub(super) fn detach(pin: &Path, hook: Hook, ifindex: u32) -> Result<()> {
    let qdisc = mark_of_qdisc(pin, ifindex);
    let Some(device) = interface(ifindex) else {
        // Both went with the device.
        unmark(&qdisc)?;
        return unmark(pin);
    };
    if filters(ifindex, hook.side())?.iter().any(|filter| filter.is_of(hook)) {
        SchedClassifierLink::attached(&device, hook.side(), PRIORITY, handle(hook), None)
            .context("filter")?
            .detach()
            .context("filter")?;
    }
    if qdisc.is_symlink() && is_empty(ifindex)? {
        // It is not there where the device is another one that has its number now.
        if has_qdisc(ifindex)? {
            remove_qdisc(ifindex)?;
        }
        unmark(&qdisc)?;
    }
    unmark(pin)
}

/// Whether the program of this kernel-wide number is on the device as our filter.
pub(super) fn is_on(ifindex: u32, hook: Hook, program: u32) -> Result<bool> {
    Ok(filters(ifindex, hook.side())?.iter().any(|f| f.is_of(hook) && f.program == Some(program)))
}

fn mark(path: &Path, word: &str) -> Result<()> {
    match symlink(word, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).context(format!("cannot create {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn unmark(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn is(error: &TcError, errno: Errno) -> bool {
    let number = match error {
        TcError::NetlinkError(error) => error.raw_os_error(),
        TcError::IoError(error) => error.raw_os_error(),
        _ => None,
    };
    number == Some(errno as i32)
}

/// Whether the device has no filter left on either side.
fn is_empty(ifindex: u32) -> Result<bool> {
    Ok(filters(ifindex, TcAttachType::Ingress)?.is_empty()
        && filters(ifindex, TcAttachType::Egress)?.is_empty())
}

/// A request about the device.
fn of_device(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = ifindex.cast_signed();
    message
}

/// The side's parent, `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_*)`.
fn parent(side: TcAttachType) -> tc::TcHandle {
    let minor = match side {
        TcAttachType::Egress => tc::TcHandle::MIN_EGRESS,
        _ => tc::TcHandle::MIN_INGRESS,
    };
    tc::TcHandle { major: tc::TcHandle::CLSACT.major, minor }
}

/// The filters on a side of the device; none where there is no clsact qdisc.
pub(super) fn filters(ifindex: u32, side: TcAttachType) -> Result<Vec<Filter>> {
    let mut message = of_device(ifindex);
    message.header.parent = parent(side);
    let answers = request(RouteNetlinkMessage::GetTrafficFilter(message), NLM_F_DUMP)
        .context("cannot list the filters")?;
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            // Handle 0 is the heading of a priority's filters.
            RouteNetlinkMessage::NewTrafficFilter(filter)
                if u32::from(filter.header.handle) != 0 =>
            {
                Some(Filter {
                    priority: priority_of(filter.header.info),
                    handle: filter.header.handle.into(),
                    program: program_of(filter),
                })
            }
            _ => None,
        })
        .collect())
}

/// The priority is the upper half of `tcm_info`, the protocol the lower one.
fn priority_of(info: u32) -> u16 {
    u16::try_from(info >> 16).unwrap_or(0)
}

/// The number of the BPF program that a filter runs.
fn program_of(filter: &TcMessage) -> Option<u32> {
    filter.attributes.iter().find_map(|attribute| {
        let TcAttribute::Options(options) = attribute else { return None };
        options.iter().find_map(|option| match option {
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
            _ => None,
        })
    })
}

/// Takes a filter away, whosesoever.
pub(super) fn remove(ifindex: u32, side: TcAttachType, priority: u16, handle: u32) -> Result<()> {
    let Some(device) = interface(ifindex) else { return Ok(()) };
    let [a, b, c, d] = handle.to_be_bytes();
    let handle = TcHandle::new(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    SchedClassifierLink::attached(&device, side, priority, handle, None)
        .context("filter")?
        .detach()
        .context("filter")
}

/// The devices that have a clsact qdisc.
pub(super) fn devices() -> io::Result<HashSet<u32>> {
    let message = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let answers = request(message, NLM_F_DUMP)?;
    let devices = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewQueueDiscipline(qdisc) => (qdisc.header.parent
            == tc::TcHandle::CLSACT)
            .then_some(qdisc.header.index.cast_unsigned()),
        _ => None,
    });
    Ok(devices.collect())
}

/// Whether the device has a clsact qdisc.
fn has_qdisc(ifindex: u32) -> Result<bool> {
    let message = RouteNetlinkMessage::GetQueueDiscipline(of_device(ifindex));
    let answers = request(message, NLM_F_DUMP).context("cannot list the qdiscs")?;
    Ok(answers.iter().any(|answer| match answer {
        // Some kernels list those of all devices.
        RouteNetlinkMessage::NewQueueDiscipline(qdisc) => {
            qdisc.header.index == ifindex.cast_signed()
                && qdisc.header.parent == tc::TcHandle::CLSACT
        }
        _ => false,
    }))
}

/// Removes the clsact qdisc.
fn remove_qdisc(ifindex: u32) -> Result<()> {
    let mut message = of_device(ifindex);
    message.header.parent = tc::TcHandle::CLSACT;
    message.header.handle = tc::TcHandle { major: tc::TcHandle::CLSACT.major, minor: 0 };
    request(RouteNetlinkMessage::DelQueueDiscipline(message), NLM_F_ACK)
        .context("cannot remove the clsact qdisc")?;
    Ok(())
}

/// Sends a request and gathers the answers until the last.
fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        let (received, _) = socket.recv_from_full()?;
        let mut rest = received.as_slice();
        while !rest.is_empty() {
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(io::Error::other)?;
            // Each message is padded to four bytes.
            let length = (answer.header.length as usize).next_multiple_of(4);
            match answer.payload {
                NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_hang_on_the_sides_of_clsact() {
        assert_eq!(u32::from(parent(TcAttachType::Ingress)), 0xffff_fff2);
        assert_eq!(u32::from(parent(TcAttachType::Egress)), 0xffff_fff3);
        assert_eq!(priority_of(0x6e62_0300), PRIORITY);
    }
}
