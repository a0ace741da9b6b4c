//! What cargo cannot say: setting up the eBPF toolchain, running, testing and
//! installing netbpf.

use std::process::ExitCode;

use clap::Parser;

mod process;
mod root;
mod setup;
mod toolchain;

/// What cargo cannot say: setting up, running, testing and installing netbpf
#[derive(Parser)]
#[command(bin_name = "cargo xtask", max_term_width = 100)]
enum Verb {
    /// Find or install what builds the eBPF programs
    Setup,
}

fn main() -> ExitCode {
    let result = match Verb::parse() {
        Verb::Setup => setup::setup(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
