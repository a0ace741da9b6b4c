//! Switching the offloads of an interface, so that tests see real checksums
//! and packets of wire size.

use crate::Netns;
use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use std::os::fd::AsRawFd;

// linux/ethtool.h
const ETHTOOL_SRXCSUM: u32 = 0x15;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;
const ETHTOOL_SGRO: u32 = 0x2c;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Switches checksum and segmentation offloads of an interface off.
///
/// From then on its packets carry complete checksums, arriving ones are
/// verified in software, and no frame is larger than the MTU.
pub fn offloads_off(ns: &Netns, interface: &str) {
    ns.run(|| {
        for command in [ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO, ETHTOOL_STXCSUM, ETHTOOL_SRXCSUM]
        {
            set(interface, command, 0)
                .unwrap_or_else(|e| panic!("ethtool {command:#x} on {interface}: {e}"));
        }
    });
}

fn set(interface: &str, command: u32, data: u32) -> Result<(), Errno> {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = EthtoolValue { cmd: command, data };
    // SAFETY: ifreq is plain data for which all-zero bytes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(interface.len() < request.ifr_name.len(), "interface name too long");
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL takes an ifreq whose data points to an
    // ethtool_value for these commands; both live until the call returns.
    let result = unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    Errno::result(result).map(drop)
}
