//! The kernel's table of tracked connections.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::{NetfilterMessageInner, conntrack::ConntrackMessage};
use nix::libc;

use super::{Connection, Netfilter};
use crate::error::{Context as _, Result};

/// The table of the network namespace that it was opened in.
pub struct Conntrack {
    netfilter: Netfilter,
}

impl std::fmt::Debug for Conntrack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Conntrack")
    }
}

/// What became of a connection that was to be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is tracked now.
    Added,
    /// There is one with these ends already.
    Taken,
}

impl Conntrack {
    /// That of the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn open() -> Result<Self> {
        let netfilter = Netfilter::open().context("cannot ask for tracked connections")?;
        Ok(Self { netfilter })
    }

    /// All connections of IPv4 in everybody's zone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn all(&mut self) -> Result<Vec<Connection>> {
        let mut all = Vec::new();
        let dumped = self.netfilter.dump(ConntrackMessage::Get(Vec::new()), |message| {
            if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message {
                all.extend(Connection::read(&attributes).filter(|connection| connection.zone == 0));
            }
        });
        dumped.context("cannot list the tracked connections")?;
        Ok(all)
    }

    /// The connection that is tracked with the opening ends of the given one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn find(&mut self, connection: &Connection) -> Result<Option<Connection>> {
        let mut found = None;
        let asked = self.netfilter.get(ConntrackMessage::Get(connection.key()), |message| {
            if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message {
                found = Connection::read(&attributes);
            }
        });
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            other => other.map(|()| found).context("cannot look for a tracked connection"),
        }
    }

    /// Ends a connection: its next packet is decided on anew. Returns whether it
    /// was there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&mut self, connection: &Connection) -> Result<bool> {
        match self.netfilter.change(0, ConntrackMessage::Delete(connection.key())) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            other => other.map(|()| true).context("cannot end a tracked connection"),
        }
    }

    /// Ends all connections that are meant; returns how many.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_all(&mut self, is_meant: impl Fn(&Connection) -> bool) -> Result<u64> {
        let mut removed = 0;
        for connection in self.all()?.iter().filter(|connection| is_meant(connection)) {
            removed += u64::from(self.remove(connection)?);
        }
        Ok(removed)
    }

    /// Has a connection tracked, and translated, as if the kernel had seen it open.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add(&mut self, connection: &Connection) -> Result<Outcome> {
        let message = ConntrackMessage::New(connection.write());
        match self.netfilter.change(NLM_F_CREATE | NLM_F_EXCL, message) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Outcome::Taken),
            other => other.map(|()| Outcome::Added).context("cannot have a connection tracked"),
        }
    }
}
