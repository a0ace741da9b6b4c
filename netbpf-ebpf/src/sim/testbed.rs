//! A network for tests: three namespaces, an uplink, a gateway outside.

use netbpf_common::{
    AllowedPair, Endpoint, EndpointId, FdbEntry, Flow, Ipv4, MacAddr, PublishEntry, SourceGuard,
    Ticks, Uplink, proto,
};

use super::{Frame, Maps, Sim, World, invariants::Program, packet::Addresses};
use crate::{
    Outcome, Verdict, answer,
    expire::{self, Look},
    prepare,
    rare::{self, Rare},
    seam::{Neighbour, Route},
};

/// The subnet.
pub const SUBNET: Ipv4 = Ipv4::new([172, 19, 0, 0]);
/// The gateway's address and MAC.
pub const GATEWAY: (MacAddr, Ipv4) =
    (MacAddr::new([2, 0x6e, 172, 19, 0, 1]), Ipv4::new([172, 19, 0, 1]));
/// Interface index of the bridge.
pub const BRIDGE: u32 = 10;
/// Interface index of the uplink.
pub const UPLINK: u32 = 2;
/// The uplink's MAC and address.
pub const HOST: (MacAddr, Ipv4) = (MacAddr::new([2, 0, 0, 0, 1, 1]), Ipv4::new([203, 0, 113, 1]));
/// MAC and address of the router behind the uplink.
pub const ROUTER: (MacAddr, Ipv4) = (MacAddr::new([2, 0, 0, 0, 1, 2]), Ipv4::new([203, 0, 113, 2]));
/// Somebody far away.
pub const PEER: Ipv4 = Ipv4::new([198, 51, 100, 9]);
/// Namespaces of the network.
pub const NAMESPACES: u8 = 3;

/// MAC and address of the `n`-th namespace, counting from 1.
#[must_use]
pub const fn namespace(n: u8) -> (MacAddr, Ipv4) {
    (MacAddr::new([2, 0x6e, 172, 19, 0, n + 1]), Ipv4::new([172, 19, 0, n + 1]))
}

/// Interface index of the bridge port of the `n`-th namespace.
#[must_use]
pub const fn port(n: u8) -> u32 {
    10 + n as u32
}

/// The `n`-th namespace's endpoint.
#[must_use]
pub const fn endpoint_id(n: u8) -> EndpointId {
    EndpointId(n as u16)
}

/// From the `n`-th namespace to an address outside.
#[must_use]
pub const fn outward(n: u8, to: Ipv4) -> Addresses {
    Addresses { from: namespace(n), to: (GATEWAY.0, to) }
}

/// From an address outside to the host's.
#[must_use]
pub const fn inward(from: Ipv4) -> Addresses {
    Addresses { from: (ROUTER.0, from), to: HOST }
}

/// From one namespace to another.
#[must_use]
pub const fn across(from: u8, to: u8) -> Addresses {
    Addresses { from: namespace(from), to: namespace(to) }
}

/// A published range.
#[must_use]
pub fn publish(ip_proto: u8, host: Ipv4, first: u16, last: u16, to: (u8, u16)) -> PublishEntry {
    PublishEntry {
        order: PublishEntry::order_of(ip_proto, host, first),
        last,
        target_port: to.1,
        target: namespace(to.0).1,
        endpoint: endpoint_id(to.0),
        pad: [0; 3],
    }
}

/// An endpoint as the control plane fills it in.
#[must_use]
pub fn endpoint(n: u8) -> Endpoint {
    let (mac, addr) = namespace(n);
    Endpoint {
        ifindex: port(n),
        bridge_ifindex: BRIDGE,
        addr,
        gateway: GATEWAY.1,
        subnet: SUBNET,
        mask: Ipv4::mask(24),
        mtu: 1500,
        flow_limit: 1 << 20,
        mac,
        gateway_mac: GATEWAY.0,
        guard: SourceGuard::Learn as u8,
        flags: 0,
        pad: [0; 2],
    }
}

/// The uplink as the control plane fills it in.
#[must_use]
pub fn uplink() -> Uplink {
    Uplink { addr: HOST.1, mtu: 1500, mac: HOST.0, prefix_len: 24, flags: 0 }
}

/// The network, with room for `max_flows` flows; TCP port 8080 and UDP ports
/// 9000 to 9010 are published to the first namespace. None is isolated; if they were, the
/// first and the third would be allowed to reach each other.
///
/// # Panics
/// On a machine of 16 bits.
#[must_use]
pub fn network(max_flows: u32) -> Sim {
    let mut tables = Maps::default();
    tables.config.max_flows = max_flows;
    tables.flow_entries = 2 * usize::try_from(max_flows).expect("fits");
    tables.queue_len = usize::try_from(max_flows).expect("fits");
    for n in 1..=NAMESPACES {
        let (mac, addr) = namespace(n);
        tables.endpoints.insert(endpoint_id(n), endpoint(n));
        tables.addresses.insert(addr, endpoint_id(n));
        let entry = FdbEntry { endpoint: endpoint_id(n), ..FdbEntry::default() };
        tables.fdb.insert(mac, entry);
    }
    tables.allowed.push(AllowedPair::of(endpoint_id(3), endpoint_id(1)));
    tables.addresses.insert(GATEWAY.1, EndpointId::NONE);
    tables.fdb.insert(GATEWAY.0, FdbEntry::default());
    tables.subnets.push((SUBNET, Ipv4::mask(24)));
    tables.uplinks.insert(UPLINK, uplink());
    tables.publish([
        publish(proto::TCP, Ipv4::ANY, 8080, 8080, (1, 80)),
        publish(proto::UDP, Ipv4::ANY, 9000, 9010, (1, 7000)),
    ]);
    let mut env = World::default();
    let on_link = Route { source: HOST.1, mtu: 1500, ..Route::of(UPLINK, Ipv4::ANY) };
    let default = Route { next_hop: ROUTER.1, ..on_link };
    env.routes.push((HOST.1, Ipv4::mask(32), Route::LOCAL));
    let bridge = Route::of(BRIDGE, Ipv4::ANY);
    env.routes.push((GATEWAY.1, Ipv4::mask(32), Route::LOCAL));
    env.routes.push((SUBNET, Ipv4::mask(24), bridge));
    env.routes.push((Ipv4::new([203, 0, 113, 0]), Ipv4::mask(24), on_link));
    env.routes.push((Ipv4::ANY, Ipv4::mask(0), default));
    env.neighbours.insert(ROUTER.1, Neighbour { mac: ROUTER.0, source_mac: HOST.0, mtu: 1500 });
    Sim { skb: Frame::default(), tables, env }
}

impl Sim {
    /// A frame from the `n`-th namespace. It is left in `skb` as it goes on.
    pub fn from_namespace(&mut self, n: u8, frame: &[u8]) -> Outcome {
        self.run(Program::FromEndpoint, port(n), frame)
    }

    /// A frame from outside.
    pub fn from_outside(&mut self, frame: &[u8]) -> Outcome {
        self.run(Program::FromUplink, UPLINK, frame)
    }

    /// A frame on the host's loopback device.
    pub fn from_host(&mut self, frame: &[u8]) -> Outcome {
        self.run(Program::FromUplink, Flow::LOOPBACK, frame)
    }

    /// A frame of a namespace that comes in again by the host's loopback device.
    pub fn back_in(&mut self, frame: &[u8]) -> Outcome {
        let bytes = frame.to_vec();
        self.skb = Frame { bytes, ifindex: Flow::LOOPBACK, is_hairpin: true, ..Frame::default() };
        self.decide(Program::FromUplink)
    }

    /// A frame from the `n`-th namespace that comes in again by the loopback
    /// device: what becomes of it there.
    ///
    /// # Panics
    /// If it does not.
    pub fn hairpin(&mut self, n: u8, frame: &[u8]) -> Outcome {
        let outcome = self.from_namespace(n, frame);
        let is_back =
            matches!(outcome.result, Ok(Verdict::Neighbour { ifindex: Flow::LOOPBACK, .. }));
        assert!(is_back, "{outcome:?}");
        let frame = self.skb.bytes.clone();
        self.back_in(&frame)
    }

    /// A frame that the host's stack sends by the uplink.
    pub fn from_stack(&mut self, frame: &[u8]) -> Outcome {
        self.run(Program::ToUplink, UPLINK, frame)
    }

    /// A frame at a device where a program is.
    pub fn run(&mut self, program: Program, ifindex: u32, frame: &[u8]) -> Outcome {
        self.skb = Frame { bytes: frame.to_vec(), ifindex, ..Frame::default() };
        self.decide(program)
    }

    /// Gives the frame in `skb` to a program, and to those that it hands over to.
    pub fn decide(&mut self, program: Program) -> Outcome {
        let outcome = match program {
            Program::FromEndpoint => crate::from_endpoint(self),
            Program::FromUplink => crate::from_uplink(self),
            Program::ToUplink => crate::to_uplink(self),
        };
        let outcome = match (outcome.result, program) {
            (Ok(Verdict::Prepare(lack)), Program::FromEndpoint) => {
                prepare::from_endpoint(self, lack)
            }
            (Ok(Verdict::Prepare(_)), _) => prepare::from_uplink(self),
            _ => outcome,
        };
        let rare = &mut Rare::default();
        let outcome = match (outcome.result, program) {
            (Ok(Verdict::Rare), program) => {
                let id = match program {
                    Program::FromEndpoint => rare::from_endpoint(self, rare),
                    Program::FromUplink => rare::from_uplink(self, rare),
                    Program::ToUplink => rare::to_uplink(self, rare),
                };
                rare.decided().outcome(id)
            }
            _ => outcome,
        };
        self.env.answered = match outcome.result {
            Err(reason) if program != Program::ToUplink && answer::is_answered(reason) => {
                answer::dropped(self, outcome.endpoint, reason)
            }
            _ => None,
        };
        outcome
    }

    /// Lets time go by, without the sweeper.
    pub fn wait(&mut self, seconds: u32) {
        self.env.now = Ticks(self.env.now.0 + Ticks::from_secs(seconds).0);
    }

    /// Visits every flow once, as the sweeper does in its rounds.
    pub fn sweep(&mut self) {
        self.visit_all(Look::Due);
    }

    /// Visits every flow once.
    pub fn visit_all(&mut self, look: Look) {
        let now = self.env.now;
        for _ in 0..self.tables.queue.len() {
            expire::visit(self, now, look);
        }
    }
}
