//! Whether `up` would work here, and what would be better otherwise. Each thing is tried, or
//! asked of who decides, as far as that changes nothing.

mod host;
mod kernel;

use crate::error::Error;

pub use host::look as look_at_host;
pub use kernel::look as look_at_kernel;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It is as it should be.
    Ok,
    /// It works; but it is worth knowing.
    Note,
    /// `up` would fail.
    Problem,
}

impl State {
    /// As it is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        }
    }
}

/// Something that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad it is.
    pub state: State,
    /// What was looked at: `uplink up0`.
    pub about: String,
    /// What was found, and why it matters.
    pub what: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Finding {
    fn ok(about: impl Into<String>, what: impl Into<String>) -> Self {
        Self { state: State::Ok, about: about.into(), what: what.into(), hint: None }
    }

    fn note(about: impl Into<String>, what: impl Into<String>) -> Self {
        Self { state: State::Note, ..Self::ok(about, what) }
    }

    fn problem(about: impl Into<String>, what: impl Into<String>) -> Self {
        Self { state: State::Problem, ..Self::ok(about, what) }
    }

    fn of(about: impl Into<String>, error: &Error) -> Self {
        let hint = error.advice().map(str::to_owned);
        Self { hint, ..Self::problem(about, error.to_string()) }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}
