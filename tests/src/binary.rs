//! Which netbpf is tested.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::SystemTime,
};

/// The binary under test: `$NETBPF_BIN`, else the newest that was built here.
///
/// Panics if there is none: a root test that cannot run has failed.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let found = env::var_os("NETBPF_BIN").map(PathBuf::from).or_else(newest_built);
        let found = found.expect("no netbpf to test: `cargo build --release -p netbpf`");
        found.canonicalize().unwrap_or_else(|e| panic!("{}: {e}", found.display()))
    })
}

fn newest_built() -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let built = |profile: &str| {
        let path = target.join(profile).join("netbpf");
        let modified: SystemTime = fs::metadata(&path).ok()?.modified().ok()?;
        Some((modified, path))
    };
    let newest = ["release", "debug"].into_iter().filter_map(built).max()?;
    Some(newest.1)
}
