//! Who is compared, and on which ways.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who moves the packets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// This netbpf's eBPF datapath.
    Netbpf,
    /// The kernel's bridge, routes and iptables, `bridge-nf-call-iptables` being 1.
    Iptables,
    /// The kernel's bridge with `bridge-nf-call-iptables=1`: bridged packets pass
    /// iptables.
    BridgeNf,
    /// The kernel's bridge with `bridge-nf-call-iptables=0`.
    Bridge,
    /// No network at all: the two ends are a veth pair.
    Veth,
    /// A program that redirects every packet and looks nothing up: no datapath of
    /// tc programs can be faster.
    Limit,
    /// Nobody: the sink is where the generator's frames come in.
    Generator,
}

impl Contender {
    /// Its name in tables, in JSON and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Netbpf => "netbpf",
            Self::Iptables => "iptables",
            Self::BridgeNf => "bridge-nf",
            Self::Bridge => "bridge",
            Self::Veth => "veth",
            Self::Limit => "limit",
            Self::Generator => "generator",
        }
    }

    /// What it is, in a few words, for legends.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::Netbpf => "netbpf (eBPF)",
            Self::Iptables => "bridge, routes and iptables",
            Self::BridgeNf => "bridge, bridge-nf-call-iptables=1",
            Self::Bridge => "bridge, bridge-nf-call-iptables=0",
            Self::Veth => "direct veth pair",
            Self::Limit => "limit: redirect without look-up",
            Self::Generator => "generator and sink alone",
        }
    }

    /// Whether it is another way to do what netbpf does, no limit of it.
    #[must_use]
    pub const fn is_rival(self) -> bool {
        matches!(self, Self::Iptables | Self::BridgeNf | Self::Bridge)
    }

    /// What of the kernel's own it is compared with: the usual set-up.
    #[must_use]
    pub const fn is_usual(self) -> bool {
        matches!(self, Self::Iptables | Self::BridgeNf)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// From where to where packets go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// From a namespace to another one of the network.
    NsToNs,
    /// From a namespace to the outside, with the uplink's address (SNAT).
    NsToOutside,
    /// From the outside to a published port of a namespace (DNAT).
    OutsideToNs,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::NsToNs, Self::NsToOutside, Self::OutsideToNs];

    /// Its name in tables, in JSON and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NsToNs => "ns-to-ns",
            Self::NsToOutside => "ns-to-outside",
            Self::OutsideToNs => "outside-to-ns",
        }
    }

    /// What it is, in a few words, for titles.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::NsToNs => "namespace to namespace",
            Self::NsToOutside => "namespace to outside (SNAT)",
            Self::OutsideToNs => "outside to namespace (DNAT)",
        }
    }

    /// Who is compared on it where frames are generated in the kernel.
    #[must_use]
    pub const fn in_kernel(self) -> &'static [Contender] {
        use Contender::{Bridge, BridgeNf, Generator, Iptables, Limit, Netbpf};
        match self {
            Self::NsToNs => &[Netbpf, BridgeNf, Bridge, Limit, Generator],
            Self::NsToOutside | Self::OutsideToNs => &[Netbpf, Iptables, Limit],
        }
    }

    /// Who is compared on it where sockets send.
    #[must_use]
    pub const fn of_sockets(self) -> &'static [Contender] {
        use Contender::{Bridge, BridgeNf, Iptables, Netbpf, Veth};
        match self {
            Self::NsToNs => &[Netbpf, BridgeNf, Bridge, Veth],
            Self::NsToOutside | Self::OutsideToNs => &[Netbpf, Iptables, Veth],
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_json() {
        for contender in [
            Contender::Netbpf,
            Contender::Iptables,
            Contender::BridgeNf,
            Contender::Bridge,
            Contender::Veth,
            Contender::Limit,
            Contender::Generator,
        ] {
            let json = serde_json::to_value(contender).expect("a name");
            assert_eq!(json, contender.name());
        }
        for way in Way::ALL {
            assert_eq!(serde_json::to_value(way).expect("a name"), way.name());
        }
    }
}
