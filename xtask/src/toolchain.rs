//! Finds what builds the eBPF programs: a Rust compiler that has `core` for
//! [`TARGET`], and a `bpf-linker` that can read that compiler's bitcode.
//!
//! Shared with `netbpf/build.rs`, hence the standard library only. Nothing is
//! installed or changed here; that is `setup`'s part.

use std::{
    env,
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The target that the eBPF programs are compiled for.
pub(crate) const TARGET: &str =
    if cfg!(target_endian = "little") { "bpfel-unknown-none" } else { "bpfeb-unknown-none" };

/// Names the compiler to use: a rustup toolchain, or the absolute path of a sysroot.
pub(crate) const COMPILER_VAR: &str = "NETBPF_EBPF_TOOLCHAIN";

/// Names the `bpf-linker` to use.
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
    pub(crate) sysroot: PathBuf,
    pub(crate) core: Core,
    pub(crate) llvm: u32,
    release: String,
}

/// A `bpf-linker`, and the LLVM inside it.
#[derive(Clone, Debug)]
pub(crate) struct Linker {
    pub(crate) path: PathBuf,
    llvm: u32,
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

/// The usable compilers, best first: nightlies of rustup's, its stable ones,
/// Debian's in `/usr`. Where [`COMPILER_VAR`] is set, none but that one.
pub(crate) fn compilers() -> Vec<Compiler> {
    let mut sysroots = rustup_sysroots();
    if let Ok(named) = env::var(COMPILER_VAR) {
        let is_named = |sysroot: &PathBuf| {
            sysroot.ends_with(&named) || name(sysroot).starts_with(&format!("{named}-"))
        };
        sysroots.retain(is_named);
        if Path::new(&named).is_absolute() {
            sysroots = vec![named.into()];
        }
    } else {
        sysroots.sort_by_key(|sysroot| !name(sysroot).starts_with("nightly"));
        sysroots.push("/usr".into());
    }
    sysroots.into_iter().filter_map(Compiler::probe).collect()
}

/// Every working `bpf-linker`, best first. Where [`LINKER_VAR`] is set, none but that one.
pub(crate) fn linkers() -> Vec<Linker> {
    let candidates = if let Some(named) = env::var_os(LINKER_VAR) {
        vec![named.into()]
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        let cargo_bin = home("CARGO_HOME", ".cargo").map(|home| home.join("bin"));
        let dirs =
            [tools_dir().join("bin")].into_iter().chain(cargo_bin).chain(env::split_paths(&path));
        dirs.map(|dir| dir.join("bpf-linker")).collect()
    };
    candidates.into_iter().filter_map(Linker::probe).collect()
}

impl Compiler {
    /// Asks one sysroot's compiler whether it can build for [`TARGET`].
    fn probe(sysroot: PathBuf) -> Option<Self> {
        let rustlib = sysroot.join("lib/rustlib");
        let is_libcore =
            |entry: fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b"libcore-");
        let core = if fs::read_dir(rustlib.join(TARGET).join("lib"))
            .is_ok_and(|entries| entries.flatten().any(is_libcore))
        {
            Core::Prebuilt
        } else if rustlib.join("src/rust/library/core/Cargo.toml").is_file() {
            Core::Source
        } else {
            return None;
        };
        let verbose = stdout(Command::new(sysroot.join("bin/rustc")).arg("-vV"))?;
        let (release, llvm) = parse_versions(&verbose)?;
        (minor(&release)? >= minor(env!("CARGO_PKG_RUST_VERSION"))?).then_some(Self {
            sysroot,
            core,
            llvm,
            release,
        })
    }
}

impl Linker {
    fn probe(path: PathBuf) -> Option<Self> {
        let llvm = parse_linker_llvm(&fs::read(&path).ok()?)?;
        // It does not start where the library of its LLVM has been removed.
        stdout(Command::new(&path).arg("--version"))?;
        Some(Self { path, llvm })
    }

    /// LLVM reads the bitcode of its own and of older majors.
    fn serves(&self, compiler: &Compiler) -> bool {
        self.llvm >= compiler.llvm
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sysroot, core, llvm, release } = self;
        let core = match core {
            Core::Prebuilt => "prebuilt",
            Core::Source => "from rust-src",
        };
        write!(f, "rustc {release} in {} (LLVM {llvm}, core {core})", sysroot.display())
    }
}

impl fmt::Display for Linker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (LLVM {})", self.path.display(), self.llvm)
    }
}

/// Where `setup` installs, and notes what it found. Not under version control.
pub(crate) fn tools_dir() -> PathBuf {
    workspace().join(".tools")
}

/// The root of the workspace: both users of this module lie one level below it.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a member has a workspace above it")
}

/// The second number of a Rust version; the first will stay 1.
pub(crate) fn minor(version: &str) -> Option<u32> {
    version.split('.').nth(1)?.parse().ok()
}

/// rustup's toolchains, read off its folder: a toolchain that is only linked
/// to another's folder counts once.
fn rustup_sysroots() -> Vec<PathBuf> {
    let toolchains = home("RUSTUP_HOME", ".rustup").map(|home| home.join("toolchains"));
    let entries = toolchains.and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    let mut sysroots: Vec<_> =
        entries.filter_map(|entry| entry.path().canonicalize().ok()).collect();
    sysroots.sort();
    sysroots.dedup();
    sysroots
}

fn name(sysroot: &Path) -> &str {
    sysroot.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

/// A tool's folder: where the variable says, else in the home directory.
fn home(variable: &str, default: &str) -> Option<PathBuf> {
    let named = env::var_os(variable).map(PathBuf::from);
    named.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(default)))
}

/// The release, and the major of LLVM, in what `rustc -vV` prints.
fn parse_versions(verbose: &str) -> Option<(String, u32)> {
    let field = |name| verbose.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((field("release:")?.into(), llvm))
}

/// The LLVM major inside a `bpf-linker`, which `--version` does not tell: read
/// off the name of the library it is linked to, or off LLVM's own version
/// where that is linked in.
fn parse_linker_llvm(executable: &[u8]) -> Option<u32> {
    const PREFIXES: [&[u8]; 3] = [b"libLLVM.so.", b"libLLVM-", b"LLVM"];
    executable.split(|byte| *byte == 0).find_map(|string| {
        let version = PREFIXES.iter().find_map(|prefix| string.strip_prefix(*prefix))?;
        str::from_utf8(version).ok()?.split_once('.')?.0.parse().ok()
    })
}

/// What a command prints, if it succeeds.
fn stdout(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_a_nightly() {
        let verbose = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
                       release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(parse_versions(verbose), Some(("1.97.0-nightly".into(), 22)));
        assert_eq!(parse_versions("rustc 1.97.0"), None);
    }

    #[test]
    fn minor_of_release_and_of_package_version() {
        assert_eq!(minor("1.96.0+dfsg1-1~deb12u2"), Some(96));
        assert_eq!(minor("1.88"), Some(88));
        assert_eq!(minor("(none)"), None);
    }

    #[test]
    fn linker_llvm_shared_and_static() {
        assert_eq!(parse_linker_llvm(b"\0libLLVM.so.22.1\0libc.so.6\0"), Some(22));
        assert_eq!(parse_linker_llvm(b"\0libLLVM-17.so.1\0"), Some(17));
        assert_eq!(parse_linker_llvm(b"\x7fELF\0LLVMAddAlias\0LLVM23.0.1\0"), Some(23));
        assert_eq!(parse_linker_llvm(b"\0libc.so.6\0"), None);
    }
}
