//! What a client of RFC 5780 finds out about the translation.

use netbpf_tests::{Host, OUTSIDE, finish, wait};
use std::{
    net::Ipv4Addr,
    process::{Child, Stdio},
};

/// The server's second address: the client has to be able to tell from where answers come.
const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 3);
const PORT: u16 = 3478;

/// What the server writes.
const FILES: [&str; 2] = ["/run/turn.pid", "/run/turndb"];

/// coturn's server outside, on two addresses and two ports of each.
struct Server(Child);

impl Server {
    fn start(host: &Host) -> Self {
        let outside = host.outside();
        let mut command = outside.command("turnserver");
        command.args(["-n", "--stun-only", "--no-tls", "--no-dtls", "--no-cli"]);
        command.args(["--log-file=stdout", "--pidfile", FILES[0], "--userdb", FILES[1]]);
        for addr in [OUTSIDE, SECOND] {
            command.args(["-L", &addr.to_string()]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self(child.spawn().expect("start turnserver: Debian's package coturn"));
        for addr in [OUTSIDE, SECOND] {
            for port in [PORT, PORT + 1] {
                // Its UDP ports come up together with these.
                wait::until_true("the server listens", || {
                    outside.run(|| std::net::TcpStream::connect((addr, port))).is_ok()
                });
            }
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have died of itself, which its clients have noticed by then.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// As iptables MASQUERADE: mapping independent of the endpoint, filtering by
/// address and port, and nothing changed in what packets carry.
///
/// Requirements: nat-6, 4787-1, 4787-8, 4787-10.
#[test]
fn a_client_of_rfc_5780_finds_what_it_finds_of_masquerade() {
    let host = Host::new();
    host.outside().ip(&format!("addr add {SECOND}/24 dev out0"));
    host.up("--namespaces 2");
    let server = Server::start(&host);
    // The second one has the first in its way.
    for name in ["ns1", "ns2"] {
        let ns = host.ns(name);
        let addr = ns.ip_json("ip", "address show dev eth0")[0]["addr_info"][0]["local"].clone();
        let addr = addr.as_str().expect("an address").to_owned();
        let mut client = ns.command("turnutils_natdiscovery");
        client.args(["-m", "-f", "-L", &addr, "-l", "5000", "-p", &PORT.to_string()]);
        let said = finish(client.arg(OUTSIDE.to_string()));
        let said = said
            .says("NAT with Endpoint Independent Mapping!")
            .says("NAT with Address and Port Dependent Filtering!")
            .says("No ALG");
        let is_kept = [&said.stdout, &said.stderr]
            .iter()
            .any(|text| text.contains("UDP reflexive addr: 203.0.113.1:5000"));
        assert_eq!(is_kept, name == "ns1", "the port is kept where it is free: {said}");
    }
    drop(server);
    host.sandbox().run(|| FILES.map(|file| std::fs::remove_file(file).expect(file)));
    host.outside().ip(&format!("addr del {SECOND}/24 dev out0"));
}
