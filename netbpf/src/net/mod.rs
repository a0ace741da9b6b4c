//! Links, addresses, routes, namespaces and sysctls: everything that is said
//! to the kernel by netlink and files. Nothing in here knows of eBPF.

mod addr;
pub mod alive;
pub mod ctnetlink;
pub mod ethtool;
mod fdb;
mod link;
mod neighbour;
pub mod netfilter;
pub mod netns;
pub mod packet_socket;
mod route;
mod sockets;
pub mod sysctl;
mod worker;

use std::fmt;

use rtnetlink::Handle;

pub use addr::Address;
pub use fdb::FdbRow;
pub use link::{Framing, Link, NewBridge, NewVeth};
pub use netns::NetnsId;
pub use route::Route;
pub use sockets::{Listener, listeners};
pub use worker::{Entered, Worker};

use crate::error::{Context as _, Error, Result};

/// A netlink connection into one network namespace.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// A connection into the namespace that the calling thread is in. Must be
    /// called in the context of the runtime that then serves it.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn here() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("cannot open a netlink socket")?;
        // It ends when the last handle is dropped.
        tokio::spawn(connection);
        Ok(Self { handle })
    }
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Netlink")
    }
}

/// What a netlink request came to, in one place for all requests.
trait Answer<T> {
    /// The kernel's "no" as an error.
    fn or_failed(self, what: impl FnOnce() -> String) -> Result<T>;
    /// The same, but "there is no such thing" is nothing.
    fn if_any(self, what: impl FnOnce() -> String) -> Result<Option<T>>;
}

impl<T> Answer<T> for Result<T, rtnetlink::Error> {
    fn or_failed(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let failed = Error::failed(what());
            match error {
                rtnetlink::Error::NetlinkError(said) => failed.because(said.to_io()),
                other => failed.because(other),
            }
        })
    }

    fn if_any(self, what: impl FnOnce() -> String) -> Result<Option<T>> {
        match self {
            Err(rtnetlink::Error::NetlinkError(said)) if is_absent(&said.to_io()) => Ok(None),
            other => other.or_failed(what).map(Some),
        }
    }
}

/// Whether the kernel said that what was named does not exist.
fn is_absent(error: &std::io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, ENODEV, ENOENT, ENXIO, ESRCH};
    error
        .raw_os_error()
        .is_some_and(|code| [ENODEV, ENOENT, ENXIO, ESRCH, EADDRNOTAVAIL].contains(&code))
}
