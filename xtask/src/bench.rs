//! `bench`: `netbpf bench` of a release build.

use std::ffi::OsString;

use anyhow::Result;

use crate::run;

/// Builds netbpf and becomes `netbpf bench`.
pub(crate) fn bench(args: &[OsString]) -> Result<()> {
    let words: Vec<OsString> =
        std::iter::once("bench".into()).chain(args.iter().cloned()).collect();
    run::run_for(&words, "measuring in network namespaces")
}
