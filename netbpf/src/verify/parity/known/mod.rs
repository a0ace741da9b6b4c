//! Differences that are intended, each with its reason.
//!
//! Each tells exactly which packets only one side may have, or which fields may
//! differ: by what was sent, and what the packet that came out is to that.

mod case;
mod invalid;
mod packets;
#[cfg(test)]
mod tests;

use netbpf_common::MacAddr;

pub use case::{Case, Only, Origin, Role};

use super::{
    compare::{self, differing},
    decode::addr,
    normalise::Seen,
    packet::proto,
    scenario::{ARP, Step, What},
    stage::{self, Place, Station, address},
};

/// A difference between the datapaths that is intended.
pub struct Known {
    /// What it is called.
    pub name: &'static str,
    /// What differs.
    pub what: &'static str,
    /// Why that is as it should be.
    pub why: &'static str,
    /// Whether a difference is of this kind.
    pub explains: fn(&Case<'_>) -> bool,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All of them.
pub static ALL: [Known; 21] = [
    Known {
        name: "translated-port",
        what: "another outside port is chosen",
        why: "with eBPF a port outside stands for one port inside, whomever it speaks to \
              (RFC 4787 REQ-1); iptables shares ports among destinations",
        explains: translated_port,
    },
    Known {
        name: "source-guard",
        what: "eBPF drops what a namespace sends in the name of others",
        why: "source guard; the kernel's bridge lets everybody speak for everybody",
        explains: source_guard,
    },
    Known {
        name: "priority-tag",
        what: "eBPF drops frames with a VLAN tag of number 0",
        why: "receivers strip it, and would see what the source guard has not",
        explains: priority_tag,
    },
    Known {
        name: "source-quench",
        what: "iptables translates ICMP source quench; by eBPF it reaches the host",
        why: "RFC 6633 section 5: it is to be ignored, and routers send none",
        explains: source_quench,
    },
    Known {
        name: "wrong-checksum",
        what: "a packet whose payload has a wrong checksum or length is translated by eBPF, and \
               still wrong, or answered if its time to live is over",
        why: "the receiver judges it: a difference is added, so what was wrong stays so; \
              iptables takes it for invalid, so that what is for a published port is the host's",
        explains: invalid::wrong_checksum,
    },
    Known {
        name: "invalid-segment",
        what: "a TCP segment that fits no connection ends elsewhere, and is answered by another",
        why: "eBPF drops what ends a connection that it does not know, and lets receivers judge \
              what lies beside their window (RFC 5961); iptables takes both for invalid and does \
              not translate them, so that published ones are the host's, which answers with a \
              reset",
        explains: invalid::segment,
    },
    Known {
        name: "other-protocols",
        what: "SCTP, UDP-Lite, GRE and IPv6's ICMP pass eBPF whatever is in them",
        why: "they keep their ports, and nothing else of them is looked at; iptables follows \
              SCTP's chunks, takes wrong checksums, unknown chunks and headers that are not \
              whole for invalid, as any ICMP of IPv6, and translates no GRE of a version other \
              than 0 or of fewer than eight bytes",
        explains: invalid::other_protocol,
    },
    Known {
        name: "dccp",
        what: "DCCP's ports are told apart by eBPF, and its checksum is kept right",
        why: "RFC 5597; Linux has given its support for DCCP up, and takes it for a protocol \
              without ports and checksum",
        explains: dccp,
    },
    Known {
        name: "short-quote",
        what: "errors that eBPF sends itself quote 28 bytes",
        why: "as much as RFC 792 asks for; Linux quotes up to 548 (RFC 1812 section 4.3.2.3)",
        explains: short_quote,
    },
    Known {
        name: "no-datagram",
        what: "fragments of a datagram of which some are missing, or that come twice, pass eBPF",
        why: "fragments are translated one by one; iptables puts datagrams together first",
        explains: no_datagram,
    },
    Known {
        name: "redirect",
        what: "ICMP redirects about translated packets reach the host by eBPF",
        why: "to the host it is the host that has sent the packet: it judges them as any other \
              redirect; iptables drops them",
        explains: redirect,
    },
    Known {
        name: "malformed",
        what: "eBPF drops what is malformed where iptables lets the receiver do so",
        why: "a packet of which the ends cannot be told belongs to nobody",
        explains: malformed,
    },
    Known {
        name: "tiny-quote",
        what: "an error that quotes less than eight bytes is not translated by eBPF",
        why: "RFC 792 asks for eight",
        explains: tiny_quote,
    },
    Known {
        name: "ended-connection",
        what: "an error about a TCP connection that was reset is still translated by eBPF",
        why: "its flow is kept for a while, for packets that are late; iptables has forgotten it",
        explains: ended_connection,
    },
    Known {
        name: "spoofed",
        what: "eBPF drops what comes from outside with an address of the networks'",
        why: "nobody there has one; the rules leave that to the host's reverse path filter, which \
              is off where nobody has set it",
        explains: spoofed,
    },
    Known {
        name: "learnt-mac",
        what: "eBPF answers a second address of a namespace at the MAC that it has spoken from",
        why: "that is where it is; the stack asks by ARP, and here was told another",
        explains: learnt_mac,
    },
    Known {
        name: "bad-options",
        what: "that its IP options are malformed is not told to who has sent a packet by the \
               host's address",
        why: "the host's stack reads them when the packet has come in again by its loopback \
              device, and complains to the address that it comes from then, its own",
        explains: bad_options,
    },
    Known {
        name: "broadcast",
        what: "a published port is reached from inside by the uplink's broadcast address",
        why: "the kernel tells a program that an address is not routed, and not whether it is the \
              host's own or everybody's; only from outside the uplink is known that has it",
        explains: broadcast,
    },
    Known {
        name: "from-broadcast",
        what: "what comes from outside with the uplink's broadcast address as its source is the \
               host's by eBPF, whose answer goes to everybody",
        why: "who cannot be answered by an uplink is not taken in, and the kernel tells of such an \
              address only that it is not routed; iptables translates what nobody can answer",
        explains: from_broadcast,
    },
    Known {
        name: "one-per-destination",
        what: "a second namespace that speaks a protocol without ports to the same machine is \
               refused",
        why: "answers could be either's; iptables lets it speak, and gives what is answered to the \
              first one",
        explains: one_per_destination,
    },
    Known {
        name: "unanswered-options",
        what: "eBPF says nothing of a packet with IP options that it drops",
        why: "its answers are about packets without; the sender learns nothing, as from many \
              routers",
        explains: unanswered_options,
    },
];

/// The intended difference that this is one of.
#[must_use]
pub fn find(case: &Case<'_>) -> Option<&'static Known> {
    ALL.iter().find(|known| (known.explains)(case))
}

impl Seen {
    #[allow(clippy::needless_pass_by_value, reason = "most are numbers")]
    fn is(&self, field: &str, value: impl ToString) -> bool {
        self.field(field) == Some(value.to_string().as_str())
    }
}

/// The same packet, but for the port and what follows from it.
fn translated_port(case: &Case<'_>) -> bool {
    matches!(case.only(), Some(Only::Neither(one, other)) if compare::is_port_only(one, other))
}

/// Whether a namespace sends something in the name of others.
fn is_forged(step: &Step) -> bool {
    let Place::Ns(number) = step.from else { return false };
    let own = address(number);
    let ip = |packet: &[u8]| packet.len() >= 20 && addr(packet, 12) != own;
    match &step.what {
        What::Packet(packet) | What::Train { packet, .. } => ip(packet),
        What::Frame(frame) => {
            let mac = frame.src != Station::Ns(number);
            let arp = frame.ethertype == ARP
                && (frame.payload.get(14..18) != Some(&own.octets())
                    || !is_senders(frame.payload.get(8..14), number));
            mac || arp || step.ip().is_some_and(ip)
        }
        What::Answer(_) | What::Error(_) => false,
    }
}

/// Whether these bytes are the MAC that netbpf gives a namespace.
fn is_senders(mac: Option<&[u8]>, number: u8) -> bool {
    let own: MacAddr = crate::topology::mac::generated(address(number));
    mac == Some(&own.octets())
}

/// Only by iptables: what was forged, and what is said to it.
fn source_guard(case: &Case<'_>) -> bool {
    case.only_reference().is_some_and(|(_, origin)| is_forged(origin.step))
}

/// Only by iptables: what was so tagged, and what is said to it.
fn priority_tag(case: &Case<'_>) -> bool {
    const VLAN_ID: u16 = 0xfff;
    case.only_reference().is_some_and(|(_, origin)| match &origin.step.what {
        What::Frame(frame) => frame.tags.first().is_some_and(|tag| tag & VLAN_ID == 0),
        _ => false,
    })
}

/// The message translated only by iptables, or at the host only by eBPF; or at the
/// host by both, but by eBPF not translated.
fn is_left_to_the_host(case: &Case<'_>, is_so: impl Fn(&Origin<'_>) -> bool) -> bool {
    if let Some(Only::Neither(one, other)) = case.only() {
        let is_end = |name: &&str| {
            let name = name.trim_start_matches("quote.");
            matches!(name, "ip.src" | "ip.dst" | "icmp.id")
                || name.ends_with("port")
                || name.ends_with(".checksum")
        };
        let origin = case.origin(one).filter(|origin| origin.role == Role::Itself);
        return one.place == Place::Host
            && one.is("icmp.checksum", "ok")
            && other.is("icmp.checksum", "ok")
            && differing(one, other).iter().all(is_end)
            && origin.is_some_and(|origin| is_so(&origin));
    }
    let (place, is_hosts, origin) = match (case.only_reference(), case.only_ebpf()) {
        (Some((seen, origin)), _) => (seen.place, false, origin),
        (_, Some((seen, origin))) => (seen.place, true, origin),
        _ => return false,
    };
    origin.role == Role::Itself && (place == Place::Host) == is_hosts && is_so(&origin)
}

fn source_quench(case: &Case<'_>) -> bool {
    is_left_to_the_host(case, |origin| origin.icmp_type() == Some(4))
}

fn tiny_quote(case: &Case<'_>) -> bool {
    is_left_to_the_host(case, |origin| packets::has_tiny_quote(origin.packet))
}

/// Only by eBPF, at the host: the redirect itself.
fn redirect(case: &Case<'_>) -> bool {
    case.only_ebpf().is_some_and(|(seen, origin)| {
        seen.place == Place::Host && origin.role == Role::Itself && origin.icmp_type() == Some(5)
    })
}

/// An error of the datapath's own, which differs in what lies behind the first
/// eight bytes of the quoted payload.
fn short_quote(case: &Case<'_>) -> bool {
    let Some(Only::Neither(one, other)) = case.only() else { return false };
    let is_own =
        matches!(other.field("icmp.type"), Some("11/0" | "3/4" | "3/13")) && other.is("ip.len", 56);
    let may_differ = |name: &&str| {
        matches!(*name, "ip.len" | "ip.id")
            || name.starts_with("quote.")
                && ["checksum", "data", "ack", "flags", "window", "options", "urgent"]
                    .iter()
                    .any(|part| name.ends_with(part))
            || name.starts_with("quote.icmp.")
    };
    is_own && differing(one, other).iter().all(may_differ)
}

/// A packet of DCCP's, or an error about one, which only one side has, or has with
/// other bytes.
fn dccp(case: &Case<'_>) -> bool {
    let is_about = |seen: &Seen| {
        let origin = case.origin(seen).filter(|origin| origin.role != Role::Reply);
        origin.is_some_and(|origin| {
            origin.packet.get(9) == Some(&proto::DCCP)
                || packets::quotes(origin.packet) == Some(proto::DCCP)
        })
    };
    let difference = case.difference;
    difference.reference.iter().chain(&difference.ebpf).all(is_about)
}

/// Only by iptables: what was sent from outside with such an address, and what is
/// said to it.
fn spoofed(case: &Case<'_>) -> bool {
    case.only_reference().is_some_and(|(_, origin)| {
        let src = origin.packet.get(12..16).map(|_| addr(origin.packet, 12));
        origin.step.from == Place::Outside && src.is_some_and(stage::is_inside)
    })
}

/// An answer to the address of the subnet that nobody has, and a namespace has
/// spoken from: its MAC alone differs.
fn learnt_mac(case: &Case<'_>) -> bool {
    let Some(Only::Neither(one, other)) = case.only() else { return false };
    let is_forged = |step: &Step| {
        matches!(step.from, Place::Ns(_))
            && step.ip().is_some_and(|packet| addr(packet, 12) == stage::NOBODY)
    };
    differing(one, other) == ["eth.dst"]
        && one.is("ip.dst", stage::NOBODY)
        && case.scenario.steps.iter().any(is_forged)
}

/// Only by eBPF: fragments of what is not whole, and what is said of them.
fn no_datagram(case: &Case<'_>) -> bool {
    let Some((seen, origin)) = case.only_ebpf() else { return false };
    let is_it = match origin.role {
        Role::Itself => seen.field("ip.fragment").is_some(),
        Role::Complaint => true,
        Role::Reply => false,
    };
    let is_twice =
        || case.sent_before(seen.step + 1).filter(|sent| *sent == origin.packet).count() > 1;
    is_it
        && packets::is_fragment(origin.packet)
        && (!packets::is_whole(case, origin.packet) || is_twice())
}

/// Only by iptables: what a namespace has sent malformed, and what is said to it.
fn malformed(case: &Case<'_>) -> bool {
    case.only_reference().is_some_and(|(_, origin)| {
        origin.is_from_namespace() && packets::is_malformed(origin.packet)
    })
}

/// At the host only by iptables, translated only by eBPF: an error about a segment,
/// where there was a reset.
fn ended_connection(case: &Case<'_>) -> bool {
    let (place, is_reference, origin) = match (case.only_reference(), case.only_ebpf()) {
        (Some((seen, origin)), _) => (seen.place, true, origin),
        (_, Some((seen, origin))) => (seen.place, false, origin),
        _ => return false,
    };
    origin.role == Role::Itself
        && (place == Place::Host) == is_reference
        && packets::quotes(origin.packet) == Some(proto::TCP)
        && (case.sent_before(origin.number).any(packets::is_reset) || case.has_reset)
}

/// A complaint about options, only by iptables at who has sent them by the host's
/// address, or only by eBPF at the host.
fn bad_options(case: &Case<'_>) -> bool {
    let (seen, place, origin) = match (case.only_reference(), case.only_ebpf()) {
        (Some((seen, origin)), _) => (seen, origin.step.from, origin),
        (_, Some((seen, origin))) => (seen, Place::Host, origin),
        _ => return false,
    };
    origin.role == Role::Complaint
        && origin.is_from_namespace()
        && seen.place == place
        && seen.is("icmp.type", "12/0")
        && origin.packet[0] & 15 > 5
        && addr(origin.packet, 16) == stage::UPLINK
}

/// What a namespace has sent there, translated only by eBPF, and what is said to it.
fn broadcast(case: &Case<'_>) -> bool {
    let sent_there = |origin: Origin<'_>| {
        origin.is_from_namespace()
            && origin.packet.len() >= 20
            && addr(origin.packet, 16) == stage::BROADCAST
    };
    match (case.only_reference(), case.only_ebpf()) {
        (Some((seen, origin)), _) => seen.place == Place::Host && sent_there(origin),
        (_, Some((seen, origin))) => seen.place != Place::Host && sent_there(origin),
        _ => false,
    }
}

/// In a namespace only by iptables; at the host, and what that says, only by eBPF.
fn from_broadcast(case: &Case<'_>) -> bool {
    let sent_so = |origin: Origin<'_>| {
        origin.step.from == Place::Outside
            && origin.packet.len() >= 20
            && addr(origin.packet, 12) == stage::BROADCAST
    };
    match (case.only_reference(), case.only_ebpf()) {
        (Some((seen, origin)), _) => matches!(seen.place, Place::Ns(_)) && sent_so(origin),
        (_, Some((seen, origin))) => {
            let is_hosts = match origin.role {
                Role::Itself => seen.place == Place::Host,
                Role::Complaint | Role::Reply => seen.is("ip.dst", stage::BROADCAST),
            };
            is_hosts && sent_so(origin)
        }
        _ => false,
    }
}

/// Only by iptables: what a namespace sends to the machine outside, which all scenarios
/// share, and what that says.
fn one_per_destination(case: &Case<'_>) -> bool {
    const WITH_PORTS: [u8; 6] =
        [proto::TCP, proto::UDP, proto::ICMP, proto::SCTP, proto::DCCP, proto::UDP_LITE];
    case.only_reference().is_some_and(|(seen, origin)| {
        let is_there = match origin.role {
            Role::Itself => seen.place == Place::Outside,
            Role::Complaint => seen.place == origin.step.from,
            Role::Reply => false,
        };
        is_there
            && origin.is_from_namespace()
            && origin.packet.len() >= 20
            && !WITH_PORTS.contains(&origin.packet[9])
            && addr(origin.packet, 16) == stage::OUTSIDE
    })
}

/// Only by iptables: that the time to live of such a packet is over, or that it is
/// too large.
fn unanswered_options(case: &Case<'_>) -> bool {
    case.only_reference().is_some_and(|(seen, origin)| {
        origin.role == Role::Complaint
            && matches!(seen.field("icmp.type"), Some("11/0" | "3/4"))
            && origin.packet[0] & 15 > 5
    })
}
