//! The offloads of an interface.

use std::os::fd::AsRawFd as _;

use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use crate::error::{Context as _, Result};

/// Commands of `linux/ethtool.h`, in the order in which they are switched off:
/// segmentation needs checksums.
const OFFLOADS: [(u32, &str); 5] = [
    (0x1f, "TCP segmentation"),  // ETHTOOL_STSO
    (0x24, "segmentation"),      // ETHTOOL_SGSO
    (0x2c, "receive"),           // ETHTOOL_SGRO
    (0x17, "transmit checksum"), // ETHTOOL_STXCSUM
    (0x15, "receive checksum"),  // ETHTOOL_SRXCSUM
];

/// `struct ethtool_value` of `linux/ethtool.h`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Switches checksum and segmentation offloads of an interface off: from then
/// on its packets carry complete checksums, those that arrive are verified in
/// software, and no frame is larger than the MTU.
///
/// The interface is one of the network namespace that the calling thread is in.
///
/// # Errors
/// The kernel's, and that there is no such interface.
pub fn switch_offloads_off(interface: &str) -> Result<()> {
    for (command, what) in OFFLOADS {
        switch_off(interface, command)
            .context(format!("cannot switch {what} offload of {interface} off"))?;
    }
    Ok(())
}

fn switch_off(interface: &str, command: u32) -> Result<(), Errno> {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = EthtoolValue { cmd: command, data: 0 };
    // SAFETY: ifreq is plain data for which all-zero bytes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: it ends the name.
    if interface.len() >= request.ifr_name.len() {
        return Err(Errno::ENODEV);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL takes an ifreq whose data points to an ethtool_value
    // for these commands; both live until the call returns.
    let result = unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    Errno::result(result).map(drop)
}
