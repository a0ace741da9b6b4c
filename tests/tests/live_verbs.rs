//! Verbs that change a network that runs: `ns`, `publish`, `uplink`.

use netbpf_tests::{
    Host, NS1, Netns, OUTSIDE, UPLINK, at, sample,
    traffic::{Echo, TcpServer, UdpClient, UdpServer, connect, ping},
};
use std::net::Ipv4Addr;

const DATAPATHS: [&str; 2] = ["ebpf", "iptables"];

/// Behind a second uplink `up1`, which is 198.51.100.1.
const BEYOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

fn up(datapath: &str, arguments: &str) -> Host {
    let host = Host::new();
    host.netbpf(&format!("up --uplink up0 --datapath {datapath} {arguments}")).ok();
    host
}

fn reaches(ns: &Netns, to: Ipv4Addr) -> bool {
    ping(ns, to, Echo::default()).is_reply()
}

/// Adds a second uplink to the host.
fn add_second(host: &Host) {
    let outside = host.outside().name();
    host.netns().ip(&format!("link add up1 type veth peer out1 netns {outside}"));
    host.netns().ip("addr add 198.51.100.1/24 dev up1");
    host.outside().ip(&format!("addr add {BEYOND}/24 dev out1"));
    host.netns().ip("link set up1 up");
    host.outside().ip("link set out1 up");
    host.netns().wait_up("up1");
    host.outside().wait_up("out1");
}

#[test]
fn namespaces_are_added_and_removed() {
    for datapath in DATAPATHS {
        let host = up(datapath, "--ns a --ns b -p 8080:a:80 -p 8081:b:80");
        let a = host.ns("a");
        let _server = TcpServer::start(&a, 80);
        let mut staying = connect(host.outside(), at(UPLINK, 8080)).expect("8080");
        staying.echo(b"before").expect("echo");
        host.netbpf("ns add c d=172.19.0.40/02:00:00:00:00:40").ok();
        staying.echo(b"c and d are new").expect("echo");
        let d = host.ns("d");
        assert_eq!(d.mac("eth0"), [2, 0, 0, 0, 0, 0x40], "{datapath}");
        assert!(reaches(&host.ns("c"), OUTSIDE) && reaches(&d, OUTSIDE), "{datapath}");
        assert!(reaches(&a, Ipv4Addr::new(172, 19, 0, 40)), "{datapath}");

        let b = host.ns("b");
        let _inside = TcpServer::start(&b, 80);
        let mut going = connect(host.outside(), at(UPLINK, 8081)).expect("8081");
        going.echo(b"before").expect("echo");
        let flows = host.flows("--ns b").len();
        let answer = host.json("ns rm b");
        assert_eq!(answer["network"], "netbpf0", "{answer}");
        assert_eq!(answer["ended_flows"], flows, "{datapath}: {answer}");
        assert!(going.echo(b"after").is_err(), "{datapath}: it has ended at once");
        assert!(Netns::try_open(host.sandbox(), "b").is_err(), "{datapath}");
        let published = host.json("publish ls");
        let published = published["published"].as_array().expect("a list");
        assert_eq!(published.len(), 1, "its ports went along: {published:?}");
        staying.echo(b"b is gone").expect("echo");
        assert_eq!(host.flows("--ns a --proto tcp").len(), 1, "{datapath}");

        for (arguments, code, what) in [
            ("ns add a", 2, "has a namespace a"),
            ("ns add e=172.19.0.2", 2, "the namespace a has it"),
            ("ns add e=10.0.0.1", 2, "not in the subnet"),
            ("ns add e/f", 2, "invalid"),
            ("ns rm b", 2, "no namespace b"),
            ("ns rm a c d", 2, "netbpf down netbpf0"),
            ("ns rm a --name other", 2, "there is no network other"),
        ] {
            host.netbpf(arguments).exits(code).complains(what);
        }
        staying.echo(b"nothing has happened").expect("echo");
    }
}

#[test]
fn ports_are_published_and_withdrawn() {
    for datapath in DATAPATHS {
        let host = up(datapath, "--ns a --ns b -p 8080:a:80");
        let (a, b) = (host.ns("a"), host.ns("b"));
        let _servers = [TcpServer::start(&a, 80), TcpServer::start(&b, 80)];
        let mut staying = connect(host.outside(), at(UPLINK, 8080)).expect("8080");
        staying.echo(b"before").expect("echo");
        assert!(connect(host.outside(), at(UPLINK, 8081)).is_err());
        host.netbpf("publish add 8081:b:80 5000-5009:b:5000-5009/udp 127.0.0.1:8082:a:80").ok();
        let mut going = connect(host.outside(), at(UPLINK, 8081)).expect("8081");
        going.echo(b"published").expect("echo");
        let udp = UdpServer::start(&b, 5005);
        UdpClient::new(host.outside()).exchange(at(UPLINK, 5005), b"a range");
        connect(host.netns(), at(Ipv4Addr::LOCALHOST, 8082)).expect("127.0.0.1");
        let list = host.netbpf("publish ls").ok().stdout;
        for text in ["127.0.0.1", "5000-5009", "8081", "172.19.0.3:80", "udp"] {
            assert!(list.contains(text), "{text} is not in {list}");
        }

        let flows = host.flows("--ns b --proto tcp").len();
        let answer = host.json("publish rm 8081");
        assert_eq!(answer["ended_flows"], flows, "{datapath}: {answer}");
        assert!(going.echo(b"withdrawn").is_err(), "{datapath}: it has ended at once");
        assert!(connect(host.outside(), at(UPLINK, 8081)).is_err(), "{datapath}");
        staying.echo(b"others go on").expect("echo");
        UdpClient::new(host.outside()).exchange(at(UPLINK, 5005), b"others go on");
        assert!(!udp.peers().is_empty());
        host.netbpf("publish rm 5000-5009/udp 127.0.0.1:8082").ok();
        let list = host.json("publish ls");
        assert_eq!(list["published"].as_array().expect("a list").len(), 1, "{list}");

        for (arguments, what) in [
            ("publish rm 8081", "it publishes 8080/tcp"),
            ("publish rm 8080/udp", "does not publish"),
            ("publish rm nonsense", "invalid ports"),
            ("publish add 8080:b:80", "published, too"),
            ("publish add 8089:nobody:80", "no namespace nobody"),
            ("publish ls --name other", "there is no network other"),
        ] {
            host.netbpf(arguments).exits(2).complains(what);
        }
        staying.echo(b"nothing has happened").expect("echo");
        host.netbpf("publish rm 8080").ok();
        assert!(staying.echo(b"withdrawn").is_err(), "{datapath}");
    }
}

#[test]
fn uplinks_are_added_and_removed() {
    for datapath in DATAPATHS {
        let host = up(datapath, "--ns a -p 8080:a:80");
        add_second(&host);
        let a = host.ns("a");
        let _server = TcpServer::start(host.outside(), 443);
        let mut staying = connect(&a, at(OUTSIDE, 443)).expect("by up0");
        staying.echo(b"before").expect("echo");
        for round in 0..2 {
            host.netbpf("uplink add up1").ok();
            let mut going = connect(&a, at(BEYOND, 443)).expect("by up1");
            let seen = going.who_am_i().expect("an answer").ip();
            assert_eq!(seen, Ipv4Addr::new(198, 51, 100, 1), "{datapath}");
            going.upload(100_000).expect("upload");
            staying.echo(&sample(5_000)).expect("echo");
            let answer = host.json("uplink rm up1");
            assert_eq!(answer["ended_flows"], 1, "{datapath}, {round}: {answer}");
            assert_eq!(host.flows("--ns a --proto tcp").len(), 1, "{datapath}, {round}");
            staying.echo(&sample(5_000)).expect("echo");
        }
        assert!(reaches(&a, OUTSIDE));
        for (arguments, what) in [
            ("uplink rm up0", "would have no uplink"),
            ("uplink rm up1", "no uplink up1"),
            ("uplink add up0", "has the uplink up0"),
            ("uplink add nosuch0", "no interface nosuch0"),
        ] {
            host.netbpf(arguments).exits(2).complains(what);
        }
        host.netbpf("down").ok();
        host.netns().ip("link del up1");
    }
}

#[test]
fn only_networks_that_can_be_changed_are_changed() {
    let host = Host::new();
    host.netbpf("ns add a").exits(2).complains("there is no network");
    host.netbpf("up --direct --ns a --ns b").ok();
    host.netbpf("ns add c").exits(2).complains("it is direct");
    host.up("--name two --subnet 172.20.0.0/24 --ns c");
    host.netbpf("ns add d").exits(2).complains("which network").complains("--name");
    host.netbpf("ns add d --name two").ok();
    assert!(reaches(&host.ns("d"), OUTSIDE) && !reaches(&host.ns("a"), OUTSIDE));
    assert!(reaches(&host.ns("d"), Ipv4Addr::new(172, 20, 0, 2)) && NS1.is_private());
}
