//! Faults that tests ask for: what a run leaves when it ends at any step is
//! promised, so it must be possible to end it at any step.

use std::env;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::error::{Error, Result};

/// Names the fault: `kill:<n>` kills this process before step `n` of what is
/// asked for, as SIGKILL does; `fail:<n>` makes step `n` fail. Steps count from 1,
/// as `--dry-run` prints them. For tests only.
const VARIABLE: &str = "NETBPF_FAULT";

/// What is to go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The process is killed before the step of that number.
    Kill(usize),
    /// The step of that number fails.
    Fail(usize),
}

impl Fault {
    /// What the environment asks for.
    ///
    /// # Errors
    /// A usage error if it cannot be understood.
    pub fn from_environment() -> Result<Self> {
        env::var(VARIABLE).map_or(Ok(Self::None), |text| Self::parse(&text))
    }

    fn parse(text: &str) -> Result<Self> {
        let fault = text.split_once(':').and_then(|(what, n)| {
            let n = n.parse().ok().filter(|&n| n > 0)?;
            match what {
                "kill" => Some(Self::Kill(n)),
                "fail" => Some(Self::Fail(n)),
                _ => None,
            }
        });
        fault.ok_or_else(|| {
            Error::usage(format!("invalid {VARIABLE} {text:?}"))
                .hint("it is for tests: write kill:<step> or fail:<step>, or unset it")
        })
    }

    /// What is left of it for a list of steps that follows one of so many.
    #[must_use]
    pub fn after(self, steps: usize) -> Self {
        let left = |n: usize| n.checked_sub(steps).filter(|&left| left > 0);
        match self {
            Self::None => Self::None,
            Self::Kill(n) => left(n).map_or(Self::None, Self::Kill),
            Self::Fail(n) => left(n).map_or(Self::None, Self::Fail),
        }
    }

    /// Goes wrong, if it is for that step.
    pub(super) fn check(self, step: usize) -> Result<()> {
        match self {
            Self::Kill(n) if n == step => {
                // Nothing follows a SIGKILL.
                let _ = kill(Pid::this(), Signal::SIGKILL);
                Ok(())
            }
            Self::Fail(n) if n == step => Err(Error::failed(format!("{VARIABLE} asked for it"))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_strike_at_their_step_only() {
        assert_eq!(Fault::parse("kill:3").unwrap(), Fault::Kill(3));
        let fault = Fault::parse("fail:2").unwrap();
        assert_eq!([1, 2, 3].map(|n| fault.check(n).is_err()), [false, true, false]);
        assert_eq!(fault.after(1), Fault::Fail(1));
        assert_eq!(fault.after(2), Fault::None, "it was to strike before");
        for text in ["", "kill", "kill:", "kill:0", "fail:-1", "die:1"] {
            assert!(Fault::parse(text).is_err(), "{text}");
        }
    }
}
