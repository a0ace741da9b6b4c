//! Netfilter over netlink, for the network namespace of the calling thread:
//! tracked connections, and the tables of `nf_tables`.

pub mod apart;
pub mod bridge_table;
mod connection;
mod conntrack;
pub mod reflection;
pub mod tables;

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

pub use connection::{Connection, Counts, Ends, TcpState};
pub use conntrack::{Conntrack, Outcome};

/// `NFNL_SUBSYS_NFTABLES`, the resource of a batch.
const NFTABLES: u16 = 10;

/// Room for what the kernel sends at once: it fills at most 32 KiB.
const RECEIVED: usize = 64 * 1024;

/// A netlink socket, in the network namespace of the thread that opened it.
struct Netfilter {
    socket: Socket,
    sequence: u32,
}

impl Netfilter {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    fn message(
        &mut self,
        flags: u16,
        (family, resource): (NetfilterProtoFamily, u16),
        inner: impl Into<NetfilterMessageInner>,
    ) -> Vec<u8> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        (header.flags, header.sequence_number) = (NLM_F_REQUEST | flags, self.sequence);
        let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), inner);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    /// Asks for all there are of something of IPv4's, and calls `each` with each
    /// of them.
    fn dump(
        &mut self,
        inner: impl Into<NetfilterMessageInner>,
        each: impl FnMut(NetfilterMessageInner),
    ) -> io::Result<()> {
        self.dump_of(NetfilterProtoFamily::IPv4, inner, each)
    }

    /// The same of any family.
    fn dump_of(
        &mut self,
        family: NetfilterProtoFamily,
        inner: impl Into<NetfilterMessageInner>,
        mut each: impl FnMut(NetfilterMessageInner),
    ) -> io::Result<()> {
        let bytes = self.message(NLM_F_DUMP, (family, 0), inner);
        self.socket.send(&bytes, 0)?;
        loop {
            for message in self.receive()? {
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => each(message.inner),
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    /// Asks for one of something of IPv4's, and calls `each` with it.
    fn get(
        &mut self,
        inner: impl Into<NetfilterMessageInner>,
        mut each: impl FnMut(NetfilterMessageInner),
    ) -> io::Result<()> {
        let bytes = self.message(NLM_F_ACK, (NetfilterProtoFamily::IPv4, 0), inner);
        self.socket.send(&bytes, 0)?;
        loop {
            for message in self.receive()? {
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => each(message.inner),
                    NetlinkPayload::Error(said) if said.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(said) => return Err(said.to_io()),
                    _ => {}
                }
            }
        }
    }

    /// Asks for one change, and waits for what became of it.
    fn change(&mut self, flags: u16, inner: impl Into<NetfilterMessageInner>) -> io::Result<()> {
        let bytes = self.message(NLM_F_ACK | flags, (NetfilterProtoFamily::IPv4, 0), inner);
        self.socket.send(&bytes, 0)?;
        self.answer()
    }

    /// What the kernel says to the last change.
    fn answer(&mut self) -> io::Result<()> {
        loop {
            for message in self.receive()? {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                if let NetlinkPayload::Error(said) = message.payload {
                    return if said.code.is_none() { Ok(()) } else { Err(said.to_io()) };
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<Vec<NetlinkMessage<NetfilterMessage>>> {
        let mut buffer = vec![0; RECEIVED];
        let size = self.socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = buffer.get(..size).unwrap_or_default();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let message = <NetlinkMessage<NetfilterMessage>>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            // Messages begin at multiples of four bytes.
            let len = (message.header.length as usize).next_multiple_of(4);
            messages.push(message);
            rest = rest.get(len..).filter(|_| len > 0).unwrap_or_default();
        }
        Ok(messages)
    }
}
