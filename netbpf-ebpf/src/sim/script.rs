//! What fuzzers run: any frame at each program, and any history of a network.

use std::{collections::VecDeque, iter, vec::Vec};

use netbpf_common::{
    Endpoint, EndpointId, FdbEntry, Flow, Ipv4, MacAddr, SourceGuard, Ticks, Tuple, Uplink,
    maps::flow_queue_len, proto,
};

use super::{
    Frame, Sim,
    decode::{Bytes, FAR, MTU, ON_LINK, OTHER_HOST, OTHER_MTU, OTHER_ROUTER, OTHER_UPLINK},
    event::Event,
    invariants::{self, Program, check_tables},
    packet::{self, Segment, tcp_flag},
    shadow::Shadow,
    testbed::{
        self, BRIDGE, HOST, NAMESPACES, PEER, ROUTER, UPLINK, endpoint_id, inward, namespace,
        outward, port,
    },
};
use crate::{
    Outcome, Verdict, flow,
    seam::{Env as _, Neighbour, Route, Tables as _},
};

/// Flows that the table holds in a script: few, so that it is full at times.
const MAX_FLOWS: u32 = 12;
/// Entries that it has room for.
const FLOW_ENTRIES: usize = 2 * MAX_FLOWS as usize;
/// Flows that an endpoint may have in a script.
const FLOW_LIMIT: u32 = 6;
/// Events in a script at most: what goes wrong goes wrong soon.
const MOST_EVENTS: usize = 128;
/// Frames that went on and may be answered.
const MOST_ANSWERABLE: usize = 8;

/// Gives one frame to each of the programs in turn. The first byte says how it
/// arrives, the others are the frame. There are flows that it may belong to.
///
/// # Panics
/// If an invariant does not hold.
pub fn play_packet(bytes: &[u8]) {
    let [how, frame @ ..] = bytes else { return };
    play_frame(*how, frame);
    // Nearly all that a fuzzer makes would end at the header's checksum.
    let mut repaired = frame.to_vec();
    packet::repair_header_checksum(&mut repaired);
    if repaired != frame {
        play_frame(*how, &repaired);
    }
}

fn play_frame(how: u8, frame: &[u8]) {
    thread_local! {
        static BUSY: Sim = busy_network();
    }
    let mut sim = BUSY.with(Sim::clone);
    for endpoint in sim.tables.endpoints.values_mut() {
        (endpoint.guard, endpoint.flags) = manner(how);
    }
    let frame = Frame {
        bytes: frame.to_vec(),
        ifindex: port(1 + (how >> 2 & 3)),
        gso_size: u32::from(how >> 4 & 1) * 100,
        vlan_id: (how >> 5 & 1 != 0).then_some(u16::from(how >> 2 & 3)),
        is_to_other: how >> 6 & 1 != 0,
        is_checksum_partial: how >> 7 != 0,
        is_hairpin: false,
        copies: Vec::new(),
        again: Vec::new(),
    };
    invariants::run(&mut sim, Program::FromEndpoint, &frame);
    for (program, ifindex) in [
        (Program::FromUplink, UPLINK),
        (Program::ToUplink, UPLINK),
        (Program::FromUplink, Flow::LOOPBACK),
    ] {
        // As for [`Stage::tick`].
        sim.env.now = Ticks(sim.env.now.0 + 1);
        invariants::run(&mut sim, program, &Frame { ifindex, ..frame.clone() });
    }
}

/// The test network with a few flows.
fn busy_network() -> Sim {
    let mut sim = testbed::network(16);
    for sport in [2000, 2001] {
        let segment = Segment { sport, dport: 443, flags: tcp_flag::SYN, seq: 1, ack: 0 };
        sim.from_namespace(1, &packet::tcp(outward(1, PEER), segment, b""));
        sim.from_namespace(1, &packet::udp(outward(1, PEER), sport, 53, b""));
        sim.from_namespace(1, &packet::echo(outward(1, PEER), true, sport, b""));
        sim.from_outside(&packet::udp(inward(PEER), sport, 9000, b""));
    }
    sim
}

/// The guard and the flags that two bits stand for: the usual guard for two of their
/// values, for one of them with packets that the stack forwards. Strict ones are kept
/// apart, but for the first and the third.
fn manner(bits: u8) -> (u8, u8) {
    let (guard, flags) = [
        (SourceGuard::Learn, 0),
        (SourceGuard::Learn, Endpoint::BY_STACK),
        (SourceGuard::Strict, Endpoint::ISOLATED),
        (SourceGuard::Off, 0),
    ][usize::from(bits & 3)];
    (guard as u8, flags)
}

/// A history of a network.
#[derive(Clone, Debug)]
pub struct Script {
    /// Bits: two for the guard of each namespace and who forwards its packets, one for a third namespace on
    /// another bridge, one for a clock that is about to wrap.
    pub circumstances: u8,
    /// What happens.
    pub events: Vec<Event>,
}

impl Script {
    /// The script that bytes stand for.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        let mut bytes = Bytes(bytes);
        let circumstances = bytes.byte().unwrap_or_default();
        let events = iter::from_fn(|| bytes.event()).take(MOST_EVENTS).collect();
        Self { circumstances, events }
    }

    /// Lets it happen beside the shadow NAT, which says what has to come of it.
    ///
    /// # Panics
    /// If an invariant does not hold, or the shadow expects something else.
    pub fn play(&self) {
        thread_local! {
            static QUIET: Sim = network();
        }
        let mut sim = QUIET.with(Sim::clone);
        set_up(&mut sim, self.circumstances);
        let shadow = Shadow::new(sim.env.now);
        let mut stage = Stage { sim, shadow, answerable: VecDeque::new() };
        for event in &self.events {
            stage.play(event);
        }
    }
}

/// The test network with a second uplink and less room.
fn network() -> Sim {
    let mut sim = testbed::network(MAX_FLOWS);
    // With room for reminders of flows that were ended: more than a script ends.
    sim.tables.queue_len = flow_queue_len(MAX_FLOWS) as usize;
    for endpoint in sim.tables.endpoints.values_mut() {
        endpoint.flow_limit = FLOW_LIMIT;
        endpoint.mtu = MTU;
    }
    // Devices alone say how much they take.
    for (_, _, route) in &mut sim.env.routes {
        route.mtu = 0;
    }
    for neighbour in sim.env.neighbours.values_mut() {
        neighbour.mtu = 0;
    }
    sim.tables.uplinks.insert(UPLINK, uplink(HOST, MTU));
    sim.tables.uplinks.insert(OTHER_UPLINK, uplink(OTHER_HOST, OTHER_MTU));
    let way = Route::of(OTHER_UPLINK, OTHER_ROUTER.1);
    sim.env.routes.insert(0, (FAR, Ipv4::mask(32), way));
    sim.env.routes.insert(0, (OTHER_HOST.1, Ipv4::mask(32), Route::LOCAL));
    sim.env.sockets.push((proto::UDP, 2002));
    sim
}

/// What is different from script to script.
fn set_up(sim: &mut Sim, circumstances: u8) {
    for n in 1..=NAMESPACES {
        let endpoint = sim.tables.endpoints.get_mut(&endpoint_id(n)).expect("of the network");
        (endpoint.guard, endpoint.flags) = manner(circumstances >> (2 * (n - 1)));
        if n == 3 && circumstances & 0x40 != 0 {
            endpoint.bridge_ifindex = BRIDGE + 10;
        }
    }
    if circumstances & 0x80 != 0 {
        sim.env.now = Ticks(u32::MAX - Ticks::from_secs(300).0);
    }
}

fn uplink((mac, addr): (MacAddr, Ipv4), mtu: u32) -> Uplink {
    Uplink { addr, mtu, mac, prefix_len: 24, flags: 0 }
}

/// A frame that went on: whoever got it can answer.
struct Answerable {
    bytes: Vec<u8>,
    /// Where the answer comes in.
    program: Program,
    ifindex: u32,
}

struct Stage {
    sim: Sim,
    shadow: Shadow,
    answerable: VecDeque<Answerable>,
}

impl Stage {
    fn play(&mut self, event: &Event) {
        match event {
            Event::Frame { program, ifindex, addresses, content } => {
                self.send(*program, &content.frame(*ifindex, *addresses));
            }
            Event::Answer { index, content } => {
                if let Some(Answerable { bytes, program, ifindex }) = self.answerable.get(*index) {
                    self.send(*program, &content.answer(*ifindex, bytes));
                }
            }
            Event::Error { index, content } => {
                if let Some(Answerable { bytes, program, ifindex }) = self.answerable.get(*index) {
                    self.send(*program, &content.error(*ifindex, bytes));
                }
            }
            Event::Wait(span) => self.wait(*span),
            Event::Sweep => {
                invariants::sweep(&mut self.sim);
                self.shadow.sweep(&self.sim);
            }
            Event::Flush(id) => self.flush(*id),
            Event::Publish(entries) => self.sim.tables.publish(entries.iter().copied()),
            Event::Remove(n) => self.remove(*n),
            Event::Add(n, guard) => self.add(*n, *guard),
            Event::Resolve(is_known) => self.resolve(*is_known),
            Event::Shorten(by) => self.sim.tables.flow_entries = FLOW_ENTRIES - by,
            Event::Plug(is_there) => self.plug(*is_there),
            Event::Reroute(is_moved) => self.reroute(*is_moved),
        }
    }

    fn send(&mut self, program: Program, frame: &Frame) -> Outcome {
        if program == Program::ToUplink {
            self.tick();
        }
        let outcome = invariants::run(&mut self.sim, program, frame);
        self.shadow.see(&self.sim, program, frame, outcome);
        if program == Program::ToUplink {
            self.tick();
        }
        let Frame { bytes, copies, again, .. } = self.sim.skb.clone();
        match outcome.result {
            Ok(Verdict::Sent | Verdict::Held) => {
                for (verdict, bytes) in copies {
                    self.follow(verdict, Frame { bytes, ..frame.clone() });
                }
            }
            Ok(Verdict::Pass) => self.pass(program, Frame { bytes, ..frame.clone() }),
            Ok(verdict) => self.follow(verdict, Frame { bytes, ..frame.clone() }),
            Err(_) => {}
        }
        // They wait no longer, so that each comes in again once.
        for (ifindex, bytes) in again {
            let is_port = self.sim.tables.endpoint_id(ifindex).is_some();
            let program = if is_port { Program::FromEndpoint } else { Program::FromUplink };
            let is_hairpin = frame.is_hairpin;
            let frame = Frame { bytes, ifindex, is_hairpin, ..Frame::default() };
            let result = self.send(program, &frame).result;
            assert_ne!(result, Ok(Verdict::Held), "known, and held");
        }
        outcome
    }

    /// The stack forwards what it gets of namespaces that have it do so: out by an
    /// uplink, or in, where it may be answered. (That it takes a hop off is left out.)
    fn pass(&mut self, program: Program, mut frame: Frame) {
        let Frame { bytes, ifindex, vlan_id, .. } = &mut frame;
        if bytes.len() < 34 || bytes[12..14] != [8, 0] || vlan_id.is_some() {
            return;
        }
        let to = Ipv4::new([bytes[30], bytes[31], bytes[32], bytes[33]]);
        let tables = &self.sim.tables;
        let of = |id| tables.endpoint(id).filter(|endpoint| endpoint.is_by_stack());
        match program {
            Program::FromEndpoint => {
                let sender = tables.endpoint_id(*ifindex).and_then(of);
                let Some(sender) = sender.filter(|e| bytes[..6] == e.gateway_mac.octets()) else {
                    return;
                };
                let tuple = Tuple { daddr: to, ..Tuple::default() };
                let way = self.sim.env.route(sender.bridge_ifindex, &tuple).ifindex;
                if bytes[22] <= 1 || !self.sim.tables.uplinks.contains_key(&way) {
                    return;
                }
                bytes[..6].copy_from_slice(&ROUTER.0.octets());
                bytes[6..12].copy_from_slice(&HOST.0.octets());
                *ifindex = way;
                let outcome = self.send(Program::ToUplink, &frame);
                if outcome.result == Ok(Verdict::Pass) {
                    let bytes = self.sim.skb.bytes.clone();
                    self.follow(Verdict::Uplink { ifindex: way }, Frame { bytes, ..frame });
                }
            }
            Program::FromUplink => {
                let Some(receiver) = tables.address_owner(to).and_then(of) else { return };
                bytes[..6].copy_from_slice(&receiver.mac.octets());
                bytes[6..12].copy_from_slice(&receiver.gateway_mac.octets());
                self.follow(Verdict::Peer { ifindex: receiver.ifindex }, frame);
            }
            Program::ToUplink => {}
        }
    }

    /// Where a frame goes on to, it may be answered; from the loopback device it
    /// comes in again.
    fn follow(&mut self, verdict: Verdict, frame: Frame) {
        let (program, ifindex) = match verdict {
            Verdict::Neighbour { ifindex: Flow::LOOPBACK, next_hop } => {
                // The host itself gets what comes back to it without another look.
                if next_hop == Flow::HOST {
                    return;
                }
                let ifindex = Flow::LOOPBACK;
                let frame = Frame { ifindex, is_hairpin: true, is_to_other: false, ..frame };
                self.send(Program::FromUplink, &frame);
                return;
            }
            Verdict::Peer { ifindex } => (Program::FromEndpoint, ifindex),
            Verdict::Uplink { ifindex } | Verdict::Neighbour { ifindex, .. } => {
                (Program::FromUplink, ifindex)
            }
            Verdict::Pass | Verdict::Rare | Verdict::Prepare(_) | Verdict::Held | Verdict::Sent => {
                return;
            }
        };
        let bytes = frame.bytes;
        // With all of the header that an answer fills in.
        let is_complete = bytes.len() >= if bytes.get(23) == Some(&proto::TCP) { 54 } else { 42 };
        if bytes[12..14] == [8, 0] && is_complete {
            self.answerable.push_front(Answerable { bytes, program, ifindex });
            self.answerable.truncate(MOST_ANSWERABLE);
        }
    }

    /// Lets a moment go by after flows may have been ended from elsewhere: one
    /// that is made anew in the very tick in which it was made has two reminders.
    fn tick(&mut self) {
        self.wait(Ticks(1));
    }

    fn wait(&mut self, span: Ticks) {
        self.sim.env.now = Ticks(self.sim.env.now.0.wrapping_add(span.0));
        self.shadow.wait(span);
    }

    /// As the control plane does it.
    fn flush(&mut self, id: EndpointId) {
        let is_meant = |flow: &Flow| id == EndpointId::NONE || flow.endpoint == id;
        let flows = self.sim.tables.flows.iter();
        let meant = flows.filter(|(_, flow)| is_meant(&flow.borrow()));
        let originals = meant.filter(|(_, flow)| !flow.borrow().kind.is_reply());
        for key in originals.map(|(key, _)| *key).collect::<Vec<_>>() {
            assert!(flow::remove(&mut self.sim, &key), "{key:?} stays");
        }
        assert_eq!(self.sim.tables.flow_count(id), 0);
        check_tables(&self.sim);
        self.shadow.flush(&self.sim, id);
        self.tick();
    }

    fn remove(&mut self, n: u8) {
        let tables = &mut self.sim.tables;
        let (mac, addr) = namespace(n);
        tables.endpoints.remove(&endpoint_id(n));
        tables.addresses.remove(&addr);
        tables.fdb.remove(&mac);
        tables.learnt.retain(|_, entry| entry.endpoint != endpoint_id(n));
        self.shadow.remove(endpoint_id(n));
    }

    fn add(&mut self, n: u8, guard: u8) {
        let tables = &mut self.sim.tables;
        let (mac, addr) = namespace(n);
        let endpoint = Endpoint { guard, flow_limit: FLOW_LIMIT, mtu: MTU, ..testbed::endpoint(n) };
        tables.endpoints.insert(endpoint_id(n), endpoint);
        tables.addresses.insert(addr, endpoint_id(n));
        tables.fdb.insert(mac, FdbEntry { endpoint: endpoint_id(n), ..FdbEntry::default() });
    }

    fn resolve(&mut self, is_known: bool) {
        let neighbours = &mut self.sim.env.neighbours;
        for (mac, addr, source_mac) in [
            (ROUTER.0, ROUTER.1, HOST.0),
            (ON_LINK.0, ON_LINK.1, HOST.0),
            (OTHER_ROUTER.0, OTHER_ROUTER.1, OTHER_HOST.0),
        ] {
            if is_known {
                neighbours.insert(addr, Neighbour { mac, source_mac, mtu: 0 });
            } else {
                neighbours.remove(&addr);
            }
        }
    }

    fn plug(&mut self, is_there: bool) {
        let uplinks = &mut self.sim.tables.uplinks;
        if is_there {
            uplinks.insert(OTHER_UPLINK, uplink(OTHER_HOST, OTHER_MTU));
        } else {
            uplinks.remove(&OTHER_UPLINK);
        }
    }

    fn reroute(&mut self, is_moved: bool) {
        let routes = &mut self.sim.env.routes;
        routes.retain(|(addr, ..)| *addr != PEER);
        if is_moved {
            let way = Route::of(OTHER_UPLINK, OTHER_ROUTER.1);
            routes.insert(0, (PEER, Ipv4::mask(32), way));
        }
    }
}
