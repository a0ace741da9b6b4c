//! Networks that get another subnet while they run: what has an address of it stays and
//! goes on, what has not gets one, in the same namespace.

use netbpf_tests::{
    Host, NS1, Netns, OUTSIDE, UPLINK, at,
    traffic::{Echo, TcpClient, TcpServer, connect, ping},
};

const DATAPATHS: [&str; 2] = ["ebpf", "iptables"];

/// A connection from a namespace to outside, and one to its published port.
struct Streams {
    outwards: TcpClient,
    published: TcpClient,
}

impl Streams {
    fn open(host: &Host, ns: &Netns, outside: &TcpServer) -> Self {
        Self {
            outwards: connect(ns, at(OUTSIDE, outside.port())).expect("outwards"),
            published: connect(host.outside(), at(UPLINK, 8080)).expect("a published port"),
        }
    }

    #[track_caller]
    fn go_on(&mut self, when: &str) {
        for client in [&mut self.outwards, &mut self.published] {
            client.echo(when.as_bytes()).unwrap_or_else(|e| panic!("{when}: {e}"));
        }
    }
}

/// The addresses that an interface has, with their prefixes.
fn addresses(ns: &Netns, interface: &str) -> Vec<String> {
    let all = ns.ip_json("ip", &format!("-4 address show dev {interface}"));
    let of = |it: &serde_json::Value| {
        format!("{}/{}", it["local"].as_str().expect("an address"), it["prefixlen"])
    };
    all[0]["addr_info"].as_array().expect("a list").iter().map(of).collect()
}

/// That there is nothing of a subnet any more, as far as its addresses begin so.
#[track_caller]
fn nothing_of(host: &Host, beginning: &str, when: &str) {
    for what in ["status", "maps endpoints", "maps flows", "maps publish"] {
        let text = host.netbpf(what).ok().stdout;
        assert!(!text.contains(beginning), "{when}: {what}: {text}");
    }
    let bridge = addresses(host.netns(), "netbpf0");
    assert!(!bridge.iter().any(|it| it.starts_with(beginning)), "{when}: {bridge:?}");
    host.netbpf("check").ok();
}

#[test]
fn a_network_grows_and_what_it_has_goes_on() {
    for datapath in DATAPATHS {
        let host = Host::new();
        let network = "up --ns a --ns b -p 8080:a:80";
        host.netbpf(&format!("{network} --datapath {datapath}")).ok();
        let a = host.ns("a");
        let (_inside, outside) = (TcpServer::start(&a, 80), TcpServer::start(host.outside(), 0));
        let mut streams = Streams::open(&host, &a, &outside);
        for round in 0..2 {
            let when = format!("{datapath}, round {round}, grown");
            let larger = format!("{network} --ns far=172.19.2.9 --subnet 172.19.0.0/22");
            host.netbpf(&larger).ok().complains("0 flows ended");
            streams.go_on(&when);
            assert_eq!(addresses(&a, "eth0"), ["172.19.0.2/22"], "{when}");
            assert_eq!(addresses(host.netns(), "netbpf0"), ["172.19.0.1/22"], "{when}");
            let far = host.ns("far");
            for (from, to) in [(&a, [172, 19, 2, 9].into()), (&far, NS1), (&far, OUTSIDE)] {
                assert!(ping(from, to, Echo::default()).is_reply(), "{when}: {to}");
            }
            host.netbpf("check").ok();
            let when = format!("{datapath}, round {round}, smaller again");
            host.netbpf(&format!("{network} --subnet 172.19.0.0/24")).ok();
            streams.go_on(&when);
            assert_eq!(addresses(&a, "eth0"), ["172.19.0.2/24"], "{when}");
            nothing_of(&host, "172.19.2.", &when);
        }
    }
}

#[test]
fn what_has_no_address_of_it_gets_one_and_its_processes_stay() {
    for datapath in DATAPATHS {
        let host = Host::new();
        let network = "up --ns a --ns b -p 8080:a:80";
        host.netbpf(&format!("{network} --datapath {datapath}")).ok();
        let (a, b) = (host.ns("a"), host.ns("b"));
        let _inside = TcpServer::start(&a, 80);
        let outside = TcpServer::start(host.outside(), 0);
        let mut streams = Streams::open(&host, &a, &outside);
        streams.go_on(datapath);
        let plan = host.netbpf(&format!("{network} --subnet 10.8.0.0/24 --dry-run")).ok();
        plan.says("subnet 172.19.0.0/24").says("ip address delete 172.19.0.1/24 dev netbpf0");
        let moved = host.netbpf(&format!("{network} --subnet 10.8.0.0/24")).ok();
        moved.complains("2 flows ended");
        assert!(streams.published.echo(b"gone").is_err(), "{datapath}: its address is gone");
        // It is the same namespace, in which the same server listens.
        assert_eq!(addresses(&a, "eth0"), ["10.8.0.2/24"], "{datapath}");
        Streams::open(&host, &a, &outside).go_on(datapath);
        assert!(ping(&b, [10, 8, 0, 2].into(), Echo::default()).is_reply(), "{datapath}");
        assert!(ping(&b, [10, 8, 0, 1].into(), Echo::default()).is_reply(), "{datapath}");
        nothing_of(&host, "172.19.", datapath);
        host.netbpf("down").ok();
    }
}

/// A namespace that keeps its address may get another gateway; another namespace gets
/// the address that the gateway had.
#[test]
fn a_gateway_that_moves_leaves_its_address_to_a_namespace() {
    for datapath in DATAPATHS {
        let host = Host::new();
        let lab = Netns::create(host.sandbox(), "lab");
        let network = "up --ns a --ns lab -p 8080:a:80";
        host.netbpf(&format!("{network} --datapath {datapath}")).ok();
        let a = host.ns("a");
        let (_inside, outside) = (TcpServer::start(&a, 80), TcpServer::start(host.outside(), 0));
        let mut streams = Streams::open(&host, &a, &outside);
        let wider = format!("{network} --ns heir=172.19.0.1 --subnet 172.18.0.0/15");
        host.netbpf(&wider).ok().complains("0 flows ended");
        streams.go_on(datapath);
        for ns in [&a, &lab] {
            let routes = ns.ip_json("ip", "-4 route show default");
            let routes = routes.as_array().expect("a list");
            assert_eq!(routes.len(), 1, "{datapath}: {routes:?}");
            assert_eq!(routes[0]["gateway"], "172.18.0.1", "{datapath}");
            assert!(ping(ns, OUTSIDE, Echo::default()).is_reply(), "{datapath}");
            assert!(ping(ns, [172, 19, 0, 1].into(), Echo::default()).is_reply(), "{datapath}");
        }
        assert_eq!(addresses(host.netns(), "netbpf0"), ["172.18.0.1/15"], "{datapath}");
        host.netbpf("check").ok();
        host.netbpf(&format!("{network} --subnet 172.19.0.0/24")).ok();
        streams.go_on(datapath);
        assert_eq!(lab.ip_json("ip", "-4 route show default")[0]["gateway"], "172.19.0.1");
        nothing_of(&host, "172.18.", datapath);
        host.netbpf("down").ok();
        assert!(addresses_of_all(&lab).is_empty(), "{datapath}: given back as it was");
        host.netns().ip("netns delete lab");
    }
}

/// All addresses but those of `lo`.
fn addresses_of_all(ns: &Netns) -> Vec<String> {
    let all = ns.ip_json("ip", "-4 address");
    let others = all.as_array().expect("a list").iter().filter(|it| it["ifname"] != "lo");
    others.map(|it| it["ifname"].to_string()).collect()
}

/// Who names no namespaces changes but what is told; ports stay, too.
#[test]
fn without_namespaces_all_else_stays() {
    for datapath in DATAPATHS {
        let host = Host::new();
        let network =
            "--ns a=172.19.0.9 --ns b=172.19.0.10/02:00:00:00:00:0b --isolate --allow a:b";
        host.netbpf(&format!("up --datapath {datapath} -p 8080:a:80 {network}")).ok();
        let a = host.ns("a");
        let (_inside, outside) = (TcpServer::start(&a, 80), TcpServer::start(host.outside(), 0));
        let mut streams = Streams::open(&host, &a, &outside);
        host.netbpf("up --mtu 1400").ok().complains("0 flows ended");
        host.netbpf("up --subnet 172.19.0.0/22").ok().complains("0 flows ended");
        streams.go_on(datapath);
        assert_eq!(a.link("eth0")["mtu"], 1400, "{datapath}");
        assert_eq!(addresses(&a, "eth0"), ["172.19.0.9/22"], "{datapath}");
        host.netbpf("up --subnet 10.8.0.0/24").ok();
        let b = host.ns("b");
        assert_eq!(b.mac("eth0"), [2, 0, 0, 0, 0, 0xb], "{datapath}: a MAC of its own stays");
        assert_eq!(a.mac("eth0"), [2, 0x6e, 10, 8, 0, 2], "{datapath}");
        Streams::open(&host, &a, &outside).go_on(datapath);
        assert!(ping(&b, [10, 8, 0, 2].into(), Echo::default()).is_reply(), "{datapath}");
        host.netbpf("check").ok();
    }
}

/// The advice of one that is full is what enlarges it.
#[test]
fn one_that_is_full_says_how_it_is_enlarged() {
    let host = Host::new();
    host.up("--namespaces 5 --ns-prefix n --subnet 10.0.0.0/29");
    let refused = host.netbpf("ns add more").exits(2);
    let advice = "netbpf up --name netbpf0 --subnet 10.0.0.0/28";
    refused.complains("it has room for 5 namespaces, 6 were asked for").complains(advice);
    host.netbpf(advice.trim_start_matches("netbpf ")).ok().complains("0 flows ended");
    host.netbpf("ns add more").ok();
    assert!(ping(&host.ns("more"), OUTSIDE, Echo::default()).is_reply());
}

#[test]
fn what_cannot_be_is_told_before_anything_is_touched() {
    let host = Host::new();
    host.up("--namespaces 3 --ns-prefix n");
    host.up("--name other --ns x --subnet 172.20.0.0/24");
    host.netbpf("up --name none --mtu 1400").exits(2).complains("there is no network none");
    for (arguments, why) in [
        ("--namespaces 3 --ns-prefix n --subnet 172.20.0.0/16", "the network other has"),
        ("--subnet 172.20.0.0/16", "the network other has"),
        ("--namespaces 3 --ns-prefix n --subnet 203.0.113.0/24", "up0 has the address"),
        ("--namespaces 3 --ns-prefix n --subnet 172.19.0.0/30", "too small"),
        ("--ns n1=172.19.0.2 --ns n2 --ns n3 --subnet 10.1.0.0/24", "not in the subnet"),
    ] {
        host.netbpf(&format!("up --uplink up0 {arguments}")).exits(2).complains(why);
        host.netbpf("check").ok();
        assert_eq!(addresses(host.netns(), "netbpf0"), ["172.19.0.1/24"], "{arguments}");
    }
}
