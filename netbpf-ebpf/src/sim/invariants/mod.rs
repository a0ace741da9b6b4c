//! What holds for any frame and after any event.
//!
//! [`run`] gives a frame to a program and looks at all that it did.

mod counters;
mod frame;
mod read;
mod tables;
mod translation;

use std::rc::Rc;

use netbpf_common::{Counter, Counters, DropReason, EndpointId, Flow, HeldFragment, Tuple};

use super::{Frame, Map, Sim};
use crate::{
    Outcome, Verdict,
    seam::{Skb as _, Tables as _},
};

pub use tables::{check_tables, sweep};

/// The entry points of the datapath.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// [`crate::from_endpoint`].
    FromEndpoint,
    /// [`crate::from_uplink`].
    FromUplink,
    /// [`crate::to_uplink`].
    ToUplink,
}

/// The flow table's entries, copied.
type Flows = Map<Tuple, Flow>;

/// The tables before a packet.
struct Before {
    stats: Map<EndpointId, Counters>,
    flows: Flows,
    held: Map<u32, Rc<HeldFragment>>,
}

impl Before {
    /// The fragments that do not wait any more, the newest first.
    fn released(&self, sim: &Sim) -> Vec<&HeldFragment> {
        let still = |slot: &u32| sim.tables.held.get(slot).map(|held| held.ticket);
        let all = self.held.iter().map(|(slot, held)| (slot, &**held));
        let gone = all.filter(|(slot, held)| held.ticket != 0 && still(slot) != Some(held.ticket));
        let mut released: Vec<_> = gone.map(|(_, held)| held).collect();
        released.sort_by_key(|held| u32::MAX - held.ticket);
        released
    }
}

/// Gives a frame to a program. It is left in `sim.skb` as it goes on, with the frames
/// that come in again behind it.
///
/// # Panics
/// If something does not hold that always has to.
pub fn run(sim: &mut Sim, program: Program, sent: &Frame) -> Outcome {
    let before = Before {
        stats: sim.tables.stats.clone(),
        flows: tables::flows(sim),
        held: sim.tables.held.clone(),
    };
    sim.skb = sent.clone();
    let outcome = sim.decide(program);
    let again = std::mem::take(&mut sim.skb.again);
    let mut lost = Vec::new();
    if outcome.result != Ok(Verdict::Sent) {
        lost = check_again(sim, &before, &again);
    }
    assert_ne!(outcome.result, Err(DropReason::Rewrite), "no store fails here");
    let counter = counters::check(sim, &before, program, outcome, &lost);
    let is_translated = matches!(counter, Some(Counter::Snat | Counter::Dnat));
    let reading = read::read(sim, sent);
    match outcome.result {
        Ok(verdict) if is_translated => {
            let reading = reading.expect("translated, whatever it is");
            check_translated(sim, &before, &reading, (program, sent), verdict);
            let flow = sim.tables.flows[&reading.key].borrow();
            let whose = if program == Program::ToUplink {
                // The stack does not tell who sent it: its address does.
                let owner = sim.tables.address_owner(reading.key.saddr);
                owner.unwrap_or(EndpointId::NONE)
            } else if flow.kind.is_host() {
                EndpointId::NONE
            } else {
                flow.endpoint
            };
            assert_eq!(whose, outcome.endpoint, "somebody else's flow");
        }
        Err(reason) if let Some(verdict) = sim.env.answered => {
            frame::check_answer(sim, reason, sent, verdict);
        }
        _ => assert_eq!(sim.skb, *sent, "changed, though not translated: {outcome:?}"),
    }
    match (program, outcome.result) {
        (Program::FromEndpoint, Ok(verdict)) => {
            frame::check_guard(sim, outcome.endpoint, sent);
            frame::check_bridging(sim, outcome.endpoint, verdict, is_translated);
            if verdict == Verdict::Held {
                frame::check_held(sim, outcome.endpoint, sent);
            }
        }
        (Program::FromUplink, Ok(Verdict::Pass)) if !is_translated => {
            frame::check_passed_in(sim, &before.flows, sent);
        }
        (Program::ToUplink, Ok(verdict)) => {
            assert_eq!(verdict, Verdict::Pass);
            let bytes = &sim.skb.bytes;
            let is_elsewhere = sent.vlan_id.is_some_and(|id| id != 0);
            let is_leak = frame::is_private_source(sim, bytes) && !is_elsewhere;
            assert!(!is_leak, "a private source leaves");
        }
        _ => {}
    }
    tables::check_changes(sim, &before.flows, (program, sent), reading.as_ref(), is_translated);
    sim.skb.again = again;
    outcome
}

/// Fragments that have waited, and that are not sent, come in again as they were, but
/// for those of namespaces that are gone: whose these were.
fn check_again(sim: &Sim, before: &Before, again: &[(u32, Vec<u8>)]) -> Vec<EndpointId> {
    let is_gone = |id: EndpointId| id != EndpointId::NONE && sim.tables.endpoint(id).is_none();
    let (lost, waited): (Vec<&HeldFragment>, Vec<_>) =
        before.released(sim).into_iter().partition(|held| is_gone(held.endpoint));
    let waited = waited.into_iter().map(|held| &held.frame[..held.len as usize]);
    let come = again.iter().map(|(_, frame)| &**frame);
    assert!(come.eq(waited), "what has waited does not come in again");
    lost.into_iter().map(|held| held.endpoint).collect()
}

/// The frame in hand and those that have waited for it are what their flow says.
fn check_translated(
    sim: &Sim,
    before: &Before,
    reading: &read::Reading,
    sent: (Program, &Frame),
    verdict: Verdict,
) {
    let released = before.released(sim);
    if verdict != Verdict::Sent {
        let goes = (verdict, &*sim.skb.bytes);
        assert!(sim.skb.copies.is_empty(), "released, and not sent");
        return translation::check(sim, &before.flows, reading, sent, goes);
    }
    let ((verdict, first), others) = sim.skb.copies.split_first().expect("sent, and nowhere");
    translation::check(sim, &before.flows, reading, sent, (*verdict, first));
    let flow = *sim.tables.flows[&reading.key].borrow();
    let mut others = others.iter();
    for held in released {
        assert_eq!(held.key, read::fragment_key(&sent.1.bytes), "of another datagram");
        if held.frame[22] > 1 || sent.1.is_from_host() {
            let (goes, copy) = others.next().expect("released, and nowhere");
            assert_eq!(goes, verdict);
            translation::check_released(&flow, held, (&sent.1.bytes, first), copy);
        }
    }
    assert_eq!(others.next(), None, "sent twice");
}
