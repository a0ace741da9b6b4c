//! The programs in the kernel: they do to the same frames what the simulation
//! does, their maps are those that are defined, and they fit their budget.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use aya::{
    TestRun as _, TestRunOptions,
    maps::{MapData, MapInfo},
    programs::SchedClassifier,
};
use netbpf::bpf::{CodeSize, Datapath, Hook, LoadOptions, LogLevel, code_sizes};
use netbpf_common::{Counters, DropReason, Endpoint, EndpointId, Flow, maps};
use netbpf_ebpf::{
    Verdict,
    sim::{
        Sim,
        testbed::{self, BRIDGE, GATEWAY, HOST, NAMESPACES, ROUTER, SUBNET, UPLINK, endpoint_id},
        vectors::{self, Place, Vector},
    },
};
use netbpf_tests::{Netns, Sandbox};

const PIN_DIR: &str = "/sys/fs/bpf/programs";
const MAX_FLOWS: u32 = 1024;

/// A TC code (`linux/pkt_cls.h`) as `BPF_PROG_TEST_RUN` returns it.
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// The testbed's network with real devices, of the same indices and MACs, so
/// that the kernel's routing table answers what the simulation's does.
fn machine() -> Netns {
    let sandbox = Sandbox::new();
    let ns = Netns::create(&sandbox, "machine");
    let up =
        format!("link add up0 index {UPLINK} address {} type veth peer name out0 index 3", HOST.0);
    ns.ip(&up);
    ns.ip(&format!("link add br0 index {BRIDGE} address {} type bridge", GATEWAY.0));
    for n in 1..=NAMESPACES {
        let port = testbed::port(n);
        ns.ip(&format!(
            "link add port{n} index {port} type veth peer name inside{n} index {}",
            20 + n
        ));
        ns.ip(&format!("link set port{n} up master br0"));
        // Copies of fragments are sent at once, and a device without a link refuses them.
        ns.ip(&format!("link set inside{n} up"));
    }
    for device in ["up0", "out0", "br0"] {
        ns.ip(&format!("link set {device} up"));
    }
    ns.ip(&format!("addr add {}/24 dev up0", HOST.1));
    ns.ip(&format!("addr add {}/24 dev br0", GATEWAY.1));
    ns.ip(&format!("neigh replace {} lladdr {} dev up0", ROUTER.1, ROUTER.0));
    ns.ip(&format!("route add default via {}", ROUTER.1));
    ns.sysctl("net/ipv4/ip_forward", "1");
    ns
}

/// Loads the datapath and fills its maps as the testbed's are.
fn load(sim: &Sim) -> Datapath {
    let options = LoadOptions { max_flows: MAX_FLOWS, log_level: LogLevel::Off };
    let datapath = Datapath::load(Path::new(PIN_DIR), &options).unwrap();
    for n in 1..=NAMESPACES {
        datapath.set_endpoint(endpoint_id(n), &sim.tables.endpoints[&endpoint_id(n)]).unwrap();
    }
    datapath.set_allowed(&[], &sim.tables.allowed).unwrap();
    datapath.set_gateway(GATEWAY.1, GATEWAY.0).unwrap();
    datapath.set_subnet(SUBNET, 24).unwrap();
    let uplink = testbed::uplink();
    datapath.set_uplink(UPLINK, &uplink).unwrap();
    datapath.set_published(&sim.tables.published).unwrap();
    datapath
}

fn program(name: &str) -> SchedClassifier {
    SchedClassifier::from_pin(format!("{PIN_DIR}/programs/{name}")).unwrap()
}

/// Runs a program of the kernel on a vector: its code, and the frame afterwards.
fn in_kernel(vector: &Vector) -> (u32, Vec<u8>) {
    let (name, ifindex) = match vector.place {
        Place::Namespace(n) => ("from_endpoint", testbed::port(n)),
        Place::Outside => ("from_uplink", UPLINK),
        Place::Stack => ("to_uplink", UPLINK),
        Place::Loopback => ("from_uplink", Flow::LOOPBACK),
    };
    // `struct __sk_buff`: zero but for the device.
    let mut context = [0; 192];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    let mut out = vec![0; vector.frame.len() + 64];
    let result = program(name)
        .test_run(TestRunOptions {
            data_in: Some(&vector.frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        })
        .unwrap_or_else(|e| panic!("{}: {e}", vector.name));
    out.truncate(usize::try_from(result.data_size_out).unwrap());
    (result.return_value, out)
}

/// Runs the simulation on a vector.
fn in_simulation(sim: &mut Sim, vector: &Vector) -> Result<Verdict, DropReason> {
    match vector.place {
        Place::Namespace(n) => sim.from_namespace(n, &vector.frame),
        Place::Outside => sim.from_outside(&vector.frame),
        Place::Stack => sim.from_stack(&vector.frame),
        Place::Loopback => sim.from_host(&vector.frame),
    }
    .result
}

/// The code of an outcome; a dropped packet that is answered goes back.
fn tc_code(result: Result<Verdict, DropReason>, answered: Option<Verdict>) -> u32 {
    match answered.map_or(result, Ok) {
        Ok(Verdict::Pass) => TC_ACT_UNSPEC,
        Ok(Verdict::Peer { .. } | Verdict::Uplink { .. } | Verdict::Neighbour { .. }) => {
            TC_ACT_REDIRECT
        }
        Ok(Verdict::Held | Verdict::Sent) | Err(_) => TC_ACT_SHOT,
        Ok(Verdict::Rare | Verdict::Prepare(_)) => unreachable!("goes on in another program"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn the_kernel_does_what_the_simulation_does() {
    does_the_same(0);
}

#[test]
fn the_kernel_does_what_the_simulation_does_where_namespaces_are_isolated() {
    does_the_same(Endpoint::ISOLATED);
}

#[test]
fn the_kernel_does_what_the_simulation_does_where_the_stack_forwards() {
    does_the_same(Endpoint::BY_STACK);
}

/// Runs all vectors in both, the endpoints having these flags.
fn does_the_same(flags: u8) {
    machine().run(|| {
        let mut sim = testbed::network(MAX_FLOWS);
        for endpoint in sim.tables.endpoints.values_mut() {
            endpoint.flags = flags;
        }
        let datapath = load(&sim);
        for vector in vectors::all() {
            let outcome = in_simulation(&mut sim, &vector);
            let simulated = &sim.skb.bytes;
            let (code, frame) = in_kernel(&vector);
            assert_eq!(code, tc_code(outcome, sim.env.answered), "{}: {outcome:?}", vector.name);
            // On the uplink the MACs may be left to the kernel's neighbour output,
            // at other times than in the simulation: its clock stands still.
            let is_out = matches!(outcome, Ok(Verdict::Uplink { .. } | Verdict::Neighbour { .. }));
            let from = if is_out { 14 } else { 0 };
            assert_eq!(hex(&frame[from..]), hex(&simulated[from..]), "{}", vector.name);
        }
        // Counters and flows of both have become the same.
        let stats = datapath_counters();
        for n in 0..=NAMESPACES {
            let id = EndpointId(u16::from(n));
            assert_eq!(stats(id), sim.tables.counters(id), "counters of endpoint {n}");
        }
        let mut flows = 0;
        datapath
            .for_each_flow(
                |_| true,
                |_| {
                    flows += 1;
                    Ok(())
                },
            )
            .unwrap();
        assert_eq!(flows, sim.tables.flows.len() / 2);
    });
}

/// Reads an endpoint's counters, summed up over the CPUs.
fn datapath_counters() -> impl Fn(EndpointId) -> Counters {
    let map = netbpf::bpf::PerCpuMap::<maps::Stats>::open(Path::new(PIN_DIR)).unwrap();
    move |id| {
        let mut sum = Counters::default();
        for cpu in map.get(&id.index()).unwrap().unwrap() {
            for (total, part) in sum.0.iter_mut().zip(cpu.0) {
                *total += part;
            }
        }
        sum
    }
}

#[test]
fn the_maps_are_those_that_are_defined() {
    fn check<D: maps::MapDef>(max_entries: u32) {
        let info: MapInfo = MapData::from_pin(format!("{PIN_DIR}/maps/{}", D::NAME))
            .and_then(|map| map.info())
            .unwrap_or_else(|e| panic!("{}: {e}", D::NAME));
        assert_eq!(info.name_as_str(), Some(D::NAME));
        assert_eq!(info.key_size() as usize, size_of::<D::Key>(), "key of {}", D::NAME);
        assert_eq!(info.value_size() as usize, size_of::<D::Value>(), "value of {}", D::NAME);
        assert_eq!(info.max_entries(), max_entries, "size of {}", D::NAME);
    }
    fn check_own<D: maps::MapDef>() {
        check::<D>(D::MAX_ENTRIES);
    }
    machine().run(|| {
        load(&testbed::network(MAX_FLOWS));
        check::<maps::Flows>(2 * MAX_FLOWS);
        check::<maps::FlowQueue>(maps::flow_queue_len(MAX_FLOWS));
        check_own::<maps::ConfigMap>();
        check_own::<maps::Endpoints>();
        check_own::<maps::EndpointIds>();
        check_own::<maps::BridgePorts>();
        check_own::<maps::Allowed>();
        check_own::<maps::Addresses>();
        check_own::<maps::Fdb>();
        check_own::<maps::FdbSlots>();
        check_own::<maps::FdbLearnt>();
        check_own::<maps::LearnCounts>();
        check_own::<maps::FlowCounts>();
        check_own::<maps::Publish>();
        check_own::<maps::PublishedPorts>();
        check_own::<maps::Uplinks>();
        check_own::<maps::NextHops>();
        check_own::<maps::Subnets>();
        check_own::<maps::Stats>();
        check_own::<maps::Clock>();
        check_own::<maps::Sweeper>();
        let pinned = std::fs::read_dir(format!("{PIN_DIR}/maps")).unwrap();
        let mut names: Vec<_> =
            pinned.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let mut defined: Vec<_> = maps::NAMES.iter().map(|name| (*name).to_owned()).collect();
        defined.push("AYA_LOGS".into());
        names.sort();
        defined.sort();
        assert_eq!(names, defined);
    });
}

#[test]
fn every_program_loads_with_every_log_level() {
    for log_level in [LogLevel::Off, LogLevel::Info, LogLevel::Trace] {
        machine().run(|| {
            let options = LoadOptions { max_flows: 16, log_level };
            let datapath = Datapath::load(Path::new(PIN_DIR), &options).unwrap();
            datapath.demand(Hook::ToUplinkL3).unwrap();
            Datapath::unload(Path::new(PIN_DIR)).unwrap();
        });
    }
}

/// What loading a program may take: its name and the instructions that the verifier
/// follows.
const VERIFIED: &str = include_str!("verified.txt");

#[test]
fn the_verifier_is_soon_done_with_every_program() {
    machine().run(|| {
        let datapath = load(&testbed::network(MAX_FLOWS));
        datapath.demand(Hook::ToUplinkL3).unwrap();
        let mut budgets = BTreeMap::new();
        for line in VERIFIED.lines().filter(|line| !line.starts_with('#')) {
            let (name, most) = line.split_once(' ').unwrap_or_else(|| panic!("no budget: {line}"));
            budgets.insert(name, most.parse::<u32>().unwrap_or_else(|e| panic!("{line}: {e}")));
        }
        let mut report = String::new();
        let mut is_off = false;
        for entry in std::fs::read_dir(format!("{PIN_DIR}/programs")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let info = program(&name).info().unwrap();
            let taken = info.verified_instruction_count().expect("kernel 5.16 or later");
            let most = budgets.remove(&*name).unwrap_or_default();
            // A budget that is far from what it is for guards nothing.
            let fits = taken <= most && taken >= most / 2;
            let mark = if fits { "" } else { " <- budget" };
            writeln!(report, "{name} {taken}/{most}{mark}").unwrap();
            is_off |= !fits;
        }
        print!("{report}");
        assert!(!is_off, "set tests/tests/verified.txt anew:\n{report}");
        assert!(budgets.is_empty(), "no such programs: {budgets:?}");
    });
}

/// Stack that a chain of calls may take (`MAX_BPF_STACK` of the kernel's `linux/filter.h`).
const MOST_STACK: usize = 512;

#[test]
fn no_chain_of_calls_takes_more_stack_than_linux_6_1_gives() {
    let sizes = code_sizes(netbpf::bpf::object()).expect("built with the datapath");
    let longest = sizes.iter().max_by_key(|(_, size)| size.chain).expect("functions");
    assert!(longest.1.chain > 256, "no calls are followed: {longest:?}");
    let over: Vec<_> = sizes.iter().filter(|(_, size)| size.chain > MOST_STACK).collect();
    assert!(over.is_empty(), "too long: {over:#?}");
}

/// What the programs and their functions may take: a part of the symbol's name
/// (the first line that fits counts), instructions, frame. A change of it is a
/// change to be seen in review.
const BUDGET: &str = include_str!("budget.txt");

#[test]
fn every_program_fits_its_budget() {
    let sizes = code_sizes(netbpf::bpf::object()).expect("built with the datapath");
    let mut report = String::new();
    let mut budgets = Vec::new();
    for line in BUDGET.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<_> = line.split_whitespace().collect();
        let [name, instructions, frame] = words[..] else { panic!("no budget: {line}") };
        let number = |word: &str| word.parse().unwrap_or_else(|e| panic!("{word}: {e}"));
        budgets.push((name, number(instructions), number(frame)));
    }
    // Where there are several of a kind, the largest counts.
    let mut taken: BTreeMap<usize, CodeSize> = BTreeMap::new();
    for (symbol, size) in &sizes {
        let Some(index) = budgets.iter().position(|(name, ..)| symbol.contains(name)) else {
            continue;
        };
        let most = taken.entry(index).or_default();
        most.instructions = most.instructions.max(size.instructions);
        most.frame = most.frame.max(size.frame);
    }
    let mut is_off = false;
    for (index, CodeSize { instructions: taken, frame: used, .. }) in taken {
        let (name, instructions, frame) = budgets[index];
        // A budget that is far from what it is for guards nothing.
        let is_tight = taken * 10 >= instructions * 8;
        let fits = taken <= instructions && used <= frame && is_tight;
        let mark = if fits { "" } else { " <- budget" };
        writeln!(report, "{name} {taken}/{instructions} {used}/{frame}{mark}").unwrap();
        is_off |= !fits;
    }
    print!("{report}");
    assert!(!is_off, "set tests/tests/budget.txt anew:\n{report}");
    for (name, ..) in budgets {
        assert!(sizes.keys().any(|symbol| symbol.contains(name)), "{name} is gone");
    }
}
