//! Random histories against a naive NAT: the shadow of `netbpf_ebpf::sim::shadow`,
//! which the fuzz target `sequence` has as its oracle, too.
//!
//! A fuzzer makes scripts of bytes, odd ones above all. Here they are made of what
//! networks see every day: namespaces that talk, peers that answer, routers that
//! complain, time that passes. And what fails is made smaller.

use std::hash::{BuildHasher as _, RandomState};

use netbpf_common::{EndpointId, Flow, Ipv4, MacAddr, Ticks};
use netbpf_ebpf::sim::{
    decode::{FAR, ON_LINK},
    event::{Body, Content, Event, Twist},
    invariants::Program,
    packet::{
        Addresses, Segment,
        tcp_flag::{ACK, FIN, RST, SYN},
    },
    script::Script,
    testbed::{GATEWAY, HOST, PEER, UPLINK, endpoint_id, inward, namespace, outward, port},
};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::RngSeed};

/// Ports of clients, of servers, and published ones.
const PORTS: [u16; 8] = [2000, 2001, 53, 443, 700, 8080, 9000, 9005];

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        4 => Just(Body::Udp),
        4 => Just(Body::Tcp),
        2 => Just(Body::Icmp(8)),
        1 => select(vec![Body::Gre, Body::Sctp, Body::UdpLite]),
    ]
}

fn content() -> impl Strategy<Value = Content> {
    let flags = select(vec![SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST, RST | ACK]);
    let number = select(vec![1_u32, 101, 901, 1 << 21]);
    let segment = (select(&PORTS[..]), select(&PORTS[..]), flags, number.clone(), number)
        .prop_map(|(sport, dport, flags, seq, ack)| Segment { sport, dport, flags, seq, ack });
    let twist = prop_oneof![
        12 => Just(0),
        1 => select(vec![
            Twist::FRAGMENT,
            Twist::LATER,
            Twist::LAST_HOP,
            Twist::GSO,
            Twist::PARTIAL,
            Twist::OPTIONS,
            Twist::TRANSIT,
        ]),
    ];
    (body(), segment, select(vec![0_usize, 8, 152, 400]), twist.prop_map(Twist)).prop_map(
        |(body, segment, len, twist)| Content { body, segment, len, twist, mutation: (0, 0) },
    )
}

/// What a namespace sends: to peers, to the host's address, to the gateway's.
fn outgoing() -> impl Strategy<Value = Event> {
    let to = select(vec![PEER, PEER, FAR, ON_LINK.1, HOST.1, HOST.1, GATEWAY.1]);
    (1_u8..=3, to, content()).prop_map(|(n, to, content)| Event::Frame {
        program: Program::FromEndpoint,
        ifindex: port(n),
        addresses: outward(n, to),
        content,
    })
}

/// What comes from outside without being an answer, and what the host sends.
fn incoming() -> impl Strategy<Value = Event> {
    let own = |addr| (MacAddr::ZERO, addr);
    let localhost = Ipv4::new([127, 0, 0, 1]);
    let way = prop_oneof![
        3 => select(vec![PEER, FAR, namespace(1).1])
            .prop_map(|from| (Program::FromUplink, UPLINK, inward(from))),
        1 => select(vec![localhost, HOST.1]).prop_map(move |addr| {
            let addresses = Addresses { from: own(addr), to: own(addr) };
            (Program::FromUplink, Flow::LOOPBACK, addresses)
        }),
        1 => select(vec![HOST.1, namespace(2).1]).prop_map(|from| {
            let addresses = Addresses { from: (HOST.0, from), to: (GATEWAY.0, PEER) };
            (Program::ToUplink, UPLINK, addresses)
        }),
    ];
    (way, content()).prop_map(|((program, ifindex, addresses), content)| Event::Frame {
        program,
        ifindex,
        addresses,
        content,
    })
}

fn event() -> impl Strategy<Value = Event> {
    let span = select(vec![1_u32, 5, 15, 29, 31, 59, 61, 119, 121, 239, 241, 7441]);
    let of = select(vec![EndpointId::NONE, endpoint_id(1), endpoint_id(2)]);
    prop_oneof![
        8 => outgoing(),
        3 => incoming(),
        8 => (0_usize..4, content())
            .prop_map(|(index, content)| Event::Answer { index, content }),
        2 => (0_usize..4, content())
            .prop_map(|(index, content)| Event::Error { index, content }),
        3 => span.prop_map(|seconds| Event::Wait(Ticks::from_secs(seconds))),
        3 => Just(Event::Sweep),
        1 => of.prop_map(Event::Flush),
        1 => any::<bool>().prop_map(Event::Reroute),
        1 => any::<bool>().prop_map(Event::Plug),
        1 => any::<bool>().prop_map(Event::Resolve),
    ]
}

/// Other histories in each run. Which, is told: of a run that fails it is printed.
fn config() -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) };
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => RandomState::new().hash_one(()),
    };
    println!("PROPTEST_RNG_SEED={seed} plays the same histories again");
    ProptestConfig { rng_seed: RngSeed::Fixed(seed), ..config }
}

proptest! {
    #![proptest_config(config())]

    /// Requirements: nat-1, nat-7.
    #[test]
    fn the_datapath_does_what_a_naive_nat_does(
        circumstances in any::<u8>(),
        events in vec(event(), 1..60),
    ) {
        Script { circumstances, events }.play();
    }
}
