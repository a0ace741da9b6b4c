//! Two namespaces and nothing else.

use super::*;

fn direct() -> Topology {
    let request = Request {
        namespaces: ["a=10.0.0.1/24", "b=10.0.0.2/24"].map(|ns| ns.parse().unwrap()).into(),
        direct: true,
        ..Request::named("net0")
    };
    Topology::validate(&request, &bare()).unwrap()
}

/// The host after all of it was made.
fn whole(topology: &Topology) -> Observed {
    let mut seen = bare();
    for endpoint in &topology.endpoints {
        let end = Link { mac: Some(endpoint.mac), ..link(2, endpoint.inside.as_str(), "veth") };
        let inside = Inside::Ours {
            links: vec![link(1, "lo", "loopback"), end],
            addresses: vec![address(2, endpoint.addr)],
            routes: vec![route(topology.subnet, 2)],
        };
        seen.inside.insert(endpoint.namespace.clone(), inside);
    }
    seen.networks.push(Recorded {
        topology: topology.clone(),
        phase: Phase::Up,
        journal: Journal::default(),
    });
    seen
}

#[test]
fn one_pair_is_made_between_two_namespaces_and_nothing_on_the_host() {
    let topology = direct();
    let steps = up(&topology, &bare(), &store());
    let [a, b] = [0, 1].map(|n| topology.endpoints[n].mac);
    assert_eq!(
        texts(&steps),
        [
            "remember the network in /run/netbpf/1/net0.json".to_owned(),
            "ip netns add a".into(),
            "ip netns add b".into(),
            format!(
                "ip -n a link add eth0 address {a} mtu 1500 up type veth peer eth0 netns b address {b} mtu 1500"
            ),
            "ip -n a link set lo up".into(),
            "ip -n a link set eth0 up".into(),
            "ip -n a address add 10.0.0.1/24 dev eth0".into(),
            "ip -n b link set lo up".into(),
            "ip -n b link set eth0 up".into(),
            "ip -n b address add 10.0.0.2/24 dev eth0".into(),
            "remember that the network is complete".into(),
        ]
    );
    // Whichever step fails, what was made before goes again, the last first.
    let undone = |n: usize| texts(&undo(&steps[..n]));
    let forget = "remove /run/netbpf/1/net0.json";
    assert_eq!(undone(1), [forget]);
    assert_eq!(undone(3), ["ip netns delete b", "ip netns delete a", forget]);
    let pair = ["ip -n a link delete eth0", "ip netns delete b", "ip netns delete a", forget];
    for n in 4..11 {
        assert_eq!(undone(n), pair);
    }
}

#[test]
fn what_is_all_there_needs_no_step_and_each_missing_piece_one() {
    let topology = direct();
    let complete = whole(&topology);
    assert_eq!(texts(&up(&topology, &complete, &store())), [""; 0]);
    let b = NamespaceName::new("b").unwrap();
    let inside = |seen: &mut Observed, change: Inner<'_>| {
        let Some(Inside::Ours { links, addresses, routes }) = seen.inside.get_mut(&b) else {
            panic!("b is there");
        };
        change(links, addresses, routes);
    };
    let cases: [Case<'_>; 4] = [
        ("ip -n b link set eth0 up", &|s| inside(s, &mut |l, _, _| l[1].up = false)),
        ("ip -n b link set eth0 mtu 1500", &|s| inside(s, &mut |l, _, _| l[1].mtu = 900)),
        ("ip -n b address add 10.0.0.2/24 dev eth0", &|s| inside(s, &mut |_, a, _| a.clear())),
        ("ip -n b route add 10.0.0.0/24 dev eth0 scope link src 10.0.0.2", &|s| {
            inside(s, &mut |_, _, r| r.clear());
        }),
    ];
    for (text, remove) in cases {
        let mut seen = complete.clone();
        remove(&mut seen);
        assert_eq!(texts(&up(&topology, &seen, &store())), [text]);
    }
}

#[test]
fn an_end_without_the_other_goes_before_the_pair_is_made_anew() {
    let topology = direct();
    let mut seen = whole(&topology);
    seen.inside.insert(NamespaceName::new("b").unwrap(), Inside::Missing);
    let steps = texts(&up(&topology, &seen, &store()));
    assert_eq!(steps[..2], ["ip netns add b", "ip -n a link delete eth0"]);
    assert!(steps[2].starts_with("ip -n a link add eth0"), "{steps:#?}");
}

#[test]
fn what_is_gone_is_not_taken_away_again() {
    let topology = direct();
    let seen = whole(&topology);
    let all = [
        "remember that the network is being taken down",
        "ip -n a link delete eth0",
        "ip netns delete b",
        "ip netns delete a",
        "remove /run/netbpf/1/net0.json",
    ];
    assert_eq!(texts(&down(&seen.networks[0], &seen, &store())), all);
    let mut without = seen.clone();
    without.inside.insert(NamespaceName::new("a").unwrap(), Inside::Missing);
    assert_eq!(texts(&down(&seen.networks[0], &without, &store())), [all[0], all[2], all[4]]);
}
