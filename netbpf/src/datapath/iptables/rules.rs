//! The rules of a network: a function of what is wanted and of the host's
//! addresses. They are written as `iptables-save` writes them.

use std::fmt::{self, Write as _};

use super::RulesSeen;
use crate::{
    net::ctnetlink::apart::PUBLISHED_MARK,
    observe::Observed,
    topology::{Guard, Publish, Topology},
};

/// A table of iptables that networks have rules in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Table {
    /// What is dropped before anything is known of it.
    Raw,
    /// What may be forwarded.
    Filter,
    /// What is translated.
    Nat,
}

impl Table {
    /// All of them, in the order in which they are set: what guards comes first.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Filter, Self::Nat];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// A chain of a network's own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Its name: at most 28 bytes.
    pub name: String,
    /// Its rules, without the chain's name.
    pub rules: Vec<String>,
}

/// What leads packets to such a chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Jump {
    /// The chain of everybody's that it is in.
    pub from: &'static str,
    /// Which packets are led there; all if it is empty.
    pub matches: &'static str,
    /// The chain that it leads to.
    pub to: String,
}

impl Jump {
    /// The rule, without the chain's name that it is in.
    #[must_use]
    pub fn rule(&self) -> String {
        let Self { matches, to, .. } = self;
        if matches.is_empty() { format!("-j {to}") } else { format!("{matches} -j {to}") }
    }
}

/// What a network has in a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableRules {
    /// The table.
    pub table: Table,
    /// Its chains.
    pub chains: Vec<Chain>,
    /// What leads there.
    pub jumps: Vec<Jump>,
}

impl TableRules {
    /// What a network should have in each table.
    #[must_use]
    pub fn of(topology: &Topology, observed: &Observed) -> [Self; 3] {
        [raw(topology), filter(topology), nat(topology, observed)]
    }

    /// A chain of which nothing else is known, to be taken away.
    #[must_use]
    pub fn chain(table: Table, name: String) -> Self {
        Self { table, chains: vec![Chain { name, rules: Vec::new() }], jumps: Vec::new() }
    }

    /// What a network has in the raw table while it is switched over: what its
    /// namespaces send to the stack is dropped.
    #[must_use]
    pub fn holding(topology: &Topology) -> Self {
        let rules = vec![format!("-i {} -j DROP", topology.name)];
        single(Table::Raw, "PREROUTING", chain(topology, "PRE"), rules)
    }

    /// What `iptables-restore --noflush` is given to make it so. A chain that
    /// is declared is made, or emptied.
    #[must_use]
    pub fn setting(&self, seen: &RulesSeen) -> String {
        // One that is there several times is put in front once.
        let times = |jump: &Jump| seen.leading(self.table, jump);
        let more = self.jumps.iter().filter(|jump| times(jump) > 1);
        let deletions = more.flat_map(|jump| vec![jump; times(jump)]);
        let mut lines: Vec<String> =
            deletions.map(|jump| format!("-D {} {}", jump.from, jump.rule())).collect();
        let mut chains = self.lines(self.jumps.iter().filter(|jump| times(jump) != 1));
        // Chains are declared first.
        chains.splice(self.chains.len()..self.chains.len(), lines.drain(..));
        self.text(chains)
    }

    /// What `iptables-restore --noflush` is given to take it away; nothing if
    /// there is nothing of it.
    #[must_use]
    pub fn clearing(&self, seen: &RulesSeen) -> Option<String> {
        let there = |chain: &&Chain| seen.chain(self.table, &chain.name).is_some();
        let chains: Vec<&Chain> = self.chains.iter().filter(there).collect();
        let mut lines = Vec::new();
        for chain in &chains {
            let leading = seen.leading_to(self.table, &chain.name);
            lines.extend(leading.map(|(from, rule)| format!("-D {from} {rule}")));
        }
        lines.extend(chains.iter().map(|chain| format!("-F {}", chain.name)));
        lines.extend(chains.iter().map(|chain| format!("-X {}", chain.name)));
        (!chains.is_empty()).then(|| self.text(lines))
    }

    fn lines<'a>(&self, jumps: impl Iterator<Item = &'a Jump>) -> Vec<String> {
        let mut lines: Vec<String> =
            self.chains.iter().map(|chain| format!(":{} - [0:0]", chain.name)).collect();
        for Chain { name, rules } in &self.chains {
            lines.extend(rules.iter().map(|rule| format!("-A {name} {rule}")));
        }
        // In front of what others have: those of a firewall end with a refusal.
        lines.extend(jumps.map(|jump| format!("-I {} {}", jump.from, jump.rule())));
        lines
    }

    fn text(&self, lines: Vec<String>) -> String {
        let mut text = format!("*{}\n", self.table.name());
        for line in lines {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
        }
        text + "COMMIT\n"
    }
}

/// How many rules in which table; with `#` the rules, too, as `iptables-restore`
/// is given them where there are none so far.
impl fmt::Display for TableRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: usize = self.chains.iter().map(|chain| chain.rules.len()).sum();
        write!(f, "iptables-restore --noflush: {rules} rules in table {}", self.table.name())?;
        if f.alternate() {
            for line in self.text(self.lines(self.jumps.iter())).lines() {
                write!(f, "\n        {line}")?;
            }
        }
        Ok(())
    }
}

/// The name of a network's chain: the longest of a network makes 28 bytes.
fn chain(topology: &Topology, what: &str) -> String {
    format!("NETBPF-{}-{what}", topology.name)
}

/// A table with one chain that all packets of another one are led to.
fn single(table: Table, from: &'static str, name: String, rules: Vec<String>) -> TableRules {
    let jumps = vec![Jump { from, matches: "", to: name.clone() }];
    TableRules { table, chains: vec![Chain { name, rules }], jumps }
}

fn guards(topology: &Topology) -> bool {
    topology.guard != Guard::Off
}

/// What never gets in. Here packets still have the addresses that they came with.
fn raw(topology: &Topology) -> TableRules {
    let Topology { name: bridge, subnet, .. } = topology;
    let mut rules = Vec::new();
    for uplink in topology.uplinks.iter().filter(|_| !topology.routed) {
        // A namespace's own address is not reached by routing to it.
        rules.push(format!("-d {subnet} -i {} -j DROP", uplink.name));
    }
    // The bridge's route_localnet is for the host's own connections only.
    rules.push(format!("-d 127.0.0.0/8 -i {bridge} -j DROP"));
    if guards(topology) {
        for endpoint in &topology.endpoints {
            let (addr, mac) = (endpoint.addr, endpoint.mac);
            rules.push(format!("-s {addr}/32 -i {bridge} -m mac ! --mac-source {mac} -j DROP"));
        }
        // To the host, and to what is published on it.
        rules.push(format!("! -s {subnet} -i {bridge} -m addrtype --dst-type LOCAL -j DROP"));
    }
    single(Table::Raw, "PREROUTING", chain(topology, "PRE"), rules)
}

/// What may be forwarded; on what others send to and fro the host's own rules decide,
/// and on all that is not refused here if they are to be respected.
fn filter(topology: &Topology) -> TableRules {
    let Topology { name: bridge, subnet, .. } = topology;
    let mut rules = Vec::new();
    if topology.isolate {
        isolation(topology, &mut rules);
    }
    for uplink in topology.uplinks.iter().map(|uplink| &uplink.name) {
        // What belongs to no connection is not translated, and would leave as it is.
        rules.push(format!(
            "-i {bridge} -o {uplink} -m conntrack --ctstate INVALID,UNTRACKED -j DROP"
        ));
        if guards(topology) {
            rules.push(format!("! -s {subnet} -i {bridge} -o {uplink} -j DROP"));
        }
        if topology.respect_netfilter {
            continue;
        }
        rules.push(format!("-i {bridge} -o {uplink} -j ACCEPT"));
        let back = if topology.routed { "" } else { " -m conntrack --ctstate RELATED,ESTABLISHED" };
        rules.push(format!("-i {uplink} -o {bridge}{back} -j ACCEPT"));
    }
    if !topology.respect_netfilter {
        rules.push(format!("-o {bridge} -m conntrack --ctstate DNAT -j ACCEPT"));
        // Where the bridge has its packets judged as if they were routed.
        rules.push(format!("-i {bridge} -o {bridge} -j ACCEPT"));
    }
    single(Table::Filter, "FORWARD", chain(topology, "FWD"), rules)
}

/// What is forwarded from a namespace to another one where they are isolated: to what is
/// published and within allowed pairs, by routing, or as the bridge has it judged. (Which
/// ports the bridge itself connects, it is told besides.)
fn isolation(topology: &Topology, rules: &mut Vec<String>) {
    let bridge = &topology.name;
    let (among, published) = (format!("-i {bridge} -o {bridge}"), "-m conntrack --ctstate DNAT");
    let go_on = if topology.respect_netfilter { "RETURN" } else { "ACCEPT" };
    rules.push(format!("{among} {published} -j MARK --set-xmark {PUBLISHED_MARK:#x}/0xffffffff"));
    rules.push(format!("{among} {published} -j {go_on}"));
    for pair in &topology.allowed {
        let [Some(one), Some(other)] = pair.both().map(|name| topology.endpoint(name)) else {
            continue;
        };
        for (from, to) in [(one.addr, other.addr), (other.addr, one.addr)] {
            rules.push(format!("-s {from}/32 -d {to}/32 {among} -j {go_on}"));
        }
    }
    rules.push(format!("{among} -j DROP"));
}

/// What is translated.
fn nat(topology: &Topology, observed: &Observed) -> TableRules {
    let Topology { name: bridge, subnet, .. } = topology;
    let (to, from) = (chain(topology, "DNAT"), chain(topology, "SNAT"));
    let published = topology.published.iter().filter_map(|publish| dnat(topology, publish));
    let mut rules = Vec::new();
    for uplink in &topology.uplinks {
        rules.push(format!("-s {subnet} -o {} -j MASQUERADE", uplink.name));
    }
    // Hairpinned: by the address that was asked for, as from outside.
    for addr in uplink_addresses(topology, observed) {
        rules.push(format!(
            "-s {subnet} -m conntrack --ctstate DNAT --ctorigdst {addr} -j SNAT --to-source {addr}"
        ));
    }
    rules.push(format!("-s {subnet} -o {bridge} -m conntrack --ctstate DNAT -j MASQUERADE"));
    // From 127.0.0.1, which no other machine can answer.
    rules.push(format!("-s 127.0.0.0/8 -o {bridge} -j MASQUERADE"));
    let jump = |from, matches, to: &String| Jump { from, matches, to: to.clone() };
    TableRules {
        table: Table::Nat,
        jumps: vec![
            // 127.0.0.1 is the host's own, whoever sends to it from outside.
            jump("PREROUTING", "! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL", &to),
            jump("OUTPUT", "-m addrtype --dst-type LOCAL", &to),
            jump("POSTROUTING", "", &from),
        ],
        chains: vec![Chain { name: to, rules: published.collect() }, Chain { name: from, rules }],
    }
}

/// The rule of a published port or range.
fn dnat(topology: &Topology, publish: &Publish) -> Option<String> {
    let target = topology.endpoint(&publish.namespace)?.addr;
    let Publish { proto, host, inside, .. } = publish;
    let on = publish.host_addr.map_or(String::new(), |addr| format!("-d {addr}/32 "));
    let (ports, to) = if host.first == host.last {
        (host.first.to_string(), inside.first.to_string())
    } else {
        // From port to port, counted from the first.
        let to = format!("{}-{}/{}", inside.first, inside.last, host.first);
        (format!("{}:{}", host.first, host.last), to)
    };
    Some(format!(
        "{on}-p {proto} -m {proto} --dport {ports} -j DNAT --to-destination {target}:{to}"
    ))
}

/// The addresses of the uplinks, in order.
fn uplink_addresses(topology: &Topology, observed: &Observed) -> Vec<std::net::Ipv4Addr> {
    let links = topology.uplinks.iter().filter_map(|uplink| observed.link(uplink.name.as_str()));
    let indexes: Vec<u32> = links.map(|link| link.index).collect();
    let on_uplinks = observed.addresses.iter().filter(|a| indexes.contains(&a.ifindex));
    let mut all: Vec<_> = on_uplinks.filter(|a| a.global).map(|a| a.addr).collect();
    all.sort_unstable();
    all.dedup();
    all
}
