//! Packets that are odd: their time to live, size, options, protocol, checksums and flags.

use super::{
    super::{
        packet::{self, Ip, Segment, flag, fragments},
        scenario::Answer,
        script::Script,
        stage::Place,
    },
    Towards, hairpin, inward, out,
};

pub(super) fn times_to_live(s: &mut Script, towards: Towards) {
    let way = towards(s);
    for ttl in [0, 1, 2, 255] {
        let (ip, port) = (s.ip(way.src, way.dst), s.port());
        s.send(way, Ip { ttl, ..ip }.udp(port, way.dport, b"how far?"));
    }
}

pub(super) fn fragmented(s: &mut Script, towards: Towards) {
    let way = towards(s);
    for order in 0..3 {
        let (ip, port, data) = (s.ip(way.src, way.dst), s.port(), s.data(2000));
        let mut parts = fragments(&ip.udp(port, way.dport, &data), 800);
        parts.rotate_left(order);
        for part in parts {
            s.send(way, part);
        }
        if let Some(to) = way.to {
            s.answer(to, Answer::Udp(b"got it".to_vec()));
        }
    }
}

pub(super) fn options(s: &mut Script) {
    for way in [out(s), inward(s), hairpin(s)] {
        // No operation; record route; timestamp; router alert.
        for options in [
            &[1, 1, 1, 1][..],
            &[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[148, 4, 0, 0],
        ] {
            let (ip, port) = (s.ip(way.src, way.dst), s.port());
            let ip = Ip { options: options.to_vec(), ..ip };
            s.send(way, ip.udp(port, way.dport, b"opted"));
        }
    }
}

pub(super) fn others(s: &mut Script, numbers: &[u8]) {
    for &number in numbers {
        let way = out(s);
        let data = s.data(30);
        s.other(way, number, &data);
        s.answer(Place::Outside, Answer::Same);
        s.error(Place::Outside, 3, 2, 8);
        let way = inward(s);
        s.other(way, number, &data);
    }
}

pub(super) fn no_checksum(s: &mut Script) {
    for way in [out(s), inward(s), hairpin(s)] {
        let (ip, port) = (s.ip(way.src, way.dst), s.port());
        let mut packet = ip.udp(port, way.dport, b"unchecked");
        packet[26..28].fill(0);
        s.send(way, packet);
    }
}

pub(super) fn wrong_checksums(s: &mut Script) {
    for way in [out(s), inward(s), hairpin(s)] {
        let (ip, port) = (s.ip(way.src, way.dst), s.port());
        let mut packet = ip.udp(port, way.dport, b"wrong sum");
        packet[26] ^= 0x10;
        s.send(way, packet.clone());
        packet[26] ^= 0x10;
        packet[10] ^= 0x10;
        s.send(way, packet);
    }
}

pub(super) fn flags(s: &mut Script) {
    for (n, flags) in [0, flag::SYN | flag::FIN, flag::SYN | flag::RST, 0xff, flag::ACK, flag::FIN]
        .into_iter()
        .enumerate()
    {
        for way in [out(s), inward(s)] {
            let ip = s.ip(way.src, way.dst);
            let sport = s.port();
            // A connection each.
            let dport = way.dport + u16::try_from(n).unwrap_or_default();
            let segment = Segment { sport, dport, seq: 5, ack: 6, flags, ..Segment::default() };
            s.send(way, ip.tcp(&segment));
        }
    }
}

pub(super) fn broken(s: &mut Script) {
    for way in [out(s), inward(s), hairpin(s)] {
        let (ip, port) = (s.ip(way.src, way.dst), s.port());
        let whole = ip.udp(port, way.dport, b"broken");
        for len in [0, 1, 19, 20, 24, 27, 33] {
            s.send(way, whole[..len].to_vec());
        }
        for (at, value) in [(0, 0x65), (0, 0x44), (0, 0x4f), (3, 0), (3, 19), (3, 27), (3, 255)] {
            let mut packet = whole.clone();
            packet[at] = value;
            packet::fix_header(&mut packet);
            s.send(way, packet);
        }
    }
}
