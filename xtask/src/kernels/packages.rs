//! Debian's kernels and qemu, unpacked below `.tools/`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{apt::Apt, process::is_command, toolchain::tools_dir};

/// The kernels, by the beginnings of their versions: the oldest that netbpf is made for,
/// and one in between that and the newest, which the machine itself may have.
pub(crate) const KERNELS: [&str; 2] = ["6.1", "6.12"];

const QEMU: &str = "qemu-system-x86_64";

/// Unpacks what is missing: kernels, and qemu. Nothing of it is installed: a kernel
/// would become the machine's own, and qemu may be at odds with another one's parts.
pub(crate) fn install() -> Result<()> {
    let apt = Apt::default();
    for version in KERNELS {
        let place = place(version);
        if place.exists() {
            continue;
        }
        let pattern =
            format!(r"^linux-image-{}\.[0-9].*-cloud-amd64$", version.replace('.', r"\."));
        let package = apt.newest(&pattern).with_context(|| {
            format!(
                "apt offers no cloud kernel of Linux {version}\n\
                 what to do: unpack one of Debian 12's into {}",
                place.display()
            )
        })?;
        eprintln!("kernels:  unpacking {package}");
        apt.unpack(&package, &place)?;
    }
    if !is_command(QEMU) && !qemu_place().exists() {
        eprintln!("kernels:  unpacking qemu");
        apt.unpack_with_dependencies("qemu-system-x86", &qemu_place())?;
    }
    Ok(())
}

fn place(version: &str) -> PathBuf {
    tools_dir().join("kernels").join(version)
}

fn qemu_place() -> PathBuf {
    tools_dir().join("qemu")
}

/// A kernel that is unpacked.
pub(super) struct Kernel {
    /// What it was asked for by.
    pub(super) version: String,
    /// What it calls itself.
    pub(super) release: String,
    /// Its image.
    pub(super) image: PathBuf,
    /// Its modules.
    pub(super) modules: PathBuf,
}

impl Kernel {
    /// The one that [`install`] has unpacked.
    pub(super) fn unpacked(version: &str) -> Result<Self> {
        let place = place(version);
        let all = place.join("lib/modules");
        let entries =
            fs::read_dir(&all).with_context(|| format!("cannot read {}", all.display()))?;
        let names: Vec<_> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        let release = names.into_iter().next();
        let release =
            release.with_context(|| format!("there is no kernel in {}", place.display()))?;
        Ok(Self {
            version: version.to_owned(),
            image: place.join("boot").join(format!("vmlinuz-{release}")),
            modules: all.join(&release),
            release,
        })
    }
}

/// qemu, the machine's own or the one that [`install`] has unpacked.
pub(super) fn qemu(start: &mut Command) {
    let root = qemu_place();
    if is_command(QEMU) || !root.exists() {
        start.arg(QEMU);
        return;
    }
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|dir| root.join(dir));
    let path = libraries.each_ref().map(|dir| dir.display().to_string()).join(":");
    start.env("LD_LIBRARY_PATH", path).env("QEMU_MODULE_DIR", libraries[0].join("qemu"));
    start.arg(root.join("usr/bin").join(QEMU));
    for firmware in ["usr/share/qemu", "usr/share/seabios"] {
        start.arg("-L").arg(Path::new(&root).join(firmware));
    }
}
