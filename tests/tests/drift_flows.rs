//! Flows that were changed by hand, removed in part, or counted wrong.

use std::{
    net::UdpSocket,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use netbpf::bpf::{Map, clock};
use netbpf_common::{
    EndpointId, Flow, Ipv4, MacAddr, Port, Ticks, Tuple,
    maps::{FlowCounts, Flows, MapDef, OutsidePorts},
};
use netbpf_tests::{
    Host, OUTSIDE, at,
    drift::{Damage, finds, found_and_mended, mend, network},
    traffic::{Echo, ping},
    wait::until_true,
};

/// Does something to one of the datapath's maps.
fn change<D: MapDef<Key: aya::Pod, Value: aya::Pod>, T: Send>(
    host: &Host,
    f: impl FnOnce(&Map<D>) -> T + Send,
) -> T {
    host.sandbox().run(|| {
        let mut hosts = std::fs::read_dir("/sys/fs/bpf/netbpf").expect("pins");
        let pins: PathBuf = hosts.next().expect("a host's").expect("an entry").path();
        f(&Map::<D>::open(&pins).expect("a map"))
    })
}

/// Both entries of a flow that the first namespace has opened a second ago.
///
/// The datapath ends one without an answering direction itself, when it looks for its
/// expiry: when it is new, and then not for some time.
fn opened(host: &Host) -> [(Tuple, Flow); 2] {
    assert!(ping(&host.ns("ns1"), OUTSIDE, Echo::default()).is_reply());
    let pinged = clock::now().expect("the clock");
    until_true("it was looked at", || {
        clock::now().expect("the clock").since(pinged).0 > Ticks::from_secs(1).0
    });
    change::<Flows, _>(host, |map| {
        let mut openings = Vec::new();
        map.for_each(|key, entry| {
            let is_it = entry.endpoint == EndpointId(1) && !entry.kind.is_reply();
            openings.extend((is_it && key.daddr == OUTSIDE.into()).then_some((*key, *entry)));
            Ok(())
        })
        .expect("read");
        let (key, entry) = openings[0];
        let partner = entry.partner(key.proto);
        [(key, entry), (partner, map.get(&partner).expect("read").expect("its other direction"))]
    })
}

/// Opens a flow and changes the entry of one of its directions.
fn change_direction(host: &Host, direction: usize, f: fn(&mut Flow)) {
    let (key, mut entry) = opened(host)[direction];
    f(&mut entry);
    change::<Flows, _>(host, |map| map.set(&key, &entry).expect("write"));
}

/// Opens a flow and removes the entry of one of its directions.
fn remove_direction(host: &Host, direction: usize) {
    let (key, _) = opened(host)[direction];
    change::<Flows, _>(host, |map| assert!(map.remove(&key).expect("write")));
}

/// Opens a flow and changes the entries of both of its directions.
fn change_both(host: &Host, f: fn(&mut Flow)) {
    for (key, mut entry) in opened(host) {
        f(&mut entry);
        change::<Flows, _>(host, |map| map.set(&key, &entry).expect("write"));
    }
}

/// Changes what is counted of an endpoint.
fn change_count(host: &Host, id: EndpointId, f: fn(u64) -> u64) {
    change::<FlowCounts, _>(host, |map| {
        let count = map.get(&id.index()).expect("read").expect("a count");
        map.set(&id.index(), &f(count)).expect("write");
    });
}

const FLOWS: &str = "map FLOWS";
const COUNTS: &str = "map FLOW_COUNTS";

const BROKEN: &[Damage] = &[
    Damage {
        what: "no answering direction",
        by: |host| remove_direction(host, 1),
        found: &[(FLOWS, "1 without the other direction")],
    },
    Damage {
        what: "no opening direction",
        by: |host| remove_direction(host, 0),
        found: &[(FLOWS, "1 without the other direction")],
    },
    Damage {
        what: "another port outside",
        by: |host| change_direction(host, 0, |flow| flow.translated.sport = Port::new(7)),
        found: &[(FLOWS, "2 without the other direction")],
    },
    Damage {
        what: "another address inside",
        by: |host| {
            change_direction(host, 1, |flow| flow.translated.daddr = Ipv4::new([172, 19, 0, 9]));
        },
        found: &[(FLOWS, "2 without the other direction")],
    },
    Damage {
        what: "another MAC inside",
        by: |host| change_direction(host, 1, |flow| flow.mac = MacAddr::new([2, 0, 0, 0, 0, 9])),
        found: &[(FLOWS, "1 of which the directions differ")],
    },
    Damage {
        what: "another difference of checksums",
        by: |host| change_direction(host, 0, |flow| flow.addr_delta ^= 0x1234),
        found: &[(FLOWS, "1 of which the directions differ")],
    },
    Damage {
        what: "another endpoint in one direction",
        by: |host| change_direction(host, 0, |flow| flow.endpoint = EndpointId(2)),
        found: &[(FLOWS, "1 of which the directions differ")],
    },
    Damage {
        what: "an endpoint of nobody's",
        by: |host| change_both(host, |flow| flow.endpoint = EndpointId(77)),
        found: &[(FLOWS, "1 of no network's endpoint")],
    },
    Damage {
        what: "an uplink of nobody's",
        by: |host| change_both(host, |flow| flow.uplink = 4321),
        found: &[(FLOWS, "1 by no network's uplink")],
    },
];

const COUNTED: &[Damage] = &[
    Damage {
        what: "too many of an endpoint",
        by: |host| change_count(host, EndpointId(1), |count| count + 1000),
        found: &[(COUNTS, "100")],
    },
    Damage {
        what: "too few of all together",
        by: |host| change_count(host, EndpointId::NONE, |_| 0),
        found: &[(COUNTS, "0 of all together, there are ")],
    },
    Damage {
        what: "some of nobody's",
        by: |host| change_count(host, EndpointId(77), |count| count + 7),
        found: &[(COUNTS, "7 of endpoint 77, there are 0")],
    },
];

#[test]
fn broken_flows_are_ended() {
    let host = found_and_mended("ebpf", BROKEN);
    // What they had is given back.
    host.netbpf("maps flows flush --all").ok();
    let held = change::<OutsidePorts, _>(&host, |map| {
        let mut held = 0;
        map.for_each(|_, owner| {
            held += owner.flows();
            Ok(())
        })
        .expect("read");
        held
    });
    assert_eq!(held, 0, "ports are held by no flow");
}

#[test]
fn counts_are_put_right() {
    drop(found_and_mended("ebpf", COUNTED));
}

#[test]
fn it_is_said_how_many_flows_were_ended() {
    let host = network("ebpf");
    remove_direction(&host, 0);
    let mended = mend(&host);
    assert!(mended.stderr.contains("1 broken flow was ended"), "{mended}");
    let plan = host.netbpf("up --dry-run").ok();
    assert!(plan.stdout.contains("nothing to do"), "{plan}");
}

#[test]
fn flows_that_come_and_go_are_not_amiss() {
    let host = network("ebpf");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            host.ns("ns1").run(|| {
                let mut port = 0_u16;
                while !is_over.load(Ordering::Relaxed) {
                    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                    port = port % 60_000 + 1;
                    let _ = socket.send_to(b"x", at(OUTSIDE, port));
                }
            });
        });
        let looks = (0..20).map(|n| {
            // Some go as well.
            host.netbpf("maps flows flush --all").ok();
            finds(&host, &format!("look {n}"), &[]);
        });
        looks.for_each(drop);
        is_over.store(true, Ordering::Relaxed);
    });
}
