//! What holds for any packet.

use std::collections::HashSet;

use netbpf_common::{Ipv4, proto};
use netbpf_ebpf::{
    Verdict,
    seam::{FlowEntry as _, Tables as _},
    sim::{
        Sim,
        packet::{self, Segment, has_right_checksums},
        testbed::{HOST, PEER, inward, namespace, network, outward, port},
    },
};
use proptest::{collection::vec, prelude::*};

/// A packet that can be translated: protocol, both ports, flags, payload.
type Content = (u8, u16, u16, u8, Vec<u8>);

fn content() -> impl Strategy<Value = Content> {
    let protos = prop_oneof![Just(proto::TCP), Just(proto::UDP), Just(proto::ICMP)];
    (protos, any::<u16>(), any::<u16>(), any::<u8>(), vec(any::<u8>(), 0..200))
}

fn frame(addresses: packet::Addresses, is_request: bool, content: &Content) -> Vec<u8> {
    let (ip_proto, sport, dport, flags, data) = content;
    match *ip_proto {
        proto::TCP => {
            // Neither FIN nor RST, but an acknowledgement: others open nothing.
            let flags = flags & !5 | 16;
            let segment = Segment { sport: *sport, dport: *dport, flags, seq: 1, ack: 2 };
            packet::tcp(addresses, segment, data)
        }
        proto::UDP => packet::udp(addresses, *sport, *dport, data),
        _ => packet::echo(addresses, is_request, *sport, data),
    }
}

fn peer_address() -> impl Strategy<Value = Ipv4> {
    any::<u32>().prop_map(Ipv4::from_host).prop_filter("outside", |addr| {
        let host = addr.to_host();
        !addr.is_martian() && host >> 16 != 0xac13 && *addr != HOST.1 && host >> 8 != 0x00cb_0071
    })
}

/// The answer to a frame: addresses and ports turned round.
fn turned(frame: &[u8], from: packet::Addresses) -> Vec<u8> {
    let mut answer = frame.to_vec();
    answer[..6].copy_from_slice(&from.to.0.octets());
    answer[6..12].copy_from_slice(&from.from.0.octets());
    answer[26..30].copy_from_slice(&frame[30..34]);
    answer[30..34].copy_from_slice(&frame[26..30]);
    if frame[23] == proto::ICMP {
        answer[34] = 0;
    } else {
        answer[34..36].copy_from_slice(&frame[36..38]);
        answer[36..38].copy_from_slice(&frame[34..36]);
    }
    answer[22] = 64;
    packet::fix_checksums(&mut answer);
    answer
}

fn is_translated(verdict: Verdict) -> bool {
    match verdict {
        Verdict::Uplink { .. } | Verdict::Neighbour { .. } | Verdict::Peer { .. } => true,
        Verdict::Pass | Verdict::Rare | Verdict::Prepare(_) | Verdict::Held | Verdict::Sent => {
            false
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// Outwards and back again: every checksum equals a recomputation, and
    /// what comes back is what went out, turned round.
    ///
    /// Requirements: nat-11, 4787-10.
    #[test]
    fn translation_keeps_checksums_and_has_an_inverse(
        n in 1_u8..=3,
        peer in peer_address(),
        content in content(),
        taken in any::<bool>(),
    ) {
        let mut sim = network(64);
        if taken {
            // The port is somebody else's already.
            let other = frame(outward(n % 3 + 1, peer), true, &content);
            sim.from_namespace(n % 3 + 1, &other).result.unwrap();
        }
        let sent = frame(outward(n, peer), true, &content);
        let verdict = sim.from_namespace(n, &sent).result.unwrap();
        prop_assert!(is_translated(verdict));
        let outside = sim.skb.bytes.clone();
        prop_assert!(has_right_checksums(&outside));
        prop_assert_eq!(&outside[26..30], &HOST.1.octets());

        let answer = turned(&outside, inward(peer));
        let verdict = sim.from_outside(&answer).result.unwrap();
        prop_assert_eq!(verdict, Verdict::Peer { ifindex: port(n) });
        let mut inside = sim.skb.bytes.clone();
        prop_assert!(has_right_checksums(&inside));
        // A right checksum may be either zero of one's complement.
        packet::fix_checksums(&mut inside);
        let mut expected = turned(&sent, inward(peer));
        expected[..14].copy_from_slice(&inside[..14]);
        expected[22] = 63;
        packet::fix_checksums(&mut expected);
        prop_assert_eq!(inside, expected);
    }

    /// The same inwards, through published ports.
    ///
    /// Requirements: nat-11, nat-14.
    #[test]
    fn published_ports_keep_checksums_and_have_an_inverse(
        peer in peer_address(),
        sport in any::<u16>(),
        step in 0_u16..=10,
        data in vec(any::<u8>(), 0..100),
    ) {
        let mut sim = network(64);
        let asked = packet::udp(inward(peer), sport, 9000 + step, &data);
        let verdict = sim.from_outside(&asked).result.unwrap();
        prop_assert_eq!(verdict, Verdict::Peer { ifindex: port(1) });
        let inside = sim.skb.bytes.clone();
        prop_assert!(has_right_checksums(&inside));
        prop_assert_eq!(&inside[26..30], &peer.octets());
        prop_assert_eq!(&inside[30..34], &namespace(1).1.octets());

        let mut answer = turned(&inside, outward(1, peer));
        answer[30..34].copy_from_slice(&peer.octets());
        let verdict = sim.from_namespace(1, &answer).result.unwrap();
        prop_assert!(is_translated(verdict));
        prop_assert!(has_right_checksums(&sim.skb.bytes));
        let expected = [&asked[30..34], &asked[26..30], &asked[36..38], &asked[34..36]].concat();
        prop_assert_eq!(&sim.skb.bytes[26..38], &expected[..]);
    }

    /// No two live flows have the same outside tuple, whatever clients choose.
    ///
    /// Requirements: 4787-3, 5382-7, nat-3.
    #[test]
    fn outside_tuples_are_unique(
        opened in vec((1_u8..=3, 30_000_u16..30_020, 50_u16..53), 1..200),
    ) {
        let mut sim = network(1024);
        let mut clients = HashSet::new();
        let mut outside = HashSet::new();
        for (n, sport, dport) in opened {
            let frame = packet::udp(outward(n, PEER), sport, dport, b"x");
            sim.from_namespace(n, &frame).result.unwrap();
            let is_new_client = clients.insert((n, sport, dport));
            let is_new_outside = outside.insert(sim.skb.bytes[26..38].to_vec());
            prop_assert_eq!(is_new_client, is_new_outside);
        }
        prop_assert_eq!(sim.tables.flows.len(), 2 * clients.len());
        prop_assert_eq!(sim.tables.queue.len(), clients.len());
    }

    /// Any bytes at all, at every program: no panic, no private source out.
    ///
    /// Requirements: nat-15, nat-17.
    #[test]
    fn nothing_private_gets_out_and_nothing_panics(
        bytes in vec(any::<u8>(), 0..100),
        mutations in vec((0_usize..80, any::<u8>()), 0..6),
        content in content(),
        n in 1_u8..=3,
    ) {
        let mut sim = network(64);
        sim.from_namespace(n, &bytes).result.ok();
        sim.from_outside(&bytes).result.ok();
        sim.from_stack(&bytes).result.ok();
        let mut frame = frame(outward(n, PEER), true, &content);
        for (at, value) in mutations {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if let Ok(Verdict::Uplink { .. } | Verdict::Neighbour { .. }) =
            sim.from_namespace(n, &frame).result
        {
            prop_assert_eq!(&sim.skb.bytes[26..30], &HOST.1.octets());
        }
        sim.from_outside(&frame).result.ok();
        sim.from_stack(&frame).result.ok();
        check_pairs(&mut sim);
    }
}

/// Every entry has its other half, which leads back to it.
fn check_pairs(sim: &mut Sim) {
    let keys: Vec<_> = sim.tables.flows.keys().copied().collect();
    for key in keys {
        let flow = sim.tables.flow(&key).unwrap().get();
        let partner = flow.partner(key.proto);
        let back = sim.tables.flow(&partner).expect("both halves are there").get();
        assert_eq!(back.partner(key.proto), key);
        assert_ne!(back.kind.is_reply(), flow.kind.is_reply());
    }
}
