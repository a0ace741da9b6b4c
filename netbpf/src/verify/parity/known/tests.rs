//! Each kind explains what it is about, and nothing beside that.

use std::{net::Ipv4Addr, slice::from_ref};

use super::{
    super::{
        compare::{Difference, differences},
        normalise::Seen,
        packet::{self, Ip, Segment, flag, fragments, proto},
        scenario::{Frame, IPV4, Scenario, Step},
        stage::{self, GATEWAY, Place, Station, UPLINK, address},
    },
    Case, find,
};

const FAR: Ipv4Addr = stage::far(1);
/// Identification of what is sent in the first step.
const ID: u16 = 0x1234;

/// What a scenario has sent, and what connection tracking said of it.
#[derive(Clone)]
struct Played {
    scenario: Scenario,
    sent: Vec<Option<Vec<u8>>>,
    invalid: Vec<u64>,
    has_reset: bool,
}

fn played(steps: Vec<Step>) -> Played {
    let sent = steps.iter().map(|step| step.ip().map(<[u8]>::to_vec)).collect();
    let invalid = vec![0; steps.len()];
    let scenario = Scenario { number: 0, slot: 1, name: String::new(), steps };
    Played { scenario, sent, invalid, has_reset: false }
}

impl Played {
    /// The names of what explains that the two sides have these packets.
    fn names(&self, reference: &[Seen], ebpf: &[Seen]) -> Vec<Option<&'static str>> {
        let explained = |difference: Difference| {
            let Self { scenario, sent, invalid, has_reset } = self;
            let (difference, has_reset) = (&difference, *has_reset);
            find(&Case { scenario, sent, invalid, has_reset, difference }).map(|known| known.name)
        };
        differences(reference, ebpf).into_iter().map(explained).collect()
    }

    #[track_caller]
    fn explains(&self, reference: &[Seen], ebpf: &[Seen], name: &str) {
        let names = self.names(reference, ebpf);
        assert!(!names.is_empty() && names.iter().all(|found| *found == Some(name)), "{names:?}");
    }

    #[track_caller]
    fn is_a_bug(&self, reference: &[Seen], ebpf: &[Seen]) {
        let names = self.names(reference, ebpf);
        assert!(!names.is_empty() && names.iter().all(Option::is_none), "{names:?}");
    }
}

/// A packet at a place, after the first step: fields as `name=value`.
fn seen(place: Place, fields: &str) -> Seen {
    let pair = |field: &str| {
        let (name, value) = field.split_once('=').expect("name=value");
        (name.to_owned(), value.to_owned())
    };
    Seen { place, fields: fields.split_whitespace().map(pair).collect(), step: 0 }
}

fn udp(src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    Ip::new(src, dst, ID).udp(1000, 9005, b"data")
}

/// The packet of the first step, translated or not.
fn itself(place: Place) -> Seen {
    seen(place, "ip.src=203.0.113.1 ip.dst=198.18.0.1 ip.proto=17 ip.id=0x1234 udp.sport=1000")
}

/// An error about it.
fn about(place: Place, kind: &str) -> Seen {
    let text = format!(
        "ip.src={GATEWAY} ip.dst=172.19.0.4 ip.proto=1 ip.id=<id> icmp.type={kind} quote.ip.id=0x1234"
    );
    seen(place, &text)
}

const OUTSIDE: Place = Place::Outside;
const NS3: Place = Place::Ns(3);

#[test]
fn an_ordinary_packet_is_nothing_special() {
    let out = played(vec![Step::packet(NS3, udp(address(3), FAR))]);
    out.is_a_bug(&[itself(OUTSIDE)], &[]);
    out.is_a_bug(&[], &[itself(OUTSIDE)]);
    out.is_a_bug(&[about(NS3, "11/0")], &[]);
    out.is_a_bug(&[itself(Place::Host)], &[itself(OUTSIDE)]);
}

#[test]
fn only_the_port_may_be_another() {
    let out = played(vec![Step::packet(NS3, udp(address(3), FAR))]);
    let with = |port: &str, ttl: &str| {
        let text = format!(
            "ip.src=203.0.113.1 ip.dst=198.18.0.1 ip.proto=17 ip.id=0x1234 ip.len=32 \
             ip.ttl={ttl} udp.sport={port} udp.len=12 udp.checksum=ok"
        );
        seen(OUTSIDE, &text)
    };
    let one = [with("1000", "63")];
    out.explains(&one, &[with("<port1>", "63")], "translated-port");
    out.is_a_bug(&one, &[with("<port1>", "62")]);
    out.is_a_bug(&one, &[with("1001", "63")]);
}

#[test]
fn only_what_is_forged_is_the_guards() {
    let forged = played(vec![
        Step::packet(NS3, udp(address(4), FAR)),
        Step::packet(NS3, Ip::new(address(3), FAR, 7).udp(1, 2, b"")),
    ]);
    forged.explains(&[itself(OUTSIDE)], &[], "source-guard");
    forged.is_a_bug(&[], &[itself(OUTSIDE)]);
    // Beside it there may be bugs.
    let other = seen(OUTSIDE, "ip.src=203.0.113.1 ip.dst=198.18.0.1 ip.proto=17 ip.id=0x0007");
    forged.is_a_bug(&[Seen { step: 1, ..other }], &[]);
}

#[test]
fn only_a_tag_without_a_number_is_dropped() {
    let tagged = |tag| {
        let packet = udp(address(3), address(4));
        let frame = Frame::new(Station::Ns(4), Station::Ns(3), IPV4, packet);
        played(vec![Step::frame(NS3, Frame { tags: vec![tag], ..frame })])
    };
    tagged(0x2000).explains(&[itself(Place::Ns(4))], &[], "priority-tag");
    tagged(0x2000).is_a_bug(&[], &[itself(Place::Ns(4))]);
    tagged(0x2005).is_a_bug(&[itself(Place::Ns(4))], &[]);
}

#[test]
fn what_is_invalid_to_connection_tracking_is_not_translated() {
    let packet = Ip::new(FAR, UPLINK, ID).tcp(&Segment {
        sport: 1,
        dport: 9005,
        seq: 5,
        ack: 6,
        flags: flag::ACK,
        ..Segment::default()
    });
    let mut sent = played(vec![Step::packet(OUTSIDE, packet)]);
    let tcp = |place, src: Ipv4Addr, dst: Ipv4Addr, id: &str, flags: &str, ttl: u8| {
        let text = format!(
            "ip.src={src} ip.dst={dst} ip.proto=6 ip.id={id} ip.ttl={ttl} tcp.flags={flags} \
             tcp.seq=5 tcp.ack=6 tcp.window=1 tcp.checksum=ok"
        );
        seen(place, &text)
    };
    let translated = tcp(NS3, FAR, address(3), "0x1234", "ACK", 63);
    let at_host = tcp(Place::Host, FAR, UPLINK, "0x1234", "ACK", 64);
    let reset = |ttl| tcp(OUTSIDE, UPLINK, FAR, "0x0000", "RST", ttl);
    let reference = [at_host.clone(), reset(64)];
    sent.is_a_bug(&reference, from_ref(&translated));
    sent.invalid[0] = 1;
    sent.explains(&reference, from_ref(&translated), "invalid-segment");
    sent.explains(&[reset(64)], &[reset(63)], "invalid-segment");
    // The other way round it is none.
    sent.is_a_bug(&[translated], &[]);
    sent.is_a_bug(&[], &[at_host]);
    let mut marked = reset(63);
    marked.fields.push(("ip.tos".to_owned(), "0x10".to_owned()));
    sent.is_a_bug(&[reset(64)], &[marked]);
    sent.is_a_bug(&[tcp(Place::Ns(4), FAR, address(4), "0x1234", "ACK", 63)], &[]);
}

#[test]
fn a_wrong_checksum_is_judged_by_the_receiver() {
    let mut packet = udp(FAR, UPLINK);
    packet[26] ^= 1;
    let mut sent = played(vec![Step::packet(OUTSIDE, packet)]);
    sent.is_a_bug(&[], &[itself(NS3)]);
    sent.invalid[0] = 1;
    sent.explains(&[itself(Place::Host)], &[itself(NS3)], "wrong-checksum");
    sent.is_a_bug(&[itself(NS3)], &[]);
    // ICMP's is not counted.
    let mut echo = Ip::new(FAR, UPLINK, ID).echo(1, 2, b"data");
    let right = played(vec![Step::packet(OUTSIDE, echo.clone())]);
    echo[22] ^= 1;
    let wrong = played(vec![Step::packet(OUTSIDE, echo)]);
    let icmp = seen(NS3, "ip.proto=1 ip.id=0x1234 icmp.type=8/0");
    wrong.explains(&[], from_ref(&icmp), "wrong-checksum");
    right.is_a_bug(&[], &[icmp]);
}

#[test]
fn other_protocols_pass_whatever_is_in_them() {
    let sctp = Ip::new(address(3), FAR, ID).packet(proto::SCTP, &[0; 20]);
    let mut sent = played(vec![Step::packet(NS3, sctp)]);
    let out = seen(OUTSIDE, "ip.proto=132 ip.id=0x1234");
    sent.is_a_bug(&[], from_ref(&out));
    sent.invalid[0] = 1;
    sent.explains(&[], from_ref(&out), "other-protocols");
    sent.is_a_bug(&[out], &[]);
    let gre = |version, len: usize| {
        let bytes = [0, version, 8, 0, 1, 2, 3, 4];
        let gre = Ip::new(address(3), FAR, ID).packet(proto::GRE, &bytes[..len]);
        played(vec![Step::packet(NS3, gre)])
    };
    let out = [seen(OUTSIDE, "ip.proto=47 ip.id=0x1234")];
    gre(4, 8).explains(&[], &out, "other-protocols");
    gre(0, 7).explains(&[], &out, "other-protocols");
    gre(0, 8).is_a_bug(&[], &out);
}

#[test]
fn only_one_namespace_speaks_to_a_machine_without_ports() {
    let with = |dst, number| {
        let packet = Ip::new(address(3), dst, ID).packet(number, &[0; 20]);
        played(vec![Step::packet(NS3, packet)])
    };
    let (out, complaint) = ([itself(OUTSIDE)], [about(NS3, "3/2")]);
    with(stage::OUTSIDE, proto::ESP).explains(&out, &[], "one-per-destination");
    with(stage::OUTSIDE, proto::ESP).explains(&complaint, &[], "one-per-destination");
    with(stage::OUTSIDE, proto::ESP).is_a_bug(&[], &out);
    with(FAR, proto::ESP).is_a_bug(&out, &[]);
    with(stage::OUTSIDE, proto::SCTP).is_a_bug(&out, &[]);
}

#[test]
fn only_dccp_may_differ_in_its_checksum() {
    let out = |number: u8, data: &str| {
        let text = format!(
            "ip.src=203.0.113.1 ip.dst=198.18.0.1 ip.proto={number} ip.id=0x1234 data={data}"
        );
        [seen(OUTSIDE, &text)]
    };
    for (number, is_known) in [(proto::DCCP, true), (proto::UDP_LITE, false)] {
        let packet = Ip::new(address(3), FAR, ID).packet(number, &[0; 20]);
        let sent = played(vec![Step::packet(NS3, packet)]);
        let (one, other) = (out(number, "00"), out(number, "01"));
        if is_known {
            sent.explains(&one, &other, "dccp");
        } else {
            sent.is_a_bug(&one, &other);
        }
        let reply = seen(NS3, &format!("ip.proto={number} ip.id=<id>"));
        sent.is_a_bug(&[reply], &[]);
    }
}

#[test]
fn of_a_short_quote_only_what_is_missing_differs() {
    let sent = played(vec![Step::packet(OUTSIDE, udp(FAR, UPLINK))]);
    let error = |len: u16, more: &str| {
        let text = format!(
            "ip.src=203.0.113.1 ip.dst=198.18.0.1 ip.proto=1 ip.len={len} icmp.type=11/0 \
             icmp.checksum=ok quote.ip.src=198.18.0.1 quote.ip.id=0x1234 quote.udp.sport=1000 {more}"
        );
        [seen(OUTSIDE, &text)]
    };
    let long = error(60, "ip.tos=0xc0 quote.data=64617461");
    sent.explains(&long, &error(56, "ip.tos=0xc0"), "short-quote");
    sent.is_a_bug(&long, &error(56, "ip.tos=0xde"));
    sent.is_a_bug(&long, &error(57, "ip.tos=0xc0"));
    sent.is_a_bug(&long, &[]);
}

#[test]
fn only_fragments_that_make_no_datagram_pass_one_by_one() {
    let parts = fragments(&Ip::new(address(3), FAR, ID).udp(1, 2, &[7; 100]), 40);
    let steps = |parts: &[Vec<u8>]| {
        played(parts.iter().map(|part| Step::packet(NS3, part.clone())).collect())
    };
    let part = [Seen {
        step: 2,
        ..seen(OUTSIDE, "ip.proto=17 ip.id=0x1234 ip.fragment=0x2000 data=0707")
    }];
    steps(&parts[..2]).explains(&[], &part, "no-datagram");
    steps(&parts[..2]).is_a_bug(&part, &[]);
    steps(&parts).is_a_bug(&[], &part);
    let twice = [&parts[..], &parts[2..]].concat();
    let last = [Seen { step: 3, ..part[0].clone() }];
    steps(&twice).explains(&[], &last, "no-datagram");
    let whole = [Seen { step: 3, ..itself(OUTSIDE) }];
    steps(&parts[..2]).is_a_bug(&[], &whole);
}

#[test]
fn messages_that_are_left_to_the_host_are_those_alone() {
    let quoted = Ip::new(UPLINK, FAR, 9).udp(1, 2, b"quoted");
    let translated = seen(NS3, "ip.proto=1 ip.id=0x1234 icmp.checksum=ok");
    let at_host = seen(Place::Host, "ip.proto=1 ip.id=0x1234 icmp.checksum=ok");
    for (kind, quote, name) in [
        (4, 28, Some("source-quench")),
        (3, 27, Some("tiny-quote")),
        (11, 20, Some("tiny-quote")),
        (3, 28, None),
        (11, 34, None),
    ] {
        let error = Ip::new(FAR, UPLINK, ID).icmp(kind, 0, [0; 4], &quoted[..quote]);
        let sent = played(vec![Step::packet(OUTSIDE, error)]);
        let (reference, ebpf) = (from_ref(&translated), from_ref(&at_host));
        match name {
            Some(name) => sent.explains(reference, ebpf, name),
            None => sent.is_a_bug(reference, ebpf),
        }
        sent.is_a_bug(from_ref(&at_host), from_ref(&translated));
    }
    let redirect = Ip::new(FAR, UPLINK, ID).icmp(5, 0, [0; 4], &quoted);
    let sent = played(vec![Step::packet(OUTSIDE, redirect)]);
    sent.explains(&[], from_ref(&at_host), "redirect");
    sent.is_a_bug(&[], &[translated]);
    sent.is_a_bug(&[at_host], &[]);
}

#[test]
fn an_error_is_translated_late_only_after_a_reset() {
    let segment = |flags| {
        let segment = Segment { sport: 1, dport: 2, flags, ..Segment::default() };
        Ip::new(UPLINK, FAR, 9).tcp(&segment)
    };
    let error = Ip::new(FAR, UPLINK, ID).icmp(3, 1, [0; 4], &segment(flag::SYN)[..28]);
    let after = |flags| {
        let first = Step::packet(NS3, segment(flags));
        played(vec![first, Step::packet(OUTSIDE, error.clone())])
    };
    let with = |place| Seen { step: 1, ..seen(place, "ip.proto=1 ip.id=0x1234") };
    let (at_host, translated) = ([with(Place::Host)], [with(NS3)]);
    after(flag::RST).explains(&at_host, &translated, "ended-connection");
    after(flag::RST).is_a_bug(&translated, &at_host);
    after(flag::FIN).is_a_bug(&at_host, &translated);
    let by_kernel = Played { has_reset: true, ..after(flag::SYN) };
    by_kernel.explains(&at_host, &translated, "ended-connection");
}

#[test]
fn only_addresses_of_namespaces_are_spoofed() {
    for (src, is_known) in [(address(4), true), (GATEWAY, true), (FAR, false), (UPLINK, false)] {
        let sent = played(vec![Step::packet(OUTSIDE, udp(src, UPLINK))]);
        if is_known {
            sent.explains(&[itself(NS3)], &[], "spoofed");
        } else {
            sent.is_a_bug(&[itself(NS3)], &[]);
        }
        sent.is_a_bug(&[], &[itself(NS3)]);
    }
    played(vec![Step::packet(Place::Host, udp(address(4), UPLINK))]).is_a_bug(&[itself(NS3)], &[]);
}

#[test]
fn the_rest_is_as_narrow() {
    // Malformed: only what a namespace has sent so.
    let short = Ip::new(address(3), FAR, ID).packet(proto::TCP, &[0; 7]);
    let sent = played(vec![Step::packet(NS3, short)]);
    sent.explains(&[itself(OUTSIDE)], &[], "malformed");
    sent.is_a_bug(&[], &[itself(OUTSIDE)]);
    let short = Ip::new(FAR, UPLINK, ID).packet(proto::TCP, &[0; 7]);
    played(vec![Step::packet(OUTSIDE, short)]).is_a_bug(&[itself(NS3)], &[]);

    // Options: that the time to live is over is not said; that they are bad, to the host.
    let with = |dst, options: &[u8]| {
        let ip = Ip { options: options.to_vec(), ..Ip::new(address(3), dst, ID) };
        played(vec![Step::packet(NS3, ip.udp(1, 9005, b""))])
    };
    let sent = with(FAR, &[1; 4]);
    sent.explains(&[about(NS3, "11/0")], &[], "unanswered-options");
    sent.is_a_bug(&[about(NS3, "3/3")], &[]);
    sent.is_a_bug(&[], &[about(NS3, "11/0")]);
    sent.is_a_bug(&[about(NS3, "12/0")], &[]);
    let sent = with(UPLINK, &[7, 1, 1, 1]);
    sent.explains(&[about(NS3, "12/0")], &[about(Place::Host, "12/0")], "bad-options");
    sent.is_a_bug(&[about(Place::Host, "12/0")], &[]);
    sent.is_a_bug(&[itself(OUTSIDE)], &[]);

    // Broadcast, and the MAC of who has learnt an address.
    let sent = played(vec![Step::packet(NS3, udp(address(3), stage::BROADCAST))]);
    sent.explains(&[itself(Place::Host)], &[itself(Place::Ns(4))], "broadcast");
    sent.is_a_bug(&[itself(Place::Ns(4))], &[]);
    let sent = played(vec![Step::packet(OUTSIDE, udp(stage::BROADCAST, UPLINK))]);
    sent.explains(&[itself(NS3)], &[itself(Place::Host)], "from-broadcast");
    sent.is_a_bug(&[itself(Place::Host)], &[itself(NS3)]);
    sent.is_a_bug(&[], &[about(OUTSIDE, "3/3")]);
    let sent = played(vec![Step::packet(NS3, udp(stage::NOBODY, FAR))]);
    let at = |mac: &str, ttl: u8| {
        let text = format!(
            "eth.dst={mac} eth.src=gateway ip.src=198.18.0.1 ip.dst={} ip.proto=17 ip.id=<id> \
             ip.ttl={ttl}",
            stage::NOBODY
        );
        [seen(NS3, &text)]
    };
    sent.explains(&at("02:00:00:00:00:c8", 63), &at("ns3", 63), "learnt-mac");
    sent.is_a_bug(&at("02:00:00:00:00:c8", 63), &at("ns3", 62));
}

#[test]
fn what_is_wrong_with_a_packet_is_found() {
    let right = Ip::new(FAR, UPLINK, 1).udp(1, 2, b"right");
    assert!(!super::packets::is_wrong(&right) && !super::packets::is_malformed(&right));
    for at in [20, 24, 26, 28] {
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        assert!(super::packets::is_wrong(&wrong), "byte {at}");
    }
    let mut unchecked = right.clone();
    unchecked[26..28].fill(0);
    assert!(!super::packets::is_wrong(&unchecked));
    let mut cut = right;
    cut.truncate(27);
    assert!(super::packets::is_malformed(&cut));
    packet::fix_header(&mut cut);
    assert!(super::packets::is_malformed(&cut), "its length is another");
}
