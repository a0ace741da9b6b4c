//! Tables of `nf_tables` with one chain, which judges what a bridge forwards from port to
//! port.

use std::{collections::BTreeSet, io};

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterMessageInner, NetfilterProtoFamily as Family,
    nftables::{
        ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook,
        Immediate, InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage, Operator,
        Payload, Register, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
        Verdict as Code, VerdictAttribute,
    },
    none::ControlMessage,
};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};

use super::{NFTABLES, Netfilter, apart, reflection};
use crate::{
    error::{Context as _, Result},
    net::netfilter,
    topology::LinkName,
};

/// What the names of netbpf's own tables begin with.
pub(super) const PREFIX: &str = "NETBPF-";
/// `NFT_PAYLOAD_LL_HEADER`; its first six bytes are the destination's MAC.
const LINK_LAYER: u32 = 0;
/// `IFNAMSIZ`: names are compared with the zeros behind them.
const NAME_LEN: usize = 16;
/// The kernel takes all changes at once, or none; a rule is some 250 bytes of it.
const RULE_LEN: usize = 512;
/// What a socket takes at once without being asked to: half of `net.core.wmem_default`,
/// as the kernel counts its own structures, too.
const ORDINARY_ROOM: usize = 64 * 1024;

/// A rule: its conditions, all of which must be met, and its verdict last.
pub(super) type Rule = Vec<ListAttribute<ExpressionAttribute>>;

/// What becomes of a frame (`NF_DROP`, `NF_ACCEPT` of `linux/netfilter.h`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Verdict {
    /// It goes nowhere.
    Drop = 0,
    /// No rule of this table is asked any more.
    Accept = 1,
}

/// A rule of these parts.
pub(super) fn rule(
    conditions: impl IntoIterator<Item = [Expressions; 2]>,
    verdict: Verdict,
) -> Rule {
    let code = vec![VerdictAttribute::Code(Code::Other(verdict as u32))];
    let give = Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(code)),
    ]);
    let conditions = conditions.into_iter().flatten();
    conditions.chain([give]).map(ListAttribute::from).collect()
}

/// `iifname PORT`
pub(super) fn from(port: &LinkName) -> [Expressions; 2] {
    [meta(MetaKey::Iifname), compare(Operator::Equal, name(port))]
}

/// `oifname PORT`
pub(super) fn to(port: &LinkName) -> [Expressions; 2] {
    [meta(MetaKey::Oifname), compare(Operator::Equal, name(port))]
}

/// `meta mark MARK`
pub(super) fn marked(mark: u32) -> [Expressions; 2] {
    [meta(MetaKey::Mark), compare(Operator::Equal, mark.to_ne_bytes().to_vec())]
}

/// `ether daddr != MAC`
pub(super) fn not_for(mac: netbpf_common::MacAddr) -> [Expressions; 2] {
    let destination = Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(LINK_LAYER),
        Payload::Offset(0),
        Payload::Len(6),
    ]);
    [destination, compare(Operator::NotEqual, mac.octets().to_vec())]
}

fn name(port: &LinkName) -> Vec<u8> {
    let mut name = port.as_str().as_bytes().to_vec();
    name.resize(NAME_LEN, 0);
    name
}

fn meta(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::DestinationRegister(Register::Reg1), Meta::Key(key)])
}

fn compare(operator: Operator, value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
}

/// Makes a table with a chain of these rules, in place of one that is there by that name:
/// there is the one or the other at any time.
///
/// # Errors
/// The kernel's: it has no `nf_tables`, or not for bridges.
pub(super) fn replace(
    table: &str,
    (chain, priority): (&str, u32),
    rules: impl Iterator<Item = Rule>,
) -> io::Result<()> {
    let named = named(table);
    let forward = vec![Hook::Number(InetHookNumber::Forward.into()), Hook::Priority(priority)];
    let attributes = vec![
        ChainAttribute::Table(table.to_owned()),
        ChainAttribute::Name(chain.to_owned()),
        ChainAttribute::Hook(forward),
        ChainAttribute::Type("filter".to_owned()),
    ];
    // Made if it is not there, so that it can be removed, and all is new.
    let mut changes = vec![
        (NLM_F_CREATE, NfTablesMessage::NewTable(named.clone())),
        (0, NfTablesMessage::DeleteTable(named.clone())),
        (NLM_F_CREATE, NfTablesMessage::NewTable(named)),
        (NLM_F_CREATE, NfTablesMessage::NewChain(ChainMessage { attributes })),
    ];
    changes.extend(rules.map(|rule| {
        let attributes = vec![
            RuleAttribute::Table(table.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(rule),
        ];
        // Behind those before it.
        (NLM_F_CREATE | NLM_F_APPEND, NfTablesMessage::NewRule(RuleMessage { attributes }))
    }));
    change(changes)
}

/// The chains of all tables of bridges, each with the name of its table.
///
/// # Errors
/// The kernel's.
pub(super) fn chains() -> io::Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    let ask = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
    Netfilter::open()?.dump_of(Family::Bridge, ask, |message| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = message else {
            return;
        };
        let (mut table, mut name) = (None, None);
        for attribute in chain.attributes {
            match attribute {
                ChainAttribute::Table(text) => table = Some(text),
                ChainAttribute::Name(text) => name = Some(text),
                _ => {}
            }
        }
        all.extend(table.zip(name));
    })?;
    Ok(all)
}

/// The names of netbpf's own tables of other bridges than these, whether there are the
/// bridges or not.
#[must_use]
pub fn of_others<'a>(bridges: impl Iterator<Item = &'a LinkName>) -> BTreeSet<String> {
    if !netfilter::has_nf_tables() {
        return BTreeSet::new();
    }
    let known = bridges.flat_map(|bridge| {
        [reflection::table(bridge), apart::table(bridge), apart::former_table(bridge)]
    });
    let known: BTreeSet<String> = known.collect();
    let tables = chains().unwrap_or_default().into_iter().map(|(table, _)| table);
    tables.filter(|table| table.starts_with(PREFIX) && !known.contains(table)).collect()
}

/// Removes one of netbpf's own tables. One that is gone is no error.
///
/// # Errors
/// The kernel's.
pub fn clear(table: &str) -> Result<()> {
    match change(vec![(0, NfTablesMessage::DeleteTable(named(table)))]) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.context(format!("cannot delete the table bridge {table}")),
    }
}

fn named(table: &str) -> TableMessage {
    TableMessage { attributes: vec![TableAttribute::Name(table.to_owned())] }
}

/// Makes all changes or none.
fn change(changes: Vec<(u16, NfTablesMessage)>) -> io::Result<()> {
    let mut netfilter = Netfilter::open()?;
    let batch = (Family::Unspec, NFTABLES);
    let mut bytes = netfilter.message(0, batch, ControlMessage::BatchBegin);
    let last = changes.len().saturating_sub(1);
    let room = changes.len() * RULE_LEN;
    if room > ORDINARY_ROOM {
        // In a user namespace nobody may have more than `net.core.wmem_max` says.
        setsockopt(&netfilter.socket, sockopt::SndBufForce, &room)
            .or_else(|_| setsockopt(&netfilter.socket, sockopt::SndBuf, &room))?;
    }
    let mut asked = 0;
    for (n, (flags, message)) in changes.into_iter().enumerate() {
        let flags = if n == last { flags | NLM_F_ACK } else { flags };
        bytes.extend(netfilter.message(flags, (Family::Bridge, 0), message));
        asked = netfilter.sequence;
    }
    bytes.extend(netfilter.message(0, batch, ControlMessage::BatchEnd));
    netfilter.socket.send(&bytes, 0)?;
    loop {
        for message in netfilter.receive()? {
            // What is refused is told first, whichever of them it is.
            match message.payload {
                NetlinkPayload::Error(said) if said.code.is_some() => return Err(said.to_io()),
                NetlinkPayload::Error(_) if message.header.sequence_number == asked => {
                    return Ok(());
                }
                _ => {}
            }
        }
    }
}
