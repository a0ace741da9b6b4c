//! Reports for tests.

use std::collections::BTreeMap;

use super::{
    Contender, Key, MachineInfo, Metric, Mode, REPORT_VERSION, Report, Row, Stats, Way, judge,
};

/// A row of the first mode.
pub(super) fn row(contender: Contender, metric: Metric, rounds: &[f64]) -> Row {
    let key = Key {
        mode: Mode::Pps,
        way: Some(Way::NsToNs),
        case: "1 flow".to_owned(),
        contender,
        metric,
    };
    Row { key, stats: Stats::of(rounds).expect("rounds"), loss: Some(0.0), cpus: Some(1.0) }
}

/// A report of these rows, by a machine that is always the same.
pub(super) fn report(rows: Vec<Row>) -> Report {
    Report {
        report_version: REPORT_VERSION,
        date: "2024-02-29T12:00:00Z".to_owned(),
        seconds: 60.0,
        command: "netbpf bench".to_owned(),
        machine: MachineInfo {
            kernel: "6.12.0 #1".to_owned(),
            arch: "x86_64".to_owned(),
            cpu: "A CPU".to_owned(),
            cpus: 2,
            governor: None,
            virtual_machine: true,
            memory: 8 << 30,
            load: "0.10".to_owned(),
            netbpf: "0.1.0".to_owned(),
            iptables: None,
            sysctls: BTreeMap::new(),
        },
        notes: Vec::new(),
        goals: judge(&rows),
        rows,
    }
}

/// A report with all that a plot shows.
pub(super) fn full() -> Report {
    let mut rows = Vec::new();
    for way in Way::ALL {
        for (n, contender) in (1_u32..).zip(way.in_kernel()) {
            let mut one = row(*contender, Metric::NsPerPacket, &[150.0 * f64::from(n)]);
            one.key.way = Some(way);
            rows.push(one);
        }
    }
    for flows in [1_u32, 1000, 1_000_000] {
        for (n, contender) in (1_u32..).zip(Way::NsToOutside.in_kernel()) {
            let ns = 150.0 * f64::from(n) + f64::from(flows).ln() * 20.0;
            let mut one = row(*contender, Metric::NsPerPacket, &[ns]);
            let case = super::pps::case(flows);
            one.key =
                Key { mode: Mode::Flows, way: Some(Way::NsToOutside), case, ..one.key.clone() };
            rows.push(one);
        }
    }
    report(rows)
}
