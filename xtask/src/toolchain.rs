//! Finds what builds the eBPF programs: a Rust compiler that has `core` for
//! [`TARGET`], and a `bpf-linker` that can read that compiler's bitcode.
//!
//! Shared with `netbpf/build.rs`, hence the standard library only. Nothing is
//! installed or changed here; that is `setup`'s part.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The target that the eBPF programs are compiled for.
pub(crate) const TARGET: &str =
    if cfg!(target_endian = "little") { "bpfel-unknown-none" } else { "bpfeb-unknown-none" };

/// Names the compiler to use: a rustup toolchain, or the absolute path of a sysroot.
pub(crate) const COMPILER_VAR: &str = "NETBPF_EBPF_TOOLCHAIN";

/// Names the `bpf-linker` to use; it is trusted to fit.
pub(crate) const LINKER_VAR: &str = "NETBPF_BPF_LINKER";

/// How a compiler comes by `core` for a target that rustup ships none for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// It lies compiled in the sysroot, as Debian packages it.
    Prebuilt,
    /// Cargo compiles it from `rust-src`.
    Source,
}

/// A Rust compiler that can build for [`TARGET`].
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    /// What `rustup run` takes: a toolchain's name or the absolute path of a sysroot.
    pub(crate) toolchain: String,
    pub(crate) llvm: u32,
    pub(crate) core: Core,
    release: String,
}

/// A `bpf-linker`, and the LLVM that it was built on where that can be told.
#[derive(Clone, Debug)]
pub(crate) struct Linker {
    pub(crate) path: PathBuf,
    llvm: Option<u32>,
}

/// A compiler and a linker that fit together.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: Linker,
}

impl Toolchain {
    /// The first compiler, by preference, that a linker present can serve.
    pub(crate) fn find() -> Option<Self> {
        let linkers = linkers();
        compilers().into_iter().find_map(|compiler| {
            let linker = linkers.iter().find(|linker| linker.serves(&compiler))?.clone();
            Some(Self { compiler, linker })
        })
    }
}

/// The usable compilers, best first: the one named by [`COMPILER_VAR`] (then
/// no other), rustup's (nightlies before stable ones), Debian's in `/usr`.
pub(crate) fn compilers() -> Vec<Compiler> {
    if let Ok(named) = env::var(COMPILER_VAR) {
        return probe(&named).into_iter().collect();
    }
    let mut names = rustup_toolchains();
    names.sort_by_key(|name| !name.starts_with("nightly"));
    names.push("/usr".into());
    names.iter().filter_map(|name| probe(name)).collect()
}

/// Every `bpf-linker` there is, best first.
pub(crate) fn linkers() -> Vec<Linker> {
    if let Some(named) = env::var_os(LINKER_VAR) {
        return vec![Linker { path: named.into(), llvm: None }];
    }
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let path = env::var_os("PATH").unwrap_or_default();
    [tools_dir().join("bin")]
        .into_iter()
        .chain(cargo_home.map(|home| home.join("bin")))
        .chain(env::split_paths(&path))
        .map(|dir| dir.join("bpf-linker"))
        .filter_map(|path| {
            let llvm = llvm_of_linker(&fs::read(&path).ok()?)?;
            // It does not start where its LLVM has been removed.
            stdout(Command::new(&path).arg("--version"))?;
            Some(Linker { path, llvm: Some(llvm) })
        })
        .collect()
}

/// Where `setup` installs, and remembers what it found. Not under version control.
pub(crate) fn tools_dir() -> PathBuf {
    workspace().join(".tools")
}

/// The root of the workspace: both users of this module lie one level below it.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a member has a workspace above it")
}

impl Linker {
    /// LLVM reads the bitcode of its own and of older majors.
    pub(crate) fn serves(&self, compiler: &Compiler) -> bool {
        self.llvm.is_none_or(|llvm| llvm >= compiler.llvm)
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { toolchain, llvm, release, core } = self;
        let core = match core {
            Core::Prebuilt => "core prebuilt",
            Core::Source => "core from rust-src",
        };
        write!(f, "rustc {release} of {toolchain} (LLVM {llvm}, {core})")
    }
}

impl fmt::Display for Linker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.llvm.map_or(Ok(()), |llvm| write!(f, " (LLVM {llvm})"))
    }
}

/// The names of rustup's toolchains; empty where there is no rustup.
fn rustup_toolchains() -> Vec<String> {
    let list = stdout(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
    list.lines().filter_map(|line| line.split_whitespace().next()).map(Into::into).collect()
}

/// Asks one toolchain whether it can build for [`TARGET`].
fn probe(toolchain: &str) -> Option<Compiler> {
    let rustc = |args: &[&str]| {
        // A sysroot is asked directly: that works without rustup too.
        let mut command = if Path::new(toolchain).is_absolute() {
            Command::new(Path::new(toolchain).join("bin/rustc"))
        } else {
            let mut command = Command::new("rustup");
            command.args(["run", toolchain, "rustc"]);
            command
        };
        stdout(command.args(args))
    };
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?);
    let rustlib = sysroot.join("lib/rustlib");
    let has_libcore =
        |entry: fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b"libcore-");
    let core = if fs::read_dir(rustlib.join(TARGET).join("lib"))
        .is_ok_and(|lib| lib.flatten().any(has_libcore))
    {
        Core::Prebuilt
    } else if rustlib.join("src/rust/library/core/Cargo.toml").is_file() {
        Core::Source
    } else {
        return None;
    };
    let (release, llvm) = versions(&rustc(&["-vV"])?)?;
    (minor(&release)? >= minor(env!("CARGO_PKG_RUST_VERSION"))?).then(|| Compiler {
        toolchain: toolchain.into(),
        llvm,
        core,
        release,
    })
}

/// The release, and the major of LLVM, from what `rustc -vV` prints.
fn versions(verbose: &str) -> Option<(String, u32)> {
    let field = |name| verbose.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((field("release:")?.into(), llvm))
}

/// The second number of a Rust version; the first will stay 1.
pub(crate) fn minor(version: &str) -> Option<u32> {
    version.split('.').nth(1)?.parse().ok()
}

/// The LLVM major inside a `bpf-linker`, which `--version` does not tell: read
/// off the name of the library it is linked to, or off LLVM's own version
/// where that is linked in.
fn llvm_of_linker(executable: &[u8]) -> Option<u32> {
    const PREFIXES: [&[u8]; 3] = [b"libLLVM.so.", b"libLLVM-", b"LLVM"];
    executable.split(|byte| *byte == 0).find_map(|string| {
        let version = PREFIXES.iter().find_map(|prefix| string.strip_prefix(*prefix))?;
        str::from_utf8(version).ok()?.split_once('.')?.0.parse().ok()
    })
}

/// What a command prints, if it succeeds. rustup must neither install a
/// toolchain to answer nor be tied to the one that runs us.
fn stdout(command: &mut Command) -> Option<String> {
    let output = command
        .env("RUSTUP_AUTO_INSTALL", "0")
        .env_remove("RUSTUP_TOOLCHAIN")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_a_nightly() {
        let verbose = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
                       release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(versions(verbose), Some(("1.97.0-nightly".into(), 22)));
        assert_eq!(versions("rustc 1.97.0"), None);
    }

    #[test]
    fn minor_of_release_and_of_package_version() {
        assert_eq!(minor("1.96.0+dfsg1-1~deb12u2"), Some(96));
        assert_eq!(minor("1.88"), Some(88));
        assert_eq!(minor("(none)"), None);
    }

    #[test]
    fn llvm_of_linker_shared_and_static() {
        assert_eq!(llvm_of_linker(b"\0libLLVM.so.22.1\0libc.so.6\0"), Some(22));
        assert_eq!(llvm_of_linker(b"\0libLLVM-17.so.1\0"), Some(17));
        assert_eq!(llvm_of_linker(b"\x7fELF\0LLVMAddAlias\0LLVM23.0.1\0"), Some(23));
        assert_eq!(llvm_of_linker(b"\0libc.so.6\0"), None);
    }
}
