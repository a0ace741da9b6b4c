//! Differences that are intended, each with its reason.

use std::net::Ipv4Addr;

use super::{
    compare::Difference,
    decode::{addr, half},
    normalise::Seen,
    packet::{MORE_FRAGMENTS, OFFSET, proto},
    scenario::{ARP, Scenario, Step, What},
    stage::{self, GATEWAY, NAMESPACES, Place, Station, UPLINK, address},
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
    pub explains: fn(&Scenario, &Difference) -> bool,
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
        name: "reflected",
        what: "iptables gives a namespace its own broadcasts back",
        why: "hairpin mode of the bridge's port, which the rules need for a namespace with \
              published ports; eBPF needs none",
        explains: reflected,
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
        what: "iptables translates ICMP source quench, eBPF does not",
        why: "RFC 6633 section 5: it is to be ignored, and routers send none",
        explains: source_quench,
    },
    Known {
        name: "wrong-checksum",
        what: "a packet whose payload's checksum is wrong is translated by eBPF, and still wrong",
        why: "the receiver judges it: a difference is added, so what was wrong stays so; \
              iptables takes it for invalid",
        explains: wrong_checksum,
    },
    Known {
        name: "invalid-segment",
        what: "a TCP segment that fits no connection ends elsewhere",
        why: "eBPF drops what ends a connection that it does not know, and lets receivers judge \
              what lies beside their window (RFC 5961); iptables takes both for invalid, so \
              that published ones are the host's, which answers with a reset; what follows from it \
              in the same scenario is not investigated",
        explains: invalid_segment,
    },
    Known {
        name: "short-quote",
        what: "errors that eBPF sends itself quote 28 bytes",
        why: "as much as RFC 792 asks for; Linux quotes up to 548 (RFC 1812 section 4.3.2.3)",
        explains: short_quote,
    },
    Known {
        name: "no-datagram",
        what: "fragments of a datagram of which some are missing pass eBPF",
        why: "fragments are translated one by one; iptables puts datagrams together first",
        explains: no_datagram,
    },
    Known {
        name: "options-hairpin",
        what: "with IP options nobody is reached by the host's address from inside",
        why: "packets with options are the stack's, to which the address is the host's own; what \
              else differs in such a scenario is not investigated",
        explains: options_hairpin,
    },
    Known {
        name: "last-hop-hairpin",
        what: "a packet by the host's address with a time to live of 1 ends at the host",
        why: "it is the stack's, to which the address is its own: it answers as the host; what \
              else differs in such a scenario is not investigated",
        explains: last_hop_hairpin,
    },
    Known {
        name: "errors-on-loopback",
        what: "what the host complains of at 127.0.0.1 does not reach the namespace",
        why: "what of the host's own stays on its loopback device is not looked at",
        explains: errors_on_loopback,
    },
    Known {
        name: "other-protocols",
        what: "SCTP, UDP-Lite, DCCP and GRE pass eBPF whatever is in them",
        why: "they keep their ports, and nothing else of them is looked at; iptables follows \
              SCTP's chunks and checksums, and takes DCCP for a protocol without ports",
        explains: other_protocols,
    },
    Known {
        name: "deprecated-queries",
        what: "ICMP information and address mask queries do not pass eBPF",
        why: "RFC 6918 deprecates them: nobody asks",
        explains: deprecated_queries,
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
        name: "host-fragments",
        what: "fragments that the host sends out of order by its own address get lost",
        why: "its kernel sends them in order; only raw sockets can do this",
        explains: host_fragments,
    },
    Known {
        name: "unanswered-options",
        what: "eBPF says nothing of a packet with IP options that it drops",
        why: "its answers are about packets without; the sender learns nothing, as from many \
              routers",
        explains: unanswered_options,
    },
    Known {
        name: "martian",
        what: "what comes from outside with an address of the host, of a namespace or of \
               nobody",
        why: "eBPF drops it, or leaves it to the stack; iptables translates it first",
        explains: martian,
    },
];

/// The intended difference that this is one of.
#[must_use]
pub fn find(scenario: &Scenario, difference: &Difference) -> Option<&'static Known> {
    ALL.iter().find(|known| (known.explains)(scenario, difference))
}

impl Difference {
    /// What only iptables has.
    fn only_reference(&self) -> Option<&Seen> {
        self.reference.as_ref().filter(|_| self.ebpf.is_none())
    }

    /// What only eBPF has.
    fn only_ebpf(&self) -> Option<&Seen> {
        self.ebpf.as_ref().filter(|_| self.reference.is_none())
    }

    /// What there is, of either side.
    fn any(&self) -> impl Iterator<Item = &Seen> {
        self.reference.iter().chain(&self.ebpf)
    }

    /// If both sides have it: the names of all fields that differ.
    fn fields(&self) -> Option<Vec<&str>> {
        let (Some(one), Some(other)) = (&self.reference, &self.ebpf) else { return None };
        let of = |from: &'_ Seen, to: &Seen| {
            let only = from.fields.iter().filter(|field| !to.fields.contains(field));
            only.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let names = [of(one, other), of(other, one)].concat();
        let all = one.fields.iter().chain(&other.fields).map(|(name, _)| name.as_str());
        Some(all.filter(|name| names.iter().any(|other| other == name)).collect())
    }
}

impl Seen {
    #[allow(clippy::needless_pass_by_value, reason = "most are numbers")]
    fn is(&self, field: &str, value: impl ToString) -> bool {
        self.field(field) == Some(value.to_string().as_str())
    }
}

/// Packets that namespaces and the host itself send to an address of the host.
fn hairpins(scenario: &Scenario) -> impl Iterator<Item = &[u8]> {
    let from_inside = scenario.steps.iter().filter(|step| step.from != Place::Outside);
    let is_hosts = |to: Ipv4Addr| to == UPLINK || to == Ipv4Addr::LOCALHOST;
    from_inside.filter_map(Step::ip).filter(move |p| p.len() >= 20 && is_hosts(addr(p, 16)))
}

fn translated_port(_: &Scenario, difference: &Difference) -> bool {
    let is_port = |name: &&str| name.ends_with("port") || name.ends_with("icmp.id");
    let is_chosen = |seen: &Seen| seen.fields.iter().any(|(_, value)| value.starts_with("<port"));
    // A quoted part of a segment has a checksum that cannot be judged.
    let is_part = |name: &&str| name.starts_with("quote.") && name.ends_with("checksum");
    difference.any().any(is_chosen)
        && difference.fields().is_some_and(|all| all.iter().all(|n| is_port(n) || is_part(n)))
}

fn reflected(_: &Scenario, difference: &Difference) -> bool {
    difference.only_reference().is_some_and(|seen| match seen.place {
        Place::Ns(number) => seen.is("eth.src", Station::Ns(number)),
        Place::Outside | Place::Host => false,
    })
}

/// Whether a namespace sends something in the name of others.
fn is_forged(step: &Step) -> bool {
    let Place::Ns(number) = step.from else { return false };
    let own = address(number);
    let ip = |packet: &[u8]| packet.len() >= 20 && addr(packet, 12) != own;
    match &step.what {
        What::Packet(packet) => ip(packet),
        What::Frame(frame) => {
            let mac = frame.src != Station::Ns(number);
            let arp = frame.ethertype == ARP && frame.payload.get(14..18) != Some(&own.octets());
            mac || arp || step.ip().is_some_and(ip)
        }
        What::Answer(_) | What::Error(_) => false,
    }
}

fn source_guard(scenario: &Scenario, difference: &Difference) -> bool {
    difference.only_reference().is_some() && scenario.steps.iter().any(is_forged)
}

/// The bits of a VLAN tag that are its number.
const VLAN_ID: u16 = 0xfff;

fn priority_tag(scenario: &Scenario, difference: &Difference) -> bool {
    let is_tagged = |step: &Step| match &step.what {
        What::Frame(frame) => frame.tags.first().is_some_and(|tag| tag & VLAN_ID == 0),
        _ => false,
    };
    difference.only_reference().is_some() && scenario.steps.iter().any(is_tagged)
}

fn source_quench(_: &Scenario, difference: &Difference) -> bool {
    let mut all = difference.any();
    all.all(|seen| seen.field("icmp.type").is_some_and(|kind| kind.starts_with("4/")))
}

fn wrong_checksum(_: &Scenario, difference: &Difference) -> bool {
    let is_wrong = |(name, value): &(String, String)| {
        let is_payloads = name.ends_with(".checksum") && name != "ip.checksum";
        is_payloads && !name.starts_with("quote.") && value.starts_with("off by")
    };
    difference.any().all(|seen| seen.fields.iter().any(is_wrong))
}

fn invalid_segment(scenario: &Scenario, difference: &Difference) -> bool {
    // Only where some segment is out of order, or none begins the connection.
    let flags = |step: &Step| {
        let packet = step.ip().filter(|packet| packet.len() >= 40 && packet[9] == proto::TCP)?;
        packet.get(usize::from(packet[0] & 15) * 4 + 13).copied()
    };
    let has_segments = scenario.steps.iter().any(|step| flags(step).is_some());
    let is_reset = |seen: &Seen| seen.field("tcp.flags").is_some_and(|flags| flags.contains("RST"));
    let at_host = |seen: &Seen| seen.place == Place::Host && seen.is("ip.proto", proto::TCP);
    has_segments
        && match (difference.only_reference(), difference.only_ebpf()) {
            (None, None) => {
                // The reset of either looks the same, but for how far it has come.
                difference.any().all(is_reset) && difference.fields() == Some(vec!["ip.ttl"; 2])
            }
            (Some(seen), _) => at_host(seen) || is_reset(seen) && seen.is("ip.src", UPLINK),
            (_, Some(seen)) => seen.is("ip.proto", proto::TCP) && seen.place != Place::Host,
        }
}

fn short_quote(_: &Scenario, difference: &Difference) -> bool {
    let is_own = |seen: &Seen| {
        let kind = seen.field("icmp.type");
        matches!(kind, Some("11/0" | "3/4" | "3/13")) && seen.is("ip.len", 56)
    };
    let may_differ = |name: &&str| {
        matches!(*name, "ip.len" | "ip.id")
            || name.starts_with("quote.")
                && ["checksum", "data", "seq", "ack", "flags", "window", "options", "urgent"]
                    .iter()
                    .any(|part| name.ends_with(part))
    };
    difference.ebpf.as_ref().is_some_and(is_own)
        && difference.fields().is_some_and(|names| names.iter().all(may_differ))
}

fn is_fragment(packet: &[u8]) -> bool {
    packet.len() >= 20 && half(packet, 6) & (OFFSET | MORE_FRAGMENTS) != 0
}

/// The fragments that a scenario sends, by where they begin.
fn sent_fragments(scenario: &Scenario) -> Vec<u16> {
    let sent = scenario.steps.iter().filter_map(Step::ip).filter(|packet| is_fragment(packet));
    sent.map(|packet| half(packet, 6) & OFFSET).collect()
}

fn no_datagram(scenario: &Scenario, difference: &Difference) -> bool {
    let mut reached = 0;
    let mut last = false;
    let mut sent: Vec<&[u8]> =
        scenario.steps.iter().filter_map(Step::ip).filter(|packet| is_fragment(packet)).collect();
    sent.sort_by_key(|packet| half(packet, 6) & OFFSET);
    let fits = sent.iter().all(|packet| {
        let begins = usize::from(half(packet, 6) & OFFSET) * 8;
        let fits = begins == reached;
        reached = begins + packet.len() - usize::from(packet[0] & 15) * 4;
        last = half(packet, 6) & MORE_FRAGMENTS == 0;
        fits
    });
    // What is said of them then is only said by eBPF, too.
    let is_whole = fits && last;
    !sent.is_empty() && !is_whole && difference.only_ebpf().is_some()
}

fn options_hairpin(scenario: &Scenario, difference: &Difference) -> bool {
    let sends = hairpins(scenario).any(|packet| packet[0] & 15 > 5);
    // Who is not reached does not answer, and somebody else does.
    sends && difference.any().next().is_some()
}

fn last_hop_hairpin(scenario: &Scenario, difference: &Difference) -> bool {
    let sends = hairpins(scenario).any(|packet| packet[8] <= 1);
    let is_last = |seen: &Seen| {
        seen.place == Place::Host
            || seen.field("icmp.type") == Some("11/0")
            || seen.is("ip.ttl", 1)
            || is_hosts_answer(seen)
    };
    sends && difference.any().all(is_last)
}

/// Whether the host itself says that there is nobody.
fn is_hosts_answer(seen: &Seen) -> bool {
    let is_refusal = matches!(seen.field("icmp.type"), Some("3/3" | "3/2"))
        || seen.field("tcp.flags").is_some_and(|flags| flags.contains("RST"));
    is_refusal && matches!(seen.place, Place::Ns(_)) && seen.is("ip.src", UPLINK)
}

fn errors_on_loopback(scenario: &Scenario, difference: &Difference) -> bool {
    let asks = scenario.steps.iter().filter(|step| step.from == Place::Host);
    let asks = asks.filter_map(Step::ip).any(|packet| addr(packet, 16) == Ipv4Addr::LOCALHOST);
    let is_error = |seen: &Seen| seen.field("icmp.type").is_some_and(|kind| kind.starts_with("3/"));
    let is_one = match (difference.only_reference(), difference.only_ebpf()) {
        (Some(seen), _) => is_error(seen) && seen.is("ip.src", GATEWAY),
        (_, Some(seen)) => is_error(seen) && seen.is("ip.dst", Ipv4Addr::LOCALHOST),
        (None, None) => false,
    };
    asks && is_one
}

fn other_protocols(_: &Scenario, difference: &Difference) -> bool {
    const NUMBERS: [u8; 4] = [proto::SCTP, proto::UDP_LITE, proto::DCCP, proto::GRE];
    difference.any().all(|seen| {
        NUMBERS
            .iter()
            .any(|number| seen.is("ip.proto", number) || seen.is("quote.ip.proto", number))
    })
}

fn martian(scenario: &Scenario, difference: &Difference) -> bool {
    let from_outside = scenario.steps.iter().filter(|step| step.from == Place::Outside);
    let is_inside = |src: Ipv4Addr| {
        let own = (1..=NAMESPACES).map(address);
        own.chain([UPLINK, GATEWAY, stage::NOBODY, Ipv4Addr::LOCALHOST]).any(|own| own == src)
            || src.is_multicast()
            || src.is_broadcast()
            || src.octets()[0] == 0
            || src.octets()[0] >= 240
    };
    let forged = from_outside
        .filter_map(Step::ip)
        .any(|packet| packet.len() >= 20 && is_inside(addr(packet, 12)));
    forged && difference.any().next().is_some()
}

fn deprecated_queries(scenario: &Scenario, difference: &Difference) -> bool {
    let is_deprecated = |packet: &[u8]| {
        let header_len = usize::from(packet.first().copied().unwrap_or_default() & 15) * 4;
        packet.get(9) == Some(&proto::ICMP) && matches!(packet.get(header_len), Some(15..=18))
    };
    // Who did not get one answers the query before it once more.
    scenario.steps.iter().filter_map(Step::ip).any(is_deprecated)
        && difference.any().all(|seen| seen.field("icmp.id").is_some())
}

fn redirect(_: &Scenario, difference: &Difference) -> bool {
    let is_one = |seen: &Seen| seen.field("icmp.type").is_some_and(|kind| kind.starts_with("5/"));
    difference.any().all(is_one)
}

/// Whether a packet ends within its headers, or says something else of its length.
fn is_malformed(packet: &[u8]) -> bool {
    let Some(first) = packet.first() else { return true };
    let header_len = usize::from(first & 15) * 4;
    let total = usize::from(half(packet, 2));
    if first >> 4 != 4 || header_len < 20 || total < header_len || packet.len() < total {
        return true;
    }
    let payload = &packet[header_len..total];
    match packet[9] {
        _ if is_fragment(packet) => payload.len() < 8,
        proto::TCP => payload.len() < 20 || payload[12] >> 4 < 5,
        proto::UDP => payload.len() < 8 || usize::from(half(payload, 4)) != payload.len(),
        proto::ICMP => payload.len() < 8,
        _ => false,
    }
}

fn malformed(scenario: &Scenario, difference: &Difference) -> bool {
    let from_ns = scenario.steps.iter().filter(|step| matches!(step.from, Place::Ns(_)));
    difference.only_reference().is_some() && from_ns.filter_map(Step::ip).any(is_malformed)
}

fn tiny_quote(_: &Scenario, difference: &Difference) -> bool {
    let is_tiny = |seen: &Seen| {
        let len = seen.field("quote.ip.len").and_then(|text| text.parse::<usize>().ok());
        let given = seen.field("ip.len").and_then(|text| text.parse::<usize>().ok());
        let is_short = len.is_some_and(|len| len < 28) || given.is_some_and(|len| len < 56);
        seen.field("icmp.type").is_some() && is_short
    };
    difference.any().all(is_tiny)
}

fn ended_connection(_: &Scenario, difference: &Difference) -> bool {
    difference.any().all(|seen| seen.is("quote.ip.proto", proto::TCP))
        && match (difference.only_reference(), difference.only_ebpf()) {
            (Some(seen), _) => seen.place == Place::Host,
            (_, Some(seen)) => seen.place != Place::Host,
            (None, None) => false,
        }
}

fn host_fragments(scenario: &Scenario, difference: &Difference) -> bool {
    let from_host = scenario.steps.first().is_some_and(|step| step.from == Place::Host);
    let offsets = sent_fragments(scenario);
    from_host && !offsets.is_sorted() && difference.any().next().is_some()
}

fn unanswered_options(_: &Scenario, difference: &Difference) -> bool {
    difference.only_reference().is_some_and(|seen| {
        matches!(seen.field("icmp.type"), Some("11/0" | "3/4"))
            && seen.field("quote.ip.options").is_some()
    })
}
