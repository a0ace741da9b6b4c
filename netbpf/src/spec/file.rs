//! A file that tells a network, and where in it something is wrong.

use std::{fs, ops::Range, path::PathBuf};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Spec, schema};
use crate::error::{Context as _, Error, Key, Result};

/// How alike two words must be for one to be taken for a slip of the other: as clap
/// has it.
const ALIKE: f64 = 0.7;

/// A file that tells a network.
#[derive(Clone, Debug)]
pub struct File {
    path: PathBuf,
    text: String,
}

impl File {
    /// Reads the file.
    ///
    /// # Errors
    /// The file system's.
    pub fn read(path: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(&path).context(format!("cannot read {}", path.display()))?;
        Ok(Self { path, text })
    }

    /// What it says.
    ///
    /// # Errors
    /// A usage error that tells where what is wrong, and what would be right.
    pub fn spec(&self) -> Result<Spec> {
        toml::from_str(&self.text).map_err(|error| self.misread(&error))
    }

    /// The name of the network that it tells, whatever else it says.
    ///
    /// # Errors
    /// A usage error if that cannot be read.
    pub fn network(&self) -> Result<String> {
        /// The one key, among others.
        #[derive(serde::Deserialize)]
        struct Named {
            name: Option<String>,
        }
        let named: Named = toml::from_str(&self.text).map_err(|error| self.misread(&error))?;
        Ok(named.name.unwrap_or_else(|| Spec::default().name))
    }

    /// An error about what the file says, with the place in the file. Others stay as
    /// they are.
    #[must_use]
    pub fn place(&self, error: Error) -> Error {
        let Some(key) = error.key() else { return error };
        let what = match self.find(key) {
            Some(span) => format!("{}: {}", self.position(span.start), error.what()),
            None => format!("{}: {}", self.path.display(), error.what()),
        };
        let what = as_keys(&what);
        error.reworded(what, as_keys)
    }

    fn misread(&self, error: &toml::de::Error) -> Error {
        let start = error.span().map_or(0, |span| span.start);
        let message = error.message().lines().collect::<Vec<_>>().join(": ");
        let at = self.position(start);
        // Serde's words: "unknown field `x`, expected one of `a`, `b`".
        let mut quoted = message.split('`').skip(1).step_by(2);
        if message.starts_with("unknown ") {
            let kind = if message.starts_with("unknown field") { "key" } else { "value" };
            let wrong = quoted.next().unwrap_or_default().to_owned();
            let known: Vec<&str> = quoted.collect();
            let hint = did_you_mean(&wrong, &known).map_or_else(
                || format!("there are {}", known.join(", ")),
                |right| format!("did you mean {right}?"),
            );
            return Error::usage(format!("{at}: unknown {kind} {wrong}"))
                .because(format!("it is none of {}", known.join(", ")))
                .hint(hint);
        }
        let what = match self.key_at(start) {
            Some(key) => format!("{at}: {key} is not as it should be"),
            None => format!("{at}: it cannot be understood"),
        };
        let example = self.key_at(start).and_then(|key| schema::example(&key));
        let hint = example.unwrap_or_else(|| "name = \"shop\"".into());
        Error::usage(what)
            .because(in_words(&message))
            .hint(format!("write it so, for example: {hint}"))
    }

    /// `FILE:LINE:COLUMN` of a byte, both counted from 1.
    fn position(&self, byte: usize) -> String {
        let before = self.text.get(..byte).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{}:{line}:{column}", self.path.display())
    }

    /// The top-level key whose value is at a byte.
    fn key_at(&self, byte: usize) -> Option<String> {
        let table = DeTable::parse(&self.text).ok()?;
        let found = table.get_ref().iter().find(|(_, value)| value.span().contains(&byte));
        found.map(|(key, _)| key.get_ref().to_string())
    }

    /// Where the part is that a key tells; the innermost that is there.
    fn find(&self, key: Key) -> Option<Range<usize>> {
        let table = DeTable::parse(&self.text).ok()?;
        let value = table.get_ref().get(key.name)?;
        let list = match (value.get_ref(), key.index) {
            (DeValue::Array(list), Some(index)) => list.get(index),
            _ => None,
        };
        let field = match (list.map(Spanned::get_ref), key.field) {
            (Some(DeValue::Table(table)), Some(field)) => table.get(field),
            _ => None,
        };
        Some(field.or(list).unwrap_or(value).span())
    }
}

/// What is said of options, said of keys.
fn as_keys(text: &str) -> String {
    let words = text.replace("-p ", "publish ");
    words.replace("--", "")
}

/// What serde expects, in words.
fn in_words(message: &str) -> String {
    let message = message.replace("expected u16", "expected a whole number from 0 to 65535");
    let message = message.replace("expected u32", "expected a whole number from 0 to 4294967295");
    message.replace("expected a sequence", "expected a list")
}

/// The word that was meant, if one is alike.
fn did_you_mean<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|&word| (strsim::jaro_winkler(wrong, word), word));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(score, _)| *score >= ALIKE).map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitCode;

    fn file(text: &str) -> File {
        File { path: "net.toml".into(), text: text.into() }
    }

    fn refused(text: &str) -> Error {
        let file = file(text);
        let error = file.spec().and_then(|spec| spec.request(false)).map(|_| ());
        let error = file.place(error.expect_err(text));
        assert_eq!(error.code(), ExitCode::Usage, "{error}");
        error
    }

    #[test]
    fn all_of_it_is_read() {
        let text = r#"
name = "shop"
datapath = "ebpf"
subnet = "10.8.0.0/24"
uplink = ["eth0", "eth1"]
mtu = 1400
publish = ["8080:web:80", "53:db:53/udp"]
max-flows = 4096
flow-limit = 1000
source-guard = "strict"
routed = true
isolate = true
log-level = "warn"
allow = ["web:db", { between = ["db", "web"] }]
ns = ["db", { name = "web", address = "10.8.0.10", mac = "02:00:00:00:00:0a" }]
"#;
        let request = file(text).spec().and_then(|spec| spec.request(false)).expect("valid");
        assert_eq!(request.name.as_str(), "shop");
        let [db, web] = &request.namespaces[..] else { panic!("{request:?}") };
        assert_eq!((db.name.as_str(), db.addr), ("db", None));
        assert_eq!(web.addr, Some([10, 8, 0, 10].into()));
        assert_eq!(web.mac.map(|mac| mac.to_string()).as_deref(), Some("02:00:00:00:00:0a"));
        assert_eq!((request.uplinks.len(), request.publish.len()), (2, 2));
        assert_eq!((request.mtu, request.max_flows), (Some(1400), Some(4096)));
        assert!(!request.keeps && request.routed == Some(true));
        assert_eq!(request.isolate, Some(true));
        assert_eq!(request.allow, ["db:web".parse().unwrap(), "web:db".parse().unwrap()]);
    }

    #[test]
    fn errors_tell_line_column_and_what_would_be_right() {
        for (text, at, why, hint) in [
            (
                "namespaces = 3\nsubnett = \"10.8.0.0/24\"",
                "2:1: unknown key subnett",
                "none of",
                "did you mean subnet?",
            ),
            (
                "datapath = \"ebfp\"",
                "1:12: unknown value ebfp",
                "auto, ebpf, iptables",
                "did you mean ebpf?",
            ),
            (
                "mtu = \"1500\"",
                "1:7: mtu",
                "expected a whole number from 0 to 4294967295",
                "mtu = 1500",
            ),
            ("namespaces = 70000", "1:14: namespaces", "65535", "namespaces = 3"),
            ("uplink = \"eth0\"", "1:10: uplink", "expected a list", "uplink = [\"eth0\"]"),
            ("name = \"shop", "1:", "string", "name = \"shop\""),
            (
                "ns = [\"a\"]\nsubnet = \"10.8.0.0\"",
                "2:10: invalid subnet",
                "no /prefix",
                "subnet 10.10.0.0/24",
            ),
            (
                "ns = [\"a\"]\npublish = [\"1:1\",\n  \"80\"]",
                "3:3: invalid publish",
                "missing",
                "publish 8080:ns1:80",
            ),
            (
                "[[ns]]\nname = \"a\"\n[[ns]]\nname = \"b\"\nmac = \"1\"",
                "5:7: invalid MAC",
                "six",
                "02:00",
            ),
            (
                "[[ns]]\nname = \"a\"\naddres = \"1\"",
                "3:1: unknown key addres",
                "address",
                "did you mean address?",
            ),
            (
                "[[ns]]\nname = \"a\"\naddress = \"1.2\"",
                "3:11: invalid namespace",
                "no IPv4 address",
                "web=",
            ),
            ("ns = [\"a\"]\nallow = [\"a\"]", "2:10: invalid pair", "no ':'", "allow web:db"),
            (
                "[[ns]]\nname = \"a\"\n[[allow]]\nbetween = [\"a\", \"a\"]",
                "4:11: invalid pair a:a",
                "itself",
                "name two",
            ),
            ("[[allow]]\nbetween = [\"a\"]", "2:11: it cannot", "array of length 2", ""),
            ("ns = [\"a\", \"b/c\"]", "1:12: invalid", "", ""),
            ("namespaces = 2\nns = [\"a\"]", "1:14: namespaces and ns", "names each", "choose"),
            ("namespaces = 0", "1:14: invalid namespaces 0", "1 to 4095", "3"),
            (
                "direct = true\nnamespaces = 2\nrouted = true",
                "3:10: routed cannot",
                "veth",
                "leave",
            ),
        ] {
            let error = refused(text);
            assert!(error.what().starts_with(&format!("net.toml:{at}")), "{text}: {error}");
            assert!(error.why().unwrap_or_default().contains(why), "{text}: {error}");
            assert!(
                error.advice().unwrap_or_default().contains(hint),
                "{text}: {:?}",
                error.advice()
            );
        }
        assert!(refused("").what().contains("no namespaces"));
    }
}
