//! Servers and clients in the namespaces of an arena. A socket stays in the
//! namespace in which it was made, whatever thread uses it.

use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};

use super::arena::{Ends, PORTS};
use crate::error::{Context as _, Error, Result};

/// Longest wait for anything: where it ends, something is broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The `n`-th of the published ports.
pub(super) fn port(n: usize) -> u16 {
    let count = usize::from(PORTS.end() - PORTS.start()) + 1;
    // The remainder is smaller than a number of ports.
    PORTS.start() + u16::try_from(n % count).unwrap_or_default()
}

impl Ends<'_> {
    /// A TCP server.
    pub(super) fn listen(&self, port: u16) -> Result<TcpListener> {
        let listener = self.server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
        listener.context(format!("cannot listen on TCP port {port} of a sandbox"))
    }

    /// A TCP connection to it: the client's end, and the server's.
    pub(super) fn connect(&self, listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
        let what = "cannot connect two namespaces of a sandbox";
        let port = listener.local_addr().context(what)?.port();
        let to = SocketAddrV4::new(self.addr, port).into();
        let client = self.client.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        let client = client.context(what)?;
        let (server, _) = listener.accept().context(what)?;
        for end in [&client, &server] {
            end.set_nodelay(true).context(what)?;
            end.set_read_timeout(Some(PATIENCE)).context(what)?;
            end.set_write_timeout(Some(PATIENCE)).context(what)?;
        }
        Ok((client, server))
    }

    /// A UDP server, and a client that sends to it.
    pub(super) fn datagrams(&self, port: u16) -> Result<(UdpSocket, UdpSocket)> {
        let what = "cannot make UDP sockets in a sandbox";
        let server = self.server.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?;
        let client = self.client.run(|| -> std::io::Result<UdpSocket> {
            let client = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            client.connect((self.addr, port))?;
            Ok(client)
        })?;
        let (client, server) = (client.context(what)?, server.context(what)?);
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).context(what)?;
        }
        Ok((client, server))
    }
}

/// CPU time of this process so far.
pub(super) fn cpu_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("cannot tell the CPU time")?;
    let time = |time: TimeVal| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
        let micros = u64::try_from(time.tv_usec()).unwrap_or_default();
        Duration::from_secs(seconds) + Duration::from_micros(micros)
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

/// What a thread that has panicked is to the others.
pub(super) fn died<T>(_: T) -> Error {
    Error::failed("a thread of the bench died")
}
