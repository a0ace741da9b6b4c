//! From a packet's bytes to its fields: every byte is in one, whatever is wrong
//! with the packet, so that two packets of which all fields are the same are the
//! same.

use std::{fmt::Write as _, net::Ipv4Addr};

use super::{
    packet::{self, proto},
    scenario::{ARP, IPV4},
};

/// A field of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// What it is called: `ip.ttl`, of a quoted packet `quote.ip.ttl`.
    pub name: String,
    /// What it says.
    pub value: Value,
}

/// What a field says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// Something to be compared as it is.
    Text(String),
    /// A MAC.
    Mac([u8; 6]),
    /// A port, or the identifier of an ICMP query, which stands for one.
    Port(u16),
    /// The identification of an IPv4 packet.
    Id(u16),
    /// A sequence or acknowledgement number of TCP.
    Sequence(u32),
    /// Options of an IPv4 header.
    Options(Vec<u8>),
}

/// Ethernet's part of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Destination.
    pub dst: [u8; 6],
    /// Source.
    pub src: [u8; 6],
    /// VLAN tags (TCI), outermost first.
    pub tags: Vec<u16>,
    /// What is in it.
    pub ethertype: u16,
}

/// Collects fields.
struct Fields {
    prefix: &'static str,
    all: Vec<Field>,
}

impl Fields {
    fn add(&mut self, name: &str, value: Value) {
        self.all.push(Field { name: format!("{}{name}", self.prefix), value });
    }

    #[allow(clippy::needless_pass_by_value, reason = "most are numbers")]
    fn text(&mut self, name: &str, value: impl ToString) {
        self.add(name, Value::Text(value.to_string()));
    }

    fn hex(&mut self, name: &str, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.text(name, hex(bytes));
        }
    }
}

/// The fields of what came in a frame, or without one. A checksum may be `pending`:
/// then it is that of the pseudo header, and the device would complete it.
#[must_use]
pub fn decode(link: Option<&Link>, bytes: &[u8], pending: bool) -> Vec<Field> {
    let mut fields = Fields { prefix: "", all: Vec::new() };
    let mut ethertype = IPV4;
    if let Some(link) = link {
        fields.add("eth.dst", Value::Mac(link.dst));
        fields.add("eth.src", Value::Mac(link.src));
        for tag in &link.tags {
            fields.text("eth.vlan", format!("{tag:#06x}"));
        }
        ethertype = link.ethertype;
    }
    match ethertype {
        IPV4 => ipv4(&mut fields, bytes, Kind::Packet { pending }),
        ARP => arp(&mut fields, bytes),
        other => {
            fields.text("eth.type", format!("{other:#06x}"));
            fields.hex("data", bytes);
        }
    }
    fields.all
}

/// What is decoded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A packet on its way.
    Packet { pending: bool },
    /// One that an ICMP error quotes, probably not to its end.
    Quote,
}

fn arp(fields: &mut Fields, bytes: &[u8]) {
    let (Some(head), Some(body)) = (bytes.get(..8), bytes.get(8..28)) else {
        return fields.hex("arp", bytes);
    };
    fields.hex("arp.head", head);
    let mac = |at: usize| body[at..at + 6].try_into().map_or(Value::Mac([0; 6]), Value::Mac);
    fields.add("arp.sender", mac(0));
    fields.text("arp.sender_ip", addr(body, 6));
    fields.add("arp.target", mac(10));
    fields.text("arp.target_ip", addr(body, 16));
    // Ethernet pads it.
    if bytes[28..].iter().any(|&byte| byte != 0) {
        fields.hex("arp.trailer", &bytes[28..]);
    }
}

fn ipv4(fields: &mut Fields, bytes: &[u8], kind: Kind) {
    let header_len = bytes.first().map_or(0, |first| usize::from(first & 15) * 4);
    if header_len < 20 || bytes.len() < header_len {
        return fields.hex("ip", bytes);
    }
    let (header, rest) = bytes.split_at(header_len);
    let total = usize::from(half(header, 2));
    let fragment = half(header, 6);
    if header[0] >> 4 != 4 {
        fields.text("ip.version", header[0] >> 4);
    }
    let (src, dst, number) = (addr(header, 12), addr(header, 16), header[9]);
    fields.text("ip.src", src);
    fields.text("ip.dst", dst);
    fields.text("ip.proto", number);
    fields.text("ip.ttl", header[8]);
    fields.text("ip.len", total);
    fields.add("ip.id", Value::Id(half(header, 4)));
    if header[1] != 0 {
        fields.text("ip.tos", format!("{:#04x}", header[1]));
    }
    if fragment != 0 {
        fields.text("ip.fragment", format!("{fragment:#06x}"));
    }
    if header_len > 20 {
        fields.add("ip.options", Value::Options(header[20..].to_vec()));
    }
    fields.text("ip.checksum", verdict(packet::checksum(header)));
    let payload_len = total.saturating_sub(header_len).min(rest.len());
    let (payload, padding) = rest.split_at(payload_len);
    let whole = fragment & (packet::OFFSET | packet::MORE_FRAGMENTS) == 0
        && total == header_len + payload.len();
    if fragment & packet::OFFSET == 0 {
        let sum = |sum: u16, at: usize| match kind {
            _ if !whole => format!("{:#06x} of a part", half(payload, at)),
            Kind::Packet { pending: true } if is_pseudo(src, dst, number, payload, at) => ok(),
            Kind::Packet { .. } | Kind::Quote => verdict(sum),
        };
        transport(fields, (src, dst, number), payload, sum);
    } else {
        fields.hex("data", payload);
    }
    if padding.iter().any(|&byte| byte != 0) {
        fields.hex("padding", padding);
    }
}

/// Whether what is in the place of the checksum is what a device completes: the
/// sum of the pseudo header.
fn is_pseudo(src: Ipv4Addr, dst: Ipv4Addr, number: u8, payload: &[u8], at: usize) -> bool {
    let len = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let pseudo = [&src.octets()[..], &dst.octets(), &[0, number], &len].concat();
    !packet::checksum(&pseudo) == half(payload, at)
}

fn transport(
    fields: &mut Fields,
    (src, dst, number): (Ipv4Addr, Ipv4Addr, u8),
    payload: &[u8],
    sum: impl Fn(u16, usize) -> String,
) {
    let pseudo = || packet::pseudo_checksum(src, dst, number, payload);
    match number {
        proto::TCP if payload.len() >= 20 => {
            ports(fields, "tcp", payload);
            fields.add("tcp.seq", Value::Sequence(word(payload, 4)));
            fields.add("tcp.ack", Value::Sequence(word(payload, 8)));
            fields.text("tcp.flags", flags(payload[13]));
            fields.text("tcp.window", half(payload, 14));
            fields.text("tcp.checksum", sum(pseudo(), 16));
            if half(payload, 18) != 0 {
                fields.text("tcp.urgent", half(payload, 18));
            }
            if payload[12] & 15 != 0 {
                fields.text("tcp.reserved", payload[12] & 15);
            }
            let header_len = usize::from(payload[12] >> 4) * 4;
            let (options, data) = match payload.get(20..header_len) {
                Some(options) => (options, &payload[header_len..]),
                None => (&[][..], &payload[20..]),
            };
            if header_len < 20 || header_len > payload.len() {
                fields.text("tcp.header", header_len);
            }
            fields.hex("tcp.options", options);
            fields.hex("data", data);
        }
        proto::TCP if payload.len() >= 8 => {
            ports(fields, "tcp", payload);
            fields.add("tcp.seq", Value::Sequence(word(payload, 4)));
            fields.hex("data", &payload[8..]);
        }
        proto::UDP if payload.len() >= 8 => {
            ports(fields, "udp", payload);
            fields.text("udp.len", half(payload, 4));
            let text = if half(payload, 6) == 0 { "none".to_owned() } else { sum(pseudo(), 6) };
            fields.text("udp.checksum", text);
            fields.hex("data", &payload[8..]);
        }
        proto::ICMP if payload.len() >= 8 => {
            fields.text("icmp.type", format!("{}/{}", payload[0], payload[1]));
            fields.text("icmp.checksum", sum(packet::checksum(payload), 2));
            icmp(fields, payload);
        }
        proto::TCP | proto::UDP | proto::SCTP | proto::DCCP | proto::UDP_LITE
            if payload.len() >= 4 =>
        {
            ports(fields, "l4", payload);
            fields.hex("data", &payload[4..]);
        }
        _ => fields.hex("data", payload),
    }
}

fn icmp(fields: &mut Fields, payload: &[u8]) {
    match payload[0] {
        0 | 8 | 13..=18 => {
            fields.add("icmp.id", Value::Port(half(payload, 4)));
            fields.text("icmp.seq", half(payload, 6));
            fields.hex("data", &payload[8..]);
        }
        3 | 4 | 5 | 11 | 12 | 40 if fields.prefix.is_empty() => {
            fields.hex("icmp.rest", &payload[4..8]);
            fields.prefix = "quote.";
            ipv4(fields, &payload[8..], Kind::Quote);
            fields.prefix = "";
        }
        _ => {
            fields.hex("icmp.rest", &payload[4..8]);
            fields.hex("data", &payload[8..]);
        }
    }
}

fn ports(fields: &mut Fields, layer: &str, payload: &[u8]) {
    fields.add(&format!("{layer}.sport"), Value::Port(half(payload, 0)));
    fields.add(&format!("{layer}.dport"), Value::Port(half(payload, 2)));
}

/// What is said of a checksum, given the sum over all including it.
fn verdict(sum: u16) -> String {
    if sum == 0 { ok() } else { format!("off by {sum:#06x}") }
}

fn ok() -> String {
    "ok".to_owned()
}

fn flags(bits: u8) -> String {
    const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set = NAMES.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 != 0);
    let names: Vec<&str> = set.map(|(_, name)| *name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(",") }
}

/// Bytes that a person may look at: those of long ones are told apart by a hash
/// (FNV-1a).
pub(super) fn hex(bytes: &[u8]) -> String {
    const SHOWN: usize = 24;
    let mut text = String::new();
    for byte in bytes.iter().take(SHOWN) {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    if bytes.len() > SHOWN {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, step);
        let _ = write!(text, "... ({} bytes, {hash:016x})", bytes.len());
    }
    text
}

/// Two bytes, in network order; 0 where there are none.
pub(super) fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Four bytes, in network order; 0 where there are none.
pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) << 16 | u32::from(half(bytes, at + 2))
}

/// An address, in network order.
pub(super) fn addr(bytes: &[u8], at: usize) -> Ipv4Addr {
    word(bytes, at).into()
}

#[cfg(test)]
mod tests {
    use super::super::packet::{Ip, Segment, fragments};
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(172, 19, 0, 2);
    const B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

    fn samples() -> Vec<Vec<u8>> {
        let ip = Ip { options: vec![1; 4], tos: 4, ..Ip::new(A, B, 7) };
        let segment = Segment { sport: 1, dport: 2, data: b"odd".to_vec(), ..Segment::default() };
        let udp = ip.udp(1, 2, &[9; 100]);
        let quote = [&ip.udp(1, 2, b"quoted")[..]].concat();
        let mut all = vec![
            ip.tcp(&segment),
            ip.echo(5, 6, b"ping"),
            Ip::new(B, A, 8).icmp(3, 3, [0; 4], &quote),
            ip.packet(47, b"gre"),
            ip.packet(6, b"short"),
        ];
        all.extend(fragments(&udp, 40));
        all.push(udp);
        all
    }

    #[test]
    fn every_byte_is_in_some_field() {
        for sample in samples() {
            let before = decode(None, &sample, false);
            for at in 0..sample.len() {
                for bit in [1, 0x80] {
                    let mut other = sample.clone();
                    other[at] ^= bit;
                    let after = decode(None, &other, false);
                    assert_ne!(before, after, "byte {at} of {sample:02x?} is in no field");
                }
            }
        }
    }

    #[test]
    fn nothing_is_too_short() {
        for sample in samples() {
            for len in 0..sample.len() {
                let _ = decode(None, &sample[..len], false);
            }
        }
    }

    #[test]
    fn a_checksum_is_judged() {
        let text = |packet: &[u8], pending| {
            let fields = decode(None, packet, pending);
            let found = fields.into_iter().find(|field| field.name == "udp.checksum");
            found.map(|field| field.value)
        };
        let mut packet = Ip::new(A, B, 7).udp(1, 2, b"data");
        let says = |text: &str| Some(Value::Text(text.to_owned()));
        assert_eq!(text(&packet, false), says("ok"));
        packet[26..28].fill(0);
        assert_eq!(text(&packet, false), says("none"));
        let pseudo = [&A.octets()[..], &B.octets(), &[0, 17, 0, 12]].concat();
        let pseudo = !packet::checksum(&pseudo);
        packet[26..28].copy_from_slice(&pseudo.to_be_bytes());
        assert_eq!(text(&packet, true), says("ok"));
        assert_ne!(text(&packet, false), says("ok"));
    }
}
