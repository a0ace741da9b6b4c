//! The iptables datapath: what it makes, what it leaves alone, and what becomes
//! of a network that is switched from one datapath to the other.

use netbpf_tests::{
    Host, NS1, Netns, OUTSIDE, Outcome, Sandbox, UPLINK, at, finish, sample,
    traffic::{Echo, TcpServer, UdpClient, UdpServer, connect, ping},
};
use std::{fs, net::Ipv4Addr, os::unix::fs::symlink, path::Path, process::Command};

const ARGUMENTS: &str = "--namespaces 2 -p 8080:ns1:80 -p 9000-9003:ns1:7000-7003/udp \
                         -p 127.0.0.1:8081:ns2:80";

fn up(host: &Host, arguments: &str) -> Outcome {
    host.netbpf(&format!("up --datapath iptables --uplink up0 {arguments}"))
}

fn iptables(host: &Host, variant: &str, arguments: &str) -> Outcome {
    let command = &mut host.netns().command(format!("iptables{variant}"));
    finish(command.args(arguments.split_whitespace()))
}

/// The rules of all tables, without the times at which they were listed, and
/// without counters.
fn rules(host: &Host, variant: &str) -> Vec<String> {
    let saved = finish(&mut host.netns().command(format!("iptables{variant}-save"))).ok().stdout;
    let lines = saved.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap_or(line).to_owned()).collect()
}

/// Everything that a network does, once.
fn works(host: &Host) {
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let (_web, _local) = (TcpServer::start(&ns1, 80), TcpServer::start(&ns2, 80));
    let _out = TcpServer::start(host.outside(), 443);
    let udp = UdpServer::start(host.outside(), 53);
    for ns in [&ns1, &ns2] {
        assert!(ping(ns, OUTSIDE, Echo::default()).is_reply(), "{}", ns.name());
        let mut client = connect(ns, at(OUTSIDE, 443)).expect("outwards");
        assert_eq!(client.who_am_i().expect("an answer").ip(), UPLINK);
        client.upload(1 << 20).expect("upload");
        UdpClient::on_port(ns, 5000).exchange(at(OUTSIDE, 53), ns.name().as_bytes());
    }
    assert_eq!(udp.peers().len(), 2, "{:?}", udp.peers());
    assert!(ping(&ns2, NS1, Echo::default()).is_reply());
    for (from, to, port, seen_as) in [
        (host.outside(), UPLINK, 8080, OUTSIDE),
        (&ns2, UPLINK, 8080, UPLINK),
        (&ns1, UPLINK, 8080, UPLINK),
        (host.netns(), UPLINK, 8080, UPLINK),
        (host.netns(), Ipv4Addr::LOCALHOST, 8080, Ipv4Addr::new(172, 19, 0, 1)),
        (host.netns(), Ipv4Addr::LOCALHOST, 8081, Ipv4Addr::new(172, 19, 0, 1)),
    ] {
        let name = format!("{} to {to}:{port}", from.name());
        let mut client = connect(from, at(to, port)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(client.who_am_i().expect("an answer").ip(), seen_as, "{name}");
        client.echo(&sample(20_000)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert!(connect(host.outside(), at(UPLINK, 8081)).is_err(), "bound to 127.0.0.1");
    for offset in 0..4 {
        let server = UdpServer::start(&ns1, 7000 + offset);
        UdpClient::new(host.outside()).exchange(at(UPLINK, 9000 + offset), b"to this one");
        assert_eq!(server.peers().len(), 1, "{offset}");
    }
}

/// With a bridge that has its packets judged as if they were routed, and without.
#[test]
fn a_network_of_iptables_does_it_all_and_leaves_nothing() {
    for judged in ["1", "0"] {
        let host = Host::new();
        let path = "net/bridge/bridge-nf-call-iptables";
        let before = host.netns().read(&format!("/proc/sys/{path}"));
        host.netns().sysctl(path, judged);
        up(&host, ARGUMENTS).ok();
        works(&host);
        up(&host, ARGUMENTS).ok().complains("nothing to do");
        host.netbpf("down").ok();
        host.netns().sysctl(path, before.trim());
        host.assert_as_before();
    }
}

/// A sandbox in which the plain names are those of the legacy iptables.
fn legacy() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.run(|| {
        fs::create_dir("/run/legacy").expect("a directory");
        for name in ["iptables", "iptables-save", "iptables-restore"] {
            let link = Path::new("/run/legacy").join(name);
            symlink("/usr/sbin/xtables-legacy-multi", link).expect("a link");
        }
        // The lock of the legacy iptables, which stays.
        fs::write("/run/xtables.lock", "").expect("a file");
    });
    sandbox
}

fn with_legacy(command: &mut Command) -> Outcome {
    let path = std::env::var("PATH").expect("a PATH");
    finish(command.env("PATH", format!("/run/legacy:{path}")))
}

#[test]
fn the_legacy_iptables_does_as_well() {
    let sandbox = legacy();
    let host = Host::within(&sandbox);
    let run = |arguments: &str| with_legacy(&mut host.command(arguments));
    let arguments = format!("up --datapath iptables --uplink up0 {ARGUMENTS}");
    run(&arguments).ok();
    let has = |variant| rules(&host, variant).iter().any(|rule| rule.contains("NETBPF-netbpf0"));
    assert!(has("-legacy") && !has("-nft"), "{:?}", rules(&host, "-legacy"));
    works(&host);
    run(&arguments).ok().complains("nothing to do");
    iptables(&host, "-legacy", "-F NETBPF-netbpf0-FWD").ok();
    run("status").ok().says("rules in filter differ");
    run(&arguments).ok();
    works(&host);
    // Whatever the plain name is by then.
    host.netbpf("down").ok();
    assert!(!has("-legacy"), "{:?}", rules(&host, "-legacy"));
    // The kernel keeps the tables of the legacy iptables as long as the namespace.
    host.forget();
}

/// Whatever others have is the same afterwards, to the byte; so are empty tables
/// that were there.
#[test]
fn nobody_elses_rules_are_touched() {
    for variant in ["-nft", "-legacy"] {
        let sandbox = legacy();
        let host = Host::within(&sandbox);
        for arguments in [
            "-N MINE",
            "-A MINE -s 10.0.0.0/8 -j DROP",
            "-A FORWARD -i up0 -m comment --comment NETBPF-netbpf0-FWD -j MINE",
            "-P FORWARD DROP",
            "-t nat -A POSTROUTING -s 10.1.0.0/16 -o up0 -j MASQUERADE",
            "-t mangle -A FORWARD -j MARK --set-mark 1",
        ] {
            iptables(&host, variant, arguments).ok();
        }
        let before = rules(&host, variant);
        let run = |arguments: &str| {
            let command = &mut host.command(arguments);
            if variant == "-legacy" { with_legacy(command) } else { finish(command) }
        };
        run(&format!("up --datapath iptables --uplink up0 {ARGUMENTS}")).ok();
        works(&host);
        run("down").ok();
        let after = rules(&host, variant);
        if variant == "-nft" {
            assert_eq!(before, after);
        }
        // The kernel keeps a table of the legacy iptables, though it is empty.
        let of_rules = |all: &[String]| {
            all.iter().filter(|line| line.starts_with("-A ")).cloned().collect::<Vec<_>>()
        };
        assert_eq!(of_rules(&before), of_rules(&after), "{variant}");
        iptables(&host, variant, "-P FORWARD ACCEPT").ok();
        netbpf_tests::nft::flush(host.netns());
        if variant == "-legacy" {
            host.forget();
        }
    }
}

#[test]
fn status_tells_of_a_removed_rule_and_up_mends_it() {
    let host = Host::new();
    up(&host, ARGUMENTS).ok();
    let whole = rules(&host, "");
    for (damage, said) in [
        ("-D FORWARD -j NETBPF-netbpf0-FWD", "filter"),
        ("-t nat -D NETBPF-netbpf0-SNAT 1", "nat"),
        ("-t nat -F", "nat"),
        ("-t raw -F NETBPF-netbpf0-PRE", "raw"),
        ("-A NETBPF-netbpf0-FWD -j DROP", "filter"),
    ] {
        iptables(&host, "", damage).ok();
        host.netbpf("status").ok().says(&format!("rules in {said} differ"));
        up(&host, ARGUMENTS).ok();
        assert_eq!(rules(&host, ""), whole, "{damage}");
    }
    host.ns("ns1").ip("link del eth0");
    up(&host, ARGUMENTS).ok();
    works(&host);
}

/// Of both kinds on one host; the programs of eBPF are loaded for those of eBPF only.
#[test]
fn networks_of_both_datapaths_live_side_by_side() {
    let host = Host::new();
    up(&host, ARGUMENTS).ok();
    assert!(host.listing().with("pin: ").iter().all(|pin| !pin.contains("netbpf")));
    host.netbpf("up --uplink up0 --name e --ns-prefix e --subnet 172.20.0.0/24 --namespaces 1")
        .ok();
    works(&host);
    let e1 = host.ns("e1");
    assert!(ping(&e1, OUTSIDE, Echo::default()).is_reply());
    assert!(ping(&e1, NS1, Echo::default()).is_reply(), "from one to the other");
    let kinds: Vec<_> = host.json("status")["networks"]
        .as_array()
        .expect("networks")
        .iter()
        .map(|network| network["datapath"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(kinds, ["ebpf", "iptables"]);
    host.netbpf("down e").ok();
    works(&host);
    host.netbpf("up --uplink up0 --name e --ns-prefix e --subnet 172.20.0.0/24 --namespaces 1")
        .ok();
    host.netbpf("down netbpf0").ok();
    assert!(ping(&host.ns("e1"), OUTSIDE, Echo::default()).is_reply());
}

#[test]
fn what_it_cannot_do_is_refused() {
    let host = Host::new();
    for (arguments, said) in [
        ("--source-guard strict", "routed, not what namespaces send"),
        ("--source-guard learn", "routed, not what namespaces send"),
        ("--max-flows 100", "nf_conntrack_max"),
        ("--flow-limit 100", "nf_conntrack_max"),
        ("--log-level debug", "kernel's log"),
    ] {
        up(&host, &format!("--namespaces 1 {arguments}")).exits(2).complains(said);
    }
    host.netbpf("up --datapath ebpf --uplink up0 --namespaces 1 --source-guard routed").exits(2);
    up(&host, "--namespaces 1 --source-guard off").ok();
    host.netbpf("up --datapath ebpf --uplink up0 --namespaces 1").exits(2).complains("datapath");
}

/// Hides a file, in the sandbox that this thread is in, behind one that cannot be used.
fn hide(path: &str) {
    let hidden = Command::new("mount").args(["--bind", "/dev/null", path]).status();
    assert!(hidden.is_ok_and(|status| status.success()), "hide {path}");
}

#[test]
fn without_iptables_it_is_said_what_to_install() {
    let sandbox = Sandbox::new();
    sandbox.run(|| {
        hide("/usr/sbin/xtables-nft-multi");
        hide("/usr/sbin/xtables-legacy-multi");
    });
    let host = Host::within(&sandbox);
    up(&host, "--namespaces 1").exits(1).complains("apt install iptables");
    host.assert_as_before();
    host.netbpf("up --uplink up0 --namespaces 1").ok();
}

/// Where the kernel lacks what eBPF needs.
#[test]
fn auto_falls_back_and_says_why() {
    let sandbox = Sandbox::new();
    sandbox.run(|| {
        let mut hide = Command::new("mount");
        let hidden = hide.args(["-t", "tmpfs", "none", "/sys/kernel/btf"]).status();
        assert!(hidden.is_ok_and(|status| status.success()), "hide the kernel's types");
    });
    let host = Host::within(&sandbox);
    host.netbpf("up --datapath ebpf --uplink up0 --namespaces 1").exits(1).complains("btf");
    let outcome = host.netbpf(&format!("up --uplink up0 {ARGUMENTS}")).ok();
    outcome.complains("iptables moves the packets, not eBPF: the kernel does not tell its types");
    works(&host);
    let network = host.json("status")["networks"][0].clone();
    assert_eq!(network["datapath"], "iptables");
    assert!(network["fallback"].as_str().is_some_and(|why| why.contains("btf")), "{network}");
    host.netbpf(
        "up --uplink up0 --name x --ns-prefix x --namespaces 1 --source-guard strict \
                 --subnet 172.20.0.0/24",
    )
    .exits(2)
    .complains("btf");
}

#[test]
fn flows_are_those_that_the_kernel_tracks() {
    let host = Host::new();
    host.netns().sysctl("net/netfilter/nf_conntrack_acct", "1");
    up(&host, ARGUMENTS).ok();
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let (_web, _dns) = (TcpServer::start(&ns1, 80), UdpServer::start(host.outside(), 53));
    let mut client = connect(host.outside(), at(UPLINK, 8080)).expect("8080");
    client.echo(b"hello").expect("echo");
    let mut hairpin = connect(&ns2, at(UPLINK, 8080)).expect("8080");
    hairpin.echo(b"hello").expect("echo");
    UdpClient::on_port(&ns2, 5000).exchange(at(OUTSIDE, 53), b"hello");
    assert!(ping(&ns1, OUTSIDE, Echo::default()).is_reply());
    let flows = host.flows("--ns ns2");
    assert_eq!(flows.len(), 1, "{flows:?}");
    let (flow, from) = (&flows[0], at(Ipv4Addr::new(172, 19, 0, 3), 5000));
    assert_eq!((flow.orig_src, flow.orig_dst), (from, at(OUTSIDE, 53)));
    assert_eq!((flow.xlat_src, flow.xlat_dst), (at(UPLINK, 5000), at(OUTSIDE, 53)));
    assert_eq!((flow.state.as_str(), flow.packets), ("REPLIED", 2));
    let web = host.flows("--proto tcp --port 8080");
    assert_eq!(web.len(), 2, "{web:?}");
    assert!(web.iter().all(|flow| flow.ns == "ns1" && flow.xlat_dst == at(NS1, 80)), "{web:?}");
    assert!(web.iter().all(|flow| flow.state == "ESTABLISHED"), "{web:?}");
    let json = host.json("maps flows --to 203.0.113.1:8080");
    let uplinks: Vec<_> = json["flows"].as_array().expect("flows").iter().collect();
    let by = |name| uplinks.iter().filter(|flow| flow["uplink"] == name).count();
    assert_eq!((by("up0"), by("lo")), (1, 1), "{json}");
    assert_eq!(host.flows("--proto icmp").len(), 1);
    host.netbpf("maps flows flush --proto udp").ok().says("ended 1 flow");
    assert_eq!(host.flows("--ns ns2").len(), 0);
    host.netbpf("maps flows flush --all").ok();
    assert_eq!(host.flows("").len(), 0);
    host.netbpf("maps stats").exits(1).complains("only the eBPF datapath");
    host.netns().sysctl("net/netfilter/nf_conntrack_acct", "0");
}

/// Without the kernel's counters there is nothing to show, and that is shown.
#[test]
fn what_is_not_counted_is_null() {
    let host = Host::new();
    up(&host, ARGUMENTS).ok();
    assert!(ping(&host.ns("ns1"), OUTSIDE, Echo::default()).is_reply());
    let flow = host.json("maps flows")["flows"][0].clone();
    assert!(flow["packets"].is_null() && flow["age_ms"].is_null(), "{flow}");
}

fn with_each_fault(host: &Host, command: &str, fault: &str, mut after: impl FnMut(usize, Outcome)) {
    for step in 1..=200 {
        let mut command = host.command(command);
        let outcome = finish(command.env("NETBPF_FAULT", format!("{fault}:{step}")));
        if outcome.code == Some(0) {
            assert!(step > 5, "only {step} steps had a fault");
            return;
        }
        after(step, outcome);
    }
    panic!("it has no end");
}

#[test]
fn killed_or_failing_at_any_step_up_leaves_nothing() {
    let host = Host::new();
    let command = format!("up --datapath iptables --uplink up0 {ARGUMENTS}");
    with_each_fault(&host, &command, "fail", |step, outcome| {
        eprintln!("failed at step {step}: {}", outcome.exits(1));
        host.assert_as_before();
    });
    host.netbpf("down --all").ok();
    with_each_fault(&host, &command, "kill", |step, outcome| {
        assert_eq!(outcome.signal, Some(9), "step {step}: {outcome}");
        if step % 2 == 0 {
            up(&host, ARGUMENTS).ok();
        }
        host.netbpf("down --all").ok();
        eprintln!("killed before step {step}:");
        host.assert_as_before();
    });
}

#[test]
fn killed_at_any_step_down_can_be_run_again() {
    let host = Host::new();
    up(&host, ARGUMENTS).ok();
    with_each_fault(&host, "down --all", "kill", |step, outcome| {
        assert_eq!(outcome.signal, Some(9), "step {step}: {outcome}");
        host.netbpf("down --all").ok();
        eprintln!("killed before step {step}:");
        host.assert_as_before();
        up(&host, ARGUMENTS).ok();
    });
}

/// Connections that live before a switch.
struct Live {
    out: netbpf_tests::traffic::TcpClient,
    into: netbpf_tests::traffic::TcpClient,
    hairpin: netbpf_tests::traffic::TcpClient,
    local: netbpf_tests::traffic::TcpClient,
    udp: UdpClient,
    _servers: (TcpServer, TcpServer, UdpServer),
}

impl Live {
    fn begin(host: &Host, ns1: &Netns, ns2: &Netns) -> Self {
        let servers = (
            TcpServer::start(ns1, 80),
            TcpServer::start(host.outside(), 443),
            UdpServer::start(host.outside(), 53),
        );
        let live = Self {
            out: connect(ns1, at(OUTSIDE, 443)).expect("outwards"),
            into: connect(host.outside(), at(UPLINK, 8080)).expect("inwards"),
            hairpin: connect(ns2, at(UPLINK, 8080)).expect("hairpinned"),
            local: connect(host.netns(), at(Ipv4Addr::LOCALHOST, 8080)).expect("localhost"),
            udp: UdpClient::on_port(ns2, 5000),
            _servers: servers,
        };
        live.udp.exchange(at(OUTSIDE, 53), b"before");
        live
    }
}

/// To iptables everything lives on: outwards, inwards, hairpinned, from localhost.
#[test]
fn switched_to_iptables_connections_live_on() {
    let host = Host::new();
    host.netbpf(&format!("up --datapath ebpf --uplink up0 {ARGUMENTS}")).ok();
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let mut live = Live::begin(&host, &ns1, &ns2);
    live.out.echo(b"before").expect("before");
    host.netbpf("switch netbpf0 --datapath iptables").ok().says("iptables");
    assert!(host.listing().with("pin: ").iter().all(|pin| !pin.contains("netbpf")));
    for (name, client) in [
        ("outwards", &mut live.out),
        ("inwards", &mut live.into),
        ("hairpinned", &mut live.hairpin),
        ("localhost", &mut live.local),
    ] {
        client.echo(&sample(50_000)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    live.udp.exchange(at(OUTSIDE, 53), b"after");
    drop(live);
    host.netbpf(&format!("up --uplink up0 {ARGUMENTS}")).ok().complains("nothing to do");
    works(&host);
}

/// To eBPF those live on that had kept their port and whose namespace sends
/// first, and those to published ports.
#[test]
fn switched_to_ebpf_connections_go_on_that_can_be_told_again() {
    let host = Host::new();
    up(&host, ARGUMENTS).ok();
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let mut live = Live::begin(&host, &ns1, &ns2);
    host.netbpf("switch netbpf0 --datapath ebpf").ok().says("ebpf");
    assert!(rules(&host, "").iter().all(|rule| !rule.contains("NETBPF")));
    live.out.echo(&sample(50_000)).expect("outwards");
    live.into.echo(&sample(50_000)).expect("inwards");
    live.udp.exchange(at(OUTSIDE, 53), b"after");
    drop(live);
    host.netbpf(&format!("up --uplink up0 {ARGUMENTS}")).ok().complains("nothing to do");
    works(&host);
}

#[test]
fn a_switch_that_fails_or_is_killed_is_mended_by_up_and_by_down() {
    let host = Host::new();
    for (from, to) in [("ebpf", "iptables"), ("iptables", "ebpf")] {
        let build = format!("up --datapath {from} --uplink up0 {ARGUMENTS}");
        let switch = format!("switch netbpf0 --datapath {to}");
        for fault in ["kill", "fail"] {
            host.netbpf(&build).ok();
            with_each_fault(&host, &switch, fault, |step, outcome| {
                assert_ne!(outcome.code, Some(0));
                eprintln!("{from} to {to}, {fault} at step {step}");
                match step % 3 {
                    0 => drop(host.netbpf(&switch).ok()),
                    1 => drop(host.netbpf(&format!("up --uplink up0 {ARGUMENTS}")).ok()),
                    _ => {}
                }
                if step % 3 < 2 {
                    assert!(ping(&host.ns("ns1"), OUTSIDE, Echo::default()).is_reply());
                    let status = host.netbpf("status").ok();
                    assert!(!status.stdout.contains("differ"), "{status}");
                }
                host.netbpf("down --all").ok();
                host.assert_as_before();
                host.netbpf(&build).ok();
            });
            works(&host);
            host.netbpf("down --all").ok();
        }
    }
}

/// There and back, with a network of either kind beside it.
#[test]
fn switching_leaves_other_networks_alone() {
    let host = Host::new();
    host.netbpf("up --uplink up0 --name e --ns-prefix e --subnet 172.20.0.0/24 --namespaces 1")
        .ok();
    up(&host, "--name i --ns-prefix i --subnet 172.21.0.0/24 --namespaces 1").ok();
    host.netbpf(&format!("up --uplink up0 {ARGUMENTS}")).ok();
    for kind in ["iptables", "ebpf", "iptables"] {
        host.netbpf(&format!("switch netbpf0 --datapath {kind}")).ok();
        for name in ["e1", "i1"] {
            let ns = host.ns(name);
            assert!(ping(&ns, OUTSIDE, Echo::default()).is_reply(), "{name} with {kind}");
        }
        works(&host);
    }
}
