//! A datapath whose maps another netbpf has laid out: each verb says so, and what to do,
//! and touches nothing; `down` takes all of it away.

use aya::maps::MapData;
use netbpf::bpf::Datapath;
use netbpf_common::{
    ABI_VERSION, Config,
    maps::{ConfigMap, HeldTickets},
};
use netbpf_tests::{
    Host, OUTSIDE, at,
    recipe::{ARGUMENTS, works},
    traffic::{TcpServer, connect},
};
use std::{fs, path::PathBuf};

/// The directory of the host's pins.
fn pin_dir(host: &Host) -> PathBuf {
    let mut all = fs::read_dir("/sys/fs/bpf/netbpf").expect("pins");
    let dir = all.next().expect("a datapath").expect("an entry").path();
    assert!(all.next().is_none(), "one datapath on {}", host.netns().name());
    dir
}

fn within<T: Send>(host: &Host, f: impl FnOnce(PathBuf) -> T + Send) -> T {
    host.netns().run(|| f(pin_dir(host)))
}

/// Has the running datapath say that it is of that version; gives its configuration.
fn say_version(host: &Host, abi_version: u32) -> Config {
    within(host, |dir| {
        let datapath = Datapath::open(&dir).expect("it opens").expect("a datapath");
        let config = datapath.config().expect("a configuration");
        let map = datapath.map::<ConfigMap>().expect("a map");
        map.set(&0, &Config { abi_version, ..config }).expect("written");
        config
    })
}

/// Puts the datapath's own configuration back.
fn put_back(host: &Host, config: &Config) {
    within(host, |dir| {
        let map = netbpf::bpf::Map::<ConfigMap>::open(&dir).expect("a map");
        map.set(&0, config).expect("written");
    });
}

/// What has to know the datapath's maps.
const VERBS: &[&str] = &[
    "status",
    "check",
    "upgrade",
    "upgrade --force",
    "upgrade --dry-run",
    "ns add ns9",
    "ns rm ns2",
    "publish add 8089:ns2:80",
    "publish rm 8080",
    "uplink add up0",
    "switch netbpf0 --datapath iptables",
    "switch netbpf0 --datapath iptables --dry-run",
    "maps",
    "maps flows",
    "maps flows flush",
    "maps stats",
    "maps endpoints",
    "maps publish",
    "maps fdb",
    "logs",
    "verify connectivity",
];

/// Runs each verb, which must say whose datapath there is.
fn refused_by_all(host: &Host, age: &str, version: u32) {
    let ups = ["up --uplink up0", "plan --uplink up0"].map(|verb| format!("{verb} {ARGUMENTS}"));
    let before = host.listing();
    for verb in VERBS.iter().copied().chain(ups.iter().map(String::as_str)) {
        host.netbpf(verb)
            .exits(1)
            .complains(&format!("those of {age} netbpf"))
            .complains(&format!("of version {version}, this netbpf's of version {ABI_VERSION}"))
            .complains("go on with that netbpf")
            .complains("netbpf down --all");
        assert_eq!(before, host.listing(), "`{verb}` has touched something");
    }
}

#[test]
fn a_newer_or_an_older_one_is_refused_by_each_verb_and_goes_on() {
    let host = Host::new();
    let _server = TcpServer::start(host.outside(), 4443);
    for (age, version) in [("a newer", ABI_VERSION + 1), ("an older", 1)] {
        host.up(ARGUMENTS);
        let mut client = connect(&host.ns("ns1"), at(OUTSIDE, 4443)).expect("a connection");
        let config = say_version(&host, version);
        refused_by_all(&host, age, version);
        client.echo(b"it goes on").expect("echo");
        // What needs none of its maps is not refused.
        host.netbpf("exec ns1 -- true").ok();
        host.netbpf("up --name d --direct --ns d1 --ns d2").ok();
        host.netbpf("down d").ok();
        put_back(&host, &config);
        host.netbpf(&format!("up --uplink up0 {ARGUMENTS}")).ok().complains("nothing to do");
        works(&host);
        say_version(&host, version);
        host.netbpf("down").ok();
        host.assert_as_before();
    }
}

/// Not even the configuration is as long as this netbpf's.
#[test]
fn one_with_another_configuration_is_refused_by_each_verb() {
    let host = Host::new();
    host.up(ARGUMENTS);
    within(&host, |dir| {
        let datapath = Datapath::open(&dir).expect("it opens").expect("a datapath");
        // An array of one element, of eight bytes, which begins with the version.
        datapath.map::<HeldTickets>().expect("a map").set(&0, &99).expect("written");
        let [short, pin] = ["HELD_TICKETS", "CONFIG"].map(|name| dir.join("maps").join(name));
        fs::remove_file(&pin).expect("removed");
        MapData::from_pin(short).expect("a map").pin(pin).expect("pinned");
    });
    refused_by_all(&host, "a newer", 99);
    host.netbpf("down").ok();
    host.assert_as_before();
}

/// This netbpf cannot take out of its maps what belongs to one network.
#[test]
fn of_several_networks_all_go_or_none() {
    let host = Host::new();
    host.up(ARGUMENTS);
    host.netbpf("up --uplink up0 --name two --ns-prefix t --subnet 172.20.0.0/24 --namespaces 1")
        .ok();
    host.netbpf(
        "up --uplink up0 --name i --ns-prefix i --subnet 172.21.0.0/24 --namespaces 1 \
         --datapath iptables",
    )
    .ok();
    say_version(&host, ABI_VERSION + 1);
    let before = host.listing();
    host.netbpf("down two")
        .exits(1)
        .complains("two cannot go while netbpf0 stays")
        .complains("a newer netbpf")
        .complains("netbpf down --all");
    assert_eq!(before, host.listing());
    // It has none of eBPF.
    host.netbpf("down i").ok();
    host.netbpf("down --all").ok().complains("network two is gone");
    host.assert_as_before();
}
