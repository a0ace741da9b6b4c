//! `setup`: the eBPF toolchain, found or installed.
//!
//! What is there comes first, then Debian's packages, then rustup: a toolchain
//! that is already on the machine costs nothing, and Debian's compiler and
//! LLVM packages are built for each other, while rustup's compilers soon have
//! an LLVM that the distribution has no package for.

use std::{env, fs, ops::RangeInclusive, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt::Apt,
    fuzz,
    process::{cargo, is_command, run},
    root,
    toolchain::{
        COMPILER_VAR, LINKER_VAR, TARGET, Toolchain, compilers, linkers, minor, tools_dir,
    },
};

/// What the tests need beside netbpf: a command, and the package that
/// brings it. `test` alone installs these.
const TEST_PACKAGES: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("bpftool", "bpftool"),
    ("iptables-legacy", "iptables"),
    ("nft", "nftables"),
    ("dbus-daemon", "dbus-daemon"),
    ("turnserver", "coturn"),
    ("systemd-nspawn", "systemd-container"),
    ("dpkg-shlibdeps", "dpkg-dev"),
    ("lintian", "lintian"),
    // For the fuzzer's engine.
    ("c++", "g++"),
    // For the root file system of the machines in which other kernels run.
    ("cpio", "cpio"),
    ("depmod", "kmod"),
];

/// What firewalld is made of but for itself, of which only the files are wanted.
const FIREWALLD_PACKAGES: &[&str] =
    &["python3-firewall", "python3-nftables", "python3-gi", "python3-dbus", "gir1.2-nm-1.0"];

/// Debian's compilers that have `core` for BPF, with the package that holds it.
const DEBIAN_COMPILERS: &[[&str; 2]] =
    &[["rustc-web", "libstd-rust-web-dev-bpf"], ["rustc", "libstd-rust-dev-bpf"]];

const LINKER_VERSION: &str = "0.13.0";

/// The LLVM majors that this version can be built on.
const LINKER_LLVMS: RangeInclusive<u32> = 21..=23;

/// Finds or installs what builds the eBPF programs, and shows it.
pub(crate) fn setup() -> Result<()> {
    let found = ensure()?;
    println!("compiler: {}", found.compiler);
    println!("linker:   {}", found.linker);
    Ok(())
}

/// Finds or installs what builds the eBPF programs. What it tells goes to the
/// standard error: the output of `run` is netbpf's alone.
pub(crate) fn ensure() -> Result<Toolchain> {
    let found = match Toolchain::find() {
        Some(found) => found,
        None => install(&Apt::default())?,
    };
    remember(&found)?;
    Ok(found)
}

/// Installs what the tests need and the machine lacks.
pub(crate) fn setup_tests() -> Result<()> {
    install_packages()?;
    fuzz::install()
}

/// Installs what is missing of these commands, each with the package that brings it.
pub(crate) fn require_commands(commands: &[(&str, &str)]) -> Result<()> {
    let missing = missing(commands);
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("packages: installing {}", missing.join(", "));
    Apt::default().install(&missing)
}

fn missing<'a>(commands: &[(&str, &'a str)]) -> Vec<&'a str> {
    let missing = commands.iter().filter(|(command, _)| !is_command(command));
    missing.map(|(_, package)| *package).collect()
}

fn install_packages() -> Result<()> {
    let mut missing = missing(TEST_PACKAGES);
    let firewalld = tools_dir().join("firewalld");
    if !firewalld.exists() {
        missing.extend(FIREWALLD_PACKAGES);
    }
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("tests:    installing {}", missing.join(", "));
    let apt = Apt::default();
    apt.install(&missing)?;
    // Its package is not installed: the machine would have a firewall from then on.
    if firewalld.exists() { Ok(()) } else { apt.unpack("firewalld", &firewalld) }
}

fn install(apt: &Apt) -> Result<Toolchain> {
    // Nothing that could be installed would be used instead.
    for (variable, is_usable) in
        [(COMPILER_VAR, !compilers().is_empty()), (LINKER_VAR, !linkers().is_empty())]
    {
        if let (Some(named), false) = (env::var_os(variable), is_usable) {
            bail!(
                "{variable}={} cannot be used: a compiler needs rust-src or core for {TARGET}, \
                 a linker the library of its LLVM\n\
                 what to do: correct the variable, or unset it to have one chosen",
                named.display()
            );
        }
    }
    let mut llvm = linker_llvm(apt);
    if llvm.is_none() {
        install_compiler(apt)?;
        if let Some(found) = Toolchain::find() {
            return Ok(found);
        }
        llvm = linker_llvm(apt);
    }
    let llvm = llvm.with_context(|| {
        let (oldest, newest) = (LINKER_LLVMS.start(), LINKER_LLVMS.end());
        format!(
            "bpf-linker {LINKER_VERSION} cannot be built: it needs the development files of an \
             LLVM of {oldest} to {newest} that is no older than the compiler's, and apt offers none\n\
             what to do: install a fitting bpf-linker yourself and put it on the path"
        )
    })?;
    install_linker(apt, llvm)?;
    Toolchain::find().context("compiler and linker were installed, yet are not found")
}

/// The LLVM to build the linker on, so that it serves the best compiler there
/// is; none without a compiler, or where no compiler's LLVM is to be had.
fn linker_llvm(apt: &Apt) -> Option<u32> {
    let candidates: Vec<u32> = compilers()
        .iter()
        .flat_map(|compiler| compiler.llvm.max(*LINKER_LLVMS.start())..=*LINKER_LLVMS.end())
        .collect();
    let offered = |llvm: &&u32| apt.candidate(&llvm_package(**llvm)).is_some();
    let here = candidates.iter().find(|llvm| has_llvm(**llvm));
    here.or_else(|| candidates.iter().find(offered)).copied()
}

fn llvm_prefix(major: u32) -> PathBuf {
    format!("/usr/lib/llvm-{major}").into()
}

fn llvm_package(major: u32) -> String {
    format!("llvm-{major}-dev")
}

fn has_llvm(major: u32) -> bool {
    llvm_prefix(major).join("include/llvm-c").exists()
}

fn install_compiler(apt: &Apt) -> Result<()> {
    let recent = |package: &str| {
        let offered = minor(&apt.candidate(package)?)?;
        (offered >= minor(env!("CARGO_PKG_RUST_VERSION"))?).then_some(())
    };
    let offered =
        DEBIAN_COMPILERS.iter().find(|pair| pair.iter().all(|name| recent(name).is_some()));
    if let Some(packages) = offered {
        eprintln!(
            "compiler: none here has core for BPF, apt offers one that has: installing {}",
            packages.join(", ")
        );
        return apt.install(packages);
    }
    if is_command("rustup") {
        eprintln!(
            "compiler: none here has core for BPF and apt offers none: adding rust-src by rustup"
        );
        return run(Command::new("rustup").args(["component", "add", "rust-src"]))
            .context("rustup cannot add rust-src, and no package has core for BPF either");
    }
    if is_command("apt-get") {
        // Not up to date without root, its lists may just not tell of one.
        root::require("installing a Rust compiler for eBPF programs")?;
    }
    bail!(
        "no Rust compiler here can build eBPF programs: none has core for BPF or rust-src, \
         apt offers none that has, and there is no rustup\n\
         what to do: install rustup, then repeat"
    )
}

fn install_linker(apt: &Apt, llvm: u32) -> Result<()> {
    let mut packages = Vec::new();
    if !has_llvm(llvm) {
        packages.push(llvm_package(llvm));
    }
    // For libstdc++, which LLVM's library is linked with.
    if !is_command("g++") {
        packages.push("g++".into());
    }
    if !packages.is_empty() {
        eprintln!(
            "linker:   no bpf-linker here fits, to build one: installing {}",
            packages.join(", ")
        );
        apt.install(&packages)?;
    }
    eprintln!("linker:   building bpf-linker {LINKER_VERSION} on LLVM {llvm} (about a minute)");
    run(cargo("install")
        .args(["bpf-linker", "--version", LINKER_VERSION, "--locked", "--quiet", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"])
        .arg(tools_dir())
        .env("LLVM_PREFIX", llvm_prefix(llvm)))
}

/// Notes what was found in the folder that `netbpf/build.rs` watches, so that
/// a toolchain that appears or changes makes cargo build the programs anew.
fn remember(found: &Toolchain) -> Result<()> {
    let file = tools_dir().join("toolchain");
    let text = format!("{}\n{}\n", found.compiler, found.linker);
    if fs::read_to_string(&file).is_ok_and(|known| known == text) {
        return Ok(());
    }
    fs::create_dir_all(tools_dir())
        .and_then(|()| fs::write(&file, text))
        .with_context(|| format!("cannot write {}", file.display()))
}
