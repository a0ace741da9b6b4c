//! Compiles the eBPF programs to `OUT_DIR/netbpf-datapath`, `netbpf-bench` and
//! `netbpf-parts`, which the loaders embed.
//!
//! On a machine without an eBPF toolchain these files are left empty: all that
//! needs no kernel can still be checked and tested there, and the loader says
//! what is missing. `cargo xtask setup` installs the toolchain.
//!
//! `aya-build` does the same in general, but lets nobody add to the compiler's
//! flags, and here they decide about the speed of the datapath: see [`rustflags`].

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use toolchain::{COMPILER_VAR, Core, LINKER_VAR, TARGET, Toolchain, tools_dir, workspace};

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

const PACKAGE: &str = "netbpf-ebpf";

/// The datapath, and what `netbpf bench` measures with.
const PROGRAMS: [&str; 3] = ["netbpf-datapath", "netbpf-bench", "netbpf-parts"];

/// The profile in the workspace's manifest: always optimised, whatever the
/// control plane is built with.
const PROFILE: &str = "ebpf";

/// The crates that use unstable features (inline assembly for BPF).
const UNSTABLE_CRATES: &str = "aya_ebpf,netbpf_ebpf,netbpf_datapath,netbpf_bench,netbpf_parts";

fn main() -> Result<()> {
    watch();
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let Some(toolchain) = Toolchain::find() else {
        println!("cargo::warning=no eBPF toolchain, so no datapath; run `cargo xtask setup`");
        return PROGRAMS.iter().try_for_each(|program| {
            fs::write(out_dir.join(program), []).context("cannot write an empty object")
        });
    };
    // OUT_DIR is TARGET_DIR/PROFILE/build/PACKAGE/out. The programs are the
    // same for all profiles and are built once for all, in a folder of their
    // own: the outer cargo holds the lock of its folder while this runs.
    let folder = if has_other_layout() { "ebpf-other-layout" } else { "ebpf" };
    let target_dir = out_dir.ancestors().nth(4).context("OUT_DIR is too short")?.join(folder);
    let built = build(&toolchain, &target_dir)?;
    for program in PROGRAMS {
        let object = built.join(program);
        fs::copy(&object, out_dir.join(program))
            .with_context(|| format!("cannot copy {}", object.display()))?;
    }
    Ok(())
}

/// Whether the maps are of the layout that tests convert to.
fn has_other_layout() -> bool {
    env::var_os("CARGO_FEATURE_OTHER_LAYOUT").is_some()
}

/// Tells cargo what the programs depend on that it cannot see.
fn watch() {
    println!("cargo::rerun-if-env-changed={COMPILER_VAR}");
    println!("cargo::rerun-if-env-changed={LINKER_VAR}");
    // Setup notes here what it found, so a toolchain that appears or changes is
    // noticed. Made if need be: cargo takes a missing path for a changed one.
    let tools = tools_dir();
    let _ = fs::create_dir_all(&tools);
    let sources = [PACKAGE, "netbpf-common", "Cargo.toml", "Cargo.lock"];
    for path in sources.map(|path| workspace().join(path)).into_iter().chain([tools]) {
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
}

/// Builds the programs and returns the directory of their object files.
fn build(toolchain: &Toolchain, target_dir: &Path) -> Result<PathBuf> {
    let sysroot = &toolchain.compiler.sysroot;
    let outer_cargo = PathBuf::from(env::var_os("CARGO").context("CARGO is not set")?);
    let own_cargo = sysroot.join("bin/cargo");
    let mut cargo = match toolchain.compiler.core {
        Core::Prebuilt => {
            let mut cargo = Command::new(outer_cargo);
            cargo.env("RUSTC_BOOTSTRAP", UNSTABLE_CRATES);
            cargo
        }
        // Only a compiler's own cargo knows how to build its `core`.
        Core::Source => {
            let mut cargo = Command::new(if own_cargo.exists() { own_cargo } else { outer_cargo });
            cargo.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=core");
            cargo
        }
    };
    cargo
        .current_dir(workspace())
        .args(["build", "--quiet", "--package", PACKAGE, "--bins"])
        .args(["--profile", PROFILE, "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        .args(has_other_layout().then_some("--features=other-layout"))
        .env("RUSTC", sysroot.join("bin/rustc"))
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(toolchain)?.join("\x1f"));
    // What the outer cargo, clippy and rustup set for their own compiler, and
    // what a packager sets for release builds: the object is always the same.
    let of_outer = |name: &str| {
        const NAMES: [&str; 4] =
            ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "CARGO_INCREMENTAL"];
        NAMES.contains(&name) || name.starts_with("CARGO_PROFILE_")
    };
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(of_outer) {
            cargo.env_remove(name);
        }
    }
    let status = cargo.status().with_context(|| format!("cannot start {cargo:?}"))?;
    ensure!(status.success(), "building the eBPF programs failed: {cargo:?}: {status}");
    Ok(target_dir.join(TARGET).join(PROFILE))
}

fn rustflags(toolchain: &Toolchain) -> Result<Vec<String>> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH is not set")?;
    Ok(vec![
        // aya-ebpf picks the registers of the host that will run the programs.
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        format!("-Clinker={}", toolchain.linker.path.display()),
        "-Clink-arg=--btf".into(),
        // 32-bit arithmetic and jumps, for kernel 5.1 and newer.
        "-Ctarget-cpu=v3".into(),
        // Else a copy of more than a word, such as an IPv6 address, becomes a
        // call of a function that copies byte by byte.
        "-Clink-arg=--disable-expand-memcpy-in-order".into(),
        // Not `--cpu-features=+allows-misaligned-mem-access`: it would load an
        // unaligned word of a packet in one instruction, but LLVM then takes
        // the same liberty with the stack, and there no verifier allows it.
    ])
}
