//! What networks leave whose record is lost, or whose host; and what stays.

use netbpf::bpf::{Datapath, LoadOptions};
use netbpf_tests::{
    Host, Listing, Netns, OUTSIDE, Options, Sandbox, at,
    drift::DATAPATHS,
    finish,
    traffic::{Echo, TcpServer, connect, ping},
    wait,
};
use std::fs;

/// What `netbpf gc` removes, or would.
#[track_caller]
fn gc(host: &Host, arguments: &str) -> Vec<String> {
    let answer = host.json(&format!("gc {arguments}"));
    let orphans = answer["orphans"].as_array().expect("a list").iter();
    orphans.map(|one| one.as_str().expect("a text").to_owned()).collect()
}

/// Removes the files below `/run/netbpf` whose names begin so.
fn forget(host: &Host, beginning: &str) {
    host.sandbox().run(|| {
        for of_host in fs::read_dir("/run/netbpf").expect("state") {
            for entry in fs::read_dir(of_host.expect("an entry").path()).expect("a host's") {
                let path = entry.expect("an entry").path();
                let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
                if name.starts_with(beginning) {
                    fs::remove_file(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
                }
            }
        }
    });
}

/// `gc` would remove it, too; but who is told to take all networks down has it gone by that.
#[test]
fn down_all_takes_a_datapath_away_that_no_network_has() {
    let host = Host::new();
    let pins = host.netns().run(|| {
        let pins = netbpf::host::Host::here().expect("a host").pins;
        Datapath::load(&pins, &LoadOptions::default()).expect("a datapath");
        pins
    });
    host.netbpf("down").ok().complains("there is no network");
    assert!(host.netns().run(|| pins.exists()));
    host.netbpf("down --all").ok().complains("that no network had are gone");
    assert!(!host.netns().run(|| pins.exists()));
    host.netbpf("down --all").ok().complains("there is no network: nothing to do");
    host.assert_as_before();
}

/// As after a reboot in which `/run` was lost, but nothing else.
#[test]
fn what_a_lost_record_told_of_is_removed() {
    for datapath in DATAPATHS {
        let host = Host::with(Options { forwarding: true, ..Options::default() });
        host.up(&format!("--datapath {datapath} --namespaces 2 -p 8080:ns1:80"));
        assert_eq!(gc(&host, "--dry-run"), [""; 0], "{datapath}: all is known");
        host.netns().ip("netns add mine");
        host.netns().ip("link add netbpf1 type bridge");
        host.netns().ip("netns add adopted");
        host.netbpf("ns add adopted").ok();
        host.sandbox().run(|| fs::remove_dir_all("/run/netbpf")).expect("state");
        host.netbpf("up --uplink up0 --namespaces 2").exits(2);
        let everything = host.listing();
        let would = gc(&host, "--dry-run");
        everything.assert_same(&host.listing());
        for one in [
            "namespace ns1",
            "namespace ns2",
            "interface netbpf0 of network netbpf0",
            "interface netbpf0-1 of network netbpf0",
        ] {
            assert!(would.iter().any(|other| other == one), "{one}: {would:#?}");
        }
        assert!(!would.iter().any(|one| one == "namespace adopted"), "{would:#?}");
        let its =
            if datapath == "ebpf" { "programs and maps in " } else { "chain NETBPF-netbpf0-" };
        assert!(would.iter().any(|one| one.starts_with(its)), "{would:#?}");
        assert_eq!(gc(&host, ""), would, "{datapath}");
        assert_eq!(gc(&host, ""), [""; 0], "{datapath}");
        // What nobody can know any more: how it was before.
        for name in ["accept_local", "route_localnet"] {
            host.netns().sysctl(&format!("net/ipv4/conf/lo/{name}"), "0");
        }
        finish(host.netns().command("nft").args(["flush", "ruleset"])).ok();
        // Others' are others'.
        host.netns().ip("netns del mine");
        host.netns().ip("netns del adopted");
        host.netns().ip("link del netbpf1");
        host.assert_as_before();
    }
}

/// Rules of a network that is known stay, and so does a namespace that was only adopted.
#[test]
fn what_is_isolated_or_adopted_is_told_from_what_was_made() {
    for datapath in DATAPATHS {
        let host = Host::with(Options { forwarding: true, ..Options::default() });
        let web = Netns::create(host.sandbox(), "web");
        let before = Listing::of_netns(&web);
        let arguments = format!(
            "--datapath {datapath} --ns web --ns made --ns other --isolate --allow web:made"
        );
        host.up(&arguments);
        assert_eq!(gc(&host, "--dry-run"), [""; 0], "{datapath}: all is known");
        host.sandbox().run(|| fs::remove_dir_all("/run/netbpf")).expect("state");
        let gone = gc(&host, "");
        for one in [
            "namespace made",
            "table bridge NETBPF-netbpf0/apart",
            "interface netbpf0-1 of network netbpf0",
        ] {
            assert!(gone.iter().any(|other| other == one), "{one}: {gone:#?}");
        }
        assert!(!gone.iter().any(|one| one.contains("namespace web")), "{gone:#?}");
        assert_eq!(gc(&host, ""), [""; 0], "{datapath}");
        before.assert_same(&Listing::of_netns(&web));
        for name in ["accept_local", "route_localnet"] {
            host.netns().sysctl(&format!("net/ipv4/conf/lo/{name}"), "0");
        }
        finish(host.netns().command("nft").args(["flush", "ruleset"])).ok();
        host.netns().ip("netns del web");
        host.assert_as_before();
    }
}

/// One network is known, the other one is not.
#[test]
fn a_network_that_is_known_goes_on() {
    for datapath in DATAPATHS {
        let host = Host::new();
        let kind = format!("--datapath {datapath}");
        host.up(&format!("{kind} --name left --subnet 172.20.0.0/24 --ns-prefix l --namespaces 1"));
        let right =
            "--name right --subnet 172.21.0.0/24 --ns-prefix r --namespaces 1 -p 8080:r1:80";
        host.up(&format!("{kind} {right}"));
        let server = TcpServer::start(host.outside(), 0);
        let mut client = connect(&host.ns("l1"), at(OUTSIDE, server.port())).expect("outwards");
        client.echo(b"before").expect("echo");
        forget(&host, "right.");
        let removed = gc(&host, "");
        assert!(removed.iter().any(|one| one == "namespace r1"), "{removed:#?}");
        assert!(
            !removed.iter().any(|one| one.contains("left") || one.contains("l1")),
            "{removed:#?}"
        );
        client.echo(b"after").expect("echo");
        assert!(ping(&host.ns("l1"), OUTSIDE, Echo::default()).is_reply());
        assert!(Netns::try_open(host.sandbox(), "r1").is_err(), "{datapath}");
        host.netbpf("check").ok();
        assert_eq!(gc(&host, ""), [""; 0], "{datapath}");
        // Its place is free.
        host.up(&format!("{kind} {right}"));
        assert!(ping(&host.ns("r1"), OUTSIDE, Echo::default()).is_reply());
    }
}

/// The sysctls outlast the networks that they were set for.
#[test]
fn sysctls_are_put_back() {
    let host = Host::new();
    host.up("--namespaces 1");
    forget(&host, "netbpf0.");
    let removed = gc(&host, "");
    assert!(removed.iter().any(|one| one.contains("net.ipv4.ip_forward")), "{removed:#?}");
    host.assert_as_before();
}

/// A host is gone when nothing holds it any more, and not before.
#[test]
fn what_a_host_has_left_that_is_gone_is_removed() {
    for datapath in DATAPATHS {
        let sandbox = Sandbox::new();
        let [gone, here] = ["gone", "here"].map(|name| Host::beside_others(&sandbox, name));
        here.up("--ns-prefix h --namespaces 1");
        let known = Listing::of_sandbox(&sandbox);
        gone.up(&format!("--datapath {datapath} --ns-prefix g --namespaces 2"));
        assert_eq!(gc(&here, ""), [""; 0], "{datapath}: it is there");
        for name in ["gone", "gone-outside"] {
            here.netns().ip(&format!("netns del {name}"));
        }
        assert_eq!(gc(&here, ""), [""; 0], "{datapath}: somebody is in it");
        gone.forget();
        let would = wait::until("it is gone", || {
            let would = gc(&here, "--dry-run");
            (!would.is_empty()).then_some(would)
        });
        for one in ["namespace g1", "namespace g2"] {
            assert!(would.iter().any(|other| other == one), "{one}: {would:#?}");
        }
        assert!(would.iter().any(|one| one.starts_with("state in /run/netbpf/")), "{would:#?}");
        assert_eq!(gc(&here, ""), would, "{datapath}");
        let gone = |listing: Listing| listing.with("gone").len();
        assert_eq!(gone(Listing::of_sandbox(&sandbox)), 0, "{datapath}");
        assert!(ping(&here.ns("h1"), OUTSIDE, Echo::default()).is_reply(), "{datapath}");
        here.netbpf("check").ok();
        let state = |listing: &Listing| listing.with("/run/netbpf/").len();
        assert_eq!(state(&Listing::of_sandbox(&sandbox)), state(&known), "{datapath}");
        here.down();
    }
}
