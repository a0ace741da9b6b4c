//! What endpoints are called.

use std::collections::BTreeMap;

use netbpf_common::EndpointId;

/// The namespace that an endpoint is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Name {
    /// The network's name.
    pub network: String,
    /// The namespace's name.
    pub ns: String,
}

/// The namespaces that endpoints are, by their numbers.
///
/// The maps know numbers only; the names come from the state of the host's
/// networks, which may lack some.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Names(BTreeMap<EndpointId, Name>);

impl Names {
    /// The endpoint's name, if it is known.
    #[must_use]
    pub fn get(&self, id: EndpointId) -> Option<&Name> {
        self.0.get(&id)
    }

    /// The namespace of an endpoint as tables show it.
    #[must_use]
    pub fn ns(&self, id: EndpointId) -> &str {
        match self.get(id) {
            Some(name) => &name.ns,
            None if id == EndpointId::NONE => "(none)",
            None if id == EndpointId::HOST => "(host)",
            None => "(unknown)",
        }
    }

    /// The endpoint that the namespace is.
    #[must_use]
    pub fn find(&self, ns: &str) -> Option<EndpointId> {
        self.0.iter().find(|(_, name)| name.ns == ns).map(|(id, _)| *id)
    }

    /// The names of all namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(|name| name.ns.as_str())
    }
}

impl FromIterator<(EndpointId, Name)> for Names {
    fn from_iter<I: IntoIterator<Item = (EndpointId, Name)>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}
