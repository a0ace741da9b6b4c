//! The root file system of a virtual machine: this machine's commands, a kernel's
//! modules, netbpf and its tests, in an archive that the kernel unpacks into memory.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{Tested, packages::Kernel, subset::LeftOut};
use crate::process::{self, output, run};

/// Commands of this machine that the tests, netbpf or the first process use.
const COMMANDS: &[&str] = &[
    "bridge",
    "cat",
    "cp",
    "find",
    "ip",
    "ip6tables",
    "iptables",
    "iptables-legacy",
    "iptables-legacy-restore",
    "iptables-legacy-save",
    "iptables-nft",
    "iptables-nft-restore",
    "iptables-nft-save",
    "iptables-restore",
    "iptables-save",
    "kmod",
    "mkdir",
    "modprobe",
    "mount",
    "nft",
    "nsenter",
    "setpriv",
    "sh",
    "sleep",
    "stty",
    "tc",
    "true",
    "umount",
    "uname",
    "unshare",
    "wc",
];

/// Files that they need beside their libraries.
const FILES: &[&str] = &[
    "/etc/group",
    "/etc/iproute2",
    "/etc/passwd",
    "/etc/protocols",
    "/etc/services",
    "/usr/lib/x86_64-linux-gnu/xtables",
];

/// Modules of a kernel: all for networks but the drivers of hardware, and what they need.
const MODULES: &[&str] = &["kernel/net", "kernel/drivers/net", "kernel/lib", "kernel/crypto"];

/// Directories that Debian has made symbolic links.
const MERGED: &[&str] = &["bin", "lib", "lib64", "sbin"];

/// Makes the archive.
pub(super) fn make(
    kernel: &Kernel,
    tested: &BTreeMap<String, Tested>,
    left_out: &[&LeftOut],
) -> Result<PathBuf> {
    let own = process::release_binary()?;
    let target = own.ancestors().nth(2).context("it is in a target directory")?;
    let place = target.join("kernels").join(&kernel.version);
    let root = Root::create(place.join("root"))?;
    for dir in ["dev", "proc", "sys", "run", "tmp", "root", "tests", "var/lib"] {
        fs::create_dir_all(root.0.join(dir))?;
    }
    for name in COMMANDS {
        let dirs = ["/usr/sbin", "/usr/bin"].map(|dir| Path::new(dir).join(name));
        let found = dirs.into_iter().find(|path| path.exists());
        let found = found.with_context(|| format!("this machine has no command {name}"))?;
        root.add_program(&found)?;
    }
    for file in FILES.iter().map(Path::new).filter(|file| file.exists()) {
        root.copy(file, file)?;
    }
    root.add_stripped(&own, Path::new("/usr/bin/netbpf"))?;
    let mut list = String::new();
    for (name, Tested { binary, names }) in tested {
        root.add_stripped(binary, &Path::new("/tests").join(name))?;
        let skipped = left_out.iter().flat_map(|out| ["--skip", out.test]);
        let exactly = if names.is_empty() { None } else { Some("--exact") };
        let words = [&**name].into_iter().chain(exactly).chain(names.iter().map(|name| &**name));
        list.push_str(&words.chain(skipped).collect::<Vec<_>>().join(" "));
        list.push('\n');
    }
    fs::write(root.0.join("tests/list"), list)?;
    root.add_modules(kernel)?;
    let init = root.0.join("init");
    fs::write(&init, include_str!("init.sh"))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let archive = place.join("initrd");
    root.pack(&archive)?;
    fs::remove_dir_all(&root.0)?;
    Ok(archive)
}

/// The root file system as it is gathered.
struct Root(PathBuf);

impl Root {
    fn create(place: PathBuf) -> Result<Self> {
        let what = || format!("cannot create {}", place.display());
        if place.exists() {
            fs::remove_dir_all(&place).with_context(what)?;
        }
        fs::create_dir_all(&place).with_context(what)?;
        for name in MERGED {
            let target = Path::new("usr").join(name);
            fs::create_dir_all(place.join(&target))
                .and_then(|()| symlink(&target, place.join(name)))
                .with_context(what)?;
        }
        Ok(Self(place))
    }

    /// Where a file of the virtual machine lies here.
    fn inside(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Adds a program of this machine, with its libraries, and all symbolic links that
    /// lead to it: some programs do what they are called.
    fn add_program(&self, path: &Path) -> Result<()> {
        let mut path = canonical_parent(path)?;
        while let Ok(target) = fs::read_link(&path) {
            let link = self.inside(&path);
            if link.is_symlink() {
                return Ok(());
            }
            create_parent(&link)?;
            symlink(&target, &link).with_context(|| format!("cannot create {}", link.display()))?;
            let dir = path.parent().unwrap_or(Path::new("/"));
            path = canonical_parent(&dir.join(target))?;
        }
        if self.inside(&path).exists() {
            return Ok(());
        }
        self.copy(&path, &path)?;
        self.add_libraries(&path)
    }

    /// Adds the libraries of a program: none of a script.
    fn add_libraries(&self, program: &Path) -> Result<()> {
        let listed = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        // As "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)".
        for path in listed.split_whitespace().filter(|word| word.starts_with('/')) {
            let named = canonical_parent(Path::new(path))?;
            if !self.inside(&named).exists() {
                self.copy(&named, &named)?;
            }
        }
        Ok(())
    }

    /// Adds what was built here, without what is for debuggers.
    fn add_stripped(&self, program: &Path, to: &Path) -> Result<()> {
        self.add_libraries(program)?;
        run(Command::new("strip").arg("-o").arg(self.inside(to)).arg(program))
    }

    /// Copies a file, or all of a directory; what a symbolic link leads to.
    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let to = self.inside(to);
        create_parent(&to)?;
        run(Command::new("cp").arg("-rL").arg(from).arg(to))
    }

    fn add_modules(&self, kernel: &Kernel) -> Result<()> {
        let inside = Path::new("/usr/lib/modules").join(&kernel.release);
        for name in
            ["modules.builtin", "modules.builtin.modinfo", "modules.order"].iter().chain(MODULES)
        {
            self.copy(&kernel.modules.join(name), &inside.join(name))?;
        }
        let hardware = self.inside(&inside).join("kernel/drivers/net/ethernet");
        if hardware.exists() {
            fs::remove_dir_all(hardware)?;
        }
        run(Command::new("depmod").arg("-b").arg(&self.0).arg(&kernel.release))
    }

    /// Packs all of it as the kernel wants it.
    fn pack(&self, archive: &Path) -> Result<()> {
        let names = output(Command::new("find").arg(".").current_dir(&self.0))?;
        let list = archive.with_extension("list");
        fs::write(&list, names)?;
        let status = Command::new("cpio")
            .args(["-o", "-H", "newc", "--quiet", "-R", "0:0"])
            .current_dir(&self.0)
            .stdin(Stdio::from(File::open(&list)?))
            .stdout(Stdio::from(File::create(archive)?))
            .status()
            .context("cannot start cpio")?;
        if !status.success() {
            bail!("cpio: {status}");
        }
        Ok(())
    }
}

/// The path of a file by the true name of the directory that it is in.
fn canonical_parent(path: &Path) -> Result<PathBuf> {
    let (parent, name) = (path.parent(), path.file_name());
    let (parent, name) =
        parent.zip(name).with_context(|| format!("{} is no file", path.display()))?;
    let parent =
        parent.canonicalize().with_context(|| format!("cannot find {}", parent.display()))?;
    Ok(parent.join(name))
}

fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))
}
