//! Plans, without a host.

mod change;
mod classic;
mod direct;
mod isolation;
mod switch;
mod world;

use std::{net::Ipv4Addr, path::PathBuf};

use netbpf_common::{Endpoint, Uplink};

use super::{Step, attachments, down, endpoint_row, publish_entries, undo, up};
use crate::{
    bpf::{Hook, LoadOptions},
    datapath::iptables::TableRules,
    net::{Address, FdbRow, Framing, Link, Route, sysctl::Switch},
    observe::{DatapathSeen, Inside, Observed},
    state::{Journal, Phase, Recorded, Store},
    topology::{
        Guard, INSIDE, LinkName, NamespaceName, NamespaceSpec, Request, Subnet, Topology,
        UplinkPlan,
    },
};

fn store() -> Store {
    Store::new(PathBuf::from("/run/netbpf/1"))
}

fn link(index: u32, name: &str, kind: &str) -> Link {
    let mac = Some(netbpf_common::MacAddr::new([2, 0, 0, 0, 0, 9]));
    let (name, kind) = (name.to_owned(), Some(kind.to_owned()));
    Link { index, name, kind, mac, mtu: 1500, up: true, ..Link::default() }
}

fn address(ifindex: u32, addr: Ipv4Addr) -> Address {
    Address { ifindex, addr, prefix_len: 24, global: true, secondary: false }
}

fn route(destination: Subnet, ifindex: u32) -> Route {
    let ifindex = Some(ifindex);
    Route { destination, gateway: None, ifindex, table: 254, metric: 0, unicast: true }
}

/// A host with nothing but an uplink.
fn bare() -> Observed {
    Observed {
        links: vec![link(2, "up0", "veth"), Link { loopback: true, ..link(1, "lo", "loopback") }],
        addresses: vec![address(2, Ipv4Addr::new(203, 0, 113, 1))],
        ..Observed::default()
    }
}

fn topology(name: &str, prefix: &str, third: u8, observed: &Observed) -> Topology {
    let request = Request {
        namespaces: NamespaceSpec::numbered(prefix, 2).unwrap(),
        uplinks: vec![LinkName::existing("up0").unwrap()],
        subnet: Some(Subnet::containing(Ipv4Addr::new(172, 19, third, 0), 24)),
        publish: vec![format!("80{third}:{prefix}1:80").parse().unwrap()],
        ..Request::named(name)
    };
    Topology::validate(&request, observed).unwrap()
}

/// The host after everything that the network consists of was made.
fn complete(topology: &Topology, before: &Observed) -> Observed {
    let mut seen = before.clone();
    let base = 100 * (1 + u32::try_from(before.networks.len()).unwrap());
    let bridge =
        Link { mac: Some(topology.gateway_mac()), ..link(base, topology.name.as_str(), "bridge") };
    seen.links.push(bridge);
    seen.addresses.push(address(base, topology.gateway()));
    seen.routes.push(route(topology.subnet, base));
    seen.switches = Switch::ALL.into();
    seen.switched = Switch::ALL.into();
    let options = LoadOptions { max_flows: topology.max_flows, log_level: topology.log_level };
    let mut datapath = seen.datapath.take().unwrap_or_default();
    datapath.options = options;
    datapath.gateways.insert(topology.gateway());
    datapath.subnets.insert((topology.subnet.addr(), topology.subnet.prefix_len()));
    for uplink in &topology.uplinks {
        let link = before.link(uplink.name.as_str()).unwrap();
        let address = before.uplink_address(link).unwrap();
        let row = Uplink {
            addr: address.addr.into(),
            mtu: link.mtu,
            mac: link.mac.unwrap_or_default(),
            prefix_len: address.prefix_len,
            flags: u8::from(!uplink.ethernet),
        };
        datapath.uplinks.insert(link.index, row);
    }
    datapath.published.extend(publish_entries(topology));
    datapath.published.sort_by_key(|entry| entry.order);
    for endpoint in &topology.endpoints {
        let index = base + u32::from(endpoint.id);
        let name = endpoint.link.as_str();
        let port = Link {
            mac: Some(endpoint.link_mac()),
            master: Some(base),
            ..link(index, name, "veth")
        };
        seen.links.push(port);
        seen.fdb.push(FdbRow { ifindex: index, mac: endpoint.mac, fixed: true });
        let to_subnet = route(topology.subnet, 2);
        let everywhere = Subnet::containing(Ipv4Addr::UNSPECIFIED, 0);
        let default = Route { gateway: Some(topology.gateway()), ..route(everywhere, 2) };
        let inside = Inside::Ours {
            links: vec![
                link(1, "lo", "loopback"),
                Link { mac: Some(endpoint.mac), ..link(2, INSIDE, "veth") },
            ],
            addresses: vec![address(2, endpoint.addr)],
            routes: vec![to_subnet, default],
        };
        seen.inside.insert(endpoint.namespace.clone(), inside);
        seen.namespaces.insert(endpoint.namespace.to_string());
        let row = endpoint_row(topology, endpoint);
        let row = Endpoint { ifindex: index, bridge_ifindex: base, ..row };
        datapath.endpoints.insert(endpoint.id, row);
    }
    seen.datapath = Some(datapath);
    let attach: Vec<Step> = attachments(topology).collect();
    for step in attach {
        let Step::Attach { hook, link, .. } = step else { continue };
        let index = seen.link(link.as_str()).unwrap().index;
        seen.datapath.as_mut().unwrap().attached.insert((hook, index));
    }
    seen.networks.push(Recorded {
        topology: topology.clone(),
        phase: Phase::Up,
        journal: Journal::default(),
    });
    seen
}

fn texts(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

fn one_network() -> (Topology, Observed) {
    let topology = topology("net0", "a", 0, &bare());
    let observed = complete(&topology, &bare());
    (topology, observed)
}

#[test]
fn from_nothing_links_come_first_and_attachments_last() {
    let topology = topology("net0", "a", 0, &bare());
    let steps = up(&topology, &bare(), &store());
    assert_eq!(
        texts(&steps),
        [
            "remember the network in /run/netbpf/1/net0.json",
            "bpf: load and pin the programs and maps, for 262144 flows (78 MiB)",
            "bpf: 172.19.0.0/24 never leaves by an uplink",
            "tc: attach to_uplink to egress of up0",
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
            "bpf: gateway 172.19.0.1 is 02:6e:ac:13:00:01",
            "bpf: endpoint 1 is a1 (172.19.0.2, 02:6e:ac:13:00:02) behind net0-1, at most 131072 flows",
            "bpf: endpoint 2 is a2 (172.19.0.3, 02:6e:ac:13:00:03) behind net0-2, at most 131072 flows",
            "bpf: uplink up0, outgoing packets carry 203.0.113.1",
            "bpf: publish 1 port range(s) of this network, 1 of all",
            "sysctl net.ipv4.conf.lo.accept_local=1",
            "sysctl net.ipv4.conf.lo.route_localnet=1",
            "tc: attach from_endpoint to ingress of net0-1",
            "tc: attach from_endpoint to ingress of net0-2",
            "tc: attach from_uplink to ingress of up0",
            "tc: attach from_uplink to ingress of lo",
            "sysctl net.ipv4.ip_forward=1",
            "remember that the network is complete",
        ]
    );
}

#[test]
fn what_is_all_there_needs_no_step() {
    let (topology, observed) = one_network();
    assert_eq!(texts(&up(&topology, &observed, &store())), [""; 0]);
}

/// A change to what is inside a namespace.
type Inner<'a> = &'a mut dyn FnMut(&mut Vec<Link>, &mut Vec<Address>, &mut Vec<Route>);

/// The step that is to be planned, and what makes it necessary.
type Case<'a> = (&'a str, &'a dyn Fn(&mut Observed));

#[test]
fn every_missing_piece_is_one_step() {
    let (topology, complete) = one_network();
    let a1 = || NamespaceName::new("a1").unwrap();
    let port = complete.link("net0-1").unwrap().index;
    let inside = |seen: &mut Observed, change: Inner<'_>| {
        let Some(Inside::Ours { links, addresses, routes }) = seen.inside.get_mut(&a1()) else {
            panic!("a1 is there");
        };
        change(links, addresses, routes);
    };
    let set = |seen: &mut Observed, name: &str, change: fn(&mut Link)| {
        change(seen.links.iter_mut().find(|link| link.name == name).unwrap());
    };
    let cases: [Case<'_>; 24] = [
        ("ip link set net0 up", &|s| set(s, "net0", |l| l.up = false)),
        ("ip link set net0 mtu 1500", &|s| set(s, "net0", |l| l.mtu = 9000)),
        ("ip address add 172.19.0.1/24 dev net0", &|s| s.addresses.truncate(1)),
        ("ip link set net0-1 up", &|s| set(s, "net0-1", |l| l.up = false)),
        ("ip link set net0-1 master net0", &|s| set(s, "net0-1", |l| l.master = None)),
        ("ip link set net0-1 master net0", &|s| set(s, "net0-1", |l| l.master = Some(7))),
        ("ip -n a1 link set lo up", &|s| inside(s, &mut |l, _, _| l[0].up = false)),
        ("ip -n a1 link set eth0 up", &|s| inside(s, &mut |l, _, _| l[1].up = false)),
        ("ip -n a1 link set eth0 mtu 1500", &|s| inside(s, &mut |l, _, _| l[1].mtu = 1280)),
        ("ip -n a1 address add 172.19.0.2/24 dev eth0", &|s| inside(s, &mut |_, a, _| a.clear())),
        ("ip -n a1 route add default via 172.19.0.1 dev eth0", &|s| {
            inside(s, &mut |_, _, r| r.retain(|r| !r.is_default()));
        }),
        ("bridge fdb add 02:6e:ac:13:00:02 dev net0-1 master static", &|s| {
            s.fdb.retain(|row| row.ifindex != port);
        }),
        ("ip -n a1 route add 172.19.0.0/24 dev eth0 scope link src 172.19.0.2", &|s| {
            inside(s, &mut |_, _, r| r.retain(Route::is_default));
        }),
        ("ip route add 172.19.0.0/24 dev net0 scope link src 172.19.0.1", &|s| s.routes.clear()),
        ("sysctl net.ipv4.ip_forward=1", &|s| {
            s.switches.remove(&Switch::IpForward);
        }),
        ("sysctl net.ipv4.conf.lo.accept_local=1", &|s| {
            s.switches.remove(&Switch::AcceptLocal);
        }),
        ("sysctl net.ipv4.conf.lo.route_localnet=1", &|s| {
            s.switches.remove(&Switch::RouteLocalnet);
        }),
        ("bpf: gateway 172.19.0.1 is 02:6e:ac:13:00:01", &|s| {
            s.datapath.as_mut().unwrap().gateways.clear();
        }),
        ("bpf: 172.19.0.0/24 never leaves by an uplink", &|s| {
            s.datapath.as_mut().unwrap().subnets.clear();
        }),
        (
            "bpf: endpoint 1 is a1 (172.19.0.2, 02:6e:ac:13:00:02) behind net0-1, at most 131072 flows",
            &|s| s.datapath.as_mut().unwrap().endpoints.retain(|id, _| *id != 1),
        ),
        ("bpf: uplink up0, outgoing packets carry 203.0.113.7", &|s| {
            s.addresses[0].addr = Ipv4Addr::new(203, 0, 113, 7);
        }),
        ("bpf: publish 1 port range(s) of this network, 1 of all", &|s| {
            s.datapath.as_mut().unwrap().published.clear();
        }),
        ("tc: attach from_uplink to ingress of up0", &|s| {
            let seen = s.datapath.as_mut().unwrap();
            seen.attached.remove(&(Hook::FromUplink, 2));
        }),
        ("tc: attach from_uplink to ingress of lo", &|s| {
            s.datapath.as_mut().unwrap().attached.remove(&(Hook::FromHost, 1));
        }),
    ];
    for (text, remove) in cases {
        let mut seen = complete.clone();
        remove(&mut seen);
        let steps = up(&topology, &seen, &store());
        assert_eq!(texts(&steps), [text]);
        assert!(!steps[0].lack().is_empty());
        let about_a1 = text.contains("a1") || text.contains("net0-1");
        assert_eq!(steps[0].namespace().is_some(), about_a1, "{text}");
    }
}

#[test]
fn what_goes_along_with_a_piece_is_made_again_with_it() {
    let (topology, complete) = one_network();
    let mut seen = complete.clone();
    seen.inside.insert(NamespaceName::new("a1").unwrap(), Inside::Missing);
    seen.links.retain(|link| link.name != "net0-1");
    let steps = texts(&up(&topology, &seen, &store()));
    assert_eq!(steps.len(), 10, "{steps:#?}");
    assert_eq!(steps.first().unwrap(), "ip netns add a1");
    assert_eq!(steps.last().unwrap(), "tc: attach from_endpoint to ingress of net0-1");
    // The veth's other end is not where it should be: it is made anew.
    let mut seen = complete.clone();
    seen.inside.insert(NamespaceName::new("a1").unwrap(), Inside::Missing);
    let steps = texts(&up(&topology, &seen, &store()));
    assert_eq!(steps[..2], ["ip netns add a1", "ip link delete net0-1"]);
    assert_eq!(steps.len(), 11, "{steps:#?}");
    let mut seen = complete;
    let Some(Inside::Ours { links, .. }) = seen.inside.get_mut(&NamespaceName::new("a1").unwrap())
    else {
        panic!("a1 is there");
    };
    links[1].name = "else0".into();
    let steps = texts(&up(&topology, &seen, &store()));
    assert_eq!(steps[0], "ip link delete net0-1");
    assert_eq!(steps.len(), 9, "{steps:#?}");
}

#[test]
fn an_interrupted_network_is_completed() {
    let (topology, mut observed) = one_network();
    observed.networks[0].phase = Phase::Building;
    let steps = up(&topology, &observed, &store());
    assert_eq!(texts(&steps), ["remember that the network is complete"]);
}

#[test]
fn the_last_network_takes_everything_with_it() {
    let (_, observed) = one_network();
    let steps = down(&observed.networks[0], &observed, &store());
    assert_eq!(
        texts(&steps),
        [
            "remember that the network is being taken down",
            "sysctl net.ipv4.ip_forward=0, and what changed along with it",
            "tc: detach from_uplink from ingress of lo",
            "tc: detach from_uplink from ingress of up0",
            "tc: detach from_endpoint from ingress of net0-2",
            "tc: detach from_endpoint from ingress of net0-1",
            "sysctl net.ipv4.conf.lo.route_localnet=0",
            "sysctl net.ipv4.conf.lo.accept_local=0",
            "ip netns delete a2",
            "ip netns delete a1",
            "ip link delete net0-2",
            "ip link delete net0-1",
            "ip link delete net0",
            "tc: detach to_uplink from egress of up0",
            "bpf: unpin and unload the programs and maps",
            "remove /run/netbpf/1/net0.json",
        ]
    );
}

#[test]
fn what_another_network_needs_stays() {
    let (_, first) = one_network();
    let second = topology("net1", "b", 1, &first);
    let both = complete(&second, &first);
    assert_eq!(texts(&up(&second, &both, &store())), [""; 0]);
    let steps = texts(&down(&both.networks[0], &both, &store()));
    assert_eq!(
        steps,
        [
            "remember that the network is being taken down",
            "tc: detach from_endpoint from ingress of net0-2",
            "tc: detach from_endpoint from ingress of net0-1",
            "bpf: withdraw the network's published ports",
            "bpf: forget endpoint 2 (a2) and its flows",
            "bpf: forget endpoint 1 (a1) and its flows",
            "bpf: forget gateway 172.19.0.1",
            "ip netns delete a2",
            "ip netns delete a1",
            "ip link delete net0-2",
            "ip link delete net0-1",
            "ip link delete net0",
            "bpf: forget subnet 172.19.0.0/24",
            "remove /run/netbpf/1/net0.json",
        ]
    );
    let again = down(&both.networks[0], &both, &store());
    let Some(Step::Withdraw { others }) = again.into_iter().nth(3) else { panic!("it withdraws") };
    assert_eq!(others, publish_entries(&second).collect::<Vec<_>>());
}

#[test]
fn a_second_network_loads_and_attaches_nothing_twice() {
    let (_, first) = one_network();
    let second = topology("net1", "b", 1, &first);
    let steps = texts(&up(&second, &first, &store()));
    for text in ["load and pin", "up0", "sysctl", "of lo"] {
        assert!(!steps.iter().any(|step| step.contains(text)), "{text}: {steps:#?}");
    }
    assert!(steps.contains(&"bpf: publish 1 port range(s) of this network, 2 of all".to_owned()));
}

#[test]
fn pieces_that_are_gone_are_not_taken_away_again() {
    let (_, mut observed) = one_network();
    observed.links.retain(|link| matches!(link.name.as_str(), "up0" | "lo"));
    observed.inside.values_mut().for_each(|inside| *inside = Inside::Missing);
    observed.datapath = None::<DatapathSeen>;
    observed.switched.clear();
    let steps = texts(&down(&observed.networks[0], &observed, &store()));
    assert!(steps.iter().all(|step| !step.starts_with("ip ") && !step.starts_with("sysctl")));
    assert!(steps.contains(&"bpf: unpin and unload the programs and maps".to_owned()));
}

#[test]
fn a_datapath_that_was_lost_is_loaded_with_what_all_networks_need() {
    let (first, observed) = one_network();
    let second = topology("net1", "b", 1, &observed);
    let mut both = complete(&second, &observed);
    both.datapath = None;
    let steps = texts(&up(&first, &both, &store()));
    assert_eq!(steps.len(), 1 + 2 * 4 + 1 + 1 + 2 * 2 + 3, "{steps:#?}");
    for text in [
        "load and pin",
        "bpf: uplink up0",
        "ingress of up0",
        "ingress of lo",
        "to_uplink to",
        "2 of all",
    ] {
        assert_eq!(steps.iter().filter(|step| step.contains(text)).count(), 1, "{text}");
    }
    assert_eq!(steps.iter().filter(|step| step.contains("bpf: endpoint")).count(), 4);
}

#[test]
fn undoing_takes_links_away_before_what_was_there_before_them() {
    let topology = topology("net0", "a", 0, &bare());
    let steps = up(&topology, &bare(), &store());
    assert_eq!(
        texts(&undo(&steps[..6])),
        [
            "ip link delete net0",
            "tc: detach to_uplink from egress of up0",
            "bpf: forget subnet 172.19.0.0/24",
            "bpf: unpin and unload the programs and maps",
            "remove /run/netbpf/1/net0.json",
        ]
    );
    assert_eq!(
        texts(&undo(&steps[..8]))[..3],
        ["ip netns delete a1", "ip link delete net0-1", "ip link delete net0"]
    );
    assert_eq!(texts(&undo(&steps[7..8])), ["ip link delete net0-1"]);
}

/// The bare host with a tun device besides, and what a network asks of both.
fn with_tun() -> (Observed, Topology) {
    let mut host = bare();
    host.links.push(Link { mac: None, framing: Framing::Bare, ..link(3, "tun0", "tun") });
    host.addresses.push(Address { prefix_len: 32, ..address(3, Ipv4Addr::new(10, 99, 0, 1)) });
    let mut topology = topology("net0", "a", 0, &host);
    topology.uplinks.push(tun());
    topology.endpoints.truncate(1);
    (host, topology)
}

fn tun() -> UplinkPlan {
    serde_json::from_str(r#"{"name": "tun0", "ethernet": false}"#).unwrap()
}

#[test]
fn each_uplink_has_its_guard_its_row_and_the_programs_of_its_kind() {
    let (host, topology) = with_tun();
    let steps = up(&topology, &host, &store());
    let position = |text: &str| {
        let at = texts(&steps).iter().position(|step| step == text);
        at.unwrap_or_else(|| panic!("no {text:?} in {:#?}", texts(&steps)))
    };
    let bridge = steps.iter().position(|step| matches!(step, Step::AddBridge { .. })).unwrap();
    for guard in ["attach to_uplink to egress of up0", "attach to_uplink_l3 to egress of tun0"] {
        assert!(position(&format!("tc: {guard}")) < bridge, "{guard}");
    }
    for (row, program) in [
        ("up0, outgoing packets carry 203.0.113.1", "from_uplink to ingress of up0"),
        ("tun0, outgoing packets carry 10.99.0.1", "from_uplink_l3 to ingress of tun0"),
    ] {
        let (row, program) = (format!("bpf: uplink {row}"), format!("tc: attach {program}"));
        assert!(position(&row) < position(&program), "{row}");
    }
    let tun = steps.iter().find_map(|step| match step {
        Step::SetUplink { link, row } if link.as_str() == "tun0" => Some(*row),
        _ => None,
    });
    let tun = tun.unwrap();
    assert_eq!((tun.prefix_len, tun.flags), (32, Uplink::NO_ETHERNET));
    assert_eq!(tun.mac, netbpf_common::MacAddr::ZERO);
    let all_there = complete(&topology, &host);
    assert_eq!(texts(&up(&topology, &all_there, &store())), [""; 0]);
}

#[test]
fn of_several_uplinks_those_stay_that_another_network_has() {
    let (host, first) = with_tun();
    let second = topology("net1", "b", 1, &complete(&first, &host));
    let both = complete(&second, &complete(&first, &host));
    let steps = texts(&down(&both.networks[0], &both, &store()));
    for text in [
        "tc: detach from_uplink_l3 from ingress of tun0",
        "bpf: forget uplink tun0",
        "tc: detach to_uplink_l3 from egress of tun0",
    ] {
        assert!(steps.iter().any(|step| step == text), "{text}: {steps:#?}");
    }
    assert!(!steps.iter().any(|step| step.contains("up0") || step.contains("of lo")), "{steps:#?}");
    let guard = steps.iter().position(|step| step.contains("to_uplink_l3")).unwrap();
    let last_link = steps.iter().rposition(|step| step.starts_with("ip link delete")).unwrap();
    assert!(guard > last_link, "{steps:#?}");
}

#[test]
fn an_uplink_that_has_vanished_is_forgotten() {
    let (host, first) = with_tun();
    let second = topology("net1", "b", 1, &complete(&first, &host));
    let mut both = complete(&second, &complete(&first, &host));
    both.links.retain(|link| link.name != "tun0");
    both.addresses.retain(|address| address.ifindex != 3);
    let steps = texts(&down(&both.networks[0], &both, &store()));
    assert!(steps.iter().any(|step| step == "bpf: forget uplink tun0"), "{steps:#?}");
    assert!(!steps.iter().any(|step| step.contains("uplink up0")), "{steps:#?}");
}

#[test]
fn a_routed_network_says_so_in_its_rows() {
    let (topology, _) = one_network();
    let is_routed =
        |topology: &Topology| endpoint_row(topology, &topology.endpoints[0]).is_routed();
    assert!(!is_routed(&topology));
    assert!(is_routed(&Topology { routed: true, ..topology }));
}

#[test]
fn a_network_that_respects_netfilter_leaves_what_is_forwarded_to_the_stack_and_its_rules() {
    let (topology, observed) = one_network();
    let respecting = Topology { respect_netfilter: true, ..topology.clone() };
    let row = |topology: &Topology| endpoint_row(topology, &topology.endpoints[0]);
    assert!(!row(&topology).is_by_stack());
    let flags = row(&Topology { routed: true, ..respecting.clone() }).flags;
    assert_eq!(flags, Endpoint::ROUTED | Endpoint::BY_STACK);
    // With iptables nothing is accepted before they are asked; what is dropped still is.
    let filter = |topology: &Topology| -> Vec<String> {
        let [_, filter, _] = TableRules::of(topology, &observed);
        filter.chains.into_iter().flat_map(|chain| chain.rules).collect()
    };
    let (all, left) = (filter(&topology), filter(&respecting));
    let is_refusal = |rule: &&String| rule.ends_with("-j DROP");
    assert!(!left.is_empty() && left.iter().all(|rule| is_refusal(&rule)), "{left:#?}");
    assert!(left.iter().eq(all.iter().filter(is_refusal)), "{left:#?} of {all:#?}");
    assert!(left.len() < all.len());
}
