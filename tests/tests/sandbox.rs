//! Sandboxes: everything in private namespaces, and nothing on the machine.

use netbpf::sandbox::{Sandbox, Wire, World};
use netbpf_tests::{Listing, Sandbox as Machine, finish, wait};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
};

/// Runs `ip ARGUMENTS` in a namespace of a sandbox.
#[track_caller]
fn ip(ns: &netbpf::sandbox::Namespace, arguments: &str) -> String {
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
    let sender = std::thread::spawn(move || client.write_all(&[7; MEGABYTE]));
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
