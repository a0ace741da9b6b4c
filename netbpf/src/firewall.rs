//! What the host's own firewall would make of a network's packets, were they to
//! pass by it: the fast path does not.
//!
//! Each chain for what is forwarded is followed for each way that the network's
//! packets take. Of a rule only the interfaces are understood; whatever else it
//! asks for, it may or may not be met. So what is certain is told from what may be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    datapath::Kind,
    net::netfilter::{self, Chain, Interface, Policy, Rule, Table, Verdict, Which},
    observe::Observed,
    topology::Topology,
};

/// Rules that are named one by one.
const NAMED: usize = 5;
/// Rules that are followed for one way: more than anybody has, unless their
/// chains lead to each other again and again.
const MOST_RULES: usize = 100_000;

/// An interface of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Device {
    name: String,
    /// Nothing if it is still to be made.
    index: Option<u32>,
}

/// A way that packets of a network take by the host.
#[derive(Clone, Debug)]
struct Way {
    incoming: Device,
    outgoing: Device,
    words: String,
}

/// What becomes of all packets of a way.
#[derive(Clone, Default, Debug)]
struct Judgement {
    /// What drops those that nothing has accepted before.
    dropped_by: Option<Cause>,
    /// Whether there are rules that may accept some before.
    has_exceptions: bool,
    /// Rules that may drop some, by chain.
    may_drop: BTreeMap<String, BTreeSet<u64>>,
}

/// What drops packets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Cause {
    /// The end of the chain.
    Policy,
    /// A rule.
    Rule { chain: String, id: u64, rejects: bool },
}

/// What the host's firewall would do to a network's packets that go past it, in words.
/// That it cannot be read is worth a warning, too, but no failure.
#[must_use]
pub fn past(topology: &Topology, observed: &Observed) -> Vec<String> {
    // What iptables moves, or eBPF for a network that respects the firewall, meets it.
    if topology.datapath == Kind::Iptables || topology.respect_netfilter {
        return Vec::new();
    }
    let index_of = |name: &str| observed.link(name).map(|link| link.index);
    match netfilter::tables() {
        Ok(tables) => warnings(topology, &tables, index_of),
        Err(error) => vec![format!("whether the host's firewall filters is not known: {error}")],
    }
}

/// What the firewall would do, or does where packets pass by it, in words; nothing
/// if it lets them by.
///
/// `index_of` tells the index of an interface by its name.
#[must_use]
pub fn warnings(
    topology: &Topology,
    tables: &[Table],
    index_of: impl Fn(&str) -> Option<u32>,
) -> Vec<String> {
    let ways = ways(topology, index_of);
    let mut warnings = Vec::new();
    for table in tables {
        let bases = table.chains.iter().filter(|(_, chain)| chain.policy.is_some());
        for (name, chain) in bases {
            let judged: Vec<_> =
                ways.iter().map(|way| (way, judge(table, name, chain, way))).collect();
            warnings.extend(sentences(topology, table, name, &judged));
        }
    }
    warnings
}

fn ways(topology: &Topology, index_of: impl Fn(&str) -> Option<u32>) -> Vec<Way> {
    let device = |name: &str| Device { name: name.to_owned(), index: index_of(name) };
    let bridge = device(topology.name.as_str());
    let mut ways = Vec::new();
    for uplink in &topology.uplinks {
        let uplink = device(uplink.name.as_str());
        let (to, from) = (format!("to {}", uplink.name), format!("from {}", uplink.name));
        ways.push(Way { incoming: bridge.clone(), outgoing: uplink.clone(), words: to });
        ways.push(Way { incoming: uplink, outgoing: bridge.clone(), words: from });
    }
    let words = "between its namespaces by the host's address".to_owned();
    ways.push(Way { incoming: bridge.clone(), outgoing: bridge, words });
    ways
}

/// The sentences about one chain.
fn sentences(
    topology: &Topology,
    table: &Table,
    chain: &str,
    judged: &[(&Way, Judgement)],
) -> Vec<String> {
    let mut certain: BTreeMap<(Cause, bool), Vec<&str>> = BTreeMap::new();
    let (mut possible, mut rules) = (Vec::new(), BTreeMap::<&str, BTreeSet<u64>>::new());
    for (way, judgement) in judged {
        if let Some(cause) = &judgement.dropped_by {
            let key = (cause.clone(), judgement.has_exceptions);
            certain.entry(key).or_default().push(&way.words);
        } else if !judgement.may_drop.is_empty() {
            possible.push(&way.words[..]);
            for (chain, ids) in &judgement.may_drop {
                rules.entry(chain).or_default().extend(ids);
            }
        }
    }
    let network = &topology.name;
    let place = format!("chain {chain} of table {}", table.name);
    let remedy = "the fast path goes past it, unless --respect-netfilter is asked for";
    let mut sentences: Vec<String> = certain
        .into_iter()
        .map(|((cause, has_exceptions), ways)| {
            let but =
                if has_exceptions { ", but for those that its rules accept before" } else { "" };
            let ways = ways.join(", ");
            format!("{place} ({cause}) would drop packets of {network} {ways}{but}: {remedy}")
        })
        .collect();
    if !possible.is_empty() {
        let (ways, rules) = (possible.join(", "), named(&rules));
        sentences.push(format!(
            "{place} may drop packets of {network} {ways} ({rules}; see `{}`): {remedy}",
            table.listing
        ));
    }
    sentences
}

/// Rules by the names of their chains and their numbers.
fn named(rules: &BTreeMap<&str, BTreeSet<u64>>) -> String {
    let all = rules.iter().flat_map(|(chain, ids)| ids.iter().map(move |id| (chain, id)));
    let mut names: Vec<String> = all.map(|(chain, id)| format!("rule {id} of {chain}")).collect();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let names = names.join(", ");
    if more == 0 { names } else { format!("{names} and {more} more") }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy => f.write_str("policy drop"),
            Self::Rule { chain, id, rejects } => {
                write!(f, "{} by rule {id} of {chain}", if *rejects { "reject" } else { "drop" })
            }
        }
    }
}

/// Follows a chain for a way.
fn judge(table: &Table, name: &str, chain: &Chain, way: &Way) -> Judgement {
    let mut walk = Walk {
        table,
        way,
        judgement: Judgement::default(),
        may_have_come_by: BTreeSet::new(),
        left: MOST_RULES,
    };
    let dropped_by = match walk.chain(name, chain, true) {
        End::Drop(cause) => Some(cause),
        End::Accept => None,
        End::Open => (chain.policy == Some(Policy::Drop)).then_some(Cause::Policy),
    };
    Judgement { dropped_by, ..walk.judgement }
}

/// How a chain ends for packets that certainly go through it.
enum End {
    /// It accepts them.
    Accept,
    /// It drops them.
    Drop(Cause),
    /// It comes to its end, or may.
    Open,
}

struct Walk<'a> {
    table: &'a Table,
    way: &'a Way,
    judgement: Judgement,
    /// Chains that have been followed for packets that may come by.
    may_have_come_by: BTreeSet<&'a str>,
    left: usize,
}

/// Whether a rule means the packets of a way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Means {
    None,
    Some,
    All,
}

impl<'a> Walk<'a> {
    fn chain(&mut self, name: &str, chain: &'a Chain, is_certain: bool) -> End {
        // All packets of the way come by the next rule.
        let mut is_certain = is_certain;
        for rule in &chain.rules {
            let Some(left) = self.left.checked_sub(1) else { return End::Open };
            self.left = left;
            let means = match means(rule, self.way) {
                Means::None => continue,
                Means::All if is_certain => Means::All,
                Means::All | Means::Some => Means::Some,
            };
            match (&rule.verdict, means) {
                (Verdict::None, _) | (_, Means::None) => {}
                (Verdict::Accept, Means::All) => return End::Accept,
                (Verdict::Accept, Means::Some) => self.judgement.has_exceptions = true,
                (Verdict::Drop | Verdict::Reject, Means::All) => {
                    let (chain, rejects) = (name.to_owned(), rule.verdict == Verdict::Reject);
                    return End::Drop(Cause::Rule { chain, id: rule.id, rejects });
                }
                (Verdict::Unknown, _) => {
                    // It may accept, too, and may be all that decides.
                    self.judgement.has_exceptions = true;
                    self.may_drop(name, rule);
                }
                (Verdict::Drop | Verdict::Reject, Means::Some) => self.may_drop(name, rule),
                (Verdict::Return, Means::All) => return End::Open,
                (Verdict::Return, Means::Some) => is_certain = false,
                (Verdict::Jump(to) | Verdict::Goto(to), means) => {
                    let end = self.follow(to, means == Means::All);
                    if !matches!(end, End::Open) {
                        return end;
                    }
                    match (&rule.verdict, means) {
                        (Verdict::Goto(_), Means::All) => return End::Open,
                        (Verdict::Goto(_), _) => is_certain = false,
                        _ => {}
                    }
                }
            }
        }
        End::Open
    }

    fn follow(&mut self, to: &str, is_certain: bool) -> End {
        let table = self.table;
        let Some((name, chain)) = table.chains.get_key_value(to) else { return End::Open };
        if !is_certain && !self.may_have_come_by.insert(name) {
            return End::Open;
        }
        match self.chain(name, chain, is_certain) {
            end if is_certain => end,
            _ => End::Open,
        }
    }

    fn may_drop(&mut self, chain: &str, rule: &Rule) {
        self.judgement.may_drop.entry(chain.to_owned()).or_default().insert(rule.id);
    }
}

fn means(rule: &Rule, way: &Way) -> Means {
    let is_met = |condition: &Interface, device: &Device| {
        let is_it = match &condition.which {
            Which::Named(name) => *name == device.name,
            Which::Beginning(name) => device.name.starts_with(name),
            Which::Index(index) => Some(*index) == device.index,
        };
        is_it != condition.negated
    };
    let is_meant = rule.incoming.iter().all(|condition| is_met(condition, &way.incoming))
        && rule.outgoing.iter().all(|condition| is_met(condition, &way.outgoing));
    match (is_meant, rule.is_conditional) {
        (false, _) => Means::None,
        (true, true) => Means::Some,
        (true, false) => Means::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way() -> Way {
        let device = |name: &str, index| Device { name: name.to_owned(), index };
        let (incoming, outgoing) = (device("netbpf0", None), device("up0", Some(2)));
        Way { incoming, outgoing, words: "to up0".to_owned() }
    }

    fn interface(name: &str) -> Interface {
        Interface { which: Which::Named(name.to_owned()), negated: false }
    }

    /// A rule that asks for nothing.
    fn rule(id: u64, verdict: Verdict) -> Rule {
        let (incoming, outgoing) = (Vec::new(), Vec::new());
        Rule { id, incoming, outgoing, is_conditional: false, verdict }
    }

    /// A rule that asks for something.
    fn if_so(id: u64, verdict: Verdict) -> Rule {
        Rule { is_conditional: true, ..rule(id, verdict) }
    }

    fn judged(policy: Policy, rules: Vec<Rule>, other: Vec<Rule>) -> Judgement {
        let base = Chain { policy: Some(policy), rules };
        let mut table = Table::default();
        table.chains.insert("FORWARD".to_owned(), base.clone());
        table.chains.insert("OTHER".to_owned(), Chain { policy: None, rules: other });
        judge(&table, "FORWARD", &base, &way())
    }

    fn by_rule(chain: &str, id: u64) -> Cause {
        Cause::Rule { chain: chain.to_owned(), id, rejects: false }
    }

    #[test]
    fn a_policy_drops_what_nothing_accepts() {
        let none = judged(Policy::Accept, vec![], vec![]);
        assert!(none.dropped_by.is_none() && none.may_drop.is_empty());
        assert_eq!(judged(Policy::Drop, vec![], vec![]).dropped_by, Some(Cause::Policy));
        let accepted = judged(Policy::Drop, vec![rule(1, Verdict::Accept)], vec![]);
        assert_eq!(accepted.dropped_by, None);
        let some = judged(Policy::Drop, vec![if_so(1, Verdict::Accept)], vec![]);
        assert_eq!((some.dropped_by, some.has_exceptions), (Some(Cause::Policy), true));
    }

    #[test]
    fn of_a_rule_the_interfaces_are_understood() {
        let of_others = Rule { incoming: vec![interface("docker0")], ..rule(1, Verdict::Drop) };
        assert!(judged(Policy::Accept, vec![of_others], vec![]).dropped_by.is_none());
        let mut own = rule(1, Verdict::Accept);
        own.incoming = vec![interface("netbpf0")];
        own.outgoing =
            vec![Interface { which: Which::Beginning("docker".to_owned()), negated: true }];
        assert!(judged(Policy::Drop, vec![own], vec![]).dropped_by.is_none());
        let by_index = Interface { which: Which::Index(2), negated: false };
        let drop = Rule { outgoing: vec![by_index], ..rule(3, Verdict::Drop) };
        assert_eq!(
            judged(Policy::Accept, vec![drop], vec![]).dropped_by,
            Some(by_rule("FORWARD", 3))
        );
    }

    #[test]
    fn rules_with_other_conditions_may_drop() {
        let drops = judged(Policy::Accept, vec![if_so(4, Verdict::Reject)], vec![]);
        assert!(drops.dropped_by.is_none());
        assert_eq!(drops.may_drop["FORWARD"], BTreeSet::from([4]));
        let unknown = judged(Policy::Accept, vec![if_so(4, Verdict::Unknown)], vec![]);
        assert_eq!(unknown.may_drop["FORWARD"], BTreeSet::from([4]));
    }

    #[test]
    fn other_chains_are_followed() {
        let jump = || Verdict::Jump("OTHER".to_owned());
        let drop = || vec![rule(7, Verdict::Drop)];
        let certain = judged(Policy::Accept, vec![rule(1, jump())], drop());
        assert_eq!(certain.dropped_by, Some(by_rule("OTHER", 7)));
        let possible = judged(Policy::Accept, vec![if_so(1, jump())], drop());
        assert!(possible.dropped_by.is_none());
        assert_eq!(possible.may_drop["OTHER"], BTreeSet::from([7]));
        // Behind a return that may be taken nothing is certain ...
        let behind = vec![if_so(6, Verdict::Return), rule(7, Verdict::Drop)];
        let possible = judged(Policy::Accept, vec![rule(1, jump())], behind);
        assert!(possible.dropped_by.is_none() && possible.may_drop.contains_key("OTHER"));
        // ... and behind one that is always taken there is nothing.
        let none = vec![rule(6, Verdict::Return), rule(7, Verdict::Drop)];
        let nothing = judged(Policy::Accept, vec![rule(1, jump())], none);
        assert!(nothing.dropped_by.is_none() && nothing.may_drop.is_empty());
        // Whoever goes there does not come back.
        let goto = vec![rule(1, Verdict::Goto("OTHER".to_owned())), rule(2, Verdict::Drop)];
        assert!(judged(Policy::Accept, goto, vec![]).dropped_by.is_none());
    }

    #[test]
    fn chains_that_lead_to_each_other_come_to_an_end() {
        let jump = |to: &str| rule(1, Verdict::Jump(to.to_owned()));
        let rules = vec![jump("OTHER"); 3];
        assert!(judged(Policy::Accept, rules.clone(), vec![]).dropped_by.is_none());
        let many = vec![if_so(1, Verdict::Jump("OTHER".to_owned())); 50];
        assert!(judged(Policy::Accept, many.clone(), many).dropped_by.is_none());
    }
}
