//! The one error that reaches people: what happened, why, what to do.

use std::fmt;

/// How a run of netbpf ended, as the process's exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line or the request was wrong; nothing was changed.
    Usage = 2,
    /// Reality differs from what should be.
    Differs = 3,
}

/// What happened, why, and what to do about it.
#[derive(Debug)]
pub struct Error {
    what: String,
    why: Option<String>,
    hint: Option<String>,
    code: ExitCode,
    key: Option<Box<Key>>,
}

/// The part of a specification that an error is about, as files name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// The key.
    pub name: &'static str,
    /// Which one of a list, from 0.
    pub index: Option<usize>,
    /// The key within it.
    pub field: Option<&'static str>,
}

impl Key {
    /// All of a key.
    #[must_use]
    pub const fn of(name: &'static str) -> Self {
        Self { name, index: None, field: None }
    }

    /// One of a list.
    #[must_use]
    pub const fn nth(name: &'static str, index: usize) -> Self {
        Self { name, index: Some(index), field: None }
    }

    /// A key within it.
    #[must_use]
    pub const fn field(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }
}

/// The result of anything that a person may have to be told about.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Something was tried and did not work: exit code 1.
    pub fn failed(what: impl Into<String>) -> Self {
        Self { what: what.into(), why: None, hint: None, code: ExitCode::Failed, key: None }
    }

    /// The request cannot be fulfilled as it stands: exit code 2.
    pub fn usage(what: impl Into<String>) -> Self {
        Self { code: ExitCode::Usage, ..Self::failed(what) }
    }

    /// Adds why: usually the underlying error, sources included.
    #[must_use]
    pub fn because(mut self, why: impl fmt::Display) -> Self {
        self.why = Some(why.to_string());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says what of a specification it is about, as far as it does not say so already.
    #[must_use]
    pub fn about(mut self, key: Key) -> Self {
        match &mut self.key {
            None => self.key = Some(Box::new(key)),
            Some(has) if has.name == key.name => {
                has.index = has.index.or(key.index);
                has.field = has.field.or(key.field);
            }
            Some(_) => {}
        }
        self
    }

    /// What of a specification it is about, if of one of its parts.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        self.key.as_deref().copied()
    }

    /// The same error, said in other words.
    #[must_use]
    pub fn reworded(mut self, what: String, hint: impl Fn(&str) -> String) -> Self {
        self.what = what;
        self.hint = self.hint.as_deref().map(hint);
        self
    }

    /// The error of two ways that both cannot be gone: this one's, and why not
    /// the other.
    #[must_use]
    pub fn besides(mut self, other: &Self) -> Self {
        let why = self.why.take().map_or(String::new(), |why| format!("{why}; "));
        self.why = Some(format!("{why}and {other}"));
        self
    }

    /// What happened, in a line without a full stop.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Why, if it is known.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// What to do, if there is something.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit code that says so.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        self.code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(why) = &self.why {
            write!(f, ": {why}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Says what was being tried when an error came up.
pub trait Context<T> {
    /// Turns an error into an [`Error`] with this "what", the error as its "why".
    ///
    /// # Errors
    /// The error that it was called on, dressed.
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: std::error::Error> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|error| Error::failed(what).because(with_sources(&error)))
    }
}

/// An error and its sources in one line, each said once.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}
