//! Sockets of the host that wait for anybody, as `/proc/net` lists them for the
//! network namespace of the calling task.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::topology::Proto;

/// States in the kernel's numbers (`TCP_LISTEN`, `TCP_CLOSE`): of a UDP socket
/// the latter is that of one that is not connected.
const LISTEN: &str = "0A";
const CLOSE: &str = "07";

/// A socket that waits for anybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listener {
    /// Its protocol.
    pub proto: Proto,
    /// Its address; 0.0.0.0 for any.
    pub addr: Ipv4Addr,
    /// Its port.
    pub port: u16,
}

/// All that wait on IPv4 addresses, those of IPv6 that take IPv4 along included.
/// What cannot be read is left out: it is asked for warnings only.
#[must_use]
pub fn listeners() -> Vec<Listener> {
    let mut found = Vec::new();
    for (file, proto, state) in [
        ("tcp", Proto::Tcp, LISTEN),
        ("tcp6", Proto::Tcp, LISTEN),
        ("udp", Proto::Udp, CLOSE),
        ("udp6", Proto::Udp, CLOSE),
    ] {
        let Ok(file) = File::open(format!("/proc/thread-self/net/{file}")) else { continue };
        for line in BufReader::new(file).lines().skip(1).map_while(Result::ok) {
            let is_in_state = line.split_whitespace().nth(3) == Some(state);
            // Connections come behind what listens, and there may be very many.
            if !is_in_state && proto == Proto::Tcp {
                break;
            }
            found.extend(local(&line).filter(|_| is_in_state).map(|(addr, port)| Listener {
                proto,
                addr,
                port,
            }));
        }
    }
    found
}

/// The local address and port of a line: words of the address as the CPU loads
/// them, the port in host order, all in hexadecimal digits.
fn local(line: &str) -> Option<(Ipv4Addr, u16)> {
    let (addr, port) = line.split_whitespace().nth(1)?.split_once(':')?;
    let mut octets = Vec::with_capacity(16);
    for word in addr.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    let addr = match <[u8; 4]>::try_from(&octets[..]) {
        Ok(octets) => Ipv4Addr::from(octets),
        Err(_) => match Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?) {
            Ipv6Addr::UNSPECIFIED => Ipv4Addr::UNSPECIFIED,
            addr => addr.to_ipv4_mapped()?,
        },
    };
    Some((addr, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_both_families_are_read() {
        let read = |addr: &str| local(&format!("  0: {addr}:1F90 00000000:0000 0A 0:0"));
        let loopback = Ipv4Addr::LOCALHOST;
        assert_eq!(read("0100007F"), Some((loopback, 8080)));
        assert_eq!(read("00000000"), Some((Ipv4Addr::UNSPECIFIED, 8080)));
        assert_eq!(read(&"0".repeat(32)), Some((Ipv4Addr::UNSPECIFIED, 8080)));
        assert_eq!(read("0000000000000000FFFF00000100007F"), Some((loopback, 8080)));
        for other in ["00000000000000000000000001000000", "", "x"] {
            assert!(read(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_socket_that_listens_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let it = Listener { proto: Proto::Tcp, addr: Ipv4Addr::LOCALHOST, port };
        assert!(listeners().contains(&it));
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let it = Listener { proto: Proto::Udp, addr: Ipv4Addr::UNSPECIFIED, port };
        assert!(listeners().contains(&it));
    }
}
