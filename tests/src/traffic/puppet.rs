//! Addresses without a kernel behind them: the test itself says every word.

use super::{Frame, FrameSocket};
use crate::{
    Host, Netns, OUTSIDE,
    packet::{self, Mac, Seen},
    wait,
};
use std::{net::Ipv4Addr, time::Duration};

/// The MAC of puppets outside. The kernel there takes no notice of it.
const PUPPET: Mac = [2, 0, 0, 0, 0x99, 1];

/// Somebody whose packets the test makes and reads itself, so that they can be
/// in any order and by the ten thousand, and no kernel answers for them.
pub struct Puppet {
    addr: Ipv4Addr,
    frames: FrameSocket,
    own: Mac,
    next_hop: Mac,
    /// Where an `ip` command ends this, and that command.
    undo: Option<(Netns, String)>,
}

impl Puppet {
    /// Speaks as a namespace that netbpf has made, which has the address `addr`.
    /// Its kernel is silent to `peer`.
    pub fn inside(host: &Host, name: &str, addr: Ipv4Addr, peer: Ipv4Addr) -> Self {
        let ns = host.ns(name);
        ns.ip(&format!("route replace blackhole {peer}/32"));
        let bridge = ns.ip_json("ip", "route show default")[0]["gateway"].clone();
        let gateway = bridge.as_str().expect("a default route").parse().expect("an address");
        Self {
            addr,
            frames: FrameSocket::open(&ns, "eth0"),
            own: ns.mac("eth0"),
            next_hop: mac_of(host.netns(), gateway),
            undo: None,
        }
    }

    /// Speaks as somebody beyond the uplink `up0`, beside the kernel that is there.
    pub fn outside(host: &Host, addr: Ipv4Addr) -> Self {
        assert_ne!(addr, OUTSIDE, "the kernel outside has that one");
        let machine = host.netns();
        let mac = PUPPET.map(|byte| format!("{byte:02x}")).join(":");
        machine.ip(&format!("neigh replace {addr} lladdr {mac} dev up0 nud permanent"));
        Self {
            addr,
            frames: FrameSocket::open(host.outside(), "out0"),
            own: PUPPET,
            next_hop: machine.mac("up0"),
            undo: Some((machine.clone(), format!("neigh del {addr} dev up0"))),
        }
    }

    /// Its address.
    pub fn addr(&self) -> Ipv4Addr {
        self.addr
    }

    /// Sends an IPv4 packet.
    #[track_caller]
    pub fn send(&self, ip: &[u8]) {
        let frame = packet::ethernet(self.next_hop, self.own, packet::IPV4, ip);
        self.frames.send(&frame).unwrap_or_else(|e| panic!("send as {}: {e}", self.addr));
    }

    /// Waits for the next packet for this address.
    #[track_caller]
    pub fn receive(&self, what: &str) -> Seen {
        self.receive_within(wait::DEADLINE)
            .unwrap_or_else(|| panic!("{} waited in vain for {what}", self.addr))
    }

    /// The next packet for this address, if it comes in that time.
    pub fn receive_within(&self, patience: Duration) -> Option<Seen> {
        self.frames.find_within(patience, |frame| self.is_own(frame))
    }

    /// All packets for this address that have come so far.
    pub fn received(&self) -> Vec<Seen> {
        self.frames.captured().iter().filter_map(|frame| self.is_own(frame)).collect()
    }

    fn is_own(&self, frame: &Frame) -> Option<Seen> {
        let is_for_us = |ip: &Seen| ip.dst == self.addr && ip.dst_mac == self.own;
        frame.ip().filter(|ip| !frame.outgoing && is_for_us(ip))
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        if let (Some((ns, command)), false) = (&self.undo, std::thread::panicking()) {
            ns.ip(command);
        }
    }
}

/// The MAC of the interface that has this address.
fn mac_of(ns: &Netns, addr: Ipv4Addr) -> Mac {
    let found = ns.ip_json("ip", &format!("address show to {addr}"));
    // Interfaces that do not have it are listed as empty objects.
    let mut names = found.as_array().expect("a list of links").iter();
    let name = names.find_map(|link| link["ifname"].as_str()).expect("somebody has the address");
    ns.mac(name)
}
