//! From the maps of older layouts to this one's: a step for each version of the layout.
//!
//! What a step does not name is laid out as before, and both sets of programs have it
//! together. Flows are converted one by one as they move into another table
//! ([`super::Replica`]). Counts of flows and owners of ports stay where they are while
//! flows move: a version that lays these out anew, or the marks that programs leave on
//! packets for each other, begins the table anew, and older ones are refused.

use aya::Pod;
use netbpf_common::{ABI_VERSION, Flow, Tally, Tuple};

use super::Datapath;
use crate::error::Result;

/// An entry of a map: the bytes of its key and of its value, which a step makes others.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// What a version of the layout has changed.
struct Step {
    /// The version.
    to: u32,
    /// Makes an entry of `FLOWS` in the version before one in this version, if they
    /// differ; false if it is none.
    flow: Option<fn(&mut Entry) -> bool>,
    /// Fills a map that the version has added, or laid out anew, in a datapath that has
    /// all others.
    fill: Option<fn(&Datapath) -> Result<()>>,
}

/// What has changed since the oldest version that is known.
const STEPS: &[Step] = &[
    Step { to: 7, flow: Some(with_tally), fill: None },
    Step { to: 8, flow: None, fill: Some(Datapath::fill_mac_slots) },
    #[cfg(feature = "other-layout")]
    Step { to: 9, flow: Some(moved), fill: None },
];

/// The oldest version that can be converted.
pub(super) const OLDEST: u32 = STEPS[0].to - 1;

const _: () = assert!(STEPS[STEPS.len() - 1].to == ABI_VERSION);

/// Whether maps of a version can be converted to this one, or need not be.
pub(super) fn is_known(version: u32) -> bool {
    (OLDEST..=ABI_VERSION).contains(&version)
}

fn since(version: u32) -> impl Iterator<Item = &'static Step> {
    STEPS.iter().filter(move |step| step.to > version)
}

/// Whether flows of a version have to be converted.
pub(super) fn has_other_flows(version: u32) -> bool {
    since(version).any(|step| step.flow.is_some())
}

/// A flow's entry of a version; nothing if it is none.
pub(super) fn flow(version: u32, entry: &mut Entry) -> Option<(Tuple, Flow)> {
    let mut steps = since(version).filter_map(|step| step.flow);
    let is_one = steps.all(|convert| convert(entry));
    if is_one { read(&entry.key).zip(read(&entry.value)) } else { None }
}

/// Fills what versions have added since the one of the maps that a datapath shares.
pub(super) fn fill(version: u32, datapath: &Datapath) -> Result<()> {
    since(version).filter_map(|step| step.fill).try_for_each(|fill| fill(datapath))
}

/// A value of its bytes; nothing if they are too many or too few.
fn read<T: Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: there are as many bytes as the value has, and any bytes make a valid `Pod`.
    (bytes.len() == size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Packets and bytes were a number each, and became a [`Tally`] in their place.
fn with_tally(entry: &mut Entry) -> bool {
    const AT: usize = 16;
    let Some(place) = entry.value.get_mut(AT..AT + size_of::<Tally>()) else { return false };
    let (packets, bytes) = place.split_at_mut(8);
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    let tally = Tally::of(number(packets), number(bytes));
    packets.copy_from_slice(&tally.recent.to_ne_bytes());
    bytes.copy_from_slice(&tally.carried.to_ne_bytes());
    true
}

/// All of a flow lies eight bytes further back.
#[cfg(feature = "other-layout")]
fn moved(entry: &mut Entry) -> bool {
    entry.value.splice(0..0, Flow::MOVED.to_ne_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_step_for_each_version() {
        let versions: Vec<u32> = STEPS.iter().map(|step| step.to).collect();
        assert_eq!(versions, (OLDEST + 1..=ABI_VERSION).collect::<Vec<_>>());
        assert!(is_known(OLDEST) && is_known(ABI_VERSION));
        assert!(!is_known(OLDEST - 1) && !is_known(ABI_VERSION + 1));
        assert!(!has_other_flows(ABI_VERSION));
    }

    #[test]
    #[cfg(not(feature = "other-layout"))]
    fn a_flow_of_the_oldest_version_is_one_of_this() {
        let flow = Flow { uplink: 7, tcp_ack: 0x0102_0304, ..Flow::default() };
        let mut value = Vec::new();
        // SAFETY: a flow is plain bytes, all of them initialised.
        value.extend_from_slice(unsafe {
            std::slice::from_raw_parts((&raw const flow).cast::<u8>(), size_of::<Flow>())
        });
        let (packets, bytes) = (123_456_789_u64, 1_u64 << 42);
        value[16..24].copy_from_slice(&packets.to_ne_bytes());
        value[24..32].copy_from_slice(&bytes.to_ne_bytes());
        let mut entry = Entry { key: vec![0; size_of::<Tuple>()], value };
        let (_, converted) = super::flow(6, &mut entry).expect("a flow");
        assert_eq!(converted, Flow { tally: Tally::of(packets, bytes), ..flow });
        let mut short = Entry { value: vec![0; 20], ..entry };
        assert_eq!(super::flow(6, &mut short), None);
    }
}
