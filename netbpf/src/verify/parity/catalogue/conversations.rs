//! Conversations, with scripts and with kernels.

use std::net::Ipv4Addr;

use super::{
    super::{
        packet::{Ip, flag, proto},
        scenario::Answer,
        script::{Script, Way},
        stage::{self, GATEWAY, OUTSIDE, Place, UPLINK, address},
    },
    Towards, hairpin, inward, out,
};

pub(super) fn udp(s: &mut Script, towards: Towards) {
    let way = towards(s);
    for len in [0, 1, 100, 1372] {
        let (ip, port, data) = (s.ip(way.src, way.dst), s.port(), s.data(len));
        s.send(way, ip.udp(port, way.dport, &data));
        if let Some(to) = way.to {
            let data = s.data(len);
            s.answer(to, Answer::Udp(data));
        }
    }
}

pub(super) fn ping(s: &mut Script, towards: Towards) {
    let way = towards(s);
    for len in [0, 1, 56, 1372] {
        let data = s.data(len);
        s.ping(way, &data);
        s.answer(Place::Outside, Answer::Echo);
    }
}

pub(super) fn connection(s: &mut Script, towards: Towards) {
    let way = towards(s);
    s.connection(way);
}

/// The host's own kernel knows of no connection, and breaks it off.
pub(super) fn connection_from_host(s: &mut Script, towards: Towards) {
    let way = towards(s);
    s.open(way);
}

pub(super) fn kernels_outside(s: &mut Script) {
    for ns in [1, 3] {
        for dport in [stage::OPEN, stage::CLOSED] {
            let way = Way { from: Place::Ns(ns), src: address(ns), dst: OUTSIDE, dport, to: None };
            let data = s.data(10);
            s.udp(way, &data);
            s.ping(way, &data);
            s.tcp(way, flag::SYN, 77_000_000, 0, &[]);
            let reset = Answer::Tcp { flags: flag::RST, seq: None, ack: None, data: Vec::new() };
            s.answer(Place::Ns(ns), reset);
        }
        let way = Way { from: Place::Ns(ns), src: address(ns), dst: OUTSIDE, dport: 0, to: None };
        s.other(way, proto::GRE, b"nobody speaks this");
    }
}

pub(super) fn kernels_inside(s: &mut Script) {
    let src = s.far_answered();
    for dport in [stage::PUBLISHED_OPEN, stage::PUBLISHED_CLOSED] {
        let way = Way { from: Place::Outside, src, dst: UPLINK, dport, to: None };
        let data = s.data(10);
        s.udp(way, &data);
        s.tcp(way, flag::SYN, 77_000_000, 0, &[]);
        let reset = Answer::Tcp { flags: flag::RST, seq: None, ack: None, data: Vec::new() };
        s.answer(Place::Outside, reset);
        s.tcp(way, flag::ACK, 77_000_000, 5, &[]);
    }
}

pub(super) fn kernels_at_the_host(s: &mut Script) {
    let far = s.far_answered();
    let askers = [
        (Place::Outside, far, UPLINK),
        (Place::Ns(1), address(1), UPLINK),
        (Place::Ns(3), address(3), GATEWAY),
    ];
    for (from, src, dst) in askers {
        for dport in [stage::OPEN, stage::CLOSED] {
            let way = Way { from, src, dst, dport, to: None };
            let data = s.data(10);
            s.udp(way, &data);
            s.ping(way, &data);
            s.tcp(way, flag::SYN, 77_000_000, 0, &[]);
            let reset = Answer::Tcp { flags: flag::RST, seq: None, ack: None, data: Vec::new() };
            s.answer(from, reset);
        }
        let way = Way { from, src, dst, dport: 0, to: None };
        s.other(way, proto::GRE, b"nobody speaks this");
    }
}

pub(super) fn loopback_only_from_outside(s: &mut Script) {
    let (far, dport) = (s.far(), stage::PUBLISHED_LOOPBACK);
    for (from, src, dst) in [
        (Place::Outside, far, UPLINK),
        (Place::Outside, far, Ipv4Addr::LOCALHOST),
        (Place::Ns(4), address(4), UPLINK),
        (Place::Ns(4), address(4), GATEWAY),
        (Place::Ns(4), address(4), Ipv4Addr::LOCALHOST),
    ] {
        let way = Way { from, src, dst, dport, to: None };
        s.udp(way, b"anybody?");
        s.tcp(way, flag::SYN, 77_000_000, 0, &[]);
    }
}

pub(super) fn belongs_to_nothing(s: &mut Script) {
    for way in [out(s), inward(s), hairpin(s)] {
        s.tcp(way, flag::RST, 5, 6, &[]);
        s.tcp(way, flag::FIN | flag::ACK, 5, 6, &[]);
        let (ip, port) = (s.ip(way.src, way.dst), s.port());
        let [high, low] = port.to_be_bytes();
        s.send(way, ip.icmp(0, 0, [high, low, 0, 1], b"nobody asked"));
        let quoted = Ip::new(way.dst, way.src, 2).udp(1, 2, b"never sent");
        s.send(way, ip.icmp(3, 3, [0; 4], &quoted));
    }
}

pub(super) fn late(s: &mut Script) {
    let way = out(s);
    let (one, two) = s.connection(way);
    s.tcp(way, flag::ACK, one + 22, two + 32, b"late");
    s.reply(Place::Outside, flag::ACK, two + 32, b"late, too");
    let (one, two) = s.open(way);
    s.tcp(way, flag::RST, one + 1, 0, &[]);
    s.reply(Place::Outside, flag::ACK, two + 1, b"crossed");
}

pub(super) fn reset_beside_the_window(s: &mut Script) {
    let way = out(s);
    let (one, two) = s.open(way);
    s.reply(Place::Outside, flag::RST, two.wrapping_sub(100_000), &[]);
    s.tcp(way, flag::PSH | flag::ACK, one + 1, two + 1, b"still here?");
    s.reply(Place::Outside, flag::PSH | flag::ACK, two + 1, b"yes");
}
