//! Which network namespaces there are. The kernel has no list of them: they are found by
//! what holds them.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::Worker;

/// Inode number of the PID namespace that a machine boots in (`PROC_PID_INIT_INO`).
const INIT_PID_NAMESPACE: u64 = 0xefff_fffc;

/// The cookies of all network namespaces that a process is in, holds open, or has mounted;
/// nothing if this process does not see all processes of the machine. (What a socket alone
/// holds is not found: nobody can enter it any more.)
pub async fn namespaces(worker: &Worker) -> Option<HashSet<u64>> {
    let own = fs::metadata("/proc/self/ns/pid").ok()?.ino();
    if own != INIT_PID_NAMESPACE {
        return None;
    }
    let nsfs = fs::metadata("/proc/self/ns/net").ok()?.dev();
    let mut found: HashMap<u64, PathBuf> = HashMap::new();
    let mut mounts = HashSet::new();
    for process in numbered(Path::new("/proc")) {
        for task in numbered(&process.join("task")) {
            add(task.join("ns/net"), &mut found);
        }
        let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten();
        for path in descriptors.filter_map(|entry| Some(entry.ok()?.path())) {
            // Whatever it was opened by: of other kinds of namespaces none is entered.
            if fs::metadata(&path).is_ok_and(|file| file.dev() == nsfs) {
                add(path, &mut found);
            }
        }
        let namespace = fs::metadata(process.join("ns/mnt")).map(|found| found.ino());
        if namespace.is_ok_and(|inode| mounts.insert(inode)) {
            let text = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
            for place in mounted(&text) {
                add(process.join("root").join(place.trim_start_matches('/')), &mut found);
            }
        }
    }
    let mut cookies = HashSet::new();
    for path in found.into_values() {
        // Processes end while they are looked at.
        let Ok(file) = File::open(path) else { continue };
        cookies.extend(worker.enter(file).await.ok().map(|entered| entered.id.cookie));
    }
    Some(cookies)
}

fn add(path: PathBuf, found: &mut HashMap<u64, PathBuf>) {
    if let Ok(metadata) = fs::metadata(&path) {
        found.entry(metadata.ino()).or_insert(path);
    }
}

/// The entries of a directory whose names are numbers.
fn numbered(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Where network namespaces are mounted, in the text of a `mountinfo`: number, parent, device,
/// root, place, options, any number of tags, a dash, and what is mounted.
fn mounted(mountinfo: &str) -> impl Iterator<Item = &str> {
    mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let root = fields.nth(3)?;
        let place = fields.next()?;
        root.starts_with("net:").then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounted_namespaces_are_found() {
        let text = "\
30 22 0:27 / /sys/fs/bpf rw - bpf bpf rw
31 30 0:4 net:[4026532290] /run/netns/ns1 rw shared:7 - nsfs nsfs rw
32 30 0:4 mnt:[4026532291] /run/mnt rw - nsfs nsfs rw
";
        assert_eq!(mounted(text).collect::<Vec<_>>(), ["/run/netns/ns1"]);
    }
}
