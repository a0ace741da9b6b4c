//! IPv4 packets built byte by byte, wrong ones included.

use std::net::Ipv4Addr;

/// Protocol numbers (IANA).
pub mod proto {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// GRE.
    pub const GRE: u8 = 47;
    /// ESP.
    pub const ESP: u8 = 50;
    /// ICMP of IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}

/// Flags of TCP (RFC 9293 section 3.1).
pub mod flag {
    /// No more data follows.
    pub const FIN: u8 = 1;
    /// The connection begins.
    pub const SYN: u8 = 2;
    /// The connection is broken off.
    pub const RST: u8 = 4;
    /// Hand the data over at once.
    pub const PSH: u8 = 8;
    /// The acknowledgement is valid.
    pub const ACK: u8 = 16;
    /// The urgent pointer is valid.
    pub const URG: u8 = 32;
}

/// The bit of the fragment field that forbids fragmenting.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// The bit of the fragment field that says that more fragments follow.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The bits of the fragment field that say where a fragment begins, in units of
/// 8 bytes.
pub const OFFSET: u16 = 0x1fff;

/// The internet checksum (RFC 1071) of `bytes`; 0 of bytes that include a right one.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The checksum of what an IPv4 packet carries, with the pseudo header.
#[must_use]
pub fn pseudo_checksum(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, l4: &[u8]) -> u16 {
    let len = u16::try_from(l4.len()).unwrap_or(u16::MAX).to_be_bytes();
    checksum(&[&src.octets()[..], &dst.octets(), &[0, proto], &len, l4].concat())
}

/// The sum of an IPv4 packet's pseudo header: what a device completes to a checksum.
#[must_use]
pub fn pseudo_sum(packet: &[u8]) -> u16 {
    let header_len = usize::from(packet.first().copied().unwrap_or_default() & 15) * 4;
    let len = u16::try_from(packet.len().saturating_sub(header_len)).unwrap_or(u16::MAX);
    let (addrs, number) = (packet.get(12..20), packet.get(9).copied());
    let pseudo = [addrs.unwrap_or_default(), &[0, number.unwrap_or_default()], &len.to_be_bytes()];
    !checksum(&pseudo.concat())
}

/// The header of an IPv4 packet, but for lengths and checksum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ip {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Type of service.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Flags and offset.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Options, a multiple of 4 bytes.
    pub options: Vec<u8>,
}

/// A TCP segment.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Segment {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags: see [`flag`].
    pub flags: u8,
    /// Options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// Data.
    pub data: Vec<u8>,
}

impl Ip {
    /// A header without anything special.
    #[must_use]
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, id: u16) -> Self {
        Self { src, dst, tos: 0, id, fragment: 0, ttl: 64, options: Vec::new() }
    }

    /// The packet with this payload. What does not fit its fields is cut short there.
    #[must_use]
    pub fn packet(&self, proto: u8, payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let words = u8::try_from(header_len / 4).unwrap_or(15) & 15;
        let total = u16::try_from(header_len + payload.len()).unwrap_or(u16::MAX);
        let mut packet = vec![0x40 | words, self.tos];
        packet.extend(total.to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, proto, 0, 0]);
        packet.extend(self.src.octets());
        packet.extend(self.dst.octets());
        packet.extend(&self.options);
        fix_header(&mut packet);
        packet.extend(payload);
        packet
    }

    /// The packet with a UDP datagram.
    #[must_use]
    pub fn udp(&self, sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
        let len = u16::try_from(8 + data.len()).unwrap_or(u16::MAX);
        let header = [sport, dport, len, 0].map(u16::to_be_bytes).concat();
        let mut datagram = [&header[..], data].concat();
        let sum = match pseudo_checksum(self.src, self.dst, proto::UDP, &datagram) {
            0 => 0xffff,
            sum => sum,
        };
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        self.packet(proto::UDP, &datagram)
    }

    /// The packet with a TCP segment.
    #[must_use]
    pub fn tcp(&self, segment: &Segment) -> Vec<u8> {
        let mut bytes = [segment.sport, segment.dport].map(u16::to_be_bytes).concat();
        bytes.extend(segment.seq.to_be_bytes());
        bytes.extend(segment.ack.to_be_bytes());
        let words = u8::try_from((20 + segment.options.len()) / 4).unwrap_or(15) & 15;
        bytes.extend([words << 4, segment.flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend(&segment.options);
        bytes.extend(&segment.data);
        let sum = pseudo_checksum(self.src, self.dst, proto::TCP, &bytes);
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        self.packet(proto::TCP, &bytes)
    }

    /// The packet with an ICMP message.
    #[must_use]
    pub fn icmp(&self, kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
        let mut message = [&[kind, code, 0, 0], &rest[..], data].concat();
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        self.packet(proto::ICMP, &message)
    }

    /// The packet with an echo request.
    #[must_use]
    pub fn echo(&self, id: u16, sequence: u16, data: &[u8]) -> Vec<u8> {
        let [a, b] = id.to_be_bytes();
        let [c, d] = sequence.to_be_bytes();
        self.icmp(8, 0, [a, b, c, d], data)
    }
}

/// Makes the header's checksum right, which begins the packet and has a length
/// that the packet has.
pub fn fix_header(packet: &mut [u8]) {
    let header_len = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
    if header_len < 20 || packet.len() < header_len {
        return;
    }
    packet[10..12].fill(0);
    let sum = checksum(&packet[..header_len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The packet in fragments of at most `size` bytes of payload, which is a
/// multiple of 8. A packet with options has them in each.
#[must_use]
pub fn fragments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let header_len = usize::from(packet[0] & 15) * 4;
    let (header, payload) = packet.split_at(header_len);
    let size = (size / 8).max(1) * 8;
    let last = payload.len().div_ceil(size).saturating_sub(1);
    let cut = |(n, part): (usize, &[u8])| {
        let mut fragment = [header, part].concat();
        let total = u16::try_from(fragment.len()).unwrap_or(u16::MAX);
        fragment[2..4].copy_from_slice(&total.to_be_bytes());
        let offset = u16::try_from(n * size / 8).unwrap_or(OFFSET) & OFFSET;
        let more = if n == last { 0 } else { MORE_FRAGMENTS };
        fragment[6..8].copy_from_slice(&(offset | more).to_be_bytes());
        fix_header(&mut fragment);
        fragment
    };
    payload.chunks(size).enumerate().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(172, 19, 0, 2);
    const B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        // The example of RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn what_is_built_has_right_checksums() {
        let ip = Ip { options: vec![1; 4], ..Ip::new(A, B, 7) };
        let segment = Segment { sport: 1, dport: 2, data: b"odd".to_vec(), ..Segment::default() };
        for (packet, proto) in [(ip.udp(1, 2, b"odd"), proto::UDP), (ip.tcp(&segment), proto::TCP)]
        {
            assert_eq!(checksum(&packet[..24]), 0);
            assert_eq!(pseudo_checksum(A, B, proto, &packet[24..]), 0);
        }
        assert_eq!(checksum(&ip.echo(1, 2, b"ping")[24..]), 0);
    }

    #[test]
    fn fragments_are_the_packet_in_parts() {
        let packet = Ip::new(A, B, 7).udp(1, 2, &[5; 100]);
        let parts = fragments(&packet, 40);
        assert_eq!(parts.len(), 3);
        let field = |part: &[u8]| u16::from_be_bytes([part[6], part[7]]);
        let fields: Vec<u16> = parts.iter().map(|part| field(part)).collect();
        assert_eq!(fields, [MORE_FRAGMENTS, MORE_FRAGMENTS | 5, 10]);
        let payload: Vec<u8> = parts.iter().flat_map(|part| part[20..].to_vec()).collect();
        assert_eq!(payload, packet[20..]);
        assert!(parts.iter().all(|part| checksum(&part[..20]) == 0));
    }
}
