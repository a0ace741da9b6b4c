//! The `netbpf` command.

fn main() -> std::process::ExitCode {
    netbpf::cli::main()
}
