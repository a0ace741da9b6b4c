//! Programs that were detached by hand, or attached a second time; pins that were removed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use netbpf::bpf::{Datapath, Hook, LoadOptions};
use netbpf_tests::{
    Host,
    drift::{Damage, finds, found_and_mended, mend, network, works},
    finish,
};
use nix::mount::{MsFlags, mount};

/// Where the host's datapath is pinned.
fn pins(host: &Host) -> PathBuf {
    host.sandbox().run(|| {
        let mut hosts = fs::read_dir("/sys/fs/bpf/netbpf").expect("pins");
        hosts.next().expect("a host's").expect("an entry").path()
    })
}

fn ifindex(host: &Host, interface: &str) -> u32 {
    let index = host.netns().link(interface)["ifindex"].as_u64().expect("an index");
    u32::try_from(index).expect("an index")
}

/// Removes a pin, named by its path below the datapath's.
fn unpin(host: &Host, name: &str) {
    let path = pins(host).join(name);
    host.sandbox().run(|| fs::remove_file(&path)).unwrap_or_else(|e| panic!("{name}: {e}"));
}

/// Detaches a program and leaves its pin, or removes that.
fn detach(host: &Host, hook: Hook, interface: &str, unpins: bool) {
    let index = ifindex(host, interface);
    let name = format!("links/{}-{index}", hook.name());
    if unpins {
        return unpin(host, &name);
    }
    let pin = pins(host).join(name);
    let mut bpftool = host.netns().command("bpftool");
    finish(bpftool.args(["link", "detach", "pinned"]).arg(pin)).ok();
}

/// Attaches a pinned program by a filter of tc.
fn attach_by_tc(host: &Host, program: &str, interface: &str, side: &str) {
    let pin = pins(host).join("programs").join(program);
    let tc = |arguments: &str| {
        finish(host.netns().command("tc").args(arguments.split_whitespace())).ok();
    };
    tc(&format!("qdisc replace dev {interface} clsact"));
    tc(&format!("filter add dev {interface} {side} bpf da object-pinned {}", pin.display()));
}

const DETACHED: &[Damage] = &[
    Damage {
        what: "the program of a namespace",
        by: |host| detach(host, Hook::FromEndpoint, "netbpf0-1", false),
        found: &[("program from_endpoint on netbpf0-1", "not attached")],
    },
    Damage {
        what: "the pin of the program of a namespace",
        by: |host| detach(host, Hook::FromEndpoint, "netbpf0-1", true),
        found: &[("program from_endpoint on netbpf0-1", "not attached")],
    },
    Damage {
        what: "the programs of the uplink",
        by: |host| {
            detach(host, Hook::FromUplink, "up0", false);
            detach(host, Hook::ToUplink, "up0", true);
        },
        found: &[
            ("program from_uplink on up0", "not attached"),
            ("program to_uplink on up0", "not attached"),
        ],
    },
    Damage {
        what: "the program of lo",
        by: |host| detach(host, Hook::FromHost, "lo", false),
        found: &[("program from_uplink on lo", "not attached")],
    },
];

const PINS: &[Damage] = &[
    Damage {
        what: "the pin of a program that is attached",
        by: |host| unpin(host, "programs/from_endpoint"),
        found: &[("datapath", "programs/from_endpoint is not pinned")],
    },
    Damage {
        what: "the pins of programs for what is rare",
        by: |host| {
            unpin(host, "programs/rare");
            unpin(host, "programs/flush_flows");
        },
        found: &[("datapath", "programs/flush_flows, programs/rare are not pinned")],
    },
    Damage {
        what: "the pins of maps",
        by: |host| {
            for name in ["FLOWS", "ENDPOINTS", "CONFIG"] {
                unpin(host, &format!("maps/{name}"));
            }
        },
        found: &[("datapath", "maps/CONFIG, maps/ENDPOINTS, maps/FLOWS are not pinned")],
    },
    Damage {
        what: "the pin of the log",
        by: |host| unpin(host, "maps/AYA_LOGS"),
        found: &[("datapath", "maps/AYA_LOGS is not pinned")],
    },
    Damage {
        what: "the pins of maps that the kernel empties then",
        by: |host| {
            unpin(host, "maps/PROGRAMS");
            unpin(host, "maps/SWEEPER");
        },
        found: &[("datapath", "maps/PROGRAMS, maps/SWEEPER are not pinned")],
    },
];

/// Mounts another BPF file system over the one that there is.
fn mount_over(host: &Host) {
    host.sandbox().run(|| {
        let (kind, none) = (Some("bpf"), None::<&str>);
        mount(kind, "/sys/fs/bpf", kind, MsFlags::empty(), none).expect("mount");
    });
}

const MOUNTS: &[Damage] = &[
    Damage {
        what: "a BPF file system over the pins",
        by: mount_over,
        found: &[("/sys/fs/bpf", "another BPF file system is mounted over")],
    },
    Damage {
        what: "two of them, and something else",
        by: |host| {
            mount_over(host);
            mount_over(host);
            host.netns().sysctl("net/ipv4/ip_forward", "0");
        },
        found: &[
            ("/sys/fs/bpf", "another BPF file system is mounted over"),
            ("sysctl net.ipv4.ip_forward", "0, should be 1"),
        ],
    },
];

const COPIES: &[Damage] = &[
    Damage {
        what: "a second copy by tc",
        by: |host| attach_by_tc(host, "from_endpoint", "netbpf0-1", "ingress"),
        found: &[("program from_endpoint on netbpf0-1", "attached twice: by a filter")],
    },
    Damage {
        what: "second copies on the uplink",
        by: |host| {
            attach_by_tc(host, "from_uplink", "up0", "ingress");
            attach_by_tc(host, "to_uplink", "up0", "egress");
        },
        found: &[
            ("program from_uplink on up0", "attached twice: by a filter"),
            ("program to_uplink on up0", "attached twice: by a filter"),
        ],
    },
    Damage {
        what: "copies on the wrong side",
        by: |host| attach_by_tc(host, "from_uplink", "up0", "egress"),
        found: &[("program from_uplink on up0", "attached twice: by a filter")],
    },
    Damage {
        what: "another copy, loaded by itself",
        by: |host| {
            finish(host.netns().command("tc").args(["qdisc", "del", "dev", "up0", "clsact"])).ok();
            let index = ifindex(host, "up0");
            host.netns().run(|| {
                let other = Datapath::load(Path::new(OTHER), &LoadOptions::default());
                other.expect("it loads").attach(Hook::FromUplink, index).expect("it attaches");
            });
        },
        found: &[("program from_uplink on up0", "attached twice: by link")],
    },
];

/// Where a second datapath is pinned.
const OTHER: &str = "/sys/fs/bpf/other/1";

#[test]
fn what_was_detached_is_attached_again() {
    drop(found_and_mended("ebpf", DETACHED));
}

#[test]
fn pins_are_made_again_and_no_flow_ends() {
    drop(found_and_mended("ebpf", PINS));
}

#[test]
fn second_copies_are_taken_away() {
    let host = found_and_mended("ebpf", COPIES);
    host.netns().run(|| Datapath::unload(Path::new(OTHER))).expect("the other one goes");
}

#[test]
fn pins_that_are_hidden_are_laid_bare() {
    drop(found_and_mended("ebpf", MOUNTS));
}

#[test]
fn who_only_plans_leaves_what_hides_the_pins() {
    let host = network("ebpf");
    mount_over(&host);
    let verbs = ["switch netbpf0 --datapath ebpf --dry-run", "up --dry-run", "upgrade --dry-run"];
    for verb in verbs {
        host.netbpf(verb).ok().says("nothing to do");
        finds(&host, verb, &[("/sys/fs/bpf", "another BPF file system is mounted over")]);
    }
    host.netbpf("down").ok();
}

/// Nobody's pins are taken away.
#[test]
fn a_file_system_that_others_use_stays_over_the_pins() {
    let host = network("ebpf");
    mount_over(&host);
    let others = "/sys/fs/bpf/others";
    host.sandbox().run(|| fs::create_dir(others)).expect("a directory");
    finds(&host, "in use", &[("/sys/fs/bpf", "another BPF file system is mounted over")]);
    host.netbpf("check").exits(3).says("umount /sys/fs/bpf");
    for verb in ["up", "down"] {
        host.netbpf(verb).exits(1).complains("in which something is pinned");
    }
    host.sandbox().run(|| fs::remove_dir(others)).expect("it goes");
    host.netbpf("down").ok();
}

/// What cannot be had again is loaded anew.
#[test]
fn a_datapath_of_which_nothing_is_left_is_loaded_anew() {
    let host = network("ebpf");
    host.sandbox().run(|| fs::remove_dir_all("/sys/fs/bpf/netbpf")).expect("remove the pins");
    finds(&host, "no pins", &[("datapath", "not loaded")]);
    mend(&host);
    finds(&host, "no pins", &[]);
    works(&host, "no pins");
}
