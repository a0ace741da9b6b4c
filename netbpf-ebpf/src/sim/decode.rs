//! The bytes that stand for events.
//!
//! Any bytes mean something, an event is a few of them, and most of what they
//! choose comes from small pools, so that flows meet each other. The corpus is
//! written in this encoding: it has to be made anew when that changes.

use std::{vec, vec::Vec};

use netbpf_common::{EndpointId, Flow, Ipv4, MacAddr, PublishEntry, Ticks, proto};

use super::{
    event::{Body, Content, Event, Twist},
    invariants::Program,
    packet::{Addresses, Segment},
    testbed::{
        GATEWAY, HOST, NAMESPACES, PEER, ROUTER, UPLINK, endpoint_id, namespace, port, publish,
    },
};

/// Interface index of a second uplink.
pub const OTHER_UPLINK: u32 = 3;
/// The second uplink's MAC and address.
pub const OTHER_HOST: (MacAddr, Ipv4) =
    (MacAddr::new([2, 0, 0, 0, 2, 1]), Ipv4::new([198, 18, 0, 1]));
/// MAC and address of the router behind the second uplink.
pub const OTHER_ROUTER: (MacAddr, Ipv4) =
    (MacAddr::new([2, 0, 0, 0, 2, 2]), Ipv4::new([198, 18, 0, 2]));
/// Somebody whom the second uplink leads to.
pub const FAR: Ipv4 = Ipv4::new([10, 9, 9, 9]);
/// A neighbour on the first uplink's own network.
pub const ON_LINK: (MacAddr, Ipv4) =
    (MacAddr::new([2, 0, 0, 0, 1, 9]), Ipv4::new([203, 0, 113, 9]));
/// Another peer far away.
const OTHER_PEER: Ipv4 = Ipv4::new([198, 51, 100, 10]);
/// What nobody has: something nested in a namespace may.
const NESTED: (MacAddr, Ipv4) = (MacAddr::new([2, 0, 0, 0, 0, 77]), Ipv4::new([172, 19, 0, 77]));
/// The host, as it calls itself.
const LOCALHOST: Ipv4 = Ipv4::new([127, 0, 0, 1]);
/// All on the link.
const EVERYBODY: (MacAddr, Ipv4) = (MacAddr::BROADCAST, Ipv4::new([255; 4]));

/// Ports of clients and servers, published ones and their targets, extremes.
const PORTS: [u16; 16] =
    [2000, 53, 2001, 443, 2002, 80, 700, 701, 7000, 7005, 8080, 9000, 9005, 9010, 0, 65_535];
/// Largest IP packet that the namespaces and the first uplink take.
pub const MTU: u32 = 200;
/// Largest IP packet that the second uplink takes.
pub const OTHER_MTU: u32 = 180;
/// Bytes of payload: around both.
const LENGTHS: [usize; 8] = [0, 1, 8, 101, 152, 153, 173, 400];
/// Seconds: around the time-outs, and around how long a flow is not looked at.
const SECONDS: [u32; 13] = [1, 15, 16, 29, 30, 59, 60, 120, 239, 240, 300, 7439, 7440];

/// Bytes, taken from the front.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The halves of the next byte, low one first: two indices.
    fn halves(&mut self) -> Option<(usize, usize)> {
        let byte = usize::from(self.byte()?);
        Some((byte & 15, byte >> 4))
    }

    /// The next event; none if the bytes end before it does.
    pub fn event(&mut self) -> Option<Event> {
        let (kind, choice) = self.halves()?;
        let n = u8::try_from(choice).ok()? % NAMESPACES + 1;
        let uplink = if choice & 8 == 0 { UPLINK } else { OTHER_UPLINK };
        let (program, ifindex, addresses) = match kind {
            0..=4 => (Program::FromEndpoint, port(n), self.inside(n)?),
            5..=7 => (Program::FromUplink, uplink, self.outside()?),
            8 if choice & 1 == 0 => (Program::ToUplink, uplink, self.outside()?),
            8 => (Program::FromUplink, Flow::LOOPBACK, self.host()?),
            9 | 10 => return Some(Event::Answer { index: choice, content: self.content()? }),
            11 => return Some(Event::Error { index: choice, content: self.content()? }),
            12 => return Some(Event::Wait(span(choice))),
            13 if choice < 12 => return Some(Event::Sweep),
            13 => return Some(Event::Reroute(choice & 1 == 0)),
            14 => return self.control(choice, n),
            _ => return Some(shortage(choice)),
        };
        Some(Event::Frame { program, ifindex, addresses, content: self.content()? })
    }

    /// What the control plane does.
    fn control(&mut self, choice: usize, n: u8) -> Option<Event> {
        Some(match choice {
            0..=2 => Event::Flush(endpoint_id(n)),
            3 => Event::Flush(EndpointId::NONE),
            4..=7 => Event::Publish(published(choice - 4)),
            8..=10 => Event::Remove(n),
            11..=13 => Event::Add(n, self.byte()? % 3),
            14 => Event::Resolve(false),
            _ => Event::Resolve(true),
        })
    }

    /// Sender and receiver of what the `n`-th namespace sends.
    fn inside(&mut self, n: u8) -> Option<Addresses> {
        let (from, to) = self.halves()?;
        let (own, other) = (namespace(n), namespace(n % NAMESPACES + 1));
        let from = match from & 7 {
            0..=2 => own,
            3 => other,
            4 => NESTED,
            5 => (own.0, NESTED.1),
            6 => (own.0, PEER),
            _ => (own.0, Ipv4::ANY),
        };
        let to = match to {
            0..=3 => (GATEWAY.0, PEER),
            4 => (GATEWAY.0, OTHER_PEER),
            5 => (GATEWAY.0, ON_LINK.1),
            6 => (GATEWAY.0, FAR),
            7 => (GATEWAY.0, HOST.1),
            8 => (GATEWAY.0, OTHER_HOST.1),
            9 => (GATEWAY.0, other.1),
            10 => GATEWAY,
            11 => own,
            12 => other,
            13 => NESTED,
            14 => (ROUTER.0, PEER),
            _ => EVERYBODY,
        };
        Some(Addresses { from, to })
    }

    /// Sender and receiver of what comes in, or goes out, by an uplink.
    fn outside(&mut self) -> Option<Addresses> {
        let (from, to) = self.halves()?;
        let from = match from & 7 {
            0..=2 => PEER,
            3 => OTHER_PEER,
            4 => FAR,
            5 => namespace(1).1,
            6 => HOST.1,
            _ => Ipv4::ANY,
        };
        let to = match to & 7 {
            0..=2 => HOST.1,
            3 => OTHER_HOST.1,
            4 => namespace(1).1,
            5 => NESTED.1,
            6 => ON_LINK.1,
            _ => PEER,
        };
        Some(Addresses { from: (ROUTER.0, from), to: (HOST.0, to) })
    }

    /// Sender and receiver of what the host sends to itself.
    fn host(&mut self) -> Option<Addresses> {
        let (from, to) = self.halves()?;
        let addr = |choice: usize| match choice & 7 {
            0..=2 => LOCALHOST,
            3..=5 => HOST.1,
            6 => OTHER_HOST.1,
            _ => GATEWAY.1,
        };
        let end = |choice| (MacAddr::ZERO, addr(choice));
        Some(Addresses { from: end(from), to: end(to) })
    }

    fn content(&mut self) -> Option<Content> {
        let kind = self.byte()?;
        let (sport, dport) = self.halves()?;
        let (seq, ack) = self.halves()?;
        let twist = Twist(u16::from_le_bytes([self.byte()?, self.byte()?]));
        let body = match kind & 7 {
            0 | 1 => Body::Tcp,
            2 | 3 => Body::Udp,
            4 => Body::Icmp(8),
            5 => Body::Icmp(kind >> 3 & 3),
            6 => [Body::Gre, Body::Sctp, Body::UdpLite, Body::Gre][usize::from(kind >> 3 & 3)],
            _ => Body::Arp,
        };
        let segment = Segment {
            sport: PORTS[sport],
            dport: PORTS[dport],
            flags: kind >> 3,
            seq: number(seq),
            ack: number(ack),
        };
        let mut content = Content {
            body,
            segment,
            // Three bits of the two bytes are left.
            len: LENGTHS[usize::from(twist.0 >> 13)],
            twist,
            mutation: (0, 0),
        };
        if twist.has(Twist::MUTATED) {
            content.mutation = (self.byte()?, self.byte()?);
        }
        Some(content)
    }
}

/// What the kernel has less of, or has again.
fn shortage(choice: usize) -> Event {
    match choice {
        0..=7 => Event::Shorten(choice),
        _ => Event::Plug(choice & 1 == 0),
    }
}

/// A sequence or acknowledgement number: some follow on others, some are a
/// window away, some wrap.
fn number(choice: usize) -> u32 {
    let first = [0, 900, 1 << 20, u32::MAX][choice >> 2];
    first.wrapping_add([0, 1, 100, 901][choice & 3])
}

/// A span of some ticks, or of some seconds.
fn span(choice: usize) -> Ticks {
    match choice.checked_sub(3) {
        None => Ticks([0, 1, 8][choice]),
        Some(index) => Ticks::from_secs(SECONDS[index]),
    }
}

/// Sets of published ports. The last but one has ports that clients use, the
/// last one all those of a client's class.
fn published(choice: usize) -> Vec<PublishEntry> {
    match choice {
        0 => vec![
            publish(proto::TCP, Ipv4::ANY, 80, 80, (1, 80)),
            publish(proto::TCP, Ipv4::ANY, 8080, 8080, (1, 80)),
            publish(proto::UDP, Ipv4::ANY, 9000, 9010, (1, 7000)),
        ],
        1 => vec![],
        2 => vec![
            publish(proto::UDP, Ipv4::ANY, 2000, 2001, (2, 7000)),
            publish(proto::TCP, HOST.1, 443, 443, (3, 443)),
            publish(proto::TCP, Ipv4::ANY, 443, 443, (1, 80)),
        ],
        _ => vec![
            publish(proto::UDP, Ipv4::ANY, 0, 1023, (3, 7000)),
            publish(proto::TCP, Ipv4::ANY, 8080, 9000, (2, 80)),
        ],
    }
}
