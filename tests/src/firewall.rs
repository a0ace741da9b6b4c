//! The firewalls that people have on their hosts: iptables in both variants, nft,
//! and firewalld with a D-Bus of its own.

use crate::{Netns, finish, wait};
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Where [`Firewalld`] has its bus and configuration: in the sandbox's own `/run`.
const DIR: &str = "/run/firewalld-test";

/// A bus on which everybody may do anything: there is nobody but firewalld and
/// who asks it.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/firewalld-test/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

/// Runs a tool of the firewall in a namespace, its words split at blanks; it must
/// succeed. Returns what it prints.
#[track_caller]
pub fn rules(ns: &Netns, line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut command = ns.command(words.next().expect("a command"));
    if line.starts_with("iptables") && !line.contains("-save") {
        // Another test may hold the lock of the older variant.
        command.arg("-w");
    }
    finish(command.args(words)).ok().stdout
}

/// Loads nft's language into a namespace.
#[track_caller]
pub fn nft(ns: &Netns, text: &str) {
    finish(ns.command("nft").arg(format!("{text}\n"))).ok();
}

/// All rules of a namespace as their own tools print them, byte for byte but for
/// what comes and goes with packets and time: counters, and the date in comments.
#[track_caller]
pub fn dump(ns: &Netns) -> String {
    let dumps = ["iptables-nft-save", "iptables-legacy-save", "nft --stateless list ruleset"];
    let dumps = dumps.map(|line| format!("{line}\n{}", rules(ns, line)));
    let mut text = String::new();
    for line in dumps.iter().flat_map(|dump| dump.lines()).filter(|line| !line.starts_with("# ")) {
        // ":FORWARD DROP [12:3456]"
        let counted = line.starts_with(':').then(|| line.find(" [")).flatten();
        text += counted.map_or(line, |at| &line[..at]);
        text.push('\n');
    }
    text
}

/// A firewalld that rules over a namespace, until dropped.
pub struct Firewalld {
    ns: Netns,
    bus: Child,
    daemon: Child,
}

impl Firewalld {
    /// Starts it with the configuration that its package brings.
    pub fn start(ns: &Netns) -> Self {
        let files = unpacked();
        ns.run(|| {
            std::fs::create_dir_all(DIR).expect("a directory for firewalld");
            std::fs::write(format!("{DIR}/bus.conf"), BUS).expect("write its bus's configuration");
        });
        let config = files.join("etc/firewalld");
        finish(ns.command("cp").arg("-r").arg(config).arg(format!("{DIR}/etc"))).ok();
        let bus = spawn(
            ns.command("dbus-daemon")
                .args(["--nofork", "--nopidfile"])
                .arg(format!("--config-file={DIR}/bus.conf")),
        );
        wait::until_true("firewalld's bus is there", || {
            ns.run(|| Path::new(DIR).join("bus").exists())
        });
        let mut command = ns.command(files.join("usr/sbin/firewalld"));
        command.args(["--nofork", "--nopid", "--log-target", "console"]);
        command.args(["--system-config", &format!("{DIR}/etc"), "--default-config"]);
        let daemon = spawn(on_bus(command.arg(files.join("usr/lib/firewalld"))));
        let started = Self { ns: ns.clone(), bus, daemon };
        wait::until_true("firewalld runs", || {
            started.command("--state").output().is_ok_and(|output| output.status.success())
        });
        started
    }

    /// Runs `firewall-cmd OPTION`, which must succeed.
    #[track_caller]
    pub fn tell(&self, option: &str) {
        finish(&mut self.command(option)).ok();
    }

    fn command(&self, option: &str) -> Command {
        let mut command = self.ns.command(unpacked().join("usr/bin/firewall-cmd"));
        on_bus(command.arg(option));
        command
    }
}

impl Drop for Firewalld {
    fn drop(&mut self) {
        for child in [&mut self.daemon, &mut self.bus] {
            // It may have died, for which the test has failed already.
            let _ = child.kill();
            let _ = child.wait();
        }
        let removed = self.ns.run(|| {
            // firewalld's own directory, empty.
            let _ = std::fs::remove_dir("/run/firewalld");
            std::fs::remove_dir_all(DIR)
        });
        assert!(std::thread::panicking() || removed.is_ok(), "{DIR}: {removed:?}");
    }
}

/// The package's files: `cargo xtask setup` unpacks them without installing it,
/// for then Debian would start it on the machine itself.
fn unpacked() -> PathBuf {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/firewalld");
    assert!(files.exists(), "firewalld is not unpacked: `cargo xtask test` does it");
    files
}

fn on_bus(command: &mut Command) -> &mut Command {
    command.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={DIR}/bus"));
    command.env("PYTHONDONTWRITEBYTECODE", "1")
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}"))
}
