//! The frames that the generator makes.

use std::net::Ipv4Addr;

use netbpf_common::{MacAddr, bench::Generator};

/// Ports of a flow's source: outside of those that hosts choose for themselves.
pub(super) const FIRST_PORT: u16 = 1024;
/// Flows before the address is changed.
pub(super) const PORTS: u32 = 31_000;

/// UDP datagrams in Ethernet frames of 64 bytes, of one flow or of many.
///
/// They have no UDP checksum: so nobody verifies one in software, as nobody does
/// where a network card has verified it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Frames {
    /// MACs of sender and receiver.
    pub(super) macs: (MacAddr, MacAddr),
    /// Addresses of sender and receiver.
    pub(super) addrs: (Ipv4Addr, Ipv4Addr),
    /// The receiver's port.
    pub(super) port: u16,
    /// Flows: each is a source port and, if there are more flows than
    /// [`PORTS`], one of several addresses.
    pub(super) flows: u32,
    /// Whether it is the sender that has several addresses, not the receiver.
    pub(super) walks_source: bool,
}

impl Frames {
    /// What the generator is told.
    pub(super) fn generator(&self) -> Generator {
        let frame = self.first();
        let mut header: Vec<u16> =
            frame[14..34].chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])).collect();
        // Neither the checksum nor the half that changes.
        let walking = if self.walks_source { 7 } else { 9 };
        let first_addr = u32::from(std::mem::take(&mut header[walking]));
        header[5] = 0;
        let mut words = [0; Generator::WORDS];
        for (word, bytes) in words.iter_mut().zip(frame.chunks_exact(8)) {
            *word = u64::from_ne_bytes(std::array::from_fn(|i| bytes[i]));
        }
        Generator {
            frame: words,
            sum: fold(header.into_iter().map(u32::from).sum()),
            first_addr,
            first_port: FIRST_PORT.into(),
            ports: PORTS,
            flows: self.flows.max(1),
            walks_source: self.walks_source.into(),
            ..Generator::default()
        }
    }

    /// The first frame, as the generator makes it.
    pub(super) fn first_whole(&self) -> [u8; Generator::FRAME] {
        self.whole(0)
    }

    /// The frame of the `n`th flow, counted from 0, whose sender has several addresses.
    pub(super) fn whole(&self, n: u32) -> [u8; Generator::FRAME] {
        let from = Ipv4Addr::from_bits(self.addrs.0.to_bits().wrapping_add(n / PORTS));
        let mut frame = Self { addrs: (from, self.addrs.1), ..*self }.first();
        // There are far fewer than 2^16 of them.
        let port = FIRST_PORT.wrapping_add(u16::try_from(n % PORTS).unwrap_or_default());
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        let words = frame[14..34].chunks_exact(2);
        let sum = words.map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
        #[allow(clippy::cast_possible_truncation, reason = "a folded sum has sixteen bits")]
        let checksum = !(fold(sum) as u16);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame
    }

    /// The first frame, without IPv4 checksum.
    fn first(&self) -> [u8; Generator::FRAME] {
        const ETHERNET: usize = 14;
        #[allow(clippy::cast_possible_truncation, reason = "sixty-four bytes")]
        const LEN: u16 = (Generator::FRAME - ETHERNET) as u16;
        let mut frame = [0; Generator::FRAME];
        let mut put = |at: usize, bytes: &[u8]| frame[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.macs.1.octets());
        put(6, &self.macs.0.octets());
        put(12, &0x0800_u16.to_be_bytes());
        // Version and header length; total length; don't fragment; TTL; UDP.
        put(14, &[0x45, 0]);
        put(16, &LEN.to_be_bytes());
        put(20, &[0x40, 0, 64, 17]);
        put(26, &self.addrs.0.octets());
        put(30, &self.addrs.1.octets());
        put(34, &FIRST_PORT.to_be_bytes());
        put(36, &self.port.to_be_bytes());
        put(38, &(LEN - 20).to_be_bytes());
        put(Generator::HEADERS, &Generator::MARK);
        frame
    }
}

/// A one's complement sum in 16 bits.
fn fold(sum: u32) -> u32 {
    let once = (sum & 0xffff) + (sum >> 16);
    (once & 0xffff) + (once >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(walks_source: bool) -> Frames {
        Frames {
            macs: (MacAddr::new([2, 0, 0, 0, 0, 1]), MacAddr::new([2, 0, 0, 0, 0, 2])),
            addrs: (Ipv4Addr::new(172, 19, 0, 2), Ipv4Addr::new(198, 18, 0, 1)),
            port: 9,
            flows: 5,
            walks_source,
        }
    }

    /// The header as the program completes it for the address `n` further on.
    fn header(frames: &Frames, n: u32) -> Vec<u8> {
        let generator = frames.generator();
        let bytes: Vec<u8> = generator.frame.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut header = bytes[14..34].to_vec();
        let half = generator.first_addr + n;
        let sum = generator.sum + half;
        let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("sixteen bits");
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        let at = if frames.walks_source { 14 } else { 18 };
        header[at..at + 2].copy_from_slice(&u16::try_from(half).expect("a half").to_be_bytes());
        header
    }

    #[test]
    fn every_address_has_its_checksum() {
        for walks_source in [false, true] {
            for n in [0, 1, 255, 256] {
                let header = header(&frames(walks_source), n);
                let words = header.chunks_exact(2);
                let sum = words.map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
                assert_eq!(fold(sum), 0xffff, "{walks_source} {n}");
            }
        }
    }

    #[test]
    fn a_frame_is_what_its_lengths_say() {
        let frame = frames(false).first();
        assert_eq!(u16::from_be_bytes([frame[16], frame[17]]), 50);
        assert_eq!(u16::from_be_bytes([frame[38], frame[39]]), 30);
        assert_eq!(frame[42..46], Generator::MARK);
    }
}
