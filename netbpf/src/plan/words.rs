//! Steps in words that a reader of `ip`, `bridge` and `tc` understands.

use std::{collections::BTreeMap, fmt};

use netbpf_common::Tuple;

use super::{Place, Step};
use crate::{
    bpf::{Flaw, Hook},
    datapath::iptables::Table,
    net::{netns, sysctl::Switch},
};

/// How many entries of the flow table are broken, and how.
pub(crate) fn flaws(entries: &BTreeMap<Flaw, Vec<Tuple>>) -> String {
    let one = |(flaw, keys): (&Flaw, &Vec<Tuple>)| {
        let count = keys.len();
        match flaw {
            Flaw::Half => format!("{count} without the other direction"),
            Flaw::Differs => format!("{count} of which the directions differ"),
            Flaw::NoEndpoint => format!("{count} of no network's endpoint"),
            Flaw::NoUplink => format!("{count} by no network's uplink"),
        }
    };
    entries.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl Step {
    /// What is amiss as long as the step is still to be done.
    #[must_use]
    pub fn lack(&self) -> String {
        match self {
            Self::LoadDatapath { .. } => "datapath not loaded".into(),
            Self::AddBridge { name, .. } => format!("no bridge {name}"),
            Self::AddNamespace { .. } | Self::BorrowNamespace { .. } => "namespace gone".into(),
            Self::AddVeth { endpoint, .. } => format!("no veth {}", endpoint.link),
            Self::AddPair { ends: [a, b], .. } => {
                format!("no veth pair between {} and {}", a.namespace, b.namespace)
            }
            Self::LinkUp { link, .. } => format!("{link} down"),
            Self::SetMtu { link, .. } => format!("{link} has another MTU"),
            Self::SetMac { link, .. } => format!("{link} has another MAC"),
            Self::Rename { from, to, .. } => format!("{to} is called {from}"),
            Self::NameNamespace { .. } => "namespace without its name".into(),
            Self::AdoptNamespace { .. } => "namespace replaced by an empty one".into(),
            Self::DeleteAddress { link, addr, prefix_len, .. } => {
                format!("{link} has {addr}/{prefix_len}")
            }
            Self::Repin { pins } => format!("pins gone: {}", pins.join(", ")),
            Self::SetTimeouts => "datapath differs about time-outs".into(),
            Self::SetPortSecret => "datapath differs about its ports' secret".into(),
            Self::EndBroken { entries } => format!("broken flows: {}", flaws(entries)),
            Self::CountFlows => "datapath counts flows wrong".into(),
            Self::SetPrograms => "datapath does not hand over what is rare".into(),
            Self::ClearStray { stray } => format!("datapath has {stray}"),
            Self::SetMaster { endpoint, bridge } => format!("{} not in {bridge}", endpoint.link),
            Self::AddAddress { link, addr, .. } => format!("{link} without {addr}"),
            Self::AddSubnetRoute { link, subnet, .. } => {
                format!("{link} without route to {subnet}")
            }
            Self::AddDefaultRoute { .. } => "no default route".into(),
            Self::DeleteDefaultRoute { gateway, .. } => format!("default route via {gateway}"),
            Self::AddFdb { .. } => "no static FDB entry".into(),
            Self::SwitchOn { switch } => format!("{switch} off"),
            Self::SetGateway { addr, .. } => format!("datapath lacks gateway {addr}"),
            Self::SetSubnet { subnet } => format!("datapath lacks subnet {subnet}"),
            Self::SetEndpoint { endpoint, .. } => {
                format!("datapath differs about endpoint {}", endpoint.id)
            }
            Self::SetAllowed { .. } => "datapath differs about allowed pairs".into(),
            Self::SetUplink { link, .. } => format!("datapath differs about uplink {link}"),
            Self::SetPublished { .. } => "datapath differs about ports".into(),
            Self::Attach { hook, link, .. } => format!("{} not on {link}", hook.program()),
            Self::SetRules { rules } => format!("rules in {} differ", rules.table.name()),
            Self::DropReflected { bridge, .. } => format!("{bridge} reflects broadcasts"),
            Self::SetHairpin { endpoint, .. } => format!("{} without hairpin mode", endpoint.link),
            Self::SetIsolated { endpoint, on: true } => format!("{} not isolated", endpoint.link),
            Self::SetIsolated { endpoint, on: false } => format!("{} isolated", endpoint.link),
            Self::KeepApart { bridge, .. } => format!("rules of {bridge} about isolation differ"),
            Self::SetRouteLocalnet { bridge, .. } => format!("{bridge} without route_localnet"),
            Self::MarkUp | Self::MarkChanging { .. } => "interrupted".into(),
            other => other.to_string(),
        }
    }
}

/// The options of `ip` that choose where.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host | Self::HostSide(_) => Ok(()),
            Self::Inside(namespace) => write!(f, "-n {namespace} "),
        }
    }
}

/// The side of the interface that a program is attached to.
pub(super) fn side(hook: Hook) -> &'static str {
    if hook.is_guard() { "egress" } else { "ingress" }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// In a line; with `#` rules of iptables, too, in lines of their own.
#[allow(clippy::too_many_lines, reason = "a table: one line for each kind of step")]
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { path } => write!(f, "remember the network in {}", path.display()),
            Self::LoadDatapath { options } => write!(
                f,
                "bpf: load and pin the programs and maps, for {} flows ({} MiB)",
                options.max_flows,
                options.flow_memory().div_ceil(1 << 20)
            ),
            Self::AddBridge { name, mac, mtu, .. } => write!(
                f,
                "ip link add {name} address {mac} mtu {mtu} up type bridge stp_state 0 forward_delay 0"
            ),
            Self::AddNamespace { name } => write!(f, "ip netns add {name}"),
            Self::BorrowNamespace { name, adoption } => match &adoption.from {
                None => write!(f, "adopt the namespace {name}"),
                Some(from) => write!(
                    f,
                    "adopt the namespace at {from}: mount --bind {from} {path}",
                    from = from.display(),
                    path = netns::path(name.as_str()).display()
                ),
            },
            Self::ReleaseNamespace { name } => {
                write!(f, "umount {}", netns::path(name.as_str()).display())
            }
            Self::AddVeth { endpoint, mtu, .. } => write!(
                f,
                "ip link add {} mtu {mtu} up type veth peer {} netns {} address {} mtu {mtu}",
                endpoint.link, endpoint.inside, endpoint.namespace, endpoint.mac
            ),
            Self::AddPair { ends: [a, b], mtu } => write!(
                f,
                "ip -n {} link add {} address {} mtu {mtu} up type veth peer {} netns {} address {} mtu {mtu}",
                a.namespace, a.inside, a.mac, b.inside, b.namespace, b.mac
            ),
            Self::LinkUp { place, link } => write!(f, "ip {place}link set {link} up"),
            Self::SetMtu { place, link, mtu } => write!(f, "ip {place}link set {link} mtu {mtu}"),
            Self::SetMac { place, link, mac } => {
                write!(f, "ip {place}link set {link} address {mac}")
            }
            Self::Rename { place, from, to } => write!(f, "ip {place}link set {from} name {to}"),
            Self::NameNamespace { name } => write!(f, "ip netns attach {name} PID"),
            Self::AdoptNamespace { name } => {
                write!(f, "remember the namespace {name} as the network's")
            }
            Self::DeleteAddress { place, link, addr, prefix_len } => {
                write!(f, "ip {place}address delete {addr}/{prefix_len} dev {link}")
            }
            Self::Repin { pins } => write!(f, "bpf: pin again {}", pins.join(", ")),
            Self::SetTimeouts => f.write_str("bpf: set how long flows may be idle"),
            Self::SetPortSecret => f.write_str("bpf: choose outside ports by the secret as before"),
            Self::EndBroken { entries } => write!(f, "bpf: end broken flows: {}", flaws(entries)),
            Self::CountFlows => f.write_str("bpf: count the flows anew"),
            Self::SetPrograms => f.write_str("bpf: hand over what is rare to its programs"),
            Self::ClearStray { stray } => write!(f, "bpf: remove {stray}"),
            Self::SetMaster { endpoint, bridge } => {
                write!(f, "ip link set {} master {bridge}", endpoint.link)
            }
            Self::AddAddress { place, link, addr, prefix_len } => {
                write!(f, "ip {place}address add {addr}/{prefix_len} dev {link}")
            }
            Self::AddSubnetRoute { place, link, subnet, source } => {
                write!(f, "ip {place}route add {subnet} dev {link} scope link src {source}")
            }
            Self::AddDefaultRoute { namespace, link, gateway, metric } => {
                write!(f, "ip -n {namespace} route add default via {gateway} dev {link}")?;
                if *metric == 0 { Ok(()) } else { write!(f, " metric {metric}") }
            }
            Self::DeleteDefaultRoute { namespace, link, gateway, metric } => write!(
                f,
                "ip -n {namespace} route delete default via {gateway} dev {link} metric {metric}"
            ),
            Self::AddFdb { endpoint } => {
                write!(f, "bridge fdb add {} dev {} master static", endpoint.mac, endpoint.link)
            }
            Self::SwitchOn { switch } => write!(f, "sysctl {switch}=1"),
            Self::SetGateway { addr, mac } => write!(f, "bpf: gateway {addr} is {mac}"),
            Self::SetSubnet { subnet } => write!(f, "bpf: {subnet} never leaves by an uplink"),
            Self::SetEndpoint { endpoint, row, .. } => write!(
                f,
                "bpf: endpoint {} is {} ({}, {}) behind {}, at most {} flows{}{}",
                endpoint.id,
                endpoint.namespace,
                endpoint.addr,
                endpoint.mac,
                endpoint.link,
                row.flow_limit,
                if row.is_by_stack() { ", forwarded by the stack" } else { "" },
                if row.is_isolated() { ", isolated" } else { "" }
            ),
            Self::SetUplink { link, row } => {
                write!(f, "bpf: uplink {link}, outgoing packets carry {}", row.addr)
            }
            Self::SetAllowed { names, .. } if names.is_empty() => {
                f.write_str("bpf: no isolated namespaces reach each other")
            }
            Self::SetAllowed { names, .. } => {
                f.write_str("bpf: reach each other all the same:")?;
                names.iter().try_for_each(|pair| write!(f, " {pair}"))
            }
            Self::SetPublished { all, others } => {
                let (count, all) = (all.len() - others.len(), all.len());
                write!(f, "bpf: publish {count} port range(s) of this network, {all} of all")
            }
            Self::Attach { hook, link, .. } => {
                write!(f, "tc: attach {} to {} of {link}", hook.program(), side(*hook))
            }
            Self::MarkSwitching { from, to } => {
                let (from, to) = (from.name(), to.name());
                write!(f, "remember that the network is being switched from {from} to {to}")
            }
            Self::Hold { rules } => {
                let table = rules.table.name();
                write!(f, "iptables-restore --noflush: hold what namespaces send, in table {table}")
            }
            Self::MarkChanging { leaving } if leaving.is_empty() => {
                f.write_str("remember what the network is to be")
            }
            Self::MarkChanging { leaving } => {
                write!(f, "remember what the network is to be, and to lose: {leaving}")
            }
            Self::CarryFlows => f.write_str("conntrack: track the flows that eBPF carries"),
            Self::AdoptFlows => {
                f.write_str("bpf: go on with the connections that the kernel tracks")
            }
            Self::KeepTables => f.write_str("remember which tables of nf_tables there are"),
            Self::TidyTables => f.write_str("nft: delete the tables that iptables made, if unused"),
            Self::SetRules { rules } => fmt::Display::fmt(rules, f),
            Self::DropReflected { bridge, endpoints } => {
                write!(f, "nft: {bridge} drops what would go back by ")?;
                for (n, endpoint) in endpoints.iter().enumerate() {
                    let separator = if n == 0 { "" } else { ", " };
                    write!(f, "{separator}{}, but to {}", endpoint.link, endpoint.mac)?;
                }
                Ok(())
            }
            Self::SetIsolated { endpoint, on } => {
                write!(f, "bridge link set dev {} isolated {}", endpoint.link, on_off(*on))
            }
            Self::KeepApart { bridge, apart } => write!(f, "nft: {bridge} forwards {apart}"),
            Self::ClearApart { bridge } => write!(f, "nft: {bridge} forwards all that it may"),
            Self::ClearAllowed { .. } => {
                f.write_str("bpf: forget who of the isolated reach each other")
            }
            Self::ClearReflected { bridge } => write!(f, "nft: {bridge} drops nothing more"),
            Self::SetHairpin { endpoint, on } => {
                write!(f, "bridge link set dev {} hairpin {}", endpoint.link, on_off(*on))
            }
            Self::SetRouteLocalnet { bridge, on } => {
                write!(f, "sysctl net.ipv4.conf.{bridge}.route_localnet={}", u8::from(*on))
            }
            Self::MarkUp => f.write_str("remember that the network is complete"),
            Self::MarkRemoving => f.write_str("remember that the network is being taken down"),
            Self::Detach { hook, link } => {
                write!(f, "tc: detach {} from {} of {link}", hook.program(), side(*hook))
            }
            Self::Withdraw { .. } => f.write_str("bpf: withdraw the network's published ports"),
            Self::ClearUplink { link } => write!(f, "bpf: forget uplink {link}"),
            Self::ClearEndpoint { endpoint } => write!(
                f,
                "bpf: forget endpoint {} ({}) and its flows",
                endpoint.id, endpoint.namespace
            ),
            Self::ClearSubnet { subnet } => write!(f, "bpf: forget subnet {subnet}"),
            Self::ClearGateway { addr, .. } => write!(f, "bpf: forget gateway {addr}"),
            Self::ClearRules { rules } => {
                let of_nat = rules.table == Table::Nat;
                let connections = if of_nat { "; conntrack: end what they translated" } else { "" };
                let table = rules.table.name();
                write!(f, "iptables-restore --noflush: no rules in table {table}{connections}")
            }
            Self::EndConnections { leaving, .. } => {
                write!(f, "conntrack: end the connections of {leaving}")
            }
            Self::SwitchBack { switch: switch @ Switch::IpForward } => {
                write!(f, "sysctl {switch}=0, and what changed along with it")
            }
            Self::SwitchBack { switch } => write!(f, "sysctl {switch}=0"),
            Self::DeleteLink { name, .. } => write!(f, "ip link delete {name}"),
            Self::DeletePair { end } => {
                write!(f, "ip -n {} link delete {}", end.namespace, end.inside)
            }
            Self::DeleteNamespace { name } => write!(f, "ip netns delete {name}"),
            Self::Upgrade(step) => fmt::Display::fmt(step, f),
            Self::UnloadDatapath => f.write_str("bpf: unpin and unload the programs and maps"),
            Self::Forget { path } => write!(f, "remove {}", path.display()),
        }
    }
}
