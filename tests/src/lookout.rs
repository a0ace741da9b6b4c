//! Somebody outside who looks at every frame that comes, for what must never leave.

use crate::{Host, UPLINK, packet, traffic::FrameSocket};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Watches all that leaves the host by its uplink, until it is asked.
pub struct Lookout {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Option<Vec<u8>>)>,
}

impl Lookout {
    /// Begins to watch.
    pub fn outside(host: &Host) -> Self {
        let capture = FrameSocket::open(host.outside(), "out0");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut count, mut leaked) = (0, None);
            loop {
                // Asked before looking once more, so that nothing is left unseen.
                let last = stopped.load(Ordering::Relaxed);
                while let Some(frame) = capture.next(Duration::from_millis(10)) {
                    count += usize::from(!frame.outgoing);
                    if !frame.outgoing && leaked.is_none() && is_leak(&frame.bytes) {
                        leaked = Some(frame.bytes);
                    }
                }
                if last {
                    return (count, leaked);
                }
            }
        });
        Self { stop, thread }
    }

    /// Panics with the first frame that should not have left; tells how many did.
    #[track_caller]
    pub fn nothing_leaked(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let (count, leaked) = self.thread.join().expect("the lookout does not panic");
        assert!(leaked.is_none(), "this left the host: {leaked:02x?}");
        count
    }
}

/// Whether a frame says from where in the private network it comes: as its
/// source, in ARP, or in what an ICMP error quotes.
fn is_leak(frame: &[u8]) -> bool {
    let mut rest = frame.get(12..).unwrap_or_default();
    loop {
        let Some((ethertype, payload)) = rest.split_first_chunk::<2>() else { return false };
        match u16::from_be_bytes(*ethertype) {
            0x8100 | 0x88a8 | 0x9100 => rest = payload.get(2..).unwrap_or_default(),
            packet::IPV4 => return is_leaking_packet(payload),
            packet::ARP => return has_private(payload, 14),
            _ => return false,
        }
    }
}

fn is_leaking_packet(ip: &[u8]) -> bool {
    if has_private(ip, 12) {
        return true;
    }
    let header_len = ip.first().map_or(20, |first| usize::from(first & 0xf) * 4);
    let payload = ip.get(header_len..).unwrap_or_default();
    let is_whole =
        ip.get(6..8).is_some_and(|at| u16::from_be_bytes([at[0], at[1]]).trailing_zeros() >= 13);
    let is_error = ip.get(9) == Some(&packet::ICMP)
        && is_whole
        && matches!(payload.first(), Some(3 | 4 | 5 | 11 | 12));
    let quote = payload.get(8..).unwrap_or_default();
    // Of what is said in the host's name: strangers may quote what they like.
    let is_ours = ip.get(12..16) == Some(&UPLINK.octets()[..]);
    is_error && is_ours && has_private(quote, 12)
}

/// Whether there is an address of the default subnet.
fn has_private(bytes: &[u8], at: usize) -> bool {
    bytes.get(at..at + 4).is_some_and(|addr| addr.starts_with(&[172, 19, 0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{BROADCAST, ICMP, IPV4, Ip, UDP, ethernet};
    use crate::{NS1, OUTSIDE};

    #[test]
    fn what_leaks_is_seen_and_what_does_not_is_not() {
        let frame = |ip: &[u8]| ethernet(BROADCAST, [2; 6], IPV4, ip);
        let private = Ip::new(NS1, OUTSIDE, UDP).udp(1, 2, b"");
        let public = Ip::new(UPLINK, OUTSIDE, UDP).udp(1, 2, b"");
        let error = |quote: &[u8]| Ip::new(UPLINK, OUTSIDE, ICMP).icmp(3, 3, [0; 4], quote);
        let mut tagged = frame(&private);
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        for bytes in [frame(&private), tagged, frame(&error(&private))] {
            assert!(is_leak(&bytes), "{bytes:02x?}");
        }
        for bytes in [frame(&public), frame(&error(&public)), vec![0; 13], vec![8; 30]] {
            assert!(!is_leak(&bytes), "{bytes:02x?}");
        }
    }
}
