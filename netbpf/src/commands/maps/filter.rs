//! Which flows are meant.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use netbpf_common::{EndpointId, Ipv4, Port, proto};
use serde::{Serialize, Serializer};

use super::Subject;
use crate::{bpf::FlowHead, error::Result};

/// An IP protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Proto(pub(super) u8);

/// The protocols that have names here, as `/etc/protocols` has them.
const PROTOS: [(u8, &str); 10] = [
    (proto::ICMP, "icmp"),
    (4, "ipip"),
    (proto::TCP, "tcp"),
    (proto::UDP, "udp"),
    (proto::DCCP, "dccp"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (proto::SCTP, "sctp"),
    (proto::UDP_LITE, "udplite"),
];

impl fmt::Display for Proto {
    /// The name, or else the number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOS.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Proto {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = PROTOS.iter().find(|(_, name)| *name == text);
        named.map(|(number, _)| *number).or_else(|| text.parse().ok()).map(Self).ok_or_else(|| {
            let names: Vec<&str> = PROTOS.iter().map(|(_, name)| *name).collect();
            format!("a protocol is one of {}, or a number up to 255", names.join(", "))
        })
    }
}

impl Serialize for Proto {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An address, or an address and a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Destination {
    addr: Ipv4,
    port: Option<Port>,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (addr, port) = match text.split_once(':') {
            Some((addr, port)) => (addr, Some(port)),
            None => (text, None),
        };
        let addr: Ipv4Addr = addr.parse().map_err(|_| format!("{addr} is no IPv4 address"))?;
        let port = port.map(|port| port.parse().map_err(|_| format!("{port} is no port")));
        Ok(Self { addr: addr.into(), port: port.transpose()?.map(Port::new) })
    }
}

impl Destination {
    fn is(self, addr: Ipv4, port: Port) -> bool {
        self.addr == addr && self.port.is_none_or(|wanted| wanted == port)
    }
}

/// The options that choose flows. All that are given must hold.
#[derive(clap::Args, Clone, Default, Debug)]
pub(super) struct Options {
    /// Flows of this namespace
    #[arg(long, value_name = "NAME")]
    ns: Option<String>,
    /// Flows of this protocol: tcp, udp, icmp, sctp ..., or its number
    #[arg(long)]
    proto: Option<Proto>,
    /// Flows with this port on any side, before or after translation
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Flows to this address, and port if one is given, before or after translation
    #[arg(long, value_name = "ADDR[:PORT]")]
    to: Option<Destination>,
}

impl Options {
    /// Whether none is given, so that all flows are chosen.
    pub(super) fn are_absent(&self) -> bool {
        self.ns.is_none() && self.proto.is_none() && self.port.is_none() && self.to.is_none()
    }

    /// The filter, names looked up.
    pub(super) fn resolve(&self, subject: &Subject) -> Result<Filter> {
        Ok(Filter {
            endpoint: self.ns.as_deref().map(|ns| subject.endpoint(ns)).transpose()?,
            proto: self.proto,
            port: self.port.map(Port::new),
            to: self.to,
        })
    }
}

/// Chooses flows.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Filter {
    endpoint: Option<EndpointId>,
    proto: Option<Proto>,
    port: Option<Port>,
    to: Option<Destination>,
}

impl Filter {
    /// Whether the flow is meant.
    pub(super) fn matches(&self, flow: &FlowHead) -> bool {
        let (before, after) = (flow.tuple, flow.translated);
        self.endpoint.is_none_or(|id| id == flow.endpoint)
            && self.proto.is_none_or(|proto| proto.0 == before.proto)
            && self.port.is_none_or(|port| {
                [before.sport, before.dport, after.sport, after.dport].contains(&port)
            })
            && self.to.is_none_or(|to| {
                to.is(before.daddr, before.dport) || to.is(after.daddr, after.dport)
            })
    }
}

#[cfg(test)]
mod tests {
    use netbpf_common::{Translation, Tuple};

    use super::*;

    /// ns 1 (172.19.0.2:40000) to 203.0.113.2:443, translated to 203.0.113.1:50000.
    fn flow() -> FlowHead {
        let tuple = Tuple {
            saddr: Ipv4::new([172, 19, 0, 2]),
            daddr: Ipv4::new([203, 0, 113, 2]),
            sport: Port::new(40000),
            dport: Port::new(443),
            proto: proto::TCP,
            from_host: 0,
            pad: [0; 2],
        };
        let translated = Translation {
            saddr: Ipv4::new([203, 0, 113, 1]),
            sport: Port::new(50000),
            ..Translation::from(tuple)
        };
        FlowHead {
            tuple,
            translated,
            endpoint: EndpointId(1),
            is_dnat: false,
            is_host: false,
            uplink: 2,
        }
    }

    fn matches(filter: Filter) -> bool {
        filter.matches(&flow())
    }

    fn to(text: &str) -> Filter {
        Filter { to: Some(text.parse().expect("a destination")), ..Filter::default() }
    }

    #[test]
    fn no_filter_matches_everything() {
        assert!(matches(Filter::default()));
        assert!(Options::default().are_absent());
    }

    #[test]
    fn the_endpoint_and_the_protocol_must_be_the_flows() {
        assert!(matches(Filter { endpoint: Some(EndpointId(1)), ..Filter::default() }));
        assert!(!matches(Filter { endpoint: Some(EndpointId(2)), ..Filter::default() }));
        assert!(matches(Filter { proto: Some(Proto(proto::TCP)), ..Filter::default() }));
        assert!(!matches(Filter { proto: Some(Proto(proto::UDP)), ..Filter::default() }));
    }

    #[test]
    fn a_port_may_be_on_any_side() {
        for (port, hit) in [(40000, true), (443, true), (50000, true), (80, false)] {
            let filter = Filter { port: Some(Port::new(port)), ..Filter::default() };
            assert_eq!(matches(filter), hit, "{port}");
        }
    }

    #[test]
    fn a_destination_is_an_address_and_perhaps_a_port() {
        assert!(matches(to("203.0.113.2")));
        assert!(matches(to("203.0.113.2:443")));
        assert!(!matches(to("203.0.113.2:80")));
        assert!(!matches(to("203.0.113.1")), "that is the source");
        for bad in ["", "host", "1.2.3", "1.2.3.4:", "1.2.3.4:http", "1.2.3.4:70000"] {
            bad.parse::<Destination>().expect_err(bad);
        }
    }

    #[test]
    fn all_conditions_must_hold() {
        let both = Filter { port: Some(Port::new(443)), ..to("203.0.113.2") };
        assert!(matches(both));
        assert!(!matches(Filter { endpoint: Some(EndpointId(9)), ..both }));
    }

    #[test]
    fn protocols_have_names() {
        for name in ["tcp", "udp", "icmp", "sctp", "gre", "esp", "udplite", "dccp", "99"] {
            assert_eq!(name.parse::<Proto>().expect("a protocol").to_string(), name);
        }
        assert_eq!("132".parse::<Proto>().expect("a number").to_string(), "sctp");
        for bad in ["", "tcpp", "-1", "256", "TCP"] {
            bad.parse::<Proto>().expect_err(bad);
        }
    }
}
