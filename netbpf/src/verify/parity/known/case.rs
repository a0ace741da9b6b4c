//! A difference, and what it has come of.

use super::super::{
    compare::Difference,
    decode::half,
    normalise::Seen,
    packet::proto,
    scenario::{Scenario, Step},
    stage::Place,
};

/// A difference, and all that is known of how it has come about.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The scenario that was played.
    pub scenario: &'a Scenario,
    /// The IP packets that were sent, by step: nothing where there was nothing to
    /// answer.
    pub sent: &'a [Option<Vec<u8>>],
    /// How many packets iptables' connection tracking has taken for invalid, by step.
    pub invalid: &'a [u64],
    /// Whether a kernel has reset something.
    pub has_reset: bool,
    /// What differs.
    pub difference: &'a Difference,
}

/// What a packet that came out is to the one that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It, wherever it went and whatever was translated.
    Itself,
    /// An ICMP error about it.
    Complaint,
    /// What a kernel says to it.
    Reply,
}

/// Where a packet that came out has come from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The step that it is of, counted from 0.
    pub number: usize,
    /// That step.
    pub step: &'a Step,
    /// The IP packet that was sent, or what else was in the frame.
    pub packet: &'a [u8],
    /// What it is to that.
    pub role: Role,
}

/// Which side has something.
#[derive(Clone, Copy, Debug)]
pub enum Only<'a> {
    /// Only iptables has it.
    Reference(&'a Seen),
    /// Only eBPF has it.
    Ebpf(&'a Seen),
    /// Both have it, and it differs.
    Neither(&'a Seen, &'a Seen),
}

impl<'a> Case<'a> {
    /// Which side has what.
    #[must_use]
    pub fn only(&self) -> Option<Only<'a>> {
        match (&self.difference.reference, &self.difference.ebpf) {
            (Some(one), Some(other)) => Some(Only::Neither(one, other)),
            (Some(seen), None) => Some(Only::Reference(seen)),
            (None, Some(seen)) => Some(Only::Ebpf(seen)),
            (None, None) => None,
        }
    }

    /// What only iptables has, and what it has come of.
    #[must_use]
    pub fn only_reference(&self) -> Option<(&'a Seen, Origin<'a>)> {
        let Some(Only::Reference(seen)) = self.only() else { return None };
        Some((seen, self.origin(seen)?))
    }

    /// What only eBPF has, and what it has come of.
    #[must_use]
    pub fn only_ebpf(&self) -> Option<(&'a Seen, Origin<'a>)> {
        let Some(Only::Ebpf(seen)) = self.only() else { return None };
        Some((seen, self.origin(seen)?))
    }

    /// What a packet that came out has come of. Everything that is sent has an
    /// identification of its own, which a packet keeps and an error quotes; the rest
    /// is what kernels say to what was sent last.
    #[must_use]
    pub fn origin(&self, seen: &Seen) -> Option<Origin<'a>> {
        let of = |number: usize, role| {
            let packet = self.sent.get(number)?.as_deref()?;
            Some(Origin { number, step: self.scenario.steps.get(number)?, packet, role })
        };
        let by_id = |layer: &str| {
            let id = seen.field(&format!("{layer}ip.id"))?.strip_prefix("0x")?;
            let id = u16::from_str_radix(id, 16).ok().filter(|&id| id != 0)?;
            let is_it = |number: &usize| {
                let packet = self.sent.get(*number).and_then(Option::as_deref);
                packet.is_some_and(|packet| half(packet, 4) == id)
            };
            (0..=seen.step).rev().find(is_it)
        };
        if seen.field("ip.id").is_none() {
            let origin = of(seen.step, Role::Itself)?;
            let is_its_sender = seen.field("eth.src") == Some(&origin.step.from.to_string());
            let is_back = seen.place == origin.step.from;
            let role = if is_its_sender && !is_back { Role::Itself } else { Role::Reply };
            return Some(Origin { role, ..origin });
        }
        by_id("")
            .and_then(|number| of(number, Role::Itself))
            .or_else(|| by_id("quote.").and_then(|number| of(number, Role::Complaint)))
            .or_else(|| of(seen.step, Role::Reply))
    }

    /// All packets that were sent up to a step, the last ones first.
    pub fn sent_before(&self, number: usize) -> impl Iterator<Item = &'a [u8]> {
        let before = self.sent.get(..number).unwrap_or_default();
        before.iter().rev().filter_map(|packet| packet.as_deref())
    }
}

impl Origin<'_> {
    /// Whether it has come of something that a namespace has sent.
    #[must_use]
    pub fn is_from_namespace(&self) -> bool {
        matches!(self.step.from, Place::Ns(_))
    }

    /// The type of the ICMP message that was sent.
    #[must_use]
    pub fn icmp_type(&self) -> Option<u8> {
        let header_len = usize::from(self.packet.first()? & 15) * 4;
        (self.packet.get(9) == Some(&proto::ICMP)).then(|| self.packet.get(header_len).copied())?
    }
}
