//! `netbpf plan`: what `up` would do.

use std::process::ExitCode;

use super::change;
use crate::{
    cli::Globals,
    error::{ExitCode as Code, Result},
    host,
    network::Wanted,
    session::block_on,
    spec::{Source, placed},
};

/// Show the difference between what is asked for and what there is
///
/// Prints the steps that `up` with the same file, or the same options, would take,
/// and takes none. The exit code tells whether there is any.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf plan -f netbpf.toml
  netbpf plan --namespaces 3 -p 8080:ns1:80

Exit codes: 0 nothing to do, 3 there are steps to be taken, 1 or 2 it cannot be had.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
}

impl Args {
    /// Reads the file that tells the network, if one does.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn load(&mut self) -> Result<()> {
        self.source.load()
    }

    /// Shows the steps.
    ///
    /// # Errors
    /// What was asked wrongly, or what the host lacks.
    pub fn run(self, globals: &Globals) -> Result<ExitCode> {
        let (request, file) = self.source.read()?;
        host::require_privileges("plan")?;
        let wanted = Wanted::by(&request);
        let differs =
            block_on(change::print_plan(|_| Ok(request.clone()), request.direct, wanted, globals))
                .map_err(|error| placed(error, file.as_ref()))?;
        let code = if differs { Code::Differs } else { Code::Done };
        Ok(ExitCode::from(code as u8))
    }
}
