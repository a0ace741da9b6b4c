//! A shadow of the network: a naive NAT that says what has to become of a packet.
//!
//! It is what one would write from the RFCs in an afternoon: a list of sessions that
//! is walked from end to end; no tables, no checksums, no differences. It shares
//! nothing with the datapath but the vocabulary, and looks at nothing of it but what
//! comes out; of the simulation it knows what the control plane and the kernel know.
//!
//! What is predicted is exact, but for the following, where the datapath is free:
//! - which port a session gets that cannot keep its own: any that keeps to the rules
//!   ([`ports`]). It is read off the flow table;
//! - which closed connection makes room in a full table, and whether one is found:
//!   the search is bounded, and its order the queue's. That there is one which may
//!   go is checked, and that no more than one does;
//! - which of several complaints about a malformed packet comes first.

mod guard;
mod inward;
mod judge;
mod leaving;
mod outward;
mod ports;
mod read;
mod session;
mod world;

use std::vec::Vec;

use netbpf_common::{DropReason, EndpointId, MacAddr, Ticks, Tuple};

use self::{
    ports::Rule,
    read::{Header, Packet},
    session::{Pair, Session, Way, seconds},
    world::Hop,
};
use super::{Sim, invariants::Program};
use crate::sim::Frame;

/// What has to become of a packet.
#[derive(Clone, Debug)]
enum Expected {
    /// It is dropped, for one of these reasons.
    Dropped(EndpointId, &'static [DropReason]),
    /// The stack gets it as it is.
    Passed(EndpointId),
    /// It goes into another namespace as it is, by this port.
    Bridged(EndpointId, u32),
    /// It waits for the first fragment of its datagram.
    Held(EndpointId),
    /// It is translated.
    Translated(EndpointId, Onward),
    /// It opens a session, and is then what the session makes of it.
    Opens(EndpointId, Box<Session>, Rule, Packet),
    /// There is no room for the session, unless one is ended for it.
    NoRoom(EndpointId, DropReason),
}

/// A packet translated.
#[derive(Clone, Copy, Debug)]
struct Onward {
    packet: Packet,
    pair: Pair,
    /// Of an error: who reports it.
    reporter: netbpf_common::Ipv4,
    ttl: u8,
    goes: Goes,
}

/// Where a translated packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Goes {
    /// Into the namespace behind this port, with these MACs.
    In(u32, MacAddr, MacAddr),
    /// Straight out, with these MACs.
    Out(u32, MacAddr, MacAddr),
    /// Out by the kernel.
    ByKernel(Way),
    /// Back in by the loopback device.
    Back(netbpf_common::Ipv4),
    /// To the stack.
    Stack,
}

/// Why there is no session for a packet.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    ToStack,
    Dropped(DropReason),
    NoRoom(DropReason),
}

/// A datagram that has come in pieces.
#[derive(Clone, Debug)]
struct Datagram {
    key: (u8, u16, netbpf_common::Ipv4, netbpf_common::Ipv4),
    since: u64,
    /// What the first fragment has told.
    first: First,
    /// Those that wait for it, and from whom.
    held: Vec<(EndpointId, Vec<u8>)>,
}

/// What is known of a datagram's first fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum First {
    Missing,
    ToStack,
    /// It had these ports.
    InSession(u16, u16),
}

/// The naive NAT.
#[derive(Clone, Debug, Default)]
pub struct Shadow {
    /// Ticks, never wrapping.
    now: u64,
    sessions: Vec<Session>,
    datagrams: Vec<Datagram>,
    /// MACs that were seen, where, and when last.
    macs: Vec<(MacAddr, EndpointId, u64)>,
    hops: Vec<Hop>,
    /// Fragments that come in again, as the stack sends on what they have waited for.
    again: Vec<(EndpointId, Vec<u8>)>,
    /// ICMP errors sent to whom, since when, and how many.
    errors: Vec<(EndpointId, u64, u32)>,
}

impl Shadow {
    /// A network in which nothing has happened.
    #[must_use]
    pub fn new(now: Ticks) -> Self {
        Self { now: now.0.into(), ..Self::default() }
    }

    /// Time goes by.
    pub fn wait(&mut self, span: Ticks) {
        self.now += u64::from(span.0);
    }

    /// Every session has been looked at: what was idle for too long has ended.
    ///
    /// # Panics
    /// If others have.
    pub fn sweep(&mut self, sim: &Sim) {
        let now = self.now;
        self.sessions.retain(|session| session.left(now) > 0);
        self.compare(sim);
    }

    /// The sessions of a namespace have been ended; everybody's for
    /// [`EndpointId::NONE`].
    ///
    /// # Panics
    /// If others have.
    pub fn flush(&mut self, sim: &Sim, id: EndpointId) {
        self.sessions.retain(|session| id != EndpointId::NONE && session.owner != id);
        self.compare(sim);
    }

    /// A namespace has been taken down.
    pub fn remove(&mut self, id: EndpointId) {
        self.macs.retain(|(_, behind, _)| *behind != id);
    }

    /// What has to become of a frame.
    fn expect(&mut self, world: &Sim, program: Program, frame: &Frame) -> Expected {
        match program {
            Program::FromEndpoint => self.at_port(world, frame),
            Program::FromUplink => self.at_uplink(world, frame),
            Program::ToUplink => self.leaving(world, frame),
        }
    }

    /// The session that a packet belongs to, and which side has sent it.
    fn find(&self, pair: Pair, is_by_host: bool) -> Option<(usize, usize)> {
        self.sessions.iter().enumerate().find_map(|(at, session)| {
            if session.is_by_host == is_by_host && session.sent == pair {
                Some((at, 0))
            } else if !is_by_host && session.seen.turned() == pair {
                Some((at, 1))
            } else {
                None
            }
        })
    }

    /// The same as the datapath counts it: by numbers of four seconds each.
    fn stretch(&self) -> u16 {
        (self.now >> 6 & 0xffff) as u16
    }

    /// Whether a namespace may have another session, and there is room for it. The
    /// last eighth of all is for those that have less than an eighth.
    fn admit(&self, world: &Sim, id: EndpointId) -> Result<(), Refusal> {
        let own = self.sessions.iter().filter(|session| session.owner == id).count();
        let (all, most) = (self.sessions.len(), world.tables.config.max_flows as usize);
        let limit = world::endpoint(world, id).map_or(0, |endpoint| endpoint.flow_limit as usize);
        let is_last_eighth = all >= most - most / 8;
        if own >= limit || all < most && is_last_eighth && own >= most / 8 {
            Err(Refusal::NoRoom(DropReason::FlowLimit))
        } else if all >= most {
            Err(Refusal::NoRoom(DropReason::FlowTableFull))
        } else {
            Ok(())
        }
    }

    /// What is known of a fragment's datagram: nothing of an older one.
    fn datagram(&mut self, header: &Header) -> &mut Datagram {
        let key = (header.proto, header.id, header.src, header.dst);
        let now = self.now;
        let new = Datagram { key, since: now, first: First::Missing, held: Vec::new() };
        let at = self.datagrams.iter().position(|datagram| datagram.key == key);
        let at = at.unwrap_or_else(|| {
            self.datagrams.push(new.clone());
            self.datagrams.len() - 1
        });
        if now - self.datagrams[at].since >= seconds(15) {
            self.datagrams[at] = new;
        }
        &mut self.datagrams[at]
    }

    /// The packet that a later fragment is, if its first has told; or what has.
    fn later(&mut self, header: &Header) -> Result<Packet, First> {
        let first = self.datagram(header).first;
        let First::InSession(sport, dport) = first else { return Err(first) };
        Ok(Packet {
            header: *header,
            sort: read::Sort::Opaque,
            pair: Pair { proto: header.proto, src: (header.src, sport), dst: (header.dst, dport) },
            tcp: None,
            may_open: false,
            wire_len: header.total,
        })
    }

    /// What the first fragment of a datagram tells the others; those that have
    /// waited for it.
    fn announce(&mut self, packet: &Packet, first: First) -> Vec<(EndpointId, Vec<u8>)> {
        let datagram = self.datagram(&packet.header);
        datagram.first = first;
        core::mem::take(&mut datagram.held)
    }

    /// What a session makes of a packet of one of its sides; of one that the host
    /// itself sends, or not.
    fn onward(
        &self,
        packet: &Packet,
        at: usize,
        side: usize,
        goes: Goes,
        is_by_host: bool,
    ) -> Onward {
        let session = &self.sessions[at];
        let (comes, pair) = (session.comes(side), session.goes(side));
        // A router on the way reports as itself, but none of ours does.
        let is_peers = packet.header.src == comes.src.0 || !session.is_inward(side);
        let reporter = if is_peers { pair.src.0 } else { packet.header.src };
        // The host is one hop between others, and none from or to itself; what goes
        // back in is forwarded when it comes in.
        let is_own = is_by_host || matches!(goes, Goes::Stack | Goes::Back(_));
        let ttl = packet.header.ttl - u8::from(!is_own);
        Onward { packet: *packet, pair, reporter, ttl, goes }
    }

    /// The key of a session in the flow table.
    fn key(session: &Session) -> Tuple {
        session.sent.key(session.is_by_host)
    }
}
