//! What says to come from others, and frames that are no ordinary IPv4.

use std::net::Ipv4Addr;

use netbpf_common::MacAddr;

use super::super::{
    packet::flag,
    scenario::{ARP, Frame, IPV4, IPV6, Step},
    script::{Script, Way},
    stage::{self, GATEWAY, OUTSIDE, Place, Station, UPLINK, address},
};

pub(super) fn forged_sources(s: &mut Script) {
    let far = s.far();
    for src in [address(4), GATEWAY, UPLINK, OUTSIDE, Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
        let (ip, port) = (s.ip(src, far), s.port());
        s.step(Step::packet(Place::Ns(3), ip.udp(port, 53, b"not me")));
    }
}

pub(super) fn forged_macs(s: &mut Script) {
    let far = s.far();
    for src in [Station::Ns(4), Station::Gateway, Station::BROADCAST] {
        let (ip, port) = (s.ip(address(3), far), s.port());
        let packet = ip.udp(port, 53, b"not me");
        s.step(Step::frame(Place::Ns(3), Frame::new(Station::Gateway, src, IPV4, packet)));
        let packet = ip.udp(port, 53, b"not me");
        s.step(Step::frame(Place::Ns(3), Frame::new(Station::Ns(2), src, IPV4, packet)));
    }
    // A bridge that has believed it learns better.
    for ns in [3, 4] {
        let packet = arp_packet(1, (mac_of(ns), address(ns)), (MacAddr::ZERO, stage::NOBODY));
        let frame = Frame::new(Station::BROADCAST, Station::Ns(ns), ARP, packet);
        s.step(Step::frame(Place::Ns(ns), frame));
    }
}

/// An ARP packet that speaks of namespaces by MACs that are the scenario's own.
fn arp_packet(op: u16, sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr)) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(op.to_be_bytes());
    for (mac, addr) in [sender, target] {
        packet.extend(mac.octets());
        packet.extend(addr.octets());
    }
    packet
}

/// The MAC that netbpf gives a namespace.
fn mac_of(ns: u8) -> MacAddr {
    crate::topology::mac::generated(address(ns))
}

pub(super) fn forged_arp(s: &mut Script) {
    for sender in [address(4), GATEWAY, OUTSIDE] {
        let packet = arp_packet(2, (mac_of(3), sender), (MacAddr::ZERO, address(2)));
        let frame = Frame::new(Station::BROADCAST, Station::Ns(3), ARP, packet);
        s.step(Step::frame(Place::Ns(3), frame));
    }
}

pub(super) fn arp(s: &mut Script) {
    for target in [address(1), address(2), GATEWAY, stage::NOBODY] {
        let packet = arp_packet(1, (mac_of(3), address(3)), (MacAddr::ZERO, target));
        let frame = Frame::new(Station::BROADCAST, Station::Ns(3), ARP, packet);
        s.step(Step::frame(Place::Ns(3), frame));
    }
}

pub(super) fn broadcast(s: &mut Script) {
    for (dst, mac) in [
        (Ipv4Addr::new(172, 19, 0, 255), Station::BROADCAST),
        (Ipv4Addr::BROADCAST, Station::BROADCAST),
        (Ipv4Addr::new(224, 0, 0, 251), Station::Other(MacAddr::new([1, 0, 0x5e, 0, 0, 251]))),
        (Ipv4Addr::new(239, 1, 2, 3), Station::Other(MacAddr::new([1, 0, 0x5e, 1, 2, 3]))),
    ] {
        let (ip, port) = (s.ip(address(3), dst), s.port());
        let packet = ip.udp(port, stage::CLOSED, b"everybody");
        s.step(Step::frame(Place::Ns(3), Frame::new(mac, Station::Ns(3), IPV4, packet)));
    }
}

pub(super) fn unknown_mac(s: &mut Script) {
    let (ip, port) = (s.ip(address(3), address(4)), s.port());
    let nobody = Station::Other(MacAddr::new([2, 0, 0, 0, 0, 99]));
    let packet = ip.udp(port, 53, b"whoever");
    s.step(Step::frame(Place::Ns(3), Frame::new(nobody, Station::Ns(3), IPV4, packet)));
}

pub(super) fn tags(s: &mut Script) {
    let far = s.far();
    for tags in [vec![5], vec![0x2005], vec![5, 6]] {
        for (dst, addr) in [(Station::Ns(4), address(4)), (Station::Gateway, far)] {
            let (ip, port) = (s.ip(address(3), addr), s.port());
            let packet = ip.udp(port, 53, b"tagged");
            let frame = Frame::new(dst, Station::Ns(3), IPV4, packet);
            s.step(Step::frame(Place::Ns(3), Frame { tags: tags.clone(), ..frame }));
        }
    }
}

pub(super) fn ipv6(s: &mut Script) {
    let mut packet = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]);
    packet.extend([0x30, 0x39, 0, 53, 0, 12, 0xab, 0xcd, 1, 2, 3, 4]);
    for dst in [Station::Ns(4), Station::Gateway, Station::BROADCAST] {
        s.step(Step::frame(Place::Ns(3), Frame::new(dst, Station::Ns(3), IPV6, packet.clone())));
    }
}

pub(super) fn private_from_outside(s: &mut Script) {
    let far = s.far();
    for (src, dst) in [
        (far, address(3)),
        (far, GATEWAY),
        (address(4), UPLINK),
        (address(4), address(3)),
        (GATEWAY, UPLINK),
        (UPLINK, UPLINK),
        (Ipv4Addr::LOCALHOST, UPLINK),
    ] {
        let dport = stage::PUBLISHED_SILENT + 5;
        let way = Way { from: Place::Outside, src, dst, dport, to: None };
        s.udp(way, b"let me in");
        s.tcp(way, flag::SYN, 55_000_000, 0, &[]);
        s.ping(way, b"let me in");
    }
}
