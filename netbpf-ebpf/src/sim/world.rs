//! The host around the datapath.

use std::vec::Vec;

use netbpf_common::{Ipv4, Ticks, Tuple};

use super::Map;
use crate::{
    Verdict,
    seam::{Env, Neighbour, Route},
};

/// Clock, dice, and the host's kernel.
#[derive(Clone, Debug)]
pub struct World {
    /// What the clock shows.
    pub now: Ticks,
    /// State of the dice.
    pub random: u32,
    /// Routes: subnet, mask, way; the first that fits is taken. Without a next
    /// hop the destination is on link.
    pub routes: Vec<(Ipv4, Ipv4, Route)>,
    /// The neighbour table.
    pub neighbours: Map<Ipv4, Neighbour>,
    /// Local ports that sockets of the host have, with their protocol.
    pub sockets: Vec<(u8, u16)>,
    /// Interfaces that the host has no longer.
    pub gone: Vec<u32>,
    /// Where the ICMP error about the last packet goes, if there is one; it is in
    /// the packet's place.
    pub answered: Option<Verdict>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            now: Ticks(1000),
            random: 0x9e37_79b9,
            routes: Vec::new(),
            neighbours: Map::default(),
            sockets: Vec::new(),
            gone: Vec::new(),
            answered: None,
        }
    }
}

impl Env for World {
    fn now(&self) -> Ticks {
        self.now
    }

    /// Marsaglia's xorshift: repeatable, which is what a test wants.
    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random
    }

    fn route(&mut self, _ifindex: u32, tuple: &Tuple) -> Route {
        let fits = |(subnet, mask, _): &&(Ipv4, Ipv4, Route)| tuple.daddr.is_in(*subnet, *mask);
        match self.routes.iter().find(fits) {
            Some((_, _, route)) if route.ifindex != 0 && route.next_hop == Ipv4::ANY => {
                Route { next_hop: tuple.daddr, ..*route }
            }
            Some((_, _, route)) => *route,
            None => Route::STACK,
        }
    }

    fn resolve(&mut self, _ifindex: u32, next_hop: Ipv4) -> Neighbour {
        self.neighbours.get(&next_hop).copied().unwrap_or_default()
    }

    fn repeat<F: FnMut(u32) -> bool>(times: u32, step: F) {
        let _ = (0..times).all(step);
    }

    fn has_interface(&mut self, ifindex: u32) -> bool {
        !self.gone.contains(&ifindex)
    }

    fn has_socket(&mut self, tuple: &Tuple) -> bool {
        self.sockets.contains(&(tuple.proto, tuple.dport.number()))
    }
}
