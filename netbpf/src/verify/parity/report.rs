//! A whole run, and what came of it.

use std::{collections::BTreeMap, fmt};

use super::{
    catalogue,
    compare::Difference,
    decode::{self, Link, Value, decode},
    generate,
    known::Known,
    run::{Stage, Verdict},
    scenario::{Frame, Scenario, Step, What},
    stage::Station,
};
use crate::{error::Result, interrupt};

/// What is to be played.
#[derive(Clone, Debug)]
pub struct Run {
    /// What scenarios are made of.
    pub seed: u64,
    /// How many are, beside those that have names.
    pub generated: u32,
    /// The number of the only one that is played, if not all are.
    pub only: Option<u32>,
    /// After so many that differ nothing more is played.
    pub give_up: u32,
    /// Whether each is told of.
    pub verbose: bool,
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Scenarios that were played.
    pub scenarios: u32,
    /// Frames that were sent, on each side.
    pub frames: usize,
    /// Packets that came out of the eBPF datapath.
    pub packets: usize,
    /// Scenarios that differ in a way that is not intended.
    pub findings: Vec<Finding>,
    /// Scenarios that differed once, and did not when they were played again.
    pub unrepeated: Vec<Finding>,
    /// In how many there was an intended difference, by its name.
    pub intended: BTreeMap<&'static str, (&'static Known, usize)>,
    /// Packets that came too late to be compared.
    pub late: usize,
}

/// A scenario that differs in a way that is not intended.
#[derive(Debug)]
pub struct Finding {
    /// It.
    pub scenario: Scenario,
    /// How.
    pub differences: Vec<Difference>,
}

/// Scenarios that are played on a stage before one would meet what another has
/// left: slots beyond are for playing some once more.
const PER_STAGE: u16 = 20_000;

/// Slots of a stage.
const SLOTS: u16 = 25_000;

impl Run {
    /// The scenario of that number, for that slot: first come those that have names.
    fn scenario(&self, number: u32, slot: u16) -> Scenario {
        let named = catalogue::scenario(number, slot);
        named.unwrap_or_else(|| generate::scenario(self.seed, number, slot))
    }

    /// Plays all scenarios; what is to be said meanwhile, `tell` is told.
    ///
    /// # Errors
    /// A sandbox cannot be made, or the run was interrupted.
    pub fn play(&self, tell: &mut dyn FnMut(&str)) -> Result<Report> {
        let numbers = match self.only {
            Some(number) => number..number.saturating_add(1),
            None => 0..catalogue::count().saturating_add(self.generated),
        };
        let mut report = Report::default();
        let mut theatres = [None, None];
        for number in numbers {
            interrupt::check()?;
            let isolate = catalogue::is_isolated(number);
            let theatre = Theatre::open(&mut theatres[usize::from(isolate)], isolate)?;
            let scenario = self.scenario(number, theatre.slot);
            theatre.slot += 1;
            if self.verbose || self.only.is_some() {
                tell(&format!("scenario {number}: {}", scenario.name));
            }
            if self.only.is_some() {
                tell(&listing(&scenario));
            }
            let mut verdict = theatre.stage.play(&scenario)?;
            if !verdict.unexplained.is_empty() {
                // With other ports, addresses and numbers: what was chance does not
                // come about again.
                let differences = verdict.unexplained;
                verdict = theatre.stage.play(&self.scenario(number, theatre.again))?;
                theatre.again += 1;
                let finding = Finding { scenario, differences };
                if verdict.unexplained.is_empty() {
                    report.unrepeated.push(finding);
                } else {
                    report.findings.push(finding);
                }
            }
            report.add(&verdict);
            if report.findings.len() >= usize::try_from(self.give_up).unwrap_or(usize::MAX) {
                break;
            }
        }
        let stages = theatres.iter().flatten().map(|theatre| &theatre.stage);
        report.late = stages.map(|stage| stage.reference.late + stage.ebpf.late).sum();
        Ok(report)
    }
}

/// A stage, and which of its slots are next.
struct Theatre {
    stage: Stage,
    slot: u16,
    /// For those that are played once more.
    again: u16,
}

impl Theatre {
    /// One with a free slot of each kind: the one there is, or another in its place.
    fn open(place: &mut Option<Self>, isolate: bool) -> Result<&mut Self> {
        if let Some(full) = place.take_if(|it| it.slot == PER_STAGE || it.again == SLOTS) {
            drop(full);
        }
        match place {
            Some(theatre) => Ok(theatre),
            none => {
                Ok(none.insert(Self { stage: Stage::build(isolate)?, slot: 0, again: PER_STAGE }))
            }
        }
    }
}

impl Report {
    /// Counts what came of a scenario.
    fn add(&mut self, verdict: &Verdict) {
        self.scenarios += 1;
        self.frames += verdict.frames;
        self.packets += verdict.packets;
        let names: BTreeMap<_, _> =
            verdict.intended.iter().map(|(known, _)| (known.name, *known)).collect();
        for (name, known) in names {
            self.intended.entry(name).or_insert((known, 0)).1 += 1;
        }
    }
}

/// The frames of a scenario, a line each.
fn listing(scenario: &Scenario) -> String {
    let lines = scenario.steps.iter().zip(1..).map(|(step, n)| format!("  {n}. {}", line(step)));
    lines.collect::<Vec<_>>().join("\n")
}

fn line(step: &Step) -> String {
    let fields = |link: Option<&Link>, bytes: &[u8]| {
        let fields = decode(link, bytes, false).into_iter().map(|field| {
            let value = match field.value {
                Value::Text(text) => text,
                Value::Mac(mac) => netbpf_common::MacAddr::new(mac).to_string(),
                Value::Port(number) => number.to_string(),
                Value::Id(id) => format!("{id:#06x}"),
                Value::Sequence(number) => number.to_string(),
                Value::Options(bytes) => decode::hex(&bytes),
            };
            format!("{}={value}", field.name)
        });
        fields.collect::<Vec<_>>().join(" ")
    };
    match &step.what {
        What::Packet(packet) => format!("{} sends {}", step.from, fields(None, packet)),
        What::Train { packet, size } => {
            format!("{} sends in segments of {size}: {}", step.from, fields(None, packet))
        }
        What::Frame(Frame { dst, src, tags, ethertype, payload }) => {
            let link = Link { dst: [0; 6], src: [0; 6], tags: tags.clone(), ethertype: *ethertype };
            let named = |station: &Station| station.to_string();
            let text = fields(Some(&link), payload);
            let zero = "eth.dst=00:00:00:00:00:00 eth.src=00:00:00:00:00:00";
            let text = text.replace(zero, "");
            format!("{}, {} to {}:{text}", step.from, named(src), named(dst))
        }
        What::Answer(answer) => format!("{} answers: {answer:?}", step.from),
        What::Error(error) => format!("{} complains: {error:?}", step.from),
    }
}

/// Steps that are listed of a scenario that differs.
const LISTED: usize = 12;

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "scenario {} ({}) differs:", self.scenario.number, self.scenario.name)?;
        for (step, n) in self.scenario.steps.iter().zip(1..=LISTED) {
            writeln!(f, "  {n}. {}", line(step))?;
        }
        match self.scenario.steps.len().checked_sub(LISTED) {
            None | Some(0) => {}
            Some(more) => {
                writeln!(f, "  ... {more} more; --only {} shows all", self.scenario.number)?;
            }
        }
        for difference in &self.differences {
            write!(f, "{difference}")?;
        }
        Ok(())
    }
}
