//! A decision that can be put down.

use netbpf_common::{Counter, DropReason, EndpointId, Ipv4};

use crate::{
    Forward, Outcome, Stop, Verdict,
    seam::{Seam, Tables},
};

/// A decision spelled out, every byte of it: what an enum leaves open the compiler
/// may leave undefined, and the verifier refuses to see that stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decided {
    /// 0 for a packet that goes somewhere, otherwise which [`Stop`] it is.
    stop: u8,
    reason: DropReason,
    counter: Counter,
    verdict: u8,
    ifindex: u32,
    next_hop: Ipv4,
}

const DROPPED: u8 = 1;
const NEEDS_FLOW: u8 = 2;
const TO_STACK: u8 = 3;
const RARE: u8 = 4;
const NEEDS_ROUTE: u8 = 5;

const PASS: u8 = 0;
const PEER: u8 = 1;
const UPLINK: u8 = 2;
const NEIGHBOUR: u8 = 3;
const HELD: u8 = 4;
const SENT: u8 = 5;

impl Decided {
    /// Goes on, to be decided about; or why it does not.
    #[inline(always)]
    #[must_use]
    pub fn so_far(done: Result<(), Stop>) -> Self {
        done.map(|()| Forward::PASS).into()
    }

    /// The inverse of [`Decided::so_far`].
    ///
    /// # Errors
    /// Why it does not go on.
    #[inline(always)]
    pub fn done(&self) -> Result<(), Stop> {
        Result::from(self).map(|_| ())
    }

    /// Whether a flow has to be made first.
    #[inline(always)]
    #[must_use]
    pub fn needs_flow(&self) -> bool {
        self.stop == NEEDS_FLOW
    }

    /// Whether the way of the flow has to be looked up anew.
    #[inline(always)]
    #[must_use]
    pub fn needs_route(&self) -> bool {
        self.stop == NEEDS_ROUTE
    }

    /// Whether the packet has been read and no more; or whether its flow says that
    /// the stack is to take it on.
    #[inline(always)]
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.stop == RARE
    }

    /// Whether it goes somewhere.
    #[inline(always)]
    #[must_use]
    pub fn is_forwarded(&self) -> bool {
        self.stop == 0
    }

    /// Whether it is the stack's as it is, or nobody has said where to.
    #[inline(always)]
    #[must_use]
    pub fn is_for_stack(&self) -> bool {
        self.stop != 0 && self.stop != DROPPED
    }

    /// Whether the stack gets the packet as it came.
    #[inline(always)]
    #[must_use]
    pub fn is_left_as_it_is(&self) -> bool {
        self.stop == TO_STACK || self.stop == 0 && self.verdict == PASS
    }

    /// Whether the stack gets the packet, there being nothing left to be found out.
    #[inline(always)]
    #[must_use]
    pub fn is_passed_up(&self) -> bool {
        !matches!(self.stop, DROPPED | RARE) && self.verdict == PASS
    }

    /// Counts the packet of so many bytes, once.
    #[inline(always)]
    pub fn count<S, T: Tables, E>(&self, seam: &mut Seam<S, T, E>, id: EndpointId, bytes: u32) {
        if self.stop == DROPPED {
            seam.tables.count_drop(id, self.reason);
        } else if self.verdict != HELD {
            seam.tables.count(id, self.counter, bytes);
        }
    }

    /// What became of a packet of an endpoint.
    #[inline(always)]
    #[must_use]
    pub fn outcome(&self, endpoint: EndpointId) -> Outcome {
        let (ifindex, next_hop) = (self.ifindex, self.next_hop);
        let result = if self.stop == DROPPED {
            Err(self.reason)
        } else {
            Ok(match self.verdict {
                PEER => Verdict::Peer { ifindex },
                UPLINK => Verdict::Uplink { ifindex },
                NEIGHBOUR => Verdict::Neighbour { ifindex, next_hop },
                HELD => Verdict::Held,
                SENT => Verdict::Sent,
                _ => Verdict::Pass,
            })
        };
        Outcome { endpoint, result }
    }
}

impl From<Result<Forward, Stop>> for Decided {
    #[inline(always)]
    fn from(decision: Result<Forward, Stop>) -> Self {
        let none = Self {
            stop: 0,
            reason: DropReason::Rewrite,
            counter: Counter::Passed,
            verdict: PASS,
            ifindex: 0,
            next_hop: Ipv4::ANY,
        };
        let Forward { counter, verdict } = match decision {
            Ok(forward) => forward,
            Err(Stop::Dropped(reason)) => return Self { stop: DROPPED, reason, ..none },
            Err(Stop::NeedsFlow) => return Self { stop: NEEDS_FLOW, ..none },
            Err(Stop::ToStack) => return Self { stop: TO_STACK, ..none },
            Err(Stop::Rare) => return Self { stop: RARE, ..none },
            Err(Stop::NeedsRoute) => return Self { stop: NEEDS_ROUTE, ..none },
        };
        let (verdict, ifindex, next_hop) = match verdict {
            // (What is handed over is decided elsewhere.)
            Verdict::Pass | Verdict::Rare | Verdict::Prepare(_) => (PASS, 0, Ipv4::ANY),
            Verdict::Peer { ifindex } => (PEER, ifindex, Ipv4::ANY),
            Verdict::Uplink { ifindex } => (UPLINK, ifindex, Ipv4::ANY),
            Verdict::Neighbour { ifindex, next_hop } => (NEIGHBOUR, ifindex, next_hop),
            Verdict::Held => (HELD, 0, Ipv4::ANY),
            Verdict::Sent => (SENT, 0, Ipv4::ANY),
        };
        Self { counter, verdict, ifindex, next_hop, ..none }
    }
}

impl From<&Decided> for Result<Forward, Stop> {
    #[inline(always)]
    fn from(decided: &Decided) -> Self {
        let Decided { stop, reason, counter, verdict, ifindex, next_hop } = *decided;
        match stop {
            0 => {}
            DROPPED => return Err(Stop::Dropped(reason)),
            NEEDS_FLOW => return Err(Stop::NeedsFlow),
            TO_STACK => return Err(Stop::ToStack),
            NEEDS_ROUTE => return Err(Stop::NeedsRoute),
            _ => return Err(Stop::Rare),
        }
        let verdict = match verdict {
            PASS => Verdict::Pass,
            PEER => Verdict::Peer { ifindex },
            UPLINK => Verdict::Uplink { ifindex },
            NEIGHBOUR => Verdict::Neighbour { ifindex, next_hop },
            HELD => Verdict::Held,
            _ => Verdict::Sent,
        };
        Ok(Forward { counter, verdict })
    }
}
