//! Traffic: real sockets in real namespaces.

pub mod frame;
mod icmp;
mod metered;
mod probe;
mod puppet;
mod tcp;
mod tun;
mod udp;

pub use frame::{Frame, FrameSocket};
pub use icmp::{Echo, Pong, ping};
pub use metered::{Metered, Metering};
pub use probe::{Heard, UdpProbe};
pub use puppet::Puppet;
pub use tcp::{TcpClient, TcpServer, connect, connect_from};
pub use tun::Tun;
pub use udp::{UdpClient, UdpServer};
