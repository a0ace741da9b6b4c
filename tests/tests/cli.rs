//! The command line: clear errors, exit codes, output for programs.

use netbpf_tests::{
    Host, Netns, OUTSIDE, binary, finish, interrupt, sample,
    traffic::{Echo, TcpServer, ping},
};
use nix::sys::signal::Signal::SIGINT;
use std::{io::Write as _, process::Stdio, time::Duration};

/// Runs a table of bad command lines: each must fail with one of the exit codes
/// for failures, say the word, give a hint, and change nothing.
#[track_caller]
fn assert_refused(host: &Host, table: &[(&str, &str)]) {
    let before = host.listing();
    for (arguments, word) in table {
        let outcome = host.netbpf(arguments);
        assert!(matches!(outcome.code, Some(1 | 2)), "{outcome}");
        assert!(outcome.stdout.is_empty(), "errors are not output: {outcome}");
        let stderr = outcome.stderr.to_lowercase();
        assert!(stderr.contains(&word.to_lowercase()), "{word:?} is not in {outcome}");
        let lines = stderr.lines().count();
        assert!((2..=8).contains(&lines), "what, why, what to do: {outcome}");
        assert!(!stderr.contains("panicked"), "{outcome}");
        let json = host.netbpf(&format!("{arguments} -o json"));
        assert_eq!(json.code, outcome.code, "{json}");
    }
    before.assert_same(&host.listing());
}

/// Requirements: 4787-7.
#[test]
fn bad_networks_are_refused() {
    let host = Host::new();
    host.netns().ip("link add down0 type veth peer name down1");
    host.netns().ip("route add 10.50.0.0/16 via 203.0.113.2");
    assert_refused(
        &host,
        &[
            ("up --namespaces 3 --subnet 172.19.0.0/30", "172.19.0.0/30"),
            ("up --namespaces 254 --subnet 172.19.0.0/24", "172.19.0.0/24"),
            ("up --namespaces 1 --subnet 172.19.0.1/24", "172.19.0.0/24"),
            ("up --namespaces 1 --subnet 172.19.0.0", "subnet"),
            ("up --namespaces 1 --subnet 172.19.0.0/33", "33"),
            ("up --namespaces 1 --subnet 0.0.0.0/0", "0.0.0.0/0"),
            ("up --namespaces 1 --subnet 127.0.0.0/24", "127.0.0.0"),
            ("up --namespaces 1 --subnet 224.0.0.0/24", "224.0.0.0"),
            ("up --namespaces 1 --subnet fd00::/64", "ipv6"),
            ("up --namespaces 1 --subnet 203.0.113.0/24", "up0"),
            ("up --namespaces 1 --subnet 203.0.113.128/25", "up0"),
            ("up --namespaces 1 --subnet 10.50.3.0/24", "10.50.0.0/16"),
            ("up --namespaces 1 --name sixteen-letters0", "sixteen-letters0"),
            ("up --namespaces 1 --name a/b", "a/b"),
            ("up --namespaces 1 --name up0", "up0"),
            ("up --namespaces 1 --uplink nosuch0", "nosuch0"),
            ("up --namespaces 1 --uplink down0", "down0"),
            ("up --namespaces 1 --uplink lo", "lo"),
            ("up --namespaces 1 --uplink up0 --uplink up0", "named twice"),
            ("up --namespaces 1 --uplink up0 --uplink nosuch0", "nosuch0"),
            ("up --namespaces 0", "0"),
            ("up --namespaces -1", "-1"),
            ("up --namespaces 100000", "100000"),
            ("up --namespaces many", "many"),
            ("up --namespaces 1 --mtu 10", "10"),
            ("up --namespaces 1 --mtu 99999999", "99999999"),
            ("up --ns a --ns a", "a"),
            ("up --ns a/b", "a/b"),
            ("up --ns ..", ".."),
            ("up --ns a=172.19.0.1", "172.19.0.1"),
            ("up --ns a=172.19.0.0", "172.19.0.0"),
            ("up --ns a=172.19.0.255", "172.19.0.255"),
            ("up --ns a=172.19.1.9", "172.19.1.9"),
            ("up --ns a=172.19.0.9 --ns b=172.19.0.9", "172.19.0.9"),
            ("up --ns a=nonsense", "nonsense"),
            ("up --ns a=172.19.0.9/01:00:00:00:00:01", "01:00:00:00:00:01"),
            ("up --ns a=172.19.0.9/00:00:00:00:00:00", "00:00:00:00:00:00"),
            ("up --ns a=172.19.0.9/02:00:00:00:01", "02:00:00:00:01"),
            ("up --namespaces 2 --ns a", "--ns"),
            ("up --ns host", "host"),
            ("up --namespaces 1 --max-flows 0", "max-flows"),
            ("up --namespaces 1 --max-flows 4000000000", "max-flows"),
            ("up --namespaces 1 --nonsense", "--nonsense"),
        ],
    );
    host.netns().ip("link del down0");
    host.netns().ip("route del 10.50.0.0/16");
}

#[test]
fn bad_publishes_are_refused() {
    let host = Host::new();
    let bad = [
        "",
        "80",
        ":80",
        "80:",
        "a:80",
        "80:ns1:b",
        "0:ns1:80",
        "80:ns1:0",
        "65536:ns1:80",
        "80:ns1:65536",
        "80:ns9:80",
        "80:ns1:80/sctp",
        "80:ns1:80/",
        "80-70:ns1:80-70",
        "80-90:ns1:80",
        "80:ns1:80-90",
        "80-90:ns1:80-91",
        "1.2.3:80:ns1:80",
        "1.2.3.4:80:ns1:80",
        "80:ns1:80:90:100",
        "[::1]:80:ns1:80",
        "-5:ns1:80",
        "+80:ns1:80",
        "80:172.19.0.200:80",
        "70000-70001:ns1:80-81",
    ];
    for spec in bad {
        let mut command = host.command("up --uplink up0 --namespaces 2");
        let outcome = finish(command.arg(format!("--publish={spec}")));
        assert_eq!(outcome.code, Some(2), "{spec:?}: {outcome}");
        assert!(outcome.stderr.contains(spec), "{spec:?}: {outcome}");
        assert!(outcome.stderr.lines().count() >= 2, "{spec:?}: {outcome}");
    }
    assert_refused(
        &host,
        &[
            ("up --namespaces 2 -p 80:ns1:80 -p 80:ns2:80", "80"),
            ("up --namespaces 2 -p 80-90:ns1:80-90 -p 85:ns2:80", "85"),
            ("up --namespaces 2 -p 203.0.113.1:80:ns1:80 -p 80:ns2:80", "80"),
            ("up --namespaces 2 -p 127.0.0.1:80:ns1:80 -p 80:ns2:80", "127.0.0.1:80->80/tcp"),
            ("up --namespaces 2 -p 203.0.113.9:80:ns1:80", "one of 127.0.0.1, 203.0.113.1,"),
        ],
    );
    host.assert_as_before();
}

#[test]
fn ports_are_published_on_what_the_host_has() {
    let host = Host::new();
    host.netns().ip("addr add 203.0.113.9/24 dev up0");
    let arguments = "--namespaces 1 -p 127.0.0.1:80:80 -p 127.8.9.1:80:80 -p 203.0.113.1:80:80 \
                     -p 203.0.113.9:80:81 -p 53:53/udp -p 53:53/tcp";
    host.up(arguments);
    let _theirs = TcpServer::start(host.netns(), 53);
    host.up(arguments).complains("listens on 0.0.0.0:53").complains("53->53/tcp");
    let published = host.netbpf("maps publish").ok();
    let published = published.says("127.0.0.1").says("127.8.9.1").says("203.0.113.9");
    assert_eq!(published.stdout.matches("0.0.0.0").count(), 2, "TCP and UDP: {published}");
    host.netbpf("down").ok();
    host.netns().ip("addr del 203.0.113.9/24 dev up0");
}

#[test]
fn names_that_are_taken_are_refused() {
    let host = Host::new();
    let theirs = Netns::create(host.sandbox(), "ns2");
    host.netns().ip("link add netbpf0 type bridge");
    assert_refused(
        &host,
        &[("up --namespaces 2 --name other", "ns2"), ("up --ns mine", "netbpf0")],
    );
    host.netns().ip("link del netbpf0");
    theirs.ip("netns del ns2");
    host.up("--namespaces 2");
    assert_refused(
        &host,
        &[
            ("up --name second --subnet 172.22.0.0/24 --namespaces 1", "ns1"),
            ("up --name second --ns-prefix x --namespaces 1", "172.19.0.0/24"),
            ("up --name second --subnet 172.19.0.128/25 --ns-prefix x --namespaces 1", "172.19.0"),
        ],
    );
}

#[test]
fn what_is_not_there_is_said_not_to_be_there() {
    let host = Host::new();
    assert_refused(
        &host,
        &[
            ("status nosuch", "nosuch"),
            ("exec nosuch -- true", "nosuch"),
            ("maps flows", "up"),
            ("maps nosuch", "nosuch"),
            ("nosuch", "nosuch"),
        ],
    );
    host.up("--namespaces 1");
    assert_refused(
        &host,
        &[
            ("status nosuch", "nosuch"),
            ("exec ns9 -- true", "ns9"),
            ("maps flows --ns ns9", "ns9"),
            ("maps flows --proto nonsense", "nonsense"),
            ("maps flows --port 70000", "70000"),
            ("maps flows --to 1.2.3", "1.2.3"),
        ],
    );
}

#[test]
fn exec_passes_the_childs_exit_code_and_streams_on() {
    let host = Host::new();
    host.up("--namespaces 1");
    let sh = |script: &str| finish(host.command("exec ns1 -- sh -c").arg(script));
    for code in [0, 1, 2, 3, 42, 255] {
        assert_eq!(sh(&format!("exit {code}")).code, Some(code));
    }
    let killed = sh("kill -TERM $$");
    assert!(killed.signal == Some(15) || killed.code == Some(128 + 15), "{killed}");
    assert_eq!(host.netbpf("exec ns1 -- /nonexistent/program").code, Some(127));
    assert_eq!(host.netbpf("exec ns1 -- /etc/passwd").code, Some(126));
    let said = sh("echo out; echo err >&2");
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("out\n", "err\n"));
    let inside = host.netbpf("exec ns1 -- ip -4 addr show dev eth0").ok();
    assert!(inside.stdout.contains("172.19.0.2/24"), "{inside}");
    host.netbpf("exec ns1 -- cat /proc/thread-self/net/dev").ok().says("eth0");
}

#[test]
fn exec_passes_input_on() {
    let host = Host::new();
    host.up("--namespaces 1");
    let mut command = host.command("exec ns1 -- wc -c");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("run netbpf");
    child.stdin.take().expect("piped").write_all(&sample(100_000)).expect("write");
    let output = child.wait_with_output().expect("wait for it");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "100000");
}

#[test]
fn without_privileges_it_says_so() {
    let host = Host::new();
    for verb in ["up --namespaces 1", "down", "exec ns1 -- true", "status", "maps flows"] {
        // Still user 0, but with no more power than anybody.
        let mut command = host.netns().command("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(binary());
        let outcome = finish(command.args(verb.split_whitespace())).exits(1);
        outcome.complains("root").complains("hint");
    }
    host.assert_as_before();
}

#[test]
fn help_teaches_by_example() {
    let host = Host::new();
    let mut without = Vec::new();
    for verb in [
        "",
        "up",
        "down",
        "status",
        "exec",
        "logs",
        "maps",
        "maps flows",
        "maps flows flush",
        "maps fdb",
        "maps endpoints",
        "maps publish",
        "maps stats",
    ] {
        let help = host.netbpf(&format!("{verb} --help")).ok();
        let example = format!("netbpf {verb}");
        // One of them is the usage line.
        if help.stdout.matches(example.trim_end()).count() < 2 {
            without.push(verb);
        }
    }
    assert!(without.is_empty(), "no example in the help of {without:?}");
    host.netbpf("--version").ok().says("netbpf 0.");
}

#[test]
fn json_is_json_and_carries_a_version() {
    let host = Host::new();
    let nothing = host.json("status");
    assert!(nothing["version"].is_number(), "{nothing}");
    let plan = host.json("up --uplink up0 --namespaces 1 --dry-run");
    assert!(plan["version"].is_number(), "{plan}");
    let made = host.json("up --uplink up0 --namespaces 2 -p 8080:ns1:80");
    assert!(made["version"].is_number(), "{made}");
    for verb in [
        "status",
        "status netbpf0",
        "maps",
        "maps flows",
        "maps fdb",
        "maps endpoints",
        "maps publish",
        "maps stats",
        "maps flows flush --all",
    ] {
        let answer = host.json(verb);
        assert!(answer["version"].is_number(), "{verb}: {answer}");
        assert_eq!(host.netbpf(&format!("-j {verb}")).ok().json()["version"], answer["version"]);
    }
    let error = host.netbpf("status nosuch -o json");
    let answer: serde_json::Value = serde_json::from_str(&error.stderr)
        .unwrap_or_else(|e| panic!("an error in JSON ({e}): {error}"));
    assert!(answer["error"].as_str().is_some_and(|text| text.contains("nosuch")), "{answer}");
    assert!(answer["hint"].is_string(), "{answer}");
    let gone = host.json("down");
    assert!(gone["version"].is_number(), "{gone}");
}

#[test]
fn watching_goes_on_until_ctrl_c() {
    let host = Host::new();
    host.up("--namespaces 2");
    for verb in ["maps stats --watch", "maps flows --watch"] {
        let watched = interrupt(&mut host.command(verb), Duration::from_millis(1500), SIGINT);
        assert!(watched.signal == Some(2) || matches!(watched.code, Some(0 | 130)), "{watched}");
        let tables = watched.stdout.matches(" NS").count();
        assert!(tables >= 2, "a table at once and another after a second: {watched}");
    }
}

#[test]
fn the_datapath_logs_when_asked_to() {
    let host = Host::new();
    host.up("--namespaces 1");
    let silent = host.netbpf("logs").exits(1);
    silent.complains("--log-level");
    host.netbpf("down").ok();
    host.up("--namespaces 1 --log-level trace");
    let ns1 = host.ns("ns1");
    assert!(ping(&ns1, OUTSIDE, Echo::default()).is_reply());
    host.netbpf("logs").ok().says("endpoint 1: out by");
    assert!(ping(&ns1, OUTSIDE, Echo::default()).is_reply());
    let records = host.netbpf("logs -o json").ok();
    for line in records.stdout.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect("JSON, line by line");
        assert!(record["version"].is_number(), "{record}");
    }
    assert!(records.stdout.lines().count() > 0, "each record is shown once");
}

#[test]
fn tables_have_stable_columns_and_no_colours_in_pipes() {
    let host = Host::new();
    host.up("--namespaces 2 -p 8080:ns1:80");
    for (verb, columns) in [
        ("status", &["NS", "IFACE", "MAC", "IPV4", "PORTS"][..]),
        (
            "maps flows",
            &[
                "PROTO", "ORIG-SRC", "ORIG-DST", "XLAT-SRC", "XLAT-DST", "STATE", "AGE", "EXPIRES",
                "PKTS", "BYTES", "NS", "UPLINK",
            ][..],
        ),
        ("maps fdb", &["MAC", "NS"][..]),
        ("maps endpoints", &["NS", "MAC"][..]),
        ("maps publish", &["PROTO", "NS"][..]),
    ] {
        let table = host.netbpf(verb).ok();
        for column in columns {
            assert!(table.stdout.contains(column), "{column} is not in {table}");
        }
        assert!(!table.stdout.contains('\x1b') && !table.stderr.contains('\x1b'), "{table}");
        let bare = host.netbpf(&format!("{verb} --no-headers")).ok();
        assert!(
            !bare.stdout.contains(columns[0])
                || bare.stdout.lines().count() < table.stdout.lines().count()
        );
    }
}
