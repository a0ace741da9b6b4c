//! The mount namespace in which things are pinned and named.
//!
//! `ip netns exec HOST netbpf ...` runs netbpf in a passing copy of the mount
//! namespace that `ip` was called in, with a fresh `/sys`. Nothing that is
//! mounted in the copy reaches the original: neither a BPF file system nor the
//! names of namespaces, which are mounts, too. So netbpf first goes back to
//! where its mounts last.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, setns};

use crate::{
    bpf::has_bpffs,
    error::{Context as _, Error, Result},
};

/// Enters the mount namespace whose mounts last, if this process is in a copy
/// of it without a BPF file system. Must be called while the process has one
/// thread.
///
/// # Errors
/// There is such a namespace, but it cannot be entered.
pub(crate) fn join_lasting() -> Result<()> {
    if has_bpffs() {
        return Ok(());
    }
    let Home::At(namespace) = Home::find()? else { return Ok(()) };
    // Entering it leads to its root directory.
    let directory = env::current_dir();
    setns(&namespace, CloneFlags::CLONE_NEWNS).context("cannot enter the mount namespace")?;
    let back = directory.and_then(env::set_current_dir).or_else(|_| env::set_current_dir("/"));
    back.context("cannot enter the working directory")
}

/// The mount namespace whose mounts outlive this process.
enum Home {
    /// This process's own.
    Here,
    /// The one that this process's is a passing copy of.
    At(File),
}

impl Home {
    fn find() -> Result<Self> {
        let own = Root::of("thread-self")?;
        if own.shared.is_some() {
            // What a boot or a container has set up to last, be it once copied from another.
            return Ok(Self::Here);
        }
        let Some(group) = own.master else {
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
    const CONTAINER: &str = "\
90 89 0:40 / / rw,relatime shared:5 master:1 - overlay overlay rw
";
    const PRIVATE: &str = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,shared:9\n";

    #[test]
    fn a_copy_is_recognised_by_its_master() {
        assert_eq!(propagation(BOOTED), (Some(1), None));
        assert_eq!(propagation(COPY), (None, Some(1)));
        assert_eq!(propagation(CONTAINER), (Some(5), Some(1)));
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
