//! What people and other programs do to a network behind netbpf's back: `check` names it,
//! `up` mends it.

use crate::{
    Host, NS2, OUTSIDE, Outcome, UPLINK, at,
    traffic::{Echo, TcpClient, TcpServer, connect, ping},
};

/// Both datapaths.
pub const DATAPATHS: [&str; 2] = ["ebpf", "iptables"];

/// The network that is damaged.
const NETWORK: &str = "--namespaces 2 -p 8080:ns1:80 -p 8081:ns2:80";

/// Something that is done, and what is then found.
pub struct Damage {
    /// What is not there any more, or another.
    pub what: &'static str,
    /// How that came about.
    pub by: fn(&Host),
    /// What is found, and what is amiss with it; a beginning of that is enough.
    pub found: &'static [(&'static str, &'static str)],
}

/// What `netbpf check` has found, each with what is amiss; which is told by its exit code.
#[track_caller]
pub fn check(host: &Host) -> Vec<(String, String)> {
    let outcome = host.netbpf("check -o json");
    let answer = outcome.json();
    let findings = answer["findings"].as_array().expect("a list").clone();
    outcome.exits(if findings.is_empty() { 0 } else { 3 });
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    findings.iter().map(|one| (text(&one["thing"]), text(&one["amiss"]))).collect()
}

/// Panics unless just these are found.
#[track_caller]
pub fn finds(host: &Host, when: &str, expected: &[(&str, &str)]) {
    let found = check(host);
    let is_it = |(thing, amiss): &(&str, &str), (is, what): &(String, String)| {
        thing == is && what.starts_with(amiss)
    };
    let all = expected.iter().all(|one| found.iter().any(|other| is_it(one, other)));
    assert!(all && found.len() == expected.len(), "{when}: {found:#?}, not {expected:#?}");
}

/// The connections of a namespace that nothing has happened to, each way.
struct Others {
    _servers: [TcpServer; 2],
    published: TcpClient,
    outwards: TcpClient,
}

impl Others {
    fn open(host: &Host) -> Self {
        let ns2 = host.ns("ns2");
        let servers = [TcpServer::start(&ns2, 80), TcpServer::start(host.outside(), 0)];
        let outside = at(OUTSIDE, servers[1].port());
        Self {
            published: connect(host.outside(), at(UPLINK, 8081)).expect("a published port"),
            outwards: connect(&ns2, outside).expect("outwards"),
            _servers: servers,
        }
    }

    /// They are left at rest: where the uplink has no programs, the host itself answers an
    /// acknowledgement of theirs, and resets the connection.
    #[track_caller]
    fn go_on(&mut self, when: &str) {
        for client in [&mut self.published, &mut self.outwards] {
            let echo = client.echo(when.as_bytes()).and_then(|()| client.acknowledge());
            echo.unwrap_or_else(|e| panic!("{when}: {e}"));
        }
    }
}

/// The network that is damaged, whole.
pub fn network(datapath: &str) -> Host {
    let host = Host::new();
    host.netbpf(&format!("up --uplink up0 --datapath {datapath} {NETWORK}")).ok();
    host
}

/// Panics unless everything works that the network is for.
#[track_caller]
pub fn works(host: &Host, when: &str) {
    let ns1 = host.ns("ns1");
    for to in [OUTSIDE, NS2] {
        assert!(ping(&ns1, to, Echo::default()).is_reply(), "{when}: ping {to}");
    }
    let _server = TcpServer::start(&ns1, 80);
    let mut client = connect(host.outside(), at(UPLINK, 8080)).expect("the published port");
    client.echo(when.as_bytes()).unwrap_or_else(|e| panic!("{when}: {e}"));
}

/// Damages a network in each way in turn: each is found, nothing else, and mended;
/// meanwhile the connections of `ns2` go on.
#[track_caller]
pub fn found_and_mended(datapath: &str, damages: &[Damage]) -> Host {
    let host = network(datapath);
    finds(&host, datapath, &[]);
    let mut others = Others::open(&host);
    for Damage { what, by, found } in damages {
        let when = format!("{datapath}, {what}");
        by(&host);
        finds(&host, &when, found);
        let mended = mend(&host);
        finds(&host, &format!("{when}, then {mended}"), &[]);
        works(&host, &when);
        others.go_on(&when);
    }
    drop(others);
    host
}

/// Has `up` mend the network.
#[track_caller]
pub fn mend(host: &Host) -> Outcome {
    host.netbpf("up").ok()
}
