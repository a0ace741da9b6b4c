//! What is played where namespaces are isolated, but for `ns3` and `ns4`.

use std::net::Ipv4Addr;

use netbpf_common::MacAddr;

use super::super::{
    packet::{Ip, flag, fragments},
    scenario::{Answer, Frame, IPV4, IPV6, Step},
    script::{Script, Way},
    stage::{self, GATEWAY, Place, Station, address},
};

/// `ns3` to `ns5`, which it may not reach; the frame is for its MAC.
pub(super) fn apart(_: &Script) -> Way {
    let (src, dst) = (address(3), address(5));
    Way { from: Place::Ns(3), src, dst, dport: 53, to: Some(Place::Ns(5)) }
}

/// `ns3` to `ns1`, whose kernel would answer.
pub(super) fn apart_from_a_kernel(_: &Script) -> Way {
    let (src, dst) = (address(3), address(1));
    Way { from: Place::Ns(3), src, dst, dport: stage::OPEN, to: None }
}

pub(super) fn kernels(s: &mut Script) {
    for ns in [1, 2] {
        let way = Way { dst: address(ns), ..apart_from_a_kernel(s) };
        s.udp(way, b"are you there?");
        s.ping(way, b"are you there?");
        s.tcp(way, flag::SYN, 33_000_000, 0, &[]);
    }
}

/// To the gateway's MAC, as if the host were a router between them.
pub(super) fn by_the_gateway(s: &mut Script) {
    let broadcast = Ipv4Addr::new(172, 19, 0, 255);
    for dst in [address(1), address(4), address(5), address(3), stage::NOBODY, broadcast] {
        for ttl in [1, 2, 64] {
            let (ip, port) = (s.ip(address(3), dst), s.port());
            let packet = Ip { ttl, ..ip.clone() }.udp(port, 53, b"by the gateway");
            s.step(Step::packet(Place::Ns(3), packet));
            let packet = Ip { ttl, ..ip }.echo(port, 1, b"by the gateway");
            s.step(Step::packet(Place::Ns(3), packet));
        }
        let (ip, port) = (s.ip(address(3), dst), s.port());
        let routed = Ip { options: vec![1, 1, 1, 1], ..ip }.udp(port, 53, b"with options");
        s.step(Step::packet(Place::Ns(3), routed));
        let (ip, port, data) = (s.ip(address(3), dst), s.port(), s.data(2000));
        for part in fragments(&ip.udp(port, 53, &data), 800) {
            s.step(Step::packet(Place::Ns(3), part));
        }
    }
}

/// Frames of all kinds, to whom a namespace may reach, to whom not, and to all.
pub(super) fn frames(s: &mut Script) {
    let nobody = Station::Other(MacAddr::new([2, 0, 0, 0, 0, 99]));
    let group = Station::Other(MacAddr::new([1, 0, 0x5e, 1, 2, 3]));
    let kinds = [Station::Ns(1), Station::Ns(4), Station::Ns(5), Station::BROADCAST, group, nobody];
    for from in [3, 5] {
        for dst in kinds {
            if dst == Station::Ns(from) {
                continue;
            }
            let (ip, port) = (s.ip(address(from), Ipv4Addr::new(172, 19, 0, 255)), s.port());
            let packet = ip.udp(port, stage::CLOSED, b"whoever");
            let frame = Frame::new(dst, Station::Ns(from), IPV4, packet.clone());
            s.step(Step::frame(Place::Ns(from), frame.clone()));
            s.step(Step::frame(Place::Ns(from), Frame { tags: vec![5], ..frame }));
        }
    }
}

pub(super) fn ipv6(s: &mut Script) {
    let mut packet = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]);
    packet.extend([0x30, 0x39, 0, 53, 0, 12, 0xab, 0xcd, 1, 2, 3, 4]);
    for dst in [Station::Ns(4), Station::Ns(5), Station::BROADCAST] {
        s.step(Step::frame(Place::Ns(3), Frame::new(dst, Station::Ns(3), IPV6, packet.clone())));
    }
}

/// The host is nobody's neighbour.
pub(super) fn host(s: &mut Script) {
    for ns in [3, 5] {
        let (src, dst) = (GATEWAY, address(ns));
        let way = Way { from: Place::Host, src, dst, dport: 53, to: Some(Place::Ns(ns)) };
        let data = s.data(20);
        s.udp(way, &data);
        s.answer(Place::Ns(ns), Answer::Udp(data));
    }
}
