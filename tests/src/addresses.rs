//! The addresses of the fixture and those that netbpf gives by default.

use std::net::{Ipv4Addr, SocketAddrV4};

/// The host's address on its uplink `up0`.
pub const UPLINK: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The address outside, the host's default gateway, on `out0`.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The gateway of the default subnet, on the bridge.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 19, 0, 1);
/// The first namespace's address.
pub const NS1: Ipv4Addr = Ipv4Addr::new(172, 19, 0, 2);
/// The second namespace's address.
pub const NS2: Ipv4Addr = Ipv4Addr::new(172, 19, 0, 3);
/// The third namespace's address.
pub const NS3: Ipv4Addr = Ipv4Addr::new(172, 19, 0, 4);

/// A port at an address.
pub const fn at(addr: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(addr, port)
}

/// `len` bytes that differ from their neighbours.
pub fn sample(len: usize) -> Vec<u8> {
    (0..=250u8).cycle().take(len).collect()
}
