//! Expiry: live flows are visited in turn, those that are over are removed.
//!
//! A timer in the kernel drives the visits, so that no process has to stay
//! behind. A queue holds one reminder per flow; a visit takes the first and
//! appends it again while its flow lives. A full table is visited from the
//! packet path too, and then lets go of closed connections early.

use netbpf_common::{EndpointId, FlowState, FlowVisit, Ticks};

use crate::{
    flow,
    seam::{Env, FlowEntry, Seam, Tables},
};

/// Longest span between two looks at a flow: what a TCP connection that closes
/// may outlive its time-out by.
const LOOK_AGAIN_AFTER: Ticks = Ticks::from_secs(16);
/// Visits that making a flow may pay for when there is no room.
const RECLAIM_VISITS: u32 = 8;

/// What a visit found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visited {
    /// No flow at all.
    None,
    /// A flow that lives on.
    Alive,
    /// A flow that was over, or a reminder of one already gone.
    Gone,
}

/// Which flows a visit looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Those that are due.
    Due,
    /// All: of those that were ended before their time, the reminders go.
    All,
    /// All, and closed connections go before their time: room is wanted in the share
    /// of an endpoint, or of all together ([`EndpointId::NONE`]).
    ForRoom(EndpointId),
}

/// Visits the next flow in turn.
#[inline(always)]
pub fn visit<S, T: Tables, E>(seam: &mut Seam<S, T, E>, now: Ticks, look: Look) -> Visited {
    let Some(visit) = seam.tables.pop_visit() else {
        return Visited::None;
    };
    let mut due = visit.due;
    if look != Look::Due || visit.due.since(now).0 == 0 {
        match time_left(seam, &visit, now, look) {
            None => return Visited::Gone,
            Some(left) => {
                due = Ticks(now.0.wrapping_add(left.0.min(LOOK_AGAIN_AFTER.0)));
            }
        }
    }
    if seam.tables.push_visit(&FlowVisit { due, ..visit }).is_ok() {
        return Visited::Alive;
    }
    // A flow that nobody would visit again must not stay. (The queue has room
    // to spare, so that this does not come to pass.)
    let is_its = |entry: T::Flow| entry.get().created == visit.created;
    if seam.tables.flow(&visit.tuple).is_some_and(is_its) {
        flow::remove(seam, &visit.tuple);
    }
    Visited::Gone
}

/// How long the flow of a reminder still lives. Removes it if it is over.
#[inline(always)]
fn time_left<S, T: Tables, E>(
    seam: &mut Seam<S, T, E>,
    visit: &FlowVisit,
    now: Ticks,
    look: Look,
) -> Option<Ticks> {
    let original = seam.tables.flow(&visit.tuple)?.get();
    if original.created != visit.created || original.kind.is_reply() {
        return None;
    }
    let ip_proto = visit.tuple.proto;
    let mut left = Ticks(0);
    if let Some(reply) = seam.tables.flow(&original.partner(ip_proto)) {
        let reply = reply.get();
        let timeouts = seam.tables.timeouts();
        left = original.expires_in(ip_proto, &reply, now, &timeouts);
        let state = FlowState::of(ip_proto, original.seen, reply.seen);
        let is_closed = matches!(state, FlowState::TimeWait | FlowState::Closed);
        let is_in_the_way = match look {
            Look::Due | Look::All => false,
            Look::ForRoom(whose) => whose == EndpointId::NONE || whose == original.endpoint,
        };
        if is_closed && is_in_the_way {
            left = Ticks(0);
        }
    }
    if left.0 == 0 {
        flow::remove(seam, &visit.tuple);
        return None;
    }
    Some(left)
}

/// Makes room for one flow in the share of an endpoint, or of all together, with
/// bounded effort; whether it did.
///
/// Not inlined, as it is rare.
#[inline(never)]
pub fn reclaim<S, T: Tables, E: Env>(seam: &mut Seam<S, T, E>, whose: EndpointId) -> bool {
    let now = seam.env.now();
    let mut is_made = false;
    E::repeat(RECLAIM_VISITS, |_| {
        let visited = visit(seam, now, Look::ForRoom(whose));
        is_made = visited == Visited::Gone;
        visited == Visited::Alive
    });
    is_made
}
