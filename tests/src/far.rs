//! A machine beyond the outside, behind a router.

use crate::{Host, Netns, ethtool};
use std::net::Ipv4Addr;

/// The address of the machine beyond the router.
pub const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The router's address on the far side; on the near side it is [`crate::OUTSIDE`].
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// A machine two hops from the host: the outside is the router to it.
///
/// Dropped, it is gone, and the outside as before. So it has to be made after
/// its host.
pub struct Far {
    ns: Netns,
    router: Netns,
}

impl Far {
    /// Behind the outside of `host`, on a wire of that MTU.
    pub fn behind(host: &Host, mtu: u32) -> Self {
        let router = host.outside().clone();
        let ns = Netns::create(host.sandbox(), "far");
        router.ip(&format!("link add far0 mtu {mtu} type veth peer eth0 netns far mtu {mtu}"));
        router.ip(&format!("addr add {ROUTER}/24 dev far0"));
        ns.ip(&format!("addr add {FAR}/24 dev eth0"));
        if !host.options().offloads {
            ethtool::offloads_off(&router, "far0");
            ethtool::offloads_off(&ns, "eth0");
        }
        router.ip("link set far0 up");
        ns.ip("link set eth0 up");
        router.wait_up("far0");
        ns.wait_up("eth0");
        ns.ip(&format!("route add default via {ROUTER}"));
        router.sysctl("net/ipv4/ip_forward", "1");
        Self { ns, router }
    }

    /// The machine.
    pub fn netns(&self) -> &Netns {
        &self.ns
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.router.sysctl("net/ipv4/ip_forward", "0");
            self.router.ip("link del far0");
            self.router.ip("netns del far");
        }
    }
}
