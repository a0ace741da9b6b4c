//! A private mount namespace: its own `/run`, its own BPF file system.

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    unistd::geteuid,
};
use std::{
    fs::{self, File},
    os::fd::AsFd,
    panic::resume_unwind,
    sync::Arc,
    thread,
};

/// A private mount namespace, alive as long as one of its clones is.
///
/// `/run` is empty, so names under `/run/netns` are free and state is nobody
/// else's; mounts are shared within the sandbox as they are on a machine that
/// systemd has booted.
#[derive(Clone)]
pub struct Sandbox {
    mounts: Arc<File>,
}

impl Sandbox {
    /// A sandbox with a BPF file system on `/sys/fs/bpf`, as systemd mounts it.
    pub fn new() -> Self {
        Self::build(true)
    }

    /// A sandbox of a machine where nobody has mounted a BPF file system.
    pub fn without_bpffs() -> Self {
        Self::build(false)
    }

    fn build(bpffs: bool) -> Self {
        assert!(geteuid().is_root(), "these tests need root: run `cargo xtask test`");
        let mounts = joined(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("unshare the mount namespace");
            let none = None::<&str>;
            let set = |target: &str, kind: Option<&str>, flags: MsFlags| {
                mount(kind, target, kind, flags, none)
                    .unwrap_or_else(|e| panic!("mount {kind:?} on {target}: {e}"));
            };
            set("/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
            set("/", None, MsFlags::MS_REC | MsFlags::MS_SHARED);
            // Whatever the machine has there is none of the sandbox's business; its
            // own namespaces may come and go meanwhile.
            while umount2("/run/netns", MntFlags::MNT_DETACH).is_ok() {}
            set("/run", Some("tmpfs"), MsFlags::empty());
            while umount2("/sys/fs/bpf", MntFlags::MNT_DETACH).is_ok() {}
            if bpffs {
                set("/sys/fs/bpf", Some("bpf"), MsFlags::empty());
            }
            File::open("/proc/thread-self/ns/mnt").expect("open the mount namespace")
        });
        Self { mounts: Arc::new(mounts) }
    }

    /// Moves the calling thread, or a child between fork and exec, inside.
    pub(crate) fn enter(&self) -> nix::Result<()> {
        // Threads share root and working directory; setns refuses those that do.
        unshare(CloneFlags::CLONE_FS)?;
        setns(self.mounts.as_fd(), CloneFlags::CLONE_NEWNS)
    }

    /// Runs `f` in a thread inside.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        joined(|| {
            self.enter().expect("enter the sandbox");
            f()
        })
    }

    /// The names of the network namespaces in it.
    pub fn namespaces(&self) -> Vec<String> {
        let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
        self.run(|| match fs::read_dir("/run/netns") {
            Ok(entries) => entries.filter_map(|entry| name(entry.ok()?)).collect(),
            Err(_) => Vec::new(),
        })
    }

    /// The processes that live in the sandbox, as "PID command".
    pub fn processes(&self) -> Vec<String> {
        let own = inode_of(&self.mounts);
        let entries = fs::read_dir("/proc").expect("read /proc");
        entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let namespace = File::open(path.join("ns/mnt")).ok()?;
                let name = fs::read_to_string(path.join("comm")).ok()?;
                (inode_of(&namespace) == own).then(|| format!("{} {}", path.display(), name.trim()))
            })
            .collect()
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

fn inode_of(file: &File) -> u64 {
    use std::os::unix::fs::MetadataExt;
    file.metadata().expect("stat a namespace").ino()
}

/// Runs `f` in a thread of its own and passes its panic on.
pub(crate) fn joined<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(f).join()).unwrap_or_else(|panic| resume_unwind(panic))
}
