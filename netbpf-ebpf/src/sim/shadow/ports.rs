//! Which outside port a new session may get.

use netbpf_common::{DropReason, proto};

use super::{
    Shadow,
    session::{Pair, Session},
};
use crate::sim::Sim;

/// What the choice of a port has to keep to.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    /// It is one of these.
    OneOf(Vec<u16>),
    /// Any that is nobody's, of the class and parity of the client's own.
    Free,
    /// Any whose tuple is: many may share it.
    Shared,
}

impl Shadow {
    /// The rule for the port of a session that is to be made.
    ///
    /// Where the namespace's port is known outside already, it stays the same port,
    /// whoever it talks to (RFC 4787 REQ-1); else it keeps its number if it can.
    pub(super) fn port_rule(
        &self,
        world: &Sim,
        new: &Session,
        may_own: bool,
    ) -> Result<Rule, DropReason> {
        let own = new.sent.src.1;
        let looks = |port: u16| Pair { src: (new.seen.src.0, port), ..new.seen };
        let is_free_tuple = |port: u16| !self.is_answered_as(looks(port).turned());
        if !has_choice(new.sent.proto) {
            return if is_free_tuple(own) {
                self.room(world).map(|()| Rule::OneOf(vec![own]))
            } else {
                Err(DropReason::Protocol)
            };
        }
        let is_usable =
            |port: u16| !is_reserved(world, new.sent.proto, port) && is_free_tuple(port);
        let mut its: Vec<u16> = self.owned(new.sent.proto, new).collect();
        its.retain(|port| may_own && is_usable(*port));
        let rule = if !its.is_empty() {
            Rule::OneOf(its)
        } else if is_usable(own) && (!may_own || !self.is_owned(new.sent.proto, own)) {
            Rule::OneOf(vec![own])
        } else if !class(own).any(is_usable) {
            return Err(DropReason::PortsExhausted);
        } else if may_own {
            Rule::Free
        } else {
            Rule::Shared
        };
        self.room(world).map(|()| rule)
    }

    /// Whether a port that was chosen keeps to the rule.
    pub(super) fn check_port(&self, world: &Sim, rule: &Rule, new: &Session, owns: bool) {
        let (ip_proto, own, port) = (new.sent.proto, new.sent.src.1, new.seen.src.1);
        match rule {
            Rule::OneOf(ports) => assert!(ports.contains(&port), "{port} is none of {ports:?}"),
            Rule::Free | Rule::Shared => {
                assert!(!is_reserved(world, ip_proto, port), "{port} is taken");
                assert!(class(own).contains(&port), "{port} is of another class than {own}");
                assert_eq!(port % 2, own % 2, "parity of {port} for {own}");
            }
        }
        if matches!(rule, Rule::Free) {
            assert!(!self.is_owned(ip_proto, port), "{port} is somebody's");
            assert!(owns, "{port} is nobody's, but there are others");
        }
        if let (Rule::OneOf(_), true) = (rule, has_choice(ip_proto)) {
            let is_its = self.owned(ip_proto, new).any(|its| its == port);
            let is_somebodys = self.is_owned(ip_proto, port) && !is_its;
            assert!(!(owns && is_somebodys), "{port} has two owners");
        }
    }

    /// The outside ports that a namespace's address and port have.
    fn owned(&self, ip_proto: u8, new: &Session) -> impl Iterator<Item = u16> {
        let its = move |s: &&Session| {
            s.owns_port && s.sent.proto == ip_proto && s.sent.src == new.sent.src
        };
        self.sessions.iter().filter(its).map(|session| session.seen.src.1)
    }

    /// Whether an outside port is somebody's.
    pub(super) fn is_owned(&self, ip_proto: u8, port: u16) -> bool {
        let has = |s: &Session| s.owns_port && s.sent.proto == ip_proto && s.seen.src.1 == port;
        self.sessions.iter().any(has)
    }

    /// Whether packets that come like this belong to a session already.
    pub(super) fn is_answered_as(&self, pair: Pair) -> bool {
        self.find(pair, false).is_some()
    }

    /// Whether the table has room for both halves of a session.
    pub(super) fn room(&self, world: &Sim) -> Result<(), DropReason> {
        if 2 * self.sessions.len() + 2 <= world.tables.flow_entries {
            Ok(())
        } else {
            Err(DropReason::FlowTableFull)
        }
    }
}

/// Whether the protocol's ports are translated.
fn has_choice(ip_proto: u8) -> bool {
    matches!(ip_proto, proto::TCP | proto::UDP | proto::ICMP)
}

/// The ports of the same class (RFC 4787 REQ-3): privileged ones without those
/// that have names, or all others.
fn class(own: u16) -> core::ops::RangeInclusive<u16> {
    if own < 1024 { 600..=1023 } else { 1024..=u16::MAX }
}

/// Whether a port is published, or a socket's of the host.
fn is_reserved(world: &Sim, ip_proto: u8, port: u16) -> bool {
    is_published(world, ip_proto, port) || world.env.sockets.contains(&(ip_proto, port))
}

/// Whether a port is published on any address.
pub(super) fn is_published(world: &Sim, ip_proto: u8, port: u16) -> bool {
    let mut entries = world.tables.published.iter();
    entries.any(|e| e.proto() == ip_proto && (e.first()..=e.last).contains(&port))
}
