//! Answers to what has come, and errors about it.

use super::{
    capture::Arrival,
    decode::{addr, half, word},
    packet::{Ip, OFFSET, Segment, flag, proto},
    scenario::{Answer, IcmpError, What},
};

/// Longest data of an answer: with any header it is no longer than the wire takes.
const LONGEST: usize = 1400;

/// The packet that a step sends on account of something that has come to its
/// sender; nothing if that is nothing to be answered or complained of.
#[must_use]
pub fn build(what: &What, id: u16, arrival: &Arrival) -> Option<Vec<u8>> {
    let packet = arrival.packet()?;
    // The first fragment tells everything; the others nothing.
    let header_len = usize::from(packet[0] & 15) * 4;
    let payload = packet.get(header_len..).filter(|_| half(packet, 6) & OFFSET == 0)?;
    if is_icmp_error(packet[9], payload) {
        return None;
    }
    match what {
        What::Answer(answer) => answer_to(answer, packet, payload, id),
        What::Error(error) => Some(error_about(error, packet, payload, id)),
        What::Frame(_) | What::Packet(_) | What::Train { .. } => None,
    }
}

fn is_icmp_error(number: u8, payload: &[u8]) -> bool {
    number == proto::ICMP && matches!(payload.first(), Some(3 | 4 | 5 | 11 | 12))
}

fn answer_to(answer: &Answer, packet: &[u8], payload: &[u8], id: u16) -> Option<Vec<u8>> {
    let ip = Ip::new(addr(packet, 16), addr(packet, 12), id);
    let (sport, dport) = (half(payload, 2), half(payload, 0));
    match (answer, packet[9]) {
        (Answer::Echo, proto::ICMP) if payload.len() >= 8 => {
            let kind = match payload[0] {
                8 => 0,
                query @ (13 | 15 | 17) => query + 1,
                _ => return None,
            };
            let data = &payload[8..payload.len().min(8 + LONGEST)];
            Some(ip.icmp(kind, 0, payload[4..8].try_into().ok()?, data))
        }
        (Answer::Udp(data), proto::UDP) if payload.len() >= 8 => Some(ip.udp(sport, dport, data)),
        (Answer::Tcp { flags, seq, ack, data }, proto::TCP) if payload.len() >= 20 => {
            let used = payload.len() - (usize::from(payload[12] >> 4) * 4).min(payload.len());
            let marks = (payload[13] & (flag::SYN | flag::FIN)).count_ones();
            let next = word(payload, 4)
                .wrapping_add(u32::try_from(used).unwrap_or_default())
                .wrapping_add(marks);
            let segment = Segment {
                sport,
                dport,
                seq: seq.unwrap_or_else(|| word(payload, 8)),
                ack: ack.unwrap_or(next),
                flags: *flags,
                options: Vec::new(),
                data: data.clone(),
            };
            Some(ip.tcp(&segment))
        }
        (Answer::Same, number) => {
            let mut back = payload[..payload.len().min(LONGEST)].to_vec();
            // Protocols with ports have them in the same place.
            if matches!(number, proto::SCTP | proto::DCCP | proto::UDP_LITE) && back.len() >= 4 {
                back.swap(0, 2);
                back.swap(1, 3);
            }
            Some(ip.packet(number, &back))
        }
        _ => None,
    }
}

fn error_about(error: &IcmpError, packet: &[u8], payload: &[u8], id: u16) -> Vec<u8> {
    let header_len = packet.len() - payload.len();
    let quote = &packet[..header_len.saturating_add(error.quote).min(packet.len())];
    let by = error.by.unwrap_or_else(|| addr(packet, 16));
    Ip::new(by, addr(packet, 12), id).icmp(error.kind, error.code, error.rest, quote)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(172, 19, 0, 2);
    const B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

    fn built(what: &What, arrival: &Arrival) -> Option<Vec<u8>> {
        build(what, 9, arrival)
    }

    #[test]
    fn answers_go_back_the_way_that_things_came() {
        let what = What::Answer(Answer::Udp(b"yes".to_vec()));
        let came = Arrival::outside(Ip::new(A, B, 7).udp(1000, 53, b"?"));
        assert_eq!(built(&what, &came), Some(Ip::new(B, A, 9).udp(53, 1000, b"yes")));
        assert_eq!(built(&What::Answer(Answer::Echo), &came), None, "it was no echo request");
    }

    #[test]
    fn a_segment_acknowledges_all_that_came() {
        let syn = Segment { sport: 5, dport: 6, seq: 100, flags: flag::SYN, ..Segment::default() };
        let flags = flag::SYN | flag::ACK;
        let answer = Answer::Tcp { flags, seq: Some(900), ack: None, data: Vec::new() };
        let expected =
            Segment { sport: 6, dport: 5, seq: 900, ack: 101, flags, ..Segment::default() };
        let built = built(&What::Answer(answer), &Arrival::outside(Ip::new(A, B, 7).tcp(&syn)));
        assert_eq!(built, Some(Ip::new(B, A, 9).tcp(&expected)));
    }

    #[test]
    fn an_error_quotes_what_came_and_not_another_error() {
        let packet = Ip::new(A, B, 7).udp(1000, 53, b"a question");
        let error = IcmpError { by: None, kind: 3, code: 3, rest: [0; 4], quote: 8 };
        let expected = Ip::new(B, A, 9).icmp(3, 3, [0; 4], &packet[..28]);
        assert_eq!(built(&What::Error(error.clone()), &Arrival::outside(packet)), Some(expected));
        let another = Arrival::outside(Ip::new(A, B, 8).icmp(3, 1, [0; 4], b"whatever"));
        assert_eq!(built(&What::Error(error), &another), None);
    }
}
