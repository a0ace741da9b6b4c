//! Entries of the datapath's maps that were removed or changed by hand, or added.

use std::path::PathBuf;

use netbpf::bpf::Map;
use netbpf_common::{
    BridgePort, Config, Endpoint, EndpointId, FdbEntry, FdbSlot, Ipv4, MacAddr, PublishEntry,
    Ticks, Timeouts, Uplink,
    maps::{
        Addresses, BridgePorts, ConfigMap, EndpointIds, Endpoints, Fdb, FdbSlots, MapDef, Programs,
        Publish, PublishedPorts, SubnetKey, Subnets, Uplinks,
    },
};
use netbpf_tests::{
    Host,
    drift::{Damage, found_and_mended},
};

/// Does something to one of the datapath's maps.
fn change<D: MapDef<Key: aya::Pod, Value: aya::Pod>>(host: &Host, f: impl FnOnce(&Map<D>) + Send) {
    host.sandbox().run(|| {
        let mut hosts = std::fs::read_dir("/sys/fs/bpf/netbpf").expect("pins");
        let pins: PathBuf = hosts.next().expect("a host's").expect("an entry").path();
        f(&Map::<D>::open(&pins).expect("a map"));
    });
}

/// Changes the first endpoint's row.
fn change_endpoint(host: &Host, f: fn(&mut Endpoint)) {
    change::<Endpoints>(host, |map| {
        let mut row = map.get(&1).expect("read").expect("a row");
        f(&mut row);
        map.set(&1, &row).expect("write");
    });
}

/// Changes the configuration.
fn change_config(host: &Host, f: fn(&mut Config)) {
    change::<ConfigMap>(host, |map| {
        let mut config = map.get(&0).expect("read").expect("a row");
        f(&mut config);
        map.set(&0, &config).expect("write");
    });
}

/// The only uplink of the network, by its index.
fn uplink(map: &Map<Uplinks>) -> (u32, Uplink) {
    let mut found = None;
    map.for_each(|index, row| {
        found = Some((*index, *row));
        Ok(())
    })
    .expect("read");
    found.expect("an uplink")
}

const MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 9]);
const NS1: Ipv4 = Ipv4::new([172, 19, 0, 2]);
const NS1_MAC: MacAddr = MacAddr::new([2, 0x6e, 172, 19, 0, 2]);
const GATEWAY: Ipv4 = Ipv4::new([172, 19, 0, 1]);
const NOBODY: Ipv4 = Ipv4::new([172, 19, 0, 99]);
const ENDPOINT: &str = "endpoint ns1 (172.19.0.2)";

const ENDPOINTS: &[Damage] = &[
    Damage {
        what: "no row of an endpoint",
        by: |host| change_endpoint(host, |row| *row = Endpoint::default()),
        found: &[(ENDPOINT, "no entry of ENDPOINTS")],
    },
    Damage {
        what: "another interface of an endpoint",
        by: |host| change_endpoint(host, |row| row.ifindex = 4321),
        found: &[(ENDPOINT, "its ifindex is ")],
    },
    Damage {
        what: "another MAC of an endpoint",
        by: |host| change_endpoint(host, |row| row.mac = MAC),
        found: &[(ENDPOINT, "MAC 02:00:00:00:00:09, should be 02:6e:ac:13:00:02")],
    },
    Damage {
        what: "another address of an endpoint",
        by: |host| change_endpoint(host, |row| row.addr = NOBODY),
        found: &[(ENDPOINT, "address 172.19.0.99, should be 172.19.0.2")],
    },
    Damage {
        what: "another limit, guard and MTU of an endpoint",
        by: |host| {
            change_endpoint(host, |row| {
                (row.flow_limit, row.guard, row.mtu) = (7, 0, 100);
            });
        },
        found: &[(ENDPOINT, "MTU 100, should be 1500")],
    },
    Damage {
        what: "an endpoint of nobody's",
        by: |host| {
            change::<Endpoints>(host, |map| {
                let row = Endpoint { ifindex: 4321, addr: NOBODY, mac: MAC, ..Endpoint::default() };
                map.set(&77, &row).expect("write");
            });
        },
        found: &[("datapath", "has endpoint 77 of no network")],
    },
    Damage {
        what: "no entry of its interface",
        by: |host| {
            change::<EndpointIds>(host, |map| {
                let mut ports = Vec::new();
                map.for_each(|index, id| {
                    ports.extend((*id == 1).then_some(*index));
                    Ok(())
                })
                .expect("read");
                assert!(map.remove(&ports[0]).expect("write"));
            });
        },
        found: &[(ENDPOINT, "its entry of ENDPOINT_IDS is gone, or another")],
    },
    Damage {
        what: "an interface of nobody's",
        by: |host| change::<EndpointIds>(host, |map| map.set(&4321, &1).expect("write")),
        found: &[("datapath", "has an entry of ENDPOINT_IDS for interface 4321")],
    },
    Damage {
        what: "another endpoint in its slot",
        by: |host| {
            change::<BridgePorts>(host, |map| {
                let mut slots = Vec::new();
                map.for_each(|slot, port| {
                    slots.extend((port.endpoint == EndpointId(1)).then_some((*slot, *port)));
                    Ok(())
                })
                .expect("read");
                let (slot, port) = slots[0];
                map.set(&slot, &BridgePort { endpoint: EndpointId(2), ..port }).expect("write");
            });
        },
        found: &[(ENDPOINT, "its entry of BRIDGE_PORTS is gone, or another")],
    },
    Damage {
        what: "a slot of nobody's",
        by: |host| {
            change::<BridgePorts>(host, |map| {
                let port = BridgePort { ifindex: 4321, endpoint: EndpointId(1), pad: 0 };
                map.set(&BridgePort::slot(4321), &port).expect("write");
            });
        },
        found: &[("datapath", "has an entry of BRIDGE_PORTS in slot 4321")],
    },
    Damage {
        what: "no address",
        by: |host| {
            change::<Addresses>(host, |map| assert!(map.remove(&NS1).expect("write")));
        },
        found: &[(ENDPOINT, "its entry of ADDRESSES is gone, or another")],
    },
    Damage {
        what: "an address of nobody's",
        by: |host| change::<Addresses>(host, |map| map.set(&NOBODY, &2).expect("write")),
        found: &[("datapath", "has 172.19.0.99 of no network in ADDRESSES")],
    },
    Damage {
        what: "no MAC",
        by: |host| change::<Fdb>(host, |map| assert!(map.remove(&NS1_MAC.into()).expect("write"))),
        found: &[(ENDPOINT, "its entry of FDB is gone, or another")],
    },
    Damage {
        what: "another one's MAC",
        by: |host| {
            change::<Fdb>(host, |map| {
                let entry = FdbEntry { endpoint: EndpointId(2), ..FdbEntry::default() };
                map.set(&NS1_MAC.into(), &entry).expect("write");
            });
        },
        found: &[(ENDPOINT, "its entry of FDB is gone, or another")],
    },
    Damage {
        what: "a MAC of nobody's",
        by: |host| {
            change::<Fdb>(host, |map| {
                let entry = FdbEntry { endpoint: EndpointId(2), ..FdbEntry::default() };
                map.set(&MAC.into(), &entry).expect("write");
            });
        },
        found: &[("datapath", "has 02:00:00:00:00:09 of no network in FDB")],
    },
    Damage {
        what: "another endpoint in its MAC's slot",
        by: |host| {
            change::<FdbSlots>(host, |map| {
                let slot = FdbSlot::of(NS1_MAC, EndpointId(2));
                map.set(&FdbSlot::index(NS1_MAC), &slot).expect("write");
            });
        },
        found: &[(ENDPOINT, "its entry of FDB_SLOTS is gone, or another")],
    },
    Damage {
        what: "nothing in its MAC's slot",
        by: |host| {
            change::<FdbSlots>(host, |map| {
                map.set(&FdbSlot::index(NS1_MAC), &FdbSlot::FREE).expect("write");
            });
        },
        found: &[(ENDPOINT, "its entry of FDB_SLOTS is gone, or another")],
    },
    Damage {
        what: "a slot of nobody's MAC",
        by: |host| {
            change::<FdbSlots>(host, |map| {
                let slot = FdbSlot::of(MAC, EndpointId(1));
                map.set(&FdbSlot::index(MAC), &slot).expect("write");
            });
        },
        found: &[("datapath", "has an entry of FDB_SLOTS in slot 9")],
    },
    Damage {
        what: "no gateway",
        by: |host| change::<Addresses>(host, |map| assert!(map.remove(&GATEWAY).expect("write"))),
        found: &[("gateway 172.19.0.1", "its entry of ADDRESSES or FDB is gone, or another")],
    },
];

const REST: &[Damage] = &[
    Damage {
        what: "no uplink",
        by: |host| {
            change::<Uplinks>(host, |map| assert!(map.remove(&uplink(map).0).expect("write")));
        },
        found: &[("uplink up0", "no entry of UPLINKS")],
    },
    Damage {
        what: "another address of an uplink",
        by: |host| {
            change::<Uplinks>(host, |map| {
                let (index, row) = uplink(map);
                map.set(&index, &Uplink { addr: NOBODY, ..row }).expect("write");
            });
        },
        found: &[("uplink up0", "address 203.0.113.1 now, UPLINKS has 172.19.0.99")],
    },
    Damage {
        what: "an uplink of nobody's",
        by: |host| {
            change::<Uplinks>(host, |map| map.set(&4321, &uplink(map).1).expect("write"));
        },
        found: &[("datapath", "has uplink with ifindex 4321 of no network")],
    },
    Damage {
        what: "no subnet",
        by: |host| {
            change::<Subnets>(host, |map| {
                let key = SubnetKey { prefix_len: 24, addr: Ipv4::new([172, 19, 0, 0]) };
                assert!(map.remove(&key).expect("write"));
            });
        },
        found: &[("subnet 172.19.0.0/24", "no entry of SUBNETS")],
    },
    Damage {
        what: "a subnet of nobody's",
        by: |host| {
            change::<Subnets>(host, |map| {
                let key = SubnetKey { prefix_len: 24, addr: Ipv4::new([203, 0, 113, 0]) };
                map.set(&key, &1).expect("write");
            });
        },
        found: &[("datapath", "has subnet 203.0.113.0/24 of no network")],
    },
    Damage {
        what: "another target of a published port",
        by: |host| {
            change::<Publish>(host, |map| {
                let mut found = None;
                map.for_each(|index, entry| {
                    if entry.first() == 8080 {
                        found = Some((*index, *entry));
                    }
                    Ok(())
                })
                .expect("read");
                let (index, entry) = found.expect("port 8080");
                map.set(&index, &PublishEntry { target_port: 81, ..entry }).expect("write");
            });
        },
        found: &[("published port ranges", "1 not in PUBLISH, 1 that nobody has published")],
    },
    Damage {
        what: "no published port",
        by: |host| change_config(host, |config| config.publish_len = 0),
        found: &[("published port ranges", "2 not in PUBLISH")],
    },
    Damage {
        what: "the bit of another port",
        by: |host| change::<PublishedPorts>(host, |map| map.set(&3, &4).expect("write")),
        found: &[("published port ranges", "the bits of PUBLISHED_PORTS are others")],
    },
    Damage {
        what: "other time-outs",
        by: |host| {
            change_config(host, |config| {
                config.timeouts = Timeouts { udp: Ticks::from_secs(1), ..Timeouts::DEFAULT };
            });
        },
        found: &[("datapath", "time-outs of flows are others")],
    },
    Damage {
        what: "another secret of outside ports",
        by: |host| change_config(host, |config| config.port_secret = [0; 2]),
        found: &[("datapath", "the secret from which outside ports follow is another")],
    },
    Damage {
        what: "no program for what is rare",
        by: |host| change::<Programs>(host, |map| assert!(map.remove(&0).expect("write"))),
        found: &[("map PROGRAMS", "entries are gone, or others")],
    },
];

#[test]
fn endpoints_are_mended() {
    drop(found_and_mended("ebpf", ENDPOINTS));
}

#[test]
fn uplinks_ports_and_configuration_are_mended() {
    drop(found_and_mended("ebpf", REST));
}
