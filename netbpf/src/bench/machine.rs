//! Where a bench ran: what of the machine decides about its numbers.

use std::{collections::BTreeMap, fs, process::Command};

use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

use super::clock;
use crate::error::{Context as _, Result};

/// Sysctls and switches that are recorded, as paths.
const RECORDED: [&str; 8] = [
    "/proc/sys/net/core/bpf_jit_enable",
    "/proc/sys/net/core/bpf_jit_harden",
    "/proc/sys/net/core/netdev_max_backlog",
    "/proc/sys/net/ipv4/tcp_congestion_control",
    "/proc/sys/net/netfilter/nf_conntrack_buckets",
    "/proc/sys/net/netfilter/nf_conntrack_max",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/devices/system/clocksource/clocksource0/current_clocksource",
];

/// A machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MachineInfo {
    /// Release and version of the kernel.
    pub kernel: String,
    /// Architecture.
    pub arch: String,
    /// The CPUs' model.
    pub cpu: String,
    /// How many of them may be used.
    pub cpus: usize,
    /// What sets their frequency; nothing where nobody does, as in most virtual machines.
    pub governor: Option<String>,
    /// The hypervisor's flag of the CPU.
    pub virtual_machine: bool,
    /// Bytes of memory.
    pub memory: u64,
    /// Processes that were running or ready to, on average of the minute before.
    pub load: String,
    /// Version of netbpf.
    pub netbpf: String,
    /// Version of iptables; nothing if there is none.
    pub iptables: Option<String>,
    /// Sysctls and switches by their paths.
    pub sysctls: BTreeMap<String, String>,
}

impl MachineInfo {
    /// This one.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn here() -> Result<Self> {
        let names = uname().context("cannot tell the kernel's version")?;
        let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = field(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok());
        let recorded = RECORDED.iter().filter_map(|path| Some(((*path).to_owned(), read(path)?)));
        Ok(Self {
            kernel: format!("{} {}", text(names.release()), text(names.version())),
            arch: text(names.machine()),
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cpus: clock::cpus()?.len(),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            virtual_machine: field(&cpuinfo, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            memory: kib.unwrap_or(0_u64) * 1024,
            load: read("/proc/loadavg")
                .and_then(|text| Some(text.split(' ').next()?.to_owned()))
                .unwrap_or_default(),
            netbpf: env!("CARGO_PKG_VERSION").to_owned(),
            iptables: iptables(),
            sysctls: recorded.collect(),
        })
    }
}

impl MachineInfo {
    /// Whether others had so much to do that it shows in the numbers.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "there are few CPUs")]
    pub fn is_busy(&self) -> bool {
        self.load.parse::<f64>().is_ok_and(|load| load > 0.3 * self.cpus as f64)
    }
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// What `iptables --version` says.
fn iptables() -> Option<String> {
    let output = Command::new("iptables").arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_the_kernels_lists() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu hypervisor\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(field(text, "cpu"), None);
    }

    #[test]
    fn this_machine_is_described() {
        let machine = MachineInfo::here().expect("a machine");
        assert!(machine.cpus > 0 && machine.memory > 0, "{machine:?}");
    }
}
