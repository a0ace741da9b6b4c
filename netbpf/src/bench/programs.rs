//! The bench's own eBPF programs: generator, sinks, and the limits.

use std::{net::Ipv4Addr, sync::Mutex};

use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{Array, MapData, PerCpuArray},
    programs::{LinkOrder, SchedClassifier, TcAttachType, TestRunAttrs, Xdp, tc::TcAttachOptions},
};
use netbpf_common::bench::{Arrivals, Generator};

use super::frame::Frames;
use crate::{
    bpf::{interface, must_retype_peers},
    error::{Context as _, Error, Result},
};

/// The compiled programs; empty where this was built without the eBPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netbpf-bench"));

/// Frames that the kernel makes at a time.
const BATCH: u32 = 64;

/// Bytes of `struct xdp_md`, and where in it are the end of the data and the
/// index of the device that a frame comes by.
const XDP_MD: usize = 24;
const XDP_MD_DATA_END: usize = 4;
const XDP_MD_IFINDEX: usize = 12;

/// What the limits do with each packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Limit {
    /// Into the namespace behind a device.
    Peer,
    /// Out by a device.
    Out,
}

/// A loaded object: programs and maps of its own. What it has attached goes with it.
#[derive(Debug)]
pub(super) struct Programs(Mutex<Ebpf>);

impl Programs {
    /// Loads all of it; the limits lead to or behind the device `target`.
    ///
    /// # Errors
    /// The kernel refuses, or this netbpf was built without them.
    pub(super) fn load(target: u32) -> Result<Self> {
        if OBJECT.is_empty() {
            return Err(Error::failed("this netbpf was built without its eBPF programs")
                .because("there was no eBPF toolchain when it was built")
                .hint("run `cargo xtask setup`, then build it again"));
        }
        let retype = u32::from(must_retype_peers()?);
        let mut ebpf = EbpfLoader::new()
            .override_global("TARGET", &target, true)
            .override_global("RETYPE_PEER", &retype, true)
            .load(OBJECT)
            .context("cannot load the bench's programs")?;
        for (name, program) in ebpf.programs_mut() {
            let what = || format!("the kernel refuses the bench's program {name}");
            if let Ok(program) = <&mut Xdp>::try_from(&mut *program) {
                program.load().context(what())?;
            } else {
                let program: &mut SchedClassifier = program.try_into().context(what())?;
                program.load().context(what())?;
            }
        }
        Ok(Self(Mutex::new(ebpf)))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Ebpf) -> Result<T>) -> Result<T> {
        // What was poisoned is given up along with the whole bench.
        work(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Attaches the sink to the ingress of a device of the calling thread's network
    /// namespace, behind all others.
    pub(super) fn attach_sink(&self, ifindex: u32) -> Result<()> {
        self.attach("sink", ifindex, LinkOrder::last())
    }

    /// Attaches a limit to the ingress of a device, before all others.
    pub(super) fn attach_limit(&self, limit: Limit, ifindex: u32) -> Result<()> {
        let name = match limit {
            Limit::Peer => "limit_peer",
            Limit::Out => "limit_out",
        };
        self.attach(name, ifindex, LinkOrder::first())
    }

    fn attach(&self, name: &str, ifindex: u32, order: LinkOrder) -> Result<()> {
        let what = || format!("cannot attach the bench's {name} to interface {ifindex}");
        let device = interface(ifindex)
            .ok_or_else(|| Error::failed(what()).because("there is no such interface"))?;
        self.with(|ebpf| {
            let program: &mut SchedClassifier =
                ebpf.program_mut(name).ok_or_else(|| missing(name))?.try_into().context(what())?;
            let options = TcAttachOptions::TcxOrder(order);
            program
                .attach_with_options(&device, TcAttachType::Ingress, options)
                .context(what())
                .map_err(|error| error.hint("netbpf bench needs Linux 6.6 or newer"))?;
            Ok(())
        })
    }

    /// Tells the generator what to make, from the first flow on.
    pub(super) fn set_frames(&self, frames: &Frames) -> Result<()> {
        self.with(|ebpf| {
            let what = "cannot tell the generator what to make";
            let map = ebpf.map_mut("GENERATOR").ok_or_else(|| missing("GENERATOR"))?;
            let mut array: Array<&mut MapData, Generator> = map.try_into().context(what)?;
            array.set(0, frames.generator(), 0).context(what)
        })
    }

    /// Has the sink send back what arrives, or drop it.
    pub(super) fn set_reflecting(&self, reflecting: bool) -> Result<()> {
        self.with(|ebpf| {
            let what = "cannot tell a sink what to do";
            let map = ebpf.map_mut("REFLECT").ok_or_else(|| missing("REFLECT"))?;
            let mut array: Array<&mut MapData, u32> = map.try_into().context(what)?;
            array.set(0, u32::from(reflecting), 0).context(what)
        })
    }

    /// What the sink has counted so far, of all CPUs.
    pub(super) fn arrivals(&self) -> Result<Counted> {
        self.with(|ebpf| {
            let what = "cannot read what a sink has counted";
            let map = ebpf.map("ARRIVALS").ok_or_else(|| missing("ARRIVALS"))?;
            let array: PerCpuArray<&MapData, Arrivals> = map.try_into().context(what)?;
            let values = array.get(&0, 0).context(what)?;
            let mut counted = Counted::default();
            for arrivals in values.iter().filter(|arrivals| arrivals.packets > 0) {
                counted.packets += arrivals.packets;
                counted.last = Some((arrivals.saddr.into(), arrivals.daddr.into()));
            }
            Ok(counted)
        })
    }

    /// Makes frames and has them come in by a device of the calling thread's
    /// network namespace, on the CPU that the thread is bound to.
    pub(super) fn generate(&self, ifindex: u32, packets: u32) -> Result<()> {
        self.with(|ebpf| {
            let what = "cannot run the generator";
            let program = ebpf.program("generate").ok_or_else(|| missing("generate"))?;
            let program: &Xdp = program.try_into().context(what)?;
            let mut context = [0_u8; XDP_MD];
            let mut put = |at: usize, value: u32| {
                context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            };
            put(XDP_MD_DATA_END, u32::try_from(Generator::FRAME).unwrap_or(u32::MAX));
            put(XDP_MD_IFINDEX, ifindex);
            let options = TestRunOptions {
                data_in: Some(&[0; Generator::FRAME]),
                ctx_in: Some(&context),
                repeat: packets,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            };
            program.test_run(options).context(what)?;
            Ok(())
        })
    }

    /// Runs the program that does nothing once, and says how long that took.
    pub(super) fn run_nothing(&self, packet: &[u8]) -> Result<std::time::Duration> {
        self.with(|ebpf| {
            let what = "cannot run an empty program";
            let program = ebpf.program("nothing").ok_or_else(|| missing("nothing"))?;
            let program: &SchedClassifier = program.try_into().context(what)?;
            let options = TestRunOptions { data_in: Some(packet), ..TestRunOptions::default() };
            Ok(program.test_run(options).context(what)?.duration)
        })
    }
}

fn missing(name: &str) -> Error {
    Error::failed(format!("{name} is not among the bench's programs"))
}

/// What a sink has counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Counted {
    /// Packets of the generator.
    pub(super) packets: u64,
    /// Source and destination of one of the last.
    pub(super) last: Option<(Ipv4Addr, Ipv4Addr)>,
}
