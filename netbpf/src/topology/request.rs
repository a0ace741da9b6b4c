//! What was asked for, as far as it can be understood without looking at the host.

use std::{net::Ipv4Addr, str::FromStr};

use clap::ValueEnum;
use netbpf_common::{MacAddr, SourceGuard};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    EndpointPlan, LinkName, NamespaceName, Origin, Pair, PublishSpec, Subnet, Topology, mac,
};
use crate::{
    bpf::LogLevel,
    datapath::Kind,
    error::{Error, Key, Result},
};

/// A network as it was asked for; what was left open is nothing.
#[derive(Clone, Debug)]
pub struct Request {
    /// Name of the network and its bridge.
    pub name: LinkName,
    /// The namespaces.
    pub namespaces: Vec<NamespaceSpec>,
    /// Whether the two namespaces are connected with each other and nothing else.
    pub direct: bool,
    /// Name of the interface inside each namespace; `%d` in it becomes a number.
    pub ifname: Option<LinkName>,
    /// What moves its packets; nothing: what it has, or eBPF.
    pub datapath: Option<Kind>,
    /// Why it is not the datapath that is tried first, if it is not.
    pub fallback: Option<String>,
    /// The ways to the outside; none: that of the default route.
    pub uplinks: Vec<LinkName>,
    /// The network's addresses.
    pub subnet: Option<Subnet>,
    /// Largest IP packet.
    pub mtu: Option<u32>,
    /// Published ports.
    pub publish: Vec<PublishSpec>,
    /// Flows that the host's table holds.
    pub max_flows: Option<u32>,
    /// Flows that each namespace may have.
    pub flow_limit: Option<u32>,
    /// What namespaces may send.
    pub guard: Option<Guard>,
    /// Whether namespaces' own addresses are reached from outside.
    pub routed: Option<bool>,
    /// Whether the host's own rules for what is forwarded say what becomes of its
    /// packets.
    pub respect_netfilter: Option<bool>,
    /// Whether its namespaces reach everybody but each other.
    pub isolate: Option<bool>,
    /// The pairs of them that reach each other all the same.
    pub allow: Vec<Pair>,
    /// What the datapath logs.
    pub log_level: Option<LogLevel>,
    /// Whether what was left open stays as the network of that name has it, and does
    /// not get its default. What the host gives stays in any case: uplinks, subnet,
    /// datapath, addresses.
    pub keeps: bool,
}

#[cfg(test)]
impl Request {
    /// One that leaves all open but the name.
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: LinkName::new(name).unwrap(),
            namespaces: Vec::new(),
            direct: false,
            ifname: None,
            datapath: None,
            fallback: None,
            uplinks: Vec::new(),
            subnet: None,
            mtu: None,
            publish: Vec::new(),
            max_flows: None,
            flow_limit: None,
            guard: None,
            routed: None,
            respect_netfilter: None,
            isolate: None,
            allow: Vec::new(),
            log_level: None,
            keeps: true,
        }
    }
}

impl Request {
    /// What was asked for; of a request that names no namespaces, but the network of that
    /// name as it is, with what was asked for changed.
    ///
    /// # Errors
    /// A usage error if there is no such network.
    pub fn or_as_it_is(self, recorded: Option<&Topology>) -> Result<Self> {
        if !self.namespaces.is_empty() || !self.keeps {
            return Ok(self);
        }
        let Some(recorded) = recorded else {
            let name = &self.name;
            return Err(Error::usage("no namespaces")
                .because(format!(
                    "neither --namespaces nor --ns says which to make, and there is no network \
                     {name} that could be changed or mended"
                ))
                .hint("for example --namespaces 3")
                .about(Key::of("namespaces")));
        };
        let subnet = self.subnet.unwrap_or(recorded.subnet);
        let mut is = Self::of(recorded);
        for namespace in &mut is.namespaces {
            // In another subnet it gets an address of that.
            let gone = namespace.addr.filter(|addr| !subnet.has_host(*addr));
            if gone.is_some_and(|addr| namespace.mac == Some(mac::generated(addr))) {
                namespace.mac = None;
            }
            namespace.addr = namespace.addr.filter(|_| gone.is_none());
        }
        Ok(Self {
            namespaces: is.namespaces,
            direct: is.direct,
            fallback: is.fallback,
            ifname: self.ifname.or(is.ifname),
            publish: if self.publish.is_empty() { is.publish } else { self.publish },
            allow: if self.allow.is_empty() { is.allow } else { self.allow },
            ..self
        })
    }

    /// A network that there is, asked for as it is.
    #[must_use]
    pub fn of(topology: &Topology) -> Self {
        let namespace = |endpoint: &EndpointPlan| NamespaceSpec {
            name: endpoint.namespace.clone(),
            addr: Some(endpoint.addr),
            prefix_len: None,
            mac: Some(endpoint.mac),
            origin: Origin::Named,
            ifname: None,
        };
        // The name that all interfaces have is that of more of them, too.
        let first = topology.endpoints.first().map(|endpoint| &endpoint.inside);
        let is_common = |name: &&LinkName| topology.endpoints.iter().all(|e| e.inside == **name);
        Self {
            name: topology.name.clone(),
            namespaces: topology.endpoints.iter().map(namespace).collect(),
            direct: topology.direct,
            ifname: first.filter(is_common).cloned(),
            datapath: Some(topology.datapath),
            fallback: topology.fallback.clone(),
            uplinks: topology.uplinks.iter().map(|uplink| uplink.name.clone()).collect(),
            subnet: Some(topology.subnet),
            mtu: Some(topology.mtu),
            publish: topology.published.iter().map(PublishSpec::of).collect(),
            max_flows: None,
            flow_limit: None,
            guard: Some(topology.guard),
            routed: Some(topology.routed),
            respect_netfilter: Some(topology.respect_netfilter),
            isolate: Some(topology.isolate),
            allow: topology.allowed.clone(),
            log_level: None,
            keeps: true,
        }
    }
}

/// A `--ns NAME[@PID|@PATH][=IP[/LEN][/MAC]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamespaceSpec {
    /// The namespace's name.
    pub name: NamespaceName,
    /// Its address, if one is asked for.
    pub addr: Option<Ipv4Addr>,
    /// Bits of the prefix that its address has in common with the others', if they
    /// are told.
    pub prefix_len: Option<u8>,
    /// Its interface's MAC, if one is asked for.
    pub mac: Option<MacAddr>,
    /// Which namespace is meant.
    pub origin: Origin,
    /// Name of its interface, if one is asked for that is not all others'.
    pub ifname: Option<LinkName>,
}

impl NamespaceSpec {
    /// A namespace of that name, of which all else is open.
    #[must_use]
    pub fn named(name: NamespaceName) -> Self {
        let origin = Origin::default();
        Self { name, addr: None, prefix_len: None, mac: None, origin, ifname: None }
    }

    /// `count` namespaces, named `prefix1`, `prefix2` and so on.
    ///
    /// # Errors
    /// A usage error if the prefix makes no name.
    pub fn numbered(prefix: &str, count: u16) -> Result<Vec<Self>> {
        (1..=count)
            .map(|n| {
                let name = NamespaceName::new(&format!("{prefix}{n}"))?;
                Ok(Self { origin: Origin::New, ..Self::named(name) })
            })
            .collect()
    }
}

impl FromStr for NamespaceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, rest) = match text.split_once('=') {
            None => (text, None),
            Some((name, rest)) => (name, Some(rest)),
        };
        let (name, origin) = match name.split_once('@') {
            None => (name, Origin::default()),
            Some((name, place)) => (name, Origin::parse(place)?),
        };
        let named = Self { origin, ..Self::named(NamespaceName::new(name)?) };
        let Some(rest) = rest else { return Ok(named) };
        let wrong = |why: String| {
            Error::usage(format!("invalid namespace {text:?}")).because(why).hint(
                "write NAME[@PID][=IP[/LEN][/MAC]], for example --ns web=172.19.0.10/02:00:00:00:00:0a",
            )
        };
        let (addr, rest) = split(rest);
        let addr = addr.parse().map_err(|_| wrong(format!("{addr:?} is no IPv4 address")))?;
        // A prefix length is a number alone, which no MAC is.
        let is_len = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        let (len, mac) = match rest.map(split) {
            Some((len, mac)) if is_len(len) => (Some(len), mac),
            _ => (None, rest),
        };
        let prefix_len = len.map(|len| {
            let parsed = len.parse().ok().filter(|len| *len <= 32);
            parsed.ok_or_else(|| wrong(format!("the prefix length {len} is above 32")))
        });
        Ok(Self {
            addr: Some(addr),
            prefix_len: prefix_len.transpose()?,
            mac: mac.map(mac::parse).transpose()?,
            ..named
        })
    }
}

/// What is before the first slash and behind it.
fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once('/').map_or((text, None), |(first, rest)| (first, Some(rest)))
}

/// What a namespace may send.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Guard {
    /// Its own address from its own MAC, and what belongs to nobody else
    Learn,
    /// Its own address from its own MAC, nothing else
    Strict,
    /// The same of what is routed only, as iptables can: nobody else's address, none
    /// from outside the subnet
    Routed,
    /// Anything
    Off,
}

impl Guard {
    /// What is guarded unless it is said: all that the datapath can.
    #[must_use]
    pub const fn default_of(datapath: Kind) -> Self {
        match datapath {
            Kind::Ebpf => Self::Learn,
            Kind::Iptables => Self::Routed,
        }
    }

    /// Whether the datapath can guard so.
    #[must_use]
    pub const fn is_possible(self, datapath: Kind) -> bool {
        match self {
            Self::Learn | Self::Strict => matches!(datapath, Kind::Ebpf),
            Self::Routed => matches!(datapath, Kind::Iptables),
            Self::Off => true,
        }
    }
}

/// As the eBPF datapath knows it.
impl From<Guard> for SourceGuard {
    fn from(guard: Guard) -> Self {
        match guard {
            // The eBPF datapath is not asked for the latter.
            Guard::Learn | Guard::Routed => Self::Learn,
            Guard::Strict => Self::Strict,
            Guard::Off => Self::Off,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_read() {
        let spec: NamespaceSpec = "web".parse().unwrap();
        assert_eq!((spec.name.as_str(), spec.addr, spec.mac), ("web", None, None));
        let spec: NamespaceSpec = "web=172.19.0.10".parse().unwrap();
        assert_eq!((spec.addr, spec.mac), (Some(Ipv4Addr::new(172, 19, 0, 10)), None));
        let spec: NamespaceSpec = "web=172.19.0.10/02:00:00:00:00:0a".parse().unwrap();
        assert_eq!(spec.mac, Some(MacAddr::new([2, 0, 0, 0, 0, 10])));
        let spec: NamespaceSpec = "web=172.19.0.10/24".parse().unwrap();
        assert_eq!((spec.prefix_len, spec.mac), (Some(24), None));
        let spec: NamespaceSpec = "web=172.19.0.10/24/02:00:00:00:00:0a".parse().unwrap();
        assert_eq!((spec.prefix_len, spec.mac.is_some()), (Some(24), true));
        let spec: NamespaceSpec = "web@4711=172.19.0.10".parse().unwrap();
        let of_process = Origin::At("/proc/4711/ns/net".into());
        assert_eq!((spec.name.as_str(), spec.addr.is_some()), ("web", true));
        assert_eq!(spec.origin, of_process);
        let spec: NamespaceSpec = "web@/run/docker/netns/a1".parse().unwrap();
        assert_eq!(spec.origin, Origin::At("/run/docker/netns/a1".into()));
        for (text, why) in [
            ("web@", "neither"),
            ("web@-1", "neither"),
            ("web@run/netns/a", "neither"),
            ("@1", "empty"),
            ("", "empty"),
            ("=1.2.3.4", "empty"),
            ("web=", "no IPv4 address"),
            ("web=1.2.3", "no IPv4 address"),
            ("web=1.2.3.4/", "not hexadecimal"),
            ("web=1.2.3.4/33", "above 32"),
            ("web=1.2.3.4/1000", "above 32"),
            ("web=1.2.3.4/24/", "not hexadecimal"),
            ("web=1.2.3.4/24/24", "less than six"),
            ("web=1.2.3.4/+4", "not hexadecimal"),
            ("web=fd00::1", "no IPv4 address"),
            ("a/b", "'/'"),
        ] {
            let error = text.parse::<NamespaceSpec>().expect_err(text);
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn numbered_namespaces_count_from_one() {
        let specs = NamespaceSpec::numbered("ns", 3).unwrap();
        let names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["ns1", "ns2", "ns3"]);
        assert!(NamespaceSpec::numbered("a/", 1).is_err());
    }
}
