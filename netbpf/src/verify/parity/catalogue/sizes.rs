//! Packets that are too large for where they go, and trains that others cut.

use super::{
    super::{
        packet::{DONT_FRAGMENT, Ip, Segment, flag},
        scenario::Step,
        script::{Script, Way},
        stage::{self, Place, TRAINS, address},
    },
    Towards, inward, out,
};

/// Data with which a UDP datagram is as large as a narrow path, a namespace or the
/// wire takes, and a byte larger.
const LENGTHS: [usize; 6] = [1372, 1373, 1472, 1473, 1600, 1672];

/// To a namespace, which takes less than the wire.
pub(super) fn too_large_in(s: &mut Script) {
    let way = inward(s);
    for len in LENGTHS {
        for fragment in [0, DONT_FRAGMENT] {
            let (ip, port, data) = (s.ip(way.src, way.dst), s.port(), s.data(len));
            s.send(way, Ip { fragment, ..ip }.udp(port, way.dport, &data));
        }
    }
    let (ip, sport, data) = (s.ip(way.src, way.dst), s.port(), s.data(1600));
    let segment = Segment {
        sport,
        dport: way.dport,
        seq: 5_000_000,
        flags: flag::SYN,
        data,
        ..Segment::default()
    };
    s.send(way, Ip { fragment: DONT_FRAGMENT, ..ip }.tcp(&segment));
}

/// From a namespace, by a path that takes less than it: what it asks, or answers.
pub(super) fn too_large_out(s: &mut Script, towards: Towards) {
    let way = towards(s);
    let Some(to) = way.to else { return };
    let is_out = matches!(way.from, Place::Ns(_));
    // Nobody has a flow yet.
    for len in LENGTHS.into_iter().filter(|&len| len <= 1472) {
        for fragment in [0, DONT_FRAGMENT] {
            let (ip, port, data) = (s.ip(way.src, way.dst), s.port(), s.data(len));
            if is_out {
                s.send(way, Ip { fragment, ..ip }.udp(port, way.dport, &data));
            } else {
                s.send(way, ip.udp(port, way.dport, b"how large?"));
                let back = Ip { fragment, ..s.ip(address(3), way.src) };
                let inside = way.dport - stage::PUBLISHED_SILENT + stage::SILENT;
                s.step(Step::packet(to, back.udp(inside, port, &data)));
            }
        }
    }
    let (one, two) = s.open(way);
    let data = s.data(1460);
    if is_out {
        for fragment in [0, DONT_FRAGMENT] {
            let (ip, sport) = (s.ip(way.src, way.dst), s.port());
            let (dport, flags) = (way.dport, flag::ACK);
            let (seq, ack, data) = (one + 1, two + 1, data.clone());
            let segment = Segment { sport, dport, seq, ack, flags, data, ..Segment::default() };
            s.send(way, Ip { fragment, ..ip }.tcp(&segment));
        }
    } else {
        s.reply(to, flag::ACK, two + 1, &data);
    }
}

/// The namespace that sends trains, to a far machine.
fn train_way(s: &Script) -> Way {
    Way { from: Place::Ns(TRAINS), src: address(TRAINS), ..out(s) }
}

/// A train of TCP segments, and one of UDP datagrams, each of which has so much data.
fn train(s: &mut Script, way: Way, fragment: u16, len: usize, size: u16) {
    let (one, two) = s.open(way);
    let (ip, sport, data) = (s.ip(way.src, way.dst), s.port(), s.data(len));
    let ip = Ip { fragment, ..ip };
    let (dport, flags) = (way.dport, flag::ACK | flag::PSH);
    let datagrams = ip.udp(sport, dport, &data);
    let segments =
        Segment { sport, dport, seq: one + 1, ack: two + 1, flags, data, ..Segment::default() };
    s.step(Step::train(way.from, ip.tcp(&segments), size));
    s.step(Step::train(way.from, datagrams, size));
}

/// Trains of which each segment is small enough.
pub(super) fn trains(s: &mut Script) {
    let way = train_way(s);
    train(s, way, DONT_FRAGMENT, 5000, 1440);
    let narrow = Way { dst: s.far_narrow(), dport: stage::CLOSED, ..way };
    train(s, narrow, DONT_FRAGMENT, 5000, 1300);
    train(s, Way { dport: 54, ..narrow }, 0, 3000, 1300);
}

/// Trains of which the segments are too large for the path.
pub(super) fn trains_too_large(s: &mut Script) {
    let way = Way { dst: s.far_narrow(), ..train_way(s) };
    train(s, way, DONT_FRAGMENT, 5000, 1440);
    train(s, Way { dport: 54, ..way }, 0, 5000, 1440);
}
