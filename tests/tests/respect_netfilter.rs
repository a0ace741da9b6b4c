//! `up --respect-netfilter`: the host's own rules say what is forwarded, and see it
//! as it is inside.

use netbpf_tests::{
    FAR, Far, GATEWAY, Host, NS1, NS2, Netns, OUTSIDE, Options, Packet, Random, UPLINK, Wire, at,
    firewall::{self, rules},
    packet::{ICMP, Ip, UDP},
    sample,
    traffic::{Echo, Pong, TcpServer, Tun, UdpClient, UdpProbe, UdpServer, connect, ping},
    udp_fragments, wait,
};
use nix::errno::Errno;
use std::{io, net::Ipv4Addr, thread, time::Duration};

const PUBLISHED: &str = "--namespaces 2 -p 8080:ns1:80 -p 8081:ns2:80 -p 5353:ns1:53/udp";

/// The rule that most firewalls begin with.
const STATEFUL: &str = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";

/// A host whose chain FORWARD drops all but what these rules accept, with a network
/// that respects it.
struct Firewalled {
    host: Host,
    iptables: &'static str,
}

impl Firewalled {
    fn new(options: Options, arguments: &str) -> Self {
        Self::of("iptables-nft", options, arguments)
    }

    fn of(iptables: &'static str, options: Options, arguments: &str) -> Self {
        let firewalled = Self { host: Host::with(options), iptables };
        firewalled.tell("-P FORWARD DROP");
        let outcome = firewalled.host.up(&format!("{arguments} --respect-netfilter"));
        assert!(!outcome.stderr.contains("warning"), "{outcome}");
        firewalled
    }

    fn tell(&self, arguments: &str) {
        rules(self.host.netns(), &format!("{} {arguments}", self.iptables));
    }

    /// Packets that came to the end of the chain, or to the rule that has this text.
    fn counted(&self, text: &str) -> u64 {
        let all = rules(self.host.netns(), &format!("{}-save -c -t filter", self.iptables));
        let line = all.lines().find(|line| line.contains(text));
        let line = line.unwrap_or_else(|| panic!("no {text:?} in\n{all}"));
        let (_, counts) = line.split_once('[').expect("with counters");
        let (packets, _) = counts.split_once(':').expect("packets and bytes");
        packets.parse().expect("a number")
    }

    /// What `action` sends is dropped by the policy.
    #[track_caller]
    fn is_refused(&self, what: &str, action: impl FnOnce()) {
        let before = self.counted(":FORWARD DROP");
        action();
        wait::until_true(what, || self.counted(":FORWARD DROP") > before);
    }

    /// A datagram from `ns` does not get by.
    #[track_caller]
    fn refuses(&self, ns: &Netns, to: std::net::SocketAddrV4) {
        let client = UdpClient::new(ns);
        self.is_refused(&format!("{} to {to} is refused", ns.name()), || {
            client.send(to, b"knock").expect("send");
        });
        assert_eq!(client.receive_brief(), None, "{} gets an answer from {to}", ns.name());
    }

    /// Takes network and rules away; the older iptables leaves its tables.
    fn end(self) {
        self.host.netbpf("down").ok();
        if self.iptables == "iptables-nft" {
            firewall::nft(self.host.netns(), "flush ruleset");
        } else {
            self.host.forget();
        }
    }
}

fn brief() -> Echo {
    Echo { patience: Duration::from_millis(300), ..Echo::default() }
}

/// Policies refuse, and rules let by what they say: by address and by port, out and
/// in, and answers as those of connections that the host tracks.
fn obeys(iptables: &'static str) {
    let wall = Firewalled::of(iptables, Options::default(), PUBLISHED);
    let (host, outside) = (&wall.host, wall.host.outside());
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let _tcp = [TcpServer::start(outside, 80), TcpServer::start(&ns1, 80)];
    let udp = [UdpServer::start(outside, 53), UdpServer::start(&ns1, 53)];
    wall.refuses(&ns1, at(OUTSIDE, 53));
    wall.refuses(outside, at(UPLINK, 5353));
    wall.is_refused("pings are refused", || {
        assert_eq!(ping(&ns1, OUTSIDE, brief()), Pong::Silence);
    });
    assert!(udp.iter().all(|server| server.peers().is_empty()), "something got by");
    let flows = host.flows("");
    assert!(flows.iter().all(|flow| flow.ns == "ns1" && flow.orig_dst == at(UPLINK, 5353)));
    assert_eq!(flows.len(), 1, "what is refused makes none on its way out: {flows:?}");

    wall.tell(STATEFUL);
    wall.tell("-A FORWARD -i netbpf0 -o up0 -p tcp -s 172.19.0.2 --dport 80 -j ACCEPT");
    let mut out = connect(&ns1, at(OUTSIDE, 80)).expect("out");
    out.echo(&sample(50_000)).expect("echo");
    out.upload(1 << 20).expect("up");
    out.download(1 << 20).expect("down");
    wall.refuses(&ns1, at(OUTSIDE, 53));
    wall.tell("-A FORWARD -s 172.19.0.2 -p udp --dport 53 -j ACCEPT");
    UdpClient::new(&ns1).exchange(at(OUTSIDE, 53), b"allowed now");
    wall.refuses(&ns2, at(OUTSIDE, 53));
    wall.refuses(outside, at(UPLINK, 5353));
    wall.tell("-A FORWARD -i netbpf0 -p icmp -j ACCEPT");
    assert_eq!(ping(&ns1, OUTSIDE, Echo::default()), Pong::Reply(OUTSIDE, 63));
    assert!(ping(&ns2, OUTSIDE, Echo::default()).is_reply());

    // A published port is what it is published to, and its clients are who they are.
    wall.tell(
        "-A FORWARD -i up0 -o netbpf0 -s 203.0.113.2 -d 172.19.0.2 -p tcp --dport 80 -j ACCEPT",
    );
    let mut inward = connect(outside, at(UPLINK, 8080)).expect("in");
    assert_eq!(inward.who_am_i().expect("an answer").ip(), OUTSIDE);
    inward.upload(1 << 20).expect("up");
    inward.download(1 << 20).expect("down");
    wall.refuses(outside, at(UPLINK, 5353));
    wall.tell("-A FORWARD -d 172.19.0.2 -p udp --dport 53 -j ACCEPT");
    UdpClient::new(outside).exchange(at(UPLINK, 5353), b"allowed now");

    // Without the rule for answers the question gets by, and its answer does not.
    wall.tell("-D FORWARD 1");
    wall.is_refused("an answer is refused", || {
        assert_eq!(ping(&ns1, OUTSIDE, brief()), Pong::Silence);
    });
    drop((out, inward, udp));
    wall.end();
}

#[test]
fn rules_of_iptables_are_obeyed() {
    obeys("iptables-nft");
}

#[test]
fn rules_of_the_older_iptables_are_obeyed() {
    obeys("iptables-legacy");
}

#[test]
fn chains_of_nft_are_obeyed() {
    let host = Host::new();
    let outcome = host.up(&format!("{PUBLISHED} --respect-netfilter"));
    assert!(!outcome.stderr.contains("warning"), "{outcome}");
    let guard = |rules: &str| {
        let chain = "type filter hook forward priority 0; policy drop;";
        let text = format!("table inet guard {{ chain c {{ {chain} {rules} }}; }}");
        firewall::nft(host.netns(), &format!("flush ruleset; {text}"));
    };
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let server = UdpServer::start(host.outside(), 53);
    guard("");
    assert_eq!(ping(&ns1, OUTSIDE, brief()), Pong::Silence);
    guard(
        "ct state established,related accept; iif netbpf0 ip saddr 172.19.0.2 meta l4proto \
         { udp, icmp } accept; ip saddr 172.19.0.3 counter;",
    );
    UdpClient::new(&ns1).exchange(at(OUTSIDE, 53), b"allowed");
    assert!(ping(&ns1, OUTSIDE, Echo::default()).is_reply());
    assert_eq!(ping(&ns2, OUTSIDE, brief()), Pong::Silence);
    UdpClient::new(&ns2).send(at(OUTSIDE, 53), b"refused").expect("send");
    wait::until_true("both of the other namespace's are refused", || {
        rules(host.netns(), "nft list chain inet guard c").contains("counter packets 2")
    });
    assert_eq!(server.peers().len(), 1);
    drop(server);
    firewall::nft(host.netns(), "flush ruleset");
}

/// Without rules that track connections, too, every packet is seen, in both
/// directions with the namespace's own address.
#[test]
fn a_rule_sees_and_counts_every_packet() {
    const EACH: u64 = 20;
    let host = Host::new();
    host.up(&format!("{PUBLISHED} --respect-netfilter"));
    let wall = Firewalled { host, iptables: "iptables-nft" };
    let (ns1, outside) = (wall.host.ns("ns1"), wall.host.outside());
    let _servers = [UdpServer::start(outside, 53), UdpServer::start(&ns1, 53)];
    let seen = [
        "-s 172.19.0.2/32 -d 203.0.113.2/32 -i netbpf0 -o up0 -p udp -m udp --dport 53",
        "-s 203.0.113.2/32 -d 172.19.0.2/32 -i up0 -o netbpf0 -p udp -m udp --sport 53",
        "-s 203.0.113.2/32 -d 172.19.0.2/32 -i up0 -o netbpf0 -p udp -m udp --dport 53",
        "-s 172.19.0.2/32 -d 203.0.113.2/32 -i netbpf0 -o up0 -p udp -m udp --sport 53",
    ];
    for rule in seen {
        wall.tell(&format!("-A FORWARD {rule}"));
    }
    let clients = [UdpClient::new(&ns1), UdpClient::new(outside)];
    for _ in 0..EACH {
        clients[0].exchange(at(OUTSIDE, 53), b"out");
        clients[1].exchange(at(UPLINK, 5353), b"in");
    }
    for rule in seen {
        assert_eq!(wall.counted(rule), EACH, "{rule}");
    }
    let flows = wall.host.flows("");
    assert!(flows.len() == 2 && flows.iter().all(|flow| flow.packets == 2 * EACH), "{flows:?}");
    wall.end();
}

/// What namespaces send one another passes by iptables where the bridge is told to
/// have it judged, and not where it is not.
#[test]
fn bridged_frames_are_the_bridges() {
    for (judged, respects, pongs) in
        [("1", true, false), ("0", true, true), ("1", false, true), ("0", false, true)]
    {
        let host = Host::new();
        let path = "net/bridge/bridge-nf-call-iptables";
        let before = host.netns().read(&format!("/proc/sys/{path}"));
        host.netns().sysctl(path, judged);
        host.up(if respects { "--namespaces 2 --respect-netfilter" } else { "--namespaces 2" });
        let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
        assert!(ping(&ns1, NS2, Echo::default()).is_reply(), "nobody refuses it");
        rules(host.netns(), "iptables-nft -P FORWARD DROP");
        let is_reply = ping(&ns2, NS1, if pongs { Echo::default() } else { brief() }).is_reply();
        assert_eq!(is_reply, pongs, "bridge-nf-call-iptables={judged}, respects: {respects}");
        assert!(ping(&ns1, GATEWAY, Echo::default()).is_reply(), "to the host itself");
        let forwarded = host.stat("", "forwarded");
        assert_eq!(forwarded == 0, respects, "by the fast path: {forwarded}");
        host.netbpf("down").ok();
        host.netns().sysctl(path, before.trim());
        firewall::nft(host.netns(), "flush ruleset");
    }
}

/// By the host's own address namespaces meet past its rules for what is forwarded, as
/// do the host and they: by the stack, the two translations of such a connection
/// would be two halves to who tracks connections.
#[test]
fn by_the_hosts_address_published_ports_are_reached_past_the_rules() {
    let wall = Firewalled::new(Options::default(), PUBLISHED);
    wall.tell(STATEFUL);
    let (ns1, ns2) = (wall.host.ns("ns1"), wall.host.ns("ns2"));
    let _servers = (TcpServer::start(&ns1, 80), UdpServer::start(&ns1, 53));
    for (from, to) in [
        (&ns2, UPLINK),
        (&ns1, UPLINK),
        (wall.host.netns(), UPLINK),
        (wall.host.netns(), Ipv4Addr::LOCALHOST),
    ] {
        let mut client = connect(from, at(to, 8080)).expect("a published port");
        client.echo(&sample(100_000)).expect("echo");
        UdpClient::new(from).exchange(at(to, 5353), b"hello");
    }
    assert_eq!(wall.counted(":FORWARD DROP"), 0);
    // What the host sends and gets itself its rules for that decide about.
    rules(wall.host.netns(), "iptables-nft -A OUTPUT -p udp --dport 5353 -j DROP");
    let client = UdpClient::new(wall.host.netns());
    assert!(client.send(at(UPLINK, 5353), b"refused").is_err());
    wall.end();
}

/// An order for pieces to be sent in.
type Order = fn(&mut Vec<Vec<u8>>);

/// The orders in which pieces are sent.
const ORDERS: [(&str, Order); 4] = [
    ("in order", |_| {}),
    ("reversed", |pieces| pieces.reverse()),
    ("first piece last", |pieces| pieces.rotate_left(1)),
    ("shuffled", |pieces| Random::new(7).shuffle(pieces)),
];

/// Datagrams in pieces pass in any order, both ways, whether the host puts them
/// together on their way (to track connections) or not.
#[test]
fn pieces_in_any_order_arrive_whole() {
    for is_tracked in [true, false] {
        let host = Host::with(Options { offloads: false, ..Options::default() });
        host.up(&format!("{PUBLISHED} --respect-netfilter"));
        if is_tracked {
            rules(host.netns(), "iptables-nft -P FORWARD DROP");
            for rule in [STATEFUL, "-A FORWARD -p udp --dport 53 -j ACCEPT"] {
                rules(host.netns(), &format!("iptables-nft {rule}"));
            }
        }
        let ns1 = host.ns("ns1");
        let (inside, outside) = (Wire::inside(&host, &ns1), Wire::outside(&host));
        let servers = [UdpServer::start(host.outside(), 53), UdpServer::start(&ns1, 53)];
        let mut id = 1;
        for (order, arrange) in ORDERS {
            for len in [1473, 9000, 20_000] {
                let ways = [
                    (&inside, &ns1, NS1, OUTSIDE, 53),
                    (&outside, host.outside(), OUTSIDE, UPLINK, 5353),
                ];
                for (wire, ns, src, dst, dport) in ways {
                    let client = UdpClient::on_port(ns, 5000 + id);
                    let ip = Ip { id, ..Ip::new(src, dst, UDP) };
                    let mut pieces = udp_fragments(&ip, (5000 + id, dport), &sample(len), 1480);
                    arrange(&mut pieces);
                    for piece in &pieces {
                        wire.send(piece);
                    }
                    let what = format!("{len} bytes to {dst} {order}, tracked: {is_tracked}");
                    let (answer, _) = client.receive().unwrap_or_else(|e| panic!("{what}: {e}"));
                    assert!(answer == sample(len), "{what}");
                    id += 1;
                }
            }
        }
        assert!(servers[0].peers().iter().all(|peer| peer.ip() == UPLINK));
        assert!(servers[1].peers().iter().all(|peer| peer.ip() == OUTSIDE));
        drop(servers);
        firewall::nft(host.netns(), "flush ruleset");
    }
}

/// The firewall that most people have: out what wants to, in what answers.
fn stateful(options: Options) -> Firewalled {
    let wall = Firewalled::new(options, PUBLISHED);
    wall.tell(STATEFUL);
    wall.tell("-A FORWARD -i netbpf0 -o up0 -j ACCEPT");
    wall.tell("-A FORWARD -i up0 -o netbpf0 -m conntrack --ctstate NEW -j ACCEPT");
    wall
}

#[test]
fn errors_come_through_as_related_in_both_directions() {
    for offloads in [true, false] {
        let wall = stateful(Options { offloads, ..Options::default() });
        let (ns1, outside) = (wall.host.ns("ns1"), wall.host.outside());
        for (from, to) in [(&ns1, at(OUTSIDE, 4)), (outside, at(UPLINK, 5353))] {
            let client = UdpProbe::connect(from, to);
            client.send(b"anybody there?").expect("send");
            let error = client.receive().expect_err("nobody is there").kind();
            assert_eq!(error, io::ErrorKind::ConnectionRefused, "{to}");
        }
        assert_eq!(wall.counted(":FORWARD DROP"), 0);
        wall.end();
    }
}

#[test]
fn both_directions_learn_of_a_smaller_hop_outside() {
    let wall = stateful(Options { offloads: false, ..Options::default() });
    let (ns1, far) = (wall.host.ns("ns1"), Far::behind(&wall.host, 1300));
    let _servers = [TcpServer::start(&ns1, 80), TcpServer::start(far.netns(), 80)];
    let _echo = UdpServer::start(far.netns(), 53);
    let probe = UdpProbe::connect(&ns1, at(FAR, 53));
    let heard = probe.dont_fragment(true).hear(&sample(1400));
    assert_eq!((heard.errno, heard.mtu, heard.offender), (Errno::EMSGSIZE, 1300, OUTSIDE));
    probe.exchange(&sample(1300 - 28));
    for (from, to) in [(&ns1, at(FAR, 80)), (far.netns(), at(UPLINK, 8080))] {
        let mut client = connect(from, to).unwrap_or_else(|e| panic!("{to}: {e}"));
        client.upload(1 << 21).unwrap_or_else(|e| panic!("to {to}: {e}"));
        client.download(1 << 21).unwrap_or_else(|e| panic!("from {to}: {e}"));
    }
    drop(far);
    wall.end();
}

/// A network that takes less than the uplink: the host fragments what comes for it, or
/// tells its sender, who hears of the packet that it has sent.
#[test]
fn what_is_too_large_for_the_network_is_fragmented_or_answered() {
    let wall = Firewalled::new(
        Options { offloads: false, ..Options::default() },
        &format!("{PUBLISHED} --mtu 1300"),
    );
    wall.tell("-A FORWARD -j ACCEPT");
    let (ns1, outside) = (wall.host.ns("ns1"), wall.host.outside());
    let _server = UdpServer::start(&ns1, 53);
    let probe = UdpProbe::connect(outside, at(UPLINK, 5353));
    probe.exchange(&sample(1400));
    let heard = probe.dont_fragment(true).hear(&sample(1400));
    assert_eq!((heard.errno, heard.mtu, heard.offender), (Errno::EMSGSIZE, 1300, UPLINK));
    probe.exchange(&sample(1300 - 28));
    wall.end();
}

/// Who is refused hears of the packet that it has sent, not of what it was inside.
#[test]
fn refusals_are_told_as_what_was_sent() {
    let wall = Firewalled::new(Options { offloads: false, ..Options::default() }, PUBLISHED);
    wall.tell("-A FORWARD -p tcp -j REJECT --reject-with tcp-reset");
    wall.tell("-A FORWARD -j REJECT --reject-with icmp-admin-prohibited");
    let (ns1, outside) = (wall.host.ns("ns1"), wall.host.outside());
    for (from, tcp, udp, offender) in [
        (&ns1, at(OUTSIDE, 80), at(OUTSIDE, 53), GATEWAY),
        (outside, at(UPLINK, 8080), at(UPLINK, 5353), UPLINK),
    ] {
        let wire = Wire::outside(&wall.host);
        let refused = connect(from, tcp).err().expect("refused");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{tcp}");
        let probe = UdpProbe::connect(from, udp);
        let heard = probe.hear(b"refused");
        assert_eq!((heard.errno, heard.icmp), (Errno::EHOSTUNREACH, (3, 13)), "{udp}");
        assert_eq!(heard.offender, offender, "{udp}");
        let is_leak = |packet: &Packet| packet.bytes.windows(4).any(|bytes| bytes == NS1.octets());
        assert!(!wire.received().iter().any(is_leak), "the outside hears of the inside");
    }
    wall.end();
}

/// Packets with options, late ones and what belongs to nobody: as on any path.
#[test]
fn a_hop_is_taken_off_and_told_of_once() {
    let wall = Firewalled::new(Options { offloads: false, ..Options::default() }, PUBLISHED);
    wall.tell("-A FORWARD -j ACCEPT");
    let (ns1, outside) = (wall.host.ns("ns1"), wall.host.outside());
    assert_eq!(ping(&ns1, OUTSIDE, Echo::default()), Pong::Reply(OUTSIDE, 63));
    let last = Echo { ttl: 1, ..Echo::default() };
    assert_eq!(ping(&ns1, OUTSIDE, last), Pong::Error(GATEWAY, 11, 0));
    let server = UdpServer::start(&ns1, 53);
    let wire = Wire::outside(&wall.host);
    let client = UdpClient::on_port(outside, 6000);
    client.exchange(at(UPLINK, 5353), b"a flow that is known");
    let answered = wire.receive("the answer", |packet| packet.is(UDP, UPLINK, OUTSIDE));
    assert_eq!(answered.seen.ttl, 63);
    let late = Ip { ttl: 1, ..Ip::new(OUTSIDE, UPLINK, UDP) }.udp(6000, 5353, b"late");
    wire.send(&late);
    let error = wire.receive("time exceeded", |packet| packet.is(ICMP, UPLINK, OUTSIDE));
    assert_eq!(error.error(), Some((11, 0)));
    let (_, quote) = error.quote();
    assert_eq!(quote[..28], late[..28], "what was sent");
    drop(server);
    wall.end();
}

/// A network whose namespaces are reached by their own addresses.
#[test]
fn a_routed_network_is_filtered_by_the_addresses_that_it_is_reached_by() {
    let wall = Firewalled::new(Options::default(), "--namespaces 2 --routed");
    let (ns1, ns2) = (wall.host.ns("ns1"), wall.host.ns("ns2"));
    let outside = wall.host.outside();
    outside.ip(&format!("route add 172.19.0.0/24 via {UPLINK}"));
    let _servers = [UdpServer::start(&ns1, 53), UdpServer::start(&ns2, 53)];
    wall.tell(STATEFUL);
    wall.tell("-A FORWARD -d 172.19.0.2 -p udp --dport 53 -j ACCEPT");
    UdpClient::new(outside).exchange(at(NS1, 53), b"allowed");
    wall.refuses(outside, at(NS2, 53));
    outside.ip("route del 172.19.0.0/24");
    wall.end();
}

/// By an uplink without Ethernet headers.
#[test]
fn what_goes_by_a_tunnel_is_filtered() {
    let wall = Firewalled { host: Host::new(), iptables: "iptables-nft" };
    let tun = Tun::new(wall.host.netns(), "tun0");
    wall.host.netns().ip("addr add 192.0.2.1/24 dev tun0");
    wall.host.netns().ip("route add 198.51.100.0/24 dev tun0");
    wall.tell("-P FORWARD DROP");
    wall.host.up("--uplink tun0 --namespaces 1 --respect-netfilter");
    let (ns1, own) = (wall.host.ns("ns1"), Ipv4Addr::new(192, 0, 2, 1));
    wall.refuses(&ns1, at(FAR, 53));
    wall.tell(STATEFUL);
    wall.tell("-A FORWARD -o tun0 -s 172.19.0.2 -j ACCEPT");
    thread::scope(|scope| {
        let asking = scope.spawn(|| ping(&ns1, FAR, Echo::default()));
        let asked = tun.find("an echo request", |seen| {
            assert_ne!(seen.src, NS1, "it left untranslated");
            ((seen.proto, seen.src, seen.dst) == (ICMP, own, FAR)).then(|| seen.clone())
        });
        assert_eq!((asked.payload[0], asked.ttl), (8, 63));
        let id: [u8; 4] = asked.payload[4..8].try_into().expect("four bytes");
        tun.send(&Ip::new(FAR, own, ICMP).icmp(0, 0, id, &asked.payload[8..]));
        assert_eq!(asking.join().expect("no panic"), Pong::Reply(FAR, 63));
    });
    wall.host.netbpf("down").ok();
    drop(tun);
    wall.end();
}

/// Somebody else's rules that translate: what they have translated when it comes to
/// the uplink is the host's own, and works.
#[test]
fn rules_of_others_that_masquerade_do_it_themselves() {
    let host = Host::new();
    host.up(&format!("{PUBLISHED} --respect-netfilter"));
    rules(host.netns(), "iptables-nft -t nat -A POSTROUTING -o up0 -j MASQUERADE");
    let (ns1, outside) = (host.ns("ns1"), host.outside());
    let servers = [TcpServer::start(outside, 80), TcpServer::start(&ns1, 80)];
    for (from, to) in [(&ns1, at(OUTSIDE, 80)), (outside, at(UPLINK, 8080))] {
        let mut client = connect(from, to).unwrap_or_else(|e| panic!("{to}: {e}"));
        client.echo(&sample(100_000)).unwrap_or_else(|e| panic!("{to}: {e}"));
        let seen_as = if to.port() == 80 { UPLINK } else { OUTSIDE };
        assert_eq!(client.who_am_i().expect("an answer").ip(), seen_as);
    }
    assert!(ping(&ns1, OUTSIDE, Echo::default()).is_reply());
    // Only what comes to a published port is translated by the datapath.
    let flows = host.flows("");
    assert!(flows.iter().all(|flow| flow.orig_dst == at(UPLINK, 8080)), "{flows:?}");
    drop(servers);
    firewall::nft(host.netns(), "flush ruleset");
}

/// What is refused by both datapaths is the same, and stays so when they are switched.
#[test]
fn it_is_kept_when_datapaths_are_switched_and_shown() {
    let wall = Firewalled::new(Options::default(), PUBLISHED);
    let (host, ns1) = (&wall.host, wall.host.ns("ns1"));
    let server = UdpServer::start(host.outside(), 53);
    let shows = |datapath: &str| {
        let network = &host.json("status")["networks"][0];
        assert_eq!(network["datapath"], datapath);
        assert_eq!(network["respect_netfilter"], true);
        let text = host.netbpf("status").ok();
        assert!(text.stdout.contains(&format!(" {datapath}+netfilter ")), "{text}");
        assert!(!text.stderr.contains("warning"), "{text}");
    };
    shows("ebpf");
    host.up(PUBLISHED).complains("nothing to do");
    for datapath in ["iptables", "ebpf"] {
        host.netbpf(&format!("switch netbpf0 --datapath {datapath}")).ok();
        shows(datapath);
        wall.refuses(&ns1, at(OUTSIDE, 53));
        for rule in ["-A FORWARD -s 172.19.0.2 -j ACCEPT", STATEFUL] {
            wall.tell(rule);
        }
        UdpClient::new(&ns1).exchange(at(OUTSIDE, 53), b"allowed");
        assert!(ping(&ns1, OUTSIDE, Echo::default()).is_reply());
        for rule in ["-A FORWARD -s 172.19.0.2 -j ACCEPT", STATEFUL] {
            wall.tell(&rule.replace("-A ", "-D "));
        }
    }
    drop(server);
    wall.end();
}

/// With iptables nothing is accepted in front of the host's own rules, as it is
/// otherwise.
#[test]
fn with_iptables_the_hosts_rules_come_first() {
    for respects in [true, false] {
        let host = Host::new();
        rules(host.netns(), "iptables-nft -P FORWARD DROP");
        let option = if respects { "--respect-netfilter" } else { "" };
        host.netbpf(&format!("up --datapath iptables --uplink up0 {PUBLISHED} {option}")).ok();
        let ns1 = host.ns("ns1");
        let _servers = [UdpServer::start(host.outside(), 53), UdpServer::start(&ns1, 53)];
        let wall = Firewalled { host, iptables: "iptables-nft" };
        let ways = [(&ns1, at(OUTSIDE, 53)), (wall.host.outside(), at(UPLINK, 5353))];
        for (from, to) in ways {
            if respects {
                wall.refuses(from, to);
            }
        }
        if respects {
            wall.tell(STATEFUL);
            wall.tell("-A FORWARD -p udp --dport 53 -j ACCEPT");
        }
        for (from, to) in ways {
            UdpClient::new(from).exchange(to, b"allowed");
        }
        wall.end();
    }
}
