//! What holds for the counters.

use netbpf_common::{Counter, Counters, DropReason, EndpointId};

use super::{Before, Program};
use crate::{Outcome, Verdict, seam::Skb as _, sim::Sim};

/// Counted once, in the row that fits the outcome, and nowhere else; and so is
/// each fragment that has waited for this one, `lost` ones for whose they were. Returns
/// how the frame was counted if it was not dropped.
pub(super) fn check(
    sim: &Sim,
    before: &Before,
    program: Program,
    outcome: Outcome,
    lost: &[EndpointId],
) -> Option<Counter> {
    let as_before = |id: EndpointId| {
        let mut counters = before.stats.get(&id).copied().unwrap_or_default();
        let its = lost.iter().filter(|whose| **whose == id).count();
        counters.0[Counters::drop_row(DropReason::EndpointGone)] += its as u64;
        counters
    };
    let after = sim.tables.counters(outcome.endpoint);
    let mut expected = as_before(outcome.endpoint);
    let counted = |counter: &Counter| after.of(*counter).0 != expected.of(*counter).0;
    let counter = match outcome.result {
        Err(reason) => {
            expected.0[Counters::drop_row(reason)] += 1;
            None
        }
        Ok(Verdict::Held) => Some(Counter::Passed),
        Ok(verdict) => match Counter::ALL.into_iter().find(counted) {
            Some(counter) => {
                add(&mut expected, sim, before, verdict, counter);
                Some(counter)
            }
            // What the host sends of its own is nobody's to count.
            None if program == Program::ToUplink => Some(Counter::Passed),
            None => panic!("no packet was counted"),
        },
    };
    match (counter, outcome.result) {
        (None, _)
        | (Some(Counter::Passed), Ok(Verdict::Pass))
        | (Some(Counter::Forwarded), Ok(Verdict::Peer { .. })) => {}
        (Some(Counter::Passed), Ok(Verdict::Held)) if program == Program::FromEndpoint => {}
        // From a namespace the stack gets everything as it is.
        (Some(Counter::Snat | Counter::Dnat), Ok(verdict))
            if verdict != Verdict::Pass || program != Program::FromEndpoint => {}
        (counter, result) => panic!("{result:?} is counted as {counter:?}"),
    }
    assert_eq!(after, expected, "counted wrongly: {outcome:?}");
    for (id, counters) in &sim.tables.stats {
        let is_as_before = *counters == as_before(*id);
        assert!(*id == outcome.endpoint || is_as_before, "counted for {id:?} too: {outcome:?}");
    }
    counter
}

/// Adds the frame, and those that it has released.
fn add(expected: &mut Counters, sim: &Sim, before: &Before, verdict: Verdict, counter: Counter) {
    let row = Counters::packets_row(counter);
    let mut count = |frame: &[u8]| {
        expected.0[row] += 1;
        expected.0[row + 1] += frame.len().saturating_sub(14) as u64;
    };
    if verdict != Verdict::Sent {
        return count(&sim.skb.bytes);
    }
    for (_, copy) in &sim.skb.copies {
        count(copy);
    }
    let is_over =
        |held: &&&netbpf_common::HeldFragment| held.frame[22] <= 1 && !sim.skb.is_from_host();
    let over = before.released(sim).iter().filter(is_over).count();
    expected.0[Counters::drop_row(DropReason::TtlExceeded)] += over as u64;
}
