//! Scenarios made of a seed: any number of them, and the same ones again.
//!
//! A scenario is a conversation between two, along one of the ways that packets
//! can go, with something odd about it now and then; or frames that are wrong from
//! the beginning.

use std::net::Ipv4Addr;

use netbpf_common::MacAddr;

use super::{
    catalogue,
    packet::{self, DONT_FRAGMENT, Ip, Segment, flag, fragments, proto},
    scenario::{ARP, Answer, Frame, IPV4, IPV6, IcmpError, Scenario, Step},
    script::{Script, Way},
    stage::{self, GATEWAY, OUTSIDE, Place, Station, UPLINK, address},
};

/// The scenario of that number that the seed gives, for that slot of a stage.
#[must_use]
pub fn scenario(seed: u64, number: u32, slot: u16) -> Scenario {
    let mut script = Script::new("", number, slot, seed);
    let s = &mut script;
    match s.random.below(20) {
        0..4 => datagrams(s),
        4..7 => echoes(s),
        7..11 => segments(s),
        11..13 => errors(s),
        13..15 => in_fragments(s),
        15 => other_protocol(s),
        16..18 => mutated(s),
        18 => forged(s),
        _ => not_ipv4(s),
    }
    script.end()
}

/// A way, and what it is called.
fn way(s: &mut Script) -> Way {
    let (answered, narrow, silent) = (s.far_answered(), s.far_narrow(), s.far());
    let far = s.random.pick([answered, answered, narrow, silent, silent, silent]);
    let silent = s.random.pick([3, 4]);
    let open = s.random.pick([stage::OPEN, stage::CLOSED]);
    let inside = |s: &mut Script| {
        let offset = u16::try_from(s.random.below(100)).unwrap_or_default();
        let silent = (stage::PUBLISHED_SILENT + offset, Some(Place::Ns(3)));
        let other = (stage::PUBLISHED_OTHER, Some(Place::Ns(4)));
        let (open, closed) = (stage::PUBLISHED_OPEN, stage::PUBLISHED_CLOSED);
        s.random.pick([silent, silent, other, (open, None), (closed, None)])
    };
    let (what, way) = match s.random.below(14) {
        0..3 => {
            let dport = s.random.half() | 1;
            let (from, src) = (Place::Ns(silent), address(silent));
            ("out", Way { from, src, dst: far, dport, to: Some(Place::Outside) })
        }
        3 => {
            let ns = s.random.pick([1, 2, 3]);
            let (from, src) = (Place::Ns(ns), address(ns));
            ("out to a kernel", Way { from, src, dst: OUTSIDE, dport: open, to: None })
        }
        4..7 => {
            let (dport, to) = inside(s);
            ("in", Way { from: Place::Outside, src: far, dst: UPLINK, dport, to })
        }
        7..9 => {
            let ns = s.random.pick([1, 2, 3, 4]);
            let (dport, to) = inside(s);
            let (from, src) = (Place::Ns(ns), address(ns));
            ("by the host's address", Way { from, src, dst: UPLINK, dport, to })
        }
        9 => {
            let to = 7 - silent;
            let (from, src, dst) = (Place::Ns(silent), address(silent), address(to));
            ("bridged", Way { from, src, dst, dport: 53, to: Some(Place::Ns(to)) })
        }
        10 => {
            let ns = s.random.pick([1, 3]);
            let dst = s.random.pick([GATEWAY, UPLINK]);
            let (from, src) = (Place::Ns(ns), address(ns));
            ("to the host", Way { from, src, dst, dport: open, to: None })
        }
        11 => {
            let (from, src, dst) = (Place::Outside, far, UPLINK);
            ("from outside to the host", Way { from, src, dst, dport: open, to: None })
        }
        12 => {
            let dst = s.random.pick([Ipv4Addr::LOCALHOST, UPLINK]);
            let (dport, to) = inside(s);
            ("from the host", Way { from: Place::Host, src: dst, dst, dport, to })
        }
        _ => {
            let way = catalogue::host_direct(s);
            ("from the host to a namespace", way)
        }
    };
    s.call(what);
    way
}

/// A header, with something odd about it now and then.
fn header(s: &mut Script, way: Way) -> Ip {
    let mut ip = s.ip(way.src, way.dst);
    if s.random.once_in(8) {
        ip.ttl = s.random.pick([0, 1, 2, 3, 128, 255]);
        s.call("odd TTL");
    }
    if s.random.once_in(8) {
        ip.tos = s.random.byte();
    }
    if s.random.once_in(3) {
        ip.fragment = DONT_FRAGMENT;
    }
    if s.random.once_in(12) {
        ip.options = options(s);
        s.call("options");
    }
    ip
}

/// IP options: sensible ones, and nonsense.
fn options(s: &mut Script) -> Vec<u8> {
    match s.random.below(6) {
        0 => vec![1; 4],
        1 => vec![148, 4, 0, 0],
        2 => vec![7, 7, 4, 0, 0, 0, 0, 0],
        3 => vec![68, 8, 5, 0, 0, 0, 0, 0],
        4 => vec![0; 4],
        _ => {
            let len = 4 * (1 + s.random.below(10));
            s.data(len)
        }
    }
}

/// Data of any length that a packet on the network may have.
fn data(s: &mut Script) -> Vec<u8> {
    let len = match s.random.below(6) {
        0 => 0,
        1 => 1,
        2..5 => s.random.below(200),
        // Not beside 40 bytes of IP options, but by a narrow path too much.
        _ => s.random.below(1430),
    };
    s.data(len)
}

fn datagrams(s: &mut Script) {
    s.call("UDP");
    let way = way(s);
    for _ in 0..=s.random.below(3) {
        let (ip, port, bytes) = (header(s, way), s.port(), data(s));
        let mut packet = ip.udp(port, way.dport, &bytes);
        if s.random.once_in(8) {
            s.call("no checksum");
            let at = packet.len() - bytes.len() - 2;
            packet[at..at + 2].fill(0);
        }
        s.send(way, packet);
        if let Some(to) = way.to.filter(|_| !s.random.once_in(4)) {
            let bytes = data(s);
            s.answer(to, Answer::Udp(bytes));
        }
    }
}

fn echoes(s: &mut Script) {
    s.call("ICMP queries");
    let way = way(s);
    for sequence in 0..=s.random.below(3) {
        let (ip, port, bytes) = (header(s, way), s.port(), data(s));
        // Echo above all; timestamp, information and address mask.
        let kind = s.random.pick([8, 8, 8, 8, 8, 13, 15, 17, 0, 14]);
        let [a, b] = port.to_be_bytes();
        let low = u8::try_from(sequence).unwrap_or_default();
        s.send(way, ip.icmp(kind, 0, [a, b, 0, low], &bytes));
        if let Some(to) = way.to {
            s.answer(to, Answer::Echo);
        }
    }
}

/// A connection, of which steps may be missing, doubled or out of order.
fn segments(s: &mut Script) {
    s.call("TCP");
    let way = way(s);
    let one = s.random.word() >> 1 | 0x1000;
    let two = one ^ 0x5555_0000;
    let mut script: Vec<(bool, u8, u32, u32, usize)> = vec![
        (true, flag::SYN, one, 0, 0),
        (false, flag::SYN | flag::ACK, two, one + 1, 0),
        (true, flag::ACK, one + 1, two + 1, 0),
        (true, flag::PSH | flag::ACK, one + 1, two + 1, 100),
        (false, flag::PSH | flag::ACK, two + 1, one + 101, 200),
    ];
    let end: Vec<(bool, u8, u32, u32, usize)> = match s.random.below(4) {
        0 => vec![
            (true, flag::FIN | flag::ACK, one + 101, two + 201, 0),
            (false, flag::FIN | flag::ACK, two + 201, one + 102, 0),
            (true, flag::ACK, one + 102, two + 202, 0),
        ],
        1 => vec![(false, flag::RST | flag::ACK, two + 201, one + 101, 0)],
        2 => vec![(true, flag::RST, one + 101, 0, 0)],
        _ => Vec::new(),
    };
    script.extend(end);
    if s.random.once_in(3) {
        s.call("late data");
        script.push((true, flag::ACK, one + 102, two + 202, 10));
        script.push((false, flag::ACK, two + 202, one + 102, 10));
    }
    if s.random.once_in(4) {
        let at = s.random.below(script.len());
        let step = script.remove(at);
        s.call(&format!("without segment {}", at + 1));
        if s.random.once_in(2) {
            script.push(step);
        }
    }
    if s.random.once_in(6) {
        let at = s.random.below(script.len());
        s.call(&format!("segment {} twice", at + 1));
        script.insert(at, script[at]);
    }
    for (number, (forward, flags, seq, ack, len)) in script.into_iter().enumerate() {
        let bytes = s.data(len);
        match way.to {
            // A kernel answers by itself, and its first number is its own.
            None if forward && number > 0 => {
                let (seq, ack) = (Some(seq), None);
                s.answer(way.from, Answer::Tcp { flags, seq, ack, data: bytes });
            }
            None if !forward => {}
            _ if forward => {
                let (ip, sport) = (header(s, way), s.port());
                let dport = way.dport;
                let options = if flags == flag::SYN { vec![2, 4, 5, 0xb4] } else { Vec::new() };
                let segment = Segment { sport, dport, seq, ack, flags, options, data: bytes };
                s.send(way, ip.tcp(&segment));
            }
            Some(to) => {
                let (seq, ack) = (Some(seq), Some(ack));
                s.answer(to, Answer::Tcp { flags, seq, ack, data: bytes });
            }
            None => {}
        }
    }
}

/// Something that may have an error, and errors about it.
fn errors(s: &mut Script) {
    s.call("ICMP errors");
    let way = way(s);
    let (ip, port, bytes) = (header(s, way), s.port(), data(s));
    let packet = match s.random.below(3) {
        0 => ip.udp(port, way.dport, &bytes),
        1 => ip.echo(port, 1, &bytes),
        _ => {
            let seq = s.random.word() >> 1 | 0x1000;
            let (sport, dport, flags) = (port, way.dport, flag::SYN);
            ip.tcp(&Segment { sport, dport, seq, flags, data: bytes, ..Segment::default() })
        }
    };
    s.send(way, packet);
    for _ in 0..=s.random.below(3) {
        let to = way.to.unwrap_or(Place::Outside);
        let from = if s.random.once_in(4) { way.from } else { to };
        let kind = s.random.pick([3, 3, 3, 3, 11, 12, 4, 5, 40]);
        let code = match kind {
            3 => s.random.pick([0, 1, 2, 3, 4, 9, 10, 13, 15, 16]),
            _ => s.random.pick([0, 1]),
        };
        let quote = s.random.pick([0, 4, 8, 8, 8, 8, 12, 20, 28, 64, 548, usize::MAX]);
        let rest = match (kind, code) {
            // Kernels would remember a smaller one, beyond the scenario.
            (3, 4) => [0, 0, 5, 0xdc],
            _ => [0; 4],
        };
        let (far, answered) = (s.far(), s.far_answered());
        let by = s.random.pick([None, None, Some(far), Some(answered), Some(OUTSIDE)]);
        // A namespace says nothing in another's name.
        let by = by.filter(|_| from == Place::Outside);
        s.step(Step::error(from, IcmpError { by, kind, code, rest, quote }));
    }
}

fn in_fragments(s: &mut Script) {
    s.call("fragments");
    let way = way(s);
    let len = 100 + s.random.below(3900);
    let (ip, port, bytes) = (s.ip(way.src, way.dst), s.port(), s.data(len));
    let packet = match s.random.below(3) {
        0 | 1 => ip.udp(port, way.dport, &bytes),
        _ => ip.echo(port, 1, &bytes),
    };
    let size = s.random.pick([64, 200, 512, 1000, 1376, 1400]);
    let mut parts = fragments(&packet, size);
    match s.random.below(6) {
        0 | 1 => {}
        2 | 3 => {
            s.call("shuffled");
            s.random.shuffle(&mut parts);
        }
        4 => {
            let at = s.random.below(parts.len());
            s.call(&format!("without fragment {}", at + 1));
            parts.remove(at);
        }
        _ => {
            let at = s.random.below(parts.len());
            s.call(&format!("fragment {} twice", at + 1));
            parts.insert(at, parts[at].clone());
        }
    }
    // A host's own socket fragments by itself.
    if way.from == Place::Host {
        s.call("one by one");
    }
    for part in parts {
        s.send(way, part);
    }
    if let Some(to) = way.to {
        s.answer(to, Answer::Udp(b"all of it".to_vec()));
        s.answer(to, Answer::Echo);
    }
}

fn other_protocol(s: &mut Script) {
    s.call("another protocol");
    let way = way(s);
    let any = s.random.byte();
    let number = s.random.pick([
        proto::GRE,
        proto::ESP,
        proto::SCTP,
        proto::DCCP,
        proto::UDP_LITE,
        2,
        4,
        41,
        112,
        253,
        any,
    ]);
    s.call(&number.to_string());
    for _ in 0..=s.random.below(2) {
        let bytes = data(s);
        s.other(way, number, &bytes);
        if let Some(to) = way.to {
            s.answer(to, Answer::Same);
        }
    }
}

/// A packet, a few bytes of which are something else.
fn mutated(s: &mut Script) {
    s.call("mutated");
    let way = way(s);
    for _ in 0..=s.random.below(3) {
        let (ip, port, bytes) = (header(s, way), s.port(), data(s));
        let mut packet = match s.random.below(3) {
            0 => ip.udp(port, way.dport, &bytes),
            1 => ip.echo(port, 1, &bytes),
            _ => {
                let (sport, dport, seq) = (port, way.dport, s.random.word());
                let flags = s.random.byte();
                ip.tcp(&Segment { sport, dport, seq, flags, data: bytes, ..Segment::default() })
            }
        };
        let whole = way.from != Place::Host;
        if whole && s.random.once_in(4) {
            packet.truncate(s.random.below(packet.len()));
        }
        // Neither addresses nor the protocol: whose it is stays, and what it is.
        let places = [0, 1, 2, 3, 6, 7, 8, 10, 20, 22, 24, 25, 26, 32, 33];
        for _ in 0..s.random.below(3) {
            let at = s.random.pick(places);
            let byte = s.random.byte();
            if let Some(place) = packet.get_mut(at) {
                *place = byte;
            }
        }
        if s.random.once_in(2) {
            packet::fix_header(&mut packet);
        }
        if whole || packet.len() >= 20 {
            s.send(way, packet);
        }
    }
}

/// Packets from addresses and MACs that are not the sender's.
fn forged(s: &mut Script) {
    s.call("forged");
    let far = s.far();
    for _ in 0..=s.random.below(3) {
        let addrs = [
            address(1),
            address(2),
            address(3),
            address(4),
            GATEWAY,
            stage::NOBODY,
            UPLINK,
            OUTSIDE,
            far,
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::BROADCAST,
            Ipv4Addr::new(224, 0, 0, 1),
            Ipv4Addr::new(172, 19, 0, 255),
            Ipv4Addr::new(172, 19, 0, 0),
            Ipv4Addr::new(203, 0, 113, 255),
            Ipv4Addr::new(240, 0, 0, 1),
            Ipv4Addr::new(0, 0, 0, 1),
        ];
        let (src, dst) = (s.random.pick(addrs), s.random.pick(addrs));
        let from = s.random.pick([Place::Ns(3), Place::Ns(1), Place::Outside, Place::Outside]);
        let (ip, port) = (s.ip(src, dst), s.port());
        let dport = s.random.pick([stage::PUBLISHED_SILENT, stage::PUBLISHED_LOOPBACK, 53]);
        let seq = s.random.word() >> 1;
        let packet = match s.random.below(3) {
            0 => ip.udp(port, dport, b"forged"),
            1 => ip.echo(port, 1, b"forged"),
            _ => {
                ip.tcp(&Segment { sport: port, dport, seq, flags: flag::SYN, ..Segment::default() })
            }
        };
        s.step(Step::packet(from, packet));
    }
}

/// Frames that are no IPv4, or whose Ethernet header is odd.
fn not_ipv4(s: &mut Script) {
    s.call("odd frames");
    let far = s.far();
    for _ in 0..=s.random.below(3) {
        let (from, own) = (Place::Ns(3), Station::Ns(3));
        // Bridges remember who has sent something: not beyond the scenario.
        let [high, low] = s.slot().to_be_bytes();
        let nobody = Station::Other(MacAddr::new([2, 0, 0, high, low, s.random.byte()]));
        let multicast = Station::Other(MacAddr::new([1, 0, 0x5e, 1, 2, s.random.byte()]));
        let dst = s.random.pick([
            Station::Ns(1),
            Station::Ns(2),
            Station::Ns(4),
            Station::Gateway,
            Station::BROADCAST,
            nobody,
            multicast,
        ]);
        let addr = s.random.pick([address(1), address(2), address(4), GATEWAY, far]);
        let (ip, port) = (s.ip(address(3), addr), s.port());
        let ipv4 = ip.udp(port, 53, b"odd");
        let len = s.random.below(60);
        let rubbish = s.data(len);
        let mut frame = match s.random.below(5) {
            0 => Frame::new(dst, own, IPV4, ipv4),
            1 => Frame::new(dst, own, IPV6, rubbish),
            2 => Frame::new(dst, own, ARP, rubbish),
            3 => Frame::new(dst, own, s.random.half() | 0x0800, rubbish),
            _ => Frame::new(dst, nobody, IPV4, ipv4),
        };
        if s.random.once_in(3) {
            frame.tags = (0..=s.random.below(2)).map(|_| s.random.half()).collect();
        }
        s.step(Step::frame(from, frame));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_scenarios_again_and_others_give_others() {
        for number in 0..50 {
            assert_eq!(scenario(1, number, 7), scenario(1, number, 7));
        }
        let differ =
            (0..50).filter(|&n| scenario(1, n, 7).steps != scenario(2, n, 7).steps).count();
        assert!(differ > 45, "{differ}");
    }

    #[test]
    fn there_is_something_of_everything() {
        let names: Vec<String> = (0..2000).map(|n| scenario(1, n, 7).name).collect();
        for what in ["UDP", "TCP", "ICMP errors", "fragments", "mutated", "forged", "options"] {
            let count = names.iter().filter(|name| name.contains(what)).count();
            assert!(count > 20, "{count} of 2000 are about {what}");
        }
    }

    #[test]
    fn the_host_sends_headers_that_are_whole() {
        for number in 0..5000 {
            let scenario = scenario(3, number, 7);
            for step in scenario.steps.iter().filter(|step| step.from == Place::Host) {
                assert!(step.ip().is_none_or(|packet| packet.len() >= 20), "{scenario:?}");
            }
        }
    }
}
