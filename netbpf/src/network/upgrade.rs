//! This netbpf's programs in the place of those that run, as far as that is wanted.

use super::Listener;
use std::path::Path;

use crate::{
    bpf::{
        Build, Datapath, LoadOptions, LogLevel, Replaced, Standing, Upgrade, is_to_be_converted,
    },
    datapath::Kind,
    error::{Error, Result},
    host::Host,
    observe::Observed,
    plan::{self, Step},
    session::Session,
    state::Recorded,
    topology::{Request, Topology, check_max_flows},
};

/// What is wanted of the programs that run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    /// That an upgrade that was interrupted is finished.
    Whole,
    /// That they are this netbpf's.
    Own,
    /// That they are loaded anew, whichever they are.
    Anew,
}

/// A list of steps, and whether it finishes an upgrade that was interrupted.
type Run = (Vec<Step>, bool);

impl Wanted {
    /// What a network that is asked for wants of them: they are no concern of one that
    /// has none.
    pub(crate) fn by(request: &Request) -> Self {
        let has_none = request.direct || request.datapath == Some(Kind::Iptables);
        if has_none { Self::Whole } else { Self::Own }
    }

    /// The steps to that, one run after the other.
    ///
    /// # Errors
    /// They are of another layout. Who wants them whole is not told here, but when the
    /// datapath is opened, and left alone until then.
    fn runs(self, host: &Host, standing: &Standing) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        let upgrade = Upgrade::of(&host.pins);
        let converts = match is_to_be_converted(&host.pins) {
            Ok(true) | Err(_) if self == Self::Whole => return Ok(runs),
            converts => converts?,
        };
        if standing.is_interrupted {
            runs.push((plan::finish_upgrade(standing), true));
        }
        if self == Self::Anew || (self == Self::Own && !standing.is_own()) {
            let moves_flows = converts && upgrade.moves_flows(None)?;
            runs.push((plan::upgrade(standing, None, moves_flows), false));
        }
        Ok(runs)
    }
}

/// What became of the programs that run.
#[derive(Default)]
pub(crate) struct Exchanged {
    /// Of which build they were.
    pub(crate) from: Option<Build>,
    /// Those that were replaced.
    pub(crate) replaced: Vec<Replaced>,
    /// How many steps that took.
    pub(crate) steps: usize,
}

/// The steps that `exchange` would take.
///
/// # Errors
/// It cannot be told what there is.
pub(crate) fn steps(host: &Host, wanted: Wanted) -> Result<Vec<Step>> {
    let standing = Upgrade::of(&host.pins).look()?;
    let runs = standing.map(|standing| wanted.runs(host, &standing)).transpose()?;
    let runs = runs.unwrap_or_default();
    Ok(runs.into_iter().flat_map(|(steps, _)| steps).collect())
}

/// Replaces the programs that run as far as that is wanted. Who calls holds the lock.
///
/// # Errors
/// What went wrong; the old programs run as before then, or the error says so.
pub(crate) async fn exchange(
    host: &Host,
    wanted: Wanted,
    listener: &mut dyn Listener,
) -> Result<Exchanged> {
    let mut done = Exchanged::default();
    let upgrade = Upgrade::of(&host.pins);
    let Some(standing) = upgrade.look()? else { return Ok(done) };
    upgrade.discard()?;
    let networks = host.store.networks()?;
    let Some(network) = networks.iter().find(|network| is_of_ebpf(network)) else {
        return Ok(done);
    };
    let runs = wanted.runs(host, &standing)?;
    if runs.is_empty() {
        return Ok(done);
    }
    done.from = standing.build;
    let mut session = Session::open_to_remove(host.clone())?;
    for (steps, is_begun) in runs {
        let upgraded = session.upgrade(&network.topology, &steps, is_begun, listener).await?;
        done.replaced = upgraded.replaced;
        done.steps += steps.len();
    }
    Ok(done)
}

/// Whether a network has programs of eBPF.
pub(crate) fn is_of_ebpf(network: &Recorded) -> bool {
    let topology = &network.topology;
    !topology.direct && (topology.datapath == Kind::Ebpf || topology.former == Some(Kind::Ebpf))
}

/// What has become of the programs, in a line.
pub(crate) fn told(done: &Exchanged, now: &Standing) -> String {
    let of = |build: &Option<Build>| {
        build.as_ref().map_or("another netbpf".to_owned(), |build| format!("netbpf {build}"))
    };
    let count = now.attachments.len();
    let places = if count == 1 { "attachment" } else { "attachments" };
    format!(
        "the programs of {} run in the place of those of {}, at {count} {places}",
        of(&now.build),
        of(&done.from)
    )
}

/// What a network wants the datapath that runs to be loaded with instead of what it is.
pub(crate) fn other_options(topology: &Topology, observed: &Observed) -> Option<LoadOptions> {
    let seen = observed.datapath.as_ref().filter(|seen| seen.lost.is_empty())?;
    let of_ebpf = !topology.direct && topology.datapath == Kind::Ebpf;
    Some(topology.options()).filter(|wanted| of_ebpf && *wanted != seen.options)
}

/// The steps that have the datapath that runs be loaded with other options.
///
/// # Errors
/// It cannot be told what there is.
pub(crate) fn reload_steps(host: &Host, options: LoadOptions) -> Result<Vec<Step>> {
    let upgrade = Upgrade::of(&host.pins);
    let Some(standing) = upgrade.look()? else { return Ok(Vec::new()) };
    Ok(plan::upgrade(&standing, Some(options), upgrade.moves_flows(Some(options))?))
}

/// Has the datapath that runs be loaded with other options, for all networks that have
/// it; returns what it was loaded with. Who calls holds the lock.
///
/// # Errors
/// What went wrong; the old programs run as before then, or the error says so.
pub(crate) async fn reload(
    session: &mut Session,
    observed: &mut Observed,
    options: LoadOptions,
    listener: &mut dyn Listener,
) -> Result<Option<Reloaded>> {
    let Some(seen) = observed.datapath.as_mut() else { return Ok(None) };
    let Some(network) = observed.networks.iter().find(|network| is_of_ebpf(network)) else {
        return Ok(None);
    };
    let steps = reload_steps(&session.host, options)?;
    let done = session.upgrade(&network.topology, &steps, false, listener).await?;
    for warning in done.warnings {
        listener.say(&format!("warning: {warning}"));
    }
    listener.say(&format!("the datapath is loaded anew: {options}"));
    let former = std::mem::replace(&mut seen.options, options);
    Ok(Some(Reloaded { former, replaced: done.replaced, steps: steps.len() }))
}

/// What became of a datapath that was loaded with other options.
pub(crate) struct Reloaded {
    /// What it was loaded with.
    former: LoadOptions,
    /// The programs that were replaced.
    pub(crate) replaced: Vec<Replaced>,
    /// How many steps that took.
    pub(crate) steps: usize,
}

/// What of a datapath's options is to be another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OtherOptions {
    pub(crate) max_flows: Option<u32>,
    pub(crate) log_level: Option<LogLevel>,
}

impl OtherOptions {
    /// What a datapath is to be loaded with instead of what it is; nothing if it is so, or
    /// there is none.
    ///
    /// # Errors
    /// It cannot be, or it cannot be told what there is.
    fn of(self, pin_dir: &Path) -> Result<Option<LoadOptions>> {
        self.max_flows.map_or(Ok(()), check_max_flows)?;
        if self.max_flows.is_none() && self.log_level.is_none() {
            return Ok(None);
        }
        let Some(datapath) = Datapath::open(pin_dir)? else { return Ok(None) };
        let is = datapath.options()?;
        let wanted = LoadOptions {
            max_flows: self.max_flows.unwrap_or(is.max_flows),
            log_level: self.log_level.unwrap_or(is.log_level),
        };
        Ok(Some(wanted).filter(|wanted| *wanted != is))
    }

    /// The steps that have the datapath that runs be loaded so.
    ///
    /// # Errors
    /// It cannot be, or it cannot be told what there is.
    pub(crate) fn steps(self, host: &Host) -> Result<Vec<Step>> {
        if is_to_be_converted(&host.pins)? {
            // They are the same as those of the conversion, and seen after it.
            return Ok(Vec::new());
        }
        let wanted = self.of(&host.pins)?;
        wanted.map_or(Ok(Vec::new()), |options| reload_steps(host, options))
    }

    /// Has the datapath that runs be loaded so, and its networks agree; `taken` steps were
    /// taken before. Who calls holds the lock.
    ///
    /// # Errors
    /// What went wrong; all is as before then, or the error says so.
    pub(crate) async fn reload(
        self,
        host: &Host,
        taken: usize,
        listener: &mut dyn Listener,
    ) -> Result<Option<Reloaded>> {
        let Some(options) = self.of(&host.pins)? else { return Ok(None) };
        let mut session = Session::open(host.clone())?.following(taken);
        let mut observed = session.observe().await?;
        let reloaded = reload(&mut session, &mut observed, options, listener).await?;
        if let Err(error) = agree(&mut session, &observed, None, listener).await {
            let back = reload_back(&mut session, None, reloaded, listener).await;
            return Err(and_back(error, back));
        }
        Ok(reloaded)
    }
}

/// Has the other networks agree with what the datapath is loaded with: their limits, and
/// what is remembered of them.
///
/// # Errors
/// What went wrong; what was done of it is undone then, or the error says so.
pub(crate) async fn agree(
    session: &mut Session,
    observed: &Observed,
    but: Option<&Topology>,
    listener: &mut dyn Listener,
) -> Result<()> {
    let Some(options) = observed.datapath.as_ref().map(|seen| seen.options) else { return Ok(()) };
    let is_it = |other: &Recorded| but.is_some_and(|it| it.name == other.topology.name);
    for other in observed.networks_of(Kind::Ebpf).filter(|other| !is_it(other)) {
        if other.topology.options() == options {
            continue;
        }
        // What is under way is finished by whoever began it, and agrees then.
        if other.topology.former.is_some() || !other.topology.leaving.is_empty() {
            continue;
        }
        let topology = other.topology.loaded_with(options);
        let steps = plan::up(&topology, observed, &session.host.store);
        session.build(&topology, Some(other), &steps, listener).await?;
        session.took(steps.len());
    }
    Ok(())
}

/// Has the datapath be loaded with what it was, if it was with anything else.
///
/// # Errors
/// What went wrong.
pub(crate) async fn reload_back(
    session: &mut Session,
    but: Option<&Topology>,
    reloaded: Option<Reloaded>,
    listener: &mut dyn Listener,
) -> Result<()> {
    let Some(options) = reloaded.map(|reloaded| reloaded.former) else { return Ok(()) };
    // What undoes is not disturbed.
    session.took(usize::MAX);
    let mut observed = session.observe().await?;
    reload(session, &mut observed, options, listener).await?;
    agree(session, &observed, but, listener).await
}

/// The error of a change for which the datapath was loaded with other options, which are
/// what they were again, or why they are not.
pub(crate) fn and_back(error: Error, back: Result<()>) -> Error {
    match back {
        Ok(()) => error,
        Err(back) => {
            let why = format!("{error}; undoing it failed, too; {back}");
            Error::failed("the datapath is not what it was")
                .because(why)
                .hint("try again: netbpf up")
        }
    }
}
