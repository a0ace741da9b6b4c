//! Flows that somebody else has followed so far.

use crate::{Seen, Translation, Tuple};

/// A flow that the kernel's connection tracking knows, as the control plane hands
/// it over to the `adopt_flows` program.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct KnownFlow {
    /// What the opening packet comes as.
    pub original: Tuple,
    /// What it becomes.
    pub translated: Translation,
    /// What has been seen of the opening direction.
    pub seen: Seen,
    /// What has been seen of the answering direction.
    pub reply_seen: Seen,
    /// Zero.
    pub pad: [u8; 2],
}

const _: () = assert!(size_of::<KnownFlow>() == KnownFlow::LEN && align_of::<KnownFlow>() == 4);

impl KnownFlow {
    /// Its bytes.
    pub const LEN: usize = 32;
    /// Most that one run of `adopt_flows` takes.
    pub const BATCH: usize = 64;
}
