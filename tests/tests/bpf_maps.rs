//! Loading, pins, attachments and maps, by the library's own interface.

use std::{fs, path::Path};

use netbpf::bpf::{Attachment, Datapath, Hook, LoadOptions, LogLevel, has_bpffs};
use netbpf_common::{
    BridgePort, Config, Endpoint, EndpointId, FdbEntry, FdbSlot, Flow, FlowKind, Ipv4, MacAddr,
    Port, PublishEntry, Tally, Ticks, Translation, Tuple, Uplink,
    maps::{self, ConfigMap, FdbLearnt, FlowCounts, Flows},
    proto,
};
use netbpf_tests::{Netns, Sandbox};

const PIN_DIR: &str = "/sys/fs/bpf/netbpf/1";
const OPTIONS: LoadOptions = LoadOptions { max_flows: 65_536, log_level: LogLevel::Warn };

const HOST: Ipv4 = Ipv4::new([203, 0, 113, 1]);
const OUTSIDE: Ipv4 = Ipv4::new([203, 0, 113, 2]);

fn pin_dir() -> &'static Path {
    Path::new(PIN_DIR)
}

/// A machine with two interfaces, "left" and "right".
fn machine(sandbox: &Sandbox) -> Netns {
    let machine = Netns::create(sandbox, "machine");
    machine.ip("link add left type veth peer name right");
    machine.ip("link set left up");
    machine.ip("link set right up");
    machine
}

fn ifindex(machine: &Netns, interface: &str) -> u32 {
    let index = machine.link(interface)["ifindex"].as_u64().expect("an interface index");
    u32::try_from(index).expect("an interface index")
}

/// Runs `f` on the machine with a datapath that is loaded for it.
fn with_datapath(f: impl FnOnce(&Datapath) + Send) {
    let machine = machine(&Sandbox::new());
    machine.run(|| {
        f(&Datapath::load(pin_dir(), &OPTIONS).expect("the datapath loads"));
        Datapath::unload(pin_dir()).expect("the datapath goes");
    });
}

/// Everything below the BPF file system.
fn pins() -> Vec<String> {
    fn walk(dir: &Path, all: &mut Vec<String>) {
        for entry in fs::read_dir(dir).expect("read the BPF file system") {
            let path = entry.expect("an entry").path();
            // The kernel's own, which are in every BPF file system.
            if path.extension().is_some_and(|extension| extension == "debug") {
                continue;
            }
            all.push(path.display().to_string());
            if path.is_dir() && !path.is_symlink() {
                walk(&path, all);
            }
        }
    }
    let mut all = Vec::new();
    walk(Path::new("/sys/fs/bpf"), &mut all);
    all
}

#[test]
fn what_is_loaded_is_found_again_and_goes_without_a_trace() {
    machine(&Sandbox::without_bpffs()).run(|| {
        assert!(!has_bpffs());
        assert_eq!(Datapath::open(pin_dir()).expect("nothing is no error"), None);
        let loaded = Datapath::load(pin_dir(), &OPTIONS).expect("the datapath loads");
        assert_eq!(loaded.options().expect("options"), OPTIONS);
        assert_eq!(Datapath::open(pin_dir()).expect("it opens"), Some(loaded));
        let error = Datapath::load(pin_dir(), &OPTIONS).expect_err("it is there already");
        assert!(error.what().contains("loaded already"), "{error}");
        Datapath::unload(pin_dir()).expect("it goes");
        assert_eq!(pins(), [""; 0]);
        Datapath::unload(pin_dir()).expect("nothing is no error");
    });
}

#[test]
fn what_an_interrupted_run_left_is_cleared_away() {
    machine(&Sandbox::new()).run(|| {
        let parts = ["-loading/maps", "-loading/links", "-unloading/programs"];
        for part in parts {
            fs::create_dir_all(format!("{PIN_DIR}{part}")).expect("create remains");
        }
        assert_eq!(Datapath::open(pin_dir()).expect("remains are no datapath"), None);
        Datapath::load(pin_dir(), &OPTIONS).expect("the datapath loads");
        assert!(pins().iter().all(|pin| !pin.contains("loading")), "{:?}", pins());
        for part in parts {
            fs::create_dir_all(format!("{PIN_DIR}{part}")).expect("create remains");
        }
        Datapath::unload(pin_dir()).expect("it goes");
        assert_eq!(pins(), [""; 0]);
    });
}

#[test]
fn a_datapath_that_cannot_be_used_is_refused_with_advice() {
    with_datapath(|loaded| {
        let config = loaded.config().expect("a configuration");
        let write = |config: &Config| loaded.map::<ConfigMap>()?.set(&0, config);
        write(&Config { abi_version: 99, ..config }).expect("write the configuration");
        let error = Datapath::open(pin_dir()).expect_err("another version");
        assert!(error.to_string().contains("version 99"), "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("netbpf down")));
        // The flow table's size is that of other options.
        write(&Config { max_flows: 1000, ..config }).expect("write the configuration");
        let error = Datapath::open(pin_dir()).expect_err("another size");
        assert!(error.to_string().contains("FLOWS"), "{error}");
        write(&config).expect("write the configuration");
        fs::remove_file(pin_dir().join("maps/FDB")).expect("remove a pin");
        let error = Datapath::open(pin_dir()).expect_err("a map is missing");
        assert!(error.what().contains("incomplete") && error.to_string().contains("FDB"));
    });
}

#[test]
fn programs_attach_once_and_detach_by_either_means() {
    let sandbox = Sandbox::new();
    let machine = machine(&sandbox);
    let left = ifindex(&machine, "left");
    let lo = ifindex(&machine, "lo");
    machine.run(|| {
        let loaded = Datapath::load(pin_dir(), &OPTIONS).expect("the datapath loads");
        // Two hooks have one program, but never one device.
        let on = |hook| if hook == Hook::FromHost { lo } else { left };
        let attached = |hook| loaded.attached(hook, on(hook)).expect("the kernel answers");
        for &means in Attachment::all() {
            for hook in Hook::ALL {
                assert!(!attached(hook), "{hook:?} before");
                for _ in 0..2 {
                    loaded.attach_by(means, hook, on(hook)).expect("it attaches");
                    assert!(attached(hook), "{hook:?} by {means:?}");
                }
            }
            for hook in Hook::ALL {
                Datapath::detach(pin_dir(), hook, on(hook)).expect("it detaches, once or twice");
                assert!(!attached(hook), "{hook:?} after {means:?}");
            }
            assert_eq!(fs::read_dir(pin_dir().join("links")).expect("links").count(), 0);
        }
        Datapath::unload(pin_dir()).expect("it goes");
    });
    let qdiscs = machine.ip_json("tc", "qdisc show dev left").to_string();
    assert!(!qdiscs.contains("clsact"), "{qdiscs}");
}

#[test]
fn a_qdisc_of_somebody_else_stays() {
    let machine = machine(&Sandbox::new());
    let left = ifindex(&machine, "left");
    let tc = |arguments: &str| machine.ip_json("tc", arguments).to_string();
    let add = machine.command("tc").args(["qdisc", "add", "dev", "left", "clsact"]).status();
    assert!(add.expect("tc").success());
    machine.run(|| {
        let loaded = Datapath::load(pin_dir(), &OPTIONS).expect("the datapath loads");
        loaded.attach_by(Attachment::Filter, Hook::FromEndpoint, left).expect("it attaches");
        // Without a detach: what is pinned is enough to find it.
        Datapath::unload(pin_dir()).expect("it goes");
        assert_eq!(pins(), [""; 0]);
    });
    assert!(tc("qdisc show dev left").contains("clsact"));
    assert!(!tc("filter show dev left ingress").contains("from_endpoint"));
}

#[test]
fn an_interface_of_the_same_number_gets_an_attachment_of_its_own() {
    for &means in Attachment::all() {
        let machine = machine(&Sandbox::new());
        let left = ifindex(&machine, "left");
        let load = || Datapath::load(pin_dir(), &OPTIONS).expect("the datapath loads");
        let loaded = machine.run(load);
        let attach = || loaded.attach_by(means, Hook::FromEndpoint, left);
        machine.run(attach).expect("it attaches");
        machine.ip("link del left");
        machine.run(|| {
            assert!(!loaded.attached(Hook::FromEndpoint, left).expect("the kernel answers"));
            let error = attach().expect_err("it is gone");
            assert!(error.to_string().contains("no such interface"), "{error}");
        });
        machine.ip(&format!("link add again index {left} type veth peer name other"));
        machine.run(|| {
            assert!(!loaded.attached(Hook::FromEndpoint, left).expect("the kernel answers"));
            attach().expect("the stale pin is replaced");
            assert!(loaded.attached(Hook::FromEndpoint, left).expect("the kernel answers"));
            Datapath::unload(pin_dir()).expect("it goes");
        });
    }
}

#[test]
fn an_attachment_whose_pin_was_removed_is_made_anew() {
    for &means in Attachment::all() {
        let machine = machine(&Sandbox::new());
        let left = ifindex(&machine, "left");
        machine.run(|| {
            let loaded = Datapath::load(pin_dir(), &OPTIONS).expect("the datapath loads");
            let attach = || loaded.attach_by(means, Hook::FromUplink, left);
            attach().expect("it attaches");
            let pin = pin_dir().join(format!("links/from_uplink-{left}"));
            for _ in 0..5 {
                fs::remove_file(&pin).expect("remove the pin");
                // The kernel still has it for a moment, but it is not there to stay.
                assert!(!loaded.attached(Hook::FromUplink, left).expect("the kernel answers"));
                attach().expect("it attaches anew");
                // (That of a filter is but a mark, a symbolic link to nothing.)
                assert!(pin.exists() || pin.is_symlink());
                assert!(loaded.attached(Hook::FromUplink, left).expect("the kernel answers"));
            }
            Datapath::unload(pin_dir()).expect("it goes");
        });
    }
}

/// A flow that an endpoint opened, number `n` of it.
fn flow(n: u16, endpoint: EndpointId) -> [(Tuple, Flow); 2] {
    let tuple = Tuple {
        saddr: Ipv4::from_host(0xac13_0001 + endpoint.index()),
        daddr: OUTSIDE,
        sport: Port::new(n),
        dport: Port::new(443),
        proto: proto::TCP,
        from_host: 0,
        pad: [0; 2],
    };
    let translated = Translation { saddr: HOST, ..tuple.into() };
    let common = Flow { endpoint, uplink: 7, created: Ticks(5), ..Flow::default() };
    let tally = |packets| {
        let mut tally = Tally::default();
        (0..packets).for_each(|_| tally.add(60));
        tally
    };
    let original = Flow { translated, tally: tally(2), kind: FlowKind::SNAT_ORIGINAL, ..common };
    let back = tuple.reversed().into();
    let reply = Flow { translated: back, tally: tally(1), kind: FlowKind::SNAT_REPLY, ..common };
    [(tuple, original), (original.partner(proto::TCP), reply)]
}

/// Puts flows into the maps as the datapath would.
fn insert(loaded: &Datapath, flows: &[[(Tuple, Flow); 2]]) {
    let (table, counts) = (
        loaded.map::<Flows>().expect("the flow table"),
        loaded.map::<FlowCounts>().expect("the counts"),
    );
    for entries in flows {
        for (key, entry) in entries {
            table.set(key, entry).expect("insert a flow");
        }
        for id in [EndpointId::NONE, entries[0].1.endpoint] {
            let count = loaded.flow_count(id).expect("a count");
            counts.set(&id.index(), &(count + 1)).expect("count a flow");
        }
    }
}

fn endpoint(ifindex: u32, last_octet: u8) -> Endpoint {
    Endpoint {
        ifindex,
        addr: Ipv4::new([172, 19, 0, last_octet]),
        mac: MacAddr::new([2, 0, 0, 0, 0, last_octet]),
        mtu: 1500,
        ..Endpoint::default()
    }
}

#[test]
fn every_flow_is_seen_once_with_both_directions() {
    with_datapath(|loaded| {
        let flows: Vec<_> = (1..=30_000).map(|n| flow(n, EndpointId(n % 3))).collect();
        insert(loaded, &flows);
        let mut seen = Vec::new();
        let all = loaded.for_each_flow(
            |_| true,
            |row| {
                assert_eq!((row.original.packets, row.reply.packets), (2, 1));
                seen.push(row.head.tuple.sport.number());
                Ok(())
            },
        );
        all.expect("the walk ends");
        seen.sort_unstable();
        assert!(seen.into_iter().eq(1..=30_000));
        let mut of_one = 0;
        loaded
            .for_each_flow(
                |head| head.endpoint == EndpointId(1),
                |_| {
                    of_one += 1;
                    Ok(())
                },
            )
            .expect("the walk ends");
        assert_eq!(of_one, 10_000);
    });
}

#[test]
fn a_walk_ends_with_the_first_error() {
    with_datapath(|loaded| {
        let flows: Vec<_> = (1..=30_000).map(|n| flow(n, EndpointId(1))).collect();
        insert(loaded, &flows);
        let stop = netbpf::error::Error::failed("enough");
        let mut stop = Some(stop);
        let error = loaded
            .for_each_flow(|_| true, |_| Err(stop.take().expect("it is called once")))
            .expect_err("the visitor's error");
        assert_eq!(error.what(), "enough");
    });
}

#[test]
fn flows_end_with_their_endpoint_and_their_uplink() {
    with_datapath(|loaded| {
        let (one, two) = (EndpointId(1), EndpointId(2));
        loaded.set_endpoint(one, &endpoint(11, 2)).expect("set");
        loaded.set_endpoint(two, &endpoint(12, 3)).expect("set");
        loaded.set_uplink(7, &Uplink { addr: HOST, ..Uplink::default() }).expect("set");
        // More than go to the kernel at a time, and not a multiple of it.
        let flows: Vec<_> = (1..=201).map(|n| flow(n, if n <= 150 { one } else { two })).collect();
        insert(loaded, &flows);
        let learnt = loaded.map::<FdbLearnt>().expect("learnt MACs");
        for (last, endpoint) in [(9, one), (8, two)] {
            let entry = FdbEntry { endpoint, ..FdbEntry::default() };
            learnt.set(&MacAddr::new([2, 0, 0, 0, 0, last]).into(), &entry).expect("learn");
        }
        assert_eq!(loaded.clear_endpoint(one).expect("clear"), 150);
        assert_eq!(loaded.clear_endpoint(one).expect("clear a free one"), 0);
        let count = |id| loaded.flow_count(id).expect("a count");
        assert_eq!((count(EndpointId::NONE), count(one), count(two)), (51, 0, 51));
        let mut left = Vec::new();
        let walk = learnt.for_each(|key, _| {
            left.push(key.mac);
            Ok(())
        });
        walk.expect("walk");
        assert_eq!(left, [MacAddr::new([2, 0, 0, 0, 0, 8])]);
        loaded.clear_uplink(7).expect("clear");
        assert_eq!((count(EndpointId::NONE), count(two)), (0, 0));
        let mut entries = 0;
        let table = loaded.map::<Flows>().expect("the flow table");
        let walk = table.for_each(|_, _| {
            entries += 1;
            Ok(())
        });
        walk.expect("walk");
        assert_eq!(entries, 0, "both directions are gone");
    });
}

#[test]
fn an_endpoint_number_changes_hands_cleanly() {
    with_datapath(|loaded| {
        let id = EndpointId(5);
        loaded.set_endpoint(id, &endpoint(11, 2)).expect("set");
        insert(loaded, &[flow(1, id)]);
        loaded.set_endpoint(id, &endpoint(11, 2)).expect("set the same");
        assert_eq!(loaded.flow_count(id).expect("a count"), 1, "nothing has changed");
        loaded.set_endpoint(id, &endpoint(12, 3)).expect("set another");
        assert_eq!(loaded.flow_count(id).expect("a count"), 0);
        let ports = loaded.map::<maps::EndpointIds>().expect("the ports");
        assert_eq!(ports.get(&11).expect("get"), None);
        assert_eq!(ports.get(&12).expect("get"), Some(5));
        let at_hand = loaded.map::<maps::BridgePorts>().expect("the ports at hand");
        let slot = |ifindex| at_hand.get(&BridgePort::slot(ifindex)).expect("get").unwrap();
        assert_eq!(slot(11), BridgePort::default());
        assert_eq!((slot(12).ifindex, slot(12).endpoint), (12, id));
        let addresses = loaded.map::<maps::Addresses>().expect("the addresses");
        assert_eq!(addresses.get(&Ipv4::new([172, 19, 0, 2])).expect("get"), None);
        assert_eq!(addresses.get(&Ipv4::new([172, 19, 0, 3])).expect("get"), Some(5));
    });
}

#[test]
fn ports_that_meet_in_a_slot_are_both_known() {
    with_datapath(|loaded| {
        let (one, two) = (EndpointId(1), EndpointId(2));
        let far = 12 + BridgePort::SLOTS;
        loaded.set_endpoint(one, &endpoint(12, 2)).expect("set");
        loaded.set_endpoint(two, &endpoint(far, 3)).expect("set");
        let at_hand = loaded.map::<maps::BridgePorts>().expect("the ports at hand");
        let slot = || at_hand.get(&BridgePort::slot(far)).expect("get").unwrap();
        assert_eq!((slot().ifindex, slot().endpoint), (12, one));
        let ports = loaded.map::<maps::EndpointIds>().expect("the ports");
        assert_eq!(ports.get(&far).expect("get"), Some(2));
        loaded.clear_endpoint(two).expect("clear");
        assert_eq!((slot().ifindex, slot().endpoint), (12, one), "another's stays");
        loaded.set_endpoint(two, &endpoint(far, 3)).expect("set");
        loaded.clear_endpoint(one).expect("clear");
        assert_eq!((slot().ifindex, slot().endpoint), (far, two), "who has waited has it next");
        loaded.clear_endpoint(two).expect("clear");
        assert_eq!(slot(), BridgePort::default());
    });
}

#[test]
fn macs_that_meet_in_a_slot_are_both_known() {
    with_datapath(|loaded| {
        let (one, two) = (EndpointId(1), EndpointId(2));
        let (near, far) = (endpoint(12, 2), endpoint(13, 3));
        let far = Endpoint { mac: MacAddr::new([2, 1, 0, 0, 0, 2]), ..far };
        let index = FdbSlot::index(near.mac);
        assert_eq!(FdbSlot::index(far.mac), index, "they meet");
        loaded.set_endpoint(one, &near).expect("set");
        loaded.set_endpoint(two, &far).expect("set");
        let slots = loaded.map::<maps::FdbSlots>().expect("the MACs at hand");
        let slot = || slots.get(&index).expect("get").expect("an array has all");
        assert_eq!(slot(), FdbSlot::of(near.mac, one), "who is first has it");
        let fdb = loaded.map::<maps::Fdb>().expect("the MACs");
        let behind = |mac: MacAddr| fdb.get(&mac.into()).expect("get").map(|entry| entry.endpoint);
        assert_eq!((behind(near.mac), behind(far.mac)), (Some(one), Some(two)));
        loaded.clear_endpoint(one).expect("clear");
        assert_eq!(slot(), FdbSlot::of(far.mac, two), "who has waited has it next");
        loaded.set_endpoint(one, &near).expect("set");
        loaded.clear_endpoint(one).expect("clear");
        assert_eq!(slot(), FdbSlot::of(far.mac, two), "another's stays");
        loaded.clear_endpoint(two).expect("clear");
        assert_eq!(slot(), FdbSlot::FREE);
    });
}

#[test]
fn a_mac_that_becomes_a_bridges_is_no_endpoints() {
    with_datapath(|loaded| {
        let of = endpoint(12, 2);
        loaded.set_endpoint(EndpointId(1), &of).expect("set");
        loaded.set_gateway(Ipv4::new([172, 19, 0, 1]), of.mac).expect("set");
        let slots = loaded.map::<maps::FdbSlots>().expect("the MACs at hand");
        assert_eq!(slots.get(&FdbSlot::index(of.mac)).expect("get"), Some(FdbSlot::FREE));
    });
}

fn published(first: u16, last: u16, endpoint: EndpointId) -> PublishEntry {
    PublishEntry {
        order: PublishEntry::order_of(proto::TCP, HOST, first),
        last,
        target_port: 80,
        target: Ipv4::new([172, 19, 0, 2]),
        endpoint,
        ..PublishEntry::default()
    }
}

#[test]
fn published_ports_are_replaced_all_at_once() {
    with_datapath(|loaded| {
        let one = EndpointId(1);
        let (web, range) = (published(8080, 8080, one), published(9000, 9010, one));
        loaded.set_published(&[range, web]).expect("publish");
        assert_eq!(loaded.published().expect("published"), [web, range]);
        let base = loaded.config().expect("a configuration").publish_base;
        // A flow through the first port of the range, which is then withdrawn.
        let tuple = Tuple {
            saddr: OUTSIDE,
            daddr: HOST,
            sport: Port::new(50_000),
            dport: Port::new(9000),
            proto: proto::TCP,
            from_host: 0,
            pad: [0; 2],
        };
        let mut translated = Translation::from(tuple);
        translated.daddr = range.target;
        translated.dport = Port::new(80);
        let common = Flow { endpoint: one, ..Flow::default() };
        let original = Flow { translated, kind: FlowKind::DNAT_ORIGINAL, ..common };
        let back = tuple.reversed().into();
        let reply = Flow { translated: back, kind: FlowKind::DNAT_REPLY, ..common };
        insert(loaded, &[[(tuple, original), (original.partner(proto::TCP), reply)], flow(1, one)]);
        loaded.set_published(&[range]).expect("publish");
        assert_ne!(loaded.config().expect("a configuration").publish_base, base);
        assert_eq!(loaded.flow_count(one).expect("a count"), 2, "both still lead somewhere");
        loaded.set_published(&[web]).expect("publish");
        assert_eq!(loaded.flow_count(one).expect("a count"), 1, "the port's flow has ended");
        assert_eq!(loaded.published().expect("published"), [web]);
        let bits = loaded.map::<maps::PublishedPorts>().expect("the bits");
        let word = |port| {
            let index = maps::published_word(proto::TCP, port).expect("a word");
            bits.get(&index).expect("get").expect("a word")
        };
        assert_eq!((word(8080), word(9000)), (1 << (8080 % 64), 0));
        loaded.set_published(&[]).expect("publish");
        assert_eq!(loaded.published().expect("published"), []);
    });
}
