//! The rules of `nf_tables`, which iptables has made as well as nft.

use std::collections::BTreeMap;

use netlink_packet_core::{
    DefaultNla, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily as Family,
    nftables::{
        ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook,
        HookNumber, Immediate, InetHookNumber, ListAttribute, Lookup, Meta, MetaKey,
        NfTablesMessage, Operator, Register, RuleAttribute, RuleMessage, Verdict as Code,
        VerdictAttribute,
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::{Chain, Interface, Policy, Rule, Table, Verdict, Which};
use crate::error::{Context as _, Error, Result};

/// `NF_DROP` and `NF_ACCEPT` of `linux/netfilter.h`.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// `NFPROTO_IPV4` of the same, and `ETH_P_IP` as packets have it.
const IPV4: &[u8] = &[2];
const ETHERTYPE_IPV4: &[u8] = &[8, 0];
/// `NFTA_TARGET_NAME` of `linux/netfilter/nf_tables_compat.h`.
const TARGET_NAME: u16 = 1;
/// Larger than the kernel makes any message of a dump.
const BUFFER: usize = 1 << 16;

/// All tables that IPv4 packets come by.
pub(super) fn tables() -> Result<Vec<Table>> {
    let what = "cannot read the host's nf_tables rules";
    let mut socket = Socket::new(NETLINK_NETFILTER).context(what)?;
    socket.bind_auto().context(what)?;
    let mut tables = BTreeMap::new();
    let chains = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
    let rules = NfTablesMessage::GetRule(RuleMessage { attributes: Vec::new() });
    for request in [chains, rules] {
        for (family, message) in
            dump(&socket, request).map_err(|error| Error::failed(what).because(error))?
        {
            let Some(family) = name_of(family) else { continue };
            match message {
                NfTablesMessage::NewChain(chain) => add_chain(&mut tables, family, chain),
                NfTablesMessage::NewRule(rule) => add_rule(&mut tables, family, rule),
                _ => {}
            }
        }
    }
    Ok(tables.into_values().collect())
}

/// All that there is of what is asked for.
fn dump(socket: &Socket, request: NfTablesMessage) -> Result<Vec<(Family, NfTablesMessage)>> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let inner = NetfilterMessage::new(NetfilterHeader::new(Family::Unspec, 0, 0), request);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(inner));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).context("netlink")?;
    let mut found = Vec::new();
    loop {
        let mut buffer = Vec::with_capacity(BUFFER);
        socket.recv(&mut buffer, 0).context("netlink")?;
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
                .context("the kernel's answer cannot be understood")?;
            let len = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(len.max(4)..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => {
                    return Err(error.to_io()).context("the kernel refuses");
                }
                NetlinkPayload::InnerMessage(NetfilterMessage {
                    header,
                    inner: NetfilterMessageInner::NfTables(message),
                    ..
                }) => found.push((header.family, message)),
                _ => {}
            }
        }
    }
}

/// The name of a family that IPv4 packets belong to.
fn name_of(family: Family) -> Option<&'static str> {
    match family {
        Family::IPv4 => Some("ip"),
        Family::Inet => Some("inet"),
        _ => None,
    }
}

/// The chain of a table, both made if they are new.
fn chain<'a>(
    tables: &'a mut BTreeMap<String, Table>,
    family: &str,
    table: &str,
    chain: String,
) -> &'a mut Chain {
    let name = format!("{family} {table}");
    let table = tables.entry(name.clone()).or_insert_with(|| Table {
        listing: format!("nft -a list table {name}"),
        name,
        ..Table::default()
    });
    table.chains.entry(chain).or_default()
}

fn add_chain(tables: &mut BTreeMap<String, Table>, family: &str, message: ChainMessage) {
    let (mut table, mut name) = (String::new(), String::new());
    let (mut is_forward, mut policy) = (false, Policy::Accept);
    for attribute in message.attributes {
        match attribute {
            ChainAttribute::Table(text) => table = text,
            ChainAttribute::Name(text) => name = text,
            ChainAttribute::Policy(DROP) => policy = Policy::Drop,
            ChainAttribute::Hook(hooks) => {
                let forward = HookNumber::Inet(InetHookNumber::Forward);
                is_forward = hooks.contains(&Hook::Number(forward));
            }
            _ => {}
        }
    }
    chain(tables, family, &table, name).policy = is_forward.then_some(policy);
}

fn add_rule(tables: &mut BTreeMap<String, Table>, family: &str, message: RuleMessage) {
    let (mut table, mut name) = (String::new(), String::new());
    let mut rule = Some(Rule::new(0));
    let mut id = 0;
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Table(text) => table = text,
            RuleAttribute::Chain(text) => name = text,
            RuleAttribute::Handle(handle) => id = handle,
            RuleAttribute::Expressions(list) => rule = read(expressions(list)),
            _ => {}
        }
    }
    // One that is for other packets than IPv4's is left out.
    if let Some(rule) = rule {
        chain(tables, family, &table, name).rules.push(Rule { id, ..rule });
    }
}

fn expressions(list: Vec<ListAttribute<ExpressionAttribute>>) -> impl Iterator<Item = Expressions> {
    let attributes = list.into_iter().flat_map(|element| match element {
        ListAttribute::Element(attributes) => attributes,
        _ => Vec::new(),
    });
    attributes.filter_map(|attribute| match attribute {
        ExpressionAttribute::Data(expression) => Some(expression),
        // Those without data have a name only.
        _ => None,
    })
}

/// What a rule asks for and does; nothing if IPv4 packets are never meant.
fn read(expressions: impl Iterator<Item = Expressions>) -> Option<Rule> {
    let mut rule = Rule::new(0);
    // What the last expression has loaded.
    let mut loaded = None;
    for expression in expressions {
        let before = loaded.take();
        match expression {
            Expressions::Meta(attributes) => loaded = loads(&attributes),
            Expressions::Cmp(attributes) => match (before, comparison(&attributes)) {
                (Some(key), Some((negated, data))) => compare(&mut rule, key, negated, data)?,
                _ => rule.is_conditional = true,
            },
            Expressions::Immediate(attributes) => {
                if let Some(verdict) = verdict(attributes) {
                    rule.verdict = verdict;
                }
            }
            Expressions::Lookup(attributes) => {
                rule.is_conditional = true;
                if attributes.contains(&Lookup::DestinationRegister(Register::Verdict)) {
                    rule.verdict = Verdict::Unknown;
                }
            }
            Expressions::Other { expression_type, attributes } => {
                other(&mut rule, &expression_type, &attributes);
            }
            // It loads or changes something, or it is not known.
            Expressions::Payload(_) | Expressions::Bitwise(_) => {}
            _ => rule.is_conditional = true,
        }
    }
    Some(rule)
}

/// What a `meta` loads; nothing if it sets something.
fn loads(attributes: &[Meta]) -> Option<MetaKey> {
    attributes.iter().find(|attribute| matches!(attribute, Meta::DestinationRegister(_)))?;
    attributes.iter().find_map(|attribute| match attribute {
        Meta::Key(key) => Some(*key),
        _ => None,
    })
}

/// Whether something must differ from a value, and the value; nothing if it is
/// compared otherwise.
fn comparison(attributes: &[Cmp]) -> Option<(bool, &[u8])> {
    let negated = attributes.iter().find_map(|attribute| match attribute {
        Cmp::Op(Operator::Equal) => Some(false),
        Cmp::Op(Operator::NotEqual) => Some(true),
        _ => None,
    })?;
    attributes.iter().find_map(|attribute| match attribute {
        Cmp::Data(DataAttribute::Value(value)) => Some((negated, &value[..])),
        _ => None,
    })
}

/// Adds a condition on what a packet is; nothing if no IPv4 packet meets it.
fn compare(rule: &mut Rule, key: MetaKey, negated: bool, data: &[u8]) -> Option<()> {
    let which = match key {
        MetaKey::Nfproto => return ((data == IPV4) != negated).then_some(()),
        MetaKey::EtherTypeProtocol => return ((data == ETHERTYPE_IPV4) != negated).then_some(()),
        MetaKey::Iif | MetaKey::Oif => {
            data.try_into().ok().map(u32::from_ne_bytes).map(Which::Index)
        }
        MetaKey::Iifname | MetaKey::Oifname => Which::from_bytes(data),
        _ => None,
    };
    match (key, which) {
        (_, None) => rule.is_conditional = true,
        (MetaKey::Iif | MetaKey::Iifname, Some(which)) => {
            rule.incoming.push(Interface { which, negated });
        }
        (_, Some(which)) => rule.outgoing.push(Interface { which, negated }),
    }
    Some(())
}

/// The verdict that is given; nothing if something else is loaded.
fn verdict(attributes: Vec<Immediate>) -> Option<Verdict> {
    let verdict = attributes.into_iter().find_map(|attribute| match attribute {
        Immediate::Data(DataAttribute::Verdict(verdict)) => Some(verdict),
        _ => None,
    })?;
    let (mut code, mut chain) = (None, String::new());
    for attribute in verdict {
        match attribute {
            VerdictAttribute::Code(known) => code = Some(known),
            VerdictAttribute::Chain(name) => chain = name,
            _ => {}
        }
    }
    Some(match code? {
        Code::Continue => Verdict::None,
        Code::Jump => Verdict::Jump(chain),
        Code::Goto => Verdict::Goto(chain),
        Code::Return => Verdict::Return,
        Code::Other(DROP) => Verdict::Drop,
        Code::Other(ACCEPT) => Verdict::Accept,
        _ => Verdict::Unknown,
    })
}

/// What an expression means that is known by its name.
fn other(rule: &mut Rule, name: &str, attributes: &[DefaultNla]) {
    match name {
        "reject" => rule.verdict = Verdict::Reject,
        "queue" => rule.verdict = Verdict::Unknown,
        // A target of iptables' own, as `-j REJECT` is.
        "target" => {
            let target = attributes.iter().find(|attribute| attribute.kind() == TARGET_NAME);
            match target.map(value).as_deref() {
                Some(b"REJECT\0") => rule.verdict = Verdict::Reject,
                Some(b"NFQUEUE\0") => rule.verdict = Verdict::Unknown,
                _ => {}
            }
        }
        "counter" | "log" | "notrack" | "byteorder" | "ct" | "rt" | "nat" | "masq" | "redir" => {}
        _ => rule.is_conditional = true,
    }
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}
