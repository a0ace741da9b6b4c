//! Just enough of `nf_tables` over netlink to stand for "the host has a firewall".
//!
//! Connection tracking sleeps in a network namespace until a rule asks for it;
//! only then is an empty table a finding.

use crate::Netns;
use nix::{
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        socket,
    },
};
use std::os::fd::{AsRawFd, OwnedFd};

// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NEWTABLE: u16 = SUBSYSTEM << 8;
const GETTABLE: u16 = SUBSYSTEM << 8 | 1;
const NEWCHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEWRULE: u16 = SUBSYSTEM << 8 | 6;
const DELTABLE: u16 = SUBSYSTEM << 8 | 2;
const NESTED: u16 = 1 << 15;
const FAMILY_IPV4: u8 = 2;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;

/// Gives the namespace a table whose rule looks at the state of connections in
/// every packet that comes in, so that the kernel tracks them.
pub fn track_connections(ns: &Netns) {
    // ct: load the state (key 0) into register 8 (the first of 32 bits).
    let load = [number(1, 8), number(2, 0)].concat();
    let expression = [attribute(1, b"ct\0"), attribute(2 | NESTED, &load)].concat();
    let rule = [
        attribute(1, b"harness\0"),
        attribute(2, b"in\0"),
        attribute(4 | NESTED, &attribute(1 | NESTED, &expression)),
    ]
    .concat();
    change(ns, &[table(), chain("in", Hook::PreRouting, ACCEPT), (NEWRULE, CREATE, rule)]);
}

/// Lets the namespace forward nothing, as Docker does to its host.
pub fn drop_forwarded(ns: &Netns) {
    change(ns, &[table(), chain("forward", Hook::Forward, DROP)]);
}

/// Where a chain looks at packets (`enum nf_inet_hooks`).
#[derive(Clone, Copy)]
enum Hook {
    PreRouting = 0,
    Forward = 2,
}

/// What becomes of a packet that no rule judges.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

type Change = (u16, u16, Vec<u8>);

fn table() -> Change {
    (NEWTABLE, CREATE, attribute(1, b"harness\0"))
}

fn chain(name: &str, hook: Hook, policy: u32) -> Change {
    let place = [number(1, hook as u32), number(2, 0)].concat();
    let attributes = [
        attribute(1, b"harness\0"),
        attribute(3, &[name.as_bytes(), b"\0"].concat()),
        attribute(4 | NESTED, &place),
        number(5, policy),
        attribute(7, b"filter\0"),
    ]
    .concat();
    (NEWCHAIN, CREATE, attributes)
}

/// Removes all tables of IPv4 rules, as `nft flush ruleset` does.
pub fn flush(ns: &Netns) {
    change(ns, &[(DELTABLE, 0, Vec::new())]);
}

/// The connections that the namespace's kernel tracks, one a line, but for
/// those of its own loopback.
pub fn tracked(ns: &Netns) -> Vec<String> {
    let table = ns.read("/proc/thread-self/net/nf_conntrack");
    table.lines().filter(|line| !line.contains("src=127.")).map(str::to_owned).collect()
}

/// The IPv4 tables of the namespace, those of `nf_tables` and of the older iptables.
pub fn tables(ns: &Netns) -> Vec<String> {
    let mut names = ns.run(|| {
        let netlink = open();
        send(&netlink, &message(GETTABLE, REQUEST | DUMP, FAMILY_IPV4, &[]));
        dump(&netlink)
    });
    let legacy = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/ip_tables_names"));
    names.extend(legacy.unwrap_or_default().lines().map(|name| format!("iptables {name}")));
    names
}

fn change(ns: &Netns, changes: &[Change]) {
    ns.run(|| {
        let mut batch = batch_mark(BATCH_BEGIN);
        for (kind, flags, attributes) in changes {
            let flags = REQUEST | ACK | flags;
            batch.extend(message(*kind, flags, FAMILY_IPV4, attributes));
        }
        batch.extend(batch_mark(BATCH_END));
        let netlink = open();
        send(&netlink, &batch);
        for _ in changes {
            let mut answer = [0; 4096];
            let len = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("an answer");
            let code = i32::from_ne_bytes(answer[16..20].try_into().expect("four bytes"));
            assert!(len >= 20 && code == 0, "nf_tables refused a change: error {code}");
        }
    });
}

fn open() -> OwnedFd {
    let kind = SockType::Raw;
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Netlink, kind, flags, SockProtocol::NetlinkNetFilter)
        .expect("a netfilter netlink socket")
}

fn send(netlink: &OwnedFd, bytes: &[u8]) {
    sendto(netlink.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())
        .expect("send to netlink");
}

fn dump(netlink: &OwnedFd) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        let mut answer = vec![0; 1 << 16];
        let len = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("an answer");
        let mut rest = &answer[..len];
        while let Some((header, _)) = rest.split_first_chunk::<16>() {
            let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            if i32::from(kind) == libc::NLMSG_DONE || i32::from(kind) == libc::NLMSG_ERROR {
                return names;
            }
            // After the headers (16 + 4 bytes) the first attribute is the name.
            let name = rest.get(24..len).unwrap_or_default();
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            names.push(format!("nft {}", String::from_utf8_lossy(name)));
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn batch_mark(kind: u16) -> Vec<u8> {
    let mut mark = message(kind, REQUEST, 0, &[]);
    mark[18..20].copy_from_slice(&SUBSYSTEM.to_be_bytes());
    mark
}

fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(20 + attributes.len()).expect("a short message");
    let mut bytes = Vec::new();
    bytes.extend(len.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).expect("a short attribute");
    let mut bytes = Vec::new();
    bytes.extend(len.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
