//! Interfaces, addresses, routes and namespaces that were removed or changed by hand.

use netbpf_tests::{
    Host,
    drift::{DATAPATHS, Damage, check, finds, found_and_mended, mend, network, works},
    finish,
    traffic::UdpServer,
};

fn ip(host: &Host, arguments: &str) {
    host.netns().ip(arguments);
}

const LINKS: &[Damage] = &[
    Damage {
        what: "a veth that is gone",
        by: |host| ip(host, "link del netbpf0-1"),
        found: &[("veth netbpf0-1", "gone")],
    },
    Damage {
        what: "an interface that is gone",
        by: |host| ip(host, "-n ns1 link del eth0"),
        found: &[("veth netbpf0-1", "gone")],
    },
    Damage {
        what: "an interface that is elsewhere",
        by: |host| {
            ip(host, "netns add elsewhere");
            ip(host, "-n ns1 link set eth0 netns elsewhere");
            // Its other end is of no use there, and goes.
        },
        found: &[("veth netbpf0-1", "its other end is not in ns1")],
    },
    Damage {
        what: "a veth that is called otherwise",
        by: |host| {
            ip(host, "netns del elsewhere");
            ip(host, "link set netbpf0-1 name other0");
        },
        found: &[("veth netbpf0-1", "called other0")],
    },
    Damage {
        what: "an interface that is called otherwise",
        by: |host| ip(host, "-n ns1 link set eth0 name other0"),
        found: &[("eth0 in ns1", "called other0")],
    },
    Damage {
        what: "a bridge that is called otherwise",
        by: |host| ip(host, "link set netbpf0 name other0"),
        found: &[("bridge netbpf0", "called other0")],
    },
    Damage {
        what: "a bridge that is gone",
        by: |host| ip(host, "link del netbpf0"),
        found: &[("bridge netbpf0", "gone")],
    },
    Damage {
        what: "a veth that is no port",
        by: |host| ip(host, "link set netbpf0-1 nomaster"),
        found: &[("veth netbpf0-1", "no port of netbpf0")],
    },
    Damage {
        what: "a veth that is a port of another bridge",
        by: |host| {
            ip(host, "link add other0 type bridge");
            ip(host, "link set netbpf0-1 master other0");
        },
        found: &[("veth netbpf0-1", "a port of other0, should be of netbpf0")],
    },
    Damage {
        what: "interfaces that are down",
        by: |host| {
            ip(host, "link del other0");
            ip(host, "link set netbpf0-1 down");
            ip(host, "link set netbpf0 down");
            ip(host, "-n ns1 link set lo down");
        },
        found: &[("veth netbpf0-1", "down"), ("bridge netbpf0", "down"), ("lo in ns1", "down")],
    },
    Damage {
        what: "an interface that is down",
        by: |host| ip(host, "-n ns1 link set eth0 down"),
        found: &[("eth0 in ns1", "down")],
    },
    Damage {
        what: "other MACs",
        by: |host| {
            ip(host, "link set netbpf0 address 02:00:00:00:00:01");
            ip(host, "link set netbpf0-1 address 02:00:00:00:00:02");
            ip(host, "-n ns1 link set eth0 address 02:00:00:00:00:03");
        },
        found: &[
            ("bridge netbpf0", "MAC 02:00:00:00:00:01, should be 02:6e:ac:13:00:01"),
            ("veth netbpf0-1", "MAC 02:00:00:00:00:02, should be 06:6e:ac:13:00:02"),
            ("eth0 in ns1", "MAC 02:00:00:00:00:03, should be 02:6e:ac:13:00:02"),
        ],
    },
    Damage {
        what: "another MTU of the bridge",
        by: |host| ip(host, "link set netbpf0 mtu 1400"),
        found: &[("bridge netbpf0", "MTU 1400, should be 1500")],
    },
    Damage {
        what: "other MTUs",
        by: |host| {
            ip(host, "link set netbpf0-1 mtu 1400");
            ip(host, "-n ns1 link set eth0 mtu 1300");
        },
        found: &[
            ("veth netbpf0-1", "MTU 1400, should be 1500"),
            ("eth0 in ns1", "MTU 1300, should be 1500"),
        ],
    },
];

const ADDRESSES: &[Damage] = &[
    Damage {
        what: "no address",
        by: |host| ip(host, "-n ns1 addr flush dev eth0"),
        found: &[("eth0 in ns1", "without its address 172.19.0.2/24")],
    },
    Damage {
        what: "another address",
        by: |host| {
            ip(host, "-n ns1 addr add 172.19.0.77/24 dev eth0");
            ip(host, "-n ns1 addr del 172.19.0.2/24 dev eth0");
        },
        found: &[("eth0 in ns1", "without its address 172.19.0.2/24")],
    },
    Damage {
        what: "another prefix",
        by: |host| {
            ip(host, "-n ns1 addr flush dev eth0");
            ip(host, "-n ns1 addr add 172.19.0.2/16 dev eth0");
        },
        found: &[("eth0 in ns1", "address 172.19.0.2/16, should be 172.19.0.2/24")],
    },
    Damage {
        what: "another prefix besides",
        by: |host| ip(host, "-n ns1 addr add 172.19.0.2/16 dev eth0"),
        found: &[("eth0 in ns1", "has 172.19.0.2/16 besides")],
    },
    Damage {
        what: "no address of the gateway",
        by: |host| ip(host, "addr flush dev netbpf0"),
        found: &[("bridge netbpf0", "without its address 172.19.0.1/24")],
    },
    Damage {
        what: "no default route",
        by: |host| ip(host, "-n ns1 route del default"),
        found: &[("namespace ns1", "no default route via 172.19.0.1")],
    },
    Damage {
        what: "another default route",
        by: |host| ip(host, "-n ns1 route replace default via 172.19.0.9"),
        found: &[("namespace ns1", "no default route via 172.19.0.1")],
    },
    Damage {
        what: "no routes to the subnet",
        by: |host| {
            ip(host, "-n ns1 route del 172.19.0.0/24");
            ip(host, "route del 172.19.0.0/24");
        },
        found: &[
            ("eth0 in ns1", "without its route to 172.19.0.0/24"),
            ("bridge netbpf0", "without its route to 172.19.0.0/24"),
        ],
    },
    Damage {
        what: "no entry of the bridge's",
        by: |host| {
            let fdb = "fdb del 02:6e:ac:13:00:02 dev netbpf0-1 master";
            finish(host.netns().command("bridge").args(fdb.split(' '))).ok();
        },
        found: &[("forwarding database of netbpf0", "no static entry of 02:6e:ac:13:00:02")],
    },
    Damage {
        what: "a sysctl",
        by: |host| host.netns().sysctl("net/ipv4/ip_forward", "0"),
        found: &[("sysctl net.ipv4.ip_forward", "0, should be 1")],
    },
];

const NAMESPACES: &[Damage] = &[
    Damage {
        what: "a namespace that is gone",
        by: |host| ip(host, "netns del ns1"),
        found: &[("namespace ns1", "gone")],
    },
    Damage {
        what: "a namespace that is another one",
        by: |host| {
            ip(host, "netns del ns1");
            ip(host, "netns add ns1");
        },
        found: &[("namespace ns1", "replaced by another one, which is empty")],
    },
    Damage {
        what: "everything that ip knows of a namespace",
        by: |host| {
            ip(host, "link del netbpf0-1");
            ip(host, "netns del ns1");
        },
        found: &[("namespace ns1", "gone")],
    },
];

#[test]
fn interfaces_are_mended() {
    for datapath in DATAPATHS {
        drop(found_and_mended(datapath, LINKS));
    }
}

#[test]
fn addresses_and_routes_are_mended() {
    for datapath in DATAPATHS {
        drop(found_and_mended(datapath, ADDRESSES));
    }
}

#[test]
fn namespaces_are_mended() {
    for datapath in DATAPATHS {
        drop(found_and_mended(datapath, NAMESPACES));
    }
}

/// Who is inside does not notice.
#[test]
fn a_namespace_that_processes_are_in_gets_its_name_back() {
    for datapath in DATAPATHS {
        let host = network(datapath);
        let ns1 = host.ns("ns1");
        let server = UdpServer::start(&ns1, 53);
        let mut sleeper = ns1.command("sleep").arg("1000").spawn().expect("a process");
        ip(&host, "netns del ns1");
        finds(
            &host,
            datapath,
            &[("namespace ns1", "its name is gone, though processes are in it")],
        );
        mend(&host);
        finds(&host, datapath, &[]);
        works(&host, datapath);
        assert_eq!(host.ns("ns1").links(), ns1.links(), "it is the same");
        drop(server);
        sleeper.kill().and_then(|()| sleeper.wait()).expect("it ends");
    }
}

/// What somebody uses is left alone, and said what to do about.
#[test]
fn what_is_somebody_elses_is_named_and_stays() {
    for datapath in DATAPATHS {
        let host = network(datapath);
        ip(&host, "netns del ns1");
        ip(&host, "netns add ns1");
        ip(&host, "-n ns1 link add mine0 type bridge");
        finds(&host, datapath, &[("namespace ns1", "replaced by another one, which is in use")]);
        host.netbpf("check").exits(3).says("ip netns delete ns1");
        host.netbpf("up").exits(2).complains("ns1 is taken");
        ip(&host, "netns del ns1");
        mend(&host);
        ip(&host, "-n ns1 link del eth0");
        ip(&host, "-n ns1 link add eth0 type bridge");
        finds(&host, datapath, &[("eth0 in ns1", "another interface has its name")]);
        host.netbpf("up").exits(2).complains("ip -n ns1 link delete eth0");
        ip(&host, "-n ns1 link del eth0");
        mend(&host);
        works(&host, datapath);
    }
}

/// A veth that is deleted, and another interface that has got its number.
#[test]
fn an_index_that_is_another_interfaces_is_not_taken_for_the_old_one() {
    for datapath in DATAPATHS {
        let host = network(datapath);
        let index = host.netns().link("netbpf0-1")["ifindex"].clone();
        ip(&host, "link del netbpf0-1");
        ip(&host, &format!("link add mine0 index {index} type bridge"));
        finds(&host, datapath, &[("veth netbpf0-1", "gone")]);
        mend(&host);
        finds(&host, datapath, &[]);
        works(&host, datapath);
        // The same veth, made by hand, has another number.
        let veth = host.netns().link("netbpf0-1");
        let mac = veth["address"].as_str().expect("a MAC");
        ip(&host, "link del netbpf0-1");
        ip(&host, "link del mine0");
        ip(
            &host,
            &format!(
                "link add netbpf0-1 address {mac} mtu 1500 up type veth peer eth0 netns ns1 \
                 address 02:6e:ac:13:00:02 mtu 1500"
            ),
        );
        ip(&host, "link set netbpf0-1 master netbpf0");
        ip(&host, "-n ns1 link set eth0 up");
        ip(&host, "-n ns1 addr add 172.19.0.2/24 dev eth0");
        ip(&host, "-n ns1 route add default via 172.19.0.1");
        let found = check(&host);
        if datapath == "ebpf" {
            let endpoint = found.iter().find(|(thing, _)| thing == "endpoint ns1 (172.19.0.2)");
            let (_, amiss) = endpoint.unwrap_or_else(|| panic!("{found:#?}"));
            assert!(amiss.starts_with("its ifindex is "), "{amiss}");
        }
        mend(&host);
        finds(&host, datapath, &[]);
        works(&host, datapath);
    }
}

/// An uplink that is not there is nobody's to mend; when it is back, it is another.
#[test]
fn an_uplink_that_is_gone_and_back() {
    for datapath in DATAPATHS {
        let host = network(datapath);
        let back = |host: &Host| {
            ip(host, "link add up0 type veth peer name out0 netns host-outside");
            ip(host, "addr add 203.0.113.1/24 dev up0");
            host.outside().ip("addr add 203.0.113.2/24 dev out0");
            ip(host, "link set up0 up");
            host.outside().ip("link set out0 up");
            host.netns().wait_up("up0");
            ip(host, "route add default via 203.0.113.2");
        };
        ip(&host, "link del up0");
        finds(&host, datapath, &[("uplink up0", "gone")]);
        host.netbpf("check").exits(3).says("netbpf uplink rm up0");
        host.netbpf("up").exits(2).complains("there is no interface up0");
        back(&host);
        let expected: &[(&str, &str)] =
            if datapath == "ebpf" { &[("uplink up0", "its ifindex is ")] } else { &[] };
        finds(&host, datapath, expected);
        mend(&host);
        finds(&host, datapath, &[]);
        works(&host, datapath);
        ip(&host, "link set up0 down");
        finds(&host, datapath, &[("uplink up0", "down")]);
        ip(&host, "link set up0 up");
        host.netns().wait_up("up0");
        ip(&host, "route add default via 203.0.113.2");
        finds(&host, datapath, &[]);
        ip(&host, "link set up0 name wan0");
        // Rules know it by its name only.
        let called = "gone: its interface is called wan0 now";
        finds(&host, datapath, &[("uplink up0", if datapath == "ebpf" { called } else { "gone" })]);
        ip(&host, "link set wan0 name up0");
        ip(&host, "addr del 203.0.113.1/24 dev up0");
        finds(&host, datapath, &[("uplink up0", "without an IPv4 address")]);
        ip(&host, "addr add 203.0.113.9/24 dev up0");
        let expected: &[(&str, &str)] = match datapath {
            "ebpf" => &[("uplink up0", "address 203.0.113.9 now, UPLINKS has 203.0.113.1")],
            _ => &[("rules of iptables in table nat", "NETBPF-netbpf0-SNAT lacks: ")],
        };
        finds(&host, datapath, expected);
        mend(&host);
        finds(&host, datapath, &[]);
        host.netbpf("down").ok();
        host.forget();
    }
}

/// Two namespaces and a veth pair.
#[test]
fn a_direct_network_is_mended() {
    let host = Host::new();
    host.netbpf("up --direct --ns a=10.0.0.1/24 --ns b=10.0.0.2/24").ok();
    finds(&host, "whole", &[]);
    for (arguments, thing, amiss) in [
        ("-n a link del eth0", "eth0 in a", "gone"),
        ("-n a link set eth0 name other0", "eth0 in a", "called other0"),
        ("-n b link set eth0 down", "eth0 in b", "down"),
        ("-n a link set eth0 address 02:00:00:00:00:03", "eth0 in a", "MAC 02:00:00:00:00:03"),
        ("-n b addr flush dev eth0", "eth0 in b", "without its address 10.0.0.2/24"),
        ("netns del b", "namespace b", "gone"),
    ] {
        ip(&host, arguments);
        finds(&host, arguments, &[(thing, amiss)]);
        mend(&host);
        finds(&host, arguments, &[]);
        host.netbpf("exec a -- ping -c1 -W5 10.0.0.2").ok();
    }
}
