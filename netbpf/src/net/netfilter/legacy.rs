//! The rules of the older iptables (`struct ipt_entry` and what belongs to it in
//! `linux/netfilter_ipv4/ip_tables.h` and `linux/netfilter/x_tables.h`).

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use super::{Chain, Interface, Policy, Rule, Table, Verdict, Which};
use crate::error::{Context as _, Error, Result};

/// Names of the tables that this network namespace has; asking for another would
/// make it.
const NAMES: &str = "/proc/thread-self/net/ip_tables_names";

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;

/// `NF_INET_FORWARD`.
const FORWARD: usize = 2;

/// Bytes of a table's name, of `struct ipt_getinfo`, and before the entries in
/// `struct ipt_get_entries`.
const NAME: usize = 32;
const INFO: usize = 84;
const ENTRIES: usize = 40;

/// Bytes of an entry before its matches, and of a target before its data.
const ENTRY: usize = 112;
const TARGET: usize = 32;

/// Bits of `struct ipt_ip`.
const FRAGMENT: u8 = 1;
const GOTO: u8 = 2;
const NOT_INCOMING: u8 = 1;
const NOT_OUTGOING: u8 = 2;

/// Standard verdicts: `-NF_DROP - 1` and so on.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;
const RETURN: i32 = -5;

/// All tables that there are.
pub(super) fn tables() -> Result<Vec<Table>> {
    // Without the file there is no such iptables in the kernel, or it is a module
    // that nobody uses.
    let Ok(names) = fs::read_to_string(NAMES) else { return Ok(Vec::new()) };
    if names.trim().is_empty() {
        return Ok(Vec::new());
    }
    let what = "cannot read the host's rules of the older iptables";
    // Any socket of IPv4 will do.
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let socket = socket.context(what)?;
    names
        .lines()
        .map(|name| table(&socket, name).map_err(|e| Error::failed(what).because(e)))
        .collect()
}

fn table(socket: &OwnedFd, name: &str) -> Result<Table> {
    let mut info = named(name, INFO);
    get(socket, GET_INFO, &mut info).context("getsockopt")?;
    let hooks = (number(&info, 36 + 4 * FORWARD), number(&info, 56 + 4 * FORWARD));
    let size = number(&info, 80) as usize;
    let mut entries = named(name, ENTRIES + size);
    let size = u32::try_from(size).unwrap_or(u32::MAX);
    entries[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
    get(socket, GET_ENTRIES, &mut entries).context("getsockopt")?;
    let has_forward = number(&info, NAME) & 1 << FORWARD != 0;
    let forward = has_forward.then_some((hooks.0 as usize, hooks.1 as usize));
    Ok(Table {
        name: format!("{name} of iptables-legacy"),
        listing: format!("iptables-legacy -t {name} -vnL --line-numbers"),
        chains: chains(&entries[ENTRIES..], forward),
    })
}

/// A buffer that begins with a table's name.
fn named(name: &str, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    let name = &name.as_bytes()[..name.len().min(NAME - 1)];
    buffer[..name.len()].copy_from_slice(name);
    buffer
}

/// The chains in a table's entries. Those of the hooks begin and end (with their
/// policy) at known offsets, only that of `forward` is wanted; those of people
/// begin with an entry that has their name.
fn chains(entries: &[u8], forward: Option<(usize, usize)>) -> BTreeMap<String, Chain> {
    let starts: BTreeMap<usize, String> =
        all(entries).filter_map(|entry| Some((entry.next(), entry.begun_chain()?))).collect();
    let mut chains: BTreeMap<String, Chain> =
        starts.values().map(|name| (name.clone(), Chain::default())).collect();
    let mut current = None;
    for entry in all(entries) {
        if let Some((first, last)) = forward {
            if entry.at == first {
                current = Some("FORWARD".to_owned());
                chains.insert("FORWARD".to_owned(), Chain::default());
            }
            if entry.at == last
                && let Some(chain) = chains.get_mut("FORWARD")
            {
                let is_drop = entry.standard_verdict() == Some(DROP);
                chain.policy = Some(if is_drop { Policy::Drop } else { Policy::Accept });
                current = None;
                continue;
            }
        }
        if entry.begun_chain().is_some() {
            current = starts.get(&entry.next()).cloned();
            continue;
        }
        if let Some(chain) = current.as_ref().and_then(|name| chains.get_mut(name)) {
            let id = chain.rules.len() as u64 + 1;
            chain.rules.push(entry.rule(id, &starts));
        }
    }
    chains
}

fn all(entries: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    let at = |at: usize| {
        let bytes = entries.get(at..).filter(|bytes| bytes.len() >= ENTRY + TARGET)?;
        let entry = Entry { at, bytes };
        (entry.target() + TARGET <= bytes.len() && entry.next() > at).then_some(entry)
    };
    std::iter::successors(at(0), move |entry| at(entry.next()))
}

/// An entry at its offset in the table.
struct Entry<'a> {
    at: usize,
    bytes: &'a [u8],
}

impl Entry<'_> {
    /// Where its target begins.
    fn target(&self) -> usize {
        short(self.bytes, 88)
    }

    /// Where the next one begins.
    fn next(&self) -> usize {
        self.at + short(self.bytes, 90)
    }

    /// The name of its target: empty for standard ones.
    fn target_name(&self) -> &[u8] {
        text(&self.bytes[self.target() + 2..self.target() + TARGET - 1])
    }

    /// What its target has beyond the header.
    fn data(&self) -> &[u8] {
        self.bytes.get(self.target() + TARGET..self.next() - self.at).unwrap_or_default()
    }

    /// The name of the chain that begins behind it.
    fn begun_chain(&self) -> Option<String> {
        let name = self.target_name() == b"ERROR";
        let name = name.then(|| String::from_utf8_lossy(text(self.data())).into_owned())?;
        // The last entry of all.
        (name != "ERROR").then_some(name)
    }

    fn standard_verdict(&self) -> Option<i32> {
        let is_standard = self.target_name().is_empty();
        let bytes = self.data().first_chunk().filter(|_| is_standard)?;
        Some(i32::from_ne_bytes(*bytes))
    }

    fn rule(&self, id: u64, starts: &BTreeMap<usize, String>) -> Rule {
        let (flags, not) = (self.bytes[82], self.bytes[83]);
        let verdict = match (self.target_name(), self.standard_verdict()) {
            (_, Some(DROP)) => Verdict::Drop,
            (_, Some(ACCEPT)) => Verdict::Accept,
            (_, Some(RETURN)) => Verdict::Return,
            (_, Some(to)) if usize::try_from(to).is_ok_and(|to| to == self.next()) => Verdict::None,
            (_, Some(to)) => match usize::try_from(to).ok().and_then(|to| starts.get(&to)) {
                Some(chain) if flags & GOTO != 0 => Verdict::Goto(chain.clone()),
                Some(chain) => Verdict::Jump(chain.clone()),
                None => Verdict::Unknown,
            },
            (b"REJECT", None) => Verdict::Reject,
            (b"NFQUEUE", None) => Verdict::Unknown,
            (_, None) => Verdict::None,
        };
        Rule {
            incoming: self.interface(16, not & NOT_INCOMING != 0),
            outgoing: self.interface(32, not & NOT_OUTGOING != 0),
            is_conditional: self.is_conditional(flags),
            verdict,
            ..Rule::new(id)
        }
    }

    /// The condition on an interface whose name is at that offset, its mask 32
    /// bytes behind.
    fn interface(&self, at: usize, negated: bool) -> Vec<Interface> {
        let mask = &self.bytes[at + 32..at + 48];
        let len = mask.iter().take_while(|byte| **byte != 0).count();
        let which = Which::from_bytes(&self.bytes[at..at + len]);
        which.map(|which| Interface { which, negated }).into_iter().collect()
    }

    /// Whether it asks for addresses, a protocol or fragments, or has matches.
    fn is_conditional(&self, flags: u8) -> bool {
        let is_masked = self.bytes[8..16].iter().any(|byte| *byte != 0);
        let has_proto = self.bytes[80..82] != [0, 0];
        is_masked || has_proto || flags & FRAGMENT != 0 || self.target() != ENTRY
    }
}

/// The bytes before the first zero.
fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn short(bytes: &[u8], at: usize) -> usize {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]]).into()
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn get(socket: &OwnedFd, option: libc::c_int, buffer: &mut [u8]) -> nix::Result<()> {
    let mut len = libc::socklen_t::try_from(buffer.len()).map_err(|_| Errno::E2BIG)?;
    // SAFETY: the pointer is to as many bytes as `len` says, read and written by
    // the kernel, and `len` is a live variable.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    Errno::result(done).map(drop)
}
