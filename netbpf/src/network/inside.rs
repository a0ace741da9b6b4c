//! The namespaces of networks, told from others that have their names.

use crate::{
    error::{Error, Result},
    namespace::Namespace,
    net::{
        NetnsId,
        netns::{self, Named},
    },
    state::Recorded,
    topology::NamespaceName,
};

/// The namespace of that name, if it is the one that a network of the host has made, or
/// adopted.
///
/// # Errors
/// It is gone, or another one has its name.
pub(crate) fn namespace(
    host: &Namespace,
    networks: &[Recorded],
    name: &NamespaceName,
) -> Result<Namespace> {
    let gone = |why: &str| {
        Error::failed(format!("the namespace {name} is gone")).because(why.to_owned()).hint(
            "`netbpf status` shows what is missing; `netbpf up` with the same arguments mends it",
        )
    };
    let Named::Namespace(netns) = host.run(|| netns::look_up(name.as_str()))?? else {
        return Err(gone("it was removed by something else than netbpf"));
    };
    let found = host.beside(name.as_str(), netns);
    let id = found.run(NetnsId::here)??;
    let mut noted = networks.iter().filter_map(|network| network.journal.namespaces.get(name));
    if noted.any(|noted| *noted == id) { Ok(found) } else { Err(gone("another one has its name")) }
}
