//! The Debian package: installed on a copy of this system, which systemd then boots and
//! shuts down, and removed again.

use netbpf_tests::{Host, Listing, NS1, OUTSIDE, Outcome, Sandbox, binary, finish, wait};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Where the copy of the system is: what is changed in it is in memory.
const PLACE: &str = "/run/copy";
const ROOT: &str = "/run/copy/root";

const FILE: &str = "\
name = \"shop\"
subnet = \"172.19.0.0/24\"
uplink = [\"up0\"]
ns = [\"web\", \"db\"]
publish = [\"8080:web:80\"]
";

/// A copy of this system, on a host.
struct System {
    host: Host,
    before: Listing,
}

impl System {
    fn new() -> Self {
        let host = Host::within(&Sandbox::without_bpffs());
        let make = || {
            let none = None::<&str>;
            let set = |source: &str, target: &str, data: Option<&str>| {
                fs::create_dir_all(target).expect(target);
                mount(Some(source), target, Some(source), MsFlags::empty(), data).expect(target);
            };
            set("tmpfs", PLACE, none);
            for name in ["upper", "work"] {
                fs::create_dir(Path::new(PLACE).join(name)).expect(name);
            }
            let layers = format!("lowerdir=/,upperdir={PLACE}/upper,workdir={PLACE}/work");
            set("overlay", ROOT, Some(&layers));
            // Other services of this system are none of the test's business.
            let wanted = Path::new(ROOT).join("etc/systemd/system/multi-user.target.wants");
            for entry in fs::read_dir(wanted).into_iter().flatten() {
                fs::remove_file(entry.expect("an entry").path()).expect("remove");
            }
        };
        host.sandbox().run(make);
        // As systemd has it.
        host.tune("net/unix/max_dgram_qlen", "512");
        let before = Listing::of_netns(host.netns());
        Self { host, before }
    }

    /// Asserts that no boot has left anything in the network.
    #[track_caller]
    fn assert_as_before(&self) {
        self.before.assert_same(&Listing::of_netns(self.host.netns()));
    }

    /// Runs a command in the copy, without booting it.
    #[track_caller]
    fn command(&self, words: &str) -> Outcome {
        let mut command = self.host.netns().command("chroot");
        finish(command.arg(ROOT).args(words.split_whitespace()))
    }

    /// Whether there is this file in the copy.
    fn has(&self, path: &str) -> bool {
        let path = Path::new(ROOT).join(path);
        self.host.sandbox().run(|| path.exists())
    }

    fn write(&self, path: &str, text: &str) {
        let path = Path::new(ROOT).join(path);
        self.host.sandbox().run(|| fs::write(path, text)).expect("write");
    }

    fn install(&self, package: &Path) {
        let bytes = fs::read(package).expect("the package");
        let copied = || fs::write(Path::new(ROOT).join("netbpf.deb"), bytes);
        self.host.sandbox().run(copied).expect("copy the package");
        self.command("dpkg --install /netbpf.deb").ok();
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.host.sandbox().run(|| {
            umount2(ROOT, MntFlags::MNT_DETACH).expect("unmount the copy");
            umount2(PLACE, MntFlags::MNT_DETACH).expect("unmount what was changed");
            fs::remove_dir_all(PLACE).expect("remove the place");
            // systemd-nspawn's own.
            fs::remove_dir_all("/run/systemd").expect("remove");
        });
    }
}

/// A system that systemd has booted. Dropped, it is switched off.
struct Booted {
    nspawn: Child,
    /// systemd, as seen from outside.
    init: i32,
}

impl Booted {
    fn boot(system: &System) -> Self {
        let host = &system.host;
        let mut command = host.netns().command("systemd-nspawn");
        command
            .args(["--directory", ROOT, "--register=no", "--keep-unit", "--boot"])
            .arg(format!("--network-namespace-path=/run/netns/{}", host.netns().name()))
            .args(["--capability=all", "--console=pipe"])
            // A container as capable as a machine: sysctls can be written, programs loaded.
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "yes")
            .env("SYSTEMD_SECCOMP", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let nspawn = command.spawn().expect("start systemd-nspawn");
        let children = format!("/proc/{0}/task/{0}/children", nspawn.id());
        let init = wait::until("systemd runs", || {
            let text = fs::read_to_string(&children).ok()?;
            text.split_whitespace().find_map(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
                (name.trim() == "systemd").then(|| pid.parse().expect("a process"))
            })
        });
        Self { nspawn, init }
    }

    /// Runs a command in it.
    #[track_caller]
    fn command(&self, words: &str) -> Outcome {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.init.to_string()]);
        finish(command.args(words.split_whitespace()))
    }

    /// Waits for a state of the unit, as `systemctl is-active` has it.
    #[track_caller]
    fn until_unit_is(&self, state: &str) {
        // A boot takes its time beside other tests.
        let begin = Instant::now();
        loop {
            let is = self.command("systemctl is-active netbpf@shop").stdout;
            if is.trim() == state {
                return;
            }
            let journal = || self.command("journalctl --no-pager -n 30 -u netbpf@shop");
            let late = begin.elapsed() > Duration::from_secs(60);
            assert!(!late && is.trim() != "failed", "the unit is {is}: {}", journal());
        }
    }

    /// Switches it off as a power button does, and waits.
    fn shut_down(mut self) {
        self.off();
    }

    fn off(&mut self) {
        let pid = i32::try_from(self.nspawn.id()).expect("a process");
        // It has gone already if that fails.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        self.nspawn.wait().expect("wait");
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        self.off();
    }
}

/// Makes the package of the netbpf under test.
fn package(dir: &Path) -> PathBuf {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command.args(["xtask", "deb", "--output"]).arg(dir).arg("--binary").arg(binary());
    let made = finish(&mut command).ok().stdout;
    PathBuf::from(made.lines().last().expect("the path of the package"))
}

#[test]
fn lintian_has_no_objection() {
    let dir = PathBuf::from(format!("/tmp/netbpf-lintian-{}", std::process::id()));
    let made = package(&dir);
    let mut lintian = Command::new("lintian");
    let said = finish(lintian.args(["--allow-root", "--fail-on", "error,warning"]).arg(made));
    fs::remove_dir_all(&dir).expect("remove the package");
    assert_eq!(said.ok().stdout, "");
}

#[test]
fn it_is_installed_boots_a_network_and_is_removed() {
    let system = System::new();
    let dir = PathBuf::from(format!("/tmp/netbpf-package-{}", std::process::id()));
    let made = package(&dir);
    system.install(&made);
    fs::remove_dir_all(&dir).expect("remove the package");

    let version = system.command("netbpf --version").ok();
    assert_eq!(version.stdout.trim(), format!("netbpf {}", env!("CARGO_PKG_VERSION")));
    system.command("dpkg --verify netbpf").ok().says("");
    system.command("systemd-analyze verify netbpf@shop.service").ok();
    system.command("man -w netbpf-up").ok().says("netbpf-up.1.gz");
    for path in ["share/bash-completion/completions/netbpf", "share/doc/netbpf/copyright"] {
        assert!(system.has(&format!("usr/{path}")), "{path}");
    }
    system.write("etc/netbpf/shop.toml", FILE);
    system.command("systemctl enable netbpf@shop").ok();

    // Twice: what a shutdown leaves must not be in the way of the next boot.
    for boot in 1..=2 {
        let booted = Booted::boot(&system);
        booted.until_unit_is("active");
        let status = booted.command("netbpf -j status").ok().json();
        assert_eq!(status["networks"][0]["datapath"], "ebpf", "boot {boot}: {status}");
        booted.command(&format!("netbpf exec web -- ping -c1 -W5 {OUTSIDE}")).ok();
        booted.command(&format!("netbpf exec db -- ping -c1 -W5 {NS1}")).ok();

        system.write("etc/netbpf/shop.toml", &FILE.replace("\"db\"]", "\"db\", \"cache\"]"));
        booted.command("systemctl reload netbpf@shop").ok();
        booted.command(&format!("netbpf exec cache -- ping -c1 -W5 {OUTSIDE}")).ok();
        system.write("etc/netbpf/shop.toml", FILE);
        booted.shut_down();
        system.assert_as_before();
    }

    // While it is up, `stop` takes it down, and removing the package does.
    let booted = Booted::boot(&system);
    booted.until_unit_is("active");
    booted.command("systemctl stop netbpf@shop").ok();
    booted.command("netbpf status").complains("there is no network");
    booted.command("systemctl start netbpf@shop").ok();
    booted.command("dpkg --remove netbpf").ok();
    booted.command("systemctl is-active netbpf@shop").exits(3);
    booted.shut_down();
    system.assert_as_before();
    assert!(!system.has("usr/bin/netbpf") && !system.has("usr/share/doc/netbpf"));
    assert!(system.has("etc/netbpf/shop.toml"), "what the user wrote stays");
}
