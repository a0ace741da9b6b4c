//! What a namespace sends.

use netbpf_common::{DropReason, Endpoint, EndpointId, Flow, Ipv4};

use super::{
    Expected, First, Goes, Refusal, Shadow,
    ports::{Rule, is_published},
    read::{self, Header, Inside, Packet},
    session::{Kind, Pair, Session, Side, Way},
    world,
};
use crate::sim::{Frame, Sim};

use Expected::{Dropped, Held, NoRoom, Opens, Passed, Translated};

impl Shadow {
    /// A frame from a namespace.
    pub(super) fn at_port(&mut self, world: &Sim, frame: &Frame) -> Expected {
        let mut all = world.tables.endpoints.iter();
        let Some((id, endpoint)) = all.find(|(_, e)| e.ifindex == frame.ifindex) else {
            return Dropped(EndpointId::NONE, &[DropReason::EndpointGone]);
        };
        let (id, bytes) = (*id, &frame.bytes);
        if bytes.len() < 14 {
            return Dropped(id, &[DropReason::Truncated]);
        }
        let (dst, src) = (read::mac(bytes, 0), read::mac(bytes, 6));
        if !self.may_speak_from(world, id, endpoint, src) {
            return Dropped(id, &[DropReason::SourceMac]);
        }
        let is_to_all = dst.octets()[0] & 1 != 0;
        match (frame.vlan_id, &bytes[12..14]) {
            (Some(0), _) => Dropped(id, &[DropReason::PriorityTag]),
            // A tag makes no difference to whom it may be routed.
            (Some(_), [8, 0]) if dst == endpoint.gateway_mac && bytes.len() >= 34 => {
                let addrs = (read::addr(bytes, 26), read::addr(bytes, 30));
                if is_back_inside(world, id, endpoint, addrs, bytes[22]) {
                    Dropped(id, &[DropReason::Isolated])
                } else {
                    Passed(id)
                }
            }
            (Some(_), _) => Passed(id),
            (None, [8, 6]) => {
                if Self::may_announce(world, endpoint, bytes) {
                    Passed(id)
                } else {
                    Dropped(id, &[DropReason::ArpSpoof])
                }
            }
            (None, [8, 0]) => {
                let Some(header) = Header::of(frame) else {
                    return Dropped(id, &[DropReason::Truncated, DropReason::BadHeader]);
                };
                if header.src == Ipv4::ANY && is_to_all {
                    return Passed(id);
                }
                match Self::may_speak_as(world, endpoint, src, header.src) {
                    Err(DropReason::SourceMac) => Dropped(id, &[DropReason::SourceMac]),
                    Err(_) => Dropped(id, &[DropReason::SourceAddress]),
                    Ok(()) if is_to_all => Passed(id),
                    Ok(()) if dst != endpoint.gateway_mac => {
                        self.bridge(world, id, endpoint, frame)
                    }
                    Ok(()) => match self.routed(world, id, endpoint, frame, &header) {
                        Passed(_)
                            if is_back_inside(
                                world,
                                id,
                                endpoint,
                                (header.src, header.dst),
                                header.ttl,
                            ) =>
                        {
                            Dropped(id, &[DropReason::Isolated])
                        }
                        expected => expected,
                    },
                }
            }
            _ if is_to_all || dst == endpoint.gateway_mac => Passed(id),
            _ => self.bridge(world, id, endpoint, frame),
        }
    }

    /// An IPv4 packet to the gateway.
    fn routed(
        &mut self,
        world: &Sim,
        id: EndpointId,
        endpoint: &Endpoint,
        frame: &Frame,
        header: &Header,
    ) -> Expected {
        // A router forwards nothing that was damaged; of what has options the stack sees
        // to that.
        if !header.has_options() && !header.is_intact {
            return Dropped(id, &[DropReason::BadChecksum]);
        }
        let is_out = is_out(world, header);
        let inside = read::inside(frame, header);
        // The stack follows options, and what it sends comes by `to_uplink`; what it
        // would take for its own, by the loopback device.
        if header.has_options() {
            let is_back = header.is_intact
                && !header.is_fragment()
                && matches!(&inside, Inside::Packet(p) if self.comes_back(world, id, endpoint, p).is_some());
            if !is_back {
                return Passed(id);
            }
        }
        let packet = match inside {
            Inside::Packet(packet) => packet,
            Inside::Later => match self.later(header) {
                Ok(packet) => packet,
                Err(First::Missing) => {
                    let is_kept = self.hold(id, header, frame);
                    return match (is_out, is_kept) {
                        (true, true) => Held(id),
                        (true, false) => Dropped(id, &[DropReason::Fragment]),
                        (false, _) => Passed(id),
                    };
                }
                Err(_) => return Passed(id),
            },
            Inside::OtherIcmp => {
                // Whatever it is, it is the stack's, and so is the rest of it.
                self.leave_rest_to_stack(world, header);
                return Passed(id);
            }
            Inside::BadQuote | Inside::BadChecksum | Inside::Malformed
                if header.proto == netbpf_common::proto::ICMP
                    && !is_out
                    && (header.is_fragment() || !matches!(inside, Inside::Malformed)) =>
            {
                // What is rare and makes no sense the stack judges.
                self.leave_rest_to_stack(world, header);
                return Passed(id);
            }
            inside => return Dropped(id, inside.reasons(header)),
        };
        if header.ttl <= 1 {
            match self.comes_back(world, id, endpoint, &packet) {
                Some(true) => {}
                Some(false) => return Dropped(id, &[DropReason::TtlExceeded]),
                None => return self.leave_to_stack(world, id, &packet),
            }
        }
        if let Some((at, side)) = self.find(packet.pair, false) {
            let session = &self.sessions[at];
            if session.is_inward(side) {
                return self.leave_to_stack(world, id, &packet);
            }
            if session.owner != id {
                return Dropped(id, &[DropReason::SourceAddress]);
            }
            if session.sides[side].asked == self.stretch() || packet.is_error() {
                return self.leave(world, id, at, side, &packet);
            }
            match self.ask_way(world, at, side) {
                Some(true) => return self.leave(world, id, at, side, &packet),
                Some(false) => {}
                None => return self.leave_to_stack(world, id, &packet),
            }
        }
        if packet.is_error() {
            return if is_out { Dropped(id, &[DropReason::IcmpUnrelated]) } else { Passed(id) };
        }
        match self.plan_out(world, id, endpoint, frame, &packet) {
            Ok((session, rule)) => Opens(id, Box::new(session), rule, packet),
            Err(Refusal::ToStack) => self.leave_to_stack(world, id, &packet),
            Err(Refusal::Dropped(reason)) => Dropped(id, one(reason)),
            Err(Refusal::NoRoom(reason)) => NoRoom(id, reason),
        }
    }

    /// Whether a packet to an address of the host comes back in, and then whether the
    /// host itself gets it.
    fn comes_back(
        &self,
        world: &Sim,
        id: EndpointId,
        endpoint: &Endpoint,
        packet: &Packet,
    ) -> Option<bool> {
        if let Some((at, side)) = self.find(packet.pair, false) {
            let session = &self.sessions[at];
            let way = session.sides[side].way;
            let is_own = session.owner == id && !session.is_inward(side);
            let is_back = is_own && way.ifindex == Flow::LOOPBACK;
            return is_back.then_some(way.next_hop == Flow::HOST);
        }
        let leads_in = packet.may_open
            && !is_for_stack(world, endpoint, packet.pair)
            && world::route(world, packet.pair.dst.0).is_local()
            && self.leads_in(world, packet.pair);
        leads_in.then_some(false)
    }

    /// Whether somebody in a namespace is reached at an address of the host.
    fn leads_in(&self, world: &Sim, Pair { proto, dst, .. }: Pair) -> bool {
        let is_mapped = proto != netbpf_common::proto::ICMP && self.is_owned(proto, dst.1);
        is_mapped || world::published(world, dst, proto, true).is_some()
    }

    /// A packet that the stack gets as it is, and with it the rest of its datagram.
    fn leave_to_stack(&mut self, world: &Sim, id: EndpointId, packet: &Packet) -> Expected {
        self.leave_rest_to_stack(world, &packet.header);
        Passed(id)
    }

    /// What has waited comes in again if it leaves; else the stack has had it already.
    fn leave_rest_to_stack(&mut self, world: &Sim, header: &Header) {
        if header.has_more && header.fragment_offset == 0 {
            let datagram = self.datagram(header);
            datagram.first = First::ToStack;
            let waited = core::mem::take(&mut datagram.held);
            if is_out(world, header) {
                self.again = waited;
            }
        }
    }

    /// Keeps a fragment until its datagram's first comes; whether it is short enough.
    pub(super) fn hold(&mut self, from: EndpointId, header: &Header, frame: &Frame) -> bool {
        let packet = &frame.bytes[..14 + header.total];
        let is_kept = packet.len() <= 9202;
        if is_kept {
            self.datagram(header).held.push((from, packet.to_vec()));
        }
        is_kept
    }

    /// Looks up the way of a session anew: whether it still is the session's, and
    /// nothing where there is no way out just now.
    fn ask_way(&mut self, world: &Sim, at: usize, side: usize) -> Option<bool> {
        let session = self.sessions[at];
        let pair = session.comes(side);
        let route = world::route(world, pair.dst.0);
        let stretch = self.stretch();
        let old = session.sides[side].way;
        if old.ifindex == Flow::LOOPBACK && route.is_local() {
            self.sessions[at].sides[side].asked = stretch;
            return Some(true);
        }
        let source = route.source(world)?;
        let saddr = session.goes(side).src.0;
        let is_lost = saddr != source && !world::route(world, saddr).is_local();
        let is_moved = route.ifindex != old.ifindex && session.kind != Kind::Published;
        if is_lost || is_moved {
            self.sessions.remove(at);
            return Some(false);
        }
        let way = Way { ifindex: route.ifindex, next_hop: route.next_hop };
        self.sessions[at].sides[side].way = way;
        self.sessions[at].sides[side].asked = stretch;
        Some(true)
    }

    /// A packet of a session goes out.
    pub(super) fn leave(
        &mut self,
        world: &Sim,
        id: EndpointId,
        at: usize,
        side: usize,
        packet: &Packet,
    ) -> Expected {
        let way = self.sessions[at].sides[side].way;
        let goes = if way.ifindex == Flow::LOOPBACK {
            Goes::Back(way.next_hop)
        } else if self.sessions[at].has_rules {
            return self.leave_to_stack(world, id, packet);
        } else {
            let (hop, is_asked) = self.hop(world, way.next_hop, way.ifindex);
            // The stack resolves it, and tells if it cannot.
            if packet.wire_len > hop.mtu || hop.is_left_to_stack {
                return self.leave_to_stack(world, id, packet);
            }
            let (dst, src) = hop.macs;
            if is_asked { Goes::ByKernel(way) } else { Goes::Out(way.ifindex, dst, src) }
        };
        if !packet.is_error() {
            self.sessions[at].packet(side, packet.tcp, self.now);
        }
        Translated(id, self.onward(packet, at, side, goes, false))
    }

    /// The session that a namespace's packet opens.
    pub(super) fn plan_out(
        &self,
        world: &Sim,
        id: EndpointId,
        endpoint: &Endpoint,
        frame: &Frame,
        packet: &Packet,
    ) -> Result<(Session, Rule), Refusal> {
        let dst = packet.pair.dst;
        if is_for_stack(world, endpoint, packet.pair) {
            return Err(Refusal::ToStack);
        }
        let route = world::route(world, dst.0);
        let source = if route.is_local() {
            // By the host's own address: to a published port, or to another
            // namespace as it is seen from outside. It comes from there, too.
            if !packet.may_open || !self.leads_in(world, packet.pair) {
                return Err(Refusal::ToStack);
            }
            dst.0
        } else {
            let source = route.source(world).ok_or(Refusal::ToStack)?;
            if !packet.may_open {
                return Err(Refusal::Dropped(DropReason::NoFlow));
            }
            let uplink = world::uplink(world, route.ifindex).ok_or(Refusal::ToStack)?;
            let is_stacks_now = frame.ifindex == route.ifindex;
            if packet.wire_len > uplink.mtu as usize && !is_stacks_now {
                return Err(Refusal::ToStack);
            }
            source
        };
        self.admit(world, id)?;
        let has_rules = world::has_rules(endpoint);
        let is_bridged = frame.ifindex == endpoint.ifindex;
        // They decide whether there is a session at all.
        if has_rules && is_bridged && !route.is_local() {
            return Err(Refusal::ToStack);
        }
        let mac = if is_bridged { read::mac(&frame.bytes, 6) } else { endpoint.mac };
        let way = Way { ifindex: route.ifindex, next_hop: route.next_hop };
        let new = self.new_session(Kind::Out, id, packet.pair, way);
        let session = Session { has_rules, mac, ..new };
        self.with_port(world, session, (source, true))
    }

    /// Has a session come from a source address, and says what port it may have.
    pub(super) fn with_port(
        &self,
        world: &Sim,
        mut session: Session,
        (source, may_own): (Ipv4, bool),
    ) -> Result<(Session, Rule), Refusal> {
        session.seen.src.0 = source;
        match self.port_rule(world, &session, may_own) {
            Ok(rule) => Ok((session, rule)),
            Err(DropReason::FlowTableFull) => Err(Refusal::NoRoom(DropReason::FlowTableFull)),
            Err(reason) => Err(Refusal::Dropped(reason)),
        }
    }

    /// A session that translates nothing so far.
    pub(super) fn new_session(
        &self,
        kind: Kind,
        owner: EndpointId,
        pair: Pair,
        way: Way,
    ) -> Session {
        let side = Side::new(self.now, way, self.stretch());
        Session {
            kind,
            owner,
            sent: pair,
            seen: pair,
            is_by_host: false,
            is_by_loopback: way.ifindex == Flow::LOOPBACK,
            has_rules: false,
            owns_port: false,
            mac: netbpf_common::MacAddr::ZERO,
            sides: [side; 2],
        }
    }
}

/// Whether nobody in a namespace is meant, however a packet is routed.
fn is_for_stack(world: &Sim, endpoint: &Endpoint, Pair { proto, dst, .. }: Pair) -> bool {
    let is_gateways = dst.0 == endpoint.gateway && !is_published(world, proto, dst.1);
    world::is_martian(dst.0) || is_gateways
}

/// Whether the stack would route a packet of a namespace to another one from which it is
/// kept apart, or for who knows whom to who knows whom among them.
fn is_back_inside(
    world: &Sim,
    id: EndpointId,
    endpoint: &Endpoint,
    (from, to): (Ipv4, Ipv4),
    ttl: u8,
) -> bool {
    let is_others = world::is_private(world, to) && !matches!(to.octets()[3], 0 | 1 | 255);
    let may_reach = |to| to != EndpointId::NONE && !world::are_apart(world, (id, endpoint), to);
    let is_allowed = from == endpoint.addr && world::owner(world, to).is_some_and(may_reach);
    endpoint.flags & 4 != 0 && is_others && ttl > 1 && !is_allowed
}

/// Whether a packet of a namespace leaves by an uplink.
fn is_out(world: &Sim, header: &Header) -> bool {
    world::uplink(world, world::route(world, header.dst).ifindex).is_some()
}

/// A reason alone.
pub(super) fn one(reason: DropReason) -> &'static [DropReason] {
    let at = reason as usize;
    &DropReason::ALL[at..=at]
}
