//! What may differ between the two datapaths, and what is compared instead.
//!
//! A number that the scenario itself has said is compared as it is. One that a
//! kernel or a datapath has chosen is called by the order in which it appears:
//!
//! - ports that nobody has said before: `<port 1>`, `<port 2>` ... of each protocol;
//! - identifications of IPv4 packets that kernels make: `<id>`, since there is
//!   nothing in their order;
//! - sequence numbers of TCP that kernels choose: `<isn 1>`, and what is up to
//!   64 KiB above: `<isn 1>+1`;
//! - MACs are called by whose they are.
//!
//! A checksum over a part of a packet cannot be judged: it is compared as it is,
//! unless one of those numbers is under it. Answers to ICMP timestamp queries have
//! the kernel's time: `<time>`. In IP options, what is behind a
//! timestamp's pointer is compared, and not the times that were stamped. TCP has no
//! timestamps: the kernels on the stage are told not to send any.

use std::collections::BTreeSet;

use netbpf_common::MacAddr;

use super::{
    capture::Arrival,
    decode::{self, Field, Value, decode, half, word},
    packet::proto,
    scenario::{Answer, Scenario, What},
    stage::{self, Place, Station},
};

/// How far above a number others are called by it.
const WINDOW: u32 = 0x1_0000;

/// Something that came out somewhere, in words that can be compared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Seen {
    /// Where.
    pub place: Place,
    /// Its fields and what they say.
    pub fields: Vec<(String, String)>,
    /// The step after which it came.
    pub step: usize,
}

impl Seen {
    /// What the field of that name says; nothing if there is none.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// Whether it is a TCP segment that resets a connection.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.field("tcp.flags").is_some_and(|flags| flags.contains("RST"))
    }

    /// Whether it is the same packet at the same place, whenever it came.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        (self.place, &self.fields) == (other.place, &other.fields)
    }
}

/// The MACs of a sandbox, by whose they are.
pub type Stations = Vec<([u8; 6], Station)>;

/// The numbers that are known, and names for those that are not.
#[derive(Debug)]
pub struct Names<'a> {
    stations: &'a Stations,
    ports: BTreeSet<u16>,
    ids: BTreeSet<u16>,
    sequences: Vec<u32>,
    new_ports: Vec<(String, u16)>,
    new_sequences: Vec<u32>,
}

impl<'a> Names<'a> {
    /// The numbers that a scenario says, and those that everybody knows.
    #[must_use]
    pub fn new(scenario: &Scenario, stations: &'a Stations) -> Self {
        let mut names = Self {
            stations,
            ports: BTreeSet::from([stage::OPEN, stage::CLOSED]),
            ids: BTreeSet::from([0]),
            sequences: vec![0],
            new_ports: Vec::new(),
            new_sequences: Vec::new(),
        };
        for published in stage::PUBLISHED {
            names.ports.extend(published.port..published.port + published.count);
            names.ports.extend(published.target..published.target + published.count);
        }
        for (number, step) in scenario.steps.iter().enumerate() {
            match &step.what {
                What::Packet(packet) | What::Train { packet, .. } => names.learn(packet),
                What::Frame(frame) => names.learn(&frame.payload),
                What::Answer(Answer::Tcp { seq, ack, .. }) => {
                    names.sequences.extend(seq.iter().chain(ack));
                }
                What::Answer(_) | What::Error(_) => {}
            }
            if step.ip().is_none() {
                names.ids.insert(id_of_step(scenario, number));
            }
        }
        names
    }

    /// Learns what a packet says, wherever in it that may be.
    fn learn(&mut self, packet: &[u8]) {
        let header_len = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
        let Some(payload) = packet.get(header_len..).filter(|_| packet.len() >= 20) else { return };
        self.ids.insert(half(packet, 4));
        self.ports.extend([half(payload, 0), half(payload, 2)]);
        match packet[9] {
            proto::TCP => self.sequences.extend([word(payload, 4), word(payload, 8)]),
            proto::ICMP => {
                self.ports.insert(half(payload, 4));
                if let Some(quoted) = payload.get(8..).filter(|quoted| quoted.len() >= 20) {
                    self.learn(quoted);
                }
            }
            _ => {}
        }
    }

    /// What came out, in words that can be compared.
    pub fn seen(&mut self, arrival: &Arrival) -> Seen {
        let fields = decode(arrival.link.as_ref(), &arrival.bytes, arrival.pending);
        let opens = |field: &Field| {
            let is_syn = matches!(&field.value, Value::Text(text) if text.contains("SYN"));
            is_syn && field.name == "tcp.flags"
        };
        if fields.iter().any(opens) {
            self.begin(&fields);
        }
        let fields = fields.into_iter().map(|field| {
            let Field { name, value } = field;
            let text = match value {
                Value::Text(text) => text,
                Value::Mac(mac) => self.mac(mac),
                Value::Port(port) => self.port(&name, port),
                Value::Id(id) if self.ids.contains(&id) => format!("{id:#06x}"),
                Value::Id(_) => "<id>".to_owned(),
                Value::Sequence(number) => self.sequence(number),
                Value::Options(bytes) => decode::hex(&without_times(&bytes)),
            };
            (name, text)
        });
        let mut fields: Vec<(String, String)> = fields.collect();
        blur(&mut fields, arrival);
        if arrival.in_parts {
            fields.push(("ip.cut".to_owned(), "yes".to_owned()));
        }
        if fields.iter().any(|field| *field == ("icmp.type".into(), "14/0".into()))
            && fields.iter().any(|field| *field == ("ip.id".into(), "<id>".into()))
            && let Some((_, data)) = fields.iter_mut().find(|(name, _)| name == "data")
        {
            // The time of the question is its own.
            data.truncate(8);
            data.push_str("<time>");
        }
        Seen { place: arrival.place, fields, step: arrival.step }
    }

    fn mac(&self, mac: [u8; 6]) -> String {
        let named = self.stations.iter().find(|(other, _)| *other == mac);
        let station = named.map_or(Station::Other(MacAddr::new(mac)), |(_, station)| *station);
        station.to_string()
    }

    fn port(&mut self, field: &str, port: u16) -> String {
        if self.ports.contains(&port) {
            return port.to_string();
        }
        // A port of TCP and one of UDP have nothing to do with each other.
        let layer = field.trim_start_matches("quote.").split('.').next().unwrap_or_default();
        let of_layer = self.new_ports.iter().filter(|(other, _)| other == layer);
        let known = of_layer.clone().position(|(_, other)| *other == port);
        let at = known.unwrap_or_else(|| of_layer.count());
        if known.is_none() {
            self.new_ports.push((layer.to_owned(), port));
        }
        format!("<port {}>", at + 1)
    }

    /// The number with which a segment opens a connection is a new one, however near
    /// another may be.
    fn begin(&mut self, fields: &[Field]) {
        let first = fields.iter().find_map(|field| match field.value {
            Value::Sequence(number) if field.name == "tcp.seq" => Some(number),
            _ => None,
        });
        let Some(first) = first else { return };
        let is_said = self.sequences.iter().any(|&base| first.wrapping_sub(base) < WINDOW);
        if !is_said && !self.new_sequences.contains(&first) {
            self.new_sequences.push(first);
        }
    }

    fn sequence(&mut self, number: u32) -> String {
        if self.sequences.iter().any(|&base| number.wrapping_sub(base) < WINDOW) {
            return number.to_string();
        }
        // Of two that are near, the nearer one: kernels count on with the clock.
        let above = |&(_, base): &(usize, &u32)| number.wrapping_sub(*base);
        let near = self.new_sequences.iter().enumerate().min_by_key(above);
        let near = near.filter(|near| above(near) < WINDOW).map(|(at, _)| at);
        let at = near.unwrap_or_else(|| {
            self.new_sequences.push(number);
            self.new_sequences.len() - 1
        });
        match number.wrapping_sub(self.new_sequences[at]) {
            0 => format!("<isn {}>", at + 1),
            above => format!("<isn {}>+{above}", at + 1),
        }
    }
}

/// Checksums that say something of numbers that were chosen, or of times.
fn blur(fields: &mut [(String, String)], arrival: &Arrival) {
    let chosen: Vec<String> = fields
        .iter()
        .filter(|(_, value)| value.starts_with("<port") || value.starts_with("<isn"))
        .filter_map(|(name, _)| Some(name.rsplit_once('.')?.0.to_owned()))
        .collect();
    let is_stamped = arrival.packet().is_some_and(has_times);
    for (name, value) in fields {
        let layer = name.strip_suffix(".checksum").unwrap_or_default();
        if value.ends_with("of a part") && chosen.iter().any(|other| other == layer) {
            "of a part with chosen numbers".clone_into(value);
        }
        // What the kernel has stamped still has the checksum of before.
        if matches!(layer, "ip" | "quote.ip") && is_stamped && value.starts_with("off by") {
            "off by times".clone_into(value);
        }
    }
}

/// Whether a packet, or what it quotes, has an IP option with times in it.
fn has_times(packet: &[u8]) -> bool {
    let options = |packet: &[u8]| {
        let header_len = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
        packet.get(20..header_len).is_some_and(|options| without_times(options) != options)
    };
    let header_len = usize::from(packet[0] & 15) * 4;
    options(packet) || packet.get(header_len + 8..).is_some_and(options)
}

/// IP options with zeroes for the times that a timestamp option (RFC 791 section
/// 3.1) has been given.
fn without_times(options: &[u8]) -> Vec<u8> {
    const TIMESTAMP: u8 = 68;
    let mut out = options.to_vec();
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let len = match (kind, options.get(at + 1)) {
            (0, _) => break,
            (1, _) => 1,
            (_, Some(&len @ 2..)) => usize::from(len),
            _ => break,
        };
        if let Some(option) =
            out.get_mut(at..at + len).filter(|o| kind == TIMESTAMP && o.len() >= 4)
        {
            let stamped = usize::from(option[2]).saturating_sub(1).clamp(4, len);
            // With or without the address before each.
            let step = if option[3] & 15 > 0 { 8 } else { 4 };
            for entry in option[4..stamped].chunks_mut(step) {
                let from = entry.len().saturating_sub(4);
                entry[from..].fill(0);
            }
        }
        at += len;
    }
    out
}

/// The identification of the packet that is made up in a step.
#[must_use]
pub fn id_of_step(scenario: &Scenario, step: usize) -> u16 {
    let step = u16::try_from(step).unwrap_or(u16::MAX);
    scenario.slot.wrapping_mul(62).wrapping_add(step.wrapping_mul(2)) | 1
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::{
        packet::{Ip, Segment, flag},
        scenario::Step,
    };
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(172, 19, 0, 2);
    const B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

    fn scenario(packet: Vec<u8>) -> Scenario {
        let steps = vec![Step::packet(Place::Ns(1), packet)];
        Scenario { number: 1, slot: 1, name: String::new(), steps }
    }

    #[test]
    fn chosen_numbers_are_called_by_their_order() {
        let stations = Stations::new();
        let scenario = scenario(Ip::new(A, B, 7).udp(1000, 2000, b""));
        let mut names = Names::new(&scenario, &stations);
        let out = |id, sport| Arrival::outside(Ip::new(B, A, id).udp(sport, 2000, b""));
        let kept = names.seen(&out(7, 1000));
        assert_eq!((kept.field("udp.sport"), kept.field("ip.id")), (Some("1000"), Some("0x0007")));
        let one = names.seen(&out(9, 40_000));
        assert_eq!((one.field("udp.sport"), one.field("ip.id")), (Some("<port 1>"), Some("<id>")));
        assert_eq!(names.seen(&out(7, 40_001)).field("udp.sport"), Some("<port 2>"));
        assert_eq!(names.seen(&out(7, 40_000)).field("udp.sport"), Some("<port 1>"));
    }

    #[test]
    fn sequence_numbers_of_kernels_are_relative() {
        let stations = Stations::new();
        let segment = |seq, ack| Segment {
            sport: 1,
            dport: 2,
            seq,
            ack,
            flags: flag::ACK,
            ..Segment::default()
        };
        let ip = Ip::new(A, B, 7);
        let mut names = Names::new(&scenario(ip.tcp(&segment(1_000_000, 0))), &stations);
        let seen = names.seen(&Arrival::outside(ip.tcp(&segment(3_000_000_000, 1_000_001))));
        assert_eq!(seen.field("tcp.seq"), Some("<isn 1>"));
        assert_eq!(seen.field("tcp.ack"), Some("1000001"));
        let seen = names.seen(&Arrival::outside(ip.tcp(&segment(3_000_000_005, 4_000_000_000))));
        assert_eq!(seen.field("tcp.seq"), Some("<isn 1>+5"));
        assert_eq!(seen.field("tcp.ack"), Some("<isn 2>"));
    }

    #[test]
    fn each_connection_of_a_kernel_has_a_first_number_of_its_own() {
        let stations = Stations::new();
        let ip = Ip::new(A, B, 7);
        let segment = |seq, flags| {
            Arrival::outside(ip.tcp(&Segment {
                sport: 1,
                dport: 2,
                seq,
                flags,
                ..Segment::default()
            }))
        };
        let mut names = Names::new(&scenario(ip.udp(1, 2, b"")), &stations);
        let mut seq =
            |seq, flags| names.seen(&segment(seq, flags)).field("tcp.seq").map(str::to_owned);
        let says = |text: &str| Some(text.to_owned());
        assert_eq!(seq(3_000_000_000, flag::SYN | flag::ACK), says("<isn 1>"));
        assert_eq!(seq(3_000_030_000, flag::SYN | flag::ACK), says("<isn 2>"));
        assert_eq!(seq(3_000_030_001, flag::ACK), says("<isn 2>+1"));
        assert_eq!(seq(3_000_000_001, flag::ACK), says("<isn 1>+1"));
    }

    #[test]
    fn a_checksum_is_no_secret() {
        let stations = Stations::new();
        let packet = Ip::new(A, B, 7).udp(1000, 2000, b"data");
        let mut names = Names::new(&scenario(packet.clone()), &stations);
        let right = names.seen(&Arrival::outside(packet.clone()));
        let mut broken = packet;
        broken[27] ^= 1;
        assert!(!right.same(&names.seen(&Arrival::outside(broken))));
    }
}
