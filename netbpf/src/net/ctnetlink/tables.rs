//! The tables of `nf_tables` in which iptables has its chains. It makes them when
//! they are needed, and leaves them when they are no longer.

use std::{collections::BTreeMap, io};

use netlink_packet_netfilter::{
    NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{ChainAttribute, ChainMessage, NfTablesMessage, TableAttribute, TableMessage},
    none::ControlMessage,
};

use super::{NFTABLES, Netfilter};

/// `NLM_F_NONREC` of a deletion: what is not empty stays.
const NOT_RECURSIVE: u16 = 0x100;

/// What lets packets go on (`NF_ACCEPT`).
const ACCEPT: u32 = 1;

/// The chains of IPv4's tables, by the tables' names.
pub type Tables = BTreeMap<String, Vec<String>>;

/// A chain and whether it does nothing: no rule, and packets go on.
struct Chain {
    table: String,
    name: String,
    idle: bool,
}

/// The tables that there are; none where the kernel has no `nf_tables`.
#[must_use]
pub fn all() -> Tables {
    let mut tables = Tables::new();
    let Ok((names, chains)) = look() else { return tables };
    for name in names {
        tables.insert(name, Vec::new());
    }
    for chain in chains {
        tables.entry(chain.table).or_default().push(chain.name);
    }
    tables
}

/// Removes what there was not `before` of the tables of these names, if there is
/// nothing in it. What is in use by then stays.
pub fn tidy(names: &[&str], before: &Tables) {
    let Ok((tables, chains)) = look() else { return };
    for table in tables.iter().filter(|table| names.contains(&table.as_str())) {
        let known = before.get(table);
        let of_table: Vec<&Chain> = chains.iter().filter(|chain| chain.table == *table).collect();
        let is_new = |chain: &&&Chain| !known.is_some_and(|known| known.contains(&chain.name));
        let doomed: Vec<&Chain> =
            of_table.iter().filter(is_new).filter(|chain| chain.idle).copied().collect();
        let whole = known.is_none() && doomed.len() == of_table.len();
        // Somebody may have begun to use it: it stays then.
        let _ = remove(table, &doomed, whole);
    }
}

fn look() -> io::Result<(Vec<String>, Vec<Chain>)> {
    let mut netfilter = Netfilter::open()?;
    let (mut tables, mut chains) = (Vec::new(), Vec::new());
    let ask = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() });
    netfilter.dump(ask, |message| {
        if let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) = message {
            tables.extend(table.attributes.into_iter().find_map(|attribute| match attribute {
                TableAttribute::Name(name) => Some(name),
                _ => None,
            }));
        }
    })?;
    let ask = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
    netfilter.dump(ask, |message| {
        if let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = message {
            chains.extend(read(chain));
        }
    })?;
    Ok((tables, chains))
}

fn read(message: ChainMessage) -> Option<Chain> {
    let (mut table, mut name, mut rules, mut policy) = (None, None, 0, ACCEPT);
    for attribute in message.attributes {
        match attribute {
            ChainAttribute::Table(of) => table = Some(of),
            ChainAttribute::Name(is) => name = Some(is),
            ChainAttribute::Use(count) => rules = count,
            ChainAttribute::Policy(verdict) => policy = verdict,
            _ => {}
        }
    }
    Some(Chain { table: table?, name: name?, idle: rules == 0 && policy == ACCEPT })
}

/// Removes all of it or nothing.
fn remove(table: &str, chains: &[&Chain], whole: bool) -> io::Result<()> {
    let mut netfilter = Netfilter::open()?;
    let of_ipv4 = (NetfilterProtoFamily::IPv4, 0);
    let batch = (NetfilterProtoFamily::Unspec, NFTABLES);
    let mut bytes = netfilter.message(0, batch, ControlMessage::BatchBegin);
    for chain in chains {
        let attributes =
            vec![ChainAttribute::Table(table.to_owned()), ChainAttribute::Name(chain.name.clone())];
        let message = NfTablesMessage::DeleteChain(ChainMessage { attributes });
        bytes.extend(netfilter.message(NOT_RECURSIVE, of_ipv4, message));
    }
    if whole {
        let attributes = vec![TableAttribute::Name(table.to_owned())];
        let message = NfTablesMessage::DeleteTable(TableMessage { attributes });
        bytes.extend(netfilter.message(NOT_RECURSIVE, of_ipv4, message));
    }
    bytes.extend(netfilter.message(0, batch, ControlMessage::BatchEnd));
    // It is done when it is sent. What was refused and why is not asked for.
    netfilter.socket.send(&bytes, 0).map(|_| ())
}
