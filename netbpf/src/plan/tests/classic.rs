//! Networks of iptables.

use super::*;
use crate::{
    datapath::{
        Kind,
        iptables::{Table, TableRules},
    },
    observe::RulesSeen,
};

pub(super) fn classic(observed: &Observed) -> Topology {
    let topology = topology("net0", "a", 0, observed);
    Topology { datapath: Kind::Iptables, guard: Guard::Routed, ..topology }
}

/// A host whose bridges have their packets judged by iptables.
pub(super) fn judging() -> Observed {
    Observed { judged: true, ..bare() }
}

/// The host after everything that the network consists of was made.
pub(super) fn complete_classic(topology: &Topology, before: &Observed) -> Observed {
    let mut seen = complete(topology, before);
    seen.datapath = None;
    seen.switches = [Switch::IpForward].into();
    seen.switched = [Switch::IpForward].into();
    let rules = TableRules::of(topology, before);
    let texts = rules.iter().map(|rules| rules.setting(&RulesSeen::default()));
    // As `iptables-save` has it.
    seen.rules = RulesSeen::read(&texts.collect::<String>().replace("\n-I ", "\n-A "));
    seen.localnet.insert(topology.name.clone());
    let bridge = topology.name.clone();
    seen.unreflecting.extend(before.judged.then_some(bridge));
    let published = seen.links.iter_mut().find(|link| link.name == "net0-1").unwrap();
    published.hairpin = before.judged;
    seen
}

#[test]
fn rules_come_before_what_they_are_about_and_forwarding_last() {
    let steps = up(&classic(&judging()), &judging(), &store());
    assert_eq!(
        texts(&steps),
        [
            "remember the network in /run/netbpf/1/net0.json",
            "remember which tables of nf_tables there are",
            "iptables-restore --noflush: 5 rules in table raw",
            "iptables-restore --noflush: 6 rules in table filter",
            "iptables-restore --noflush: 5 rules in table nat",
            "ip link add net0 address 02:6e:ac:13:00:01 mtu 1500 up type bridge stp_state 0 forward_delay 0",
            "ip address add 172.19.0.1/24 dev net0",
            "ip netns add a1",
            "ip link add net0-1 mtu 1500 up type veth peer eth0 netns a1 address 02:6e:ac:13:00:02 mtu 1500",
            "ip -n a1 link set lo up",
            "ip -n a1 link set eth0 up",
            "ip -n a1 address add 172.19.0.2/24 dev eth0",
            "ip -n a1 route add default via 172.19.0.1 dev eth0",
            "ip netns add a2",
            "ip link add net0-2 mtu 1500 up type veth peer eth0 netns a2 address 02:6e:ac:13:00:03 mtu 1500",
            "ip -n a2 link set lo up",
            "ip -n a2 link set eth0 up",
            "ip -n a2 address add 172.19.0.3/24 dev eth0",
            "ip -n a2 route add default via 172.19.0.1 dev eth0",
            "ip link set net0-1 master net0",
            "bridge fdb add 02:6e:ac:13:00:02 dev net0-1 master static",
            "ip link set net0-2 master net0",
            "bridge fdb add 02:6e:ac:13:00:03 dev net0-2 master static",
            "nft: net0 drops what would go back by net0-1, but to 02:6e:ac:13:00:02",
            "bridge link set dev net0-1 hairpin on",
            "sysctl net.ipv4.conf.net0.route_localnet=1",
            "sysctl net.ipv4.ip_forward=1",
            "remember that the network is complete",
        ]
    );
}

#[test]
fn a_bridge_that_is_not_judged_needs_no_hairpin_mode() {
    let steps = texts(&up(&classic(&bare()), &bare(), &store()));
    assert!(!steps.iter().any(|step| step.contains("hairpin") || step.contains("nft")));
}

#[test]
fn a_network_of_iptables_that_is_all_there_needs_no_step_and_each_lack_one() {
    let topology = classic(&judging());
    let whole = complete_classic(&topology, &judging());
    assert_eq!(texts(&up(&topology, &whole, &store())), [""; 0]);
    let cases: [Case<'_>; 6] = [
        ("nft: net0 drops what would go back by net0-1, but to 02:6e:ac:13:00:02", &|seen| {
            seen.unreflecting.clear();
        }),
        ("bridge link set dev net0-1 hairpin on", &|seen| {
            seen.links.iter_mut().for_each(|link| link.hairpin = false);
        }),
        ("sysctl net.ipv4.conf.net0.route_localnet=1", &|seen| seen.localnet.clear()),
        ("sysctl net.ipv4.ip_forward=1", &|seen| seen.switches.clear()),
        ("ip link set net0-2 master net0", &|seen| {
            seen.links.iter_mut().filter(|l| l.name == "net0-2").for_each(|l| l.master = None);
        }),
        // An address that the uplink has got besides.
        ("iptables-restore --noflush: 6 rules in table nat", &|seen| {
            seen.addresses.push(address(2, Ipv4Addr::new(203, 0, 113, 9)));
        }),
    ];
    for (text, remove) in cases {
        let mut seen = whole.clone();
        remove(&mut seen);
        let steps = up(&topology, &seen, &store());
        assert_eq!(texts(&steps), [text]);
        assert!(!steps[0].lack().is_empty());
    }
}

#[test]
fn the_last_network_of_iptables_takes_everything_with_it() {
    let topology = classic(&judging());
    let whole = complete_classic(&topology, &judging());
    assert_eq!(
        texts(&down(&whole.networks[0], &whole, &store())),
        [
            "remember that the network is being taken down",
            "sysctl net.ipv4.ip_forward=0, and what changed along with it",
            "nft: net0 drops nothing more",
            "ip netns delete a2",
            "ip netns delete a1",
            "ip link delete net0-2",
            "ip link delete net0-1",
            "ip link delete net0",
            "iptables-restore --noflush: no rules in table nat; conntrack: end what they translated",
            "iptables-restore --noflush: no rules in table filter",
            "iptables-restore --noflush: no rules in table raw",
            "nft: delete the tables that iptables made, if unused",
            "remove /run/netbpf/1/net0.json",
        ]
    );
    // What the bridge drops it drops whether it is judged by now or not.
    let later = Observed { judged: false, ..whole };
    let steps = texts(&down(&later.networks[0], &later, &store()));
    assert!(steps.iter().any(|step| step.starts_with("nft: net0")), "{steps:#?}");
}

/// What is left of the first steps when they are undone: what each has made, less
/// what is taken away.
fn left(steps: &[Step]) -> Vec<Step> {
    let mut made: Vec<Step> = steps.iter().filter_map(Step::inverse).collect();
    for step in undo(steps) {
        let place = made.iter().position(|inverse| *inverse == step);
        made.remove(place.unwrap_or_else(|| panic!("{step} takes away what was not made")));
    }
    made
}

#[test]
fn whichever_step_fails_nothing_is_left_and_rules_outlast_what_they_are_about() {
    let with_ebpf = topology("net0", "a", 0, &bare());
    for topology in [classic(&judging()), with_ebpf] {
        let steps = up(&topology, &judging(), &store());
        for failed in 0..=steps.len() {
            assert_eq!(texts(&left(&steps[..failed])), [""; 0], "step {failed}");
            let undo = texts(&undo(&steps[..failed]));
            let first = |word: &str| undo.iter().position(|step| step.starts_with(word));
            let last = |word: &str| undo.iter().rposition(|step| step.starts_with(word));
            for (thing, guard) in
                [("ip netns", "iptables"), ("ip link", "iptables"), ("ip netns", "tc: detach to_")]
            {
                let guard = first(guard);
                assert!(guard.is_none() || last(thing) < guard, "step {failed}: {undo:#?}");
            }
            assert!(failed == 0 || undo.last().unwrap().starts_with("remove "), "{undo:#?}");
        }
    }
}

#[test]
fn another_network_of_iptables_keeps_the_tables() {
    let first = classic(&judging());
    let whole = complete_classic(&first, &judging());
    let second = Topology {
        datapath: Kind::Iptables,
        guard: Guard::Routed,
        ..topology("net1", "b", 1, &whole)
    };
    let steps = up(&second, &whole, &store());
    assert!(!steps.contains(&Step::KeepTables));
    assert!(!texts(&steps).iter().any(|step| step.contains("ip_forward")));
    let mut both = whole.clone();
    both.networks.push(Recorded {
        topology: second,
        phase: Phase::Up,
        journal: Journal::default(),
    });
    let steps = down(&both.networks[0], &both, &store());
    assert!(!steps.contains(&Step::TidyTables));
    let cleared = steps.iter().filter_map(|step| match step {
        Step::ClearRules { rules } => Some(rules.table),
        _ => None,
    });
    assert_eq!(cleared.collect::<Vec<_>>(), [Table::Nat, Table::Filter, Table::Raw]);
}
