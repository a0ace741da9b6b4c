//! What the kernel can do, asked before anything is touched.

use std::{fs, path::Path, sync::OnceLock};

use aya::{
    programs::{ProgramError, ProgramType, SchedClassifier, TcAttachType},
    sys::is_program_supported,
    util::KernelVersion,
};

use super::bpffs;
use crate::error::{Context as _, Error, Result};

/// The oldest kernel that the datapath is made for.
const OLDEST: KernelVersion = KernelVersion::new(6, 1, 0);

/// The first kernel on which a packet redirected into a peer needs no help
/// with its type.
const RETYPES_PEERS: KernelVersion = KernelVersion::new(6, 15, 0);

/// What the kernel has of what is not needed, but better.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The kernel's version, as "6.12.3".
    pub kernel: String,
    /// Whether programs attach by TCX links: kernel 6.6 and later. Otherwise
    /// they are filters on a clsact qdisc.
    pub tcx: bool,
    /// Whether a BPF file system is mounted; if not, loading mounts one.
    pub bpffs: bool,
}

/// Finds out whether the datapath can run here. Changes nothing.
///
/// # Errors
/// What is lacking, and what to do about it.
pub fn probe() -> Result<Probe> {
    let kernel = kernel()?;
    if kernel < OLDEST {
        return Err(Error::failed(format!("kernel {kernel} is too old"))
            .hint(format!("netbpf needs kernel {OLDEST} or later")));
    }
    check_capabilities()?;
    check_loading()?;
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(Error::failed("the kernel does not tell its types")
            .because("/sys/kernel/btf/vmlinux is not there")
            .hint(
                "use a kernel that is built with CONFIG_DEBUG_INFO_BTF=y, as distributions' are",
            ));
    }
    Ok(Probe { kernel: kernel.to_string(), tcx: has_tcx(), bpffs: bpffs::has_bpffs() })
}

fn kernel() -> Result<KernelVersion> {
    KernelVersion::current().context("cannot tell the kernel's version")
}

/// Whether the datapath must set the type of packets redirected into a peer.
pub(crate) fn must_retype_peers() -> Result<bool> {
    Ok(kernel()? < RETYPES_PEERS)
}

/// Whether the kernel has TCX: asked of the loopback interface, which every
/// network namespace has.
pub(super) fn has_tcx() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok())
}

/// Capabilities by their numbers in `include/uapi/linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

fn check_capabilities() -> Result<()> {
    let status =
        fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let missing = missing_capabilities(effective(&status).unwrap_or(u64::MAX));
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::failed("not enough privileges to load eBPF programs")
        .because(format!("missing {}", missing.join(" and ")))
        .hint("run it as root, for example with sudo"))
}

/// Loads a program that does nothing. Capabilities tell too little: those of a user
/// namespace do not count here, and filters of system calls, security modules and
/// lockdown have their say.
fn check_loading() -> Result<()> {
    let what = "the kernel lets this process load no eBPF programs";
    match is_program_supported(ProgramType::SchedClassifier) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::failed("the kernel has no eBPF programs for network devices")
            .hint("use a kernel that is built with CONFIG_BPF_SYSCALL=y and CONFIG_NET_CLS_BPF")),
        Err(ProgramError::SyscallError(error)) => {
            Err(Error::failed(what).because(error.io_error).hint(
                "run it as root of the machine: that of a user namespace or a container may not be \
                 allowed to",
            ))
        }
        Err(error) => Err(Error::failed(what).because(error)),
    }
}

/// The effective capabilities in the text of `/proc/<pid>/status`.
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |capability: u32| effective & (1 << capability) != 0;
    let mut missing = Vec::new();
    if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    if !has(CAP_NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x01ff_ffff_ffff));
        assert_eq!(effective("Name:\tx\n"), None);
    }

    #[test]
    fn each_missing_capability_is_named() {
        assert_eq!(missing_capabilities(0), ["CAP_BPF", "CAP_NET_ADMIN"]);
        assert_eq!(missing_capabilities(1 << CAP_SYS_ADMIN), ["CAP_NET_ADMIN"]);
        assert!(missing_capabilities(1 << CAP_BPF | 1 << CAP_NET_ADMIN).is_empty());
    }
}
