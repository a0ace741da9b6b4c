//! A listing of everything that netbpf may have touched, to compare before and after.

use crate::{Netns, Sandbox, nft, wait};
use aya::programs::{SchedClassifier, TcAttachType};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// Everything there is, a line each: "where: what".
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    lines: BTreeSet<String>,
}

impl Listing {
    /// What the namespaces of one sandbox share: `/run` with the names of
    /// namespaces and the state, pins, mounts, processes.
    pub fn of_sandbox(sandbox: &Sandbox) -> Self {
        let mut listing = Self::default();
        sandbox.run(|| {
            listing.tree("file", Path::new("/run"));
            listing.tree("pin", Path::new("/sys/fs/bpf"));
            let mounts =
                fs::read_to_string("/proc/thread-self/mountinfo").expect("read the mounts");
            for line in mounts.lines() {
                let fields: Vec<&str> = line.split(' ').collect();
                listing.add("mount", fields[3..6].join(" "));
            }
        });
        for process in sandbox.processes() {
            listing.add("process", process);
        }
        listing
    }

    /// What is in a network namespace: links, addresses, routes, rules,
    /// permanent neighbours, FDB, qdiscs, filters, TCX programs, firewall
    /// tables, sysctls.
    pub fn of_netns(ns: &Netns) -> Self {
        // An address that the kernel still tries out brings a route when it is done.
        wait::until_true(&format!("addresses in {} are settled", ns.name()), || {
            ns.ip("-6 addr show tentative").is_empty()
        });
        let mut listing = Self::default();
        let what = |kind: &str| format!("{} {kind}", ns.name());
        for link in array(&ns.ip_json("ip", "-d link show")) {
            let name = text(&link, "ifname");
            listing.add(&what("link"), link_line(&link));
            for (hook, kind) in
                [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)]
            {
                for program in tcx_programs(ns, &name, kind) {
                    listing.add(&what("tcx"), format!("{name} {hook} {program}"));
                }
            }
        }
        for link in array(&ns.ip_json("ip", "addr show")) {
            for addr in array(&link["addr_info"]) {
                let line =
                    format!("{} {}/{}", text(&link, "ifname"), addr["local"], addr["prefixlen"]);
                listing.add(&what("address"), line);
            }
        }
        for (kind, tool, arguments) in [
            ("route", "ip", "route show table all"),
            ("route6", "ip", "-6 route show table all"),
            ("rule", "ip", "rule show"),
            ("neighbour", "ip", "neigh show nud permanent"),
            ("qdisc", "tc", "qdisc show"),
        ] {
            for line in array(&ns.ip_json(tool, arguments)) {
                if kind == "qdisc" && line["kind"] == "clsact" {
                    listing.filters(ns, &text(&line, "dev"));
                }
                listing.add(&what(kind), line);
            }
        }
        for entry in array(&ns.ip_json("bridge", "fdb show")) {
            // Multicast groups come and go with the timers of IPv6.
            if !text(&entry, "mac").starts_with("33:33") && !text(&entry, "mac").starts_with("01:")
            {
                listing.add(&what("fdb"), entry);
            }
        }
        for table in nft::tables(ns) {
            listing.add(&what("firewall"), table);
        }
        ns.run(|| listing.sysctls(&what("sysctl"), Path::new("/proc/sys/net")));
        listing
    }

    /// Both listings in one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.lines.extend(other.lines);
        self
    }

    /// The lines that contain `text`.
    pub fn with(&self, text: &str) -> Vec<&str> {
        self.lines.iter().map(String::as_str).filter(|line| line.contains(text)).collect()
    }

    /// Panics with the differences if there are any.
    #[track_caller]
    pub fn assert_same(&self, later: &Self) {
        let mut report = String::new();
        for (sign, from, to) in [('-', self, later), ('+', later, self)] {
            for line in from.lines.difference(&to.lines) {
                writeln!(report, "{sign} {line}").expect("write to a string");
            }
        }
        assert!(report.is_empty(), "not as it was before:\n{report}");
    }

    fn add(&mut self, kind: &str, line: impl std::fmt::Display) {
        self.lines.insert(format!("{kind}: {line}"));
    }

    fn filters(&mut self, ns: &Netns, link: &str) {
        for hook in ["ingress", "egress"] {
            for filter in array(&ns.ip_json("tc", &format!("filter show dev {link} {hook}"))) {
                self.add(&format!("{} filter", ns.name()), format!("{link} {hook} {filter}"));
            }
        }
    }

    fn tree(&mut self, kind: &str, directory: &Path) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            self.add(kind, path.display());
            if path.is_dir() && !path.is_symlink() {
                self.tree(kind, &path);
            }
        }
    }

    fn sysctls(&mut self, kind: &str, directory: &Path) {
        let entries = fs::read_dir(directory).expect("read the sysctls");
        let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        paths.retain(|path| !path.ends_with("nf_conntrack_count"));
        for path in paths {
            if path.is_dir() {
                self.sysctls(kind, &path);
            } else if let Ok(value) = fs::read_to_string(&path) {
                self.add(kind, format!("{} {}", path.display(), value.trim()));
            }
        }
    }
}

fn link_line(link: &Value) -> String {
    let mut line = String::new();
    for key in ["ifindex", "ifname", "mtu", "master", "address", "promiscuity", "group"] {
        write!(line, "{} ", link[key]).expect("write to a string");
    }
    write!(line, "{} xdp {} {}", link["linkinfo"]["info_kind"], link["xdp"], link["flags"])
        .expect("write to a string");
    line
}

fn tcx_programs(ns: &Netns, link: &str, kind: TcAttachType) -> Vec<String> {
    ns.run(|| match SchedClassifier::query_tcx(link, kind) {
        Ok((_, programs)) => programs
            .iter()
            .map(|program| format!("{} {}", program.id(), program.name_as_str().unwrap_or("?")))
            .collect(),
        // A kernel without TCX has no TCX programs either.
        Err(_) => Vec::new(),
    })
}

fn array(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}
