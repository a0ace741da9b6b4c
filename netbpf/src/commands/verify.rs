//! `netbpf verify`: does the network do what it should?

mod connectivity;
mod parity;

use std::process::ExitCode;

use crate::{cli::Globals, error::Result, host};

/// Find out whether a network does what it should
///
/// Without --sandbox, of a running one: who reaches whom, by ping, TCP and UDP,
/// among namespaces, gateway, host and outside, and by published ports. What
/// answers are short-lived sockets of netbpf inside the namespaces; where somebody
/// listens on a published port already, it is connected to. The outside is the
/// host's next hop, by ping, unless --outside names another machine. Published
/// ports are tried from the host and from namespaces: from outside they can only
/// be tried there. What does not work is listed with its likely cause.
///
/// With --sandbox, of netbpf itself: in sandboxes of its own, which are gone
/// afterwards, the same network is built on both datapaths; both get the same
/// frames, and everything that comes out anywhere is compared. A difference is a
/// bug, or one of those that --list-differences explains.
#[derive(clap::Args, Debug)]
// Both structures are called `Args`, and groups are named by their structures.
#[group(skip)]
#[command(after_help = "\
Examples:
  netbpf verify
  netbpf verify shop --outside 192.0.2.1:443
  netbpf -o json verify | jq '.networks[].ways[] | select(.works | not)'
  netbpf verify --sandbox
  netbpf verify --sandbox --scenarios 10000 --seed 7
  netbpf verify --sandbox --list-differences

Exit codes: 0 all is well, 1 it could not be found out, 3 something is not.")]
pub struct Args {
    /// The network; all if none is named
    #[arg(value_name = "NET", conflicts_with = "sandbox")]
    network: Option<String>,
    /// Who stands for the outside; with a port, TCP is tried as well
    #[arg(long, value_name = "ADDR[:PORT]", conflicts_with = "sandbox")]
    outside: Option<String>,
    /// How long an answer may take
    #[arg(long, value_name = "SECONDS", default_value = "1", conflicts_with = "sandbox", value_parser = clap::value_parser!(u16).range(1..=60))]
    timeout: u16,
    /// List every way, however many there are
    #[arg(long, conflicts_with = "sandbox")]
    all: bool,
    /// What is only of use in sandboxes.
    #[command(flatten)]
    parity: parity::Args,
}

impl Args {
    /// Verifies.
    ///
    /// # Errors
    /// It cannot be found out.
    pub fn run(self, globals: &Globals) -> Result<ExitCode> {
        if globals.sandbox {
            return self.parity.run(globals);
        }
        host::require_privileges("verify")?;
        connectivity::run(
            self.network.as_deref(),
            self.outside.as_deref(),
            self.timeout,
            self.all,
            globals,
        )
    }
}

/// How a verification ended, as an exit code.
fn exit_code(all_is_well: bool) -> ExitCode {
    let code =
        if all_is_well { crate::error::ExitCode::Done } else { crate::error::ExitCode::Differs };
    ExitCode::from(code as u8)
}
