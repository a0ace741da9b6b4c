//! What the host's firewall would have filtered: `up` and `status` say so, and
//! looking changes nothing.

use netbpf_tests::{
    Host,
    firewall::{self, rules},
    nft,
};

/// The warnings that `up` and `status` give, which must be the same.
#[track_caller]
fn warnings(host: &Host) -> Vec<String> {
    let before = firewall::dump(host.netns());
    let lines = |stderr: &str| -> Vec<String> {
        let lines = stderr.lines().filter_map(|line| line.strip_prefix("warning: "));
        lines.map(str::to_owned).collect()
    };
    let up = lines(&host.up("--namespaces 2").stderr);
    assert_eq!(lines(&host.netbpf("status").ok().stderr), up);
    let json = host.json("status");
    let array = json["warnings"].as_array().expect("an array of warnings");
    assert_eq!(array.iter().map(|text| text.as_str().expect("text")).collect::<Vec<_>>(), up);
    assert_eq!(firewall::dump(host.netns()), before);
    host.netbpf("down").ok();
    up
}

/// There is one warning, and it says all of it.
#[track_caller]
fn assert_warns(host: &Host, texts: &[&str]) {
    let warnings = warnings(host);
    let [warning] = &warnings[..] else { panic!("not one warning: {warnings:#?}") };
    for text in texts.iter().chain(&["the fast path goes past it"]) {
        assert!(warning.contains(text), "{text:?} is not in {warning:?}");
    }
}

/// No firewall, no warning, and none of its tables afterwards.
#[test]
fn without_a_firewall_nothing_is_said() {
    let host = Host::new();
    assert!(warnings(&host).is_empty());
    assert!(nft::tables(host.netns()).is_empty());
}

const ALL_WAYS: &str = "packets of netbpf0 to up0, from up0, between its namespaces";

fn with_iptables(iptables: &str, table: &str, rule: &str) {
    let host = Host::new();
    let iptables = |arguments: &str| rules(host.netns(), &format!("{iptables} {arguments}"));
    let chain = format!("chain FORWARD of table {table} ");
    iptables("-P FORWARD DROP");
    assert_warns(&host, &[&chain, "(policy drop) would drop", ALL_WAYS]);
    iptables("-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT");
    assert_warns(&host, &["policy drop", "but for those that its rules accept before"]);
    // What is about other interfaces is nobody's business here.
    iptables("-P FORWARD ACCEPT");
    iptables("-A FORWARD -i docker0 ! -o docker0 -j DROP");
    iptables("-A FORWARD -i br+ -j REJECT");
    assert_eq!(warnings(&host), Vec::<String>::new());
    // What may be met, behind a jump.
    iptables("-N USER");
    iptables("-A FORWARD -i netbpf0 -j USER");
    iptables("-A USER -p tcp --dport 25 -j REJECT");
    let listing =
        if table.starts_with("ip ") { "nft -a list" } else { "iptables-legacy -t filter" };
    assert_warns(
        &host,
        &[&chain, "may drop", "to up0, between its namespaces by", rule, listing, "of USER"],
    );
    // What is met by all.
    iptables("-A FORWARD -o up0 -j DROP");
    let warnings = warnings(&host);
    assert!(warnings[0].contains("drop by rule"), "{warnings:#?}");
    assert!(warnings[0].contains("packets of netbpf0 to up0, but for"), "{warnings:#?}");
    // Accepted before.
    iptables("-F");
    iptables("-P FORWARD DROP");
    iptables("-A FORWARD -i netbpf0 -j ACCEPT");
    iptables("-A FORWARD -o netbpf0 -j ACCEPT");
    assert_eq!(self::warnings(&host), Vec::<String>::new());
    host.netbpf("down").ok();
    nft::flush(host.netns());
    host.forget();
}

#[test]
fn rules_of_iptables() {
    with_iptables("iptables-nft", "ip filter", "rule ");
}

#[test]
fn rules_of_the_older_iptables() {
    with_iptables("iptables-legacy", "filter of iptables-legacy", "rule 1 of USER");
}

#[test]
fn rules_of_nft() {
    let host = Host::new();
    let table = |rules: &str| {
        let chain = format!("chain f {{ type filter hook forward priority 5; {rules}; }}");
        let text = format!("flush ruleset; table inet guard {{ {chain}; }}");
        firewall::nft(host.netns(), &text);
    };
    let chain = "chain f of table inet guard ";
    table("policy drop");
    assert_warns(&host, &[chain, "(policy drop) would drop", ALL_WAYS]);
    table("counter reject with icmpx admin-prohibited");
    assert_warns(&host, &[chain, "(reject by rule ", " of f) would drop", ALL_WAYS]);
    table("ip saddr 10.0.0.0/8 drop; iifname \"lo\" drop");
    assert_warns(&host, &[chain, "may drop", ALL_WAYS, "(rule ", "nft -a list table inet guard"]);
    table("ct state vmap { invalid : drop }");
    assert_warns(&host, &[chain, "may drop", ALL_WAYS]);
    table("oif \"up0\" drop");
    assert_warns(&host, &[chain, "(drop by rule ", "packets of netbpf0 to up0:"]);
    for others in [
        "meta nfproto ipv6 drop",
        "iifname { \"docker0\", \"br0\" } accept",
        "iifname \"docker0\" drop",
        "iifname != \"up0\" iifname != \"netbpf0\" drop",
        "meta mark set 0x1 counter log",
        "policy drop; accept",
    ] {
        table(others);
        assert_eq!(warnings(&host), Vec::<String>::new(), "{others}");
    }
    // Not what is forwarded, and not IPv4.
    firewall::nft(
        host.netns(),
        "flush ruleset; table inet guard { chain i { type filter hook input priority 0; policy \
         drop; }; }; table ip6 guard { chain f { type filter hook forward priority 0; policy \
         drop; }; }; table bridge guard { chain f { type filter hook forward priority 0; policy \
         drop; }; }",
    );
    assert_eq!(warnings(&host), Vec::<String>::new());
    firewall::nft(host.netns(), "flush ruleset");
}

/// firewalld's own rules: it refuses all that its zones do not allow.
#[test]
fn rules_of_firewalld() {
    let host = Host::new();
    let firewalld = firewall::Firewalld::start(host.netns());
    assert_warns(
        &host,
        &[
            "chain filter_FORWARD of table inet firewalld (reject by rule ",
            ALL_WAYS,
            "but for those that its rules accept before",
        ],
    );
    drop(firewalld);
    firewall::nft(host.netns(), "flush ruleset");
}
