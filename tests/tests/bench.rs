//! `netbpf bench`: all of it in tiny rounds. Whether the numbers are there and
//! plausible is judged, never how large they are: that is for a quiet machine.

use std::collections::BTreeSet;

use netbpf::bench::{Contender, Key, Metric, Mode, Report, Way};
use netbpf_tests::{Host, Sandbox};
use nix::mount::{MsFlags, mount};

/// The report of a bench, which must have left the host as it was.
fn bench(host: &Host, arguments: &str) -> Report {
    let outcome = host.netbpf(&format!("bench --tiny -o json {arguments}")).ok();
    let report = serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {outcome}"));
    host.assert_as_before();
    report
}

/// Each contender of each way has this number, and no packet got lost.
fn assert_all(report: &Report, mode: Mode, way: Way, case: &str, all: &[Contender], of: &[Metric]) {
    for &contender in all {
        for &metric in of {
            let key = Key { mode, way: Some(way), case: case.into(), contender, metric };
            let row = report.row(&key).unwrap_or_else(|| panic!("there is no {key:?}"));
            assert!(row.stats.median > 0.0 && row.stats.median.is_finite(), "{row:?}");
            assert!(row.stats.min <= row.stats.median && row.stats.median <= row.stats.max);
            assert!(!row.is_doubtful(), "packets got lost: {row:?}");
        }
    }
}

#[test]
fn packets_and_flows_arrive_by_every_contender() {
    let host = Host::new();
    let report = bench(&host, "pps flows");
    for way in Way::ALL {
        let all = way.in_kernel();
        assert_all(&report, Mode::Pps, way, "1 flow", all, &[Metric::NsPerPacket]);
    }
    for way in [Way::NsToOutside, Way::OutsideToNs] {
        for case in ["1 flow", "1000 flows"] {
            assert_all(&report, Mode::Flows, way, case, way.in_kernel(), &[Metric::NsPerPacket]);
        }
    }
    let measured = report.goals.iter().filter(|goal| goal.measured.is_some()).count();
    assert!(measured >= 6, "goals that look at packets are judged: {:?}", report.goals);
}

#[test]
fn new_flows_and_connections_are_counted() {
    let host = Host::new();
    let report = bench(&host, "cps");
    let udp = [Contender::Netbpf, Contender::Iptables];
    for way in [Way::NsToOutside, Way::OutsideToNs] {
        assert_all(&report, Mode::Cps, way, "udp", &udp, &[Metric::NsPerFlow]);
    }
    for way in Way::ALL {
        let all = way.of_sockets();
        assert_all(&report, Mode::Cps, way, "tcp", all, &[Metric::ConnectionsPerSecond]);
    }
}

#[test]
fn sockets_stream_and_exchange() {
    let host = Host::new();
    let report = bench(&host, "stream rr");
    let waits = [Metric::P50Us, Metric::P90Us, Metric::P99Us, Metric::P999Us];
    for way in Way::ALL {
        let all = way.of_sockets();
        for case in ["1 conn, 128 KiB writes", "2 conn, 256 B writes"] {
            assert_all(&report, Mode::Stream, way, case, all, &[Metric::GbitPerSecond]);
        }
        for case in ["tcp", "udp"] {
            assert_all(&report, Mode::Rr, way, case, all, &waits);
            for &contender in all {
                let wait = |metric| {
                    let case = case.into();
                    let key = Key { mode: Mode::Rr, way: Some(way), case, contender, metric };
                    report.row(&key).expect("was looked at before").stats.median
                };
                let quantiles = waits.map(wait);
                assert!(quantiles.is_sorted(), "{contender} {way} {case}: {quantiles:?}");
            }
        }
    }
}

#[test]
fn programs_and_commands_are_measured() {
    let host = Host::new();
    let report = bench(&host, "prog control");
    let cases = |metric| -> BTreeSet<&str> {
        let rows = report.rows.iter().filter(|row| row.key.metric == metric);
        rows.map(|row| row.key.case.as_str()).collect()
    };
    let runs = cases(Metric::NsPerRun);
    let of_a_range = "from_uplink, first packet to 20,000 published ports";
    for case in ["nothing", "from_endpoint, SNAT", "from_uplink, DNAT", of_a_range] {
        assert!(runs.contains(case), "{case} is not among {runs:?}");
    }
    for metric in [Metric::Instructions, Metric::StackBytes] {
        let programs = cases(metric);
        for program in ["from_endpoint", "from_uplink", "to_uplink", "rare"] {
            assert!(programs.contains(program), "{program} is not among {programs:?}");
        }
    }
    let stack = report.rows.iter().filter(|row| row.key.metric == Metric::StackBytes);
    stack.for_each(|row| assert!((1.0..=512.0).contains(&row.stats.median), "{row:?}"));
    let seconds = cases(Metric::Seconds);
    for case in ["up 3", "down 3", "list 1000 flows, json", "list 1000 flows, table"] {
        assert!(seconds.contains(case), "{case} is not among {seconds:?}");
    }
    let memory = report.rows.iter().find(|row| row.key.metric == Metric::BytesPerFlow);
    let memory = memory.expect("a flow costs something").stats.median;
    // Both entries of 128 bytes, at least.
    assert!(memory > 256.0, "{memory} bytes");
}

#[test]
fn the_parts_of_a_way_are_measured() {
    let host = Host::new();
    let report = bench(&host, "parts");
    for (way, most) in [(Way::NsToNs, 6), (Way::NsToOutside, 13)] {
        let of = |metric| -> Vec<&str> {
            let rows = report.rows.iter().filter(|row| {
                row.key.way == Some(way) && row.key.metric == metric && row.key.mode == Mode::Parts
            });
            rows.map(|row| row.key.case.as_str()).collect()
        };
        let all = of(Metric::NsPerPacket);
        assert_eq!(all.len(), most, "{all:?}");
        assert_eq!(of(Metric::NsAdded), all[1..], "all but the first add to another");
        for case in all {
            let metric = [Metric::NsPerPacket];
            assert_all(&report, Mode::Parts, way, case, &[Contender::Netbpf], &metric);
        }
    }
}

#[test]
fn reports_are_saved_plotted_and_compared() {
    let host = Host::new();
    let dir = std::env::temp_dir().join(format!("netbpf-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    let (json, svg) = (path("one.json"), path("one.svg"));
    let table = host.netbpf(&format!("bench --tiny pps flows --save {json} --plot {svg}")).ok();
    table.says("MEDIAN").says("bridge-nf").says("outside-to-ns").says("GOAL");
    let picture = std::fs::read_to_string(&svg).unwrap();
    assert!(picture.contains("namespace to outside (SNAT)"), "{picture}");
    // A report is the same as itself.
    let same = host.netbpf(&format!("bench compare {json} {json}")).ok();
    assert!(!same.stdout.contains("worse") && same.stdout.contains("are the same"), "{same}");
    let found = host.json(&format!("bench compare {json} {json}"));
    assert!(found["changes"].as_array().is_some_and(|all| !all.is_empty()), "{found}");
    std::fs::write(&json, "{}").unwrap();
    host.netbpf(&format!("bench compare {json} {json}")).exits(2).complains("no report");
    host.netbpf(&format!("bench compare {json} /nowhere")).exits(2);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Puts nothing in the place of each iptables, in a sandbox's own mounts.
fn hide_iptables(sandbox: &Sandbox) {
    let none = None::<&str>;
    sandbox.run(|| {
        for name in ["iptables", "iptables-nft", "iptables-legacy"] {
            // One program goes by all names of a kind.
            let Ok(path) = std::fs::canonicalize(format!("/usr/sbin/{name}-save")) else {
                continue;
            };
            if path.is_file() {
                mount(Some("/dev/null"), &path, none, MsFlags::MS_BIND, none).unwrap();
            }
        }
    });
}

#[test]
fn without_iptables_its_part_is_left_out_and_said_so() {
    let sandbox = Sandbox::new();
    hide_iptables(&sandbox);
    let host = Host::within(&sandbox);
    let report = bench(&host, "pps");
    let who: BTreeSet<Contender> = report.rows.iter().map(|row| row.key.contender).collect();
    assert_eq!(
        who.into_iter().collect::<Vec<_>>(),
        [Contender::Netbpf, Contender::Bridge, Contender::Limit, Contender::Generator]
    );
    let said = report.notes.iter().any(|note| note.starts_with("iptables is left out: "));
    assert!(said, "{:?}", report.notes);
}
