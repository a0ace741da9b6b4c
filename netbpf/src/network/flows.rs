//! Flows at a point in time, whichever datapath has them.

use std::time::Duration;

use netbpf_common::{Ticks, Timeouts};

use super::tracked;
use crate::{
    bpf::{Datapath, FlowHead, FlowRow, clock},
    error::Result,
    topology::Topology,
};

/// A flow at a point in time: what a line of `netbpf maps flows` tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveFlow {
    /// Whose it is, its addresses and ports, and what they become. The uplink of a connection
    /// that the kernel tracks is [`LiveFlow::NO_UPLINK`] if it cannot be told.
    pub head: FlowHead,
    /// How far it is, by the names of connection tracking: `ESTABLISHED`, for example.
    pub state: &'static str,
    /// How long ago it was opened; nothing if that is not known.
    pub age: Option<Duration>,
    /// How long it still lives without another packet.
    pub expires: Duration,
    /// Packets of the opening direction and of the answering one; nothing if they are not
    /// counted.
    pub packets: Option<[u64; 2]>,
    /// Bytes of them, without link-layer headers.
    pub bytes: Option<[u64; 2]>,
}

impl LiveFlow {
    /// The interface index of an uplink that is not known.
    pub const NO_UPLINK: u32 = 0;

    /// Nothing if the flow has expired: it is over, though the datapath has not
    /// come by to remove it.
    fn of(row: &FlowRow, now: Ticks, timeouts: &Timeouts) -> Option<Self> {
        let expires = row.expires_in(now, timeouts);
        (expires.0 > 0).then(|| Self {
            head: row.head,
            state: row.state().name(),
            age: Some(clock::span(now.since(row.original.created))),
            expires: clock::span(expires),
            packets: Some([row.original.packets, row.reply.packets]),
            bytes: Some([row.original.bytes, row.reply.bytes]),
        })
    }
}

/// Calls `each` with every live flow that is `wanted`: those of eBPF, and those of networks of
/// iptables behind them.
///
/// # Errors
/// What the maps say, or the kernel, and the first error of `each`.
pub(crate) fn walk(
    ebpf: Option<&Datapath>,
    classical: &[Topology],
    wanted: impl Fn(&FlowHead) -> bool,
    mut each: impl FnMut(&LiveFlow) -> Result<()>,
) -> Result<()> {
    if let Some(datapath) = ebpf {
        let timeouts = datapath.config()?.timeouts;
        let now = clock::now()?;
        datapath.for_each_flow(&wanted, |row| match LiveFlow::of(row, now, &timeouts) {
            Some(flow) => each(&flow),
            None => Ok(()),
        })?;
    }
    tracked::flows(classical, wanted)?.iter().try_for_each(each)
}

#[cfg(test)]
mod tests {
    use netbpf_common::{EndpointId, Ipv4, Port, Seen, Tuple, proto};

    use super::*;
    use crate::bpf::Direction;

    fn row() -> FlowRow {
        let tuple = Tuple {
            saddr: Ipv4::new([172, 19, 0, 2]),
            daddr: Ipv4::new([203, 0, 113, 2]),
            sport: Port::new(40000),
            dport: Port::new(443),
            proto: proto::TCP,
            from_host: 0,
            pad: [0; 2],
        };
        let head = FlowHead {
            tuple,
            translated: tuple.into(),
            endpoint: EndpointId(1),
            is_dnat: false,
            is_host: false,
            uplink: 2,
        };
        let original = Direction {
            packets: 3,
            bytes: 300,
            created: Ticks(1000),
            last_seen: Ticks(1000),
            seen: Seen(Seen::ANY | Seen::SYN | Seen::ACK),
        };
        let reply = Direction { packets: 2, bytes: 200, seen: Seen(Seen::ANY), ..original };
        FlowRow { head, original, reply }
    }

    #[test]
    fn a_live_flow_tells_of_both_directions() {
        let line = LiveFlow::of(&row(), Ticks(1100), &Timeouts::DEFAULT).expect("alive");
        assert_eq!((line.packets, line.bytes), (Some([3, 2]), Some([300, 200])));
        assert_eq!((line.state, line.age), ("ESTABLISHED", Some(clock::span(Ticks(100)))));
        assert_eq!(line.expires, clock::span(Ticks(Timeouts::DEFAULT.tcp_established.0 - 100)));
    }

    #[test]
    fn an_expired_flow_is_hidden() {
        let now = Ticks(1000 + Timeouts::DEFAULT.tcp_established.0);
        assert!(LiveFlow::of(&row(), Ticks(now.0 - 1), &Timeouts::DEFAULT).is_some());
        assert!(LiveFlow::of(&row(), now, &Timeouts::DEFAULT).is_none());
    }
}
