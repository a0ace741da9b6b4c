//! Whether what came out is what was expected.

use netbpf_common::{DropReason, EndpointId, Flow, proto};

use super::{
    Expected, First, Goes, Onward, Shadow,
    inward::is_from_host,
    ports::Rule,
    read::{self, Packet, Sort},
    session::{Kind, Pair, Session, Way, seconds},
    world,
};
use crate::{
    Outcome, Verdict,
    sim::{Frame, Sim, invariants::Program},
};

impl Shadow {
    /// Sees what became of a frame: in `sim` it has been decided about.
    ///
    /// # Panics
    /// If it is not what has to become of it.
    pub fn see(&mut self, sim: &Sim, program: Program, sent: &Frame, outcome: Outcome) {
        let mut expected = self.expect(sim, program, sent);
        if let Expected::NoRoom(id, reason) = expected {
            expected = self.make_room(sim, (program, sent), outcome, (id, reason));
        }
        if let Expected::Opens(id, session, rule, packet) = expected {
            let is_made = sim.tables.flows.contains_key(&Self::key(&session));
            assert!(is_made, "{:?}, and not made: {session:?}", outcome.result);
            expected = self.open(sim, (program, sent), id, *session, &rule, &packet);
        }
        self.check(sim, program, sent, outcome, &expected);
        self.compare(sim);
    }

    /// A session is wanted, and there is no room. One that is over may be ended for
    /// it, if it is found.
    fn make_room(
        &mut self,
        sim: &Sim,
        (program, sent): (Program, &Frame),
        outcome: Outcome,
        (id, reason): (EndpointId, DropReason),
    ) -> Expected {
        let now = self.now;
        let gone = self.sessions.iter().position(|session| !Self::is_there(sim, session));
        let Some(gone) = gone else {
            return Expected::Dropped(id, super::outward::one(reason));
        };
        let ended = self.sessions.remove(gone);
        let is_its = reason == DropReason::FlowTableFull || ended.owner == id;
        let is_over = ended.left(now) == 0 || ended.is_closed() && is_its;
        assert!(is_over, "ended for the room, and lives: {ended:?}");
        match self.expect(sim, program, sent) {
            // It was somebody else's, and did not help; or there is another limit.
            Expected::NoRoom(id, reason) => {
                assert_eq!(outcome.result, Err(reason));
                Expected::Dropped(id, super::outward::one(reason))
            }
            expected => expected,
        }
    }

    /// The session has been made, with a port that keeps to the rule; and the packet
    /// goes by it.
    fn open(
        &mut self,
        sim: &Sim,
        (program, sent): (Program, &Frame),
        id: EndpointId,
        mut session: Session,
        rule: &Rule,
        packet: &Packet,
    ) -> Expected {
        let made = *sim.tables.flows[&Self::key(&session)].borrow();
        session.seen.src.1 = made.translated.sport.number();
        let has_choice = matches!(session.sent.proto, proto::TCP | proto::UDP | proto::ICMP);
        session.owns_port = has_choice && session.kind != Kind::Published;
        self.check_port(sim, rule, &session, made.kind.owns_port());
        assert_eq!(session.owns_port, made.kind.owns_port(), "whose port: {session:?} {made:?}");
        self.sessions.push(session);
        let at = self.sessions.len() - 1;
        match program {
            Program::FromEndpoint => self.leave(sim, id, at, 0, packet),
            Program::FromUplink => self.deliver(sim, sent, at, 0, packet),
            Program::ToUplink => self.by_stack(id, at, 0, packet),
        }
    }

    fn check(
        &mut self,
        sim: &Sim,
        program: Program,
        sent: &Frame,
        outcome: Outcome,
        expected: &Expected,
    ) {
        let Outcome { endpoint, result } = outcome;
        let mut answer = None;
        let whose = match *expected {
            Expected::Dropped(whose, reasons) => {
                let is_right = result.is_err_and(|reason| reasons.contains(&reason));
                assert!(is_right, "{result:?} instead of a drop for {reasons:?}");
                if let (Err(reason), true) = (result, program != Program::ToUplink) {
                    answer = self.answer(sim, whose, sent, reason);
                }
                whose
            }
            Expected::Passed(whose) => {
                assert_eq!(result, Ok(Verdict::Pass), "it is the stack's");
                assert_eq!(sim.skb.bytes, sent.bytes, "the stack's, and changed");
                whose
            }
            Expected::Bridged(whose, ifindex) => {
                assert_eq!(result, Ok(Verdict::Peer { ifindex }));
                assert_eq!(sim.skb.bytes, sent.bytes, "bridged, and changed");
                whose
            }
            Expected::Held(whose) => {
                assert_eq!(result, Ok(Verdict::Held));
                whose
            }
            Expected::Translated(whose, onward) => {
                self.check_translated(sim, sent, result, onward);
                whose
            }
            Expected::Opens(..) | Expected::NoRoom(..) => unreachable!("seen to"),
        };
        self.check_again(sim, sent);
        assert_eq!(endpoint, whose, "somebody else's");
        assert_eq!(sim.env.answered, answer, "answer to {result:?}");
    }

    /// The ICMP error that a dropped packet is answered with, at most a hundred in a
    /// second: where the stack cannot, and a query may be (RFC 1122 section 3.2.2).
    fn answer(
        &mut self,
        sim: &Sim,
        id: EndpointId,
        sent: &Frame,
        reason: DropReason,
    ) -> Option<Verdict> {
        let bytes = &sent.bytes;
        let endpoint = world::endpoint(sim, id)?;
        let ifindex = sent.ifindex;
        let is_inside = endpoint.ifindex == ifindex;
        let is_answered = match reason {
            // (A train's or a namespace's own the stack answers.)
            DropReason::TtlExceeded => true,
            DropReason::TooBig => !is_inside,
            DropReason::FlowTableFull | DropReason::FlowLimit | DropReason::PortsExhausted => {
                is_inside
            }
            _ => false,
        };
        let is_question = |bytes: &[u8]| {
            let is_query = bytes[23] != proto::ICMP
                || bytes.len() >= 42 && matches!(bytes[34], 0 | 8 | 13..=18);
            let is_first = u16::from_be_bytes([bytes[20], bytes[21]]) << 3 == 0;
            bytes[12..15] == [8, 0, 0x45] && is_query && is_first && bytes[0] & 1 == 0
        };
        if !is_answered
            || !is_question(bytes)
            || world::is_martian(read::addr(bytes, 26))
            || !is_inside && world::uplink(sim, ifindex).is_none()
        {
            return None;
        }
        let whom = if is_inside { id } else { EndpointId::NONE };
        let known = self.errors.iter().position(|(known, ..)| *known == whom);
        let at = known.unwrap_or_else(|| {
            self.errors.push((whom, self.now, 0));
            self.errors.len() - 1
        });
        let (_, since, count) = &mut self.errors[at];
        if self.now - *since >= seconds(1) {
            (*since, *count) = (self.now, 0);
        }
        if *count == 100 {
            return None;
        }
        *count += 1;
        // Eight bytes of it are quoted.
        if bytes.len() < 42 {
            return None;
        }
        Some(if is_inside { Verdict::Peer { ifindex } } else { Verdict::Uplink { ifindex } })
    }

    /// A packet is what its session makes of it; and so are the fragments that have
    /// waited for it, the last one first.
    fn check_translated(
        &mut self,
        sim: &Sim,
        sent: &Frame,
        result: Result<Verdict, DropReason>,
        mut onward: Onward,
    ) {
        let mut waited = Vec::new();
        if onward.packet.is_first_fragment() {
            let (sport, dport) = (onward.packet.pair.src.1, onward.packet.pair.dst.1);
            waited = self.announce(&onward.packet, First::InSession(sport, dport));
        }
        // Copies cannot go by the kernel: if that has to ask first, or is who sends,
        // the others come in again.
        if !waited.is_empty() {
            match onward.goes {
                Goes::ByKernel(Way { ifindex, next_hop }) => {
                    match self.resolved(next_hop, ifindex) {
                        Some((dst, src)) => onward.goes = Goes::Out(ifindex, dst, src),
                        None => self.again = core::mem::take(&mut waited),
                    }
                }
                Goes::Stack => self.again = core::mem::take(&mut waited),
                Goes::In(..) | Goes::Out(..) | Goes::Back(_) => {}
            }
        }
        let verdict = match onward.goes {
            Goes::In(ifindex, ..) => Verdict::Peer { ifindex },
            Goes::Out(ifindex, ..) => Verdict::Uplink { ifindex },
            Goes::ByKernel(Way { ifindex, next_hop }) => Verdict::Neighbour { ifindex, next_hop },
            Goes::Back(next_hop) => Verdict::Neighbour { ifindex: Flow::LOOPBACK, next_hop },
            Goes::Stack => Verdict::Pass,
        };
        if waited.is_empty() {
            assert_eq!(result, Ok(verdict), "where it goes");
            return check_bytes(&onward, &sent.bytes, &sim.skb.bytes);
        }
        assert_eq!(result, Ok(Verdict::Sent), "others have waited for it");
        let ((goes, first), others) = sim.skb.copies.split_first().expect("sent");
        assert_eq!(*goes, verdict, "where it goes");
        check_bytes(&onward, &sent.bytes, first);
        // They go as many hops as the first.
        let hops = onward.packet.header.ttl - onward.ttl;
        let is_by_host = is_from_host(sent);
        let mut others = others.iter();
        for (_, held) in waited.iter().rev().filter(|(_, held)| held[22] > 1 || is_by_host) {
            let (goes, copy) = others.next().expect("each that has waited is sent");
            assert_eq!(*goes, verdict, "where a fragment goes");
            let mut packet = onward.packet;
            packet.sort = Sort::Opaque;
            check_bytes(&Onward { packet, ttl: held[22] - hops, ..onward }, held, copy);
        }
        assert!(others.next().is_none(), "a fragment too many");
    }

    /// What has waited comes in again as it was, the last one first, each from where
    /// it came, if that still is there.
    fn check_again(&mut self, sim: &Sim, sent: &Frame) {
        let waited = core::mem::take(&mut self.again);
        let again = waited.into_iter().rev().filter_map(|(from, bytes)| match from {
            EndpointId::NONE => Some((sent.ifindex, bytes)),
            id => Some((world::endpoint(sim, id)?.ifindex, bytes)),
        });
        assert_eq!(sim.skb.again, again.collect::<Vec<_>>(), "what comes in again");
    }

    /// Whether the flow table has a session. What there is by its key may be another
    /// one, which has been made in the room that it left: a namespace without a guard
    /// has spoken as a client that now speaks itself.
    fn is_there(sim: &Sim, session: &Session) -> bool {
        sim.tables.flows.get(&Self::key(session)).is_some_and(|entry| {
            let flow = entry.borrow();
            let is_by_loopback = flow.uplink == Flow::LOOPBACK;
            flow.kind.is_to_endpoint() == session.is_inward(0)
                && is_by_loopback == session.is_by_loopback
        })
    }

    /// The flow table has these sessions and no others, and they live as long.
    ///
    /// # Panics
    /// If it has not, or they do not.
    pub(super) fn compare(&self, sim: &Sim) {
        let flows = &sim.tables.flows;
        for session in &self.sessions {
            let flow = flows.get(&Self::key(session));
            let flow = *flow.unwrap_or_else(|| panic!("ended: {session:?}")).borrow();
            let reply = flows.get(&session.seen.turned().key(false));
            let reply = *reply.unwrap_or_else(|| panic!("half: {session:?}")).borrow();
            assert_eq!(flow.translated.tuple(session.sent.proto), session.seen.key(false));
            assert_eq!(flow.endpoint, session.owner);
            let timeouts = &sim.tables.config.timeouts;
            let left = flow.expires_in(session.sent.proto, &reply, sim.env.now, timeouts);
            assert_eq!(u64::from(left.0), session.left(self.now), "life of {session:?}");
        }
        assert_eq!(flows.len(), 2 * self.sessions.len(), "a session too many");
    }
}

/// The bytes of a translated packet: MACs, addresses and ports, and of an error
/// what it quotes. That nothing else has changed, and checksums are right, the
/// invariants see to.
fn check_bytes(onward: &Onward, old: &[u8], new: &[u8]) {
    let Onward { packet, pair, reporter, ttl, goes } = onward;
    match goes {
        Goes::In(_, dst, src) | Goes::Out(_, dst, src) => {
            assert_eq!((read::mac(new, 0), read::mac(new, 6)), (*dst, *src), "MACs");
        }
        Goes::Back(_) => assert_eq!(new[..12], [0; 12], "MACs of the loopback device"),
        Goes::ByKernel(_) | Goes::Stack => assert_eq!(new[..12], old[..12], "MACs"),
    }
    assert_eq!(new[22], *ttl, "time to live");
    let addrs = |at: usize| (read::addr(new, at), read::addr(new, at + 4));
    let l4 = 14 + packet.header.len;
    match packet.sort {
        Sort::Opaque => assert_eq!(addrs(26), (pair.src.0, pair.dst.0), "addresses"),
        Sort::Transport => {
            assert_eq!(addrs(26), (pair.src.0, pair.dst.0), "addresses");
            check_ports(*pair, &new[l4..]);
        }
        Sort::Error(at) => {
            assert_eq!(addrs(26), (*reporter, pair.dst.0), "an error's addresses");
            let quoted = pair.turned();
            assert_eq!(addrs(at + 12), (quoted.src.0, quoted.dst.0), "quoted addresses");
            check_ports(quoted, &new[at + usize::from(new[at] & 15) * 4..]);
        }
    }
}

fn check_ports(pair: Pair, l4: &[u8]) {
    let (sport, dport) = (pair.src.1, pair.dst.1);
    let found = read::ports(pair.proto, l4).expect("still of the same sort");
    if pair.proto == proto::ICMP {
        assert_eq!(found.0 | found.1, sport | dport, "identifier");
    } else {
        assert_eq!(found, (sport, dport), "ports");
    }
}
