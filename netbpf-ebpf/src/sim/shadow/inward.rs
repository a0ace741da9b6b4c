//! What comes from outside, and what the host sends to itself.

use netbpf_common::{DropReason, EndpointId, Flow, Ipv4};

use super::{
    Expected, First, Goes, Refusal, Shadow,
    outward::one,
    ports::{Rule, is_published},
    read::{self, Header, Inside, Packet, Sort},
    session::{Kind, Session, Way},
    world,
};
use crate::sim::{Frame, Sim};

use Expected::{Dropped, NoRoom, Opens, Passed, Translated};

const NOBODY: EndpointId = EndpointId::NONE;

impl Shadow {
    /// A frame at an uplink or at the loopback device.
    pub(super) fn at_uplink(&mut self, world: &Sim, frame: &Frame) -> Expected {
        let bytes = &frame.bytes;
        if bytes.len() < 14 {
            return Passed(NOBODY);
        }
        match frame.vlan_id {
            // A tag within a tag that is none.
            Some(0) if matches!(bytes[12..14], [0x81, 0] | [0x88, 0xa8]) => {
                return Dropped(NOBODY, &[DropReason::PriorityTag]);
            }
            None | Some(0) => {}
            Some(_) => return Passed(NOBODY),
        }
        if bytes[12..14] != [8, 0] {
            return Passed(NOBODY);
        }
        let Some(header) = Header::of(frame) else { return Passed(NOBODY) };
        let is_plain = !header.has_options() && !header.is_fragment();
        if is_at_loopback(frame) && header.src.is_loopback() && is_plain {
            let dport = bytes.get(36..38).map(|port| u16::from_be_bytes([port[0], port[1]]));
            let is_complaint = matches!((header.proto, bytes.get(34)), (1, Some(3 | 11 | 12)));
            let is_published = dport.is_some_and(|port| is_published(world, header.proto, port));
            if !is_complaint && !is_published {
                return Passed(NOBODY);
            }
        }
        // The stack drops what was damaged.
        if frame.is_to_other || !header.is_intact {
            return stacks(world, frame, &header);
        }
        let packet = match read::inside(frame, &header) {
            Inside::Packet(packet) => packet,
            Inside::Later => match self.later(&header) {
                Ok(packet) => packet,
                Err(first) => {
                    // The stack gets it in any case: the datagram may be its own.
                    if first == First::Missing {
                        self.hold(NOBODY, &header, frame);
                    }
                    return stacks(world, frame, &header);
                }
            },
            Inside::BadChecksum => return Dropped(NOBODY, &[DropReason::BadChecksum]),
            Inside::OtherIcmp | Inside::BadQuote | Inside::Malformed => {
                let what = stacks(world, frame, &header);
                return self.with_rest(&header, what);
            }
        };
        if let Some((at, side)) = self.find_inward(frame, &packet) {
            return self.deliver(world, frame, at, side, &packet);
        }
        let what = if !packet.may_open && packet.sort != Sort::Transport {
            stacks(world, frame, &header)
        } else {
            self.ask(world, frame, &packet)
        };
        // A namespace without a guard speaks as this very client: the two cannot be
        // told apart, and the stack decides.
        let is_by_host = is_at_loopback(frame) && !frame.is_hairpin;
        let is_taken = self
            .sessions
            .iter()
            .any(|session| session.sent == packet.pair && session.is_by_host == is_by_host);
        let has_one_entry = world.tables.flow_entries == 2 * self.sessions.len() + 1;
        match what {
            Opens(id, ..) if is_taken => return Passed(id),
            NoRoom(id, DropReason::FlowTableFull) if is_taken && has_one_entry => {
                return Passed(id);
            }
            _ => {}
        }
        self.with_rest(&header, what)
    }

    /// What the stack gets, it gets with the rest of the datagram.
    fn with_rest(&mut self, header: &Header, what: Expected) -> Expected {
        if let Passed(_) = what
            && header.has_more
            && header.fragment_offset == 0
        {
            let datagram = self.datagram(header);
            datagram.first = First::ToStack;
            datagram.held.clear();
        }
        what
    }

    /// The session that takes a packet into a namespace, or to the host.
    fn find_inward(&self, frame: &Frame, packet: &Packet) -> Option<(usize, usize)> {
        let found = if is_at_loopback(frame) && !frame.is_hairpin {
            let own = self.find(packet.pair, true);
            own.or_else(|| self.find(packet.pair, false).filter(|(_, side)| *side == 1))
        } else {
            self.find(packet.pair, false)
        };
        let (at, side) = found?;
        let session = &self.sessions[at];
        // Who comes by an uplink cannot be the host.
        let is_elsewhere = session.is_by_loopback && !is_at_loopback(frame);
        (session.is_inward(side) && !is_elsewhere).then_some((at, side))
    }

    /// A packet of a session goes in.
    pub(super) fn deliver(
        &mut self,
        world: &Sim,
        frame: &Frame,
        at: usize,
        side: usize,
        packet: &Packet,
    ) -> Expected {
        let session = &self.sessions[at];
        let (owner, header) = (session.owner, &packet.header);
        if session.kind == Kind::Host {
            return self.by_stack(NOBODY, at, side, packet);
        }
        // The stack follows options, and has done so with the host's own.
        if header.has_options() && !is_from_host(frame) {
            return self.by_stack(owner, at, side, packet);
        }
        let Some(endpoint) = world::endpoint(world, owner) else {
            return Dropped(owner, &[DropReason::EndpointGone]);
        };
        if session.has_rules && !session.is_by_loopback {
            return self.by_stack(owner, at, side, packet);
        }
        match fits(frame, packet, endpoint.mtu) {
            Ok(true) => {}
            Ok(false) => return self.by_stack(owner, at, side, packet),
            Err(reason) => return Dropped(owner, one(reason)),
        }
        let goes = Goes::In(endpoint.ifindex, session.mac, endpoint.gateway_mac);
        if !packet.is_error() {
            self.sessions[at].packet(side, packet.tcp, self.now);
        }
        Translated(owner, self.onward(packet, at, side, goes, is_from_host(frame)))
    }

    /// A packet that belongs to no session: it may be for a published port.
    fn ask(&self, world: &Sim, frame: &Frame, packet: &Packet) -> Expected {
        let header = &packet.header;
        let Some((id, target)) = target(world, frame, packet) else {
            return stacks(world, frame, header);
        };
        match self.plan_in(world, frame, packet, (id, target)) {
            Ok((session, rule)) => Opens(id, Box::new(session), rule, *packet),
            Err(Refusal::ToStack) => Passed(id),
            Err(Refusal::Dropped(reason)) => Dropped(id, one(reason)),
            Err(Refusal::NoRoom(reason)) => NoRoom(id, reason),
        }
    }

    /// The session that a packet to a published port opens.
    fn plan_in(
        &self,
        world: &Sim,
        frame: &Frame,
        packet: &Packet,
        (id, target): (EndpointId, (Ipv4, u16)),
    ) -> Result<(Session, Rule), Refusal> {
        let source = packet.pair.src.0;
        let endpoint = world::endpoint(world, id);
        let endpoint = endpoint.ok_or(Refusal::Dropped(DropReason::EndpointGone))?;
        let is_inside = is_at_loopback(frame);
        if !packet.may_open {
            let refusal = Refusal::Dropped(DropReason::NoFlow);
            return Err(if is_inside { Refusal::ToStack } else { refusal });
        }
        let is_by_host = is_inside && !frame.is_hairpin;
        let way = if is_inside {
            let next_hop = if is_by_host { Flow::HOST } else { Ipv4::ANY };
            Way { ifindex: Flow::LOOPBACK, next_hop }
        } else {
            if world::is_private(world, source) {
                return Err(Refusal::Dropped(DropReason::SourceAddress));
            }
            // Who cannot be answered by an uplink is the stack's.
            let route = world::route(world, source);
            if world::is_martian(source) || world::uplink(world, route.ifindex).is_none() {
                return Err(Refusal::ToStack);
            }
            Way { ifindex: route.ifindex, next_hop: route.next_hop }
        };
        // (With options the stack judges.)
        if !packet.header.has_options() {
            fits(frame, packet, endpoint.mtu).map_err(Refusal::Dropped)?;
        }
        self.admit(world, id)?;
        let mut session = Session {
            mac: endpoint.mac,
            is_by_host,
            has_rules: world::has_rules(endpoint),
            ..self.new_session(Kind::Published, id, packet.pair, way)
        };
        session.seen.dst = target;
        if !source.is_loopback() {
            if !self.is_answered_as(session.seen.turned()) {
                let room = self.room(world).map_err(Refusal::NoRoom);
                return room.map(|()| (session, Rule::OneOf(vec![packet.pair.src.1])));
            }
            // What it is answered as is another session's: it comes from another port.
            if !is_by_host {
                return self.with_port(world, session, (source, false));
            }
        }
        // No namespace can answer a loopback address, nor tell the host from one
        // that came by the host's address from the same port: it is the gateway.
        self.with_port(world, session, (endpoint.gateway, false))
    }
}

fn is_at_loopback(frame: &Frame) -> bool {
    frame.ifindex == Flow::LOOPBACK
}

/// What is nobody's here is the host's, if it does not reach for a namespace, nor
/// says to come from one.
fn stacks(world: &Sim, frame: &Frame, header: &Header) -> Expected {
    if is_at_loopback(frame) {
        Passed(NOBODY)
    } else if world::is_private(world, header.dst) {
        Dropped(NOBODY, &[DropReason::NotPublished])
    } else if world::is_private(world, header.src) {
        Dropped(NOBODY, &[DropReason::SourceAddress])
    } else {
        Passed(NOBODY)
    }
}

/// Whether the host itself has sent it.
pub(super) fn is_from_host(frame: &Frame) -> bool {
    is_at_loopback(frame) && !frame.is_hairpin
}

/// Whether a packet goes into a namespace as it is, `false` if the stack has to
/// fragment it; or why it does not.
fn fits(frame: &Frame, packet: &Packet, mtu: u32) -> Result<bool, DropReason> {
    if packet.header.ttl <= 1 && !is_from_host(frame) {
        Err(DropReason::TtlExceeded)
    } else if packet.wire_len <= mtu as usize || is_at_loopback(frame) {
        Ok(true)
    } else if packet.header.may_be_fragmented {
        Ok(false)
    } else {
        Err(DropReason::TooBig)
    }
}

/// Whom a packet is for by a published port, and the address and port there.
fn target(world: &Sim, frame: &Frame, packet: &Packet) -> Option<(EndpointId, (Ipv4, u16))> {
    let to = packet.pair.dst;
    let is_inside = is_at_loopback(frame);
    let is_foreign = world::is_martian(to.0) || world::is_private(world, to.0);
    if !is_inside && is_foreign {
        return None;
    }
    // A broadcast address is nobody's.
    let is_broadcast = || {
        let uplink = world::uplink(world, frame.ifindex)?;
        let hosts = u32::MAX >> uplink.prefix_len;
        let is_near = (uplink.addr.to_host() ^ to.0.to_host()) & !hosts == 0;
        Some(is_near && matches!(to.0.to_host() & hosts, bits if bits == 0 || bits == hosts))
    };
    let is_hosts =
        is_inside || is_broadcast() != Some(true) && world::route(world, to.0).is_local();
    let entry = world::published(world, to, packet.pair.proto, is_hosts)?;
    let port = entry.target_port.wrapping_add(to.1.wrapping_sub(entry.first()));
    Some((entry.endpoint, (entry.target, port)))
}
