//! Frames that are nearly right.

use crate::{
    Random,
    packet::{self, ICMP, TCP, UDP},
};

/// Longest frame that passes a wire of 1,500 bytes.
const LONGEST: usize = 1514;
/// Bytes at which things turn.
const EDGES: [u8; 12] = [0, 1, 2, 4, 5, 0x0f, 0x45, 0x46, 0x4f, 0x7f, 0x80, 0xff];

/// A frame made from one of `originals` by a few changes, most of them in its
/// headers. Half of them get lengths and checksums that fit, to be believed further.
pub fn mutated(random: &mut Random, originals: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = random.pick(originals).clone();
    for _ in 0..=random.below(4) {
        change(random, &mut frame);
    }
    match random.below(4) {
        0 => repair(&mut frame, false),
        1 => repair(&mut frame, true),
        _ => {}
    }
    frame
}

fn change(random: &mut Random, frame: &mut Vec<u8>) {
    // From the EtherType on; MACs are changed rarely.
    let first = if random.below(20) == 0 { 0 } else { 12 };
    let end = if random.below(4) == 0 { frame.len() } else { frame.len().min(76) };
    let at = first + random.below(end.max(first + 1) - first);
    match random.below(6) {
        0 => frame[at] = random.byte(),
        1 => frame[at] ^= 1 << random.below(8),
        2 => frame[at] = *random.pick(&EDGES),
        3 => frame.truncate((14 + random.below(frame.len())).min(frame.len())),
        4 => {
            let more = random.below(LONGEST - frame.len() + 1).min(64);
            frame.extend(random.bytes(more));
        }
        _ => {
            let other = first + random.below(end.max(first + 1) - first);
            frame.swap(at, other);
        }
    }
}

/// Writes the length of the packet, if asked to, and the checksums of what
/// the frame seems to hold.
fn repair(frame: &mut [u8], length: bool) {
    let Some(ip) = frame.get_mut(14..).filter(|ip| ip.len() >= 20) else { return };
    if length {
        let total = u16::try_from(ip.len()).expect("a frame's length");
        ip[2..4].copy_from_slice(&total.to_be_bytes());
    }
    let header_len = (usize::from(ip[0] & 0xf) * 4).clamp(20, ip.len());
    ip[10..12].fill(0);
    let sum = packet::checksum(&ip[..header_len]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let (header, l4) = ip.split_at_mut(header_len);
    let at = match header[9] {
        ICMP => 2,
        TCP => 16,
        UDP => 6,
        _ => return,
    };
    if l4.len() < at + 2 {
        return;
    }
    l4[at..at + 2].fill(0);
    let addr = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]].into();
    let sum = match header[9] {
        ICMP => packet::checksum(l4),
        proto => packet::l4_checksum(addr(12), addr(16), proto, l4),
    };
    l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NS1, OUTSIDE, packet::Ip};

    #[test]
    fn the_same_seed_makes_the_same_frames_and_they_differ() {
        let ip = Ip::new(NS1, OUTSIDE, UDP).udp(1, 2, b"original");
        let originals = [packet::ethernet([1; 6], [2; 6], packet::IPV4, &ip)];
        let make = |seed| -> Vec<Vec<u8>> {
            let mut random = Random::new(seed);
            (0..1000).map(|_| mutated(&mut random, &originals)).collect()
        };
        assert_eq!(make(7), make(7));
        assert_ne!(make(7), make(8));
        let all = make(7);
        assert!(all.iter().all(|frame| (14..=LONGEST).contains(&frame.len())));
        assert!(all.iter().filter(|frame| **frame == originals[0]).count() < 100);
    }

    #[test]
    fn what_is_repaired_is_right() {
        let ip = Ip::new(NS1, OUTSIDE, UDP).udp(1, 2, b"original");
        let mut frame = packet::ethernet([1; 6], [2; 6], packet::IPV4, &ip);
        frame[24] = 0x55;
        frame[40] = 0xaa;
        frame[44] ^= 1;
        repair(&mut frame, true);
        assert!(packet::Seen::parse(&frame).expect("a packet").checksums_ok());
    }
}
