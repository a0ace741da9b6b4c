//! Writing scenarios.

use std::net::Ipv4Addr;

use super::{
    packet::{Ip, Segment, flag, proto},
    random::Random,
    scenario::{Answer, Frame, IPV4, IcmpError, Scenario, Step},
    stage::{self, Place, Station},
};

/// Ports of clients begin here: above all that is published.
const FIRST_PORT: u16 = 10_000;

/// A scenario that is being written, with addresses, ports and numbers that no
/// other one has.
#[derive(Debug)]
pub struct Script {
    number: u32,
    slot: u16,
    name: String,
    steps: Vec<Step>,
    ids: u16,
    /// Chances.
    pub random: Random,
}

/// Who begins a conversation with whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// Who begins.
    pub from: Place,
    /// The address that it has.
    pub src: Ipv4Addr,
    /// The address that it speaks to.
    pub dst: Ipv4Addr,
    /// The port.
    pub dport: u16,
    /// Who is meant, and answers as the script says; nobody, if it is a kernel
    /// that answers by itself, or not.
    pub to: Option<Place>,
}

impl Way {
    /// The namespace whose own address it is to.
    fn beside(&self) -> Option<u8> {
        (1..=stage::NAMESPACES).find(|&ns| stage::address(ns) == self.dst)
    }
}

impl Script {
    /// An empty one, with that number in the run and that slot on the stage.
    #[must_use]
    pub fn new(name: &str, number: u32, slot: u16, seed: u64) -> Self {
        let random = Random::new(seed, number);
        let name = name.to_owned();
        Self { number, slot, name, steps: Vec::new(), ids: slot.wrapping_mul(61), random }
    }

    /// Its slot on the stage.
    #[must_use]
    pub fn slot(&self) -> u16 {
        self.slot
    }

    /// Adds to what it is about.
    pub fn call(&mut self, what: &str) {
        if !self.name.is_empty() {
            self.name.push_str(", ");
        }
        self.name.push_str(what);
    }

    /// What was written.
    #[must_use]
    pub fn end(self) -> Scenario {
        Scenario { number: self.number, slot: self.slot, name: self.name, steps: self.steps }
    }

    /// A port that only this scenario's client has.
    #[must_use]
    pub fn port(&self) -> u16 {
        let spread = u32::from(self.slot) * 3559 % 25_000 * 2;
        FIRST_PORT + u16::try_from(spread).unwrap_or_default()
    }

    /// A far and silent address.
    #[must_use]
    pub fn far(&self) -> Ipv4Addr {
        stage::far(self.slot)
    }

    /// A far address to which the kernels of namespaces answer.
    #[must_use]
    pub fn far_answered(&self) -> Ipv4Addr {
        stage::far_answered(self.slot)
    }

    /// A far address behind a narrow path.
    #[must_use]
    pub fn far_narrow(&self) -> Ipv4Addr {
        stage::far_narrow(self.slot)
    }

    /// A header with an identification of its own.
    pub fn ip(&mut self, src: Ipv4Addr, dst: Ipv4Addr) -> Ip {
        self.ids = self.ids.wrapping_add(2) & !1;
        Ip::new(src, dst, self.ids.max(2))
    }

    /// Data of that length, unlike any other's.
    pub fn data(&mut self, len: usize) -> Vec<u8> {
        self.random.bytes(len)
    }

    /// Adds a step.
    pub fn step(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Whoever begins sends a packet: to a namespace's own address in a frame for
    /// it, to all others by the gateway.
    pub fn send(&mut self, way: Way, packet: Vec<u8>) {
        let step = match (way.from, way.beside()) {
            (Place::Ns(from), Some(to)) => {
                let frame = Frame::new(Station::Ns(to), Station::Ns(from), IPV4, packet);
                Step::frame(way.from, frame)
            }
            _ => Step::packet(way.from, packet),
        };
        self.step(step);
    }

    /// Somebody answers the last packet that has come to it.
    pub fn answer(&mut self, from: Place, answer: Answer) {
        self.step(Step::answer(from, answer));
    }

    /// Somebody says that the last packet that has come to it is at fault.
    pub fn error(&mut self, from: Place, kind: u8, code: u8, quote: usize) {
        // An MTU that kernels remember is one that makes no difference.
        let rest = if (kind, code) == (3, 4) { [0, 0, 5, 0xdc] } else { [0; 4] };
        let error = IcmpError { by: None, kind, code, rest, quote };
        self.step(Step::error(from, error));
    }

    /// Whoever begins sends a UDP datagram.
    pub fn udp(&mut self, way: Way, data: &[u8]) {
        let (ip, port) = (self.ip(way.src, way.dst), self.port());
        self.send(way, ip.udp(port, way.dport, data));
    }

    /// Whoever begins sends an echo request.
    pub fn ping(&mut self, way: Way, data: &[u8]) {
        let (ip, port) = (self.ip(way.src, way.dst), self.port());
        self.send(way, ip.echo(port, 1, data));
    }

    /// Whoever begins sends a TCP segment.
    pub fn tcp(&mut self, way: Way, flags: u8, seq: u32, ack: u32, data: &[u8]) {
        let ip = self.ip(way.src, way.dst);
        let segment = Segment {
            sport: self.port(),
            dport: way.dport,
            seq,
            ack,
            flags,
            options: Vec::new(),
            data: data.to_vec(),
        };
        self.send(way, ip.tcp(&segment));
    }

    /// A whole TCP connection with the script at both ends: opened, a little said
    /// on either side, and closed by whoever began. Its first numbers.
    pub fn connection(&mut self, way: Way) -> (u32, u32) {
        let (one, two) = self.open(way);
        let Some(to) = way.to else { return (one, two) };
        let (ask, reply) = (self.data(20), self.data(30));
        self.tcp(way, flag::PSH | flag::ACK, one + 1, two + 1, &ask);
        self.reply(to, flag::PSH | flag::ACK, two + 1, &reply);
        self.tcp(way, flag::FIN | flag::ACK, one + 21, two + 31, &[]);
        self.reply(to, flag::FIN | flag::ACK, two + 31, &[]);
        self.tcp(way, flag::ACK, one + 22, two + 32, &[]);
        (one, two)
    }

    /// A TCP connection is opened; both first numbers.
    pub fn open(&mut self, way: Way) -> (u32, u32) {
        // Room above, so that nothing wraps around here.
        let one = self.random.word() >> 1 | 0x1000;
        let two = one ^ 0x5555_0000;
        self.tcp(way, flag::SYN, one, 0, &[]);
        let Some(to) = way.to else { return (one, two) };
        self.reply(to, flag::SYN | flag::ACK, two, &[]);
        self.tcp(way, flag::ACK, one + 1, two + 1, &[]);
        (one, two)
    }

    /// Somebody answers a TCP segment, acknowledging all of it.
    pub fn reply(&mut self, from: Place, flags: u8, seq: u32, data: &[u8]) {
        let answer = Answer::Tcp { flags, seq: Some(seq), ack: None, data: data.to_vec() };
        self.answer(from, answer);
    }

    /// Whoever begins sends a packet of another protocol.
    pub fn other(&mut self, way: Way, number: u8, payload: &[u8]) {
        let ip = self.ip(way.src, way.dst);
        let mut bytes = payload.to_vec();
        if matches!(number, proto::SCTP | proto::DCCP | proto::UDP_LITE) {
            let ports = [self.port(), way.dport].map(u16::to_be_bytes).concat();
            bytes = [ports, bytes].concat();
        }
        self.send(way, ip.packet(number, &bytes));
    }
}
