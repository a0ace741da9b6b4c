//! Validation, table by table. No host is needed: what it would see is given.

use std::net::Ipv4Addr;

use super::super::{NamespaceName, NamespaceSpec, Proto, Request, Topology};
use crate::{
    bpf::{LoadOptions, LogLevel},
    datapath::Kind,
    error::{Error, ExitCode},
    net::{Address, Framing, Link, Listener, Route},
    observe::{DatapathSeen, Inside, Observed},
    state::{Journal, Phase, Recorded},
    topology::{LinkName, Owned, Subnet},
};

fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
    Link {
        index,
        name: name.into(),
        kind: kind.map(Into::into),
        mac: Some(netbpf_common::MacAddr::new([2, 0, 0, 0, 0, 1])),
        mtu: 1500,
        up: true,
        ..Link::default()
    }
}

fn address(ifindex: u32, addr: [u8; 4], prefix_len: u8) -> Address {
    let addr = Ipv4Addr::from(addr);
    Address { ifindex, addr, prefix_len, global: true, secondary: false }
}

fn route(destination: &str, ifindex: u32, metric: u32) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        gateway: None,
        ifindex: Some(ifindex),
        table: 254,
        metric,
        unicast: true,
    }
}

/// A host with `lo`, an uplink `up0` with the default route, and some others.
fn host() -> Observed {
    Observed {
        links: vec![
            Link { loopback: true, ..link(1, "lo", None) },
            link(2, "up0", Some("veth")),
            Link { up: false, ..link(3, "down0", None) },
            Link { master: Some(5), ..link(4, "bare0", None) },
            link(5, "br0", Some("bridge")),
            Link { mac: None, mtu: 1400, framing: Framing::Bare, ..link(6, "tun0", Some("tun")) },
            Link { mac: None, framing: Framing::Other, ..link(7, "ib0", None) },
        ],
        addresses: vec![
            Address { global: false, ..address(1, [127, 0, 0, 1], 8) },
            address(2, [203, 0, 113, 1], 24),
            Address { secondary: true, ..address(2, [203, 0, 113, 9], 24) },
            address(3, [198, 51, 100, 1], 24),
            address(5, [192, 0, 2, 1], 24),
            address(6, [10, 99, 0, 1], 32),
            address(7, [198, 18, 0, 1], 24),
        ],
        routes: vec![
            route("0.0.0.0/0", 5, 200),
            route("0.0.0.0/0", 2, 100),
            route("0.0.0.0/1", 6, 0),
            route("203.0.113.0/24", 2, 0),
            route("10.0.0.0/8", 6, 0),
        ],
        ..Observed::default()
    }
}

/// `netbpf up --namespaces 3 --uplink up0`.
fn request() -> Request {
    Request {
        namespaces: NamespaceSpec::numbered("ns", 3).unwrap(),
        uplinks: names(&["up0"]),
        ..Request::named("netbpf0")
    }
}

fn with(change: impl FnOnce(&mut Request)) -> Request {
    let mut request = request();
    change(&mut request);
    request
}

fn publish(specs: &[&str]) -> Request {
    with(|request| request.publish = specs.iter().map(|spec| spec.parse().unwrap()).collect())
}

fn ns(specs: &[&str]) -> Request {
    with(|request| request.namespaces = specs.iter().map(|spec| spec.parse().unwrap()).collect())
}

fn names(names: &[&str]) -> Vec<LinkName> {
    names.iter().map(|name| LinkName::existing(name).unwrap()).collect()
}

fn uplink(name: &str) -> Request {
    uplinks(&[name])
}

fn uplinks(all: &[&str]) -> Request {
    with(|request| request.uplinks = names(all))
}

fn subnet(text: &str) -> Request {
    with(|request| request.subnet = Some(text.parse().unwrap()))
}

fn refused(request: &Request, observed: &Observed) -> Error {
    Topology::validate(request, observed).expect_err("it should be refused")
}

/// The host after `up` of the request: recorded, and with its pieces.
fn after_up(observed: &Observed, request: &Request) -> Observed {
    let topology = Topology::validate(request, observed).unwrap();
    let mut after = observed.clone();
    let bridge = Link {
        mac: Some(topology.gateway_mac()),
        alias: Some(topology.alias()),
        ..link(100, topology.name.as_str(), Some("bridge"))
    };
    after.links.push(bridge);
    after.addresses.push(address(100, topology.gateway().octets(), topology.subnet.prefix_len()));
    after.routes.push(route(&topology.subnet.to_string(), 100, 0));
    for endpoint in &topology.endpoints {
        let port = Link {
            mac: Some(endpoint.link_mac()),
            ..link(100 + u32::from(endpoint.id), endpoint.link.as_str(), Some("veth"))
        };
        after.links.push(port);
        after.namespaces.insert(endpoint.namespace.to_string());
        let inside = Inside::Ours { links: Vec::new(), addresses: Vec::new(), routes: Vec::new() };
        after.inside.insert(endpoint.namespace.clone(), inside);
    }
    let options = LoadOptions { max_flows: topology.max_flows, log_level: topology.log_level };
    after.datapath = Some(DatapathSeen { options, ..DatapathSeen::default() });
    after.networks.push(Recorded { topology, phase: Phase::Up, journal: Journal::default() });
    after
}

#[test]
fn the_defaults_make_a_network() {
    let topology = Topology::validate(&request(), &host()).unwrap();
    assert_eq!(topology.subnet.to_string(), "172.19.0.0/24");
    assert_eq!(topology.gateway(), Ipv4Addr::new(172, 19, 0, 1));
    assert_eq!(topology.gateway_mac().to_string(), "02:6e:ac:13:00:01");
    assert_eq!((topology.mtu, topology.max_flows), (1500, 262_144));
    assert_eq!(topology.flow_limit, 262_144 / 3);
    let endpoints: Vec<_> = topology
        .endpoints
        .iter()
        .map(|e| format!("{} {} {} {} {}", e.id, e.namespace, e.addr, e.mac, e.link))
        .collect();
    assert_eq!(
        endpoints,
        [
            "1 ns1 172.19.0.2 02:6e:ac:13:00:02 netbpf0-1",
            "2 ns2 172.19.0.3 02:6e:ac:13:00:03 netbpf0-2",
            "3 ns3 172.19.0.4 02:6e:ac:13:00:04 netbpf0-3",
        ]
    );
}

#[test]
fn the_uplink_is_that_of_the_best_default_route() {
    let topology = Topology::validate(&uplinks(&[]), &host()).unwrap();
    assert_eq!(names_of(&topology), ["up0"]);
    let mut host = host();
    host.routes.retain(|route| !route.is_default());
    let error = refused(&uplinks(&[]), &host);
    assert_eq!((error.code(), error.what()), (ExitCode::Usage, "no uplink"));
    assert!(error.advice().is_some_and(|hint| hint.contains("up0, br0")), "{:?}", error.advice());
}

fn names_of(topology: &Topology) -> Vec<&str> {
    topology.uplinks.iter().map(|uplink| uplink.name.as_str()).collect()
}

#[test]
fn there_may_be_several_uplinks_of_several_kinds() {
    let topology = Topology::validate(&uplinks(&["tun0", "up0", "br0"]), &host()).unwrap();
    assert_eq!(names_of(&topology), ["tun0", "up0", "br0"]);
    let ethernet: Vec<bool> = topology.uplinks.iter().map(|uplink| uplink.ethernet).collect();
    assert_eq!(ethernet, [false, true, true]);
    assert_eq!(topology.mtu, 1400, "what all of them take");
    let wide = Topology { mtu: 1500, ..topology.clone() };
    assert_eq!((topology.warnings(&host(), &[]).len(), wide.warnings(&host(), &[]).len()), (0, 1));
    // In another order they are the same.
    let after = after_up(&host(), &uplinks(&["tun0", "up0"]));
    for again in [uplinks(&["up0", "tun0"]), uplinks(&[])] {
        assert_eq!(names_of(&Topology::validate(&again, &after).unwrap()), ["tun0", "up0"]);
    }
}

#[test]
fn uplinks_are_as_many_as_the_datapath_has_room_for() {
    let mut host = host();
    let mut all = Vec::new();
    for n in 0..65_u8 {
        let (index, name) = (100 + u32::from(n), format!("wan{n}"));
        host.links.push(link(index, &name, None));
        host.addresses.push(address(index, [198, 51, n, 1], 24));
        all.push(LinkName::existing(&name).unwrap());
    }
    let request = |count: usize| with(|r| r.uplinks = all[..count].to_vec());
    assert!(Topology::validate(&request(64), &host).is_ok());
    assert!(refused(&request(65), &host).to_string().contains("64 together"));
}

#[test]
fn a_loopback_interface_that_is_down_is_warned_of() {
    let topology = Topology::validate(&request(), &host()).unwrap();
    assert!(topology.warnings(&host(), &[]).is_empty());
    let mut host = host();
    host.links[0].up = false;
    let warnings = topology.warnings(&host, &[]);
    assert!(warnings.len() == 1 && warnings[0].starts_with("lo is down"), "{warnings:?}");
}

#[test]
fn sockets_that_lose_their_port_are_warned_of() {
    let request = publish(&["127.0.0.1:80:ns1:80", "8000-8009:ns2:8000-8009/udp"]);
    let topology = Topology::validate(&request, &host()).unwrap();
    let socket = |proto, addr: [u8; 4], port| Listener { proto, addr: addr.into(), port };
    for (socket, is_taken) in [
        (socket(Proto::Tcp, [0; 4], 80), true),
        (socket(Proto::Tcp, [127, 0, 0, 1], 80), true),
        (socket(Proto::Tcp, [203, 0, 113, 1], 80), false),
        (socket(Proto::Udp, [0; 4], 80), false),
        (socket(Proto::Udp, [203, 0, 113, 1], 8009), true),
        (socket(Proto::Udp, [203, 0, 113, 1], 8010), false),
    ] {
        let warnings = topology.warnings(&host(), &[socket]);
        assert_eq!(warnings.len(), usize::from(is_taken), "{socket:?}: {warnings:?}");
    }
}

#[test]
fn ports_are_published_on_any_address_of_the_host() {
    let specs = [
        "127.0.0.1:80:ns1:80",
        "127.8.9.1:80:ns1:80",
        "203.0.113.9:80:ns1:80",
        "192.0.2.1:80:ns1:80",
        "192.0.2.1:80:ns1:80/udp",
    ];
    let topology = Topology::validate(&publish(&specs), &host()).unwrap();
    assert_eq!(topology.published.len(), specs.len());
    let error = refused(&publish(&["192.0.2.2:80:ns1:80"]), &host());
    let hint = error.advice().unwrap_or_default();
    assert!(hint.contains("127.0.0.1, 203.0.113.1,"), "{hint}");
}

#[test]
fn explicit_addresses_are_kept_and_skipped_by_the_others() {
    let request = ns(&["a", "b=172.19.0.2", "c=172.19.0.9/02:00:00:00:00:07", "d"]);
    let topology = Topology::validate(&request, &host()).unwrap();
    let addrs: Vec<_> = topology.endpoints.iter().map(|e| e.addr.octets()[3]).collect();
    assert_eq!(addrs, [3, 2, 9, 4]);
    assert_eq!(topology.endpoints[2].mac.to_string(), "02:00:00:00:00:07");
}

#[test]
fn long_network_names_get_short_veth_names_that_stay_the_same() {
    let request = with(|r| r.name = LinkName::new("fifteen-letters").unwrap());
    let links = |request: &Request| {
        let topology = Topology::validate(request, &host()).unwrap();
        topology.endpoints.iter().map(|e| e.link.to_string()).collect::<Vec<_>>()
    };
    let names = links(&request);
    assert_eq!(names, links(&request));
    assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
    let other = with(|r| r.name = LinkName::new("fifteen-lettera").unwrap());
    assert_ne!(names, links(&other));
}

/// What is asked for, and on which host; how it is refused, and why.
type Refusal = (&'static str, Request, Observed, ExitCode, &'static str);

#[track_caller]
fn assert_refused(cases: Vec<Refusal>) {
    for (what, request, observed, code, why) in cases {
        let error = refused(&request, &observed);
        assert_eq!(error.code(), code, "{what}: {error}");
        assert!(error.to_string().contains(why), "{what}: {error}");
        assert!(error.advice().is_some(), "{what}: {error}");
    }
}

#[test]
fn uplinks_that_cannot_be_are_refused() {
    use ExitCode::{Failed, Usage};
    let mut taken = host();
    taken.links.push(link(50, "netbpf0", Some("dummy")));
    let two = with(|r| {
        r.uplinks = names(&["up0", "br0"]);
        r.subnet = Some("192.0.2.0/26".parse().unwrap());
    });
    assert_refused(vec![
        ("no such uplink", uplink("nope"), host(), Usage, "no interface nope"),
        ("uplink down", uplink("down0"), host(), Failed, "is down"),
        ("uplink without address", uplink("bare0"), host(), Failed, "no IPv4 address"),
        ("uplink lo", uplink("lo"), host(), Usage, "loopback"),
        ("uplink of another kind", uplink("ib0"), host(), Usage, "neither an Ethernet nor an IP"),
        ("uplink twice", uplinks(&["up0", "br0", "up0"]), host(), Usage, "up0 is named twice"),
        ("one of two is missing", uplinks(&["up0", "nope"]), host(), Usage, "no interface nope"),
        ("uplink is the bridge", uplink("netbpf0"), taken, Usage, "own bridge"),
        ("subnet of the second", two, host(), Usage, "br0 has the address"),
    ]);
}

#[test]
fn ports_that_cannot_be_published_are_refused() {
    use ExitCode::Usage;
    assert_refused(vec![
        ("publish to whom", publish(&["80:80"]), host(), Usage, "which namespace"),
        ("publish to nobody", publish(&["80:ns9:80"]), host(), Usage, "no namespace ns9"),
        ("publish to no IP", publish(&["80:172.19.0.9:80"]), host(), Usage, "no namespace 172"),
        ("publish elsewhere", publish(&["192.0.2.2:80:ns1:80"]), host(), Usage, "not an address"),
        (
            "publish on loopback and everywhere",
            publish(&["127.0.0.1:80:ns1:80", "80:ns2:80"]),
            host(),
            Usage,
            "127.0.0.1:80->80/tcp of ns1",
        ),
        (
            "publish twice",
            publish(&["80-90:ns1:80-90", "203.0.113.1:85:ns2:80"]),
            host(),
            Usage,
            "80-90->80-90/tcp of ns1",
        ),
    ]);
    let published: Vec<String> = (1..=2049).map(|n| format!("{n}:ns1:{n}")).collect();
    let published: Vec<&str> = published.iter().map(String::as_str).collect();
    assert!(refused(&publish(&published), &host()).to_string().contains("2048 together"));
}

#[test]
fn what_cannot_be_is_refused_with_a_reason_and_a_hint() {
    use ExitCode::Usage;
    let taken = |name: &str| {
        let mut host = host();
        host.links.push(link(50, name, Some("dummy")));
        host
    };
    let ns_taken = {
        let mut host = host();
        host.namespaces.insert("ns2".into());
        host
    };
    let many = |n: u16| {
        let namespaces = NamespaceSpec::numbered("ns", n).unwrap();
        with(move |r| {
            r.namespaces = namespaces;
            r.subnet = Some("172.16.0.0/12".parse().unwrap());
        })
    };
    let cases: Vec<Refusal> = vec![
        ("subnet too small", subnet("172.19.0.0/30"), host(), Usage, "room for 1 namespaces, 3"),
        ("subnet of the uplink", subnet("203.0.113.0/25"), host(), Usage, "203.0.113.1/24"),
        ("subnet around an address", subnet("192.0.0.0/16"), host(), Usage, "br0 has the address"),
        ("subnet in a route", subnet("10.5.0.0/24"), host(), Usage, "route to 10.0.0.0/8 by tun0"),
        ("loopback subnet", subnet("127.5.0.0/16"), host(), Usage, "loopback"),
        ("multicast subnet", subnet("239.0.0.0/24"), host(), Usage, "multicast"),
        ("subnet zero", subnet("0.1.0.0/24"), host(), Usage, "this network"),
        ("any subnet", subnet("0.0.0.0/0"), host(), Usage, "this network"),
        ("MTU 67", with(|r| r.mtu = Some(67)), host(), Usage, "68 to 65535"),
        ("MTU 65536", with(|r| r.mtu = Some(65_536)), host(), Usage, "68 to 65535"),
        ("flow table 0", with(|r| r.max_flows = Some(0)), host(), Usage, "1 to 16777216"),
        ("flow limit 0", with(|r| r.flow_limit = Some(0)), host(), Usage, "262144 flows"),
        ("flow limit", with(|r| r.flow_limit = Some(262_145)), host(), Usage, "262144 flows"),
        ("bridge name taken", request(), taken("netbpf0"), Usage, "dummy"),
        ("veth name taken", request(), taken("netbpf0-2"), Usage, "dummy"),
        ("namespace taken", request(), ns_taken, Usage, "/run/netns/ns2"),
        ("name twice", ns(&["a", "b", "a"]), host(), Usage, "named twice"),
        ("IP twice", ns(&["a=172.19.0.5", "b=172.19.0.5"]), host(), Usage, "namespace a has it"),
        ("IP elsewhere", ns(&["a=172.20.0.5"]), host(), Usage, "not in the subnet"),
        ("network address", ns(&["a=172.19.0.0"]), host(), Usage, "subnet 172.19.0.0/24 itself"),
        ("broadcast", ns(&["a=172.19.0.255"]), host(), Usage, "broadcast"),
        ("gateway", ns(&["a=172.19.0.1"]), host(), Usage, "gateway"),
        (
            "MAC twice",
            ns(&["a=172.19.0.5/02:00:00:00:00:05", "b=172.19.0.6/02:00:00:00:00:05"]),
            host(),
            Usage,
            "namespace a has it",
        ),
        (
            "MAC of the bridge",
            ns(&["a=172.19.0.5/02:6e:ac:13:00:01"]),
            host(),
            Usage,
            "the bridge has it",
        ),
        (
            "MAC that another one gets",
            ns(&["a=172.19.0.5/02:6e:ac:13:00:02", "b"]),
            host(),
            Usage,
            "namespace a has it",
        ),
        ("too many", many(4096), host(), Usage, "4095 together"),
    ];
    assert_refused(cases);
    assert!(Topology::validate(&many(4095), &host()).is_ok());
}

#[test]
fn hints_name_a_subnet_that_is_free_and_large_enough() {
    let error = refused(&subnet("203.0.113.0/24"), &host());
    assert_eq!(error.advice(), Some("choose another, for example --subnet 172.19.0.0/24"));
    let error = refused(&subnet("172.19.0.0/30"), &host());
    assert_eq!(error.advice(), Some("choose a larger one, for example --subnet 172.19.0.0/29"));
}

#[test]
fn published_ports_find_their_namespace() {
    let request = publish(&["80:ns1:81", "203.0.113.9:80:172.19.0.3:82/udp", "5-7:ns3:15-17"]);
    let topology = Topology::validate(&request, &host()).unwrap();
    let published: Vec<_> =
        topology.published.iter().map(|p| format!("{} {p}", p.namespace)).collect();
    assert_eq!(published, ["ns1 80->81/tcp", "ns2 203.0.113.9:80->82/udp", "ns3 5-7->15-17/tcp"]);
    let mut only = ns(&["one"]);
    only.publish = vec!["80:81".parse().unwrap()];
    assert_eq!(
        Topology::validate(&only, &host()).unwrap().published[0].namespace,
        NamespaceName::new("one").unwrap()
    );
}

#[test]
fn the_same_request_again_is_the_same_network() {
    let first = with(|r| {
        r.publish = vec!["80:ns1:80".parse().unwrap()];
        r.max_flows = Some(1000);
        r.log_level = Some(LogLevel::Info);
    });
    let after = after_up(&host(), &first);
    let recorded = after.networks[0].topology.clone();
    assert_eq!(Topology::validate(&first, &after).unwrap(), recorded);
    // What is left out is as it was, and not its default.
    let again = publish(&["80:ns1:80"]);
    assert_eq!(Topology::validate(&again, &after).unwrap(), recorded);
    let error = refused(&with_ports(with(|r| r.datapath = Some(Kind::Iptables))), &after);
    assert!(error.advice().is_some_and(|hint| hint.contains("netbpf switch netbpf0")), "{error}");
}

/// Published ports as in the test above.
fn with_ports(request: Request) -> Request {
    Request { publish: vec!["80:ns1:80".parse().unwrap()], max_flows: None, ..request }
}

#[test]
fn another_request_is_a_change_that_keeps_what_stays() {
    let after = after_up(&host(), &publish(&["80:ns1:80"]));
    let recorded = after.networks[0].topology.clone();
    let validate = |request: &Request| Topology::validate(request, &after).unwrap();
    let changed = validate(&ns(&["new", "ns3", "ns1"]));
    assert_eq!(changed.endpoint(&NamespaceName::new("ns3").unwrap()), recorded.endpoints.get(2));
    assert_eq!(changed.leaving.endpoints, [recorded.endpoints[1].clone()]);
    assert_eq!(changed.leaving.published, recorded.published);
    let new = &changed.endpoints[0];
    assert_eq!((new.id, new.addr.octets()[3], new.link.as_str()), (4, 5, "netbpf0-4"));
    // Another address makes another endpoint of it.
    let moved = validate(&ns(&["ns1=172.19.0.9", "ns2", "ns3"]));
    assert_eq!((moved.endpoints[0].id, moved.endpoints[0].link.as_str()), (4, "netbpf0-4"));
    assert_eq!(moved.leaving.endpoints, [recorded.endpoints[0].clone()]);
    // Who is asked for by an address gets it, and who had it another one.
    let swapped = validate(&ns(&["ns1", "ns2=172.19.0.2", "ns3"]));
    assert_eq!(swapped.endpoints[0].addr.octets()[3], 5);
    let two = validate(&uplinks(&["up0", "br0"]));
    assert!(two.leaving.uplinks.is_empty() && two.uplinks.len() == 2);
    assert_eq!(validate(&uplink("br0")).leaving.uplinks, recorded.uplinks);
    // A share stays one; what was told stays as long as it is not told otherwise.
    assert_eq!(changed.flow_limit, 262_144 / 3);
    assert_eq!(validate(&ns(&["ns1"])).flow_limit, 262_144);
    let told = after_up(&host(), &with(|r| r.flow_limit = Some(100)));
    assert_eq!(Topology::validate(&ns(&["ns1"]), &told).unwrap().flow_limit, 100);
    let forgotten = Request { keeps: false, ..ns(&["ns1"]) };
    assert_eq!(Topology::validate(&forgotten, &told).unwrap().flow_limit, 262_144);
}

#[test]
fn another_subnet_leaves_the_addresses_that_are_in_it() {
    let after = after_up(&host(), &ns(&["ns1", "ns2", "ns3"]));
    let recorded = after.networks[0].topology.clone();
    let validate = |text: &str| Topology::validate(&subnet(text), &after).unwrap();
    let wider = validate("172.19.0.0/22");
    assert_eq!(wider.endpoints, recorded.endpoints);
    assert_eq!(
        (&wider.leaving.subnets[..], wider.leaving.endpoints.len()),
        (&[recorded.subnet][..], 0)
    );
    assert_eq!(wider.leaving_gateways().count(), 0);
    let two = with(|r| {
        r.subnet = subnet("172.18.255.248/29").subnet;
        r.namespaces.truncate(2);
    });
    let moved = Topology::validate(&two, &after).unwrap();
    let addrs: Vec<Ipv4Addr> = moved.endpoints.iter().map(|endpoint| endpoint.addr).collect();
    assert_eq!(addrs, [[172, 18, 255, 250], [172, 18, 255, 251]].map(Ipv4Addr::from));
    assert_eq!(moved.leaving.endpoints, recorded.endpoints);
    assert_eq!(moved.leaving_gateways().collect::<Vec<_>>(), [recorded.gateway()]);
    // What an interrupted change has left is still to go.
    let back = recorded.in_place_of(&moved);
    assert_eq!(back.leaving.subnets, [moved.subnet]);
    let third = wider.in_place_of(&moved);
    assert_eq!(third.leaving.subnets, [moved.subnet, recorded.subnet]);
}

/// A change to a request, and why it is then refused.
type Case = (fn(&mut Request), &'static str);

#[test]
fn networks_of_a_host_share_its_datapath_and_nothing_else() {
    let after = after_up(&host(), &publish(&["80:ns1:80"]));
    let second = |change: fn(&mut Request)| {
        with(|r| {
            r.name = LinkName::new("two").unwrap();
            r.namespaces = NamespaceSpec::numbered("b", 2).unwrap();
            r.subnet = Some(Subnet::containing(Ipv4Addr::new(172, 20, 0, 0), 24));
            change(r);
        })
    };
    let topology = Topology::validate(&second(|_| ()), &after).unwrap();
    assert_eq!(topology.endpoints.iter().map(|e| e.id).collect::<Vec<_>>(), [4, 5]);
    let cases: [Case; 6] = [
        (|r| r.subnet = None, "netbpf0 has 172.19.0.0/24"),
        (|r| r.namespaces = NamespaceSpec::numbered("ns", 1).unwrap(), "/run/netns/ns1"),
        (|r| r.publish = vec!["80:b1:80".parse().unwrap()], "network netbpf0 publishes 80->80/tcp"),
        (|r| r.uplinks = names(&["netbpf0"]), "part of a netbpf network"),
        (|r| r.uplinks = names(&["netbpf0-1"]), "part of a netbpf network"),
        (
            |r| r.namespaces = vec!["b=172.20.0.9/02:6e:ac:13:00:03".parse().unwrap()],
            "namespace ns2 has it",
        ),
    ];
    for (change, why) in cases {
        let error = refused(&second(change), &after);
        assert_eq!(error.code(), ExitCode::Usage, "{error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
}

#[test]
fn numbers_that_became_free_are_given_out_again() {
    let mut after = after_up(&host(), &request());
    after.networks[0].topology.endpoints.remove(1);
    let second = with(|r| {
        r.name = LinkName::new("two").unwrap();
        r.namespaces = NamespaceSpec::numbered("b", 2).unwrap();
        r.subnet = Some("172.20.0.0/24".parse().unwrap());
    });
    let topology = Topology::validate(&second, &after).unwrap();
    assert_eq!(topology.endpoints.iter().map(|e| e.id).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn what_took_a_networks_place_is_not_taken_for_it() {
    let after = after_up(&host(), &request());
    let name = NamespaceName::new("ns2").unwrap();
    let mut foreign = after.clone();
    foreign.inside.insert(name, Inside::Foreign);
    assert!(refused(&request(), &foreign).what().contains("ns2 is taken"));
    let mut replaced = after.clone();
    let bridge = replaced.links.iter_mut().find(|link| link.name == "netbpf0").unwrap();
    (bridge.mac, bridge.alias) = (None, None);
    assert!(refused(&request(), &replaced).what().contains("netbpf0 is taken"));
}

#[test]
fn an_interface_is_known_by_its_mac_or_its_alias() {
    let after = after_up(&host(), &request());
    let topology = &after.networks[0].topology;
    let owned = Owned::bridge(topology);
    let bridge = after.link("netbpf0").unwrap();
    assert!(owned.is(bridge));
    assert!(owned.is(&Link { mac: None, ..bridge.clone() }));
    assert!(owned.is(&Link { alias: None, ..bridge.clone() }));
    assert!(!owned.is(&Link { mac: None, alias: None, ..bridge.clone() }));
    assert!(!owned.is(&Link { kind: Some("dummy".into()), ..bridge.clone() }));
}
