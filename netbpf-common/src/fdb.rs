//! The forwarding database: which MAC is behind which endpoint.

use crate::{EndpointId, Ticks};

/// Where a MAC is: value of the `FDB` map (static entries, which stay) and of
/// `FDB_LEARNT` (dynamic ones, which age and are evicted least recently used first).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FdbEntry {
    /// The endpoint behind which the MAC is.
    pub endpoint: EndpointId,
    /// Zero.
    pub pad: u16,
    /// When a frame from the MAC was last seen; unused in static entries.
    pub last_seen: Ticks,
}

const _: () = assert!(size_of::<FdbEntry>() == 8 && align_of::<FdbEntry>() == 4);
