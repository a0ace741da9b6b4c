//! The scenarios that have names: what every network must do right.

use std::net::Ipv4Addr;

use netbpf_common::MacAddr;

use super::{
    packet::{DONT_FRAGMENT, Ip, Segment, flag, fragments, proto},
    scenario::{ARP, Answer, Frame, IPV4, IPV6, Scenario, Step},
    script::{Script, Way},
    stage::{self, GATEWAY, OUTSIDE, Place, Station, UPLINK, address},
};

/// What a named scenario does.
type Play = fn(&mut Script);

/// All named scenarios.
const ALL: &[(&str, Play)] = &[
    ("UDP out and back", |s| udp(s, out)),
    ("ping out and back", |s| ping(s, out)),
    ("a connection out", |s| connection(s, out)),
    ("UDP in and back", |s| udp(s, inward)),
    ("a connection in", |s| connection(s, inward)),
    ("UDP by the host's address to another namespace", |s| udp(s, hairpin)),
    ("a connection by the host's address to another namespace", |s| connection(s, hairpin)),
    ("UDP by the host's address to oneself", |s| udp(s, self_hairpin)),
    ("a connection by the host's address to oneself", |s| connection(s, self_hairpin)),
    ("UDP among namespaces", |s| udp(s, bridged)),
    ("a connection among namespaces", |s| connection(s, bridged)),
    ("UDP from the host by the uplink's address", |s| udp(s, host_by_uplink)),
    ("a connection from the host by 127.0.0.1", |s| connection_from_host(s, host_by_loopback)),
    ("UDP from the host by 127.0.0.1", |s| udp(s, host_by_loopback)),
    ("UDP from the host to what is on 127.0.0.1 only", |s| udp(s, host_to_loopback_only)),
    ("UDP from the host to a namespace", |s| udp(s, host_direct)),
    ("a kernel answers outside", kernels_outside),
    ("a kernel answers in a namespace", kernels_inside),
    ("a kernel answers at the host", kernels_at_the_host),
    ("what is on 127.0.0.1 only is not reached from outside", loopback_only_from_outside),
    ("what belongs to nothing", belongs_to_nothing),
    ("late packets of a connection that has ended", late),
    ("a reset that lies beside the window", reset_beside_the_window),
    ("errors about a UDP packet that went out", |s| errors(s, out)),
    ("errors about a UDP packet that came in", |s| errors(s, inward)),
    ("errors about a hairpinned packet", |s| errors(s, hairpin)),
    ("errors about a segment", errors_about_a_segment),
    ("errors about an echo request", errors_about_an_echo),
    ("an error from a router between", error_from_a_router),
    ("time to live out", |s| times_to_live(s, out)),
    ("time to live in", |s| times_to_live(s, inward)),
    ("time to live by the host's address", |s| times_to_live(s, hairpin)),
    ("fragments out", |s| fragmented(s, out)),
    ("fragments in", |s| fragmented(s, inward)),
    ("too large for where it goes", too_large),
    ("options out and in", options),
    ("protocols without ports", |s| others(s, &[proto::GRE, proto::ESP, 253])),
    ("protocols with ports", |s| others(s, &[proto::SCTP, proto::DCCP, proto::UDP_LITE])),
    ("UDP without a checksum", no_checksum),
    ("wrong checksums", wrong_checksums),
    ("all flags of TCP", flags),
    ("sources that are not one's own", forged_sources),
    ("MACs that are not one's own", forged_macs),
    ("forged ARP", forged_arp),
    ("ARP", arp),
    ("broadcast and multicast", broadcast),
    ("a MAC that nobody has", unknown_mac),
    ("VLAN tags", tags),
    ("IPv6 among namespaces", ipv6),
    ("private addresses from outside", private_from_outside),
    ("runts and broken headers", broken),
];

/// How many have names.
#[must_use]
pub fn count() -> u32 {
    u32::try_from(ALL.len()).unwrap_or_default()
}

/// The named scenario of that number, for that slot of a stage; nothing if fewer
/// have names.
#[must_use]
pub fn scenario(number: u32, slot: u16) -> Option<Scenario> {
    let (name, play) = ALL.get(usize::try_from(number).ok()?)?;
    let mut script = Script::new(name, number, slot, 0);
    play(&mut script);
    Some(script.end())
}

/// `ns3` to a far machine.
pub(super) fn out(s: &Script) -> Way {
    let (src, dst) = (address(3), s.far());
    Way { from: Place::Ns(3), src, dst, dport: 53, to: Some(Place::Outside) }
}

/// A far machine to a published port of `ns3`.
pub(super) fn inward(s: &Script) -> Way {
    let (src, dport) = (s.far(), stage::PUBLISHED_SILENT + 5);
    Way { from: Place::Outside, src, dst: UPLINK, dport, to: Some(Place::Ns(3)) }
}

/// `ns4` to a published port of `ns3`.
pub(super) fn hairpin(_: &Script) -> Way {
    let (src, dport) = (address(4), stage::PUBLISHED_SILENT + 6);
    Way { from: Place::Ns(4), src, dst: UPLINK, dport, to: Some(Place::Ns(3)) }
}

/// `ns3` to a published port of its own.
pub(super) fn self_hairpin(_: &Script) -> Way {
    let (src, dport) = (address(3), stage::PUBLISHED_SILENT + 7);
    Way { from: Place::Ns(3), src, dst: UPLINK, dport, to: Some(Place::Ns(3)) }
}

/// `ns3` to `ns4`; the frame is for its MAC.
pub(super) fn bridged(_: &Script) -> Way {
    let (src, dst) = (address(3), address(4));
    Way { from: Place::Ns(3), src, dst, dport: 53, to: Some(Place::Ns(4)) }
}

/// The host to a published port of `ns3`.
pub(super) fn host_by_uplink(_: &Script) -> Way {
    let dport = stage::PUBLISHED_SILENT + 8;
    Way { from: Place::Host, src: UPLINK, dst: UPLINK, dport, to: Some(Place::Ns(3)) }
}

/// The host to a published port of `ns3`, from and to 127.0.0.1.
pub(super) fn host_by_loopback(_: &Script) -> Way {
    let (addr, dport) = (Ipv4Addr::LOCALHOST, stage::PUBLISHED_SILENT + 9);
    Way { from: Place::Host, src: addr, dst: addr, dport, to: Some(Place::Ns(3)) }
}

/// The same, to a port that is published there only.
pub(super) fn host_to_loopback_only(_: &Script) -> Way {
    let (addr, dport) = (Ipv4Addr::LOCALHOST, stage::PUBLISHED_LOOPBACK);
    Way { from: Place::Host, src: addr, dst: addr, dport, to: Some(Place::Ns(3)) }
}

/// The host to `ns3` itself.
pub(super) fn host_direct(_: &Script) -> Way {
    let (src, dst) = (GATEWAY, address(3));
    Way { from: Place::Host, src, dst, dport: 53, to: Some(Place::Ns(3)) }
}

/// Who begins a conversation, given a script.
type Towards = fn(&Script) -> Way;

fn udp(s: &mut Script, towards: Towards) {
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

fn ping(s: &mut Script, towards: Towards) {
    let way = towards(s);
    for len in [0, 1, 56, 1372] {
        let data = s.data(len);
        s.ping(way, &data);
        s.answer(Place::Outside, Answer::Echo);
    }
}

fn connection(s: &mut Script, towards: Towards) {
    let way = towards(s);
    s.connection(way);
}

/// The host's own kernel knows of no connection, and breaks it off.
fn connection_from_host(s: &mut Script, towards: Towards) {
    let way = towards(s);
    s.open(way);
}

fn kernels_outside(s: &mut Script) {
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

fn kernels_inside(s: &mut Script) {
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

fn kernels_at_the_host(s: &mut Script) {
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

fn loopback_only_from_outside(s: &mut Script) {
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

fn belongs_to_nothing(s: &mut Script) {
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

fn late(s: &mut Script) {
    let way = out(s);
    let (one, two) = s.connection(way);
    s.tcp(way, flag::ACK, one + 22, two + 32, b"late");
    s.reply(Place::Outside, flag::ACK, two + 32, b"late, too");
    let (one, two) = s.open(way);
    s.tcp(way, flag::RST, one + 1, 0, &[]);
    s.reply(Place::Outside, flag::ACK, two + 1, b"crossed");
}

fn reset_beside_the_window(s: &mut Script) {
    let way = out(s);
    let (one, two) = s.open(way);
    s.reply(Place::Outside, flag::RST, two.wrapping_sub(100_000), &[]);
    s.tcp(way, flag::PSH | flag::ACK, one + 1, two + 1, b"still here?");
    s.reply(Place::Outside, flag::PSH | flag::ACK, two + 1, b"yes");
}

/// Types and codes of errors, and how much they quote.
const ERRORS: [(u8, u8, usize); 7] =
    [(3, 3, 8), (3, 1, 64), (3, 13, usize::MAX), (11, 0, 8), (12, 0, 28), (4, 0, 8), (3, 4, 8)];

fn errors(s: &mut Script, towards: Towards) {
    let way = towards(s);
    let data = s.data(100);
    s.udp(way, &data);
    let Some(to) = way.to else { return };
    for (kind, code, quote) in ERRORS {
        s.error(to, kind, code, quote);
    }
    // And in the other direction, about the answer.
    s.answer(to, Answer::Udp(data));
    for (kind, code, quote) in ERRORS {
        s.error(way.from, kind, code, quote);
    }
}

fn errors_about_a_segment(s: &mut Script) {
    for way in [out(s), inward(s)] {
        s.tcp(way, flag::SYN, 99_000_000, 0, &[]);
        let Some(to) = way.to else { continue };
        for (kind, code, quote) in ERRORS {
            s.error(to, kind, code, quote);
        }
    }
}

fn errors_about_an_echo(s: &mut Script) {
    let way = out(s);
    let data = s.data(100);
    s.ping(way, &data);
    for (kind, code, quote) in ERRORS {
        s.error(Place::Outside, kind, code, quote);
    }
}

fn error_from_a_router(s: &mut Script) {
    let way = out(s);
    let data = s.data(100);
    s.udp(way, &data);
    for by in [OUTSIDE, s.far_answered()] {
        let error =
            super::scenario::IcmpError { by: Some(by), kind: 11, code: 0, rest: [0; 4], quote: 8 };
        s.step(Step::error(Place::Outside, error));
    }
}

fn times_to_live(s: &mut Script, towards: Towards) {
    let way = towards(s);
    for ttl in [0, 1, 2, 255] {
        let (ip, port) = (s.ip(way.src, way.dst), s.port());
        s.send(way, Ip { ttl, ..ip }.udp(port, way.dport, b"how far?"));
    }
}

fn fragmented(s: &mut Script, towards: Towards) {
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

fn too_large(s: &mut Script) {
    let way = inward(s);
    for fragment in [0, DONT_FRAGMENT] {
        let (ip, port, data) = (s.ip(way.src, way.dst), s.port(), s.data(1470));
        s.send(way, Ip { fragment, ..ip }.udp(port, way.dport, &data));
    }
}

fn options(s: &mut Script) {
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

fn others(s: &mut Script, numbers: &[u8]) {
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

fn no_checksum(s: &mut Script) {
    for way in [out(s), inward(s), hairpin(s)] {
        let (ip, port) = (s.ip(way.src, way.dst), s.port());
        let mut packet = ip.udp(port, way.dport, b"unchecked");
        packet[26..28].fill(0);
        s.send(way, packet);
    }
}

fn wrong_checksums(s: &mut Script) {
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

fn flags(s: &mut Script) {
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

fn forged_sources(s: &mut Script) {
    let far = s.far();
    for src in [address(4), GATEWAY, UPLINK, OUTSIDE, Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
        let (ip, port) = (s.ip(src, far), s.port());
        s.step(Step::packet(Place::Ns(3), ip.udp(port, 53, b"not me")));
    }
}

fn forged_macs(s: &mut Script) {
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

fn forged_arp(s: &mut Script) {
    for sender in [address(4), GATEWAY, OUTSIDE] {
        let packet = arp_packet(2, (mac_of(3), sender), (MacAddr::ZERO, address(2)));
        let frame = Frame::new(Station::BROADCAST, Station::Ns(3), ARP, packet);
        s.step(Step::frame(Place::Ns(3), frame));
    }
}

fn arp(s: &mut Script) {
    for target in [address(1), address(2), GATEWAY, stage::NOBODY] {
        let packet = arp_packet(1, (mac_of(3), address(3)), (MacAddr::ZERO, target));
        let frame = Frame::new(Station::BROADCAST, Station::Ns(3), ARP, packet);
        s.step(Step::frame(Place::Ns(3), frame));
    }
}

fn broadcast(s: &mut Script) {
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

fn unknown_mac(s: &mut Script) {
    let (ip, port) = (s.ip(address(3), address(4)), s.port());
    let nobody = Station::Other(MacAddr::new([2, 0, 0, 0, 0, 99]));
    let packet = ip.udp(port, 53, b"whoever");
    s.step(Step::frame(Place::Ns(3), Frame::new(nobody, Station::Ns(3), IPV4, packet)));
}

fn tags(s: &mut Script) {
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

fn ipv6(s: &mut Script) {
    let mut packet = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]);
    packet.extend([0x30, 0x39, 0, 53, 0, 12, 0xab, 0xcd, 1, 2, 3, 4]);
    for dst in [Station::Ns(4), Station::Gateway, Station::BROADCAST] {
        s.step(Step::frame(Place::Ns(3), Frame::new(dst, Station::Ns(3), IPV6, packet.clone())));
    }
}

fn private_from_outside(s: &mut Script) {
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

fn broken(s: &mut Script) {
    for way in [out(s), inward(s), hairpin(s)] {
        let (ip, port) = (s.ip(way.src, way.dst), s.port());
        let whole = ip.udp(port, way.dport, b"broken");
        for len in [0, 1, 19, 20, 24, 27, 33] {
            s.send(way, whole[..len].to_vec());
        }
        for (at, value) in [(0, 0x65), (0, 0x44), (0, 0x4f), (3, 0), (3, 19), (3, 27), (3, 255)] {
            let mut packet = whole.clone();
            packet[at] = value;
            super::packet::fix_header(&mut packet);
            s.send(way, packet);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all() -> impl Iterator<Item = Scenario> {
        (0..count()).filter_map(|number| scenario(number, 7))
    }

    #[test]
    fn every_scenario_has_a_name_and_steps() {
        let all: Vec<Scenario> = all().collect();
        let names: BTreeSet<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.iter().all(|scenario| !scenario.steps.is_empty()));
    }

    #[test]
    fn the_host_sends_whole_packets_only() {
        for scenario in all() {
            for step in scenario.steps.iter().filter(|step| step.from == Place::Host) {
                assert!(step.ip().is_none_or(|packet| packet.len() >= 20), "{}", scenario.name);
            }
        }
    }
}
