//! A tracked connection, and how it looks in netlink's messages.

use std::net::{IpAddr, Ipv4Addr};

use netbpf_common::FlowState;
use netlink_packet_core::{DefaultNla, Nla as _};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol, Status, TCPFlags,
    Tuple,
};

/// `CTA_PROTO_ICMP_ID`, `_TYPE` and `_CODE` of `nfnetlink_conntrack.h`.
const ICMP_ID: u16 = 4;
const ICMP_TYPE: u16 = 5;
const ICMP_CODE: u16 = 6;

/// `CTA_COUNTERS_ORIG` and `_REPLY`, `CTA_TIMESTAMP`, `CTA_ZONE`; and in them
/// `CTA_COUNTERS_PACKETS` and `_BYTES`, `CTA_TIMESTAMP_START`.
const COUNTERS_ORIGINAL: u16 = 9;
const COUNTERS_REPLY: u16 = 10;
const ZONE: u16 = 18;
const TIMESTAMP: u16 = 20;
const FIRST: u16 = 1;
const SECOND: u16 = 2;

/// `CTA_NAT_SRC` and `CTA_NAT_DST`; in them `CTA_NAT_V4_MINIP`, `CTA_NAT_V4_MAXIP`
/// and `CTA_NAT_PROTO`, in which the ports are.
const NAT_SOURCE: u16 = 6;
const NAT_DESTINATION: u16 = 13;
const NAT_PROTO: u16 = 3;

/// What is an attribute's kind of its 16 bits (`NLA_TYPE_MASK`).
const KIND: u16 = 0x3fff;

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

const ICMP: u8 = 1;

/// `IP_CT_TCP_FLAG_BE_LIBERAL`: sequence numbers are not judged.
const BE_LIBERAL: u8 = 0x08;

/// Addresses and ports of one direction's packets, as they come in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ends {
    /// The source's address.
    pub src: Ipv4Addr,
    /// The destination's address.
    pub dst: Ipv4Addr,
    /// The source's port, host order; of ICMP the identifier; 0 without ports.
    pub src_port: u16,
    /// The destination's port, host order; of ICMP the identifier; 0 without ports.
    pub dst_port: u16,
    /// Type and code of ICMP; zeros otherwise.
    pub icmp: (u8, u8),
}

impl Ends {
    /// Those of a packet back.
    #[must_use]
    pub fn turned(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            icmp: self.icmp,
        }
    }
}

/// What one direction has carried.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Their bytes, without link-layer headers.
    pub bytes: u64,
}

/// States of TCP, `enum tcp_conntrack`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpState(pub u8);

impl TcpState {
    /// Both sides have acknowledged.
    pub const ESTABLISHED: Self = Self(3);

    /// The name, as `/proc/net/nf_conntrack` shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            1 => "SYN_SENT",
            2 => "SYN_RECV",
            3 => "ESTABLISHED",
            4 => "FIN_WAIT",
            5 => "CLOSE_WAIT",
            6 => "LAST_ACK",
            7 => "TIME_WAIT",
            8 => "CLOSE",
            9 => "SYN_SENT2",
            _ => "NONE",
        }
    }
}

impl From<FlowState> for TcpState {
    /// What eBPF has seen of a connection, in the kernel's words.
    fn from(state: FlowState) -> Self {
        match state {
            FlowState::SynSent => Self(1),
            FlowState::SynReceived => Self(2),
            FlowState::Unreplied | FlowState::Replied | FlowState::Established => Self::ESTABLISHED,
            FlowState::FinWait => Self(4),
            FlowState::TimeWait => Self(7),
            FlowState::Closed => Self(8),
        }
    }
}

/// A tracked connection of IPv4.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connection {
    /// IP protocol number.
    pub proto: u8,
    /// The opening packet, as it came.
    pub original: Ends,
    /// The answer to what became of it.
    pub reply: Ends,
    /// What is known of it.
    pub status: Status,
    /// The state of TCP.
    pub tcp: Option<TcpState>,
    /// Seconds that it still lives without another packet.
    pub timeout: u32,
    /// What both directions have carried, the opening one first; nothing if the
    /// kernel does not count (`nf_conntrack_acct`).
    pub counts: Option<[Counts; 2]>,
    /// When it began, in nanoseconds since 1970; nothing if the kernel does not
    /// note it (`nf_conntrack_timestamp`).
    pub start: Option<u64>,
    /// The zone, which others have made for themselves; 0 is everybody's.
    pub zone: u16,
}

impl Connection {
    /// Whether its packets are translated.
    #[must_use]
    pub fn is_translated(&self) -> bool {
        self.status.intersects(Status::NatMask)
    }

    /// Whether a packet has come back.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.status.contains(Status::SeenReply)
    }

    /// Whether one of its packets' addresses is one of these.
    #[must_use]
    pub fn concerns(&self, is_one: impl Fn(Ipv4Addr) -> bool) -> bool {
        let all = [self.original.src, self.original.dst, self.reply.src, self.reply.dst];
        all.into_iter().any(is_one)
    }

    /// What the kernel tells of a connection; nothing of one that is not IPv4's.
    pub(super) fn read(attributes: &[ConntrackAttribute]) -> Option<Self> {
        let mut tuples = [None; 2];
        let mut proto = 0;
        let (mut status, mut tcp, mut timeout) = (Status::empty(), None, 0);
        let (mut counts, mut start, mut zone) = ([None; 2], None, 0);
        for attribute in attributes {
            match attribute {
                ConntrackAttribute::CtaTupleOrig(tuple) => {
                    let (number, ends) = read_tuple(tuple)?;
                    (proto, tuples[0]) = (number, Some(ends));
                }
                ConntrackAttribute::CtaTupleReply(tuple) => {
                    tuples[1] = Some(read_tuple(tuple)?.1);
                }
                ConntrackAttribute::CtaStatus(bits) => status = *bits,
                ConntrackAttribute::CtaTimeout(seconds) => timeout = *seconds,
                ConntrackAttribute::CtaProtoInfo(infos) => tcp = infos.iter().find_map(read_tcp),
                ConntrackAttribute::Other(other) => match other.kind() & KIND {
                    COUNTERS_ORIGINAL => counts[0] = read_counts(other),
                    COUNTERS_REPLY => counts[1] = read_counts(other),
                    TIMESTAMP => start = number(&value(other), FIRST),
                    ZONE => zone = <[u8; 2]>::try_from(value(other)).map_or(0, u16::from_be_bytes),
                    _ => {}
                },
                _ => {}
            }
        }
        let counts = counts[0].zip(counts[1]).map(<[Counts; 2]>::from);
        let (original, reply) = (tuples[0]?, tuples[1]?);
        Some(Self { proto, original, reply, status, tcp, timeout, counts, start, zone })
    }

    /// What tells it from others.
    pub(super) fn key(&self) -> Vec<ConntrackAttribute> {
        vec![ConntrackAttribute::CtaTupleOrig(write_tuple(self.proto, &self.original))]
    }

    /// All that the kernel needs to know of a new one. It makes the answering
    /// direction's ends itself, from what is to be translated.
    pub(super) fn write(&self) -> Vec<ConntrackAttribute> {
        let (original, reply) = (&self.original, &self.reply);
        let plain = Ends { icmp: reply.icmp, ..original.turned() };
        let mut attributes = self.key();
        for (kind, is, was) in [
            (NAT_SOURCE, (reply.dst, reply.dst_port), (original.src, original.src_port)),
            (NAT_DESTINATION, (reply.src, reply.src_port), (original.dst, original.dst_port)),
        ] {
            if is != was {
                attributes.push(write_nat(kind, is));
            }
        }
        attributes.extend([
            ConntrackAttribute::CtaTupleReply(write_tuple(self.proto, &plain)),
            ConntrackAttribute::CtaStatus(self.status),
            ConntrackAttribute::CtaTimeout(self.timeout),
        ]);
        if let Some(TcpState(state)) = self.tcp {
            let mut infos = vec![ProtoInfoTCP::State(state)];
            // Windows are not known. Two bytes are always understood.
            if let Ok(flags) = TCPFlags::parse(&[BE_LIBERAL, BE_LIBERAL]) {
                infos.push(ProtoInfoTCP::OriginalFlags(flags.clone()));
                infos.push(ProtoInfoTCP::ReplyFlags(flags));
            }
            attributes.push(ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(infos)]));
        }
        attributes
    }
}

fn read_tuple(tuple: &[Tuple]) -> Option<(u8, Ends)> {
    let (mut src, mut dst) = (None, None);
    let mut ends = Ends {
        src: Ipv4Addr::UNSPECIFIED,
        dst: Ipv4Addr::UNSPECIFIED,
        src_port: 0,
        dst_port: 0,
        icmp: (0, 0),
    };
    let mut proto = 0;
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(IpAddr::V4(addr)) => src = Some(*addr),
                        IPTuple::DestinationAddress(IpAddr::V4(addr)) => dst = Some(*addr),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(all) => {
                for part in all {
                    match part {
                        ProtoTuple::Protocol(number) => proto = (*number).into(),
                        ProtoTuple::SourcePort(port) => ends.src_port = *port,
                        ProtoTuple::DestinationPort(port) => ends.dst_port = *port,
                        ProtoTuple::Other(other) => match (other.kind(), &value(other)[..]) {
                            (ICMP_ID, &[a, b]) => {
                                let id = u16::from_be_bytes([a, b]);
                                (ends.src_port, ends.dst_port) = (id, id);
                            }
                            (ICMP_TYPE, &[kind]) => ends.icmp.0 = kind,
                            (ICMP_CODE, &[code]) => ends.icmp.1 = code,
                            _ => {}
                        },
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    (ends.src, ends.dst) = (src?, dst?);
    Some((proto, ends))
}

fn write_tuple(proto: u8, ends: &Ends) -> Vec<Tuple> {
    let mut parts = vec![ProtoTuple::Protocol(Protocol::from(proto))];
    if proto == ICMP {
        let other = |kind, value: &[u8]| ProtoTuple::Other(DefaultNla::new(kind, value.to_vec()));
        parts.extend([
            other(ICMP_ID, &ends.src_port.to_be_bytes()),
            other(ICMP_TYPE, &[ends.icmp.0]),
            other(ICMP_CODE, &[ends.icmp.1]),
        ]);
    } else {
        parts.extend([
            ProtoTuple::SourcePort(ends.src_port),
            ProtoTuple::DestinationPort(ends.dst_port),
        ]);
    }
    let addresses =
        vec![IPTuple::SourceAddress(ends.src.into()), IPTuple::DestinationAddress(ends.dst.into())];
    vec![Tuple::Ip(addresses), Tuple::Proto(parts)]
}

/// A translation to just this address and port.
fn write_nat(kind: u16, (addr, port): (Ipv4Addr, u16)) -> ConntrackAttribute {
    let octets = addr.octets();
    let ports = [nested(FIRST, &port.to_be_bytes()), nested(SECOND, &port.to_be_bytes())].concat();
    let range =
        [nested(FIRST, &octets), nested(SECOND, &octets), nested(NAT_PROTO | NESTED, &ports)];
    ConntrackAttribute::Other(DefaultNla::new(kind | NESTED, range.concat()))
}

/// An attribute: its length, its kind, its value, and zeros up to a multiple of four.
fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [&len.to_ne_bytes(), &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn read_tcp(info: &ProtoInfo) -> Option<TcpState> {
    let ProtoInfo::TCP(infos) = info else { return None };
    infos.iter().find_map(|info| match info {
        ProtoInfoTCP::State(state) => Some(TcpState(*state)),
        _ => None,
    })
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    value
}

fn read_counts(attribute: &DefaultNla) -> Option<Counts> {
    let value = value(attribute);
    Some(Counts { packets: number(&value, FIRST)?, bytes: number(&value, SECOND)? })
}

/// A number of 64 bits among nested attributes.
fn number(mut nested: &[u8], wanted: u16) -> Option<u64> {
    // Each is its length with the header's four bytes, its kind, and its value.
    while let [a, b, c, d, rest @ ..] = nested {
        let (len, kind) = (u16::from_ne_bytes([*a, *b]), u16::from_ne_bytes([*c, *d]));
        let len = usize::from(len).checked_sub(4)?;
        if kind & KIND == wanted {
            return rest.get(..len)?.try_into().ok().map(u64::from_be_bytes);
        }
        nested = rest.get(len.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(proto: u8) -> Connection {
        let icmp = if proto == ICMP { ((8, 0), (0, 0)) } else { ((0, 0), (0, 0)) };
        let tcp = (proto == 6).then_some(TcpState::ESTABLISHED);
        let (src_port, dst_port) = if proto == ICMP { (7, 7) } else { (4000, 443) };
        let original = Ends {
            src: Ipv4Addr::new(172, 19, 0, 2),
            dst: Ipv4Addr::new(203, 0, 113, 2),
            src_port,
            dst_port,
            icmp: icmp.0,
        };
        let reply = Ends {
            src: original.dst,
            dst: original.src,
            src_port: dst_port,
            dst_port: src_port,
            icmp: icmp.1,
        };
        let status = Status::SeenReply | Status::Assured;
        let (counts, start) = (None, None);
        Connection { proto, original, reply, status, tcp, timeout: 60, counts, start, zone: 0 }
    }

    #[test]
    fn what_is_written_can_be_read() {
        for proto in [6, 17, ICMP] {
            let connection = connection(proto);
            assert_eq!(Connection::read(&connection.write()), Some(connection));
        }
        assert_eq!(Connection::read(&connection(6).key()), None, "half of one");
    }

    #[test]
    fn what_is_to_be_translated_is_a_range_of_one() {
        let mut connection = connection(17);
        connection.reply.dst = Ipv4Addr::new(203, 0, 113, 1);
        let others = connection.write().into_iter().filter_map(|attribute| match attribute {
            ConntrackAttribute::Other(other) => Some((other.kind(), value(&other))),
            _ => None,
        });
        let others: Vec<_> = others.collect();
        let addr = [203, 0, 113, 1];
        let port = [&[6, 0, 1, 0][..], &[0x0f, 0xa0, 0, 0], &[6, 0, 2, 0], &[0x0f, 0xa0, 0, 0]];
        let expected =
            [&[8, 0, 1, 0][..], &addr, &[8, 0, 2, 0], &addr, &[20, 0, 3, 0x80], &port.concat()];
        if cfg!(target_endian = "little") {
            assert_eq!(others, [(NAT_SOURCE | NESTED, expected.concat())]);
        }
    }

    #[test]
    fn counters_and_times_are_nested_numbers() {
        let nested = [attribute(FIRST, 3), attribute(SECOND, 300)].concat();
        let counts = read_counts(&DefaultNla::new(COUNTERS_REPLY, nested.clone()));
        assert_eq!(counts, Some(Counts { packets: 3, bytes: 300 }));
        assert_eq!(number(&nested, 7), None);
        assert_eq!(number(&nested[..9], FIRST), None, "cut off");
        assert_eq!(number(&[0, 0, 1, 0], FIRST), None, "no length");
    }

    fn attribute(kind: u16, number: u64) -> Vec<u8> {
        [&12_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &number.to_be_bytes()].concat()
    }
}
