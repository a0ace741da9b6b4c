//! What hosts have left that are gone: network namespaces in which there were networks.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::Orphan;
use crate::{
    bpf,
    error::{Context as _, Result},
    host::{PINS, RUN},
    net::{
        alive,
        netns::{self, Named},
    },
    session::Session,
    state::Store,
    topology::NamespaceName,
};

/// What there is of a host.
#[derive(Default)]
struct Left {
    state: Option<PathBuf>,
    pins: Vec<PathBuf>,
}

/// What hosts have left that are gone. Of one of which that cannot be proved, nothing is.
pub(super) async fn find(session: &Session) -> Result<Vec<Orphan>> {
    let mut hosts: BTreeMap<u64, Left> = BTreeMap::new();
    for (cookie, path) in numbered(Path::new(RUN)) {
        hosts.entry(cookie).or_default().state = Some(path);
    }
    for (cookie, path) in numbered(Path::new(PINS)) {
        hosts.entry(cookie).or_default().pins.push(path);
    }
    hosts.remove(&session.host.id.cookie);
    if hosts.is_empty() {
        return Ok(Vec::new());
    }
    let alive = alive::namespaces(session.worker()).await;
    let mut orphans = Vec::new();
    for (cookie, Left { state, pins }) in hosts {
        // The attachments to a host's own `lo` go with the host, and with nothing else.
        let attached = pins.iter().any(|dir| bpf::is_attached(dir));
        let detached = pins.iter().any(|dir| bpf::is_detached(dir));
        let is_gone = match &alive {
            Some(alive) => !alive.contains(&cookie) && !attached,
            None => detached && !attached,
        };
        if !is_gone {
            continue;
        }
        if let Some(dir) = &state {
            orphans.extend(namespaces(&Store::new(dir.clone()), session).await?);
        }
        orphans.extend(pins.into_iter().map(Orphan::Pins));
        orphans.extend(state.map(Orphan::State));
    }
    Ok(orphans)
}

/// The namespaces that its networks have made and that still have their names.
async fn namespaces(store: &Store, session: &Session) -> Result<Vec<Orphan>> {
    let mut orphans = Vec::new();
    for network in store.networks()? {
        // Of one that was adopted the name is netbpf's only if it had another.
        let is_others = |name: &NamespaceName| {
            let mut all = network.topology.all_endpoints();
            all.any(|one| {
                one.namespace == *name && one.adopted.as_ref().is_some_and(|it| it.from.is_none())
            })
        };
        let own = network.journal.namespaces.iter().filter(|(name, _)| !is_others(name));
        for (name, noted) in own {
            let name = name.as_str();
            let id = match netns::look_up(name)? {
                Named::File if netns::is_empty(name) => None,
                Named::Nothing | Named::File => continue,
                Named::Namespace(file) => {
                    let id = session.worker().enter(file).await?.id;
                    if id != *noted {
                        continue;
                    }
                    Some(id)
                }
            };
            orphans.push(Orphan::Namespace { name: name.to_owned(), id });
        }
    }
    Ok(orphans)
}

/// The entries of a directory whose names begin with a number: a host's.
fn numbered(dir: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let numbered = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let number = name.split('-').next()?.parse().ok()?;
        Some((number, entry.path()))
    });
    let mut all: Vec<_> = numbered.collect();
    all.sort();
    all
}

/// Takes what such a host has left away.
pub(super) fn remove(orphan: &Orphan) -> Result<()> {
    match orphan {
        Orphan::Pins(dir) => bpf::Datapath::unload(dir),
        Orphan::State(dir) => {
            // Whoever is at it is done, or it is not gone.
            let lock = Store::new(dir.clone()).lock()?;
            let removed = match fs::remove_dir_all(dir) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                done => done,
            };
            drop(lock);
            if let Some(all) = dir.parent() {
                // It stays as long as there is something in it.
                let _ = fs::remove_dir(all);
            }
            removed.context(format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
