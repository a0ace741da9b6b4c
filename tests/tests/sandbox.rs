//! Sandboxes: everything in private namespaces, and nothing on the machine.

use netbpf::sandbox::{Sandbox, Wire, World};
use netbpf_tests::{Host, Listing, Sandbox as Machine, binary, finish, interrupt, wait};
use nix::sys::signal::Signal;
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    process::Stdio,
    time::Instant,
};

/// Runs `ip ARGUMENTS` in a namespace of a sandbox.
#[track_caller]
fn ip(ns: &netbpf::namespace::Namespace, arguments: &str) -> String {
    finish(ns.command("ip").args(arguments.split_whitespace())).ok().stdout
}

#[test]
fn host_and_outside_reach_each_other_from_the_first_packet() {
    let machine = Machine::new();
    let before = Listing::of_sandbox(&machine);
    let world = World { wires: vec![Wire::FIRST, Wire::SECOND], mtu: 1400, ..World::default() };
    let sandbox = machine.run(|| Sandbox::new(&world)).expect("a sandbox");
    for wire in &world.wires {
        let there = sandbox.outside().run(|| UdpSocket::bind((wire.outside, 0))).expect("enter");
        let there = there.expect("bind outside");
        let here = sandbox.host().run(|| UdpSocket::bind((wire.host, 0))).expect("enter");
        let here = here.expect("bind in the host");
        there.set_read_timeout(Some(wait::DEADLINE)).expect("set a timeout");
        here.send_to(b"hello", there.local_addr().expect("an address")).expect("send");
        let mut bytes = [0; 8];
        let (len, from) = there.recv_from(&mut bytes).expect("the first packet");
        assert_eq!((&bytes[..len], from), (&b"hello"[..], here.local_addr().expect("an address")));
    }
    assert!(ip(sandbox.host(), "route").contains("default via 203.0.113.2 dev eth0"));
    assert!(ip(sandbox.host(), "link show eth1").contains("mtu 1400"));
    assert!(ip(sandbox.outside(), "addr show lo").contains("127.0.0.1/8"));
    // As on any machine, `ip` finds namespaces by their names.
    assert!(ip(sandbox.host(), "-n outside addr show eth0").contains("203.0.113.2/24"));
    assert!(sandbox.namespace("nosuch").is_err());
    before.assert_same(&Listing::of_sandbox(&machine));
}

#[test]
fn a_sandbox_begins_as_a_fresh_machine_whatever_this_one_is_like() {
    let sandbox = Sandbox::new(&World::default()).expect("a sandbox");
    for name in ["ip_forward", "conf/eth0/rp_filter", "conf/lo/accept_local"] {
        let path = format!("/proc/sys/net/ipv4/{name}");
        let value = sandbox.host().run(|| fs::read_to_string(&path)).expect("enter");
        assert_eq!(value.expect("a sysctl").trim(), "0", "{name}");
    }
    let names = |path: &str| -> Vec<String> {
        let list = || fs::read_dir(path).map(Iterator::collect::<Vec<_>>).unwrap_or_default();
        let entries = sandbox.host().run(list).expect("enter");
        let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("a name");
        entries.into_iter().map(|entry| name(entry.expect("an entry"))).collect()
    };
    assert_eq!(names("/run"), ["netns"]);
    assert!(!names("/sys/fs/bpf").contains(&"netbpf".to_owned()), "pins are nobody else's");
}

/// Sends a megabyte by TCP from the host; the size of the largest frames outside
/// follows from the counters.
#[track_caller]
fn bytes_per_frame(world: &World) -> u64 {
    const MEGABYTE: usize = 1 << 20;
    let sandbox = Sandbox::new(world).expect("a sandbox");
    let (host, outside) = (sandbox.host(), sandbox.outside());
    let server = outside.run(|| TcpListener::bind((Wire::FIRST.outside, 0))).expect("enter");
    let server = server.expect("listen");
    let to = server.local_addr().expect("an address");
    let mut client = host.run(|| TcpStream::connect(to)).expect("enter").expect("connect");
    let (mut served, _) = server.accept().expect("accept");
    let sender = std::thread::spawn(move || client.write_all(&vec![7; MEGABYTE]));
    let received = served.read_to_end(&mut Vec::new()).expect("receive");
    sender.join().expect("join").expect("send");
    assert_eq!(received, MEGABYTE);
    let counters = outside.run(|| fs::read_to_string("/proc/thread-self/net/dev"));
    let counters = counters.expect("enter").expect("counters");
    let line = counters.lines().find(|line| line.trim_start().starts_with("eth0:"));
    let numbers: Vec<u64> = line
        .expect("a line of eth0")
        .split_whitespace()
        .skip(1)
        .map(|number| number.parse().expect("a number"))
        .collect();
    numbers[0] / numbers[1]
}

#[test]
fn without_offloads_no_frame_is_larger_than_the_mtu() {
    let with = bytes_per_frame(&World::default());
    let without = bytes_per_frame(&World { offloads: false, ..World::default() });
    assert!(without <= 1514 && with > 1514, "{without} without offloads, {with} with");
}

#[test]
fn what_cannot_be_is_refused() {
    let wrong = World { mtu: 20, ..World::default() };
    let error = Sandbox::new(&wrong).expect_err("no MTU");
    assert!(error.what().contains("20") && error.advice().is_some(), "{error}");
}

const UP: &str = "up --sandbox --namespaces 2 -p 8080:ns1:80";

/// All of a machine but the one place where its sandbox is kept.
fn but_for_the_sandbox(host: &Host) -> Vec<String> {
    let listing = host.listing();
    let lines = listing.with("").into_iter().filter(|line| {
        // The mount namespace's number is in its line.
        !line.contains("/run/netbpf") && !line.contains(" mnt:[")
    });
    lines.map(str::to_owned).collect()
}

#[test]
fn a_network_in_a_sandbox_works_and_touches_nothing_of_the_machine() {
    let host = Host::new();
    let before = but_for_the_sandbox(&host);
    host.netbpf(UP).ok().says("203.0.113.1/24").says("8080->80/tcp");
    assert_eq!(before, but_for_the_sandbox(&host));
    let verbs = [
        "exec --sandbox ns1 -- ping -c1 -W5 203.0.113.2",
        "exec --sandbox ns1 -- ping -c1 -W5 172.19.0.3",
        "exec --sandbox outside -- ping -c1 -W5 203.0.113.1",
    ];
    for verb in verbs {
        host.netbpf(verb).ok();
    }
    host.netbpf("exec --sandbox host -- ip route").ok().says("172.19.0.0/24 dev netbpf0");
    host.netbpf("status --sandbox").ok().says("ns2");
    host.netbpf("maps flows --sandbox").ok().says("203.0.113.2");
    host.netbpf("maps publish --sandbox").ok().says("8080");
    // The machine itself knows of no network.
    assert_eq!(host.json("status")["networks"], serde_json::json!([]));
    host.netbpf(UP).ok().complains("nothing to do");
    host.netbpf("up --sandbox --name second --subnet 172.20.0.0/24 --ns x").ok();
    host.netbpf("down second --sandbox").ok().complains("second is gone");
    host.netbpf("status --sandbox").ok().says("netbpf0");
    let gone = host.json("down --sandbox");
    assert_eq!(gone["removed"], serde_json::json!(["netbpf0"]));
    assert_eq!(gone["sandbox_removed"], true);
    host.assert_as_before();
    host.netbpf("down --sandbox").ok().complains("nothing to do");
    assert_eq!(host.json("down --sandbox")["sandbox_removed"], false);
    host.assert_as_before();
}

#[test]
fn what_a_sandbox_cannot_do_leaves_none() {
    let host = Host::new();
    for (arguments, code, word) in [
        ("status --sandbox", 2, "netbpf up --sandbox --namespaces"),
        ("exec --sandbox host -- true", 2, "there is no sandbox"),
        ("maps flows --sandbox", 2, "there is no sandbox"),
        ("up --sandbox --ns outside", 2, "outside is taken"),
        ("up --sandbox --ns a --ns host", 2, "host is taken"),
        ("up --sandbox --namespaces 1 --uplink up0", 2, "up0"),
        ("up --sandbox --namespaces 300", 2, "too small"),
    ] {
        host.netbpf(arguments).exits(code).complains(word).complains("hint");
        host.assert_as_before();
    }
    host.netbpf("up --sandbox --namespaces 1 --dry-run").ok().says("203.0.113.1");
    host.assert_as_before();
    let mut failing = host.command(UP);
    finish(failing.env("NETBPF_FAULT", "fail:9")).exits(1).complains("undone");
    host.assert_as_before();
}

#[test]
fn down_names_the_processes_that_still_run_and_ends_none() {
    let host = Host::new();
    host.netbpf(UP).ok();
    for place in ["ns1", "outside"] {
        let mut command = host.command(&format!("exec --sandbox {place} -- sleep 60"));
        let mut child = command.stdout(Stdio::null()).spawn().expect("start a process");
        let number = child.id().to_string();
        wait::until_true("it sleeps", || {
            let name = fs::read_to_string(format!("/proc/{number}/comm")).expect("a process");
            name.trim() == "sleep"
        });
        let refused = host.netbpf("down --sandbox").exits(1);
        refused.complains(&format!("sleep ({number})")).complains(&format!("kill {number}"));
        host.netbpf("status --sandbox").ok().says("ns1");
        assert!(child.try_wait().expect("look at it").is_none(), "it lives on");
        child.kill().and_then(|()| child.wait()).expect("end it");
    }
    host.netbpf("down --sandbox").ok();
}

#[test]
fn killed_at_any_moment_up_leaves_nothing_that_down_does_not_remove() {
    let host = Host::new();
    let start = Instant::now();
    host.netbpf(UP).ok();
    let whole = start.elapsed();
    host.netbpf("down --sandbox").ok();
    for part in 1..=12 {
        let outcome = interrupt(&mut host.command(UP), whole * part / 12, Signal::SIGKILL);
        host.netbpf("down --sandbox").ok();
        eprintln!("after {part} of 12 parts of {whole:?}: {:?}", outcome.code);
        host.assert_as_before();
    }
}

#[test]
fn two_at_once_make_one_sandbox() {
    let host = Host::new();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| host.netbpf(UP).ok().says("ns2"));
        }
    });
    host.netbpf("exec --sandbox ns1 -- ping -c1 -W5 203.0.113.2").ok();
    host.netbpf("down --sandbox").ok();
    host.assert_as_before();
}

#[test]
fn damaged_sandboxes_are_taken_away_and_half_made_ones_are_none() {
    let host = Host::new();
    host.netbpf(UP).ok();
    // In its own mounts: `exec` has a copy, in which a name cannot be taken away.
    let inside = "--mount=/run/netbpf/sandbox/keep/mnt";
    finish(host.netns().command("nsenter").args([inside, "ip", "netns", "del", "outside"])).ok();
    host.netbpf("status --sandbox").exits(1).complains("netbpf down --sandbox");
    host.netbpf("down --sandbox").ok().complains("the sandbox is gone");
    host.assert_as_before();
    host.sandbox().run(|| fs::create_dir_all("/run/netbpf/sandbox/keep")).expect("half of one");
    host.netbpf("status --sandbox").exits(2).complains("there is no sandbox");
    host.netbpf(UP).ok();
    host.netbpf("down --sandbox").ok();
    host.assert_as_before();
}

#[test]
fn it_needs_no_bpf_file_system_of_the_machine() {
    let host = Host::within(&Machine::without_bpffs());
    // In one shell: each has mounts of its own, and the sandbox among them.
    let calls = [
        UP,
        "exec --sandbox ns1 -- ping -c1 -W5 203.0.113.2",
        "status --sandbox",
        "down --sandbox",
    ];
    let script = calls.map(|call| format!("{} {call}", binary().display())).join(" && ");
    let outcome = finish(host.netns().shell().args(["sh", "-c", &script])).ok();
    outcome.says("1 received").complains("the sandbox is gone");
    host.assert_as_before();
}

/// Whoever works in a shell on the sandbox's host works on that machine: what is made
/// there is there when the shell is gone.
#[test]
fn networks_that_are_made_inside_stay_when_the_shell_has_gone() {
    let host = Host::new();
    host.netbpf(UP).ok();
    let netbpf = binary().display().to_string();
    let up = format!("{netbpf} up --name inner --ns i1 --subnet 172.20.0.0/24");
    let script = format!("{up} && ip netns add mine && ls /sys/class/net");
    let exec = &mut host.command("exec --sandbox host -- sh -c");
    finish(exec.arg(&script)).ok().says("172.20.0.2/24").says("netbpf0-1");
    host.netbpf("exec --sandbox i1 -- ping -c1 -W5 203.0.113.2").ok();
    host.netbpf("exec --sandbox i1 -- ping -c1 -W5 172.19.0.2").ok();
    host.netbpf("exec --sandbox host -- ip -n mine link show lo").ok();
    // From within and from without it is the same.
    let inside = format!("{netbpf} status inner && {netbpf} down inner");
    let exec = &mut host.command("exec --sandbox host -- sh -c");
    finish(exec.arg(&inside)).ok().says("i1").complains("inner is gone");
    host.netbpf("status --sandbox").ok().says("netbpf0");
    host.netbpf("exec --sandbox ns1 -- ping -c1 -W5 203.0.113.2").ok();
    host.netbpf("down --sandbox").ok();
    host.assert_as_before();
}

/// Where mounts go with a shell, the sandbox goes along: that is said.
#[test]
fn a_sandbox_that_will_pass_is_told_of() {
    let host = Host::new();
    let netbpf = binary().display();
    let script = format!("{netbpf} {UP} && {netbpf} status --sandbox");
    let outcome = finish(host.netns().command("unshare").args(["-m", "sh", "-c", &script])).ok();
    outcome.complains("goes with the last process").says("ns2");
    host.netbpf("status --sandbox").exits(2).complains("there is no sandbox");
    // Of the directory that it was mounted on there is nothing to keep.
    host.netbpf("down --sandbox").ok();
}
#[test]
fn a_file_is_read_where_netbpf_is_called() {
    let host = Host::new();
    let dir = env!("CARGO_TARGET_TMPDIR");
    let path = format!("{dir}/sandbox-network.toml");
    fs::write(&path, "ns = [\"a\"]\npublish = [\"8080:a:80\"]\n").expect("a file");
    let call = |arguments: &str| finish(&mut host.command_in(dir, arguments));
    let plan = "plan --sandbox -f sandbox-network.toml";
    call(plan).exits(3).says("ip netns add a");
    host.assert_as_before();
    call("up --sandbox -f sandbox-network.toml").ok();
    call(plan).ok().says("nothing to do");
    host.netbpf("ns add b --sandbox").ok();
    host.netbpf("exec --sandbox b -- ping -c1 -W5 172.19.0.2").ok();
    call(plan).exits(3).says("ip netns delete b");
    host.netbpf("publish rm nosuch --sandbox").exits(2);
    host.netbpf("down --sandbox").ok();
    fs::remove_file(&path).expect("remove it");
    host.assert_as_before();
}
