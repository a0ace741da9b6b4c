//! Changes of a network that runs: wherever one ends, the network can be had as it
//! was to be and as it was, and be taken down.

use proptest::{collection::btree_set, prelude::*};

use super::{
    super::Step,
    texts,
    world::{World, mac, request},
};
use crate::{
    datapath::Kind,
    topology::{Guard, LinkName, Request, Topology},
};

/// One in which 172.19.0.1 is not the gateway's.
const NO_GATEWAY_AT_1: &str = "172.18.0.0/15";
/// The subnets that may be asked for: most of them with each other's addresses.
const SUBNETS: [&str; 5] =
    ["172.19.0.0/24", "172.19.0.0/27", "172.19.0.0/22", NO_GATEWAY_AT_1, "10.1.0.0/24"];

/// What may be asked for: some of six namespaces, of which some have an address that in
/// another request is another one's, and all else that can be changed.
fn requests(kind: Kind) -> impl Strategy<Value = Request> {
    let ns = btree_set(0_u8..6, 1..6);
    let parts =
        (ns, 0_u8..6, any::<[bool; 4]>(), any::<[bool; 6]>(), 0_u8..4, 0_usize..3, 0_usize..9);
    parts.prop_map(move |(ns, shift, switches, addressed, ports, allow, subnet)| {
        let [second, routed, small, isolate] = switches;
        let subnet = *SUBNETS.get(subnet).unwrap_or(&SUBNETS[0]);
        let net = if subnet.starts_with("10.") { "10.1.0" } else { "172.19.0" };
        let names: Vec<String> = ns
            .iter()
            .map(|&n| {
                // That of the gateway of other subnets is one of them, too.
                let is_gateways = n == 0 && subnet == NO_GATEWAY_AT_1;
                let address = if is_gateways { 1 } else { 10 + (n + shift) % 6 };
                match (addressed[usize::from(n)], shift % 2) {
                    (false, _) => format!("n{n}"),
                    (true, 0) => format!("n{n}={net}.{address}"),
                    (true, _) => format!("n{n}={net}.{address}/{}", mac(n + shift)),
                }
            })
            .collect();
        let targets = ns.iter().cycle().take(usize::from(ports)).enumerate();
        let publish: Vec<String> = targets
            .map(|(port, n)| format!("{}:n{n}:80", 8000 + port + usize::from(shift) % 2))
            .collect();
        let mut request = request(kind, &names, &publish);
        request.uplinks.extend(second.then(|| LinkName::existing("up1").unwrap()));
        request.subnet = Some(subnet.parse().unwrap());
        request.routed = routed.then_some(true);
        request.mtu = small.then_some(1400);
        request.guard = (shift % 3 == 0).then_some(Guard::Off);
        request.isolate = isolate.then_some(true);
        let names: Vec<u8> = ns.iter().copied().collect();
        let pairs = names.windows(2).rev().take(if isolate { allow } else { 0 });
        request.allow =
            pairs.map(|two| format!("n{}:n{}", two[0], two[1]).parse().unwrap()).collect();
        request
    })
}

fn pairs() -> impl Strategy<Value = (Request, Request)> {
    prop_oneof![Just(Kind::Ebpf), Just(Kind::Iptables)]
        .prop_flat_map(|kind| (requests(kind), requests(kind)))
}

/// A world with just that network, but for what depends on history: numbers, and
/// addresses that nobody has asked for.
fn is_as_asked(world: &World, topology: &Topology) {
    let mut fresh = World::new();
    // All that is open is as it is.
    let mut all = Vec::new();
    for endpoint in &topology.endpoints {
        all.push(format!("{}={}/{}", endpoint.namespace, endpoint.addr, endpoint.mac));
    }
    let mut same = request(topology.datapath, &all, &[]);
    same.publish = topology
        .published
        .iter()
        .map(|p| format!("{}:{}:{}", p.host, p.namespace, p.inside).parse().unwrap())
        .collect();
    same.uplinks = topology.uplinks.iter().map(|uplink| uplink.name.clone()).collect();
    same.subnet = Some(topology.subnet);
    (same.mtu, same.routed) = (Some(topology.mtu), topology.routed.then_some(true));
    same.guard = Some(topology.guard);
    (same.isolate, same.allow) = (Some(topology.isolate), topology.allowed.clone());
    let made = fresh.make(&same);
    let renamed = |mut listing: Vec<String>, of: &Topology| {
        for line in &mut listing {
            for endpoint in &of.endpoints {
                let words = line.split(' ').map(|word| {
                    if word == endpoint.link.as_str() {
                        format!("port-of-{}", endpoint.namespace)
                    } else {
                        word.to_owned()
                    }
                });
                *line = words.collect::<Vec<_>>().join(" ");
            }
        }
        listing.sort();
        listing
    };
    assert_eq!(renamed(world.listing(), topology), renamed(fresh.listing(), &made));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn a_change_makes_what_is_asked_for((a, b) in pairs()) {
        let mut world = World::new();
        let first = world.make(&a);
        prop_assert_eq!(texts(&world.plan(&a).1), [""; 0], "of the same there is no difference");
        is_as_asked(&world, &first);
        let second = world.make(&b);
        prop_assert_eq!(texts(&world.plan(&b).1), [""; 0], "of the same there is no difference");
        is_as_asked(&world, &second);
        world.down();
        prop_assert_eq!(world.listing(), World::new().listing());
    }

    #[test]
    fn wherever_a_change_ends_there_is_a_way_on_back_and_down((a, b) in pairs()) {
        let mut world = World::new();
        let before = world.make(&a);
        let (topology, steps) = world.plan(&b);
        for done in 0..=steps.len() {
            world.take(&topology, &steps[done.saturating_sub(1)..done]);
            let mut on = world.clone();
            let finished = on.make(&b);
            prop_assert_eq!(texts(&on.plan(&b).1), [""; 0]);
            is_as_asked(&on, &finished);
            if done < steps.len() {
                let mut back = world.clone();
                back.lead_back(&before, &topology);
                prop_assert_eq!(texts(&back.plan(&a).1), [""; 0]);
                is_as_asked(&back, &before);
            }
            let mut down = world.clone();
            down.down();
            prop_assert_eq!(down.listing(), World::new().listing());
        }
    }

    #[test]
    fn after_one_that_was_interrupted_anything_can_be_asked_for(
        (a, b) in pairs(), c in requests(Kind::Ebpf), part in 0.0..1.0
    ) {
        let mut world = World::new();
        world.make(&a);
        let (topology, steps) = world.plan(&b);
        #[allow(
            clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss,
            reason = "a part of a few dozens"
        )]
        let done = (steps.len() as f64 * part) as usize;
        world.take(&topology, &steps[..done]);
        let c = Request { datapath: a.datapath, ..c };
        let last = world.make(&c);
        prop_assert_eq!(texts(&world.plan(&c).1), [""; 0]);
        is_as_asked(&world, &last);
    }

    #[test]
    fn what_stays_is_not_touched((a, b) in pairs()) {
        let mut world = World::new();
        let before = world.make(&a);
        let (topology, steps) = world.plan(&b);
        let stays = |step: &&Step| {
            let of = step.namespace().or(match step {
                Step::Detach { link, .. } | Step::DeleteLink { name: link, .. } => {
                    before.endpoints.iter().find(|e| e.link == *link).map(|e| &e.namespace)
                }
                _ => None,
            });
            of.is_some_and(|name| {
                topology.endpoint(name).is_some() && topology.endpoint(name) == before.endpoint(name)
            })
        };
        for step in steps.iter().filter(stays) {
            // What keeps its address may get another prefix and another gateway.
            let is_subnets = matches!(
                step,
                Step::AddAddress { .. } | Step::DeleteAddress { .. } | Step::AddDefaultRoute { .. }
            );
            let is_harmless = is_subnets && before.subnet != topology.subnet || matches!(
                step,
                Step::SetEndpoint { .. }
                    | Step::SetMtu { .. }
                    | Step::SetHairpin { .. }
                    | Step::SetIsolated { .. }
            );
            prop_assert!(is_harmless, "{}", step);
        }
    }
}

fn words(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

#[test]
fn what_comes_is_made_before_what_goes_is_taken_away() {
    let mut world = World::new();
    world.make(&request(Kind::Ebpf, &words(&["a", "b"]), &words(&["80:a:80", "81:b:80"])));
    let (_, steps) = world.plan(&request(Kind::Ebpf, &words(&["b", "c"]), &words(&["81:b:80"])));
    assert_eq!(
        texts(&steps),
        [
            "remember what the network is to be, and to lose: a (172.19.0.2), port 80->80/tcp",
            "ip netns add c",
            "ip link add net0-3 mtu 1500 up type veth peer eth0 netns c address 02:6e:ac:13:00:04 mtu 1500",
            "ip -n c link set lo up",
            "ip -n c link set eth0 up",
            "ip -n c address add 172.19.0.4/24 dev eth0",
            "ip -n c route add default via 172.19.0.1 dev eth0",
            "ip link set net0-3 master net0",
            "bridge fdb add 02:6e:ac:13:00:04 dev net0-3 master static",
            "bpf: endpoint 3 is c (172.19.0.4, 02:6e:ac:13:00:04) behind net0-3, at most 131072 flows",
            "bpf: publish 1 port range(s) of this network, 1 of all",
            "tc: attach from_endpoint to ingress of net0-3",
            "tc: detach from_endpoint from ingress of net0-1",
            "bpf: forget endpoint 1 (a) and its flows",
            "ip netns delete a",
            "ip link delete net0-1",
            "remember that the network is complete",
        ]
    );
}

#[test]
fn what_is_in_the_way_goes_first() {
    let mut world = World::new();
    world.make(&request(Kind::Ebpf, &words(&["a=172.19.0.9"]), &[]));
    let (_, steps) = world.plan(&request(Kind::Ebpf, &words(&["a=172.19.0.7"]), &[]));
    let steps = texts(&steps);
    assert_eq!(
        steps[1..5],
        [
            "tc: detach from_endpoint from ingress of net0-1",
            "bpf: forget endpoint 1 (a) and its flows",
            "ip link delete net0-1",
            "ip link add net0-2 mtu 1500 up type veth peer eth0 netns a address 02:6e:ac:13:00:07 mtu 1500",
        ]
    );
    assert!(!steps.iter().any(|step| step.starts_with("ip netns")), "a itself stays: {steps:#?}");
}

#[test]
fn connections_that_the_kernel_tracks_end_with_what_made_them() {
    let mut world = World::new();
    world.make(&request(Kind::Iptables, &words(&["a", "b"]), &words(&["80:a:80"])));
    let (_, steps) = world.plan(&request(Kind::Iptables, &words(&["a"]), &[]));
    let steps = texts(&steps);
    let at = |text: &str| {
        let found = steps.iter().position(|step| step.starts_with(text));
        found.unwrap_or_else(|| panic!("no {text} in {steps:#?}"))
    };
    let ended = at("conntrack: end the connections of b (172.19.0.3), port 80->80/tcp");
    assert!(at("iptables-restore") < ended && ended < at("ip netns delete b"), "{steps:#?}");
    assert!(at("bridge link set dev net0-1 hairpin off") < ended);
    assert!(at("sysctl net.ipv4.conf.net0.route_localnet=0") < ended);
}

#[test]
fn who_has_an_address_comes_before_who_is_losing_it() {
    let mut world = World::new();
    world.make(&request(Kind::Ebpf, &words(&["b=172.19.0.12"]), &[]));
    let (topology, steps) = world.plan(&request(Kind::Ebpf, &words(&["a=172.19.0.12"]), &[]));
    world.take(&topology, &steps[..1]);
    let both = world.make(&request(Kind::Ebpf, &words(&["b", "a"]), &[]));
    let last: Vec<u8> = both.endpoints.iter().map(|endpoint| endpoint.addr.octets()[3]).collect();
    assert_eq!(last, [2, 12]);
    is_as_asked(&world, &both);
}
