//! Published ports: Docker's syntax, with a namespace in the container's place.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use netbpf_common::proto;
use serde::{Deserialize, Serialize};

use super::NamespaceName;
use crate::{
    error::{Error, Result},
    net::{Listener, ctnetlink::Connection},
};

/// The syntax, as hints show it.
const SYNTAX: &str =
    "write [hostip:]hostport[-end]:[ns:]port[-end][/proto], for example -p 8080:ns1:80";

/// A protocol that has ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Proto {
    /// The IP protocol number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => proto::TCP,
            Self::Udp => proto::UDP,
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A range of ports, both ends in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Ports {
    /// The first one, at least 1.
    pub first: u16,
    /// The last one, not before the first.
    pub last: u16,
}

impl Ports {
    fn parse(text: &str) -> Result<Self, String> {
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
            match text.parse::<u16>() {
                Ok(0) => Err("port 0 is none".to_owned()),
                Ok(number) if digits => Ok(number),
                _ if digits => Err(format!("{text} is above 65535, the last port")),
                _ => Err(format!("{text:?} is no port")),
            }
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ports = Self { first: port(first)?, last: port(last)? };
        if ports.last < ports.first {
            return Err(format!("the range {text} ends before it begins"));
        }
        Ok(ports)
    }

    /// How many ports follow the first one.
    fn span(self) -> u16 {
        self.last - self.first
    }

    fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A `-p` as it was written: its target is not looked up yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishSpec {
    /// The host's address, if one is named.
    pub host_addr: Option<Ipv4Addr>,
    /// The ports on the host.
    pub host: Ports,
    /// The namespace's name or address, if one is named.
    pub target: Option<String>,
    /// The ports in the namespace: as many as on the host.
    pub inside: Ports,
    /// The protocol.
    pub proto: Proto,
    text: String,
}

impl PublishSpec {
    /// What is published, asked for as it is.
    #[must_use]
    pub fn of(publish: &Publish) -> Self {
        let Publish { proto, host_addr, host, namespace, inside } = publish;
        let on = host_addr.map_or(String::new(), |addr| format!("{addr}:"));
        Self {
            host_addr: *host_addr,
            host: *host,
            target: Some(namespace.to_string()),
            inside: *inside,
            proto: *proto,
            text: format!("{on}{host}:{namespace}:{inside}/{proto}"),
        }
    }

    /// A usage error about this `-p`.
    #[must_use]
    pub fn wrong(&self, why: impl fmt::Display) -> Error {
        Error::usage(format!("cannot publish {}", self.text)).because(why)
    }
}

/// Ports of the host, as far as they tell what is published there: an address, ports
/// and a protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostPorts {
    /// The host's address, if one is named.
    pub addr: Option<Ipv4Addr>,
    /// The ports.
    pub ports: Ports,
    /// The protocol.
    pub proto: Proto,
}

impl HostPorts {
    /// Whether that is what is published there.
    #[must_use]
    pub fn is_of(&self, spec: &PublishSpec) -> bool {
        (self.addr, self.ports, self.proto) == (spec.host_addr, spec.host, spec.proto)
    }
}

/// Reads `[hostip:]port[-end][/proto]`, or all of what was published.
impl FromStr for HostPorts {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (rest, proto) = text.split_once('/').map_or((text, ""), |(rest, proto)| (rest, proto));
        let slash = if proto.is_empty() { "" } else { "/" };
        // Where they lead makes no difference: to the same ports, whosesoever.
        let whole = match rest.split(':').collect::<Vec<_>>()[..] {
            [ports] => format!("{ports}:{ports}{slash}{proto}"),
            [addr, ports] if addr.contains('.') => format!("{addr}:{ports}:{ports}{slash}{proto}"),
            _ => text.to_owned(),
        };
        let spec: PublishSpec = whole.parse().map_err(|error: Error| {
            let why = error.why().unwrap_or_default().to_owned();
            Error::usage(format!("invalid ports {text:?}"))
                .because(why)
                .hint("write [hostip:]port[-end][/proto], for example 8080 or 53/udp")
        })?;
        Ok(Self { addr: spec.host_addr, ports: spec.host, proto: spec.proto })
    }
}

impl FromStr for PublishSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            |why: &str| Error::usage(format!("invalid publish {text:?}")).because(why).hint(SYNTAX);
        if text.contains('[') || text.contains("::") && !text.starts_with("::") {
            return Err(wrong("IPv6 addresses and empty parts are not supported"));
        }
        let (ports, proto) = match text.split_once('/') {
            None => (text, Proto::Tcp),
            Some((ports, "tcp")) => (ports, Proto::Tcp),
            Some((ports, "udp")) => (ports, Proto::Udp),
            Some((_, other)) => {
                return Err(wrong(&format!("the protocol {other:?} is neither tcp nor udp")));
            }
        };
        let parts: Vec<&str> = ports.split(':').collect();
        let (host_addr, host, target, inside) = match parts[..] {
            [host, inside] => (None, host, None, inside),
            // An address and a port range cannot be mistaken for each other.
            [addr, host, inside] if addr.contains('.') => (Some(addr), host, None, inside),
            [host, target, inside] => (None, host, Some(target), inside),
            [addr, host, target, inside] => (Some(addr), host, Some(target), inside),
            [_] => return Err(wrong("the port in the namespace is missing")),
            _ => return Err(wrong("it has too many parts")),
        };
        let host_addr = host_addr
            .map(|addr| {
                addr.parse::<Ipv4Addr>()
                    .map_err(|_| wrong(&format!("the host's address {addr:?} is no IPv4 address")))
            })
            .transpose()?
            .filter(|addr| !addr.is_unspecified());
        if target == Some("") {
            return Err(wrong("the namespace's name is empty"));
        }
        let host = Ports::parse(host).map_err(|why| wrong(&format!("on the host: {why}")))?;
        let inside =
            Ports::parse(inside).map_err(|why| wrong(&format!("in the namespace: {why}")))?;
        if host.span() != inside.span() {
            return Err(wrong(&format!(
                "{} ports on the host cannot lead to {} in the namespace",
                u32::from(host.span()) + 1,
                u32::from(inside.span()) + 1
            )));
        }
        Ok(Self {
            host_addr,
            host,
            target: target.map(str::to_owned),
            inside,
            proto,
            text: text.to_owned(),
        })
    }
}

/// A published range of ports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Publish {
    /// The protocol.
    pub proto: Proto,
    /// The host's address; nothing: all addresses of the uplink.
    pub host_addr: Option<Ipv4Addr>,
    /// The ports on the host.
    pub host: Ports,
    /// The namespace.
    pub namespace: NamespaceName,
    /// The ports in the namespace.
    pub inside: Ports,
}

impl Publish {
    /// Whether a packet could be for both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let same_addr = match (self.host_addr, other.host_addr) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        self.proto == other.proto && same_addr && self.host.overlaps(other.host)
    }

    /// Whether it has made a connection that the kernel tracks, `target` being the
    /// address of its namespace.
    #[must_use]
    pub fn made(&self, connection: &Connection, target: Ipv4Addr) -> bool {
        let Connection { proto, original, reply, .. } = connection;
        *proto == self.proto.number()
            && self.host_addr.is_none_or(|addr| addr == original.dst)
            && (self.host.first..=self.host.last).contains(&original.dst_port)
            && reply.src == target
            && original.dst != target
            && reply.src_port == self.inside.first + (original.dst_port - self.host.first)
    }

    /// Whether packets for that socket of the host are now the namespace's.
    #[must_use]
    pub fn takes_from(&self, socket: &Listener) -> bool {
        let is_any = self.host_addr.is_none() || socket.addr.is_unspecified();
        self.proto == socket.proto
            && (is_any || self.host_addr == Some(socket.addr))
            && (self.host.first..=self.host.last).contains(&socket.port)
    }
}

/// As `docker ps` shows it: `203.0.113.1:8080->80/tcp`.
impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(addr) = self.host_addr {
            write!(f, "{addr}:")?;
        }
        write!(f, "{}->{}/{}", self.host, self.inside, self.proto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(first: u16, last: u16) -> Ports {
        Ports { first, last }
    }

    #[test]
    fn every_form_is_understood() {
        let addr = Some(Ipv4Addr::new(203, 0, 113, 1));
        for (text, host_addr, host, target, inside, proto) in [
            ("8080:80", None, ports(8080, 8080), None, ports(80, 80), Proto::Tcp),
            ("8080:ns1:80", None, ports(8080, 8080), Some("ns1"), ports(80, 80), Proto::Tcp),
            ("53:ns2:53/udp", None, ports(53, 53), Some("ns2"), ports(53, 53), Proto::Udp),
            (
                "8080:172.19.0.2:80",
                None,
                ports(8080, 8080),
                Some("172.19.0.2"),
                ports(80, 80),
                Proto::Tcp,
            ),
            ("203.0.113.1:8080:80/tcp", addr, ports(8080, 8080), None, ports(80, 80), Proto::Tcp),
            (
                "203.0.113.1:1-9:ns1:11-19",
                addr,
                ports(1, 9),
                Some("ns1"),
                ports(11, 19),
                Proto::Tcp,
            ),
            (
                "203.0.113.1:1:172.19.0.2:2",
                addr,
                ports(1, 1),
                Some("172.19.0.2"),
                ports(2, 2),
                Proto::Tcp,
            ),
            ("0.0.0.0:1:2", None, ports(1, 1), None, ports(2, 2), Proto::Tcp),
            (
                "1-65535:ns1:1-65535",
                None,
                ports(1, 65535),
                Some("ns1"),
                ports(1, 65535),
                Proto::Tcp,
            ),
            ("8080:80:90", None, ports(8080, 8080), Some("80"), ports(90, 90), Proto::Tcp),
        ] {
            let spec: PublishSpec = text.parse().expect(text);
            assert_eq!(
                (spec.host_addr, spec.host, spec.target.as_deref(), spec.inside, spec.proto),
                (host_addr, host, target, inside, proto),
                "{text}"
            );
        }
    }

    #[test]
    fn bad_forms_say_why() {
        for (text, why) in [
            ("", "missing"),
            ("80", "missing"),
            ("80/tcp", "missing"),
            ("a:80", "\"a\" is no port"),
            ("80:", "\"\" is no port"),
            (":80", "\"\" is no port"),
            ("+80:80", "\"+80\" is no port"),
            ("0:80", "port 0"),
            ("80:0", "port 0"),
            ("65536:80", "above 65535"),
            ("80:99999999999999", "above 65535"),
            ("80-70:80-70", "ends before it begins"),
            ("80-90:80", "11 ports on the host cannot lead to 1"),
            ("80:80-90", "1 ports on the host cannot lead to 11"),
            ("80-90:ns1:80-91", "11 ports on the host cannot lead to 12"),
            ("80:80/sctp", "neither tcp nor udp"),
            ("80:80/", "neither tcp nor udp"),
            ("80:80/TCP", "neither tcp nor udp"),
            ("1.2.3:80:80", "no IPv4 address"),
            ("eth0:80:ns1:80", "no IPv4 address"),
            ("[::1]:80:80", "IPv6"),
            ("80::80", "empty parts"),
            ("1.2.3.4:80:ns1:80:5", "too many"),
            ("80-:ns1:80", "\"\" is no port"),
        ] {
            let error = text.parse::<PublishSpec>().expect_err(text);
            assert!(error.to_string().contains(why), "{text}: {error}");
            assert!(error.advice().is_some(), "{text}");
        }
    }

    #[test]
    fn what_is_published_is_told_by_the_hosts_ports() {
        let of = |text: &str| text.parse::<HostPorts>().expect(text);
        for (text, same) in [
            ("8080", "8080:ns1:80"),
            ("8080/tcp", "8080:ns1:80"),
            ("53/udp", "53:ns1:5353/udp"),
            ("8000-8009", "8000-8009:ns1:1-10"),
            ("203.0.113.1:80", "203.0.113.1:80:ns1:80"),
            ("203.0.113.1:80/udp", "203.0.113.1:80:81/udp"),
        ] {
            assert_eq!(of(text), of(same), "{text}");
            assert!(of(text).is_of(&same.parse().expect(same)), "{text}");
        }
        assert!(!of("8080").is_of(&"8080:80/udp".parse().expect("valid")));
        assert!(!of("8080").is_of(&"127.0.0.1:8080:80".parse().expect("valid")));
        for text in ["", "0", "a", "80/sctp", "1.2.3:80", "9-8"] {
            let error = text.parse::<HostPorts>().expect_err(text);
            assert!(error.what().contains("invalid ports"), "{error}");
        }
    }

    #[test]
    fn ranges_overlap_where_a_packet_could_be_for_both() {
        let publish = |text: &str| {
            let spec: PublishSpec = text.parse().unwrap();
            Publish {
                proto: spec.proto,
                host_addr: spec.host_addr,
                host: spec.host,
                namespace: NamespaceName::new("ns1").unwrap(),
                inside: spec.inside,
            }
        };
        for (a, b, overlap) in [
            ("80:80", "80:81", true),
            ("80:80", "81:80", false),
            ("80:80", "80:80/udp", false),
            ("80-90:80-90", "90-99:80-89", true),
            ("80-90:80-90", "85:80", true),
            ("1.2.3.4:80:80", "1.2.3.5:80:80", false),
            ("1.2.3.4:80:80", "1.2.3.4:80:80", true),
            ("1.2.3.4:80:80", "80:80", true),
            ("1.2.3.4:80:80", "0.0.0.0:80:80", true),
        ] {
            assert_eq!(publish(a).overlaps(&publish(b)), overlap, "{a} {b}");
            assert_eq!(publish(b).overlaps(&publish(a)), overlap, "{b} {a}");
        }
        assert_eq!(publish("1.2.3.4:80-81:ns1:90-91/udp").to_string(), "1.2.3.4:80-81->90-91/udp");
    }
}
