//! The steps in which a rare packet is decided about.

use netbpf_common::EndpointId;

use super::{
    Rare, by_stack, finish, inward, inward_by_flow, inward_by_stack, leave_to_stack, open_inward,
    open_out, open_outward, out_by_stack, outward, outward_by_flow, recheck,
};
use crate::seam::{Env, Seam, Skb, Tables};

/// A step. What it comes to it puts down in the [`Rare`]; so steps have nothing
/// but plain data in common, and the kernel's verifier can look at each by itself:
/// see [`Skb::take_step`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Reads what a namespace sends.
    Outward,
    /// Sends it out by its flow.
    OutwardByFlow,
    /// Looks up the way of its flow anew.
    OutwardWay,
    /// Makes a flow for it.
    OutwardOpen,
    /// Leaves it to the stack.
    OutwardStack,
    /// Reads what comes from outside.
    Inward,
    /// Takes it into a namespace by its flow.
    InwardByFlow,
    /// Makes a flow for it.
    InwardOpen,
    /// Translates it for the stack.
    InwardByStack,
    /// Reads what the stack sends.
    Stack,
    /// Translates it by its flow.
    StackByFlow,
    /// Makes a flow for it.
    StackOpen,
    /// Sees to the other fragments, and counts.
    Finish,
}

impl Step {
    /// Takes the step: whose packet it is then, so far as that is known.
    #[inline(always)]
    pub fn take<S: Skb, T: Tables, E: Env>(
        self,
        seam: &mut Seam<S, T, E>,
        id: EndpointId,
        rare: &mut Rare,
    ) -> EndpointId {
        let mut id = id;
        match self {
            Self::Outward => id = outward(seam, id, rare),
            Self::OutwardByFlow => outward_by_flow(seam, id, rare),
            Self::OutwardWay => recheck(seam, rare),
            Self::OutwardOpen => open_outward(seam, id, rare),
            Self::OutwardStack => leave_to_stack(seam, id, rare),
            Self::Inward => inward(seam, rare),
            Self::InwardByFlow => inward_by_flow(seam, &mut id, rare),
            Self::InwardOpen => open_inward(seam, &mut id, rare),
            Self::InwardByStack => inward_by_stack(seam, &mut id, rare),
            Self::Stack => out_by_stack(seam, &mut id, rare),
            Self::StackByFlow => by_stack(seam, rare),
            Self::StackOpen => open_out(seam, id, rare),
            Self::Finish => finish(seam, id, rare),
        }
        id
    }
}
