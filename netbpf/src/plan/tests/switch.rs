//! From one datapath to the other.

use super::{
    super::switch,
    classic::{classic, complete_classic, judging},
    *,
};
use crate::datapath::Kind;

/// A network of eBPF as it is to be of iptables, and the other way.
fn switched(topology: &Topology) -> Topology {
    let (datapath, guard) = match topology.datapath {
        Kind::Ebpf => (Kind::Iptables, Guard::Routed),
        Kind::Iptables => (Kind::Ebpf, Guard::Learn),
    };
    Topology { datapath, guard, former: Some(topology.datapath), ..topology.clone() }
}

#[test]
fn to_iptables_the_kernel_knows_connections_before_rules_translate_them() {
    let (topology, mut whole) = one_network();
    whole.judged = true;
    assert_eq!(
        texts(&switch(&switched(&topology), &whole, &store())),
        [
            "remember that the network is being switched from ebpf to iptables",
            "remember which tables of nf_tables there are",
            "iptables-restore --noflush: hold what namespaces send, in table raw",
            "iptables-restore --noflush: 6 rules in table filter",
            "nft: net0 drops what would go back by net0-1, but to 02:6e:ac:13:00:02",
            "bridge link set dev net0-1 hairpin on",
            "sysctl net.ipv4.conf.net0.route_localnet=1",
            "tc: detach from_endpoint from ingress of net0-2",
            "tc: detach from_endpoint from ingress of net0-1",
            "conntrack: track the flows that eBPF carries",
            "iptables-restore --noflush: 5 rules in table nat",
            "tc: detach from_uplink from ingress of lo",
            "tc: detach from_uplink from ingress of up0",
            "conntrack: track the flows that eBPF carries",
            "sysctl net.ipv4.conf.lo.route_localnet=0",
            "sysctl net.ipv4.conf.lo.accept_local=0",
            "tc: detach to_uplink from egress of up0",
            "bpf: unpin and unload the programs and maps",
            "iptables-restore --noflush: 5 rules in table raw",
            "remember that the network is complete",
        ]
    );
}

#[test]
fn to_ebpf_its_flows_are_there_before_namespaces_send_by_it() {
    let topology = classic(&judging());
    let whole = complete_classic(&topology, &judging());
    assert_eq!(
        texts(&switch(&switched(&topology), &whole, &store())),
        [
            "remember that the network is being switched from iptables to ebpf",
            "bpf: load and pin the programs and maps, for 262144 flows (78 MiB)",
            "bpf: 172.19.0.0/24 never leaves by an uplink",
            "tc: attach to_uplink to egress of up0",
            "bpf: gateway 172.19.0.1 is 02:6e:ac:13:00:01",
            "bpf: endpoint 1 is a1 (172.19.0.2, 02:6e:ac:13:00:02) behind net0-1, at most 131072 flows",
            "bpf: endpoint 2 is a2 (172.19.0.3, 02:6e:ac:13:00:03) behind net0-2, at most 131072 flows",
            "bpf: uplink up0, outgoing packets carry 203.0.113.1",
            "bpf: publish 1 port range(s) of this network, 1 of all",
            "sysctl net.ipv4.conf.lo.accept_local=1",
            "sysctl net.ipv4.conf.lo.route_localnet=1",
            "tc: attach from_uplink to ingress of up0",
            "tc: attach from_uplink to ingress of lo",
            "iptables-restore --noflush: hold what namespaces send, in table raw",
            "bpf: go on with the connections that the kernel tracks",
            "iptables-restore --noflush: no rules in table nat; conntrack: end what they translated",
            "tc: attach from_endpoint to ingress of net0-1",
            "tc: attach from_endpoint to ingress of net0-2",
            "nft: net0 drops nothing more",
            "iptables-restore --noflush: no rules in table filter",
            "iptables-restore --noflush: no rules in table raw",
            "bridge link set dev net0-1 hairpin off",
            "sysctl net.ipv4.conf.net0.route_localnet=0",
            "nft: delete the tables that iptables made, if unused",
            "remember that the network is complete",
        ]
    );
}

/// Nothing that namespaces send goes by the stack while one datapath has the
/// connections and the other the packets.
#[test]
fn what_was_interrupted_goes_on_and_holds_what_namespaces_send() {
    let (topology, mut whole) = one_network();
    let to_iptables = switched(&topology);
    whole.networks[0].topology = to_iptables.clone();
    whole.networks[0].phase = Phase::Building;
    // The programs of namespaces are gone, all else is there.
    whole.datapath.as_mut().unwrap().attached.retain(|(hook, _)| *hook != Hook::FromEndpoint);
    let steps = texts(&up(&to_iptables, &whole, &store()));
    let at = |text: &str| steps.iter().position(|step| step.contains(text));
    assert!(at("hold what namespaces send") < at("track the flows"), "{steps:#?}");
    assert!(at("unload the programs") < at("5 rules in table raw"), "{steps:#?}");
    assert_eq!(steps.last().unwrap(), "remember that the network is complete");
    // Taken down instead, it takes both away.
    let steps = texts(&down(&whole.networks[0], &whole, &store()));
    for text in ["unload the programs", "no rules in table nat", "delete the tables"] {
        assert!(steps.iter().any(|step| step.contains(text)), "{text}: {steps:#?}");
    }
}

#[test]
fn a_network_with_nobody_to_switch_from_has_nothing_to_do() {
    let (topology, whole) = one_network();
    assert_eq!(texts(&switch(&topology, &whole, &store())), [""; 0]);
}

#[test]
fn what_other_networks_of_ebpf_need_stays() {
    let (_, first) = one_network();
    let second = topology("net1", "b", 1, &first);
    let both = complete(&second, &first);
    let steps = texts(&switch(&switched(&second), &both, &store()));
    for text in ["unload", "of up0", "of lo", "accept_local"] {
        assert!(!steps.iter().any(|step| step.contains(text)), "{text}: {steps:#?}");
    }
    for text in ["withdraw", "forget endpoint 3", "forget subnet 172.19.1.0/24"] {
        assert!(steps.iter().any(|step| step.contains(text)), "{text}: {steps:#?}");
    }
}
