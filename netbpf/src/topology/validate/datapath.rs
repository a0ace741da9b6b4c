//! Whether a datapath can do what is asked of it.

use super::super::{Guard, LinkName, Request};
use crate::{
    bpf::LogLevel,
    datapath::Kind,
    error::{Error, Key, Result},
};

/// The options that depend on the datapath, besides uplinks.
const KEYS: [&str; 4] = ["source-guard", "max-flows", "flow-limit", "log-level"];

/// Refuses what was asked for and the datapath cannot do.
pub(super) fn check_datapath(datapath: Kind, request: &Request) -> Result<()> {
    let refused = |option: String, why: &str, hint: &str| {
        let fallback = request.fallback.as_ref();
        let why = fallback.map_or(why.to_owned(), |reason| {
            format!("{why}; and the eBPF datapath cannot run here: {reason}")
        });
        let name = datapath.name();
        let key = option.trim_start_matches('-').split(' ').next().unwrap_or_default();
        let key = KEYS.into_iter().find(|known| *known == key).unwrap_or("uplink");
        Err(Error::usage(format!("{option} is not for the {name} datapath"))
            .because(why)
            .hint(hint)
            .about(Key::of(key)))
    };
    if let Some(guard) = request.guard.filter(|guard| !guard.is_possible(datapath)) {
        let option = format!("--source-guard {}", format!("{guard:?}").to_lowercase());
        return match guard {
            Guard::Routed => refused(
                option,
                "it is what iptables can do; eBPF guards all that namespaces send",
                "leave it out for learn, or choose strict or off",
            ),
            _ => refused(
                option,
                "rules of iptables see what is routed, not what namespaces send one another, nor ARP",
                "leave it out for routed: what is routed carries an address of the subnet, a \
                 namespace's from its own MAC",
            ),
        };
    }
    if datapath == Kind::Ebpf {
        return Ok(());
    }
    if request.max_flows.is_some() || request.flow_limit.is_some() {
        let option = if request.max_flows.is_some() { "--max-flows" } else { "--flow-limit" };
        return refused(
            option.into(),
            "its flows are the kernel's tracked connections, of which all of the host has one table",
            "leave it out; the table's size is net.netfilter.nf_conntrack_max",
        );
    }
    if let Some(level) = request.log_level.filter(|&level| level != LogLevel::Off) {
        return refused(
            format!("--log-level {}", level.name()),
            "rules of iptables log to the kernel's log or not at all",
            "leave it out",
        );
    }
    match request.uplinks.iter().find(|name| is_wildcard(name)) {
        None => Ok(()),
        Some(name) => refused(
            format!("the uplink {name}"),
            "to iptables a name that ends with + means all that begin so",
            "rename it: ip link set DEV name NEW",
        ),
    }
}

fn is_wildcard(name: &LinkName) -> bool {
    name.as_str().ends_with('+')
}
