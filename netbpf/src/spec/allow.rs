//! A pair of namespaces that may reach each other, as it is asked for: in a word, or in a
//! table of a file.

use std::{convert::Infallible, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::word::word_or_parts;
use crate::{
    error::{Error, Key, Result},
    topology::Pair,
};

/// Two namespaces: `NS:NS`, or the same in parts.
#[derive(JsonSchema, Clone, PartialEq, Eq, Debug)]
#[schemars(untagged)]
pub enum Allow {
    /// `NS:NS`
    Word(String),
    /// The parts
    Parts(Between),
}

/// Two namespaces in parts.
#[derive(Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Between {
    /// Their names
    #[schemars(example = ["web", "db"])]
    pub between: [String; 2],
}

impl Allow {
    /// What is asked for, understood.
    pub(super) fn pair(&self) -> Result<Pair> {
        let [one, other] = match self {
            Self::Word(word) => return word.parse(),
            Self::Parts(Between { between }) => between,
        };
        // Which one of the list is added by who knows.
        let at = |error: Error| error.about(Key::of("allow").field("between"));
        Pair::new(one.parse().map_err(at)?, other.parse().map_err(at)?).map_err(at)
    }
}

impl FromStr for Allow {
    type Err = Infallible;

    fn from_str(word: &str) -> Result<Self, Infallible> {
        Ok(Self::Word(word.to_owned()))
    }
}

impl From<&str> for Allow {
    fn from(word: &str) -> Self {
        Self::Word(word.to_owned())
    }
}

impl<'de> Deserialize<'de> for Allow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "a pair of namespaces, as \"NS:NS\" or as a table";
        word_or_parts(deserializer, expecting, Self::Word, Self::Parts)
    }
}
