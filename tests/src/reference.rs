//! The reference: the same network with the kernel's own bridge, routes and NAT.
//!
//! With `NETBPF_REFERENCE=iptables` in the environment, [`Host::up`](crate::Host::up)
//! asks netbpf for its other datapath. What a test demands of the eBPF datapath it
//! then demands of Linux's own NAT: so a test that is wrong is found before the
//! datapath is blamed, and every difference between the two has to be written
//! down in the test. What only eBPF has (counters, drop reasons) is left out
//! by [`skipped`], which says so.

use std::env;

/// Whether hosts are built with iptables instead of eBPF.
pub fn enabled() -> bool {
    match env::var("NETBPF_REFERENCE") {
        Ok(kind) if kind == "iptables" => true,
        Ok(kind) => panic!("NETBPF_REFERENCE={kind}: there is only iptables"),
        Err(_) => false,
    }
}

/// Whether something that only eBPF has is to be left out; says what.
pub fn skipped(what: &str) -> bool {
    if enabled() {
        eprintln!("not judged under the reference: {what}");
    }
    enabled()
}

/// The arguments of `netbpf up` for iptables, less those that are for eBPF only
/// and change nothing on the wire.
pub(crate) fn arguments(arguments: &str) -> String {
    let mut words = arguments.split_whitespace();
    let mut kept = vec!["--datapath", "iptables"];
    while let Some(word) = words.next() {
        match word {
            "--max-flows" | "--log-level" => drop(words.next()),
            word => kept.push(word),
        }
    }
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_ebpf_only_is_left_out() {
        let kept = arguments("--uplink up0 --max-flows 100 -p 8080:ns1:80 --log-level debug");
        assert_eq!(kept, "--datapath iptables --uplink up0 -p 8080:ns1:80");
    }
}
