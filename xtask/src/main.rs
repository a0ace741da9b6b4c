//! What cargo cannot say: setting up the eBPF toolchain, running, testing and
//! installing netbpf.

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

mod apt;
mod bench;
mod conformance;
mod deb;
mod fuzz;
mod install;
mod kernels;
mod process;
mod requirements;
mod root;
mod run;
mod setup;
mod test;
mod toolchain;

/// What cargo cannot say: setting up, running, testing and installing netbpf.
///
/// Every command sets up what it needs by itself, so the first one may take a
/// few minutes and each later one starts at once.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", max_term_width = 100, after_help = EXAMPLES)]
enum Verb {
    /// Find or install what builds the eBPF programs, and show it
    ///
    /// Two things are needed: a Rust compiler with `core` for BPF, and
    /// bpf-linker on an LLVM no older than the compiler's. What is on the
    /// machine is taken first, then Debian's packages, then rustup. bpf-linker
    /// is built into .tools/ in this workspace. Nothing else is installed.
    ///
    /// `NETBPF_EBPF_TOOLCHAIN` (a rustup toolchain or the path of a sysroot) and
    /// `NETBPF_BPF_LINKER` (a path) choose others.
    Setup,
    /// Build netbpf and start it, as root
    ///
    /// The exit code is netbpf's.
    Run {
        /// What netbpf is started with
        #[arg(value_name = "ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Measure a release build beside the kernel's bridge and iptables
    ///
    /// The same as `netbpf bench`, which tells more: `cargo xtask bench --help`.
    #[command(disable_help_flag = true)]
    Bench {
        /// What `netbpf bench` is started with
        #[arg(value_name = "ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Check format and lints, run all tests, and count them
    ///
    /// The root tests load the programs into this machine's kernel and make
    /// network namespaces; they take away what they made. A test that cannot
    /// run here fails: nothing is skipped in silence.
    Test(test::Test),
    /// Run the tests that prove a requirement of the RFCs, and print the table
    ///
    /// The exit code tells whether every requirement has a test and all of them
    /// have passed. Each test names what it proves in its documentation.
    Conformance(conformance::Conformance),
    /// Look for inputs of which the datapath makes something else than it should
    ///
    /// `packet` gives any bytes to each of the programs, in a network with a few
    /// flows, and looks whether what always holds does. `sequence` lets any history
    /// of a network happen, and sees besides whether a naive NAT agrees with all
    /// that comes out.
    ///
    /// cargo-fuzz is built into .tools/ in this workspace; any compiler will do. What
    /// does not hold is saved in fuzz/artifacts/, what reaches something new in
    /// fuzz/target/found/.
    Fuzz(fuzz::Fuzz),
    /// Boot older kernels in virtual machines, and run tests in them
    ///
    /// Debian's cloud kernels are unpacked into .tools/ in this workspace, beside qemu
    /// where the machine has none, and run without its help (tcg): minutes each. A
    /// machine has a copy of the release build, the root tests that fit into it, and the
    /// commands of this machine that they use. What ran on which kernel is told by a table.
    Kernels(kernels::Kernels),
    /// Install the binary, its manual pages, shell completions and the unit for systemd
    Install(install::Install),
    /// Make a Debian package, and print where it is
    Deb(deb::Deb),
}

const EXAMPLES: &str = "Examples:
  cargo xtask run -- --help              what netbpf can do
  cargo xtask bench --quick              how fast it is, in half a minute
  cargo xtask test                       everything, as CI does
  cargo xtask test --native-only snat    the tests of one module, without root
  cargo xtask conformance 4787           what proves the requirements on UDP
  cargo xtask fuzz --seconds 600         odd packets and histories, ten minutes each
  cargo xtask fuzz packet --runs 1000000 a million odd packets
  cargo xtask kernels 6.1                the release build on Linux 6.1, in a virtual machine
  cargo xtask install --destdir /tmp/x   see what an installation consists of
  cargo xtask deb                        a package for Debian";

fn main() -> ExitCode {
    let result = match Verb::parse() {
        Verb::Setup => setup::setup(),
        Verb::Run { args } => run::run(&args),
        Verb::Bench { args } => bench::bench(&args),
        Verb::Test(test) => return test.run(),
        Verb::Conformance(conformance) => conformance.run(),
        Verb::Fuzz(fuzz) => fuzz.run(),
        Verb::Kernels(kernels) => kernels.run(),
        Verb::Install(install) => install.run(),
        Verb::Deb(deb) => deb.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
