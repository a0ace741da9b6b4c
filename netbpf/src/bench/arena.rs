//! The machines of the contenders: a sandbox each, alike but for what moves the
//! packets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    process::Stdio,
};

use netbpf_common::MacAddr;

use super::{
    conntrack,
    contender::{Contender, Way},
    frame::Frames,
    programs::{Limit, Programs},
};
use crate::{
    bpf::Datapath,
    error::{Context as _, Error, Result},
    host::Host,
    namespace::Namespace,
    net::Netlink,
    sandbox::{Sandbox, Wire, World},
    session::block_on,
};

/// Ports that are published, of the first namespace: all servers listen on them.
/// No flow of the generator begins with one.
pub(super) const PORTS: std::ops::RangeInclusive<u16> = 32_100..=32_163;

/// The interface of every namespace, and the host's uplink.
const INTERFACE: &str = "eth0";

/// Receivers of what namespaces send to the outside, of which no machine has to
/// be there: the sink takes what is on its way to them. RFC 2544 reserves them
/// for benchmarks.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Addresses of the first two namespaces, as netbpf gives them.
const NS: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 19, 0, 2), Ipv4Addr::new(172, 19, 0, 3)];

/// What switches iptables on for what is bridged, in the calling thread's
/// network namespace.
const BRIDGE_NF: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// What machines are built from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blueprint {
    /// Flows that netbpf's table holds; as many as it likes if 0.
    pub(super) max_flows: u32,
}

/// An end of a way: an interface, and who has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) ifindex: u32,
    pub(super) mac: MacAddr,
    pub(super) addr: Ipv4Addr,
}

/// A machine with its outside.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) sandbox: Sandbox,
    /// The first two namespaces; none in a machine without a network.
    namespaces: Vec<Namespace>,
    /// The interfaces inside them.
    inside: Vec<End>,
    /// The host's ends of their wires.
    ports: Vec<End>,
    gateway: Option<End>,
    uplink: End,
    outside: End,
    /// Whether it can be said that bridged packets pass iptables.
    has_bridge_nf: bool,
    /// With the sink of the first namespace.
    to_ns: Programs,
    /// With the sink of the outside.
    to_outside: Programs,
}

/// Looks at an interface of the calling thread's network namespace.
fn end(interface: &str, addr: Ipv4Addr) -> Result<End> {
    block_on(async {
        let link = Netlink::here()?.link(interface).await?;
        let no = || Error::failed(format!("a sandbox has no interface {interface}"));
        let link = link.ok_or_else(no)?;
        Ok(End { ifindex: link.index, mac: link.mac.ok_or_else(no)?, addr })
    })
}

impl Machine {
    /// Builds the machine of a contender, or several that share one.
    fn build(contender: Contender, blueprint: Blueprint) -> Result<Self> {
        let sandbox = Sandbox::new(&World::default())?;
        let networked = !matches!(contender, Contender::Veth | Contender::Generator);
        if networked {
            up(&sandbox, contender, blueprint)?;
        }
        if matches!(contender, Contender::Limit | Contender::Bridge) {
            // What is left is a bridge and routes that nothing leads past.
            sandbox.host().run(|| Datapath::unload(&Host::here()?.pins))??;
        }
        let wire = Wire::FIRST;
        let uplink = sandbox.host().run(|| end(INTERFACE, wire.host))??;
        let outside = sandbox.outside().run(|| end(INTERFACE, wire.outside))??;
        let (mut namespaces, mut inside, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        let mut gateway = None;
        if networked {
            for (n, addr) in (1..).zip(NS) {
                let namespace = sandbox.namespace(&format!("ns{n}"))?;
                inside.push(namespace.run(|| end(INTERFACE, addr))??);
                ports.push(sandbox.host().run(|| end(&format!("netbpf0-{n}"), addr))??);
                namespaces.push(namespace);
            }
            let bridge = Ipv4Addr::new(172, 19, 0, 1);
            gateway = Some(sandbox.host().run(|| end("netbpf0", bridge))??);
        }
        let first_port = ports.first().map_or(0, |port: &End| port.ifindex);
        let has_bridge_nf = matches!(contender, Contender::Iptables | Contender::Bridge)
            && sandbox.host().run(|| fs::exists(BRIDGE_NF).unwrap_or(false))?;
        let machine = Self {
            has_bridge_nf,
            to_ns: Programs::load(first_port)?,
            to_outside: Programs::load(uplink.ifindex)?,
            sandbox,
            namespaces,
            inside,
            ports,
            gateway,
            uplink,
            outside,
        };
        machine.attach(contender)?;
        Ok(machine)
    }

    /// Attaches sinks, and limits in front of what moves packets otherwise.
    fn attach(&self, contender: Contender) -> Result<()> {
        let outside = self.outside.ifindex;
        self.sandbox.outside().run(|| self.to_outside.attach_sink(outside))??;
        if let (Some(ns), Some(end)) = (self.namespaces.first(), self.inside.first()) {
            ns.run(|| self.to_ns.attach_sink(end.ifindex))??;
        }
        if contender != Contender::Limit {
            return Ok(());
        }
        let [first, second] = self.ports[..] else { return Ok(()) };
        self.sandbox.host().run(|| {
            self.to_outside.attach_limit(Limit::Out, first.ifindex)?;
            self.to_ns.attach_limit(Limit::Peer, second.ifindex)?;
            self.to_ns.attach_limit(Limit::Peer, self.uplink.ifindex)
        })?
    }

    /// What takes part in a way: where frames come in, in which namespace, what
    /// they look like, and whose sink is at the other end.
    pub(super) fn lane(&self, way: Way, flows: u32) -> Result<Lane<'_>> {
        let host = self.sandbox.host();
        let frames = |from: End, to: End, via: MacAddr| Frames {
            macs: (from.mac, via),
            addrs: (from.addr, to.addr),
            port: *PORTS.start(),
            flows,
            walks_source: way == Way::OutsideToNs,
        };
        let far = End { addr: FAR, ..self.outside };
        let lane = match (&self.inside[..], &self.ports[..], self.gateway, way) {
            // From the second to the first, where the sink is.
            (&[first, second, ..], &[_, port, ..], _, Way::NsToNs) => Lane {
                entry: (host, port.ifindex),
                frames: frames(second, first, first.mac),
                programs: &self.to_ns,
                seen: None,
            },
            (&[first, ..], &[port, ..], Some(gateway), Way::NsToOutside) => Lane {
                entry: (host, port.ifindex),
                frames: frames(first, far, gateway.mac),
                programs: &self.to_outside,
                seen: Some((self.uplink.addr, far.addr)),
            },
            (&[first, ..], _, _, Way::OutsideToNs) => Lane {
                entry: (host, self.uplink.ifindex),
                frames: frames(far, self.uplink, self.uplink.mac),
                programs: &self.to_ns,
                seen: Some((far.addr, first.addr)),
            },
            ([], ..) => Lane {
                entry: (self.sandbox.outside(), self.outside.ifindex),
                frames: frames(self.uplink, self.outside, self.outside.mac),
                programs: &self.to_outside,
                seen: None,
            },
            _ => return Err(Error::failed(format!("a machine has no way {way}"))),
        };
        Ok(lane)
    }

    /// Where a server of a way is, at which address it is reached, and where its
    /// clients are.
    pub(super) fn ends(&self, way: Way) -> Result<Ends<'_>> {
        let (host, outside) = (self.sandbox.host(), self.sandbox.outside());
        let ends = match (&self.namespaces[..], way) {
            ([first, second, ..], Way::NsToNs) => {
                Ends { server: first, addr: NS[0], client: second }
            }
            ([first, ..], Way::NsToOutside) => {
                Ends { server: outside, addr: self.outside.addr, client: first }
            }
            ([first, ..], Way::OutsideToNs) => {
                Ends { server: first, addr: self.uplink.addr, client: outside }
            }
            ([], _) => Ends { server: outside, addr: self.outside.addr, client: host },
            _ => return Err(Error::failed(format!("a machine has no way {way}"))),
        };
        Ok(ends)
    }

    /// The datapath that is loaded on it.
    pub(super) fn datapath(&self) -> Result<Datapath> {
        let opened = self.sandbox.host().run(|| Datapath::open(&Host::here()?.pins))??;
        opened.ok_or_else(|| Error::failed("the datapath of a sandbox is gone"))
    }

    /// Forgets all flows: those of one way would take the room of the next.
    pub(super) fn forget_flows(&self, contender: Contender) -> Result<()> {
        let host = self.sandbox.host();
        match contender {
            Contender::Netbpf => {
                let datapath = self.datapath()?;
                host.run(|| datapath.flush(|_| true))?.map(drop)
            }
            Contender::Iptables => host.run(conntrack::flush)?,
            _ => Ok(()),
        }
    }

    /// Has bridged packets pass iptables, or not.
    fn set_bridge_nf(&self, on: bool) -> Result<()> {
        let value = if on { "1" } else { "0" };
        let set = self.sandbox.host().run(|| fs::write(BRIDGE_NF, value))?;
        set.context(format!("cannot set {BRIDGE_NF} of a sandbox to {value}"))
    }
}

/// What takes part in a way of frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane<'a> {
    /// The namespace and the interface by which frames come in.
    pub(super) entry: (&'a Namespace, u32),
    /// What they look like.
    pub(super) frames: Frames,
    /// The generator, and the sink at the far end.
    pub(super) programs: &'a Programs,
    /// Source and destination that frames of the first flow have in the end,
    /// where they are translated.
    pub(super) seen: Option<(Ipv4Addr, Ipv4Addr)>,
}

/// The two ends of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends<'a> {
    /// Where the server is.
    pub(super) server: &'a Namespace,
    /// The address at which clients reach it.
    pub(super) addr: Ipv4Addr,
    /// Where the clients are.
    pub(super) client: &'a Namespace,
}

/// Builds the network of a contender in a sandbox, with the command that a user
/// would type.
fn up(sandbox: &Sandbox, contender: Contender, blueprint: Blueprint) -> Result<()> {
    let (first, last) = (PORTS.start(), PORTS.end());
    let published = |proto: &str| format!("{first}-{last}:ns1:{first}-{last}/{proto}");
    let mut arguments: Vec<String> = ["up", "--namespaces", "2", "--uplink", INTERFACE]
        .into_iter()
        .map(str::to_owned)
        .chain(["tcp", "udp"].into_iter().flat_map(|proto| ["-p".to_owned(), published(proto)]))
        .collect();
    if contender == Contender::Iptables {
        arguments.extend(["--datapath", "iptables"].map(str::to_owned));
    } else {
        arguments.extend(["--datapath", "ebpf"].map(str::to_owned));
        if blueprint.max_flows > 0 {
            let most = blueprint.max_flows.to_string();
            arguments.extend(["--max-flows", &most, "--flow-limit", &most].map(str::to_owned));
        }
    }
    netbpf(sandbox, &arguments).map(drop)
}

/// Runs this netbpf in a sandbox; returns what it says.
pub(super) fn netbpf(sandbox: &Sandbox, arguments: &[String]) -> Result<Vec<u8>> {
    let what = || format!("netbpf {} failed in a sandbox", arguments.join(" "));
    let mut command = sandbox.netbpf(arguments);
    command.env_remove("NETBPF_FAULT").stdin(Stdio::null());
    let output = command.output().context(what())?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Error::failed(what()).because(String::from_utf8_lossy(&output.stderr).trim()))
}

/// Why contenders are left out.
pub(super) type Absent = BTreeMap<Contender, String>;

/// Finds out who cannot take part here, and why.
pub(super) fn absent() -> Result<Absent> {
    let mut absent = Absent::new();
    let sandbox = Sandbox::new(&World::default())?;
    if let Err(error) = up(&sandbox, Contender::Iptables, Blueprint { max_flows: 0 }) {
        for contender in [Contender::Iptables, Contender::BridgeNf] {
            absent.insert(contender, error.why().unwrap_or(error.what()).to_owned());
        }
    } else if !sandbox.host().run(|| fs::exists(BRIDGE_NF).unwrap_or(false))? {
        absent.insert(
            Contender::BridgeNf,
            "the kernel has no net.bridge.bridge-nf-call-iptables: br_netfilter is not loaded"
                .to_owned(),
        );
    }
    Ok(absent)
}

/// The machines of several contenders.
#[derive(Debug)]
pub(super) struct Arena {
    machines: BTreeMap<Contender, Machine>,
}

impl Arena {
    /// Builds the machines of those contenders that are not absent.
    pub(super) fn build(
        contenders: &[Contender],
        absent: &Absent,
        blueprint: Blueprint,
    ) -> Result<Self> {
        let mut arena = Self { machines: BTreeMap::new() };
        let present = |contender: &&Contender| !absent.contains_key(contender);
        // In order, so that a machine that others use as well is there before them.
        for contender in contenders.iter().filter(present).collect::<BTreeSet<_>>() {
            if arena.find(*contender).is_none() {
                let owner = match contender {
                    Contender::Generator => Contender::Veth,
                    Contender::BridgeNf => Contender::Iptables,
                    own => *own,
                };
                arena.machines.insert(owner, Machine::build(owner, blueprint)?);
            }
        }
        Ok(arena)
    }

    /// The contender's machine. Both kinds of bridge are found in the network of
    /// iptables, where a switch is set one way or the other, if there is one.
    fn find(&self, contender: Contender) -> Option<&Machine> {
        let owners = match contender {
            Contender::BridgeNf | Contender::Bridge => [Contender::Iptables, contender],
            Contender::Generator => [Contender::Veth, contender],
            own => [own, own],
        };
        owners.iter().find_map(|owner| self.machines.get(owner))
    }

    /// The machine of a contender who is not absent, made ready for it.
    pub(super) fn machine(&self, contender: Contender) -> Result<&Machine> {
        let machine = self.find(contender);
        let machine =
            machine.ok_or_else(|| Error::failed(format!("{contender} has no machine")))?;
        if machine.has_bridge_nf {
            // Where iptables itself is compared, its network is as the kernel makes it.
            machine.set_bridge_nf(contender != Contender::Bridge)?;
        }
        Ok(machine)
    }
}
