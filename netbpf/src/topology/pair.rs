//! Pairs of namespaces of an isolated network that may reach each other all the same.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::NamespaceName;
use crate::error::{Error, Result};

/// Two namespaces that may reach each other, whoever begins. In either order it is the
/// same pair.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Pair(NamespaceName, NamespaceName);

impl Pair {
    /// The pair of two namespaces.
    ///
    /// # Errors
    /// A usage error if they are one.
    pub fn new(one: NamespaceName, other: NamespaceName) -> Result<Self> {
        if one == other {
            return Err(Error::usage(format!("invalid pair {one}:{other}"))
                .because("a namespace reaches itself in any case")
                .hint("name two, for example --allow web:db"));
        }
        let (first, second) = if one < other { (one, other) } else { (other, one) };
        Ok(Self(first, second))
    }

    /// The two.
    #[must_use]
    pub fn both(&self) -> [&NamespaceName; 2] {
        [&self.0, &self.1]
    }

    /// Whether the namespace is one of the two.
    #[must_use]
    pub fn has(&self, name: &NamespaceName) -> bool {
        self.0 == *name || self.1 == *name
    }
}

/// `web:db`
impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0, self.1)
    }
}

/// `A:B`, as `--allow` takes it.
impl FromStr for Pair {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((one, other)) = text.split_once(':') else {
            return Err(Error::usage(format!("invalid pair {text:?}"))
                .because("it has no ':'")
                .hint("write NS:NS, for example --allow web:db"));
        };
        Self::new(one.parse()?, other.parse()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_no_order() {
        let pair: Pair = "web:db".parse().unwrap();
        assert_eq!(pair, "db:web".parse().unwrap());
        assert_eq!(pair.to_string(), "db:web");
        assert!(pair.has(&"web".parse().unwrap()) && !pair.has(&"cache".parse().unwrap()));
    }

    #[test]
    fn what_is_no_pair_is_told() {
        for (text, why) in
            [("web", "no ':'"), ("web:web", "itself"), (":db", "empty"), ("a:b:c", "':'")]
        {
            let error = text.parse::<Pair>().expect_err(text);
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }
}
