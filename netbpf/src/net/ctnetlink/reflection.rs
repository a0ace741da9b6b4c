//! What a bridge must not send back by the port that it came by: a table of
//! `nf_tables` of each bridge's own.

use std::{collections::BTreeSet, io};

use netbpf_common::MacAddr;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterMessageInner, NetfilterProtoFamily as Family,
    nftables::{
        ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook,
        Immediate, InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage, Operator,
        Payload, Register, RuleAttribute, RuleMessage, TableAttribute, TableMessage, Verdict,
        VerdictAttribute,
    },
    none::ControlMessage,
};
use nix::libc;

use super::{NFTABLES, Netfilter};
use crate::{
    error::{Context as _, Result},
    topology::LinkName,
};

const CHAIN: &str = "forward";

/// `NF_DROP`.
const DROP: u32 = 0;
/// `NFT_PAYLOAD_LL_HEADER`; its first six bytes are the destination's MAC.
const LINK_LAYER: u32 = 0;
/// `IFNAMSIZ`: names are compared with the zeros behind them.
const NAME_LEN: usize = 16;

/// The table of a bridge.
fn table(bridge: &LinkName) -> String {
    format!("NETBPF-{bridge}")
}

/// Those of the bridges that drop what they would reflect.
pub fn dropping<'a>(bridges: impl Iterator<Item = &'a LinkName>) -> BTreeSet<LinkName> {
    let names = tables().unwrap_or_default();
    bridges.filter(|bridge| names.contains(&table(bridge))).cloned().collect()
}

/// The bridges that there are such tables of, whether there are the bridges or not.
#[must_use]
pub fn bridges() -> Vec<LinkName> {
    let names = tables().unwrap_or_default();
    let bridges = names.iter().filter_map(|name| name.strip_prefix("NETBPF-"));
    bridges.filter_map(|name| LinkName::existing(name).ok()).collect()
}

/// Has a bridge drop what it would send back by one of the ports that it came by,
/// but for what goes to the port's own MAC.
///
/// # Errors
/// The kernel's: it has no `nf_tables`, or not for bridges.
pub fn drop_reflected<'a>(
    bridge: &LinkName,
    ports: impl Iterator<Item = (&'a LinkName, MacAddr)>,
) -> Result<()> {
    let table = table(bridge);
    let named = TableMessage { attributes: vec![TableAttribute::Name(table.clone())] };
    let forward = vec![Hook::Number(InetHookNumber::Forward.into()), Hook::Priority(0)];
    let chain = vec![
        ChainAttribute::Table(table.clone()),
        ChainAttribute::Name(CHAIN.to_owned()),
        ChainAttribute::Hook(forward),
        ChainAttribute::Type("filter".to_owned()),
    ];
    // Made if it is not there, so that it can be removed, and all is new.
    let mut changes = vec![
        (NLM_F_CREATE, NfTablesMessage::NewTable(named.clone())),
        (0, NfTablesMessage::DeleteTable(named.clone())),
        (NLM_F_CREATE, NfTablesMessage::NewTable(named)),
        (NLM_F_CREATE, NfTablesMessage::NewChain(ChainMessage { attributes: chain })),
    ];
    changes.extend(ports.map(|(port, mac)| {
        let attributes = vec![
            RuleAttribute::Table(table.clone()),
            RuleAttribute::Chain(CHAIN.to_owned()),
            RuleAttribute::Expressions(rule(port, mac)),
        ];
        (NLM_F_CREATE, NfTablesMessage::NewRule(RuleMessage { attributes }))
    }));
    change(changes).context(format!("cannot have {bridge} drop what it would reflect"))
}

/// Undoes it. A table that is gone is no error.
///
/// # Errors
/// The kernel's.
pub fn clear(bridge: &LinkName) -> Result<()> {
    let named = TableMessage { attributes: vec![TableAttribute::Name(table(bridge))] };
    match change(vec![(0, NfTablesMessage::DeleteTable(named))]) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.context(format!("cannot delete the table bridge {}", table(bridge))),
    }
}

/// `iifname PORT oifname PORT ether daddr != MAC drop`
fn rule(port: &LinkName, mac: MacAddr) -> Vec<ListAttribute<ExpressionAttribute>> {
    let register = Register::Reg1;
    let mut name = port.as_str().as_bytes().to_vec();
    name.resize(NAME_LEN, 0);
    let compare = |operator, value: Vec<u8>| {
        Expressions::Cmp(vec![
            Cmp::SourceRegister(register),
            Cmp::Op(operator),
            Cmp::Data(DataAttribute::Value(value)),
        ])
    };
    let meta = |key| Expressions::Meta(vec![Meta::DestinationRegister(register), Meta::Key(key)]);
    let destination = Expressions::Payload(vec![
        Payload::DestinationRegister(register),
        Payload::Base(LINK_LAYER),
        Payload::Offset(0),
        Payload::Len(6),
    ]);
    let verdict = vec![VerdictAttribute::Code(Verdict::Other(DROP))];
    let drop = Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(verdict)),
    ]);
    let all = [
        meta(MetaKey::Iifname),
        compare(Operator::Equal, name.clone()),
        meta(MetaKey::Oifname),
        compare(Operator::Equal, name),
        destination,
        compare(Operator::NotEqual, mac.octets().to_vec()),
        drop,
    ];
    all.into_iter().map(ListAttribute::from).collect()
}

/// The names of the tables of bridges.
fn tables() -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let ask = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() });
    Netfilter::open()?.dump_of(Family::Bridge, ask, |message| {
        if let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) = message {
            names.extend(table.attributes.into_iter().find_map(|attribute| match attribute {
                TableAttribute::Name(name) => Some(name),
                _ => None,
            }));
        }
    })?;
    Ok(names)
}

/// Makes all changes or none.
fn change(changes: Vec<(u16, NfTablesMessage)>) -> io::Result<()> {
    let mut netfilter = Netfilter::open()?;
    let batch = (Family::Unspec, NFTABLES);
    let mut bytes = netfilter.message(0, batch, ControlMessage::BatchBegin);
    let last = changes.len().saturating_sub(1);
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
