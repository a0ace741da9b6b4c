//! `up --isolate`: namespaces reach everybody but each other, by whichever way they try;
//! allowed pairs reach each other as ever.

use netbpf_tests::{
    GATEWAY, Host, NS1, NS2, NS3, Netns, OUTSIDE, Outcome, UPLINK, at, firewall,
    packet::{Ip, UDP, ethernet},
    recipe::with_each_fault,
    reference, sample,
    traffic::{Echo, FrameSocket, Pong, TcpServer, UdpClient, UdpServer, connect, ping},
    wait,
};
use std::{fs, net::Ipv4Addr, path::PathBuf, time::Duration};

/// Whether bridges have their packets judged as if they were routed.
const JUDGES: &str = "net/bridge/bridge-nf-call-iptables";

const DATAPATHS: [&str; 2] = ["ebpf", "iptables"];

/// `EtherType` of IPv6.
const IPV6: u16 = 0x86dd;

/// The same, and one for experiments (IEEE 802).
const ETHERTYPES: [u16; 2] = [0x88b5, IPV6];

/// Three namespaces, of which the first and the third may reach each other.
const ARGUMENTS: &str = "--namespaces 3 --isolate --allow ns3:ns1 -p 8080:ns1:80 -p 8082:ns2:80";

fn up(host: &Host, datapath: &str, arguments: &str) -> Outcome {
    host.netbpf(&format!("up --datapath {datapath} --uplink up0 {arguments}"))
}

fn brief() -> Echo {
    Echo { patience: Duration::from_millis(300), ..Echo::default() }
}

fn all(host: &Host) -> [(Netns, Ipv4Addr); 3] {
    [("ns1", NS1), ("ns2", NS2), ("ns3", NS3)].map(|(name, addr)| (host.ns(name), addr))
}

/// An IPv6 packet to nobody's address, with nothing that says what its data is (RFC 8200
/// section 4.7).
fn ipv6(data: &[u8]) -> Vec<u8> {
    let len = u8::try_from(data.len()).expect("short");
    let header = [0x60, 0, 0, 0, 0, len, 59, 64];
    let addr = |last| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    [&header[..], &addr(1), &addr(2), data].concat()
}

/// Whether a frame of `from` that nobody knows the meaning of gets to `to`: one for its MAC,
/// and one for everybody.
#[track_caller]
fn frames(from: &Netns, to: &Netns, gateway: &Netns) -> [bool; 2] {
    let (inside, outside) = (FrameSocket::open(to, "eth0"), FrameSocket::open(from, "eth0"));
    let (source, target) = (from.mac("eth0"), to.mac("eth0"));
    let marks = [b"for its MAC", b"for anybody"];
    for ethertype in ETHERTYPES {
        for (mac, mark) in [target, [0xff; 6]].into_iter().zip(marks) {
            let payload = if ethertype == IPV6 { ipv6(mark) } else { mark.to_vec() };
            outside.send(&ethernet(mac, source, ethertype, &payload)).expect("send");
        }
    }
    // What comes after them says that they would have come.
    let last = Ip::new(GATEWAY, NS1, UDP).udp(7, 7, b"the last one");
    let bridge = FrameSocket::open(gateway, "netbpf0");
    bridge.send(&ethernet(target, gateway.mac("netbpf0"), 0x0800, &last)).expect("send");
    let mut came = [0; 2];
    inside.find("the last one", |frame| {
        for (count, mark) in came.iter_mut().zip(marks) {
            let is_it =
                !frame.outgoing && frame.bytes.windows(mark.len()).any(|bytes| bytes == mark);
            *count += usize::from(is_it);
        }
        frame.bytes.ends_with(b"the last one").then_some(())
    });
    came.map(|count| {
        assert!(count == 0 || count == ETHERTYPES.len(), "{count} of them");
        count != 0
    })
}

/// Who reaches whom: `allowed` pairs do, by all ways, and others by none.
#[track_caller]
fn reach(host: &Host, allowed: &[[usize; 2]], when: &str) {
    let all = all(host);
    for (n, (from, _)) in all.iter().enumerate() {
        for (m, (to, addr)) in all.iter().enumerate().filter(|(m, _)| *m != n) {
            let may = allowed.iter().any(|pair| pair.contains(&n) && pair.contains(&m));
            let way = format!("{when}: {} to {}", from.name(), to.name());
            if may {
                assert!(ping(from, *addr, Echo::default()).is_reply(), "{way}");
            } else {
                let pong = ping(from, *addr, brief());
                assert!(!pong.is_reply(), "{way}: {pong:?}");
            }
            assert_eq!(frames(from, to, host.netns()), [may; 2], "{way}");
            // Without asking who has the address; and by the gateway.
            let mac = to.mac("eth0").map(|byte| format!("{byte:02x}")).join(":");
            from.ip(&format!("neigh replace {addr} lladdr {mac} dev eth0"));
            let pong = ping(from, *addr, if may { Echo::default() } else { brief() });
            assert_eq!(pong.is_reply(), may, "{way}, knowing its MAC: {pong:?}");
            from.ip(&format!("neigh del {addr} dev eth0"));
            from.ip(&format!("route add {addr}/32 via {GATEWAY}"));
            let pong = ping(from, *addr, if may { Echo::default() } else { brief() });
            assert_eq!(pong.is_reply(), may, "{way}, by the gateway: {pong:?}");
            from.ip(&format!("route del {addr}/32 via {GATEWAY}"));
        }
    }
}

/// What isolation does not change: the outside, the host, and what is published.
#[track_caller]
fn reaches_the_rest(host: &Host, when: &str) {
    let all = all(host);
    let _servers =
        [("ns1", 80), ("ns2", 80)].map(|(ns, port)| TcpServer::start(&host.ns(ns), port));
    let _outside = TcpServer::start(host.outside(), 443);
    for (ns, addr) in &all {
        let way = format!("{when}: {}", ns.name());
        assert!(ping(ns, OUTSIDE, Echo::default()).is_reply(), "{way}");
        assert!(ping(ns, GATEWAY, Echo::default()).is_reply(), "{way}");
        assert!(ping(host.netns(), *addr, Echo::default()).is_reply(), "{way}");
        let mut out = connect(ns, at(OUTSIDE, 443)).unwrap_or_else(|e| panic!("{way}: {e}"));
        out.echo(&sample(5_000)).unwrap_or_else(|e| panic!("{way}: {e}"));
    }
    // Everybody, each other and themselves included.
    let clients = all.iter().map(|(ns, _)| ns).chain([host.outside(), host.netns()]);
    for client in clients {
        for port in [8080, 8082] {
            let way = format!("{when}: {} to port {port}", client.name());
            let mut stream =
                connect(client, at(UPLINK, port)).unwrap_or_else(|e| panic!("{way}: {e}"));
            stream.echo(&sample(5_000)).unwrap_or_else(|e| panic!("{way}: {e}"));
        }
    }
}

#[test]
fn isolated_namespaces_reach_everybody_but_each_other() {
    for (datapath, judged) in [("ebpf", "1"), ("ebpf", "0"), ("iptables", "1"), ("iptables", "0")] {
        let host = Host::new();
        let when = format!("{datapath}, judged {judged}");
        host.tune(JUDGES, judged);
        up(&host, datapath, ARGUMENTS).ok().says("+isolated");
        reach(&host, &[[0, 2]], &when);
        reaches_the_rest(&host, &when);
        up(&host, datapath, ARGUMENTS).ok().complains("nothing to do");
        let status = host.json("status");
        let network = &status["networks"][0];
        assert_eq!(network["state"], "up", "{when}: {status}");
        assert_eq!(network["isolate"], true, "{when}: {status}");
        assert_eq!(network["allow"], serde_json::json!([["ns1", "ns3"]]), "{when}: {status}");
        host.down();
    }
}

/// All of them, without rules of the bridge.
#[test]
fn without_allowed_pairs_nobody_reaches_anybody() {
    for (datapath, judged) in [("ebpf", "1"), ("iptables", "1"), ("iptables", "0")] {
        let host = Host::new();
        host.tune(JUDGES, judged);
        up(&host, datapath, "--namespaces 3 --isolate").ok();
        reach(&host, &[], &format!("{datapath}, judged {judged}"));
        let ports = host.ports_of_bridge("netbpf0");
        for port in &ports {
            let link = host.netns().link(port);
            assert_eq!(link["linkinfo"]["info_slave_data"]["isolated"], true, "{link}");
        }
        assert!(!firewall::rules(host.netns(), "nft list tables").contains("bridge"));
    }
}

/// A frame is counted as one that was not to get there, for who has sent it.
#[test]
fn what_is_dropped_is_counted() {
    let host = Host::new();
    host.up(ARGUMENTS);
    if reference::skipped("counters") {
        return;
    }
    let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
    let socket = FrameSocket::open(&ns2, "eth0");
    for count in 1..=3 {
        let frame = ethernet(ns1.mac("eth0"), ns2.mac("eth0"), ETHERTYPES[0], b"not to get there");
        socket.send(&frame).expect("send");
        host.wait_dropped("ns2", "isolated", count);
    }
    let packet = Ip::new(NS2, NS1, UDP).udp(1, 2, b"by the gateway");
    let gateway = host.netns().mac("netbpf0");
    socket.send(&ethernet(gateway, ns2.mac("eth0"), 0x0800, &packet)).expect("send");
    host.wait_dropped("ns2", "isolated", 4);
    assert_eq!(host.dropped("ns1", "isolated"), 0);
    host.netbpf("maps stats").ok().says("isolated=4");
}

/// The host's rules are asked about allowed pairs, and not about others.
#[test]
fn isolation_comes_before_the_hosts_own_rules() {
    for datapath in DATAPATHS {
        let host = Host::new();
        host.tune(JUDGES, "1");
        up(&host, datapath, &format!("{ARGUMENTS} --respect-netfilter")).ok();
        reach(&host, &[[0, 2]], datapath);
        reaches_the_rest(&host, datapath);
        firewall::rules(
            host.netns(),
            "iptables-nft -A FORWARD -s 172.19.0.2 -d 172.19.0.4 -j DROP",
        );
        assert_eq!(ping(&host.ns("ns1"), NS3, brief()), Pong::Silence, "{datapath}");
        firewall::rules(host.netns(), "iptables-nft -F FORWARD");
        host.netbpf("down").ok();
        firewall::nft(host.netns(), "flush ruleset");
        host.down();
    }
}

/// A file of a test's own, gone with it.
struct File(PathBuf);

impl File {
    fn new(test: &str) -> Self {
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("isolation-{test}.toml")))
    }

    /// Makes the file tell a network that is isolated, or not, and gives the arguments that
    /// name it.
    fn tell(&self, datapath: &str, more: &str) -> String {
        let text = format!(
            "datapath = {datapath:?}\nuplink = [\"up0\"]\nns = [\"ns1\", \"ns2\", \"ns3\"]\n\
             publish = [\"8080:ns1:80\", \"8082:ns2:80\"]\n{more}\n"
        );
        fs::write(&self.0, text).unwrap_or_else(|e| panic!("{}: {e}", self.0.display()));
        format!("-f {}", self.0.display())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // If it was never written, there is none.
        let _ = fs::remove_file(&self.0);
    }
}

/// Namespaces, and pairs of them that are allowed.
type Asked = (&'static str, &'static [[usize; 2]]);

const EVERYBODY: Asked = ("", &[[0, 1], [0, 2], [1, 2]]);
const NOBODY: Asked = ("isolate = true", &[]);
const ONE_PAIR: Asked = ("isolate = true\nallow = [\"ns1:ns2\"]", &[[0, 1]]);
const TWO_PAIRS: Asked = (
    "isolate = true\n[[allow]]\nbetween = [\"ns2\", \"ns3\"]\n[[allow]]\nbetween = [\"ns2\", \"ns1\"]",
    &[[0, 1], [1, 2]],
);
const ANOTHER: Asked = ("isolate = true\nallow = [\"ns3:ns1\"]", &[[0, 2]]);

#[test]
fn isolation_changes_while_the_network_runs_and_its_flows_go_on() {
    for (datapath, judged) in [("ebpf", "0"), ("iptables", "1"), ("iptables", "0")] {
        let host = Host::new();
        host.tune(JUDGES, judged);
        let file = File::new(&format!("change-{datapath}-{judged}"));
        host.netbpf(&format!("up {}", file.tell(datapath, ""))).ok();
        let server = TcpServer::start(host.outside(), 0);
        let _published = TcpServer::start(&host.ns("ns1"), 80);
        let mut streams = [
            connect(&host.ns("ns2"), at(OUTSIDE, server.port())).expect("outwards"),
            connect(host.outside(), at(UPLINK, 8080)).expect("a published port"),
            connect(&host.ns("ns2"), at(UPLINK, 8080)).expect("by the host's address"),
        ];
        for (more, allowed) in [NOBODY, ONE_PAIR, TWO_PAIRS, ANOTHER, NOBODY, EVERYBODY, ANOTHER] {
            let when = format!("{datapath}, judged {judged}, {more:?}");
            let arguments = file.tell(datapath, more);
            let plan = host.netbpf(&format!("plan {arguments}")).exits(3);
            let tells = ["isolated", "netbpf0 forwards nothing"].map(|it| plan.stdout.contains(it));
            assert!(tells.contains(&true), "{when}: {plan}");
            host.netbpf(&format!("up {arguments}")).ok().complains("0 flows ended");
            host.netbpf(&format!("plan {arguments}")).ok();
            reach(&host, allowed, &when);
            for stream in &mut streams {
                stream.echo(&sample(5_000)).unwrap_or_else(|e| panic!("{when}: {e}"));
            }
        }
        drop(streams);
        // A namespace takes its pairs along.
        host.netbpf("ns rm ns3").ok();
        assert_eq!(host.json("status")["networks"][0]["allow"], serde_json::json!([]));
        host.netbpf("ns add ns3").ok();
        reach(&host, &[], datapath);
    }
}

/// A change that fails leaves everybody as near to each other as they were.
#[test]
fn failing_or_killed_at_any_step_a_change_of_isolation_is_one_or_the_other() {
    for datapath in DATAPATHS {
        let host = Host::new();
        host.tune(JUDGES, "1");
        let [first, second] =
            ["first", "second"].map(|which| File::new(&format!("{which}-{datapath}")));
        let first = first.tell(datapath, ONE_PAIR.0);
        let wanted = second.tell(datapath, ANOTHER.0);
        let back = || host.netbpf(&format!("up {first}")).ok();
        back();
        for fault in ["fail", "kill"] {
            with_each_fault(&host, &format!("up {wanted}"), fault, |step, outcome| {
                let when = format!("{datapath}, {fault} at step {step}: {outcome}");
                if fault == "fail" {
                    host.netbpf(&format!("plan {first}")).ok();
                }
                back();
                let ns = all(&host);
                assert!(ping(&ns[0].0, NS2, Echo::default()).is_reply(), "{when}");
                assert!(!ping(&ns[0].0, NS3, brief()).is_reply(), "{when}");
            });
            reach(&host, ANOTHER.1, datapath);
            back();
        }
    }
}

#[test]
fn killed_at_any_step_an_isolated_network_leaves_nothing_that_down_does_not_remove() {
    for datapath in DATAPATHS {
        let host = Host::new();
        host.tune(JUDGES, "1");
        let arguments = format!("up --datapath {datapath} --uplink up0 {ARGUMENTS}");
        with_each_fault(&host, &arguments, "kill", |step, _| {
            host.netbpf("down --all").ok();
            eprintln!("{datapath}, killed before step {step}:");
            assert!(firewall::rules(host.netns(), "nft list ruleset").is_empty(), "{step}");
        });
        host.down();
    }
}

#[test]
fn what_others_have_changed_is_seen_and_mended() {
    for datapath in DATAPATHS {
        let host = Host::new();
        // So that of both datapaths the second port is isolated by itself, and no other.
        host.tune(JUDGES, "0");
        up(&host, datapath, ARGUMENTS).ok();
        for (damage, amiss) in [
            ("bridge link set dev netbpf0-2 isolated off", "isolation off, should be on"),
            ("bridge link set dev netbpf0-1 isolated on", "isolation on, should be off"),
            ("nft delete table bridge NETBPF-netbpf0/apart", "rules about isolated namespaces"),
        ] {
            firewall::rules(host.netns(), damage);
            let plan = format!("plan --datapath {datapath} --uplink up0 {ARGUMENTS}");
            host.netbpf(&plan).exits(3);
            host.netbpf("check").exits(3).says(amiss);
            assert_eq!(host.json("status")["networks"][0]["state"], "incomplete", "{damage}");
            host.netbpf("up").ok();
            host.netbpf("check").ok();
            host.netbpf(&plan).ok();
            reach(&host, &[[0, 2]], &format!("{datapath}, after {damage}"));
        }
    }
}

/// A table had another name once.
#[test]
fn a_table_of_an_older_netbpf_goes_as_well() {
    let host = Host::new();
    up(&host, "ebpf", ARGUMENTS).ok();
    let older = "NETBPF-netbpf0-apart";
    let nft = |command: &str| drop(firewall::rules(host.netns(), command));
    nft(&format!("nft add table bridge {older}"));
    nft(&format!("nft add chain bridge {older} forward-0123456789abcdef"));
    nft("nft delete table bridge NETBPF-netbpf0/apart");
    host.netbpf("check").exits(3).says("rules about isolated namespaces");
    host.netbpf("up").ok();
    let rules = firewall::rules(host.netns(), "nft list ruleset");
    assert!(rules.contains("NETBPF-netbpf0/apart"), "{rules}");
    assert!(!rules.contains(older), "{rules}");
    nft(&format!("nft add table bridge {older}"));
    nft(&format!("nft add chain bridge {older} forward-0123456789abcdef"));
    host.netbpf("down --all").ok();
    assert!(firewall::rules(host.netns(), "nft list ruleset").is_empty());
    host.assert_as_before();
}

#[test]
fn a_switch_of_datapaths_keeps_namespaces_apart() {
    let host = Host::new();
    host.tune(JUDGES, "1");
    up(&host, "ebpf", ARGUMENTS).ok();
    for datapath in ["iptables", "ebpf", "iptables"] {
        host.netbpf(&format!("switch netbpf0 --datapath {datapath}")).ok();
        host.netbpf(&format!("plan --datapath {datapath} --uplink up0 {ARGUMENTS}")).ok();
        reach(&host, &[[0, 2]], datapath);
        reaches_the_rest(&host, datapath);
    }
}

/// Each network for itself: other networks of the host are outside.
#[test]
fn another_network_of_the_host_is_no_part_of_it() {
    let host = Host::new();
    up(&host, "ebpf", ARGUMENTS).ok();
    let other = "--name other --subnet 172.20.0.0/24 --ns a --ns b";
    up(&host, "ebpf", other).ok();
    let (a, b) = (host.ns("a"), host.ns("b"));
    let server = UdpServer::start(&b, 53);
    UdpClient::new(&a).exchange(at(Ipv4Addr::new(172, 20, 0, 3), 53), b"beside an isolated one");
    wait::until_true("it was served", || server.peers().len() == 1);
    reach(&host, &[[0, 2]], "beside another network");
    host.netbpf("down other").ok();
    reach(&host, &[[0, 2]], "after another network");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let host = Host::new();
    for (arguments, what) in [
        ("--namespaces 2 --allow ns1:ns2", "--allow is of no use without --isolate"),
        ("--namespaces 2 --isolate --allow ns1:ns9", "the network has no namespace ns9"),
        ("--namespaces 2 --isolate --allow ns1", "invalid pair \"ns1\""),
        ("--namespaces 2 --isolate --allow ns1:ns1", "a namespace reaches itself"),
        ("--direct --namespaces 2 --isolate", "--isolate cannot be used with --direct"),
    ] {
        host.netbpf(&format!("up {arguments}")).exits(2).complains(what);
    }
    host.assert_as_before();
}
