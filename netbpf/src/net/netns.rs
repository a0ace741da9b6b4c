//! Network namespaces and their names below `/run/netns`, as `ip netns` keeps them.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{NSFS_MAGIC, statfs},
};
use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Error, Result};

/// Where names of network namespaces are.
pub const DIR: &str = "/run/netns";

/// What tells a network namespace from all others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct NetnsId {
    /// Inode number of the namespace: quick to learn, but given out again later.
    pub inode: u64,
    /// The kernel's cookie, which no other namespace ever gets.
    pub cookie: u64,
}

impl NetnsId {
    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// The kernel tells no cookies: it is older than 5.14.
    pub fn here() -> Result<Self> {
        let here = "/proc/thread-self/ns/net";
        let inode = fs::metadata(here).context(format!("cannot look at {here}"))?.ino();
        Ok(Self { inode, cookie: cookie()? })
    }
}

/// The cookie of the namespace that the calling thread is in.
fn cookie() -> Result<u64> {
    /// `SO_NETNS_COOKIE` of `asm-generic/socket.h`, which libc lacks.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let what = "cannot learn which network namespace this is";
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let fd = Errno::result(fd).context(what)?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut cookie = 0_u64;
    let mut len: libc::socklen_t = 8;
    // SAFETY: both pointers are to live variables, and `len` is the size of the
    // one that the kernel writes the cookie to.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    Errno::result(done)
        .context(what)
        .map_err(|error| error.hint("netbpf needs Linux 5.14 or newer"))?;
    Ok(cookie)
}

/// What there is under a name.
#[derive(Debug)]
pub enum Named {
    /// Nothing.
    Nothing,
    /// A file that is no namespace: `ip netns add` or netbpf was interrupted,
    /// or it is something else altogether.
    File,
    /// A namespace.
    Namespace(File),
}

/// The file that is the name.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Looks up a name.
///
/// # Errors
/// The file system's.
pub fn look_up(name: &str) -> Result<Named> {
    let path = path(name);
    let what = || format!("cannot look at {}", path.display());
    let kind = match statfs(&path) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Named::Nothing),
        other => other.context(what())?.filesystem_type(),
    };
    if kind != NSFS_MAGIC {
        return Ok(Named::File);
    }
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Named::Nothing),
        other => Ok(Named::Namespace(other.context(what())?)),
    }
}

/// Whether the file under a name is a regular one without contents, as it is
/// before a namespace is mounted on it.
#[must_use]
pub fn is_empty(name: &str) -> bool {
    fs::symlink_metadata(path(name)).is_ok_and(|found| found.is_file() && found.len() == 0)
}

/// The names that are taken, whatever by.
///
/// # Errors
/// The file system's.
pub fn names() -> Result<Vec<String>> {
    let entries = match fs::read_dir(DIR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.context(format!("cannot list {DIR}"))?,
    };
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// The namespace of that number that a process is in, if one is. (Processes end while they
/// are looked at, and some may not be looked at.)
#[must_use]
pub fn of_process(inode: u64) -> Option<File> {
    let processes = fs::read_dir("/proc").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let files = processes.map(|process| process.join("ns/net"));
    let mut ours = files.filter(|file| fs::metadata(file).is_ok_and(|found| found.ino() == inode));
    ours.find_map(|file| File::open(file).ok())
}

/// Gives the namespace a name that is free.
///
/// # Errors
/// The name is taken, or the kernel refuses the mount.
pub fn give_name(netns: &File, name: &str) -> Result<()> {
    prepare_dir()?;
    let path = path(name);
    let what = || format!("cannot name a namespace {}", path.display());
    OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path).context(what())?;
    let source = format!("/proc/self/fd/{}", netns.as_raw_fd());
    let mounted = mount(Some(source.as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    mounted.context(what()).inspect_err(|_| {
        // The name is of no use to anybody; what keeps it is said by the mount's error.
        let _ = fs::remove_file(&path);
    })
}

/// Takes the name away, and with it the namespace unless a process or a file
/// descriptor still holds it. A name that is gone is no error.
///
/// # Errors
/// The file system's.
pub fn remove_name(name: &str) -> Result<()> {
    let path = path(name);
    let what = || format!("cannot remove {}", path.display());
    match umount2(&path, MntFlags::MNT_DETACH) {
        // Not mounted: an interrupted run left the file alone.
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
        Err(error) => return Err(error).context(what()),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context(what()),
        _ => Ok(()),
    }
}

/// Makes the directory of names what `ip netns` makes it: a shared mount, so
/// that names reach every mount namespace, and their removal does, too.
fn prepare_dir() -> Result<()> {
    let what = || format!("cannot prepare {DIR}");
    DirBuilder::new().recursive(true).mode(0o755).create(DIR).context(what())?;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, DIR, None::<&str>, flags, None::<&str>)
    };
    match share() {
        Err(Errno::EINVAL) => {}
        other => return other.context(what()),
    }
    // It is no mount yet.
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(DIR), DIR, None::<&str>, flags, None::<&str>).context(what())?;
    share().context(what())
}

/// The error of a name that something else has.
#[must_use]
pub fn taken(name: &str) -> Error {
    Error::usage(format!("the namespace name {name} is taken"))
        .because(format!("{} exists and is not of this network", path(name).display()))
        .hint(
            "choose other names with --ns or --ns-prefix, or remove it: ip netns delete "
                .to_owned()
                + name,
        )
}
