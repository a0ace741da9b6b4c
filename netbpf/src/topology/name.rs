//! Names of networks, namespaces and interfaces, each checked once.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{INSIDE, LOOPBACK};
use crate::error::{Error, Result};

/// Longest name of an interface: the kernel's `IFNAMSIZ` less the final zero.
pub const MAX_LINK_NAME: usize = 15;

/// Longest name of a namespace: what a host name may have, so that it can be one.
pub const MAX_NAMESPACE_NAME: usize = 63;

/// A valid interface name; a network has the name of its bridge, so its name
/// is one, too.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName(String);

/// A valid namespace name: a file below `/run/netns`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamespaceName(String);

impl LinkName {
    /// The name, checked as the name of a network and its bridge.
    ///
    /// # Errors
    /// Usage errors that say which rule the name breaks.
    pub fn new(name: &str) -> Result<Self> {
        check("network", name, MAX_LINK_NAME)?;
        if matches!(name, "all" | "default") {
            return Err(Error::usage(format!("invalid network name {name:?}"))
                .because("the kernel gives /proc/sys/net/ipv4/conf/ directories of that name another meaning")
                .hint("choose another name, for example --name web"));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name of an interface that exists or may exist: whatever the kernel
    /// itself accepts (`dev_valid_name`), which is more than [`LinkName::new`]
    /// lets people choose.
    ///
    /// # Errors
    /// A usage error if no interface can have that name.
    pub fn existing(name: &str) -> Result<Self> {
        let wrong = |why: String| {
            Error::usage(format!("invalid interface name {name:?}"))
                .because(why)
                .hint("`ip link` lists the interfaces")
        };
        if name.is_empty() {
            return Err(wrong("it is empty".into()));
        }
        if name.len() > MAX_LINK_NAME {
            return Err(wrong(too_long(name, MAX_LINK_NAME)));
        }
        if name == "." || name == ".." || name.contains(['/', ':', '\0']) {
            return Err(wrong("no interface can be named that".into()));
        }
        if name.contains(|c: char| c.is_ascii_whitespace()) {
            return Err(wrong("interface names have no spaces".into()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The interface inside each namespace, unless another name is asked for.
    #[must_use]
    pub fn inside() -> Self {
        Self(INSIDE.to_owned())
    }

    /// The name for the `n`th of several, counted from 0: `%d` in it becomes that
    /// number, as the kernel numbers interfaces.
    ///
    /// # Errors
    /// A usage error if there is a `%` otherwise, or the number makes it too long.
    pub fn numbered(&self, n: usize) -> Result<Self> {
        let name = self.0.replacen("%d", &n.to_string(), 1);
        if name.contains('%') {
            return Err(Error::usage(format!("invalid interface name {:?}", self.0))
                .because("% has a meaning to the kernel")
                .hint("write %d once where a number is to be, for example --ifname veth%d"));
        }
        if name == LOOPBACK {
            return Err(Error::usage(format!("invalid interface name {name:?}"))
                .because("every namespace has one of that name")
                .hint("choose another, for example --ifname eth0"));
        }
        Self::existing(&name)
    }

    /// Whether there is to be a number in it.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        self.0.contains("%d")
    }

    /// Whether that name is this one, with some number where one is to be.
    #[must_use]
    pub fn makes(&self, name: &Self) -> bool {
        let Some((before, behind)) = self.0.split_once("%d") else { return self == name };
        let number = name.0.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|c| c.is_ascii_digit()))
    }

    /// The host's loopback interface.
    #[must_use]
    pub fn loopback() -> Self {
        Self(LOOPBACK.to_owned())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl NamespaceName {
    /// The name, checked.
    ///
    /// # Errors
    /// Usage errors that say which rule the name breaks.
    pub fn new(name: &str) -> Result<Self> {
        check("namespace", name, MAX_NAMESPACE_NAME)?;
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The rules that all names that people choose have in common.
fn check(what: &str, name: &str, longest: usize) -> Result<()> {
    let wrong = |why: String| {
        Err(Error::usage(format!("invalid {what} name {name:?}")).because(why).hint(format!(
            "a name has 1 to {longest} letters, digits, '-', '_' or '.', the first a letter, a digit or '_'"
        )))
    };
    if name.is_empty() {
        return wrong("it is empty".into());
    }
    if name.len() > longest {
        return wrong(too_long(name, longest));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(bad) = name.chars().find(|&c| !allowed(c)) {
        return wrong(format!("it has a {bad:?}"));
    }
    if name.starts_with(['-', '.']) {
        return wrong(format!("it begins with {:?}", &name[..1]));
    }
    Ok(())
}

fn too_long(name: &str, longest: usize) -> String {
    format!("it has {} characters, {longest} is the limit", name.chars().count())
}

macro_rules! text {
    ($type:ident, $read:path) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self> {
                $read(name)
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;

            fn try_from(name: String) -> Result<Self> {
                $read(&name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

// What was recorded may be the name of an interface that existed before.
text!(LinkName, LinkName::existing);
text!(NamespaceName, NamespaceName::new);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_can_be_used_are_accepted() {
        for name in ["netbpf0", "a", "_x", "0", "a.b-c_d", "123456789012345"] {
            assert!(LinkName::new(name).is_ok(), "{name}");
        }
        assert!(NamespaceName::new("a-namespace-with-a-long-name").is_ok());
        for name in ["eth0", "eth0.100", "wlan%d", "ümlaut", "-x"] {
            assert!(LinkName::existing(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_cannot_be_used_say_why() {
        for (name, why) in [
            ("", "empty"),
            ("1234567890123456", "16 characters"),
            (".", "begins with"),
            ("..", "begins with"),
            (".hidden", "begins with"),
            ("-x", "begins with"),
            ("a/b", "'/'"),
            ("a b", "' '"),
            ("a:b", "':'"),
            ("a=b", "'='"),
            ("a%d", "'%'"),
            ("ü", "'ü'"),
            ("a\n", "'\\n'"),
            ("all", "another meaning"),
            ("default", "another meaning"),
        ] {
            let error = LinkName::new(name).expect_err(name);
            assert_eq!(error.code(), crate::error::ExitCode::Usage, "{name}");
            assert!(error.why().is_some_and(|text| text.contains(why)), "{name}: {error}");
        }
        for name in ["", "a/b", "a b", "a:b", "..", "1234567890123456"] {
            assert!(LinkName::existing(name).is_err(), "{name}");
        }
        assert!(NamespaceName::new(&"x".repeat(64)).is_err());
    }
}
