//! Flows: walking over them and ending them.

use netbpf_common::{
    EndpointId, Flow, Tuple,
    maps::{FlowCounts, Flows},
};

use super::{Datapath, Map};
use crate::error::Result;

/// Tuples that one run of the datapath's `flush_flows` takes.
const FLUSH_BATCH: usize = 64;

/// A flow: both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowRow {
    /// The opening packet's addresses and ports.
    pub tuple: Tuple,
    /// The opening direction.
    pub original: Flow,
    /// The answering direction. All zero in the moment in which a flow comes or goes.
    pub reply: Flow,
}

impl Datapath {
    /// Live flows of the endpoint; of all together for [`EndpointId::NONE`].
    ///
    /// # Errors
    /// What the map says.
    pub fn flow_count(&self, id: EndpointId) -> Result<u64> {
        Ok(self.map::<FlowCounts>()?.get(&id.index())?.unwrap_or_default())
    }

    /// Calls `visit` with every flow for which `wanted` says so. `wanted` is
    /// asked with the opening direction alone, before the other is looked up.
    ///
    /// # Errors
    /// What the map says, and the first error of `visit`, which ends the walk.
    pub fn for_each_flow(
        &self,
        mut wanted: impl FnMut(&Tuple, &Flow) -> bool,
        mut visit: impl FnMut(&FlowRow) -> Result<()>,
    ) -> Result<()> {
        let flows: Map<Flows> = self.map()?;
        flows.for_each(|tuple, flow| {
            if flow.kind.is_reply() || !wanted(tuple, flow) {
                return Ok(());
            }
            let reply = flows.get(&flow.partner(tuple.proto))?.unwrap_or_default();
            visit(&FlowRow { tuple: *tuple, original: *flow, reply })
        })
    }

    /// Ends every flow for which `wanted` says so (it is shown the opening
    /// direction); returns how many.
    ///
    /// The datapath itself removes them, both directions and their count: it
    /// alone knows how while packets arrive.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn flush(&self, mut wanted: impl FnMut(&Tuple, &Flow) -> bool) -> Result<u64> {
        // An empty table is half a million buckets long, and often empty.
        if self.flow_count(EndpointId::NONE)? == 0 {
            return Ok(0);
        }
        let mut doomed: Vec<Tuple> = Vec::new();
        self.map::<Flows>()?.for_each(|tuple, flow| {
            if !flow.kind.is_reply() && wanted(tuple, flow) {
                doomed.push(*tuple);
            }
            Ok(())
        })?;
        let mut removed = 0;
        for batch in doomed.chunks(FLUSH_BATCH) {
            let keys: Vec<u8> = batch.iter().flat_map(|tuple| bytes_of(*tuple)).collect();
            removed += u64::from(self.run("flush_flows", &keys)?);
        }
        Ok(removed)
    }
}

/// A tuple as it lies in memory on both sides.
fn bytes_of(tuple: Tuple) -> [u8; size_of::<Tuple>()] {
    let mut bytes = [0; size_of::<Tuple>()];
    bytes[0..4].copy_from_slice(&tuple.saddr.octets());
    bytes[4..8].copy_from_slice(&tuple.daddr.octets());
    bytes[8..10].copy_from_slice(&tuple.sport.bytes());
    bytes[10..12].copy_from_slice(&tuple.dport.bytes());
    bytes[12] = tuple.proto;
    bytes
}

#[cfg(test)]
mod tests {
    use netbpf_common::{Ipv4, Port, proto};

    use super::*;

    #[test]
    fn a_tuple_goes_to_the_kernel_as_it_stands_in_the_map() {
        let tuple = Tuple {
            saddr: Ipv4::new([172, 19, 0, 2]),
            daddr: Ipv4::new([203, 0, 113, 2]),
            sport: Port::new(40000),
            dport: Port::new(80),
            proto: proto::TCP,
            pad: [0; 3],
        };
        let expected = [172, 19, 0, 2, 203, 0, 113, 2, 0x9c, 0x40, 0, 80, proto::TCP, 0, 0, 0];
        assert_eq!(bytes_of(tuple), expected);
    }
}
