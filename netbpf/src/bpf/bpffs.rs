//! The BPF file system that pins live on.
//!
//! It is on `/sys/fs/bpf`, where systemd mounts it; where nobody has, loading a
//! datapath does. There is one trap: `ip netns exec` runs its command in a
//! mount namespace of its own with a fresh `/sys`. What were pinned below a BPF
//! file system mounted in there would be gone when the command ends. So from in
//! there the file system of the mount namespace that `ip` was called in is
//! fetched and put in its usual place.

use std::{
    ffi::CStr,
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::error::{Context as _, Error, Result};

/// `open_tree(2)`: make a mount of its own, from `include/uapi/linux/mount.h`.
const OPEN_TREE_CLONE: libc::c_int = 1;
/// `move_mount(2)`: the mount is the one that the descriptor is of.
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_int = 4;

/// Where it is mounted.
const PLACE: &CStr = c"/sys/fs/bpf";

/// Whether a BPF file system is in its place, as this process sees it.
pub(crate) fn is_mounted() -> bool {
    statfs(PLACE).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// Makes the system's BPF file system visible to this process, if there is one.
pub(super) fn find() -> Result<()> {
    if is_mounted() {
        return Ok(());
    }
    match Home::find()? {
        Home::Here => Ok(()),
        Home::At(namespace) => {
            let tree = within(&namespace, || is_mounted().then(clone_tree).transpose())?;
            tree.map_or(Ok(()), |tree| put_in_place(&tree))
        }
    }
}

/// Mounts a BPF file system if the system has none, and makes it visible to
/// this process.
pub(super) fn ensure() -> Result<()> {
    if is_mounted() {
        return Ok(());
    }
    match Home::find()? {
        Home::Here => mount_new(),
        Home::At(namespace) => {
            let tree = within(&namespace, || {
                if !is_mounted() {
                    mount_new()?;
                }
                clone_tree()
            })?;
            put_in_place(&tree)
        }
    }
}

/// Mounts a new one.
fn mount_new() -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), PLACE, Some("bpf"), flags, Some("mode=700"))
        .map_err(io::Error::from)
        .context("cannot mount a BPF file system on /sys/fs/bpf")
        .map_err(|error| error.hint("try `mount -t bpf bpf /sys/fs/bpf`"))
}

/// Runs `f` in a thread that has entered another mount namespace.
fn within<T: Send>(namespace: &File, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let run = || {
        // The threads of a process share root and working directory; setns
        // refuses those that do.
        unshare(CloneFlags::CLONE_FS).context("cannot leave the process's directories")?;
        setns(namespace, CloneFlags::CLONE_NEWNS).context("cannot enter the mount namespace")?;
        f()
    };
    thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A mount of the file system that hangs nowhere yet.
fn clone_tree() -> Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC;
    // SAFETY: the path is a C string that lives through the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, PLACE.as_ptr(), flags) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us and nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()).context("cannot fetch the BPF file system"),
    }
}

/// Puts a mount in the usual place of this mount namespace.
fn put_in_place(tree: &OwnedFd) -> Result<()> {
    // SAFETY: both paths are C strings that live through the call; the
    // descriptor is open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            PLACE.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error()).context("cannot mount the BPF file system on /sys/fs/bpf")
}

/// The mount namespace whose mounts outlive this process.
pub(crate) enum Home {
    /// This process's own.
    Here,
    /// The one that this process's is a passing copy of.
    At(File),
}

impl Home {
    /// Finds it.
    pub(crate) fn find() -> Result<Self> {
        let own = Root::of("thread-self")?;
        let Some(group) = own.master else {
            if own.shared.is_some() {
                // Nobody's copy: what a boot or a container has set up to last.
                return Ok(Self::Here);
            }
            // Where mounts do not propagate, a copy shows no trace of what it
            // was copied from. The first ancestor has what lasts longest.
            let ancestors = ancestors();
            let other =
                ancestors.iter().rev().find_map(|pid| open_if(pid, |root| root.differs(&own)));
            return Ok(other.map_or(Self::Here, Self::At));
        };
        // A copy: whoever is in the group has the mounts that it was copied from.
        let origin = |root: &Root| root.differs(&own) && root.shared == Some(group);
        processes().iter().find_map(|pid| open_if(pid, origin)).map(Self::At).ok_or_else(|| {
            Error::failed("there is no lasting place for the datapath")
                .because("no process is left of those whose mounts this one has a copy of")
                .hint(
                    "inside a network namespace, start netbpf with \
                     `nsenter --net=/run/netns/NAME` instead of `ip netns exec NAME`",
                )
        })
    }
}

/// Opens the process's mount namespace if its root is as `wanted`. Processes
/// end while they are looked at, and some may not be looked at: none of them is
/// what is sought.
fn open_if(pid: &str, wanted: impl Fn(&Root) -> bool) -> Option<File> {
    let root = Root::of(pid).ok()?;
    wanted(&root).then(|| File::open(format!("/proc/{pid}/ns/mnt")).ok()).flatten()
}

/// How the root directory of a process is mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Root {
    /// The mount namespace, as the kernel names it.
    namespace: PathBuf,
    /// The group of mounts that propagate to each other, if it is in one.
    shared: Option<u32>,
    /// The group of mounts that propagate to it, if it is such a copy.
    master: Option<u32>,
}

impl Root {
    fn of(pid: &str) -> Result<Self> {
        let process = Path::new("/proc").join(pid);
        let cannot = |name: &str| format!("cannot read {}/{name}", process.display());
        let namespace = fs::read_link(process.join("ns/mnt")).context(cannot("ns/mnt"))?;
        let info = fs::read_to_string(process.join("mountinfo")).context(cannot("mountinfo"))?;
        let (shared, master) = propagation(&info);
        Ok(Self { namespace, shared, master })
    }

    fn differs(&self, other: &Self) -> bool {
        self.namespace != other.namespace
    }
}

/// The groups of the root directory's mount in the text of a `mountinfo`.
///
/// Fields are separated by blanks: number, parent, device, root, place,
/// options, any number of tags, a dash, and what is mounted.
fn propagation(mountinfo: &str) -> (Option<u32>, Option<u32>) {
    let is_root = |line: &&str| line.split(' ').nth(4) == Some("/");
    // Of several mounts on one another the last one is seen.
    let Some(line) = mountinfo.lines().rfind(is_root) else { return (None, None) };
    let group = |tag: &str| {
        let tags = line.split(' ').skip(6).take_while(|field| *field != "-");
        tags.filter_map(|field| field.strip_prefix(tag)).find_map(|group| group.parse().ok())
    };
    (group("shared:"), group("master:"))
}

/// The numbers of the process's ancestors, its parent first.
fn ancestors() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut next = parent("self");
    while let Some(pid) = next.filter(|pid| pid != "0") {
        next = parent(&pid);
        all.push(pid);
    }
    all
}

fn parent(pid: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned())
}

/// The numbers of all processes.
fn processes() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTED: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:22 / /sys rw,relatime shared:7 - sysfs sysfs rw
";
    const COPY: &str = "\
44 43 254:0 / / rw,relatime master:1 - ext4 /dev/vda rw
48 44 0:39 / /sys rw,relatime - sysfs ns1 rw
";
    const PRIVATE: &str = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,shared:9\n";

    #[test]
    fn a_copy_is_recognised_by_its_master() {
        assert_eq!(propagation(BOOTED), (Some(1), None));
        assert_eq!(propagation(COPY), (None, Some(1)));
        assert_eq!(propagation(PRIVATE), (None, None));
        assert_eq!(propagation(""), (None, None));
    }

    #[test]
    fn a_process_has_ancestors() {
        let parent = std::os::unix::process::parent_id().to_string();
        assert_eq!(ancestors().first(), Some(&parent));
        assert!(processes().contains(&std::process::id().to_string()));
    }
}
