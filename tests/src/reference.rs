//! The reference: the same network, built as everybody builds it, out of the
//! kernel's bridge, routes and iptables.
//!
//! With `NETBPF_REFERENCE=iptables` in the environment, [`Host::up`](crate::Host::up)
//! does not call netbpf but builds this. What a test demands of netbpf it then
//! demands of Linux's own NAT: so a test that is wrong is found before the
//! datapath is blamed, and every difference between the two has to be written
//! down in the test. What only netbpf has (counters, drop reasons) is left out
//! by [`skipped`], which says so.

use crate::{Netns, finish};
use std::{env, net::Ipv4Addr};

/// Whether hosts are built with iptables instead of netbpf.
pub fn enabled() -> bool {
    match env::var("NETBPF_REFERENCE") {
        Ok(kind) if kind == "iptables" => true,
        Ok(kind) => panic!("NETBPF_REFERENCE={kind}: there is only iptables"),
        Err(_) => false,
    }
}

/// Whether something that only netbpf has is to be left out; says what.
pub fn skipped(what: &str) -> bool {
    if enabled() {
        eprintln!("not judged under the reference: {what}");
    }
    enabled()
}

const BRIDGE: &str = "netbpf0";
const SUBNET: &str = "172.19.0.0/24";

/// What of netbpf's command line a classical network can be built from.
#[derive(Debug)]
struct Request {
    namespaces: u8,
    uplinks: Vec<String>,
    mtu: Option<String>,
    published: Vec<Published>,
}

impl Request {
    fn parse(arguments: &str) -> Self {
        let mut request =
            Self { namespaces: 1, uplinks: Vec::new(), mtu: None, published: Vec::new() };
        let mut words = arguments.split_whitespace();
        while let Some(option) = words.next() {
            let value = words.next().unwrap_or_else(|| panic!("{option} without a value"));
            match option {
                "--namespaces" => request.namespaces = value.parse().expect("a number"),
                "--uplink" => request.uplinks.push(value.to_owned()),
                "--mtu" => request.mtu = Some(value.to_owned()),
                "-p" => request.published.push(Published::parse(value)),
                // netbpf's own affairs, which change nothing on the wire.
                "--max-flows" | "--log-level" => {}
                other => panic!("the reference does not know {other}"),
            }
        }
        request
    }
}

/// `[HOSTIP:]PORTS:[NS:]PORTS[/PROTO]`.
#[derive(Debug, PartialEq, Eq)]
struct Published {
    host: Option<Ipv4Addr>,
    ports: (u16, u16),
    ns: u8,
    first: u16,
    proto: String,
}

impl Published {
    fn parse(text: &str) -> Self {
        let (rest, proto) = text.split_once('/').unwrap_or((text, "tcp"));
        let mut fields: Vec<&str> = rest.split(':').collect();
        let host = fields[0].parse().ok();
        if host.is_some() {
            fields.remove(0);
        }
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let port = |text: &str| -> u16 { text.parse().expect("a port") };
            (port(first), port(last))
        };
        let (ports, ns, inside) = match fields[..] {
            [ports, inside] => (ports, "ns1", inside),
            [ports, ns, inside] => (ports, ns, inside),
            _ => panic!("cannot publish {text}"),
        };
        let ns = ns.strip_prefix("ns").and_then(|n| n.parse().ok());
        Self {
            host,
            ports: range(ports),
            ns: ns.expect("a namespace's name"),
            first: range(inside).0,
            proto: proto.to_owned(),
        }
    }

    /// The rule that leads packets for `host` to the namespace.
    fn rule(&self, chain: &str, host: Ipv4Addr) -> String {
        let Self { ports: (first, last), ns, first: inside, proto, .. } = self;
        let (addr, inside_last) = (address(*ns), inside + (last - first));
        format!(
            "-t nat -A {chain} -p {proto} -d {host} --dport {first}:{last} \
             -j DNAT --to-destination {addr}:{inside}-{inside_last}/{first}"
        )
    }
}

/// Address of the namespace of this number; 0 is the gateway.
fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 19, 0, 1 + number)
}

/// The MACs are those that netbpf gives.
fn mac(number: u8) -> String {
    format!("02:6e:ac:13:00:{:02x}", 1 + number)
}

/// What `netbpf up ARGUMENTS` makes, made classically in `host`.
pub(crate) fn up(host: &Netns, arguments: &str) {
    let request = Request::parse(arguments);
    build_bridge(host, &request);
    let uplinks: Vec<(&str, Ipv4Addr)> =
        request.uplinks.iter().map(|name| (name.as_str(), first_address(host, name))).collect();
    translate(host, &uplinks, &request.published);
}

fn build_bridge(host: &Netns, request: &Request) {
    let mtu = request.mtu.clone().unwrap_or_else(|| match request.uplinks.first() {
        Some(uplink) => host.link(uplink)["mtu"].to_string(),
        None => "1500".into(),
    });
    let gateway = address(0);
    host.sysctl("net/ipv4/ip_forward", "1");
    // Otherwise what is bridged passes the rules for what is routed.
    host.sysctl("net/bridge/bridge-nf-call-iptables", "0");
    host.ip(&format!("link add {BRIDGE} address {} mtu {mtu} type bridge", mac(0)));
    host.ip(&format!("addr add {gateway}/24 dev {BRIDGE}"));
    // The classical guard against forged sources.
    host.sysctl(&format!("net/ipv4/conf/{BRIDGE}/rp_filter"), "1");
    host.ip(&format!("link set {BRIDGE} up"));
    for number in 1..=request.namespaces {
        let (name, port) = (format!("ns{number}"), format!("{BRIDGE}-{number}"));
        let ns = Netns::create(host.sandbox(), &name);
        host.ip(&format!(
            "link add {port} master {BRIDGE} mtu {mtu} up type veth \
             peer name eth0 netns {name} address {} mtu {mtu}",
            mac(number)
        ));
        ns.ip(&format!("addr add {}/24 dev eth0", address(number)));
        ns.ip("link set eth0 up");
        ns.ip(&format!("route add default via {gateway}"));
        ns.wait_up("eth0");
    }
    if request.namespaces > 0 {
        host.wait_up(BRIDGE);
    }
}

fn translate(host: &Netns, uplinks: &[(&str, Ipv4Addr)], published: &[Published]) {
    let mut rules: Vec<String> = Vec::new();
    for (uplink, addr) in uplinks {
        rules.push(format!("-t nat -A POSTROUTING -s {SUBNET} -o {uplink} -j MASQUERADE"));
        // Hairpinned: by the outside address, as from outside.
        rules.push(format!(
            "-t nat -A POSTROUTING -s {SUBNET} -d {SUBNET} -o {BRIDGE} \
             -m conntrack --ctstate DNAT --ctorigdst {addr} -j SNAT --to-source {addr}"
        ));
        // What belongs to no connection would leave as it is, or get in.
        rules.push(format!("-A FORWARD -o {uplink} -m conntrack --ctstate INVALID -j DROP"));
        for state in ["ESTABLISHED,RELATED", "DNAT"] {
            rules.push(format!(
                "-A FORWARD -i {uplink} -d {SUBNET} -m conntrack --ctstate {state} -j ACCEPT"
            ));
        }
        for chain in ["FORWARD", "INPUT"] {
            rules.push(format!("-A {chain} -i {uplink} -d {SUBNET} -j DROP"));
        }
    }
    // From 127.0.0.1, which no other machine can answer.
    rules.push(format!("-t nat -A POSTROUTING -s 127.0.0.0/8 -o {BRIDGE} -j MASQUERADE"));
    host.sysctl(&format!("net/ipv4/conf/{BRIDGE}/route_localnet"), "1");
    rules.push("-t raw -A PREROUTING ! -i lo -d 127.0.0.0/8 -j DROP".into());
    for publish in published {
        let on: Vec<Ipv4Addr> = match publish.host {
            Some(addr) => vec![addr],
            None => uplinks.iter().map(|(_, addr)| *addr).chain([Ipv4Addr::LOCALHOST]).collect(),
        };
        for addr in on {
            rules.push(publish.rule("PREROUTING", addr));
            rules.push(publish.rule("OUTPUT", addr));
        }
    }
    for rule in rules {
        finish(host.command("iptables").arg("-w").args(rule.split_whitespace())).ok();
    }
}

fn first_address(host: &Netns, interface: &str) -> Ipv4Addr {
    let links = host.ip_json("ip", &format!("-4 addr show dev {interface}"));
    let text = links[0]["addr_info"][0]["local"].as_str();
    text.and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("{interface} has no address: {links}"))
}

/// What `netbpf down` does: everything goes that [`up`] has made.
pub(crate) fn down(host: &Netns) {
    for name in host.sandbox().namespaces() {
        let number = name.strip_prefix("ns").unwrap_or_default();
        if number.parse::<u8>().is_ok() {
            host.ip(&format!("netns del {name}"));
        }
    }
    if host.links().iter().any(|link| link == BRIDGE) {
        host.ip(&format!("link del {BRIDGE}"));
    }
    for table in ["nat", "filter", "raw"] {
        finish(host.command("iptables").args(["-w", "-t", table, "-F"])).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_understood() {
        let publish = |host: Option<[u8; 4]>, ports, ns, first, proto: &str| Published {
            host: host.map(Ipv4Addr::from),
            ports,
            ns,
            first,
            proto: proto.to_owned(),
        };
        for (text, expected) in [
            ("8080:80", publish(None, (8080, 8080), 1, 80, "tcp")),
            ("8080:ns2:80/udp", publish(None, (8080, 8080), 2, 80, "udp")),
            ("127.0.0.1:90-99:ns3:70-79", publish(Some([127, 0, 0, 1]), (90, 99), 3, 70, "tcp")),
        ] {
            assert_eq!(Published::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_range_is_led_port_to_port() {
        let rule = Published::parse("9000-9010:ns2:7000-7010").rule("OUTPUT", address(0));
        assert!(
            rule.ends_with("--dport 9000:9010 -j DNAT --to-destination 172.19.0.3:7000-7010/9000")
        );
    }
}
