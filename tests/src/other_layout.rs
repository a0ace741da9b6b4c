//! A netbpf whose maps are of the next layout: flows are longer, and all of them lies
//! elsewhere.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Builds it, if it is not built yet, beside the binary under test; returns where it is.
pub fn other_layout() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        let target = workspace.join("target/other-layout");
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .current_dir(workspace)
            .args(["build", "--quiet", "--package", "netbpf", "--features", "other-layout"])
            .arg("--target-dir")
            .arg(&target)
            // It is not looked into, and half as long to build.
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .status()
            .expect("cargo starts");
        assert!(status.success(), "cannot build a netbpf of another layout: {status}");
        target.join("debug/netbpf")
    })
}
