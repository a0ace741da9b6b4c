//! Programs and links by the numbers that the kernel has given them: what is attached to
//! a device, whoever attached it.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::programs::TcAttachType;

use super::sys::{Command, address, bpf, number};

/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` of `enum bpf_attach_type`.
const TCX: [u32; 2] = [46, 47];

/// Most programs that TCX takes on a side of a device (`BPF_MPROG_MAX`).
const MOST: u32 = 64;

/// A program on a side of a device, by TCX.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OnTcx {
    /// The program's number.
    pub(super) program: u32,
    /// The number of the link that holds it there; nothing if it holds itself.
    pub(super) link: Option<u32>,
}

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` uses.
#[repr(C)]
struct QueryAttr {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The part that `BPF_*_GET_FD_BY_ID` use.
#[repr(C)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The part that `BPF_OBJ_GET_INFO_BY_FD` uses.
#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// The part that `BPF_PROG_DETACH` uses.
#[repr(C)]
struct DetachAttr {
    target_ifindex: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
    relative: u32,
    expected_revision: u64,
}

/// The part that `BPF_OBJ_PIN` uses.
#[repr(C)]
struct PinAttr {
    pathname: u64,
    fd: u32,
    flags: u32,
}

/// The head of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProgramHead {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    lengths: [u32; 2],
    addresses: [u64; 3],
    uid: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; 16],
}

/// What tells programs apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ProgramInfo {
    /// Its number.
    pub(super) id: u32,
    /// A digest of its instructions, in which it does not count which maps it has.
    pub(super) tag: [u8; 8],
    /// Its name, cut off after 15 bytes.
    pub(super) name: String,
}

/// The head of `struct bpf_link_info`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct LinkHead {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    rest: [u64; 8],
}

/// Bytes of a structure.
#[allow(clippy::cast_possible_truncation, reason = "all of them are of less than 200 bytes")]
const fn len<T>() -> u32 {
    size_of::<T>() as u32
}

fn attach_type(side: TcAttachType) -> u32 {
    TCX[usize::from(matches!(side, TcAttachType::Egress))]
}

/// The programs on a side of a device of this network namespace, in the order in which
/// they run; none where the kernel has no TCX, and where the device is gone.
///
/// # Errors
/// What else `BPF_PROG_QUERY` says.
pub(super) fn on_tcx(ifindex: u32, side: TcAttachType) -> io::Result<Vec<OnTcx>> {
    let (mut programs, mut links) = ([0_u32; MOST as usize], [0_u32; MOST as usize]);
    let mut attr = QueryAttr {
        target_ifindex: ifindex,
        attach_type: attach_type(side),
        query_flags: 0,
        attach_flags: 0,
        prog_ids: address(programs.as_mut_ptr()),
        count: MOST,
        pad: 0,
        prog_attach_flags: 0,
        link_ids: address(links.as_mut_ptr()),
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: both arrays have room for `count` numbers, and live through the call.
    match unsafe { bpf(Command::ProgQuery, &mut attr) } {
        Ok(_) => {}
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let all = programs.into_iter().zip(links).take(attr.count as usize);
    let all = all.map(|(program, link)| OnTcx { program, link: Some(link).filter(|id| *id != 0) });
    Ok(all.collect())
}

fn is_absent(error: &io::Error) -> bool {
    use nix::libc::{EINVAL, ENODEV, ENOENT};
    // Kernels without TCX do not know the attach type.
    error.raw_os_error().is_some_and(|code| [EINVAL, ENODEV, ENOENT].contains(&code))
}

fn by_id(command: Command, id: u32) -> io::Result<OwnedFd> {
    let mut attr = IdAttr { id, next_id: 0, open_flags: 0 };
    // SAFETY: the commands take no addresses.
    let fd = unsafe { bpf(command, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a program.
///
/// # Errors
/// It is gone, or this process lacks `CAP_SYS_ADMIN`.
pub(super) fn program(id: u32) -> io::Result<OwnedFd> {
    by_id(Command::ProgGetFdById, id)
}

/// Opens a link.
///
/// # Errors
/// It is gone, or this process lacks `CAP_SYS_ADMIN`.
pub(super) fn link(id: u32) -> io::Result<OwnedFd> {
    by_id(Command::LinkGetFdById, id)
}

fn info<T: Copy + Default>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    let mut attr = InfoAttr { fd: number(fd), len: len::<T>(), info: address(&raw mut info) };
    // SAFETY: the kernel writes at most `len` bytes, all of which are plain numbers, and
    // of what is set to zero it reads that no more is asked for.
    unsafe { bpf(Command::ObjGetInfoByFd, &mut attr) }?;
    Ok(info)
}

/// What a program is.
///
/// # Errors
/// The kernel's.
pub(super) fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let ProgramHead { id, tag, name, .. } = info(program)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(ProgramInfo { id, tag, name: String::from_utf8_lossy(name).into_owned() })
}

/// The numbers of the maps that a program has.
///
/// # Errors
/// The kernel's.
pub(super) fn map_ids(program: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MOST as usize];
    let mut head = ProgramHead {
        map_count: MOST,
        map_ids: address(ids.as_mut_ptr()),
        ..ProgramHead::default()
    };
    let mut attr =
        InfoAttr { fd: number(program), len: len::<ProgramHead>(), info: address(&raw mut head) };
    // SAFETY: the kernel writes at most `len` bytes of plain numbers to `head`, and at most
    // `map_count` numbers to `ids`; both live through the call.
    unsafe { bpf(Command::ObjGetInfoByFd, &mut attr) }?;
    Ok(ids.into_iter().take(head.map_count as usize).collect())
}

/// The numbers of a link and of its program.
///
/// # Errors
/// The kernel's.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let LinkHead { id, program, .. } = info(link)?;
    Ok((id, program))
}

/// The index of the device that a TCX link is at; nothing if that is gone, or the link was
/// detached.
///
/// # Errors
/// The kernel's.
pub(super) fn device(link: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    // What is behind the head is the kind's own: of TCX the index comes first.
    let LinkHead { rest: [first, ..], .. } = info(link)?;
    let [a, b, c, d, ..] = first.to_ne_bytes();
    Ok(Some(u32::from_ne_bytes([a, b, c, d])).filter(|index| *index != 0))
}

/// Takes a program from a side of a device that no link holds there.
///
/// # Errors
/// The kernel's.
pub(super) fn detach(ifindex: u32, side: TcAttachType, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = DetachAttr {
        target_ifindex: ifindex,
        program: number(program),
        attach_type: attach_type(side),
        flags: 0,
        replaced: 0,
        relative: 0,
        expected_revision: 0,
    };
    // SAFETY: the command takes no addresses.
    unsafe { bpf(Command::ProgDetach, &mut attr) }.map(drop)
}

/// Pins a program.
///
/// # Errors
/// The kernel's.
pub(super) fn pin(program: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = PinAttr { pathname: address(path.as_ptr()), fd: number(program), flags: 0 };
    // SAFETY: `path` is a C string that lives through the call.
    unsafe { bpf(Command::ObjPin, &mut attr) }.map(drop)
}
