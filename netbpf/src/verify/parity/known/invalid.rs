//! What iptables' connection tracking takes for invalid: it says how many packets of
//! a step were. Those are not translated.

use super::{
    super::{compare::differing, decode::addr, normalise::Seen, packet::proto, stage::Place},
    Case, Only, Origin, Role, packets,
};

/// Of which a checksum, or the length, is wrong.
pub(super) fn wrong_checksum(case: &Case<'_>) -> bool {
    is_untranslated(case, |origin| packets::is_wrong(origin.packet))
}

/// Of which everything is right but where it lies.
pub(super) fn segment(case: &Case<'_>) -> bool {
    is_untranslated(case, |origin| {
        origin.packet.get(9) == Some(&proto::TCP) && !packets::is_wrong(origin.packet)
    })
}

/// Of protocols other than TCP, UDP and ICMP.
pub(super) fn other_protocol(case: &Case<'_>) -> bool {
    is_untranslated(case, |origin| {
        const NUMBERS: [u8; 4] = [proto::SCTP, proto::UDP_LITE, proto::GRE, proto::ICMPV6];
        origin.packet.get(9).is_some_and(|number| NUMBERS.contains(number))
    })
}

/// Whether it comes of a packet that iptables does not translate, of that kind:
///
/// - only eBPF takes it where it goes, translated, complains of it, or has it
///   answered there;
/// - only by iptables it is the host's, which answers;
/// - at the host it is not translated by iptables;
/// - the host resets what by eBPF is reset by who is behind it, a hop further.
fn is_untranslated(case: &Case<'_>, is_so: impl Fn(&Origin<'_>) -> bool) -> bool {
    let is_invalid = |origin: &Origin<'_>| {
        let is_counted = case.invalid.get(origin.number).is_some_and(|&count| count > 0);
        // Not counted is what is invalid of ICMP, IPv6's in IPv4, and GRE that has no room for
        // PPTP's call or a version other than 0 (`gre_manip_pkt()` of the kernel).
        let is_uncounted = match packets::parts(origin.packet) {
            Some((proto::ICMP, _)) => packets::is_wrong(origin.packet),
            Some((proto::GRE, payload)) => payload.len() < 8 || payload[1] & 7 != 0,
            Some((proto::ICMPV6, _)) => true,
            _ => false,
        };
        (is_counted || is_uncounted) && is_so(origin)
    };
    let origin = |seen: &Seen| case.origin(seen).filter(is_invalid);
    match case.only() {
        Some(Only::Ebpf(seen)) => origin(seen)
            .is_some_and(|origin| origin.role != Role::Itself || seen.place != Place::Host),
        Some(Only::Reference(seen)) => origin(seen).is_some_and(|origin| match origin.role {
            Role::Itself => seen.place == Place::Host,
            Role::Complaint | Role::Reply => {
                let (from, to) = (addr(origin.packet, 16), addr(origin.packet, 12));
                seen.is("ip.src", from) && seen.is("ip.dst", to)
            }
        }),
        Some(Only::Neither(one, other)) => match (origin(one), origin(other)) {
            (Some(a), Some(b)) if a.number == b.number && a.role == b.role => {
                let names = differing(one, other);
                let is_end =
                    |name: &&str| matches!(*name, "ip.src" | "ip.dst") || name.ends_with("port");
                match a.role {
                    Role::Itself => one.place == Place::Host && names.iter().all(is_end),
                    Role::Reply => one.is_reset() && names == ["ip.ttl"],
                    Role::Complaint => false,
                }
            }
            _ => false,
        },
        None => false,
    }
}
