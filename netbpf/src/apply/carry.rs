//! Flows of eBPF that live on as connections that the kernel tracks.

use std::collections::HashMap;

use netbpf_common::{Flow, Ticks, Translation, Tuple, proto};
use netlink_packet_netfilter::conntrack::Status;
use nix::time::{ClockId, clock_gettime};

use super::Apply;
use crate::{
    bpf::FlowRow,
    error::{Context as _, Result},
    net::ctnetlink::{Connection, Conntrack, Ends, Outcome, TcpState},
};

/// The host's next packet may have a connection tracked that was just removed.
const TRIES: usize = 8;

/// Types of ICMP echo and its answer: what flows of ICMP are taken for.
const ECHO: (u8, u8) = (8, 0);
const ECHO_REPLY: (u8, u8) = (0, 0);

impl Apply<'_> {
    /// Has the kernel track the network's flows. Those of protocols but TCP, UDP
    /// and ICMP are left out, as are those whose ends are taken. One that the kernel
    /// refuses is no reason to stop half-way.
    pub(super) fn carry_flows(&mut self) -> Result<()> {
        let Some(datapath) = self.datapaths.ebpf.maps() else { return Ok(()) };
        let timeouts = datapath.config()?.timeouts;
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the clock")?;
        let nanos = std::time::Duration::from(now).as_nanos();
        let now = Ticks::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut rows = Vec::new();
        let is_ours = |id: netbpf_common::EndpointId| {
            self.topology.endpoints.iter().any(|endpoint| endpoint.endpoint_id() == id)
        };
        datapath.for_each_flow(
            |flow| is_ours(flow.endpoint) && !flow.is_host,
            |row| {
                rows.push(*row);
                Ok(())
            },
        )?;
        let mut conntrack = Conntrack::open()?;
        let mut refused = Vec::new();
        for (row, expires) in joined(&rows).map(|row| (row, row.expires_in(now, &timeouts))) {
            let seconds = u32::try_from(expires.as_millis() / 1000).unwrap_or(u32::MAX);
            if seconds > 0 && is_carried(row.head.tuple.proto) {
                refused.extend(carry(&mut conntrack, &connection(&row, seconds)).err());
            }
        }
        if let Some(first) = refused.first() {
            let count = refused.len();
            self.warnings.push(format!("{count} connections do not go on: {first}"));
        }
        Ok(())
    }
}

/// Has a connection tracked. What the host sends to a published port the kernel may
/// have tracked so far as what it is to the stack: a connection of its own, to itself,
/// which is replaced. So is that of packets that the stack has forwarded, as it has
/// seen them: with the namespace's own address.
fn carry(conntrack: &mut Conntrack, connection: &Connection) -> Result<()> {
    for _ in 0..TRIES {
        if conntrack.add(connection)? == Outcome::Added {
            break;
        }
        let inside = Connection { original: connection.reply.turned(), ..*connection };
        let known = match conntrack.find(connection)? {
            None => conntrack.find(&inside)?,
            known => known,
        };
        match known {
            Some(known) if !known.is_translated() => conntrack.remove(&known).map(|_| ())?,
            _ => break,
        }
    }
    Ok(())
}

fn is_carried(ip_proto: u8) -> bool {
    matches!(ip_proto, proto::TCP | proto::UDP | proto::ICMP)
}

/// Flows as the kernel knows them: one of a namespace by the host's address to a
/// published port is two to eBPF, out by the loopback device and in again.
fn joined(rows: &[FlowRow]) -> impl Iterator<Item = FlowRow> {
    let is_out = |row: &&FlowRow| !row.head.is_dnat && row.head.uplink == Flow::LOOPBACK;
    let between = |row: &FlowRow| row.head.translated.tuple(row.head.tuple.proto);
    let mut out: HashMap<Tuple, FlowRow> =
        rows.iter().filter(is_out).map(|row| (between(row), *row)).collect();
    let mut all = Vec::with_capacity(rows.len());
    for row in rows.iter().filter(|row| !is_out(row)) {
        let mut row = *row;
        if let Some(first) = out.remove(&row.head.tuple).filter(|_| row.head.is_dnat) {
            row.head.tuple = first.head.tuple;
        }
        all.push(row);
    }
    // What is not published is nobody's in the kernel.
    all.into_iter()
}

fn connection(row: &FlowRow, timeout: u32) -> Connection {
    let ip_proto = row.head.tuple.proto;
    let original = ends(ip_proto, row.head.tuple.into(), ECHO);
    let translated = ends(ip_proto, row.head.translated, ECHO_REPLY);
    // Whatever is added is in the table.
    let mut status = Status::Confirmed;
    if row.reply.packets > 0 {
        status |= Status::SeenReply | Status::Assured;
    }
    Connection {
        proto: ip_proto,
        original,
        reply: translated.turned(),
        status,
        tcp: (ip_proto == proto::TCP).then(|| TcpState::from(row.state())),
        timeout,
        counts: None,
        start: None,
        zone: 0,
    }
}

fn ends(ip_proto: u8, of: Translation, icmp: (u8, u8)) -> Ends {
    let is_icmp = ip_proto == proto::ICMP;
    let (src_port, dst_port) = (of.sport.number(), of.dport.number());
    Ends {
        src: of.saddr.into(),
        dst: of.daddr.into(),
        src_port,
        dst_port: if is_icmp { src_port } else { dst_port },
        icmp: if is_icmp { icmp } else { (0, 0) },
    }
}
