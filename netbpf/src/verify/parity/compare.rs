//! Whether two datapaths have done the same.

use std::fmt;

use super::{
    capture::{Arrival, whole},
    normalise::{Names, Seen, Stations},
    scenario::Scenario,
    stage::Place,
};

/// What came out of one datapath that did not come out of the other, as one
/// difference: a packet that differs, or one that only one side has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// What came out of the reference.
    pub reference: Option<Seen>,
    /// What came out of the eBPF datapath.
    pub ebpf: Option<Seen>,
}

/// What came out in a scenario, in words that can be compared.
#[must_use]
pub fn outcome(scenario: &Scenario, stations: &Stations, arrivals: Vec<Arrival>) -> Vec<Seen> {
    let mut names = Names::new(scenario, stations);
    let mut seen: Vec<Seen> = whole(arrivals).iter().map(|arrival| names.seen(arrival)).collect();
    seen.sort();
    seen
}

/// What has come to somebody on both sides.
#[derive(Debug)]
pub struct Common {
    /// Each packet as it has come by the reference and by eBPF, in order.
    pub pairs: Vec<(Arrival, Arrival)>,
    /// Whether nothing has come on one side only after all of them.
    pub is_last: bool,
}

/// What has come to a place on both sides, the same but for what may differ.
#[must_use]
pub fn common(scenario: &Scenario, place: Place, sides: [(&Stations, &[Arrival]); 2]) -> Common {
    let [reference, ebpf] = sides.map(|(stations, arrivals)| {
        let mut names = Names::new(scenario, stations);
        let all = whole(arrivals.to_vec()).into_iter();
        let all = all.map(|arrival| (names.seen(&arrival), arrival));
        all.filter(|(seen, _)| seen.place == place).collect::<Vec<_>>()
    });
    let mut left: Vec<_> = ebpf.into_iter().map(Some).collect();
    let mut pairs = Vec::new();
    let mut is_last = true;
    for (seen, arrival) in reference {
        let same = left.iter_mut().find(|other| {
            other.as_ref().is_some_and(|(other, _)| seen.same(other) || is_port_only(&seen, other))
        });
        is_last = same.is_some();
        pairs.extend(same.and_then(Option::take).map(|(_, other)| (arrival, other)));
    }
    is_last &= left.last().is_none_or(Option::is_none);
    Common { pairs, is_last }
}

/// Whether two packets differ in nothing but the outside port that was chosen.
#[must_use]
pub fn is_port_only(one: &Seen, other: &Seen) -> bool {
    let is_chosen = |seen: &Seen| seen.fields.iter().any(|(_, value)| value.starts_with("<port"));
    let is_port = |name: &str| name.ends_with("port") || name.ends_with("icmp.id");
    one.place == other.place
        && (is_chosen(one) || is_chosen(other))
        && differing(one, other).iter().all(|name| is_port(name))
}

/// The names of all fields in which two packets differ.
#[must_use]
pub fn differing<'a>(one: &'a Seen, other: &'a Seen) -> Vec<&'a str> {
    let only = |from: &'a Seen, to: &'a Seen| {
        let only = from.fields.iter().filter(|field| !to.fields.contains(field));
        only.map(|(name, _)| name.as_str())
    };
    let mut names: Vec<&str> = only(one, other).chain(only(other, one)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// All differences between two outcomes. In which order things have come is none.
#[must_use]
pub fn differences(reference: &[Seen], ebpf: &[Seen]) -> Vec<Difference> {
    let mut left: Vec<&Seen> = reference.iter().collect();
    let mut right: Vec<&Seen> = ebpf.iter().collect();
    // What looks the same may have come of several steps.
    for is_late in [false, true] {
        let same =
            |seen: &Seen, other: &Seen| seen.same(other) && (is_late || seen.step == other.step);
        left.retain(|seen| match right.iter().position(|other| same(seen, other)) {
            Some(at) => {
                right.remove(at);
                false
            }
            None => true,
        });
    }
    let mut found: Vec<Difference> = Vec::new();
    for seen in left {
        let likeness = |other: &&Seen| likeness(seen, other);
        let best = right.iter().enumerate().max_by_key(|(_, other)| likeness(other));
        let at = best.filter(|(_, other)| likeness(other) > 0).map(|(at, _)| at);
        let other = at.map(|at| right.remove(at).clone());
        found.push(Difference { reference: Some(seen.clone()), ebpf: other });
    }
    found.extend(
        right.into_iter().map(|seen| Difference { reference: None, ebpf: Some(seen.clone()) }),
    );
    found
}

/// How much two packets have in common; nothing if they are hardly the same one.
fn likeness(one: &Seen, other: &Seen) -> usize {
    let same = |name: &str| one.field(name) == other.field(name);
    let kind = ["ip.proto", "eth.type", "icmp.type", "tcp.flags", "data"];
    let is_part = |seen: &Seen| seen.field("ip.fragment").is_some_and(|text| text != "0x4000");
    // Who has said it himself has given it a number.
    let id = |seen: &Seen| {
        let id = seen.field("ip.id").filter(|id| !matches!(*id, "<id>" | "0x0000"));
        id.map(str::to_owned)
    };
    let is_another = id(one).zip(id(other)).is_some_and(|(one, other)| one != other);
    if one.place != other.place
        || is_another
        || !kind.iter().all(|name| same(name))
        || is_part(one) != is_part(other)
    {
        return 0;
    }
    let common = one.fields.iter().filter(|field| other.fields.contains(field)).count();
    // More than half of it.
    if common * 2 > one.fields.len() { common + usize::from(one.step == other.step) } else { 0 }
}

/// As a person reads it: what is the same once, what differs twice, that of the
/// reference with a minus, that of the eBPF datapath with a plus.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, sign: char, fields: &[&(String, String)]| {
            let text: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
            writeln!(f, "    {sign} {}", text.join(" "))
        };
        match (&self.reference, &self.ebpf) {
            (Some(one), Some(other)) => {
                let same = |field: &&(String, String)| other.fields.contains(field);
                let only_one: Vec<_> = one.fields.iter().filter(|field| !same(field)).collect();
                let only_other: Vec<_> =
                    other.fields.iter().filter(|field| !one.fields.contains(field)).collect();
                writeln!(f, "  at {}, after step {}: it differs", one.place, one.step + 1)?;
                line(f, ' ', &one.fields.iter().filter(same).collect::<Vec<_>>())?;
                line(f, '-', &only_one)?;
                line(f, '+', &only_other)
            }
            (Some(seen), None) => {
                writeln!(f, "  at {}, after step {}: only by iptables", seen.place, seen.step + 1)?;
                line(f, '-', &seen.fields.iter().collect::<Vec<_>>())
            }
            (None, Some(seen)) => {
                writeln!(f, "  at {}, after step {}: only by eBPF", seen.place, seen.step + 1)?;
                line(f, '+', &seen.fields.iter().collect::<Vec<_>>())
            }
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::{packet::Ip, scenario::Step};
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(172, 19, 0, 2);
    const B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

    fn run(arrivals: &[(Place, Ip)]) -> Vec<Seen> {
        let steps = vec![Step::packet(Place::Ns(1), Ip::new(A, B, 7).udp(1000, 2000, b"data"))];
        let scenario = Scenario { number: 1, slot: 1, name: String::new(), steps };
        let arrivals = arrivals.iter().map(|(place, ip)| Arrival {
            step: 0,
            place: *place,
            link: None,
            bytes: ip.udp(1000, 2000, b"data"),
            pending: false,
            in_parts: false,
        });
        outcome(&scenario, &Stations::new(), arrivals.collect())
    }

    #[test]
    fn the_same_in_another_order_is_the_same() {
        let one = (Place::Outside, Ip::new(A, B, 7));
        let two = (Place::Ns(2), Ip::new(A, B, 7));
        let (there, back) = (run(&[one.clone(), two.clone()]), run(&[two, one]));
        assert_eq!(differences(&there, &back), []);
    }

    #[test]
    fn a_field_that_differs_is_shown() {
        let one = run(&[(Place::Outside, Ip::new(A, B, 7))]);
        let other = run(&[(Place::Outside, Ip { ttl: 63, ..Ip::new(A, B, 7) })]);
        let found = differences(&one, &other);
        assert_eq!(found.len(), 1);
        let text = found[0].to_string();
        assert!(text.contains("- ip.ttl=64\n") && text.contains("+ ip.ttl=63\n"), "{text}");
    }

    #[test]
    fn a_packet_too_many_or_elsewhere_is_found() {
        let one = run(&[(Place::Outside, Ip::new(A, B, 7))]);
        let twice = run(&[(Place::Outside, Ip::new(A, B, 7)), (Place::Outside, Ip::new(A, B, 7))]);
        let found = differences(&one, &twice);
        assert!(matches!(&found[..], [Difference { reference: None, ebpf: Some(_) }]), "{found:?}");
        let elsewhere = run(&[(Place::Ns(1), Ip::new(A, B, 7))]);
        assert_eq!(differences(&one, &elsewhere).len(), 2);
    }
}
