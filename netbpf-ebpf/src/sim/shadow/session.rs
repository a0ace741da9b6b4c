//! What the shadow remembers of a connection.

use netbpf_common::{EndpointId, Ipv4, MacAddr, Ticks, Tuple, proto};

use super::read::Tcp;

/// An address and a port.
pub(super) type End = (Ipv4, u16);

/// Who speaks to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pair {
    pub(super) proto: u8,
    pub(super) src: End,
    pub(super) dst: End,
}

impl Pair {
    /// An answer's.
    pub(super) fn turned(self) -> Self {
        Self { src: self.dst, dst: self.src, ..self }
    }

    /// The key under which the datapath has it.
    pub(super) fn key(self, from_host: bool) -> Tuple {
        let port = netbpf_common::Port::new;
        Tuple {
            saddr: self.src.0,
            daddr: self.dst.0,
            sport: port(self.src.1),
            dport: port(self.dst.1),
            proto: self.proto,
            from_host: from_host.into(),
            pad: [0; 2],
        }
    }
}

/// How a session came to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A namespace spoke to somebody.
    Out,
    /// Somebody spoke to a published port.
    Published,
    /// The host spoke to somebody from a port that a namespace has.
    Host,
}

/// Where packets leave by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Way {
    pub(super) ifindex: u32,
    pub(super) next_hop: Ipv4,
}

/// What has come from one side.
#[allow(clippy::struct_excessive_bools, reason = "each flag has come, or has not")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    /// When the last packet came, or the session was made.
    pub(super) last: u64,
    pub(super) has_spoken: bool,
    pub(super) syn: bool,
    pub(super) ack: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    /// Where the window begins in which the other side is believed.
    pub(super) acked: u32,
    /// Where its packets leave by, and the stretch of time when that was asked for.
    pub(super) way: Way,
    pub(super) asked: u16,
}

/// A connection, or what is like one.
#[allow(clippy::struct_excessive_bools, reason = "each is a yes or no of its own")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) kind: Kind,
    pub(super) owner: EndpointId,
    /// The opener's packets as they come, and as they go on.
    pub(super) sent: Pair,
    pub(super) seen: Pair,
    /// Whether the host itself opened it, to a published port.
    pub(super) is_by_host: bool,
    /// Whether it was opened by the host's own address, and so comes in by `lo`.
    pub(super) is_by_loopback: bool,
    /// Whether its packets go by the host's rules, but for those by `lo`.
    pub(super) has_rules: bool,
    /// Whether nobody else may have its outside port.
    pub(super) owns_port: bool,
    /// MAC of the interface in the namespace.
    pub(super) mac: MacAddr,
    /// The opener's side, and the other.
    pub(super) sides: [Side; 2],
}

/// How far a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Opening,
    Established,
    Closing,
    Over,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// How far from what was acknowledged last an end is still believed.
const WINDOW: u32 = 0x10_0000;

/// Ticks of so many seconds, rounded up.
pub(super) fn seconds(number: u64) -> u64 {
    (number * 1_000_000_000).div_ceil(Ticks::NANOS)
}

impl Session {
    /// Whether packets from that side go into the namespace, or to the host.
    pub(super) fn is_inward(&self, side: usize) -> bool {
        (self.kind == Kind::Published) == (side == 0)
    }

    /// What packets from that side come as.
    pub(super) fn comes(&self, side: usize) -> Pair {
        if side == 0 { self.sent } else { self.seen.turned() }
    }

    /// What they go on as.
    pub(super) fn goes(&self, side: usize) -> Pair {
        if side == 0 { self.seen } else { self.sent.turned() }
    }

    pub(super) fn state(&self) -> State {
        let [opener, other] = &self.sides;
        if opener.rst || other.rst || opener.fin && other.fin {
            State::Over
        } else if opener.fin || other.fin {
            State::Closing
        } else if opener.ack && other.has_spoken {
            State::Established
        } else {
            State::Opening
        }
    }

    /// Whether the connection has been closed or reset.
    pub(super) fn is_closed(&self) -> bool {
        self.sent.proto == proto::TCP && self.state() == State::Over
    }

    /// How long it may be idle.
    fn patience(&self) -> u64 {
        seconds(match self.sent.proto {
            proto::TCP if self.state() == State::Established => 7440,
            proto::TCP => 240,
            proto::UDP if self.sides[1].has_spoken => 120,
            proto::UDP => 30,
            proto::ICMP => 60,
            _ => 600,
        })
    }

    /// How long it still lives. Nobody outside keeps alive what a namespace has
    /// opened, unless it is TCP.
    pub(super) fn left(&self, now: u64) -> u64 {
        let [opener, other] = &self.sides;
        let is_kept_by_both = self.sent.proto == proto::TCP || self.kind == Kind::Published;
        let last = if is_kept_by_both { opener.last.max(other.last) } else { opener.last };
        (last + self.patience()).saturating_sub(now)
    }

    /// A packet has come from that side.
    pub(super) fn packet(&mut self, side: usize, tcp: Option<Tcp>, now: u64) {
        self.sides[side].last = now;
        self.sides[side].has_spoken = true;
        let Some(tcp) = tcp else { return };
        if tcp.flags & RST != 0 {
            self.sides[side].rst |= self.is_believed(side, tcp.seq);
        } else if tcp.flags & SYN != 0 {
            self.opens(side, tcp);
        } else if tcp.flags & FIN != 0 {
            let is_believed = self.is_believed(side, tcp.seq);
            if tcp.flags & ACK != 0 {
                self.acknowledges(side, tcp);
            }
            self.sides[side].fin |= is_believed;
        } else if tcp.flags & ACK != 0 && self.acknowledges(side, tcp) {
            // Who goes on has not reset.
            self.sides[side].rst = false;
        }
    }

    fn opens(&mut self, side: usize, tcp: Tcp) {
        let other = self.sides[1 - side];
        if matches!(self.state(), State::Closing | State::Over) && tcp.flags & ACK == 0 {
            // A new connection of the same ports.
            for side in &mut self.sides {
                let Side { last, way, asked, .. } = *side;
                *side = Side { last, ..Side::new(last, way, asked) };
            }
            self.sides[side].has_spoken = true;
        }
        if !other.ack || other.fin || other.rst {
            self.sides[1 - side].acked = tcp.seq.wrapping_add(1);
        }
        self.sides[side].syn = true;
    }

    /// Whether the acknowledgement is one that its sender can have sent.
    fn acknowledges(&mut self, side: usize, tcp: Tcp) -> bool {
        let side = &mut self.sides[side];
        let is_first = side.syn && !side.ack && side.acked != 0;
        if is_first && tcp.ack.wrapping_sub(side.acked) >= WINDOW {
            return false;
        }
        side.acked = tcp.ack;
        side.ack = true;
        true
    }

    /// Whether that side ends the connection: from outside it must be in the window.
    fn is_believed(&self, side: usize, seq: u32) -> bool {
        let other = &self.sides[1 - side];
        !self.is_inward(side) || !other.ack || seq.wrapping_sub(other.acked) < WINDOW
    }
}

impl Side {
    /// One that has not spoken.
    pub(super) fn new(last: u64, way: Way, asked: u16) -> Self {
        let (has_spoken, syn, ack, fin, rst) = (false, false, false, false, false);
        Self { last, has_spoken, syn, ack, fin, rst, acked: 0, way, asked }
    }
}
