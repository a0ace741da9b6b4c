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
//! There are no timestamps: the kernels on the stage are told not to send any.

use std::collections::BTreeSet;

use netbpf_common::MacAddr;

use super::{
    capture::Arrival,
    decode::{Value, decode, half, word},
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
                What::Packet(packet) => names.learn(packet),
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
        let fields = fields.into_iter().map(|field| {
            let text = match field.value {
                Value::Text(text) => text,
                Value::Mac(mac) => self.mac(mac),
                Value::Port(port) => self.port(&field.name, port),
                Value::Id(id) if self.ids.contains(&id) => format!("{id:#06x}"),
                Value::Id(_) => "<id>".to_owned(),
                Value::Sequence(number) => self.sequence(number),
            };
            (field.name, text)
        });
        Seen { place: arrival.place, fields: fields.collect(), step: arrival.step }
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

    fn sequence(&mut self, number: u32) -> String {
        if self.sequences.iter().any(|&base| number.wrapping_sub(base) < WINDOW) {
            return number.to_string();
        }
        let near = |&base: &u32| number.wrapping_sub(base) < WINDOW;
        let at = self.new_sequences.iter().position(near).unwrap_or_else(|| {
            self.new_sequences.push(number);
            self.new_sequences.len() - 1
        });
        match number.wrapping_sub(self.new_sequences[at]) {
            0 => format!("<isn {}>", at + 1),
            above => format!("<isn {}>+{above}", at + 1),
        }
    }
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

    fn arrival(bytes: Vec<u8>) -> Arrival {
        Arrival { step: 0, place: Place::Outside, link: None, bytes, pending: false }
    }

    #[test]
    fn chosen_numbers_are_called_by_their_order() {
        let stations = Stations::new();
        let scenario = scenario(Ip::new(A, B, 7).udp(1000, 2000, b""));
        let mut names = Names::new(&scenario, &stations);
        let out = |id, sport| arrival(Ip::new(B, A, id).udp(sport, 2000, b""));
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
        let seen = names.seen(&arrival(ip.tcp(&segment(3_000_000_000, 1_000_001))));
        assert_eq!(seen.field("tcp.seq"), Some("<isn 1>"));
        assert_eq!(seen.field("tcp.ack"), Some("1000001"));
        let seen = names.seen(&arrival(ip.tcp(&segment(3_000_000_005, 4_000_000_000))));
        assert_eq!(seen.field("tcp.seq"), Some("<isn 1>+5"));
        assert_eq!(seen.field("tcp.ack"), Some("<isn 2>"));
    }

    #[test]
    fn a_checksum_is_no_secret() {
        let stations = Stations::new();
        let packet = Ip::new(A, B, 7).udp(1000, 2000, b"data");
        let mut names = Names::new(&scenario(packet.clone()), &stations);
        let right = names.seen(&arrival(packet.clone()));
        let mut broken = packet;
        broken[27] ^= 1;
        assert!(!right.same(&names.seen(&arrival(broken))));
    }
}
