//! The machine that netbpf runs on, and the world outside it.

use crate::{
    Listing, Netns, OUTSIDE, Outcome, Sandbox, UPLINK, binary, ethtool, finish, reference,
    traffic::{Echo, ping},
    wait,
};
use std::{path::Path, process::Command, sync::Mutex, thread, time::Duration};

/// What a host is like.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// MTU of the wire between host and outside.
    pub mtu: u32,
    /// Whether the wire has checksum and segmentation offloads, as a modern
    /// machine has. Without them every checksum is real, and verified.
    pub offloads: bool,
    /// Whether the host's kernel forwards packets already.
    pub forwarding: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { mtu: 1500, offloads: true, forwarding: false }
    }
}

/// A network namespace that plays the machine, with an uplink `up0` to one that
/// plays the outside.
///
/// Dropped, it takes the networks in it down and compares everything with what
/// there was before.
pub struct Host {
    machine: Netns,
    outside: Netns,
    before: Listing,
    options: Options,
    alone: bool,
    forgotten: bool,
    /// Sysctls that a test has changed, by their paths, with what they were.
    tuned: Mutex<Vec<(String, String)>>,
}

impl Host {
    /// An ordinary host in a sandbox of its own.
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    /// A host in a sandbox of its own.
    pub fn with(options: Options) -> Self {
        Self::build(&Sandbox::new(), "host", options, true)
    }

    /// One of several hosts that share a sandbox, and so `/run` and pins.
    pub fn beside_others(sandbox: &Sandbox, name: &str) -> Self {
        Self::build(sandbox, name, Options::default(), false)
    }

    /// The only host in a sandbox that is somehow special.
    pub fn within(sandbox: &Sandbox) -> Self {
        Self::build(sandbox, "host", Options::default(), true)
    }

    fn build(sandbox: &Sandbox, name: &str, options: Options, alone: bool) -> Self {
        let host = Netns::create(sandbox, name);
        let outside = Netns::create(sandbox, &format!("{name}-outside"));
        let mtu = options.mtu;
        host.sysctl("net/ipv4/ip_forward", if options.forwarding { "1" } else { "0" });
        host.ip(&format!(
            "link add up0 mtu {mtu} type veth peer name out0 mtu {mtu} netns {}",
            outside.name()
        ));
        host.ip(&format!("addr add {UPLINK}/24 dev up0"));
        outside.ip(&format!("addr add {OUTSIDE}/24 dev out0"));
        if !options.offloads {
            ethtool::offloads_off(&host, "up0");
            ethtool::offloads_off(&outside, "out0");
        }
        host.ip("link set up0 up");
        outside.ip("link set out0 up");
        host.wait_up("up0");
        outside.wait_up("out0");
        host.ip(&format!("route add default via {OUTSIDE}"));
        // Beside another test's flood a packet may get lost.
        let brief = Echo { patience: Duration::from_secs(1), ..Echo::default() };
        wait::until_true("the fixture's own uplink works", || {
            ping(&host, OUTSIDE, brief).is_reply()
        });
        let mut made = Self {
            machine: host,
            outside,
            before: Listing::default(),
            options,
            alone,
            forgotten: false,
            tuned: Mutex::default(),
        };
        made.before = made.listing();
        made
    }

    /// The namespace that plays the machine.
    pub fn netns(&self) -> &Netns {
        &self.machine
    }

    /// The namespace that plays the outside.
    pub fn outside(&self) -> &Netns {
        &self.outside
    }

    /// What it is like.
    pub fn options(&self) -> Options {
        self.options
    }

    /// The sandbox that both are in.
    pub fn sandbox(&self) -> &Sandbox {
        self.machine.sandbox()
    }

    /// A namespace that netbpf has made. On a host without offloads it has none either.
    #[track_caller]
    pub fn ns(&self, name: &str) -> Netns {
        let ns = Netns::open(self.sandbox(), name);
        if !self.options.offloads {
            ethtool::offloads_off(&ns, "eth0");
        }
        ns
    }

    /// netbpf, ready to run in the host, arguments split at blanks.
    pub fn command(&self, arguments: &str) -> Command {
        self.command_of(binary(), arguments)
    }

    /// The same with another binary.
    pub fn command_of(&self, binary: &Path, arguments: &str) -> Command {
        let mut command = self.machine.command(binary);
        command.args(arguments.split_whitespace());
        command.env_remove("NETBPF_FAULT");
        command
    }

    /// The same, called in a directory. (Entering the host is what changes a process's own
    /// to the root, so it is changed there.)
    #[must_use]
    pub fn command_in(&self, dir: &str, arguments: &str) -> Command {
        let mut command = self.machine.command("sh");
        command.args(["-c", "cd \"$0\" && exec \"$@\"", dir]).arg(binary());
        command.args(arguments.split_whitespace());
        command.env_remove("NETBPF_FAULT");
        command
    }

    /// Runs netbpf in the host, arguments split at blanks.
    #[track_caller]
    pub fn netbpf(&self, arguments: &str) -> Outcome {
        finish(&mut self.command(arguments))
    }

    /// Runs `netbpf up --uplink up0 ARGUMENTS`, which must succeed.
    ///
    /// Under the [reference](crate::reference) with `--datapath iptables`.
    #[track_caller]
    pub fn up(&self, arguments: &str) -> Outcome {
        let mut arguments = format!("--uplink up0 {arguments}");
        if reference::enabled() {
            arguments = reference::arguments(&arguments);
        }
        self.netbpf(&format!("up {arguments}")).ok()
    }

    /// Runs `netbpf ARGUMENTS -o json`, which must succeed, and reads the answer.
    #[track_caller]
    pub fn json(&self, arguments: &str) -> serde_json::Value {
        self.netbpf(&format!("{arguments} -o json")).ok().json()
    }

    /// Everything that there is now.
    pub fn listing(&self) -> Listing {
        let here = Listing::of_netns(&self.machine).and(Listing::of_netns(&self.outside));
        if self.alone { here.and(Listing::of_sandbox(self.sandbox())) } else { here }
    }

    /// Panics if anything differs from when the host was made.
    #[track_caller]
    pub fn assert_as_before(&self) {
        self.before.assert_same(&self.listing());
    }

    /// Prints what there is, for whoever wonders why a test has failed.
    fn explain(&self) {
        let views =
            ["status", "maps endpoints", "maps fdb", "maps publish", "maps flows", "maps stats"];
        for arguments in views {
            let command = &mut self.command(arguments);
            if let Ok(output) = command.output() {
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8_lossy(&said);
                let beginning: Vec<&str> = said.lines().take(40).collect();
                eprintln!("{arguments}\n{}\n", beginning.join("\n"));
            }
        }
        for arguments in ["address", "route", "neigh"] {
            if let Ok(output) = self.machine.command("ip").arg(arguments).output() {
                eprintln!("ip {arguments}\n{}", String::from_utf8_lossy(&output.stdout));
            }
        }
    }

    /// Lets go of a host that the test has destroyed.
    pub fn forget(mut self) {
        self.forgotten = true;
    }

    /// Sets a sysctl, below `/proc/sys`, for as long as the test runs: [`Host::down`]
    /// puts it back.
    pub fn tune(&self, path: &str, value: &str) {
        let before = self.machine.read(&format!("/proc/sys/{path}")).trim().to_owned();
        self.machine.sysctl(path, value);
        self.tuned.lock().expect("no panic in here").push((path.to_owned(), before));
    }

    /// Takes all networks down and compares everything with what was before.
    #[track_caller]
    pub fn down(&self) {
        self.netbpf("down --all").ok();
        for (path, before) in self.tuned.lock().expect("no panic in here").drain(..).rev() {
            self.machine.sysctl(&path, &before);
        }
        self.assert_as_before();
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if thread::panicking() {
            // The kernel cleans up, with the sandbox.
            self.explain();
        } else if !self.forgotten {
            self.down();
        }
    }
}
