//! The datapath that is looked at, and the names of its endpoints.

use std::path::Path;

use netbpf_common::EndpointId;

use crate::{
    bpf::Datapath,
    error::{Error, Result},
    names::Names,
};

/// The datapath that is looked at, and the names of its endpoints.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The datapath.
    pub datapath: Datapath,
    /// What its endpoints are called.
    pub names: Names,
}

impl Subject {
    /// Opens the datapath that is pinned in a directory.
    ///
    /// # Errors
    /// If none is, or it is another netbpf's.
    pub fn open(pin_dir: &Path, names: Names) -> Result<Self> {
        let datapath = Datapath::open(pin_dir)?.ok_or_else(|| {
            Error::failed("no datapath is loaded in this network namespace")
                .hint("bring a network up first: `netbpf up --namespaces 3`")
        })?;
        Ok(Self { datapath, names })
    }

    /// The endpoint that the namespace is.
    pub(super) fn endpoint(&self, ns: &str) -> Result<EndpointId> {
        self.names.find(ns).ok_or_else(|| {
            let known: Vec<&str> = self.names.namespaces().collect();
            Error::usage(format!("no network of this host has a namespace {ns}")).hint(
                if known.is_empty() {
                    "`netbpf status` shows the networks".to_owned()
                } else {
                    format!("there are {}", known.join(", "))
                },
            )
        })
    }
}
