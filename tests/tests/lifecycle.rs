//! Networks come and go, whole or not at all, and leave nothing behind.

use netbpf_tests::{
    Host, Listing, NS2, Netns, OUTSIDE, Options, Sandbox, UPLINK, at, binary, finish,
    traffic::{Echo, TcpServer, UdpClient, UdpServer, connect, ping},
    wait,
};
use std::net::{Ipv4Addr, SocketAddr};

fn reaches_outside(ns: &Netns) -> bool {
    ping(ns, OUTSIDE, Echo::default()).is_reply()
}

#[test]
fn a_second_up_changes_nothing_and_says_so() {
    let host = Host::new();
    let arguments = "--namespaces 2 -p 8080:ns1:80";
    host.up(arguments);
    let ns1 = host.ns("ns1");
    let _server = TcpServer::start(host.outside(), 80);
    let mut connection = connect(&ns1, at(OUTSIDE, 80)).expect("connect");
    connection.echo(b"before").expect("echo");
    let everything = || host.listing().and(Listing::of_netns(&ns1));
    let before = everything();
    let again = host.up(arguments);
    let said = format!("{}{}", again.stdout, again.stderr).to_lowercase();
    assert!(said.contains("nothing"), "{again}");
    before.assert_same(&everything());
    connection.echo(b"after").expect("the connection lives on");
    assert_eq!(host.flows("--proto tcp").len(), 1);
}

#[test]
fn a_dry_run_tells_the_steps_and_takes_none() {
    let host = Host::new();
    let plan = host.up("--namespaces 2 -p 8080:ns1:80 --dry-run");
    for word in [
        "netbpf0",
        "ns1",
        "ns2",
        "172.19.0.1",
        "up0",
        "ip_forward",
        "publish",
        "route_localnet",
        "of lo",
    ] {
        assert!(plan.stdout.contains(word), "{word} is not in {plan}");
    }
    host.assert_as_before();
    host.up("--namespaces 2");
    let before = host.listing();
    host.netbpf("up --uplink up0 --namespaces 2 --dry-run").ok();
    before.assert_same(&host.listing());
}

#[test]
fn down_is_idempotent() {
    let host = Host::new();
    host.netbpf("down --all").ok();
    host.assert_as_before();
    host.up("--namespaces 1");
    for _ in 0..2 {
        host.netbpf("down").ok();
        host.assert_as_before();
    }
    host.up("--namespaces 1");
    assert!(reaches_outside(&host.ns("ns1")), "after a down comes an up");
}

#[test]
fn two_networks_live_side_by_side_on_one_host() {
    let host = Host::new();
    host.up("--name left --subnet 172.20.0.0/24 --ns-prefix l --namespaces 2");
    host.up("--name right --subnet 172.21.0.0/24 --ns-prefix r --namespaces 2 -p 8080:r1:80");
    let server = UdpServer::start(host.outside(), 53);
    let (l1, r1) = (host.ns("l1"), host.ns("r1"));
    let clients = [&l1, &r1].map(|ns| UdpClient::on_port(ns, 5000));
    for client in [0, 1, 0, 1] {
        clients[client].exchange(at(OUTSIDE, 53), b"from the same port");
    }
    assert_eq!(server.peers().len(), 2, "{:?}", server.peers());
    assert!(ping(&l1, Ipv4Addr::new(172, 20, 0, 3), Echo::default()).is_reply());
    let _web = TcpServer::start(&r1, 80);
    let mut published = connect(host.outside(), at(UPLINK, 8080)).expect("8080");

    host.netbpf("down left").ok();
    assert!(Netns::try_open(host.sandbox(), "l1").is_err(), "left is gone");
    published.echo(b"right lives on").expect("echo");
    clients[1].exchange(at(OUTSIDE, 53), b"right lives on");
    assert!(reaches_outside(&host.ns("r2")));
    let forwarding = host.netns().read("/proc/sys/net/ipv4/ip_forward");
    assert_eq!(forwarding.trim(), "1", "right still needs it");
    host.netbpf("down right").ok();
    host.assert_as_before();
}

#[test]
fn two_hosts_with_the_same_arguments_do_not_clash() {
    let sandbox = Sandbox::new();
    let hosts = ["h1", "h2"].map(|name| Host::beside_others(&sandbox, name));
    let before = Listing::of_sandbox(&sandbox);
    for (host, prefix) in hosts.iter().zip(["a", "b"]) {
        host.up(&format!("--namespaces 2 --ns-prefix {prefix} -p 8080:{prefix}1:80"));
    }
    for (host, prefix) in hosts.iter().zip(["a", "b"]) {
        let first = host.ns(&format!("{prefix}1"));
        assert!(reaches_outside(&first) && ping(&first, NS2, Echo::default()).is_reply());
        let _server = TcpServer::start(&first, 80);
        let mut client = connect(host.outside(), at(UPLINK, 8080)).expect("8080");
        assert_eq!(client.who_am_i().expect("an answer"), client.local());
        assert_eq!(host.flows("").len(), 2, "each sees its own flows");
    }
    hosts[0].down();
    assert!(reaches_outside(&hosts[1].ns("b1")), "the other one lives on");
    hosts[1].down();
    before.assert_same(&Listing::of_sandbox(&sandbox));
}

#[test]
fn forwarding_stays_on_where_it_was_on() {
    let host = Host::with(Options { forwarding: true, ..Options::default() });
    host.up("--namespaces 1");
    host.down();
    assert_eq!(host.netns().read("/proc/sys/net/ipv4/ip_forward").trim(), "1");
    let host = Host::new();
    host.up("--namespaces 1");
    assert_eq!(host.netns().read("/proc/sys/net/ipv4/ip_forward").trim(), "1");
    host.down();
    assert_eq!(host.netns().read("/proc/sys/net/ipv4/ip_forward").trim(), "0");
}

#[test]
fn it_works_where_nobody_has_mounted_a_bpf_file_system() {
    let host = Host::within(&Sandbox::without_bpffs());
    let run = |arguments: &str| {
        let mut shell = host.netns().shell();
        finish(shell.arg(binary()).args(arguments.split_whitespace()))
    };
    run("up --uplink up0 --namespaces 1").ok();
    assert!(reaches_outside(&host.ns("ns1")));
    run("status").ok().says("ns1");
    run("maps flows").ok().says("203.0.113.2");
    run("down").ok();
    // The mount stays, as that of /run/netns does: it is the machine's from now on.
    let listing = host.listing();
    assert_eq!(listing.with("pin: /sys/fs/bpf/netbpf"), Vec::<&str>::new());
    assert_eq!(listing.with("file: /run/netbpf"), Vec::<&str>::new());
    host.forget();
}

#[test]
fn the_uplink_is_found_by_the_default_route() {
    let host = Host::new();
    host.netbpf("up --namespaces 1").ok();
    assert!(reaches_outside(&host.ns("ns1")));
}

#[test]
fn it_can_be_run_by_ip_netns_exec() {
    let sandbox = Sandbox::new();
    let host = Host::within(&sandbox);
    let elsewhere = Netns::create(&sandbox, "elsewhere");
    let through_ip = |arguments: &str| {
        let mut shell = elsewhere.shell();
        shell.args(["ip", "netns", "exec", "host"]).arg(binary());
        finish(shell.args(arguments.split_whitespace()))
    };
    through_ip("up --namespaces 2 --uplink up0 -p 8080:ns1:80").ok();
    let ns1 = host.ns("ns1");
    assert!(reaches_outside(&ns1) && ping(&ns1, NS2, Echo::default()).is_reply());
    through_ip("status").ok().says("ns1");
    through_ip("maps flows").ok().says("203.0.113.2");
    through_ip("exec ns1 -- true").ok();
    // Both ways of running it see the same network.
    host.netbpf("status").ok().says("ns1");
    through_ip("down").ok();
    elsewhere.ip("netns del elsewhere");
    host.assert_as_before();
}

#[test]
fn it_puts_the_kernels_grace_periods_back() {
    let hosts = [Host::new(), Host::new()];
    std::thread::scope(|scope| {
        for host in &hosts {
            scope.spawn(|| {
                for _ in 0..3 {
                    host.up("--namespaces 3");
                    host.netbpf("down").ok();
                }
            });
        }
    });
    // Other tests may have it on for a moment.
    wait::until_true("it is off again", || {
        hosts[0].netns().read("/sys/kernel/rcu_expedited").trim() == "0"
    });
}

#[test]
fn it_puts_back_the_grace_periods_that_a_killed_run_left_short() {
    let host = Host::new();
    // What a run leaves that is killed while it attaches a program.
    host.sandbox().run(|| {
        std::fs::write("/sys/kernel/rcu_expedited", "1852142690").expect("switch it on");
    });
    host.netbpf("down").ok();
    // Other tests may have it on for a moment.
    wait::until_true("it is off again", || {
        host.netns().read("/sys/kernel/rcu_expedited").trim() == "0"
    });
}

#[test]
fn namespaces_with_chosen_names_addresses_and_macs() {
    let host = Host::new();
    host.up("--name web --subnet 10.77.0.0/28 --ns front=10.77.0.5/02:00:00:00:00:05 --ns back \
         --ns db=10.77.0.9");
    assert_eq!(host.ns("front").mac("eth0"), [2, 0, 0, 0, 0, 5]);
    let address = |name: &str| {
        let shown = host.ns(name).ip_json("ip", "-4 addr show dev eth0");
        let info = shown[0]["addr_info"][0].clone();
        (info["local"].as_str().expect("an address").to_owned(), info["prefixlen"].clone())
    };
    assert_eq!(address("front"), ("10.77.0.5".to_owned(), 28.into()));
    assert_eq!(address("back"), ("10.77.0.2".to_owned(), 28.into()));
    assert_eq!(address("db"), ("10.77.0.9".to_owned(), 28.into()));
    for to in [[10, 77, 0, 1], [10, 77, 0, 2], [10, 77, 0, 9], [203, 0, 113, 2]] {
        assert!(ping(&host.ns("front"), to.into(), Echo::default()).is_reply(), "{to:?}");
    }
    let server = UdpServer::start(&host.ns("db"), 5432);
    UdpClient::new(&host.ns("back")).exchange(at(Ipv4Addr::new(10, 77, 0, 9), 5432), b"select");
    let from_back = |peer: &SocketAddr| peer.ip() == Ipv4Addr::new(10, 77, 0, 2);
    assert!(server.peers().iter().all(from_back), "{:?}", server.peers());
}
