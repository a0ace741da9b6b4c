//! What the host sends by an uplink: its own, and what its stack forwards.

use netbpf_common::{DropReason, EndpointId, Ipv4};

use super::{
    Expected, First, Goes, Refusal, Shadow, guard,
    outward::one,
    ports::Rule,
    read::{self, Header, Inside, Packet},
    session::{Kind, Session, Way},
    world,
};
use crate::sim::{Frame, Sim};

use Expected::{Dropped, Opens, Passed, Translated};

const NOBODY: EndpointId = EndpointId::NONE;

impl Shadow {
    /// A frame that the host sends by an uplink.
    pub(super) fn leaving(&mut self, world: &Sim, frame: &Frame) -> Expected {
        let bytes = &frame.bytes;
        // A VLAN beside the uplink is another network.
        if matches!(frame.vlan_id, Some(1..)) {
            return Passed(NOBODY);
        }
        match bytes.get(12..14) {
            Some([8, 6]) => {
                let sender = guard::arp_sender(bytes).map(|(_, addr)| addr);
                match sender.filter(|addr| world::is_private(world, *addr)) {
                    Some(addr) => {
                        let whose = world::owner(world, addr).unwrap_or(NOBODY);
                        return Dropped(whose, &[DropReason::PrivateSource]);
                    }
                    None => return Passed(NOBODY),
                }
            }
            Some([8, 0]) if bytes.len() >= 34 => {}
            _ => return Passed(NOBODY),
        }
        let is_private = world::is_private(world, read::addr(bytes, 26));
        let Some(header) = Header::of(frame) else {
            return if is_private {
                Dropped(NOBODY, &[DropReason::Truncated, DropReason::BadHeader])
            } else {
                Passed(NOBODY)
            };
        };
        if is_private && !header.is_intact {
            let whose = world::owner(world, header.src).unwrap_or(NOBODY);
            Dropped(whose, &[DropReason::BadChecksum])
        } else if is_private {
            self.private_out(world, frame, &header)
        } else if !header.is_intact {
            Passed(NOBODY)
        } else {
            self.own_out(world, frame, &header)
        }
    }

    /// What the stack has forwarded for a namespace.
    fn private_out(&mut self, world: &Sim, frame: &Frame, header: &Header) -> Expected {
        let owner = world::owner(world, header.src);
        let id = owner.unwrap_or(NOBODY);
        let packet = match read::inside(frame, header) {
            Inside::Packet(packet) => packet,
            Inside::Later => match self.later(header) {
                Ok(packet) => packet,
                Err(First::Missing) => return Dropped(id, &[DropReason::Fragment]),
                Err(_) => return Dropped(id, &[DropReason::PrivateSource]),
            },
            Inside::OtherIcmp => return Dropped(id, &[DropReason::PrivateSource]),
            inside => return Dropped(id, inside.reasons(header)),
        };
        if let Some(what) = self.by_session(frame, id, &packet) {
            return what;
        }
        if packet.is_error() {
            return Dropped(id, &[DropReason::IcmpUnrelated]);
        }
        let planned = if owner == Some(NOBODY) {
            self.plan_host(world, frame, &packet)
        } else if let Some(endpoint) = world::endpoint(world, id) {
            self.plan_out(world, id, endpoint, frame, &packet)
        } else {
            return Dropped(id, &[DropReason::PrivateSource]);
        };
        opened(frame, id, &packet, planned)
    }

    /// What the host sends of its own: as it is, unless a namespace has its port.
    fn own_out(&mut self, world: &Sim, frame: &Frame, header: &Header) -> Expected {
        let packet = match read::inside(frame, header) {
            Inside::Packet(packet) if !packet.is_error() => packet,
            // It complains of what was translated before it came to the stack.
            Inside::Packet(packet) if world::is_private(world, packet.pair.src.0) => {
                let what = self.by_session(frame, NOBODY, &packet);
                return what.unwrap_or(Dropped(NOBODY, &[DropReason::IcmpUnrelated]));
            }
            // (Where there are no sessions, nothing is remembered of it.)
            Inside::Later if !self.sessions.is_empty() => match self.later(header) {
                Ok(packet) => packet,
                Err(_) => return Passed(NOBODY),
            },
            _ => return Passed(NOBODY),
        };
        let has_own = self.sessions.iter().any(|session| session.kind == Kind::Host);
        let is_its = has_own && self.find(packet.pair, false).is_some();
        let clash = self.find(packet.pair.turned(), false);
        let is_clash =
            clash.is_some_and(|(at, side)| side == 1 && self.sessions[at].kind == Kind::Out);
        if !is_its && !is_clash {
            return Passed(NOBODY);
        }
        if let Some(what) = self.by_session(frame, NOBODY, &packet) {
            return what;
        }
        let planned = self.plan_host(world, frame, &packet);
        opened(frame, NOBODY, &packet, planned)
    }

    /// What becomes of a packet that the stack sends, if there is a session for it. The
    /// stack's way is the newer one: a session that has another ends.
    fn by_session(&mut self, frame: &Frame, id: EndpointId, packet: &Packet) -> Option<Expected> {
        let (at, side) = self.find(packet.pair, false)?;
        let session = &self.sessions[at];
        if session.is_inward(side) {
            return Some(Dropped(id, &[DropReason::PrivateSource]));
        }
        if session.sides[side].way.ifindex == frame.ifindex || session.kind == Kind::Published {
            return Some(self.by_stack(id, at, side, packet));
        }
        self.sessions.remove(at);
        None
    }

    /// A packet that the stack sends on is translated and goes its way.
    pub(super) fn by_stack(
        &mut self,
        id: EndpointId,
        at: usize,
        side: usize,
        packet: &Packet,
    ) -> Expected {
        if !packet.is_error() {
            self.sessions[at].packet(side, packet.tcp, self.now);
        }
        Translated(id, self.onward(packet, at, side, Goes::Stack, false))
    }

    /// The session that a packet of the host's own opens.
    fn plan_host(
        &self,
        world: &Sim,
        frame: &Frame,
        packet: &Packet,
    ) -> Result<(Session, Rule), Refusal> {
        let uplink = world::uplink(world, frame.ifindex)
            .ok_or(Refusal::Dropped(DropReason::PrivateSource))?;
        if self.sessions.len() >= world.tables.config.max_flows as usize {
            return Err(Refusal::Dropped(DropReason::FlowTableFull));
        }
        let own = packet.pair.src.0;
        let source = if world::is_private(world, own) { uplink.addr } else { own };
        let way = Way { ifindex: frame.ifindex, next_hop: Ipv4::ANY };
        let session = self.new_session(Kind::Host, EndpointId::HOST, packet.pair, way);
        self.with_port(world, session, (source, true))
    }
}

/// A packet that the stack sends opens a session, where one was planned.
fn opened(
    frame: &Frame,
    id: EndpointId,
    packet: &Packet,
    planned: Result<(Session, Rule), Refusal>,
) -> Expected {
    match planned {
        // It goes another way than the routing table says.
        Ok((session, _)) if session.sides[0].way.ifindex != frame.ifindex => {
            Dropped(id, &[DropReason::PrivateSource])
        }
        Ok((session, rule)) => Opens(id, Box::new(session), rule, *packet),
        Err(Refusal::ToStack) => Dropped(id, &[DropReason::PrivateSource]),
        // Nothing is ended for it here.
        Err(Refusal::Dropped(reason) | Refusal::NoRoom(reason)) => Dropped(id, one(reason)),
    }
}
