//! This netbpf's programs in the place of those that run, as far as that is wanted.

use super::Listener;
use crate::{
    bpf::{Build, Replaced, Standing, Upgrade, check_layout},
    datapath::Kind,
    error::Result,
    host::Host,
    plan::{self, Step},
    session::Session,
    state::Recorded,
    topology::Request,
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
        match check_layout(&host.pins) {
            Err(_) if self == Self::Whole => return Ok(runs),
            checked => checked?,
        }
        if standing.is_interrupted {
            runs.push((plan::finish_upgrade(standing), true));
        }
        if self == Self::Anew || (self == Self::Own && !standing.is_own()) {
            runs.push((plan::upgrade(standing), false));
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
