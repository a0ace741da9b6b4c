//! The rules that there are, as `iptables-save` tells of them.

use std::collections::BTreeMap;

use super::{Jump, Table, TableRules};

/// The rules that there are, by table and chain.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RulesSeen {
    chains: BTreeMap<(Table, String), Vec<String>>,
}

impl RulesSeen {
    /// Understands what `iptables-save` writes; of tables that networks have
    /// nothing in nothing is kept.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut chains: BTreeMap<(Table, String), Vec<String>> = BTreeMap::new();
        let mut table = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::ALL.into_iter().find(|table| table.name() == name.trim());
                continue;
            }
            let Some(table) = table else { continue };
            if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().unwrap_or_default();
                chains.entry((table, name.to_owned())).or_default();
            } else if let Some(rule) = line.strip_prefix("-A ")
                && let Some((chain, rule)) = rule.split_once(' ')
            {
                chains.entry((table, chain.to_owned())).or_default().push(rule.trim().to_owned());
            }
        }
        Self { chains }
    }

    /// The chains that there are, by table and name.
    pub fn chains(&self) -> impl Iterator<Item = &(Table, String)> {
        self.chains.keys()
    }

    /// The rules of a chain; nothing if there is no such chain.
    #[must_use]
    pub fn chain(&self, table: Table, chain: &str) -> Option<&[String]> {
        self.chains.get(&(table, chain.to_owned())).map(Vec::as_slice)
    }

    /// Whether all of a table's rules are there: the chains with just these, and
    /// what leads there.
    #[must_use]
    pub fn has(&self, rules: &TableRules) -> bool {
        self.difference(rules).is_none()
    }

    /// What of a table's rules is not there, or there besides; nothing if all is right.
    #[must_use]
    pub fn difference(&self, rules: &TableRules) -> Option<String> {
        let table = rules.table;
        for super::Chain { name, rules } in &rules.chains {
            let Some(seen) = self.chain(table, name) else {
                return Some(format!("chain {name} is gone"));
            };
            let lacks = rules.iter().find(|rule| !seen.iter().any(|seen| is_same(seen, rule)));
            if let Some(rule) = lacks {
                return Some(format!("{name} lacks: {rule}"));
            }
            let mut left: Vec<&String> = rules.iter().collect();
            for seen in seen {
                match left.iter().position(|rule| is_same(seen, rule)) {
                    Some(at) => drop(left.remove(at)),
                    None => return Some(format!("{name} has besides: {seen}")),
                }
            }
            if !self.has_chain(table, name, rules) {
                return Some(format!("the rules of {name} are in another order"));
            }
        }
        rules.jumps.iter().find_map(|jump| match self.leading(table, jump) {
            0 => Some(format!("{} lacks: {}", jump.from, jump.rule())),
            1 => None,
            times => Some(format!("{} has {times} times: {}", jump.from, jump.rule())),
        })
    }

    /// Whether a chain has just these rules.
    fn has_chain(&self, table: Table, name: &str, rules: &[String]) -> bool {
        let seen = self.chain(table, name);
        seen.is_some_and(|seen| {
            seen.len() == rules.len() && seen.iter().zip(rules).all(|(a, b)| is_same(a, b))
        })
    }

    /// How many times packets are led to a chain.
    #[must_use]
    pub fn leading(&self, table: Table, jump: &Jump) -> usize {
        let rule = jump.rule();
        let chain = self.chain(table, jump.from).unwrap_or_default();
        chain.iter().filter(|seen| is_same(seen, &rule)).count()
    }

    /// The rules of a table that lead to a chain, whosesoever, each with the
    /// chain that it is in.
    pub fn leading_to<'a>(
        &'a self,
        table: Table,
        chain: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let of_table = self.chains.iter().filter(move |((of, _), _)| *of == table);
        of_table.flat_map(move |((_, name), rules)| {
            let leads = move |rule: &&String| {
                let words: Vec<&str> = rule.split(' ').collect();
                words.windows(2).any(|pair| matches!(pair[0], "-j" | "-g") && pair[1] == chain)
            };
            rules.iter().filter(leads).map(move |rule| (name.as_str(), rule.as_str()))
        })
    }
}

/// Whether two rules say the same: versions of iptables differ in what they
/// write without need.
fn is_same(a: &str, b: &str) -> bool {
    normal(a) == normal(b)
}

fn normal(rule: &str) -> Vec<String> {
    let mut words = rule.split_whitespace().peekable();
    let mut normal: Vec<String> = Vec::new();
    while let Some(word) = words.next() {
        match word {
            // A protocol brings its own matches.
            "-m" if words.next_if(|&next| matches!(next, "tcp" | "udp")).is_some() => {}
            _ if normal.last().is_some_and(|last| last == "--ctstate") => {
                let mut states: Vec<&str> = word.split(',').collect();
                states.sort_unstable();
                normal.push(states.join(","));
            }
            _ => normal.push(word.strip_suffix("/32").unwrap_or(word).to_owned()),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
# Generated by iptables-save v1.8.9 (nf_tables) on Wed Nov 25 03:41:09 2026
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -j MARK --set-xmark 0x1/0xffffffff
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [5:420]
:DOCKER - [0:0]
:NETBPF-a-FWD - [0:0]
-A FORWARD -j NETBPF-a-FWD
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -m comment --comment \"-j NETBPF-a-FWD\" -j DOCKER
-A NETBPF-a-FWD -d 10.0.0.1/32 -i up0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
";

    #[test]
    fn chains_and_what_leads_there_are_understood() {
        let seen = RulesSeen::read(SAVED);
        assert_eq!(seen.chain(Table::Filter, "DOCKER"), Some(&[][..]));
        assert_eq!(seen.chain(Table::Filter, "FORWARD").map(<[_]>::len), Some(3));
        assert_eq!(seen.chain(Table::Nat, "FORWARD"), None);
        let leading: Vec<_> = seen.leading_to(Table::Filter, "NETBPF-a-FWD").collect();
        assert_eq!(leading, [("FORWARD", "-j NETBPF-a-FWD")]);
    }

    #[test]
    fn what_is_written_without_need_makes_no_difference() {
        for (a, b, same) in [
            ("-s 1.2.3.4/32 -j DROP", "-s 1.2.3.4 -j DROP", true),
            ("-p tcp -m tcp --dport 80 -j DROP", "-p tcp --dport 80 -j DROP", true),
            ("-m conntrack --ctstate A,B -j DROP", "-m conntrack --ctstate B,A -j DROP", true),
            ("-s 1.2.3.0/24 -j DROP", "-s 1.2.3.0 -j DROP", false),
            ("-p tcp --dport 80 -j DROP", "-p tcp --dport 81 -j DROP", false),
            ("-i a -j DROP", "! -i a -j DROP", false),
        ] {
            assert_eq!(is_same(a, b), same, "{a}, {b}");
        }
    }
}
