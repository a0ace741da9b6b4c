//! `deb`: a Debian package.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    install::Install,
    process::{output, run},
    setup,
    toolchain::workspace,
};

/// What the package says of itself; VERSION, ARCHITECTURE, SIZE and DEPENDS are filled in.
const CONTROL: &str = "\
Package: netbpf
Version: VERSION
Architecture: ARCHITECTURE
Maintainer: The netbpf developers <netbpf@localhost>
Installed-Size: SIZE
Depends: DEPENDS
Recommends: iptables
Suggests: iproute2
Section: net
Priority: optional
Description: network for network namespaces in one command, moved by eBPF
 Gives Linux network namespaces a bridge, addresses, source NAT to the
 outside and published ports, and moves their packets with eBPF programs
 instead of the kernel's bridge and iptables. Networks live without a daemon;
 netbpf@NAME.service brings the one of /etc/netbpf/NAME.toml up at boot.
";

/// Networks that run go on while the package is upgraded, and when it is removed: who
/// wants them down says so before (`systemctl disable --now netbpf@NAME`). So only
/// systemd is told that there are other units.
const RELOAD: &str = "\
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload || true
fi
";

/// Networks that systemd has brought up go with the program that could take them down.
const STOP: &str = "\
#!/bin/sh
set -e
if [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then
    systemctl stop 'netbpf@*.service' || true
fi
";

/// What else is in `/usr/share/doc/netbpf`.
const DOCUMENTS: [&str; 5] =
    ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONFORMANCE.md", "packaging/example.toml"];

/// The changelog as Debian has them; VERSION and DATE are filled in.
const CHANGELOG: &str = "netbpf (VERSION) unstable; urgency=medium

  * What has changed is in CHANGELOG.md.

 -- The netbpf developers <netbpf@localhost>  DATE
";

/// What lintian is told to accept, and why.
const OVERRIDES: &str =
    "# Nobody has an address for mail about a package that everybody makes for themselves.
netbpf: bogus-mail-host *
netbpf: bogus-mail-host-in-debian-changelog *
# It stops all instances of netbpf@.service, of whatever names: systemd alone knows them,
# and it is looked whether it runs.
netbpf: maintainer-script-calls-systemctl [prerm:4]
";

#[derive(clap::Args)]
pub(crate) struct Deb {
    /// Where the package will be written
    #[arg(long, value_name = "DIR", default_value = "target/debian")]
    output: PathBuf,

    /// Pack this executable instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

impl Deb {
    /// Packs, and prints where the package is.
    pub(crate) fn run(&self) -> Result<()> {
        setup::require_commands(&[("dpkg-shlibdeps", "dpkg-dev"), ("strip", "binutils")])?;
        let output_dir = std::path::absolute(&self.output)?;
        // As in a source package, which Debian's tools think that they are called in.
        let source = output_dir.join("source");
        if source.exists() {
            fs::remove_dir_all(&source).with_context(|| cannot_write(&source))?;
        }
        let stage = source.join("debian/netbpf");
        let install = Install::staged("/usr".into(), stage.clone(), self.binary.clone());
        install.files()?;
        let binary = stage.join("usr/bin/netbpf");
        let unneeded = ["--strip-unneeded", "--remove-section=.comment"];
        run(Command::new("strip").args(unneeded).arg(&binary))?;
        let zsh = stage.join("usr/share/zsh");
        fs::rename(zsh.join("site-functions"), zsh.join("vendor-completions"))?;
        add_documents(&stage)?;
        create(&stage.join("etc/netbpf"))?;
        compress(&stage.join("usr/share/man/man1"))?;

        let debian = stage.join("DEBIAN");
        create(&debian)?;
        let version = env!("CARGO_PKG_VERSION");
        let architecture = line(Command::new("dpkg").arg("--print-architecture"))?;
        let control = CONTROL
            .replace("VERSION", version)
            .replace("ARCHITECTURE", &architecture)
            .replace("SIZE", &kibibytes(&stage)?)
            .replace("DEPENDS", &libraries(&source)?);
        write(&debian.join("control"), &control, 0o644)?;
        for (name, script) in [("postinst", RELOAD), ("prerm", STOP), ("postrm", RELOAD)] {
            write(&debian.join(name), script, 0o755)?;
        }
        write(&debian.join("md5sums"), &checksums(&stage)?, 0o644)?;

        let package = output_dir.join(format!("netbpf_{version}_{architecture}.deb"));
        let pack = ["--root-owner-group", "-Zxz", "--build"];
        output(Command::new("dpkg-deb").args(pack).arg(&stage).arg(&package))?;
        fs::remove_dir_all(&source).with_context(|| cannot_write(&source))?;
        println!("{}", package.display());
        Ok(())
    }
}

/// Licences, documents, an example, and a changelog where Debian looks for it.
fn add_documents(stage: &Path) -> Result<()> {
    let doc = stage.join("usr/share/doc/netbpf");
    create(&doc)?;
    for name in DOCUMENTS {
        let source = workspace().join(name);
        let file = doc.join(source.file_name().context("a document has a name")?);
        fs::copy(&source, &file).with_context(|| cannot_write(&file))?;
    }
    let changelog = doc.join("changelog");
    let date = line(Command::new("date").arg("-Rr").arg(workspace().join("CHANGELOG.md")))?;
    let text = CHANGELOG.replace("VERSION", env!("CARGO_PKG_VERSION")).replace("DATE", &date);
    write(&changelog, &text, 0o644)?;
    compress(&changelog)?;
    let path = workspace().join("LICENSE-MIT");
    let mit =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let copyright = format!(
        "netbpf is MIT or Apache-2.0, at your choice; its eBPF part also GPL-2.0.\n\n\
         {mit}\n\
         The Apache License, Version 2.0, is in /usr/share/common-licenses/Apache-2.0, and the\n\
         GNU General Public License, version 2, in /usr/share/common-licenses/GPL-2.\n"
    );
    write(&doc.join("copyright"), &copyright, 0o644)?;
    let overrides = stage.join("usr/share/lintian/overrides");
    create(&overrides)?;
    write(&overrides.join("netbpf"), OVERRIDES, 0o644)
}

/// The packages with the libraries that the executable is linked with.
fn libraries(source: &Path) -> Result<String> {
    const CONTROL: &str = "Source: netbpf\n\nPackage: netbpf\nArchitecture: any\n";
    write(&source.join("debian/control"), CONTROL, 0o644)?;
    let arguments = ["-O", "debian/netbpf/usr/bin/netbpf"];
    let said = line(Command::new("dpkg-shlibdeps").args(arguments).current_dir(source))?;
    let list = said.strip_prefix("shlibs:Depends=");
    Ok(list.with_context(|| format!("dpkg-shlibdeps says {said:?}"))?.to_owned())
}

/// The size of all that will be installed, as Debian counts it.
fn kibibytes(stage: &Path) -> Result<String> {
    let said = line(Command::new("du").args(["-sk", "--apparent-size"]).arg(stage))?;
    Ok(said.split_whitespace().next().context("du says nothing")?.to_owned())
}

/// The checksums of all files, by which `dpkg --verify` finds what was changed.
fn checksums(stage: &Path) -> Result<String> {
    let script = "find usr -type f -print0 | sort -z | xargs -0 md5sum";
    let said = output(Command::new("sh").args(["-ec", script]).current_dir(stage))?;
    Ok(String::from_utf8(said)?)
}

/// Compresses a file, or those in a directory, as Debian wants it: without a date.
fn compress(path: &Path) -> Result<()> {
    run(Command::new("gzip").args(["-9nr"]).arg(path))
}

fn line(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8(output(command)?)?.trim().to_owned())
}

fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| cannot_write(dir))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| cannot_write(path))
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}\nwhat to do: choose another folder with --output", path.display())
}
