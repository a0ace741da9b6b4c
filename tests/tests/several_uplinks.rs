//! Networks with several uplinks, of several kinds: they come and go like others.

use netbpf_tests::{
    Host, Listing, Netns, OUTSIDE, UPLINK, at, finish, reference,
    traffic::{Echo, UdpClient, UdpServer, ping},
};
use std::net::Ipv4Addr;

/// The host's address on its second uplink, and the one outside there.
const SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const BEYOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// What both uplinks carry.
const BOTH: &str = "up --uplink up0 --uplink up1 --namespaces 1";

/// Gives the host an uplink `up1` to the outside, besides `up0`.
fn add_second(host: &Host) {
    let outside = host.outside();
    host.netns().ip(&format!("link add up1 type veth peer name out1 netns {}", outside.name()));
    host.netns().ip(&format!("addr add {SECOND}/24 dev up1"));
    outside.ip(&format!("addr add {BEYOND}/24 dev out1"));
    host.netns().ip("link set up1 up");
    outside.ip("link set out1 up");
    host.netns().wait_up("up1");
    outside.wait_up("out1");
}

fn reaches(ns: &Netns, to: Ipv4Addr) -> bool {
    ping(ns, to, Echo::default()).is_reply()
}

/// What there is on an interface of the host.
fn programs_on(listing: &Listing, interface: &str) -> Vec<String> {
    let all = listing.with(&format!("tcx: {interface} ")).into_iter();
    let mut names: Vec<String> =
        all.map(|line| line.rsplit(' ').next().unwrap_or_default().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn each_destination_leaves_by_its_route_with_that_uplinks_address() {
    let host = Host::new();
    add_second(&host);
    host.netbpf(BOTH).ok().says("203.0.113.1/24").says("198.51.100.1/24");
    let ns1 = host.ns("ns1");
    let server = UdpServer::start(host.outside(), 53);
    let client = UdpClient::on_port(&ns1, 5000);
    for (to, from) in [(OUTSIDE, UPLINK), (BEYOND, SECOND)] {
        assert!(reaches(&ns1, to), "{to}");
        client.exchange(at(to, 53), b"from where?");
        assert!(server.peers().iter().any(|peer| peer.ip() == from), "{to}: {:?}", server.peers());
    }
    let flows = host.json("maps flows --proto udp");
    let by = |to: &str| {
        let flows = flows["flows"].as_array().expect("flows");
        let flow = flows.iter().find(|flow| flow["original"]["dst"] == to);
        flow.unwrap_or_else(|| panic!("no flow to {to}"))["uplink"].clone()
    };
    assert_eq!((by("203.0.113.2"), by("198.51.100.2")), ("up0".into(), "up1".into()));
    let status = host.json("status");
    let uplinks = &status["networks"][0]["uplinks"];
    let names: Vec<_> = uplinks.as_array().expect("a list").iter().map(|u| &u["name"]).collect();
    assert_eq!(names, ["up0", "up1"]);
    host.netbpf(BOTH).ok().complains("nothing to do");
    // Another network may have one of them, too, and keeps it.
    host.netbpf("up --name two --subnet 172.20.0.0/24 --uplink up1 --ns-prefix b --namespaces 1")
        .ok();
    host.netbpf("down netbpf0").ok();
    assert!(reaches(&host.ns("b1"), BEYOND));
    let listing = host.listing();
    assert_eq!(programs_on(&listing, "up0"), [""; 0]);
    assert_eq!(programs_on(&listing, "up1"), ["from_uplink", "to_uplink"]);
    assert_eq!(programs_on(&listing, "lo"), ["from_uplink"]);
    host.netbpf("down two").ok();
    host.netns().ip("link del up1");
    host.assert_as_before();
}

#[test]
fn an_uplink_that_vanished_does_not_keep_down_from_going_on() {
    let host = Host::new();
    add_second(&host);
    host.netbpf(BOTH).ok();
    let other = "up --name two --subnet 172.20.0.0/24 --uplink up0 --ns-prefix b --namespaces 1";
    host.netbpf(other).ok();
    host.netns().ip("link del up1");
    host.netbpf("status").ok().says("interface gone");
    assert!(reaches(&host.ns("ns1"), OUTSIDE), "the other uplink carries on");
    host.netbpf(BOTH).exits(2).complains("up1");
    host.netbpf("down netbpf0").ok();
    assert!(reaches(&host.ns("b1"), OUTSIDE));
    let left = host.json("maps");
    let maps = left["maps"].as_array().expect("maps");
    let uplinks = maps.iter().find(|map| map["name"] == "UPLINKS").expect("a map of uplinks");
    assert_eq!(uplinks["entries"], 1, "the one that is gone is forgotten");
    host.netbpf("down two").ok();
    host.assert_as_before();
}

#[test]
fn a_second_network_that_fails_leaves_the_first_as_it_was() {
    let host = Host::new();
    add_second(&host);
    host.up("--namespaces 1 -p 8080:ns1:80");
    // Somebody has switched them off since: the second one switches them on.
    for sysctl in ["conf/lo/accept_local", "conf/lo/route_localnet", "ip_forward"] {
        host.netns().sysctl(&format!("net/ipv4/{sysctl}"), "0");
    }
    let before = host.listing();
    let arguments = "up --name two --subnet 172.20.0.0/24 --uplink up1 --uplink up0 \
                     --ns-prefix b --namespaces 1 -p 127.0.0.1:9090:b1:80";
    let mut steps = 0;
    for step in 1..=100 {
        let mut command = host.command(arguments);
        let outcome = finish(command.env("NETBPF_FAULT", format!("fail:{step}")));
        if outcome.code == Some(0) {
            break;
        }
        eprintln!("{outcome}");
        steps = step;
        // What is remembered of the first one's switches may have gone with them.
        let listing = host.listing();
        for kind in ["link", "tcx", "sysctl", "pin", "address", "route"] {
            assert_eq!(listing.with(&format!("{kind}: ")), before.with(&format!("{kind}: ")));
        }
    }
    assert!((10..100).contains(&steps), "{steps} steps had a fault");
    host.netbpf("down --all").ok();
    host.netns().ip("link del up1");
    host.assert_as_before();
}

#[test]
fn a_device_without_ethernet_header_is_planned_with_programs_of_its_own() {
    let host = Host::new();
    host.netns().ip("tuntap add dev tun0 mode tun");
    host.netns().ip("addr add 10.99.0.1 peer 10.99.0.2/32 dev tun0");
    host.netns().ip("link set tun0 up");
    let before = host.listing();
    let plan = host.netbpf("up --uplink up0 --uplink tun0 --namespaces 1 --dry-run").ok();
    plan.says("attach to_uplink_l3 to egress of tun0")
        .says("attach from_uplink_l3 to ingress of tun0")
        .says("uplink tun0, outgoing packets carry 10.99.0.1")
        .says("attach to_uplink to egress of up0");
    host.netbpf("up --uplink tun0 --subnet 10.99.0.0/24 --namespaces 1")
        .exits(2)
        .complains("tun0 has the address 10.99.0.1/32");
    before.assert_same(&host.listing());
    host.netns().ip("link del tun0");
}

#[test]
fn a_device_without_ethernet_header_comes_and_goes_like_others() {
    let host = Host::new();
    let add_tun = || {
        host.netns().ip("tuntap add dev tun0 mode tun");
        host.netns().ip("addr add 10.99.0.1 peer 10.99.0.2/32 dev tun0");
        host.netns().ip("link set tun0 up");
    };
    add_tun();
    let arguments = "up --uplink tun0 --uplink up0 --namespaces 1";
    host.netbpf(arguments).ok().says("10.99.0.1/32");
    assert!(reaches(&host.ns("ns1"), OUTSIDE));
    let listing = host.listing();
    assert_eq!(programs_on(&listing, "tun0"), ["from_uplink_l3", "to_uplink_l3"]);
    assert_eq!(listing.with("_l3-").len(), 2, "each has a pin: {:?}", listing.with("pin: "));
    host.netbpf(arguments).ok().complains("nothing to do");
    host.netbpf("down").ok();
    assert_eq!(programs_on(&host.listing(), "tun0"), [""; 0]);
    host.netbpf(arguments).ok();
    host.netns().ip("link del tun0");
    host.netbpf("down").ok();
    host.assert_as_before();
}

#[test]
fn the_switches_of_the_loopback_interface_are_put_back_as_they_were() {
    if reference::skipped("switches of the loopback interface, which only eBPF needs") {
        return;
    }
    let path = |name: &str| format!("/proc/sys/net/ipv4/conf/lo/{name}");
    for theirs in [["0", "0"], ["1", "0"], ["0", "1"]] {
        let host = Host::new();
        let names = ["accept_local", "route_localnet"];
        let read = || names.map(|name| host.netns().read(&path(name)).trim().to_owned());
        for (name, value) in names.iter().zip(theirs) {
            host.netns().sysctl(&format!("net/ipv4/conf/lo/{name}"), value);
        }
        host.up("--namespaces 1");
        assert_eq!(read(), ["1", "1"]);
        host.netbpf("down").ok();
        assert_eq!(read(), theirs);
        for name in names {
            host.netns().sysctl(&format!("net/ipv4/conf/lo/{name}"), "0");
        }
    }
}

#[test]
fn a_loopback_interface_that_is_down_is_no_obstacle_but_worth_a_word() {
    let host = Host::new();
    host.netns().ip("link set lo down");
    host.up("--namespaces 1").complains("lo is down");
    assert!(reaches(&host.ns("ns1"), OUTSIDE));
    host.netbpf("down").ok();
    host.netns().ip("link set lo up");
}
