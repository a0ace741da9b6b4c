//! The kernel's connection tracking, which has one table and one limit for all
//! network namespaces: making room in it, and emptying a namespace's part.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    thread,
};

use nix::{
    errno::Errno,
    libc,
    sched::{CloneFlags, setns},
};

use crate::error::{Context as _, Error, Result};

/// The limit, and the size of the hash table.
const SYSCTLS: [&str; 2] = ["nf_conntrack_max", "nf_conntrack_buckets"];
const DIR: &str = "/proc/sys/net/netfilter";

/// They can be read in all network namespaces, but written in the machine's first
/// only: this one, or else that of the first process.
const FIRST: &str = "/proc/1/ns/net";

/// Holds what they were while they are something else because of us: a bench that
/// is killed leaves them so, and the next one puts them back.
const MARK: &str = "/run/netbpf.nf_conntrack";

/// Room for flows in the kernel's table, taken back when it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    limit: u32,
    /// What is to be put back, if anything was changed.
    before: Option<[u32; 2]>,
    why_not: Option<String>,
}

impl Room {
    /// Makes room for so many flows, if there is none, by raising the limit and as
    /// much the size of the hash table, as the kernel's documentation advises.
    pub(super) fn make(flows: u32) -> Result<Self> {
        put_back()?;
        let none = Self { limit: u32::MAX, before: None, why_not: None };
        if !Path::new(DIR).exists() {
            // Nobody tracks anything.
            return Ok(none);
        }
        let wanted = flows / 8 * 9 + 4096;
        let before = read()?;
        if before[0] >= wanted || before[0] == 0 {
            return Ok(none);
        }
        fs::write(MARK, format!("{} {}", before[0], before[1]))
            .context(format!("cannot write {MARK}"))?;
        match write([wanted, before[1].max(wanted)]) {
            Ok(()) => Ok(Self { limit: wanted, before: Some(before), why_not: None }),
            Err(error) => {
                if read()? == before {
                    // Nothing was changed: who may not raise it may not put it back either.
                    forget()?;
                } else {
                    put_back()?;
                }
                let why_not = Some(error.to_string());
                Ok(Self { limit: before[0] / 9 * 8, before: None, why_not })
            }
        }
    }

    /// Whether there is room for so many.
    pub(super) fn has(&self, flows: u32) -> bool {
        flows <= self.limit
    }

    /// What is to be known of it.
    pub(super) fn notes(&self) -> Vec<String> {
        let changed = self.before.map(|[max, buckets]| {
            format!(
                "nf_conntrack_max was raised from {max} to {} for iptables, and nf_conntrack_buckets \
                 from {buckets} along with it; both have been put back",
                self.limit
            )
        });
        let refused = self
            .why_not
            .as_ref()
            .map(|why| format!("iptables is measured with at most {} flows: {why}", self.limit));
        changed.into_iter().chain(refused).collect()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.before.is_some() {
            // What cannot be put back now, the next bench tries again.
            let _ = put_back();
        }
    }
}

/// Puts back what a bench has changed, this one or one that was killed.
pub(super) fn put_back() -> Result<()> {
    let Ok(text) = fs::read_to_string(MARK) else { return Ok(()) };
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    if let (Some(max), Some(buckets)) = (numbers.next(), numbers.next()) {
        write([max, buckets])?;
    }
    forget()
}

fn forget() -> Result<()> {
    fs::remove_file(MARK).context(format!("cannot remove {MARK}"))
}

fn read() -> Result<[u32; 2]> {
    let mut values = [0; 2];
    for (value, name) in values.iter_mut().zip(SYSCTLS) {
        let path = format!("{DIR}/{name}");
        let text = fs::read_to_string(&path).context(format!("cannot read {path}"))?;
        *value = text.trim().parse().context(format!("{path} holds no number"))?;
    }
    Ok(values)
}

fn write(values: [u32; 2]) -> Result<()> {
    write_here(values).or_else(|refused| {
        let first = File::open(FIRST).map_err(|_| refused)?;
        let inside = || {
            setns(&first, CloneFlags::CLONE_NEWNET).context(format!("cannot enter {FIRST}"))?;
            write_here(values)
        };
        let died = |_| Error::failed("the thread that enters network namespaces died");
        thread::scope(|scope| scope.spawn(inside).join().map_err(died)?)
    })
}

/// Writes them in the calling thread's network namespace.
fn write_here(values: [u32; 2]) -> Result<()> {
    // The size of the table first: in some kernels it sets the limit along with it.
    for (value, name) in values.iter().zip(SYSCTLS).rev() {
        let path = format!("{DIR}/{name}");
        fs::write(&path, value.to_string()).context(format!("cannot set {path} to {value}"))?;
    }
    Ok(())
}

/// `struct nlmsghdr` and `struct nfgenmsg` of a request to delete connections
/// without saying which: all of the namespace's (`IPCTNL_MSG_CT_DELETE` of
/// `NFNL_SUBSYS_CTNETLINK`, as `conntrack -F` sends it).
#[repr(C)]
struct Flush {
    len: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    version: u8,
    resource: u16,
}

impl Flush {
    #[allow(clippy::cast_possible_truncation, reason = "small constants")]
    const NEW: Self = Self {
        len: size_of::<Self>() as u32,
        // The subsystem (1) and the message (2).
        kind: 1 << 8 | 2,
        flags: (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16,
        sequence: 1,
        port: 0,
        family: libc::AF_UNSPEC as u8,
        version: 0,
        resource: 0,
    };
}

/// `struct nlmsghdr` and `struct nlmsgerr`, as far as it tells how it went.
#[repr(C)]
#[derive(Default)]
struct Answer {
    header: [u32; 4],
    error: i32,
    request: [u32; 8],
}

/// Forgets all connections of the calling thread's network namespace.
pub(super) fn flush() -> Result<()> {
    let what = "cannot flush the kernel's connections";
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers are passed.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, flags, libc::NETLINK_NETFILTER) };
    let socket = Errno::result(socket).context(what)?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let request = Flush::NEW;
    // SAFETY: the request lives through the call and is as long as said.
    let sent = unsafe {
        libc::send(socket.as_raw_fd(), (&raw const request).cast(), size_of::<Flush>(), 0)
    };
    Errno::result(sent).context(what)?;
    let mut answer = Answer::default();
    // SAFETY: the answer lives through the call, is as long as said, and of integers.
    let received =
        unsafe { libc::recv(socket.as_raw_fd(), (&raw mut answer).cast(), size_of::<Answer>(), 0) };
    Errno::result(received).context(what)?;
    match answer.error {
        0 => Ok(()),
        error => Err(Error::failed(what).because(io::Error::from_raw_os_error(-error))),
    }
}
