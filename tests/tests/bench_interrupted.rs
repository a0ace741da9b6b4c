//! What a bench that is interrupted leaves of the limit of connection tracking, which is
//! the machine's: nothing, or else the next bench puts it back. By itself, for other tests
//! would see it change.

use netbpf_tests::{Sandbox, binary, finish, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    process::{Command, Stdio},
};

const LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const BUCKETS: &str = "/proc/sys/net/netfilter/nf_conntrack_buckets";
/// What a bench leaves that is killed.
const MARK: &str = "/run/netbpf.nf_conntrack";

fn limits() -> [String; 2] {
    [LIMIT, BUCKETS].map(|path| fs::read_to_string(path).expect(path))
}

fn has_mark(sandbox: &Sandbox) -> bool {
    sandbox.run(|| fs::exists(MARK)).expect("look for the mark")
}

/// A bench in the machine's own network namespace, where alone the limit can be set.
fn bench(arguments: &str) -> Command {
    let mut command = Command::new(binary());
    command.arg("bench").args(arguments.split(' '));
    command
}

/// Starts to measure a million flows, and sends the signal as soon as there is room for
/// them.
fn interrupt_with(sandbox: &Sandbox, signal: Signal) {
    let before = limits();
    let mut command = bench("flows --rounds 1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = sandbox.run(|| command.spawn()).expect("start a bench");
    wait::until_true("there is room for a million flows", || limits() != before);
    kill(Pid::from_raw(child.id().cast_signed()), signal).expect("signal the bench");
    let status = child.wait().expect("wait for the bench");
    assert!(!status.success(), "it was interrupted: {status}");
}

#[test]
fn an_interrupted_bench_puts_the_limit_back_and_the_next_one_does_for_a_killed_one() {
    let sandbox = Sandbox::new();
    let before = limits();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        interrupt_with(&sandbox, signal);
        assert_eq!(limits(), before, "{signal}");
        assert!(!has_mark(&sandbox), "{signal}");
    }
    interrupt_with(&sandbox, Signal::SIGKILL);
    assert!(has_mark(&sandbox) && limits() != before, "a killed one puts nothing back");
    sandbox.run(|| finish(&mut bench("--tiny prog"))).ok();
    assert_eq!(limits(), before);
    assert!(!has_mark(&sandbox));
}
