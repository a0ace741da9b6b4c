//! The iptables datapath: what it makes, and what it leaves alone.

use netbpf_tests::{
    Host, NS1, OUTSIDE, Outcome, Sandbox, UPLINK, at, binary, finish,
    packet::ethernet,
    recipe::{ARGUMENTS, with_each_fault, works},
    traffic::{Echo, FrameSocket, TcpServer, UdpClient, UdpServer, connect, ping},
    truth::tells_the_truth,
    wait,
};
use std::{fs, net::Ipv4Addr, os::unix::fs::symlink, path::Path, process::Command, time::Duration};

/// Whether bridges have their packets judged as if they were routed.
const JUDGES: &str = "net/bridge/bridge-nf-call-iptables";

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

/// With a bridge that has its packets judged as if they were routed, and without.
#[test]
fn a_network_of_iptables_does_it_all_and_leaves_nothing() {
    for judged in ["1", "0"] {
        let host = Host::new();
        host.tune(JUDGES, judged);
        up(&host, ARGUMENTS).ok();
        works(&host);
        up(&host, ARGUMENTS).ok().complains("nothing to do");
        host.down();
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

/// Root of a user namespace has all capabilities, and yet may load no programs.
#[test]
fn auto_falls_back_where_programs_may_not_be_loaded() {
    let sandbox = Sandbox::new();
    let netbpf = binary().display();
    let up = format!("{netbpf} up --uplink up0 {ARGUMENTS}");
    let script = format!(
        "set -e; mount -t tmpfs none /run; ip link set lo up
         ip link add up0 type veth peer name out0; ip link set out0 up; ip link set up0 up
         ip addr add 203.0.113.1/24 dev up0
         {up}; {netbpf} status -o json; {up}; {netbpf} exec ns2 -- ping -c1 -W5 172.19.0.2
         ! {netbpf} switch netbpf0 --datapath ebpf
         {netbpf} down; ! {up} --datapath ebpf; test -z \"$(ip netns)\""
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c", &script]);
    let outcome = sandbox.run(|| finish(&mut command)).ok();
    outcome
        .complains(
            "iptables moves the packets, not eBPF: the kernel lets this process load no eBPF",
        )
        .complains("Operation not permitted")
        .says("\"fallback\"")
        .complains("nothing to do")
        .says("1 received");
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
    let published = host.json("maps publish");
    let ports = |entry: &serde_json::Value| {
        let of = |name: &str| entry[name].as_u64().expect("a port");
        (of("first_port"), of("last_port"), of("target_first_port"), entry["ns"].clone())
    };
    let all: Vec<_> = published["publish"].as_array().expect("a list").iter().map(ports).collect();
    let ns = |name: &str| serde_json::Value::from(name);
    let expected =
        [(8080, 8080, 80, ns("ns1")), (8081, 8081, 80, ns("ns2")), (9000, 9003, 7000, ns("ns1"))];
    assert_eq!(all, expected);
    let endpoint = host.json("maps endpoints")["endpoints"][1].clone();
    assert_eq!((&endpoint["ns"], &endpoint["guard"]), (&ns("ns2"), &ns("routed")), "{endpoint}");
    assert_eq!(endpoint["address"], "172.19.0.3");
    assert_eq!((&endpoint["flows"], endpoint["flow_limit"].is_null()), (&1.into(), true));
    assert_eq!(endpoint["ifindex"], host.netns().link("netbpf0-2")["ifindex"]);
    host.netbpf("maps endpoints").ok().says("routed");
    host.netbpf("maps flows flush --proto udp").ok().says("ended 1 flow");
    assert_eq!(host.flows("--ns ns2").len(), 0);
    host.netbpf("maps flows flush --all").ok();
    assert_eq!(host.flows("").len(), 0);
    host.netbpf("maps stats").exits(1).complains("only the eBPF datapath");
    host.netbpf("logs").exits(1).complains("only the eBPF datapath logs");
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
        tells_the_truth(&host, &format!("killed before step {step}"));
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

/// A namespace with a published port reaches itself by it, and yet hears nothing that
/// it sends to everybody.
#[test]
fn namespaces_do_not_hear_themselves() {
    const ASKED: [u8; 4] = [172, 19, 0, 77];
    for judged in ["1", "0"] {
        let host = Host::new();
        host.tune(JUDGES, judged);
        up(&host, ARGUMENTS).ok();
        let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
        let (own, other) = (FrameSocket::open(&ns1, "eth0"), FrameSocket::open(&ns2, "eth0"));
        let mac = ns1.mac("eth0");
        // Those of the namespace itself, and of what may be on a bridge inside it.
        for from in [mac, [2, 0, 0, 0, 7, 7]] {
            for to in [[0xff; 6], [0x33, 0x33, 0, 0, 0, 1], [2, 0, 0, 0, 8, 8]] {
                let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
                arp.extend([from.as_slice(), &[172, 19, 0, 2], &[0; 6], &ASKED].concat());
                let frame = ethernet(to, from, 0x0806, &arp);
                own.send(&frame).expect("sent");
                other.find("everybody else hears it", |heard| {
                    (!heard.outgoing && heard.bytes.starts_with(&frame)).then_some(())
                });
            }
        }
        // It hears itself by a published port, which comes behind all of these.
        let _web = TcpServer::start(&ns1, 80);
        connect(&ns1, at(UPLINK, 8080)).expect("by itself").echo(b"hello").expect("echo");
        while let Some(heard) = own.next(Duration::from_millis(50)) {
            let is_asked = heard.bytes.windows(4).any(|bytes| bytes == ASKED);
            assert!(heard.outgoing || !is_asked, "judged {judged}: {:02x?}", heard.bytes);
        }
        // Nor does it take its own IPv6 addresses for somebody else's, as kernels do
        // that do not tell their own questions from others'.
        ns1.sysctl("net/ipv6/conf/eth0/accept_dad", "1");
        ns1.sysctl("net/ipv6/conf/all/enhanced_dad", "0");
        ns1.sysctl("net/ipv6/conf/eth0/enhanced_dad", "0");
        ns1.ip("addr add fd00::7/64 dev eth0");
        wait::until_true("the address is its own", || {
            let text = ns1.ip("-6 addr show dev eth0 to fd00::7");
            assert!(!text.contains("dadfailed"), "judged {judged}: {text}");
            !text.contains("tentative")
        });
        host.down();
    }
}

/// Bridges came to have their packets judged only after `up`.
#[test]
fn what_a_bridge_needs_that_is_judged_is_made_later() {
    let host = Host::new();
    host.tune(JUDGES, "0");
    up(&host, ARGUMENTS).ok();
    host.tune(JUDGES, "1");
    host.netbpf("status").ok().says("hairpin");
    up(&host, ARGUMENTS).ok();
    works(&host);
    finish(host.netns().command("nft").args(["delete", "table", "bridge", "NETBPF-netbpf0"])).ok();
    host.netbpf("status").ok().says("netbpf0 reflects broadcasts");
    up(&host, ARGUMENTS).ok();
    up(&host, ARGUMENTS).ok().complains("nothing to do");
    host.down();
}
