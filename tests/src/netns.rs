//! Network namespaces: made, entered, taken away.

use crate::{
    process::{Outcome, finish},
    sandbox::{Sandbox, joined},
    wait,
};
use nix::sched::{CloneFlags, setns};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    process::Command,
    sync::Arc,
};

/// A network namespace in a sandbox.
#[derive(Clone)]
pub struct Netns {
    name: String,
    net: Arc<File>,
    sandbox: Sandbox,
}

impl Netns {
    /// Makes a namespace with a name, as `ip netns add` does, its loopback up.
    ///
    /// IPv6 addresses in it are usable at once: duplicate address detection,
    /// which takes a second, would only make listings depend on the time.
    pub fn create(sandbox: &Sandbox, name: &str) -> Self {
        sandbox.run(|| finish_ip(Command::new("ip").args(["netns", "add", name])));
        let made = Self::open(sandbox, name);
        made.sysctl("net/ipv6/conf/all/accept_dad", "0");
        made.sysctl("net/ipv6/conf/default/accept_dad", "0");
        made.ip("link set lo up");
        made
    }

    /// The namespace of this name, whoever made it.
    pub fn open(sandbox: &Sandbox, name: &str) -> Self {
        Self::try_open(sandbox, name).unwrap_or_else(|e| panic!("namespace {name}: {e}"))
    }

    /// The namespace of this name, if there is one.
    ///
    /// # Errors
    /// That of opening its file.
    pub fn try_open(sandbox: &Sandbox, name: &str) -> io::Result<Self> {
        let net = sandbox.run(|| File::open(format!("/run/netns/{name}")))?;
        Ok(Self { name: name.to_owned(), net: Arc::new(net), sandbox: sandbox.clone() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sandbox that it is in.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    fn enter(&self) -> nix::Result<()> {
        self.sandbox.enter()?;
        setns(self.net.as_fd(), CloneFlags::CLONE_NEWNET)
    }

    /// Runs `f` in a thread inside. A socket made there stays there, wherever
    /// it is used afterwards.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        joined(|| {
            self.enter().unwrap_or_else(|e| panic!("enter namespace {}: {e}", self.name));
            f()
        })
    }

    /// A command that will run inside, with the sandbox's file systems.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let inside = self.clone();
        let enter = move || inside.enter().map_err(io::Error::from);
        // SAFETY: between fork and exec the closure makes three system calls
        // on file descriptors that it owns; it allocates nothing, takes no lock.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// A shell inside that is all that there is: no process outside of the
    /// sandbox is visible to it, as on a machine of its own. It runs the words
    /// added to the command.
    ///
    /// It matters to what goes by the mounts of its ancestors.
    pub fn shell(&self) -> Command {
        let mut command = self.command("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--propagation", "unchanged"]);
        // A shell that has more to do afterwards waits for the command.
        command.args(["sh", "-c", "\"$@\"; exit $?", "sh"]);
        command
    }

    /// Runs `ip ARGUMENTS` inside, arguments split at blanks; it must succeed.
    pub fn ip(&self, arguments: &str) -> String {
        finish_ip(self.command("ip").args(arguments.split_whitespace())).stdout
    }

    /// Runs `ip -j ARGUMENTS` (or `bridge`, `tc`) inside and reads its answer.
    pub fn ip_json(&self, tool: &str, arguments: &str) -> serde_json::Value {
        let mut command = self.command(tool);
        let outcome = finish_ip(command.arg("-j").args(arguments.split_whitespace()));
        if outcome.stdout.trim().is_empty() {
            return serde_json::Value::Array(Vec::new());
        }
        outcome.json()
    }

    /// Sets a sysctl, named by its path below `/proc/sys`.
    pub fn sysctl(&self, path: &str, value: &str) {
        self.run(|| fs::write(format!("/proc/sys/{path}"), value))
            .unwrap_or_else(|e| panic!("sysctl {path}={value} in {}: {e}", self.name));
    }

    /// Reads a file, such as one below `/proc/sys/net`, from inside.
    pub fn read(&self, path: &str) -> String {
        self.run(|| fs::read_to_string(path))
            .unwrap_or_else(|e| panic!("{path} in {}: {e}", self.name))
    }

    /// The MAC of an interface.
    pub fn mac(&self, interface: &str) -> [u8; 6] {
        let link = self.link(interface);
        let text = link["address"].as_str().expect("a link has an address");
        parse_mac(text)
    }

    /// What `ip -j -s -d link show` says of an interface.
    pub fn link(&self, interface: &str) -> serde_json::Value {
        self.ip_json("ip", &format!("-s -d link show dev {interface}"))[0].clone()
    }

    /// Waits until an interface that was switched on is up: the kernel tells of
    /// the carrier a moment later.
    #[track_caller]
    pub fn wait_up(&self, interface: &str) {
        let what = format!("{interface} in {} is up", self.name);
        wait::until_true(&what, || self.link(interface)["operstate"] == "UP");
    }

    /// Packets that an interface has transmitted.
    pub fn tx_packets(&self, interface: &str) -> u64 {
        let link = self.link(interface);
        link["stats64"]["tx"]["packets"].as_u64().expect("a link has counters")
    }

    /// The names of all interfaces.
    pub fn links(&self) -> Vec<String> {
        let links = self.ip_json("ip", "link show");
        let name = |link: &serde_json::Value| link["ifname"].as_str().map(str::to_owned);
        links.as_array().expect("a list of links").iter().filter_map(name).collect()
    }
}

/// Reads `aa:bb:cc:dd:ee:ff`.
fn parse_mac(text: &str) -> [u8; 6] {
    let mut mac = [0; 6];
    for (byte, part) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(part, 16).unwrap_or_else(|e| panic!("MAC {text}: {e}"));
    }
    mac
}

fn finish_ip(command: &mut Command) -> Outcome {
    finish(command).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_read() {
        assert_eq!(parse_mac("02:00:ac:13:00:fe"), [2, 0, 0xac, 0x13, 0, 0xfe]);
    }
}
