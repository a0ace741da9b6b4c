//! Datagrams in pieces.

use crate::packet::Ip;

const MORE: u16 = 0x2000;

/// The fragments of the packet with this payload, `piece` bytes of payload in
/// each (a multiple of 8), in order.
pub fn fragments(ip: &Ip, payload: &[u8], piece: usize) -> Vec<Vec<u8>> {
    assert!(piece.is_multiple_of(8), "offsets are in units of 8 bytes");
    let count = payload.len().div_ceil(piece);
    let one = |(i, data): (usize, &[u8])| {
        let offset = u16::try_from(i * piece / 8).expect("within a packet");
        let more = if i + 1 < count { MORE } else { 0 };
        Ip { fragment: offset | more, ..ip.clone() }.packet(data)
    };
    payload.chunks(piece).enumerate().map(one).collect()
}

/// The fragments of a UDP datagram.
pub fn udp_fragments(ip: &Ip, ports: (u16, u16), data: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let whole = Ip { options: Vec::new(), ..ip.clone() }.udp(ports.0, ports.1, data);
    fragments(ip, &whole[20..], piece)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Seen, UDP, ethernet};
    use std::net::Ipv4Addr;

    #[test]
    fn fragments_put_together_are_the_datagram() {
        let ip = Ip::new(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, UDP);
        let whole = ip.udp(1, 2, &[7; 3000]);
        let pieces = udp_fragments(&ip, (1, 2), &[7; 3000], 1480);
        assert_eq!(pieces.len(), 3);
        let payloads: Vec<u8> = pieces
            .iter()
            .map(|piece| ethernet([0; 6], [0; 6], 0x800, piece))
            .flat_map(|frame| Seen::parse(&frame).expect("a packet").payload)
            .collect();
        assert_eq!(payloads, whole[20..]);
        assert_eq!([pieces[0][6], pieces[1][6], pieces[2][6]], [0x20, 0x20, 0x01]);
    }
}
