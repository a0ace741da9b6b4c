//! A namespace as it is asked for: in a word, or in a table of a file.

use std::{convert::Infallible, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::word::word_or_parts;
use crate::{
    error::{Error, Key, Result},
    topology::{LinkName, NamespaceSpec, Origin, mac},
};

/// A namespace: `NAME[@PID|@PATH][=IP[/LEN][/MAC]]`, or the same in parts.
#[derive(JsonSchema, Clone, PartialEq, Eq, Debug)]
#[schemars(untagged)]
pub enum Ns {
    /// `NAME[@PID|@PATH][=IP[/LEN][/MAC]]`
    Word(String),
    /// The parts
    Parts(Parts),
}

/// A namespace in parts.
#[derive(Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Parts {
    /// Its name
    pub name: String,
    /// Its address, with the subnet's prefix length if that is told so [default: a free one]
    #[schemars(example = "10.8.0.10")]
    pub address: Option<String>,
    /// The MAC of its interface [default: made of the address]
    #[schemars(example = "02:00:00:00:00:0a")]
    pub mac: Option<String>,
    /// A process that is in it: it is adopted, and given back
    #[schemars(example = 4711)]
    pub pid: Option<u32>,
    /// Where it is: it is adopted, and given back
    #[schemars(example = "/run/docker/netns/0a1b2c")]
    pub path: Option<String>,
    /// Name of its interface [default: as of all others]
    #[schemars(example = &"net0")]
    pub ifname: Option<String>,
}

impl Ns {
    /// What is asked for, understood.
    pub(super) fn spec(&self) -> Result<NamespaceSpec> {
        let parts = match self {
            Self::Word(word) => return word.parse(),
            Self::Parts(parts) => parts,
        };
        // Which one of the list is added by who knows.
        let at = |field| move |error: Error| error.about(Key::of("ns").field(field));
        let name = parts.name.as_str();
        if name.contains('@') {
            return Err(Error::usage(format!("invalid namespace name {name:?}"))
                .because("@ is for namespaces in a word")
                .hint("write the process as `pid`, or the path as `path`")
                .about(Key::of("ns").field("name")));
        }
        if name.contains('=') {
            return Err(Error::usage(format!("invalid namespace name {name:?}"))
                .because("= is for namespaces in a word")
                .hint("write the address as `address`")
                .about(Key::of("ns").field("name")));
        }
        let word = parts.address.as_ref().map(|address| format!("{name}={address}"));
        let spec: NamespaceSpec = name.parse().map_err(at("name"))?;
        let mut spec = match word {
            Some(word) => NamespaceSpec { mac: None, ..word.parse().map_err(at("address"))? },
            None => spec,
        };
        spec.origin = match (parts.pid, parts.path.as_deref()) {
            (None, None) => spec.origin,
            (Some(pid), None) => Origin::of_process(pid),
            (None, Some(path)) => Origin::parse(path).map_err(at("path"))?,
            (Some(_), Some(_)) => {
                return Err(at("path")(
                    Error::usage(format!("the namespace {name} has both pid and path"))
                        .hint("leave one of them out"),
                ));
            }
        };
        spec.ifname =
            parts.ifname.as_deref().map(LinkName::existing).transpose().map_err(at("ifname"))?;
        spec.mac = parts.mac.as_deref().map(mac::parse).transpose().map_err(at("mac"))?;
        Ok(spec)
    }
}

impl FromStr for Ns {
    type Err = Infallible;

    fn from_str(word: &str) -> Result<Self, Infallible> {
        Ok(Self::Word(word.to_owned()))
    }
}

impl From<&str> for Ns {
    fn from(word: &str) -> Self {
        Self::Word(word.to_owned())
    }
}

impl<'de> Deserialize<'de> for Ns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "a namespace, as \"NAME=IP\" or as a table";
        word_or_parts(deserializer, expecting, Self::Word, Self::Parts)
    }
}
