//! What became of packets, counted by each CPU for itself.

use netbpf_common::{Counters, EndpointId, maps::Stats};

use super::{Datapath, PerCpuMap};
use crate::error::Result;

impl Datapath {
    /// What became of an endpoint's packets; of those that are nobody's for
    /// [`EndpointId::NONE`].
    ///
    /// # Errors
    /// What the map says.
    pub fn counters(&self, id: EndpointId) -> Result<Counters> {
        let stats = PerCpuMap::<Stats>::open(self.pin_dir())?;
        Ok(sum(&stats.get(&id.index())?.unwrap_or_default()))
    }
}

/// All CPUs' counters together.
fn sum(each: &[Counters]) -> Counters {
    let mut sum = Counters::default();
    for counters in each {
        for (total, count) in sum.0.iter_mut().zip(counters.0) {
            *total = total.wrapping_add(count);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use netbpf_common::{Counter, DropReason};

    use super::*;

    #[test]
    fn cpus_are_summed_up() {
        let mut one = Counters::default();
        one.0[Counters::packets_row(Counter::Snat)] = 2;
        one.0[Counters::packets_row(Counter::Snat) + 1] = 3000;
        one.0[Counters::drop_row(DropReason::SourceMac)] = 3;
        let total = sum(&[one, Counters::default(), one]);
        assert_eq!(total.of(Counter::Snat), (4, 6000));
        assert_eq!(total.dropped(DropReason::SourceMac), 6);
        assert_eq!(sum(&[]), Counters::default());
    }
}
