//! The scenarios that have names: what every network must do right.

mod conversations;
mod errors;
mod forged;
mod isolated;
mod odd;
mod sizes;

use std::net::Ipv4Addr;

use conversations::{
    belongs_to_nothing, connection, connection_from_host, kernels_at_the_host, kernels_inside,
    kernels_outside, late, loopback_only_from_outside, ping, reset_beside_the_window, udp,
};
use errors::{error_from_a_router, errors, errors_about_a_segment, errors_about_an_echo};
use forged::{
    arp, broadcast, forged_arp, forged_macs, forged_sources, ipv6, private_from_outside, tags,
    unknown_mac,
};
use odd::{
    broken, flags, fragmented, no_checksum, options, others, times_to_live, wrong_checksums,
};
use sizes::{too_large_in, too_large_out, trains, trains_too_large};

use super::{
    packet::proto,
    scenario::Scenario,
    script::{Script, Way},
    stage::{self, GATEWAY, Place, UPLINK, address},
};

/// What a named scenario does.
type Play = fn(&mut Script);

/// All named scenarios.
const ALL: &[(&str, Play)] = &[
    ("UDP out and back", |s| udp(s, out)),
    ("ping out and back", |s| ping(s, out)),
    ("a connection out", |s| connection(s, out)),
    ("UDP in and back", |s| udp(s, inward)),
    ("a connection in", |s| connection(s, inward)),
    ("UDP by the host's address to another namespace", |s| udp(s, hairpin)),
    ("a connection by the host's address to another namespace", |s| connection(s, hairpin)),
    ("UDP by the host's address to oneself", |s| udp(s, self_hairpin)),
    ("a connection by the host's address to oneself", |s| connection(s, self_hairpin)),
    ("UDP among namespaces", |s| udp(s, bridged)),
    ("a connection among namespaces", |s| connection(s, bridged)),
    ("UDP from the host by the uplink's address", |s| udp(s, host_by_uplink)),
    ("a connection from the host by 127.0.0.1", |s| connection_from_host(s, host_by_loopback)),
    ("UDP from the host by 127.0.0.1", |s| udp(s, host_by_loopback)),
    ("UDP from the host to what is on 127.0.0.1 only", |s| udp(s, host_to_loopback_only)),
    ("UDP from the host to a namespace", |s| udp(s, host_direct)),
    ("a kernel answers outside", kernels_outside),
    ("a kernel answers in a namespace", kernels_inside),
    ("a kernel answers at the host", kernels_at_the_host),
    ("what is on 127.0.0.1 only is not reached from outside", loopback_only_from_outside),
    ("what belongs to nothing", belongs_to_nothing),
    ("late packets of a connection that has ended", late),
    ("a reset that lies beside the window", reset_beside_the_window),
    ("errors about a UDP packet that went out", |s| errors(s, out)),
    ("errors about a UDP packet that came in", |s| errors(s, inward)),
    ("errors about a hairpinned packet", |s| errors(s, hairpin)),
    ("errors about a segment", errors_about_a_segment),
    ("errors about an echo request", errors_about_an_echo),
    ("an error from a router between", error_from_a_router),
    ("time to live out", |s| times_to_live(s, out)),
    ("time to live in", |s| times_to_live(s, inward)),
    ("time to live by the host's address", |s| times_to_live(s, hairpin)),
    ("fragments out", |s| fragmented(s, out)),
    ("fragments in", |s| fragmented(s, inward)),
    ("too large for a namespace", too_large_in),
    ("too large for the path out", |s| too_large_out(s, narrow)),
    ("too large for the path of an answer", |s| too_large_out(s, narrow_inward)),
    ("trains of segments", trains),
    ("trains of segments that are too large", trains_too_large),
    ("options out and in", options),
    ("protocols without ports", |s| others(s, &[proto::GRE, proto::ESP, 253])),
    ("protocols with ports", |s| others(s, &[proto::SCTP, proto::DCCP, proto::UDP_LITE])),
    ("UDP without a checksum", no_checksum),
    ("wrong checksums", wrong_checksums),
    ("all flags of TCP", flags),
    ("sources that are not one's own", forged_sources),
    ("MACs that are not one's own", forged_macs),
    ("forged ARP", forged_arp),
    ("ARP", arp),
    ("broadcast and multicast", broadcast),
    ("a MAC that nobody has", unknown_mac),
    ("VLAN tags", tags),
    ("IPv6 among namespaces", ipv6),
    ("private addresses from outside", private_from_outside),
    ("runts and broken headers", broken),
];

/// Those that are played where namespaces are isolated, but for `ns3` and `ns4`.
const ISOLATED: &[(&str, Play)] = &[
    ("isolated: UDP to an allowed namespace", |s| udp(s, bridged)),
    ("isolated: a connection to an allowed namespace", |s| connection(s, bridged)),
    ("isolated: UDP to another namespace", |s| udp(s, isolated::apart)),
    ("isolated: a connection to another namespace", |s| connection(s, isolated::apart)),
    ("isolated: kernels that would answer", isolated::kernels),
    ("isolated: by the gateway", isolated::by_the_gateway),
    ("isolated: frames of all kinds", isolated::frames),
    ("isolated: ARP", arp),
    ("isolated: IPv6", isolated::ipv6),
    ("isolated: the host", isolated::host),
    ("isolated: UDP out and back", |s| udp(s, out)),
    ("isolated: a connection in", |s| connection(s, inward)),
    ("isolated: a connection by the host's address", |s| connection(s, hairpin)),
    ("isolated: UDP by the host's address to oneself", |s| udp(s, self_hairpin)),
    ("isolated: a connection from the host by 127.0.0.1", |s| {
        connection_from_host(s, host_by_loopback);
    }),
];

/// How many have names.
#[must_use]
pub fn count() -> u32 {
    u32::try_from(ALL.len() + ISOLATED.len()).unwrap_or_default()
}

/// Of those without names, one in so many is played where namespaces are isolated.
const ISOLATED_SHARE: u32 = 4;

/// Whether the scenario of that number is played where namespaces are isolated.
#[must_use]
pub fn is_isolated(number: u32) -> bool {
    let named = u32::try_from(ALL.len()).unwrap_or_default();
    if number < count() { number >= named } else { number.is_multiple_of(ISOLATED_SHARE) }
}

/// The named scenario of that number, for that slot of a stage; nothing if fewer
/// have names.
#[must_use]
pub fn scenario(number: u32, slot: u16) -> Option<Scenario> {
    let (name, play) = ALL.iter().chain(ISOLATED).nth(usize::try_from(number).ok()?)?;
    let mut script = Script::new(name, number, slot, 0);
    play(&mut script);
    Some(script.end())
}

/// `ns3` to a far machine.
pub(super) fn out(s: &Script) -> Way {
    let (src, dst) = (address(3), s.far());
    Way { from: Place::Ns(3), src, dst, dport: 53, to: Some(Place::Outside) }
}

/// `ns3` to a far machine behind a narrow path.
pub(super) fn narrow(s: &Script) -> Way {
    Way { dst: s.far_narrow(), ..out(s) }
}

/// A far machine behind a narrow path to a published port of `ns3`.
pub(super) fn narrow_inward(s: &Script) -> Way {
    Way { src: s.far_narrow(), ..inward(s) }
}

/// A far machine to a published port of `ns3`.
pub(super) fn inward(s: &Script) -> Way {
    let (src, dport) = (s.far(), stage::PUBLISHED_SILENT + 5);
    Way { from: Place::Outside, src, dst: UPLINK, dport, to: Some(Place::Ns(3)) }
}

/// `ns4` to a published port of `ns3`.
pub(super) fn hairpin(_: &Script) -> Way {
    let (src, dport) = (address(4), stage::PUBLISHED_SILENT + 6);
    Way { from: Place::Ns(4), src, dst: UPLINK, dport, to: Some(Place::Ns(3)) }
}

/// `ns3` to a published port of its own.
pub(super) fn self_hairpin(_: &Script) -> Way {
    let (src, dport) = (address(3), stage::PUBLISHED_SILENT + 7);
    Way { from: Place::Ns(3), src, dst: UPLINK, dport, to: Some(Place::Ns(3)) }
}

/// `ns3` to `ns4`; the frame is for its MAC.
pub(super) fn bridged(_: &Script) -> Way {
    let (src, dst) = (address(3), address(4));
    Way { from: Place::Ns(3), src, dst, dport: 53, to: Some(Place::Ns(4)) }
}

/// The host to a published port of `ns3`.
pub(super) fn host_by_uplink(_: &Script) -> Way {
    let dport = stage::PUBLISHED_SILENT + 8;
    Way { from: Place::Host, src: UPLINK, dst: UPLINK, dport, to: Some(Place::Ns(3)) }
}

/// The host to a published port of `ns3`, from and to 127.0.0.1.
pub(super) fn host_by_loopback(_: &Script) -> Way {
    let (addr, dport) = (Ipv4Addr::LOCALHOST, stage::PUBLISHED_SILENT + 9);
    Way { from: Place::Host, src: addr, dst: addr, dport, to: Some(Place::Ns(3)) }
}

/// The same, to a port that is published there only.
pub(super) fn host_to_loopback_only(_: &Script) -> Way {
    let (addr, dport) = (Ipv4Addr::LOCALHOST, stage::PUBLISHED_LOOPBACK);
    Way { from: Place::Host, src: addr, dst: addr, dport, to: Some(Place::Ns(3)) }
}

/// The host to `ns3` itself.
pub(super) fn host_direct(_: &Script) -> Way {
    let (src, dst) = (GATEWAY, address(3));
    Way { from: Place::Host, src, dst, dport: 53, to: Some(Place::Ns(3)) }
}

/// Who begins a conversation, given a script.
type Towards = fn(&Script) -> Way;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all() -> impl Iterator<Item = Scenario> {
        (0..count()).filter_map(|number| scenario(number, 7))
    }

    #[test]
    fn every_scenario_has_a_name_and_steps() {
        let all: Vec<Scenario> = all().collect();
        let names: BTreeSet<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.iter().all(|scenario| !scenario.steps.is_empty()));
    }

    #[test]
    fn the_host_sends_whole_packets_only() {
        for scenario in all() {
            for step in scenario.steps.iter().filter(|step| step.from == Place::Host) {
                assert!(step.ip().is_none_or(|packet| packet.len() >= 20), "{}", scenario.name);
            }
        }
    }
}
