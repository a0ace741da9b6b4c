//! Frames, built byte by byte and taken apart again.

use std::net::Ipv4Addr;

/// An Ethernet address.
pub type Mac = [u8; 6];
/// ff:ff:ff:ff:ff:ff.
pub const BROADCAST: Mac = [0xff; 6];

/// `EtherType` of IPv4.
pub const IPV4: u16 = 0x0800;
/// `EtherType` of ARP.
pub const ARP: u16 = 0x0806;
/// `EtherType` of a VLAN tag.
pub const VLAN: u16 = 0x8100;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// The internet checksum (RFC 1071) of `bytes`; 0 of bytes that include theirs.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// A frame.
pub fn ethernet(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &ethertype.to_be_bytes(), payload].concat()
}

/// An ARP packet: `op` 1 asks, 2 answers.
pub fn arp(op: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(op.to_be_bytes());
    for (mac, addr) in [sender, target] {
        packet.extend(mac);
        packet.extend(addr.octets());
    }
    packet
}

/// The header of an IPv4 packet, but for lengths and checksum.
#[derive(Clone, Debug)]
pub struct Ip {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Protocol number.
    pub proto: u8,
    /// Time to live.
    pub ttl: u8,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset, as the header has them: 0x2000 more fragments, 0x4000 do not
    /// fragment, the rest in units of 8 bytes.
    pub fragment: u16,
    /// Options, a multiple of 4 bytes.
    pub options: Vec<u8>,
}

impl Ip {
    /// A header without anything special.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, proto: u8) -> Self {
        Self { src, dst, proto, ttl: 64, id: 0x1234, fragment: 0, options: Vec::new() }
    }

    /// The packet with this payload.
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let words = u8::try_from(header_len / 4).expect("options fit");
        let total = u16::try_from(header_len + payload.len()).expect("a packet's length");
        let mut packet = vec![0x40 | words, 0];
        packet.extend(total.to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, self.proto, 0, 0]);
        packet.extend(self.src.octets());
        packet.extend(self.dst.octets());
        packet.extend(&self.options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    /// The packet with a UDP datagram.
    pub fn udp(&self, sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
        let len = u16::try_from(8 + data.len()).expect("a datagram's length");
        let header = [sport, dport, len, 0].map(u16::to_be_bytes).concat();
        let mut datagram = [&header[..], data].concat();
        let sum = match l4_checksum(self.src, self.dst, UDP, &datagram) {
            0 => 0xffff,
            sum => sum,
        };
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        Self { proto: UDP, ..self.clone() }.packet(&datagram)
    }

    /// The packet with a TCP segment without data; `flags` as in the header:
    /// 1 FIN, 2 SYN, 4 RST, 16 ACK.
    pub fn tcp(&self, sport: u16, dport: u16, flags: u8, seq: u32, ack: u32) -> Vec<u8> {
        let mut segment = [sport, dport].map(u16::to_be_bytes).concat();
        segment.extend(seq.to_be_bytes());
        segment.extend(ack.to_be_bytes());
        segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        let sum = l4_checksum(self.src, self.dst, TCP, &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        Self { proto: TCP, ..self.clone() }.packet(&segment)
    }

    /// The packet with an ICMP message.
    pub fn icmp(&self, kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
        let mut message = [&[kind, code, 0, 0], &rest[..], data].concat();
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        Self { proto: ICMP, ..self.clone() }.packet(&message)
    }
}

/// The checksum of a TCP or UDP payload with its pseudo header; 0 if `l4`
/// includes a right one.
pub fn l4_checksum(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, l4: &[u8]) -> u16 {
    let len = u16::try_from(l4.len()).expect("a payload's length").to_be_bytes();
    checksum(&[&src.octets()[..], &dst.octets(), &[0, proto], &len, l4].concat())
}

/// What a frame with IPv4 in it says, as far as it has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Source MAC.
    pub src_mac: Mac,
    /// Destination MAC.
    pub dst_mac: Mac,
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Protocol number.
    pub proto: u8,
    /// Time to live.
    pub ttl: u8,
    /// What follows the IPv4 header, padding of the frame cut off.
    pub payload: Vec<u8>,
    /// Whether the header's checksum is right.
    pub header_ok: bool,
}

impl Seen {
    /// Takes a frame apart; none if there is no whole IPv4 header in it.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (dst_mac, rest) = frame.split_first_chunk::<6>()?;
        let (src_mac, rest) = rest.split_first_chunk::<6>()?;
        let (ethertype, ip) = rest.split_first_chunk::<2>()?;
        let header_len = usize::from(ip.first()? & 0xf) * 4;
        if u16::from_be_bytes(*ethertype) != IPV4 || header_len < 20 || ip.len() < header_len {
            return None;
        }
        let addr = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]])).clamp(header_len, ip.len());
        Some(Self {
            src_mac: *src_mac,
            dst_mac: *dst_mac,
            src: addr(12),
            dst: addr(16),
            proto: ip[9],
            ttl: ip[8],
            payload: ip[header_len..total].to_vec(),
            header_ok: checksum(&ip[..header_len]) == 0,
        })
    }

    /// Source and destination port, where there are any.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let bytes = self.payload.first_chunk::<4>()?;
        let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        matches!(self.proto, TCP | UDP).then(|| (port(0), port(2)))
    }

    /// Whether the checksums of the header and of what it carries are right.
    pub fn checksums_ok(&self) -> bool {
        let no_udp_checksum = self.proto == UDP && self.payload.get(6..8) == Some(&[0, 0]);
        self.header_ok
            && match self.proto {
                ICMP => checksum(&self.payload) == 0,
                TCP | UDP if !no_udp_checksum => {
                    l4_checksum(self.src, self.dst, self.proto, &self.payload) == 0
                }
                _ => true,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_reads_back_with_right_checksums() {
        let (a, b) = (Ipv4Addr::new(172, 19, 0, 2), Ipv4Addr::new(203, 0, 113, 2));
        let ip = Ip { options: vec![1, 1, 1, 1], ..Ip::new(a, b, UDP) };
        for packet in [
            ip.udp(1000, 2000, b"odd"),
            ip.tcp(1000, 2000, 2, 7, 0),
            ip.icmp(8, 0, [0, 1, 0, 2], b"ping"),
        ] {
            let frame = ethernet(BROADCAST, [2; 6], IPV4, &packet);
            let seen = Seen::parse(&frame).expect("an IPv4 frame");
            assert_eq!((seen.src, seen.dst, seen.ttl), (a, b, 64));
            assert!(seen.checksums_ok(), "{seen:?}");
            let mut broken = frame.clone();
            *broken.last_mut().expect("a byte") ^= 1;
            assert!(!Seen::parse(&broken).expect("still a frame").checksums_ok());
        }
    }

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        // The example of RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
