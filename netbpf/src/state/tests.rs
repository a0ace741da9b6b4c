//! What is remembered, and forgotten.

use super::*;

fn topology() -> Topology {
    let text = r#"{
        "name": "net0", "uplinks": [{"name": "up0", "ethernet": true}],
        "datapath": "ebpf", "subnet": "172.19.0.0/24", "mtu": 1500, "guard": "learn", "routed": false,
        "flow_limit": 10, "max_flows": 10, "log_level": "off",
        "endpoints": [{
            "id": 1, "namespace": "ns1", "addr": "172.19.0.2",
            "mac": "02:6e:ac:13:00:02", "link": "net0-1"
        }],
        "published": [{
            "proto": "tcp", "host_addr": null, "host": {"first": 80, "last": 80},
            "namespace": "ns1", "inside": {"first": 8080, "last": 8080}
        }]
    }"#;
    serde_json::from_str(text).expect("what is recorded can be read")
}

fn entries() -> [Entry; 3] {
    let id = |cookie| NetnsId { inode: 4_026_531_840, cookie };
    let name = NamespaceName::new("ns1").expect("a name");
    let link = LinkName::new("net0-1").expect("a name");
    [
        Entry::Netns { name: name.clone(), id: id(7) },
        Entry::Link { name: link, index: 9 },
        Entry::Netns { name, id: id(8) },
    ]
}

#[test]
fn a_network_is_remembered_with_all_that_was_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::new(dir.path().join("1"));
    assert!(store.networks().expect("no directory is no network").is_empty());
    let lock = store.lock().expect("nobody else has it");
    let topology = topology();
    store.record(&topology, Phase::Building).expect("recorded");
    for entry in entries() {
        store.note(&topology.name, &entry).expect("noted");
    }
    store.record(&topology, Phase::Up).expect("recorded");
    let networks = store.networks().expect("readable");
    let [network] = &networks[..] else { panic!("{networks:?}") };
    assert_eq!((&network.topology, network.phase), (&topology, Phase::Up));
    let cookies: Vec<u64> = network.journal.namespaces.values().map(|id| id.cookie).collect();
    assert_eq!(cookies, [8], "what was made last counts");
    assert_eq!(network.journal.links.values().collect::<Vec<_>>(), [&9]);
    store.forget(&topology.name).expect("forgotten");
    drop(lock);
    assert!(!dir.path().join("1").exists(), "the last network takes the directory along");
}

#[test]
fn what_an_earlier_boot_left_does_not_count() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::new(dir.path().to_owned());
    let topology = topology();
    store.record(&topology, Phase::Up).expect("recorded");
    store.keep_sysctls(Switch::IpForward, Vec::new()).expect("kept");
    let path = store.path(&topology.name);
    let text = fs::read_to_string(&path).expect("readable");
    let earlier = text.replace(&boot_id().expect("a boot"), "another");
    fs::write(&path, earlier).expect("writable");
    assert!(store.networks().expect("readable").is_empty());
    store.forget_earlier_boots().expect("forgotten");
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
}

#[test]
fn sysctls_are_kept_as_they_were_at_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::new(dir.path().to_owned());
    let sysctl = |name: &str, value: &str| vec![Sysctl { name: name.into(), value: value.into() }];
    let kept = || store.kept_sysctls().expect("readable");
    for value in ["0", "1"] {
        store.keep_sysctls(Switch::IpForward, sysctl("ip_forward", value)).expect("kept");
    }
    store.keep_sysctls(Switch::AcceptLocal, sysctl("accept_local", "2")).expect("kept");
    assert_eq!(kept()[&Switch::IpForward], sysctl("ip_forward", "0"));
    store.forget_sysctls(Switch::IpForward).expect("forgotten");
    assert_eq!(kept().into_keys().collect::<Vec<_>>(), [Switch::AcceptLocal]);
    for _ in 0..2 {
        store.forget_sysctls(Switch::AcceptLocal).expect("forgotten");
    }
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
}

#[test]
fn what_cannot_be_understood_is_said_with_its_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::new(dir.path().to_owned());
    for (text, why) in [("", "EOF"), ("{}", "missing field"), ("nonsense", "expected")] {
        fs::write(dir.path().join("net0.json"), text).expect("writable");
        let error = store.networks().expect_err(text);
        assert!(error.what().contains("net0.json"), "{error}");
        assert!(error.why().is_some_and(|said| said.contains(why)), "{error}");
    }
    store.record(&topology(), Phase::Up).expect("recorded");
    let path = store.path(&topology().name);
    let text = fs::read_to_string(&path).expect("readable");
    fs::write(&path, text.replace("\"version\": 3", "\"version\": 99")).expect("writable");
    assert!(store.networks().expect_err("another layout").what().contains("another version"));
    // Of which nothing else is understood.
    let text = r#"{"version": 1, "boot": "b", "phase": "up", "topology": {"uplink": "up0"}}"#;
    fs::write(&path, text).expect("writable");
    assert!(store.networks().expect_err("an old layout").what().contains("another version"));
}
