//! What each part of the datapath's way takes: programs of the bench's own that end
//! after one part more each, on the maps of a netbpf that runs; then the whole.
//!
//! The program is put in front of netbpf's own, and sends what it has looked at where
//! netbpf would. All of them take turns on the same packets, and what a part takes is the
//! difference to the program without it in the same round.

use aya::{
    Ebpf, EbpfLoader,
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use netbpf_common::maps;

use super::{
    arena::{Arena, Blueprint, Lane},
    contender::{Contender, Way},
    pps::whole_batches,
    report::{Key, Metric, Mode, Row},
    run::{Run, Sample, Subject},
    settings::Settings,
    stats::Stats,
};
use crate::{
    bpf::{Datapath, Hook, interface, must_retype_peers},
    error::{Context as _, Error, Result},
    host::Host,
    interrupt,
};

/// The compiled programs; empty where this was built without the eBPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netbpf-parts"));

/// What takes a packet on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    /// A program of the bench's own, and no guard at the uplink's way out.
    Part(&'static str),
    /// netbpf, without that guard.
    Unguarded,
    /// netbpf.
    Whole,
}

/// A part, by what it adds to the one before.
type Step = (&'static str, By);

const OUTWARD: [Step; 13] = [
    ("redirect, no look-up", By::Part("out_nothing")),
    ("+ port and endpoint", By::Part("out_endpoint")),
    ("+ Ethernet and IPv4 header, source guard", By::Part("out_guard")),
    ("+ header checksum, ports", By::Part("out_transport")),
    ("+ clock", By::Part("out_clock")),
    ("+ flow's key and look-up", By::Part("out_flow")),
    ("+ next hop, MTU", By::Part("out_next_hop")),
    ("+ flow's packets, bytes, time, state", By::Part("out_track")),
    ("+ addresses, TTL, checksums", By::Part("out_translate")),
    ("+ MACs", By::Part("out_macs")),
    ("+ counters, mark", By::Part("out_count")),
    ("+ the rest of the program", By::Unguarded),
    ("+ the guard at the way out", By::Whole),
];

const ACROSS: [Step; 6] = [
    ("redirect, no look-up", By::Part("peer_nothing")),
    ("+ port and endpoint", By::Part("peer_endpoint")),
    ("+ Ethernet and IPv4 header, source guard", By::Part("peer_guard")),
    ("+ MAC and its endpoint, MTU", By::Part("peer_mac")),
    ("+ counters", By::Part("peer_count")),
    ("+ the rest of the program", By::Whole),
];

const WAYS: [(Way, &[Step]); 2] = [(Way::NsToNs, &ACROSS), (Way::NsToOutside, &OUTWARD)];

/// Packets by which is found out how long a round's are.
const TRIAL: u32 = 8192;

pub(super) fn expected(settings: &Settings) -> std::time::Duration {
    let steps = u32::try_from(OUTWARD.len() + ACROSS.len()).unwrap_or(u32::MAX);
    settings.burst * steps * u32::try_from(settings.rounds).unwrap_or(u32::MAX)
}

pub(super) fn run(run: &mut Run) -> Result<()> {
    let alone = [Contender::Netbpf];
    let build = || Arena::build(&alone, &run.absent, Blueprint { max_flows: 0 });
    let (whole, unguarded) = (build()?, build()?);
    let (whole, unguarded) =
        (whole.machine(Contender::Netbpf)?, unguarded.machine(Contender::Netbpf)?);
    let uplink = unguarded.lane(Way::OutsideToNs, 1)?.entry.1;
    let host = unguarded.sandbox.host();
    let mut parts = host.run(|| -> Result<Parts> {
        let pins = Host::here()?.pins;
        Datapath::detach(&pins, Hook::ToUplink, uplink)?;
        let port = unguarded.lane(Way::NsToOutside, 1)?.entry.1;
        Parts::load(&unguarded.datapath()?, uplink, port)
    })??;
    for (way, steps) in WAYS {
        let lanes = (whole.lane(way, 1)?, unguarded.lane(way, 1)?);
        lanes.0.arrive(run.cpu())?;
        lanes.1.arrive(run.cpu())?;
        one_way(run, way, steps, lanes, &mut parts)?;
    }
    Ok(())
}

/// Measures the steps of a way in turn, every other round backwards; `lanes` are that of
/// all of netbpf, and that of the parts.
fn one_way(
    run: &mut Run,
    way: Way,
    steps: &[Step],
    lanes: (Lane<'_>, Lane<'_>),
    parts: &mut Parts,
) -> Result<()> {
    let (cpu, burst) = (run.cpu(), run.settings.burst);
    let each = lanes.0.send(cpu, TRIAL)?.value;
    let packets = whole_batches(burst.as_secs_f64() * 1e9 / each);
    let mut rounds = vec![Vec::new(); steps.len()];
    let mut order: Vec<usize> = (0..steps.len()).collect();
    for _ in 0..run.settings.rounds {
        for &step in &order {
            interrupt::check()?;
            let (case, by) = steps[step];
            let subject = Subject { mode: Mode::Parts, way: Some(way), case };
            run.progress.tell(subject, Contender::Netbpf);
            let sample = match by {
                By::Whole => lanes.0.send(cpu, packets)?,
                By::Unguarded => lanes.1.send(cpu, packets)?,
                By::Part(name) => parts.send(name, &lanes.1, cpu, packets)?,
            };
            rounds[step].push(sample);
            run.progress.advance(burst);
        }
        order.reverse();
    }
    let mut before: Option<Vec<f64>> = None;
    for ((case, _), samples) in steps.iter().zip(&rounds) {
        let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
        let losses: Vec<f64> = samples.iter().filter_map(|sample| sample.loss).collect();
        let loss = Stats::of(&losses).map(|stats| stats.median);
        let mut record = |metric, values: &[f64]| {
            let Some(stats) = Stats::of(values) else { return };
            let case = (*case).to_owned();
            let key = Key {
                mode: Mode::Parts,
                way: Some(way),
                case,
                contender: Contender::Netbpf,
                metric,
            };
            run.rows.push(Row { key, stats, loss, cpus: None });
        };
        record(Metric::NsPerPacket, &values);
        if let Some(before) = before {
            let added: Vec<f64> = values.iter().zip(before).map(|(now, then)| now - then).collect();
            record(Metric::NsAdded, &added);
        }
        before = Some(values);
    }
    Ok(())
}

/// The programs, on the maps of a datapath.
struct Parts(Ebpf);

impl Parts {
    /// Loads them for packets that leave by `uplink`, or to the namespace behind `port`.
    fn load(datapath: &Datapath, uplink: u32, port: u32) -> Result<Self> {
        if OBJECT.is_empty() {
            return Err(Error::failed("this netbpf was built without its eBPF programs")
                .because("there was no eBPF toolchain when it was built")
                .hint("run `cargo xtask setup`, then build it again"));
        }
        let retype = u32::from(must_retype_peers()?);
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .override_global("OUT", &uplink, true)
            .override_global("PEER", &port, true)
            .override_global("RETYPE_PEER", &retype, true);
        for name in maps::NAMES {
            loader.map_pin_path(name, datapath.map_pin(name));
        }
        let mut ebpf = loader.load(OBJECT).context("cannot load the bench's parts")?;
        for (name, program) in ebpf.programs_mut() {
            let what = || format!("the kernel refuses the bench's program {name}");
            let program: &mut SchedClassifier = program.try_into().context(what())?;
            program.load().context(what())?;
        }
        Ok(Self(ebpf))
    }

    /// Sends packets that one of the programs takes on.
    fn send(&mut self, name: &str, lane: &Lane<'_>, cpu: usize, packets: u32) -> Result<Sample> {
        let (namespace, ifindex) = lane.entry;
        let what = || format!("cannot attach the bench's {name} to interface {ifindex}");
        let program = self.0.program_mut(name);
        let program = program.ok_or_else(|| Error::failed(what()).because("there is none"))?;
        let program: &mut SchedClassifier = program.try_into().context(what())?;
        let link = namespace.run(|| {
            let device = interface(ifindex)
                .ok_or_else(|| Error::failed(what()).because("there is no such interface"))?;
            let first = TcAttachOptions::TcxOrder(LinkOrder::first());
            let link = program.attach_with_options(&device, TcAttachType::Ingress, first);
            link.context(what())
        })??;
        let sent = lane.send(cpu, packets);
        program.detach(link).context(format!("cannot detach the bench's {name}"))?;
        sent
    }
}
