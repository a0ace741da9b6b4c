//! What netbpf wants to be measured by, as ratios within one run.

use serde::{Deserialize, Serialize};

use super::{
    contender::{Contender, Way},
    pps,
    report::{Key, Metric, Mode, Row},
};

/// A goal, and what was reached.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Goal {
    /// What is compared with what.
    pub about: String,
    /// What was measured; nothing if a part of it was not.
    pub measured: Option<f64>,
    /// What is wanted.
    pub wanted: f64,
    /// Whether the number is to be at most what is wanted, not at least.
    pub at_most: bool,
    /// Its unit: "x" for ratios.
    pub unit: String,
}

impl Goal {
    /// Whether it is reached; nothing if that was not measured.
    #[must_use]
    pub fn is_reached(&self) -> Option<bool> {
        let measured = self.measured?;
        Some(if self.at_most { measured <= self.wanted } else { measured >= self.wanted })
    }
}

/// Which row a goal looks at.
fn key(mode: Mode, way: Way, case: &str, contender: Contender, metric: Metric) -> Key {
    Key { mode, way: Some(way), case: case.to_owned(), contender, metric }
}

/// All goals, in the light of these rows.
#[must_use]
pub fn judge(rows: &[Row]) -> Vec<Goal> {
    let median = |key: &Key| rows.iter().find(|row| row.key == *key).map(|row| row.stats.median);
    let mut goals = Vec::new();
    let mut add = |about: &str, measured: Option<f64>, wanted: f64, at_most: bool, unit: &str| {
        let (about, unit) = (about.to_owned(), unit.to_owned());
        goals.push(Goal { about, measured, wanted, at_most, unit });
    };
    let ratio = |one: &Key, other: &Key| Some(median(one)? / median(other)?);

    let packet = |mode, way, case: &str, who| key(mode, way, case, who, Metric::NsPerPacket);
    let one = pps::case(1);
    let in_pps = |way, who| packet(Mode::Pps, way, &one, who);
    let netbpf = |way| in_pps(way, Contender::Netbpf);
    for (way, other, wanted, about) in [
        (
            Way::NsToNs,
            Contender::BridgeNf,
            3.3,
            "ns to ns: bridge with bridge-nf-call-iptables=1 / netbpf",
        ),
        (Way::NsToNs, Contender::Bridge, 1.6, "ns to ns: bare bridge / netbpf"),
        (Way::NsToOutside, Contender::Iptables, 3.1, "SNAT, 1 flow: iptables MASQUERADE / netbpf"),
        (Way::OutsideToNs, Contender::Iptables, 2.8, "DNAT, 1 flow: iptables DNAT / netbpf"),
    ] {
        add(about, ratio(&in_pps(way, other), &netbpf(way)), wanted, false, "x");
    }
    let in_flows = |flows, who| packet(Mode::Flows, Way::NsToOutside, &pps::case(flows), who);
    add(
        "SNAT, 200,000 flows: iptables MASQUERADE / netbpf",
        ratio(&in_flows(200_000, Contender::Iptables), &in_flows(200_000, Contender::Netbpf)),
        2.9,
        false,
        "x",
    );
    for (way, about) in [
        (Way::NsToNs, "ns to ns: netbpf / redirect_peer without look-up"),
        (Way::NsToOutside, "SNAT, 1 flow: netbpf / redirect without look-up"),
    ] {
        add(about, ratio(&netbpf(way), &in_pps(way, Contender::Limit)), 1.15, true, "x");
    }
    add(
        "SNAT: netbpf with 1,000,000 flows / with 1",
        ratio(&in_flows(1_000_000, Contender::Netbpf), &in_flows(1, Contender::Netbpf)),
        2.3,
        true,
        "x",
    );
    let new = |who| key(Mode::Cps, Way::NsToOutside, "udp", who, Metric::NsPerFlow);
    add(
        "new flows, SNAT: iptables MASQUERADE / netbpf",
        ratio(&new(Contender::Iptables), &new(Contender::Netbpf)),
        2.0,
        false,
        "x",
    );
    for case in ["tcp", "udp"] {
        for (metric, name, wanted) in [(Metric::P50Us, "p50", 1.05), (Metric::P99Us, "p99", 1.15)] {
            let rr = |who| key(Mode::Rr, Way::NsToNs, case, who, metric);
            add(
                &format!("{case} request-response {name}, ns to ns: netbpf / direct veth pair"),
                ratio(&rr(Contender::Netbpf), &rr(Contender::Veth)),
                wanted,
                true,
                "x",
            );
        }
    }
    let stream =
        |who| key(Mode::Stream, Way::NsToNs, super::stream::FIRST_CASE, who, Metric::GbitPerSecond);
    add(
        "TCP stream, ns to ns: direct veth pair / netbpf",
        ratio(&stream(Contender::Veth), &stream(Contender::Netbpf)),
        1.05,
        true,
        "x",
    );
    let control = |case: &str, metric| Key {
        mode: Mode::Control,
        way: None,
        case: case.to_owned(),
        contender: Contender::Netbpf,
        metric,
    };
    for (case, wanted) in [("up 3", 0.15), ("down 3", 0.15), ("up 1000", 3.0), ("down 1000", 3.0)] {
        let measured = median(&control(case, Metric::Seconds));
        add(&format!("{case} namespaces"), measured, wanted, true, "s");
    }
    add(
        "kernel memory per flow",
        median(&control("memory", Metric::BytesPerFlow)),
        320.0,
        true,
        "bytes",
    );
    goals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::stats::Stats;

    fn row(contender: Contender, ns: f64) -> Row {
        let key = key(Mode::Pps, Way::NsToNs, &pps::case(1), contender, Metric::NsPerPacket);
        let stats = Stats::of(&[ns]).expect("a round");
        Row { key, stats, loss: Some(0.0), cpus: None }
    }

    #[test]
    fn a_goal_is_a_ratio_of_two_rows() {
        let rows = [
            row(Contender::Netbpf, 200.0),
            row(Contender::BridgeNf, 700.0),
            row(Contender::Limit, 150.0),
        ];
        let goals = judge(&rows);
        assert_eq!(goals[0].measured, Some(3.5));
        assert_eq!(goals[0].is_reached(), Some(true));
        let limit = goals.iter().find(|goal| goal.about.contains("redirect_peer")).expect("a goal");
        assert_eq!(limit.is_reached(), Some(false), "{limit:?}");
        assert_eq!(goals[1].is_reached(), None, "there is no bare bridge among the rows");
    }
}
