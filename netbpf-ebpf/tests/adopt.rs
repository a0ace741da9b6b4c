//! Flows that the kernel's connection tracking has followed so far.

use netbpf_common::{
    Endpoint, Flow, FlowKind, Ipv4, KnownFlow, Port, PortOwner, Seen, Translation, Tuple, proto,
};
use netbpf_ebpf::{
    Verdict, adopt,
    seam::{FlowEntry as _, Tables as _},
    sim::{
        Sim,
        packet::{self, Segment, tcp_flag::ACK},
        testbed::{
            HOST, NAMESPACES, PEER, UPLINK, endpoint_id, inward, namespace, network, outward,
        },
    },
};

const ESTABLISHED: Seen = Seen(Seen::ANY | Seen::SYN | Seen::ACK);

type End = (Ipv4, u16);

fn known(original: (End, End), translated: (End, End)) -> KnownFlow {
    let tuple = |(from, to): (End, End)| Tuple {
        saddr: from.0,
        daddr: to.0,
        sport: Port::new(from.1),
        dport: Port::new(to.1),
        proto: proto::TCP,
        ..Tuple::default()
    };
    KnownFlow {
        original: tuple(original),
        translated: Translation::from(tuple(translated)),
        seen: ESTABLISHED,
        reply_seen: ESTABLISHED,
        ..KnownFlow::default()
    }
}

/// The first namespace's connection, which had to give up its port.
fn outwards() -> KnownFlow {
    let server = (PEER, 443);
    known(((namespace(1).1, 4000), server), ((HOST.1, 5000), server))
}

fn flow(sim: &mut Sim, key: &Tuple) -> Option<Flow> {
    sim.tables.flow(key).map(|entry| entry.get())
}

fn owner(sim: &Sim, port: u16) -> PortOwner {
    sim.tables.port_owner(PortOwner::index(proto::TCP, port).unwrap())
}

#[test]
fn a_namespaces_connection_goes_on_with_the_port_that_it_has() {
    let mut sim = network(8);
    let known = outwards();
    assert!(adopt::adopt(&mut sim, &known));
    let made = flow(&mut sim, &known.original).unwrap();
    assert_eq!((made.kind.is_dnat(), made.endpoint), (false, endpoint_id(1)));
    assert_eq!((made.uplink, made.mac, made.seen), (UPLINK, namespace(1).0, ESTABLISHED));
    assert!(made.kind.owns_port() && owner(&sim, 5000).flows() == 1);
    assert_eq!(sim.tables.flow_count(endpoint_id(1)), 1);
    // In both directions, whichever speaks first.
    let segment = Segment { sport: 443, dport: 5000, flags: ACK, seq: 7, ack: 9 };
    let outcome = sim.from_outside(&packet::tcp(inward(PEER), segment, b"first"));
    assert!(matches!(outcome.result, Ok(Verdict::Peer { .. })), "{outcome:?}");
    let segment = Segment { sport: 4000, dport: 443, flags: ACK, seq: 9, ack: 7 };
    sim.from_namespace(1, &packet::tcp(outward(1, PEER), segment, b"")).result.unwrap();
    assert_eq!(sim.tables.flows.len(), 2);
    // Known already.
    assert!(!adopt::adopt(&mut sim, &known));
    assert_eq!((sim.tables.flows.len(), owner(&sim, 5000).flows()), (2, 1));
}

#[test]
fn what_is_published_is_a_flow_of_the_namespace_that_it_leads_to() {
    let mut sim = network(8);
    let (client, web) = ((PEER, 7000), (namespace(1).1, 80));
    let from_outside = known((client, (HOST.1, 8080)), (client, web));
    assert!(adopt::adopt(&mut sim, &from_outside));
    let made = flow(&mut sim, &from_outside.original).unwrap();
    assert_eq!((made.kind, made.endpoint), (FlowKind::DNAT_ORIGINAL, endpoint_id(1)));
    assert_eq!((made.uplink, owner(&sim, 7000).flows()), (UPLINK, 0));
    // Of the host itself.
    let host = (HOST.1, 7001);
    let mut from_host = known((host, (HOST.1, 8080)), (host, web));
    from_host.original.from_host = 1;
    assert!(adopt::adopt(&mut sim, &from_host));
    let made = flow(&mut sim, &from_host.original).unwrap();
    assert!(made.kind.is_from_host() && made.kind.is_dnat());
    assert_eq!((made.uplink, made.next_hop), (Flow::LOOPBACK, Flow::HOST));
    // Of another namespace, by the host's address: out, and in again.
    let (other, between) = ((namespace(2).1, 4000), (HOST.1, 4001));
    let out = known((other, (HOST.1, 8080)), (between, (HOST.1, 8080)));
    let back_in = known((between, (HOST.1, 8080)), (between, web));
    assert!(adopt::adopt(&mut sim, &out) && adopt::adopt(&mut sim, &back_in));
    let [out, back_in] = [out, back_in].map(|of| flow(&mut sim, &of.original).unwrap());
    assert_eq!((out.endpoint, out.uplink), (endpoint_id(2), Flow::LOOPBACK));
    assert_eq!((back_in.endpoint, back_in.uplink), (endpoint_id(1), Flow::LOOPBACK));
}

#[test]
fn what_is_nobodys_or_has_no_room_is_left_out_without_a_trace() {
    let mut sim = network(2);
    let server = (PEER, 443);
    let stranger = Ipv4::new([172, 19, 0, 200]);
    let inside = (namespace(NAMESPACES).1, 4000);
    for of_nobody in [
        known(((stranger, 4000), server), ((HOST.1, 4000), server)),
        known((server, (HOST.1, 22)), (server, (HOST.1, 22))),
        // By no uplink.
        known((inside, (namespace(1).1, 80)), ((HOST.1, 4000), (namespace(1).1, 80))),
    ] {
        assert!(!adopt::adopt(&mut sim, &of_nobody), "{of_nobody:?}");
    }
    // Somebody else has the outside tuple: the port stays that one's.
    let first = outwards();
    assert!(adopt::adopt(&mut sim, &first));
    let second = known(((namespace(2).1, 4000), server), ((HOST.1, 5000), server));
    assert!(!adopt::adopt(&mut sim, &second));
    assert_eq!((sim.tables.flows.len(), owner(&sim, 5000).flows()), (2, 1));
    assert!(owner(&sim, 5000).is(PortOwner::new(namespace(1).1, Port::new(4000))));
    // The same address and port share a port, with another peer; then it is full.
    let third = known(((namespace(1).1, 4000), (PEER, 444)), ((HOST.1, 5000), (PEER, 444)));
    assert!(adopt::adopt(&mut sim, &third));
    assert_eq!(owner(&sim, 5000).flows(), 2);
    let fourth = known(((namespace(1).1, 4000), (PEER, 445)), ((HOST.1, 5000), (PEER, 445)));
    assert!(!adopt::adopt(&mut sim, &fourth));
    assert_eq!((sim.tables.flows.len(), owner(&sim, 5000).flows()), (4, 2));
    assert_eq!(sim.tables.flow_count(endpoint_id(2)), 0);
}

#[test]
fn a_connection_of_a_network_whose_packets_the_stack_forwards_stays_the_stacks() {
    let mut sim = network(8);
    for endpoint in sim.tables.endpoints.values_mut() {
        endpoint.flags = Endpoint::BY_STACK;
    }
    let known = outwards();
    assert!(adopt::adopt(&mut sim, &known));
    let segment = Segment { sport: 4000, dport: 443, flags: ACK, seq: 1, ack: 1 };
    let frame = packet::tcp(outward(1, PEER), segment, b"");
    assert_eq!(sim.from_namespace(1, &frame).result, Ok(Verdict::Pass));
    let back = Segment { sport: 443, dport: 5000, ..segment };
    assert_eq!(sim.from_outside(&packet::tcp(inward(PEER), back, b"")).result, Ok(Verdict::Pass));
    assert_eq!(packet::ends(&sim.skb.bytes), (PEER, 443, namespace(1).1, 4000));
}
