//! What others do to the host's firewall: the network does not stand on it, and
//! leaves it alone.

use netbpf_tests::{
    Host, OUTSIDE, UPLINK, at,
    firewall::{self, Firewalld, rules},
    nft, sample,
    traffic::{TcpClient, TcpServer, UdpClient, UdpServer, connect},
};

/// Traffic of all sorts that runs while something is done to the firewall.
struct Traffic<'a> {
    host: &'a Host,
    running: [TcpClient; 3],
    client: UdpClient,
    _servers: (TcpServer, TcpServer, UdpServer),
}

impl<'a> Traffic<'a> {
    fn start(host: &'a Host) -> Self {
        let (ns1, ns2) = (host.ns("ns1"), host.ns("ns2"));
        let udp = UdpServer::start(host.outside(), 53);
        let servers = (TcpServer::start(&ns1, 80), TcpServer::start(host.outside(), 80), udp);
        let running = [
            connect(&ns1, at(OUTSIDE, 80)).expect("outwards"),
            connect(host.outside(), at(UPLINK, 8080)).expect("inwards"),
            connect(&ns2, at(UPLINK, 8080)).expect("hairpinned"),
        ];
        Self { host, running, client: UdpClient::new(&ns1), _servers: servers }
    }

    /// What runs goes on, and what is new begins.
    #[track_caller]
    fn assert_survives(&mut self, what: &str) {
        for connection in &mut self.running {
            connection.echo(&sample(20_000)).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        self.client.exchange(at(OUTSIDE, 53), what.as_bytes());
        let (ns1, ns2) = (self.host.ns("ns1"), self.host.ns("ns2"));
        let outside = self.host.outside();
        for (from, to) in
            [(&ns1, at(OUTSIDE, 80)), (outside, at(UPLINK, 8080)), (&ns2, at(UPLINK, 8080))]
        {
            let mut new = connect(from, to).unwrap_or_else(|e| panic!("{what}: {e}"));
            new.echo(b"hello").unwrap_or_else(|e| panic!("{what}: {e}"));
        }
    }
}

/// Rules come and go, tables are flushed, everything forwarded is refused; with
/// the given variant of iptables.
fn survives(iptables: &str) {
    let host = Host::new();
    let iptables = |arguments: &str| rules(host.netns(), &format!("{iptables} {arguments}"));
    for table in ["filter", "nat", "raw"] {
        iptables(&format!("-t {table} -P OUTPUT ACCEPT"));
    }
    let before = host.listing();
    host.up("--namespaces 2 -p 8080:ns1:80");
    let mut traffic = Traffic::start(&host);
    for arguments in [
        "-t nat -A POSTROUTING -o up0 -j MASQUERADE",
        "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
        "-A FORWARD -p tcp -j REJECT",
        "-P FORWARD DROP",
        "-F",
        "-t nat -F",
        "-P FORWARD ACCEPT",
        "-t raw -A PREROUTING -j NOTRACK",
        "-t raw -F",
    ] {
        iptables(arguments);
        traffic.assert_survives(arguments);
    }
    drop(traffic);
    host.netbpf("down").ok();
    // iptables leaves its tables behind, empty; the older variant's stay.
    before.assert_same(&host.listing());
    nft::flush(host.netns());
    host.forget();
}

/// Requirements: nat-18.
#[test]
fn rules_that_are_flushed_and_policies_that_refuse() {
    survives("iptables-nft");
}

/// Requirements: nat-18.
#[test]
fn rules_of_the_older_iptables_that_are_flushed_and_policies_that_refuse() {
    survives("iptables-legacy");
}

/// Requirements: nat-18.
#[test]
fn nft_flush_ruleset() {
    let host = Host::new();
    host.up("--namespaces 2 -p 8080:ns1:80");
    let mut traffic = Traffic::start(&host);
    for text in [
        "table inet guard { chain c { type filter hook forward priority 0; policy drop; }; }",
        "table ip masq { chain c { type nat hook postrouting priority 100; masquerade; }; }",
        "flush ruleset",
        "table inet guard { chain c { type filter hook forward priority 0; reject; }; }",
        "flush ruleset",
    ] {
        firewall::nft(host.netns(), text);
        traffic.assert_survives(text);
    }
}

/// firewalld itself, with the zones that its package brings: it refuses all that
/// is forwarded, at its start and when it is reloaded, completely or not.
///
/// Requirements: nat-18.
#[test]
fn a_firewalld_that_is_started_reloaded_and_stopped() {
    let host = Host::new();
    host.up("--namespaces 2 -p 8080:ns1:80");
    let mut traffic = Traffic::start(&host);
    let firewalld = Firewalld::start(host.netns());
    traffic.assert_survives("start");
    assert!(firewall::dump(host.netns()).contains("filter_FORWARD"));
    for option in ["--reload", "--complete-reload", "--panic-on", "--panic-off"] {
        firewalld.tell(option);
        traffic.assert_survives(option);
    }
    drop(firewalld);
    traffic.assert_survives("stop");
    // Killed, it leaves its rules behind.
    firewall::nft(host.netns(), "flush ruleset");
    traffic.assert_survives("flush ruleset");
}

/// The rules of others are byte for byte what they were: before `up`, after it,
/// and after `down`.
///
/// Requirements: nat-18.
#[test]
fn rule_sets_stay_byte_identical() {
    let host = Host::new();
    let firewalld = Firewalld::start(host.netns());
    for line in [
        "iptables-nft -P FORWARD DROP",
        "iptables-nft -A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
        "iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        "iptables-nft -t mangle -A PREROUTING -p tcp --syn -j TCPMSS --set-mss 1200",
        "iptables-legacy -P FORWARD DROP",
        "iptables-legacy -N MINE",
        "iptables-legacy -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j MINE",
        "iptables-legacy -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to 10.0.0.1:80",
    ] {
        rules(host.netns(), line);
    }
    let before = firewall::dump(host.netns());
    for expected in ["TCPMSS", "MINE", "docker0", "filter_FORWARD_ZONES"] {
        assert!(before.contains(expected), "{expected} is not in\n{before}");
    }
    host.up("--namespaces 2 -p 8080:ns1:80");
    assert_eq!(firewall::dump(host.netns()), before, "after up");
    {
        let mut traffic = Traffic::start(&host);
        traffic.assert_survives("all of them at once");
    }
    assert_eq!(firewall::dump(host.netns()), before, "after traffic");
    host.netbpf("down").ok();
    assert_eq!(firewall::dump(host.netns()), before, "after down");
    // `down` again, where there is nothing, changes nothing either.
    host.netbpf("down").ok();
    assert_eq!(firewall::dump(host.netns()), before, "after a second down");
    drop(firewalld);
    // The tables of the older iptables stay as long as the namespace.
    host.forget();
}
