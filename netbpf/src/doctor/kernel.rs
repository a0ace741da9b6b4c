//! The kernel, and what this process may do.

use std::{fs, path::Path};

use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    unistd::{AccessFlags, faccessat},
};

use super::Finding;
use crate::{
    bpf::{self, LoadOptions},
    error::Result,
    host::{CAPABILITIES, PINS, RUN, effective_capabilities},
    net::netns,
};

/// Looks at them. The second is whether all is there that is needed to look at the host.
///
/// # Errors
/// This process is not told of its own privileges.
pub fn look() -> Result<(Vec<Finding>, bool)> {
    let mut found = Vec::new();
    let effective = effective_capabilities()?;
    let lacking = CAPABILITIES.iter().filter(|(bit, _)| effective >> bit & 1 == 0);
    let lacking: Vec<&str> = lacking.map(|(_, name)| *name).collect();
    for name in &lacking {
        let why = match *name {
            "CAP_NET_ADMIN" => "interfaces, routes, sysctls of networks and programs need it",
            _ => "entering and naming namespaces, and programs by their numbers, need it",
        };
        found
            .push(Finding::problem("privileges", format!("{name} is missing: {why}")).hint(
                format!("run it as root, or with {name}, for example by setpriv or systemd"),
            ));
    }
    if lacking.is_empty() {
        let names: Vec<&str> = CAPABILITIES.iter().map(|(_, name)| *name).collect();
        found.push(Finding::ok("privileges", names.join(", ")));
        found.extend(programs());
    } else {
        found.push(Finding::note("kernel", "programs cannot be tried without these privileges"));
    }
    found.extend(places());
    found.extend(memory());
    Ok((found, lacking.is_empty()))
}

/// What the kernel has of programs.
fn programs() -> Vec<Finding> {
    let probe = match bpf::probe() {
        Ok(probe) => probe,
        Err(error) => {
            return vec![Finding::of("kernel", &error).hint(format!(
                "{}; until then: netbpf up --datapath iptables",
                error.advice().unwrap_or("eBPF cannot run here")
            ))];
        }
    };
    let mut found = vec![Finding::ok(
        "kernel",
        format!("{}, loads programs and tells its types (BTF)", probe.kernel),
    )];
    found.push(match bpf::lacking() {
        Ok(lacking) if lacking.is_empty() => {
            Finding::ok("helpers and maps", "all that the datapath uses")
        }
        Ok(lacking) => {
            Finding::problem("helpers and maps", format!("the kernel lacks {}", lacking.join(", ")))
                .hint("use a newer kernel, or netbpf up --datapath iptables")
        }
        Err(error) => Finding::of("helpers and maps", &error),
    });
    found.push(if probe.tcx {
        Finding::ok("TCX", "programs attach by links, behind those that are there")
    } else {
        Finding::note("TCX", "the kernel has none: programs attach as filters of a clsact qdisc")
    });
    found.push(if probe.bpffs {
        Finding::ok("BPF file system", "mounted on /sys/fs/bpf")
    } else {
        Finding::note("BPF file system", "none on /sys/fs/bpf: up mounts one, which stays")
    });
    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable");
    if jit.is_ok_and(|value| value.trim() == "0") {
        found.push(
            Finding::note("JIT", "off: programs are interpreted, many times slower")
                .hint("sysctl net.core.bpf_jit_enable=1"),
        );
    }
    found
}

/// Whether what is written can be: of who is not root, capabilities alone do not say.
fn places() -> Vec<Finding> {
    let places = [RUN, netns::DIR, PINS];
    let lacking = places.iter().filter_map(|place| {
        // What is not there is made in what is.
        let there = Path::new(place).ancestors().find(|path| path.exists())?;
        // By this process's capabilities, too, of which `access` knows nothing.
        let how = AccessFlags::W_OK | AccessFlags::X_OK;
        let may = faccessat(AT_FDCWD, there, how, AtFlags::AT_EACCESS);
        may.is_err().then(|| {
            let there = there.display();
            Finding::problem(*place, format!("this user may not write to {there}"))
                .hint(format!("run it as root, with CAP_DAC_OVERRIDE, or make {place} this user's"))
        })
    });
    let lacking: Vec<Finding> = lacking.collect();
    if lacking.is_empty() { vec![Finding::ok("files", places.join(", "))] } else { lacking }
}

/// Whether this control group may have the memory of the flow table.
fn memory() -> Option<Finding> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let limit = format!("/sys/fs/cgroup{group}/memory.max");
    let limit: u64 = fs::read_to_string(limit).ok()?.trim().parse().ok()?;
    let needed = LoadOptions::default().flow_memory();
    (limit < 2 * needed).then(|| {
        let (limit, needed) = (limit >> 20, needed.div_ceil(1 << 20));
        let what = format!("{limit} MiB for this control group; the flow table takes {needed}");
        Finding::note("memory", what).hint("choose fewer flows with --max-flows")
    })
}
