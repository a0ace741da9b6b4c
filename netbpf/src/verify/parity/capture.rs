//! What comes out, as it was captured, and fragments put together again.

use super::{
    decode::{Link, addr, half},
    packet::{self, MORE_FRAGMENTS, OFFSET, proto},
    scenario::IPV4,
    stage::{Place, scenario_of},
};

/// Something that came out somewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// The step after which it came, counted from 0.
    pub step: usize,
    /// Where.
    pub place: Place,
    /// Its frame; nothing at the host, which gets packets.
    pub link: Option<Link>,
    /// What was in the frame.
    pub bytes: Vec<u8>,
    /// Whether its checksum is still to be completed by the device.
    pub pending: bool,
    /// Whether it has come in fragments.
    pub in_parts: bool,
}

#[cfg(test)]
impl Arrival {
    /// A packet that has come outside.
    pub(super) fn outside(bytes: Vec<u8>) -> Self {
        let place = Place::Outside;
        Self { step: 0, place, link: None, bytes, pending: false, in_parts: false }
    }
}

impl Arrival {
    /// Whether it is IPv4 and has a whole header.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        let header_len = self.bytes.first().map_or(0, |first| usize::from(first & 15) * 4);
        self.link.as_ref().is_none_or(|link| link.ethertype == IPV4 && link.tags.is_empty())
            && header_len >= 20
            && self.bytes.len() >= header_len
            && usize::from(half(&self.bytes, 2)) >= header_len
            && self.bytes.len() >= usize::from(half(&self.bytes, 2))
    }

    /// The IPv4 packet without the frame's padding.
    #[must_use]
    pub fn packet(&self) -> Option<&[u8]> {
        self.is_ipv4().then(|| &self.bytes[..usize::from(half(&self.bytes, 2))])
    }

    /// The scenario that it is of, if it has a far address that tells.
    #[must_use]
    pub fn scenario(&self) -> Option<u16> {
        let packet = self.packet()?;
        let own = [12, 16].into_iter().find_map(|at| scenario_of(addr(packet, at)));
        own.or_else(|| {
            let message = packet.get(usize::from(packet[0] & 15) * 4..)?;
            let is_error = packet[9] == proto::ICMP && matches!(message.first(), Some(3 | 11 | 12));
            let quote = message.get(8..).filter(|quote| is_error && quote.len() >= 20)?;
            [12, 16].into_iter().find_map(|at| scenario_of(addr(quote, at)))
        })
    }

    fn is_fragment(&self) -> bool {
        self.is_ipv4() && half(&self.bytes, 6) & (OFFSET | MORE_FRAGMENTS) != 0
    }

    /// What fragments of one datagram have in common.
    fn datagram(&self) -> impl PartialEq + use<> {
        let bytes = &self.bytes;
        (self.place, addr(bytes, 12), addr(bytes, 16), bytes[9], half(bytes, 4))
    }
}

/// Puts the fragments of each datagram together that has all of them. Kernels cut
/// as they please: what counts is the whole, and that it was cut.
#[must_use]
pub fn whole(arrivals: Vec<Arrival>) -> Vec<Arrival> {
    let mut out: Vec<Arrival> = Vec::new();
    let mut parts: Vec<Arrival> = Vec::new();
    for arrival in arrivals {
        if !arrival.is_fragment() {
            out.push(arrival);
            continue;
        }
        let datagram = arrival.datagram();
        parts.push(arrival);
        let together = |part: &Arrival| part.datagram() == datagram;
        let these: Vec<&Arrival> = parts.iter().filter(|part| together(part)).collect();
        if let Some(made) = reassemble(&these) {
            parts.retain(|part| !together(part));
            out.push(made);
        }
    }
    out.extend(parts);
    out
}

/// The datagram, if these are all its fragments.
fn reassemble(parts: &[&Arrival]) -> Option<Arrival> {
    let field = |part: &Arrival| half(&part.bytes, 6);
    let mut sorted: Vec<&Arrival> = parts.to_vec();
    sorted.sort_by_key(|part| field(part) & OFFSET);
    // What came twice came once.
    sorted.dedup_by(|a, b| a.bytes == b.bytes);
    let first = sorted.first().filter(|part| field(part) & OFFSET == 0)?;
    let header_len = usize::from(first.bytes[0] & 15) * 4;
    let mut payload: Vec<u8> = Vec::new();
    for part in &sorted {
        let own = part.packet()?.get(usize::from(part.bytes[0] & 15) * 4..)?;
        if usize::from(field(part) & OFFSET) * 8 != payload.len() {
            return None;
        }
        payload.extend(own);
    }
    let last = sorted.last().filter(|part| field(part) & MORE_FRAGMENTS == 0)?;
    let header_ok = packet::checksum(&first.bytes[..header_len]) == 0;
    let mut bytes = [&first.bytes[..header_len], &payload].concat();
    let total = u16::try_from(bytes.len()).ok()?;
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    let kept = field(first) & !(OFFSET | MORE_FRAGMENTS);
    bytes[6..8].copy_from_slice(&kept.to_be_bytes());
    if header_ok {
        packet::fix_header(&mut bytes);
    }
    let step = last.step.max(first.step);
    Some(Arrival { step, bytes, in_parts: true, ..(*first).clone() })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::packet::{Ip, fragments};
    use super::*;

    fn arrival(place: Place, bytes: Vec<u8>) -> Arrival {
        Arrival { step: 0, place, link: None, bytes, pending: false, in_parts: false }
    }

    fn packet() -> Vec<u8> {
        let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        Ip::new(src, dst, 77).udp(1, 2, &[3; 100])
    }

    #[test]
    fn all_fragments_in_any_order_are_the_datagram() {
        let mut parts = fragments(&packet(), 40);
        parts.rotate_left(1);
        let arrivals = parts.into_iter().map(|part| arrival(Place::Outside, part)).collect();
        let expected = Arrival { in_parts: true, ..arrival(Place::Outside, packet()) };
        assert_eq!(whole(arrivals), [expected]);
    }

    #[test]
    fn some_fragments_stay_what_they_are() {
        let mut parts = fragments(&packet(), 40);
        parts.remove(1);
        let arrivals: Vec<Arrival> =
            parts.into_iter().map(|part| arrival(Place::Outside, part)).collect();
        assert_eq!(whole(arrivals.clone()), arrivals);
        let elsewhere: Vec<Arrival> = fragments(&packet(), 60)
            .into_iter()
            .zip([Place::Outside, Place::Ns(1)])
            .map(|(part, place)| arrival(place, part))
            .collect();
        assert_eq!(whole(elsewhere.clone()), elsewhere);
    }
}
