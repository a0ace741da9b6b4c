//! Networks whose namespaces are kept apart.

use super::{
    texts,
    world::{World, request},
};
use crate::{datapath::Kind, topology::Request};

fn isolated(kind: Kind, publish: &[&str], allow: &[&str]) -> Request {
    let words = |all: &[&str]| all.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    Request {
        isolate: Some(true),
        allow: allow.iter().map(|pair| pair.parse().unwrap()).collect(),
        ..request(kind, &words(&["a", "b", "c"]), &words(publish))
    }
}

/// The steps of the first `up` that have to do with isolation.
fn of_isolation(request: &Request) -> Vec<String> {
    let (_, steps) = World::new().plan(request);
    let mut all = texts(&steps);
    let words = ["isolated", "forwards", "reach", "ip link set net0-"];
    all.retain(|step| words.iter().any(|word| step.contains(word)));
    all
}

#[test]
fn a_port_is_isolated_as_soon_as_it_is_one() {
    assert_eq!(
        of_isolation(&isolated(Kind::Ebpf, &["80:a:80"], &[])),
        [
            "ip link set net0-1 master net0",
            "bridge link set dev net0-1 isolated on",
            "ip link set net0-2 master net0",
            "bridge link set dev net0-2 isolated on",
            "ip link set net0-3 master net0",
            "bridge link set dev net0-3 isolated on",
            "bpf: endpoint 1 is a (172.19.0.2, 02:6e:ac:13:00:02) behind net0-1, at most 87381 flows, isolated",
            "bpf: endpoint 2 is b (172.19.0.3, 02:6e:ac:13:00:03) behind net0-2, at most 87381 flows, isolated",
            "bpf: endpoint 3 is c (172.19.0.4, 02:6e:ac:13:00:04) behind net0-3, at most 87381 flows, isolated",
        ]
    );
}

#[test]
fn rules_of_the_bridge_come_before_the_ports_that_they_are_about() {
    let steps = of_isolation(&isolated(Kind::Ebpf, &[], &["c:a"]));
    assert_eq!(
        steps[..5],
        [
            "nft: net0 forwards nothing from or to net0-1, net0-3, but between net0-1 and net0-3",
            "ip link set net0-1 master net0",
            "ip link set net0-2 master net0",
            "bridge link set dev net0-2 isolated on",
            "ip link set net0-3 master net0",
        ]
    );
    assert_eq!(steps[5], "bpf: reach each other all the same: a:c");
}

/// The world's bridges have their packets judged by iptables, which translates what is for
/// published ports there.
#[test]
fn where_iptables_sees_what_is_bridged_published_ports_are_reached() {
    let steps = of_isolation(&isolated(Kind::Iptables, &["80:a:80"], &[]));
    assert_eq!(
        steps,
        [
            "nft: net0 forwards nothing from or to net0-1, but to published ports",
            "ip link set net0-1 master net0",
            "ip link set net0-2 master net0",
            "bridge link set dev net0-2 isolated on",
            "ip link set net0-3 master net0",
            "bridge link set dev net0-3 isolated on",
        ]
    );
}

/// Nobody reaches for a moment whom it may reach neither before nor afterwards.
#[test]
fn another_pair_takes_the_place_of_one_without_a_gap() {
    let mut world = World::new();
    world.make(&isolated(Kind::Ebpf, &[], &["a:b"]));
    let (_, steps) = world.plan(&isolated(Kind::Ebpf, &[], &["b:c"]));
    assert_eq!(
        texts(&steps),
        [
            "remember what the network is to be",
            "bridge link set dev net0-1 isolated on",
            "nft: net0 forwards nothing from or to net0-2, net0-3, but between net0-2 and net0-3",
            "bpf: reach each other all the same: b:c",
            "bridge link set dev net0-3 isolated off",
            "remember that the network is complete",
        ]
    );
}

#[test]
fn isolation_ends_with_the_rules_of_the_bridge() {
    let mut world = World::new();
    world.make(&isolated(Kind::Ebpf, &[], &["a:b"]));
    let open = Request { isolate: None, allow: Vec::new(), ..isolated(Kind::Ebpf, &[], &[]) };
    let (_, steps) = world.plan(&open);
    let texts = texts(&steps);
    assert_eq!(texts[1], "bpf: no isolated namespaces reach each other");
    assert_eq!(
        texts[texts.len() - 3..],
        [
            "bridge link set dev net0-3 isolated off",
            "nft: net0 forwards all that it may",
            "remember that the network is complete",
        ]
    );
}
