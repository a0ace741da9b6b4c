//! Making the network namespaces of a sandbox and the wires between them.

use std::{
    fs::File,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{HOST, OUTSIDE, Wire, World};
use crate::{
    error::{Context as _, Error, Result},
    namespace::{Namespace, enter_mounts, on_a_thread},
    net::{Entered, Netlink, NewVeth, Worker, ethtool, netns, sysctl},
    session::block_on,
    topology::{LOOPBACK, mac},
};

/// How long a wire may take to carry packets once both ends are switched on.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often is looked whether it does.
const GLANCE: Duration = Duration::from_millis(1);

/// Makes both namespaces, and everything between them.
pub(super) fn build(mounts: &Arc<File>, world: &World) -> Result<(Namespace, Namespace)> {
    on_a_thread(|| {
        enter_mounts(mounts).context("cannot enter the sandbox")?;
        block_on(async {
            let worker = Worker::spawn()?;
            let host = Side::make(HOST, mounts, &worker).await?;
            let outside = Side::make(OUTSIDE, mounts, &worker).await?;
            for (n, wire) in world.wires.iter().enumerate() {
                connect(&host, &outside, &format!("eth{n}"), *wire, world).await?;
            }
            if let Some(first) = world.wires.first() {
                let netlink = &host.entered.netlink;
                netlink.add_default_route(first.outside, netlink.index("eth0").await?, 0).await?;
            }
            Ok((host.namespace, outside.namespace))
        })
    })
}

/// A namespace, and a connection into it.
struct Side {
    namespace: Namespace,
    entered: Entered,
}

impl Side {
    /// Makes a namespace with a name, its loopback interface switched on.
    async fn make(name: &str, mounts: &Arc<File>, worker: &Worker) -> Result<Self> {
        let entered = worker.create().await?;
        netns::give_name(&entered.netns, name)?;
        let net = entered.netns.try_clone().context("cannot keep a network namespace")?;
        let namespace = Namespace::new(name, mounts, net);
        // Before there are interfaces, which would have what was set before.
        namespace.run(sysctl::set_defaults)??;
        let netlink = &entered.netlink;
        netlink.set_up(netlink.index(LOOPBACK).await?).await?;
        Ok(Self { namespace, entered })
    }

    async fn address(&self, interface: &str, addr: Ipv4Addr, prefix_len: u8) -> Result<()> {
        let netlink = &self.entered.netlink;
        netlink.add_address(netlink.index(interface).await?, addr, prefix_len).await
    }
}

/// Puts a wire between host and outside, and waits until it carries packets.
async fn connect(host: &Side, outside: &Side, name: &str, wire: Wire, world: &World) -> Result<()> {
    let veth = NewVeth {
        name,
        mac: mac::generated(wire.host),
        peer: name,
        peer_mac: mac::generated(wire.outside),
        peer_netns: outside.entered.netns.as_fd(),
        mtu: world.mtu,
    };
    host.entered.netlink.add_veth(veth).await?;
    if !world.offloads {
        for side in [host, outside] {
            side.namespace.run(|| ethtool::switch_offloads_off(name))??;
        }
    }
    host.address(name, wire.host, wire.prefix_len).await?;
    outside.address(name, wire.outside, wire.prefix_len).await?;
    let beyond = &outside.entered.netlink;
    beyond.set_up(beyond.index(name).await?).await?;
    for side in [host, outside] {
        wait_until_running(&side.entered.netlink, name).await?;
    }
    Ok(())
}

/// Waits until an interface takes packets: the kernel notices in its own time
/// that the other end is there.
async fn wait_until_running(netlink: &Netlink, name: &str) -> Result<()> {
    let begin = Instant::now();
    while !netlink.link(name).await?.is_some_and(|link| link.running) {
        if begin.elapsed() > PATIENCE {
            return Err(Error::failed(format!("the interface {name} of a sandbox stays down"))
                .because(format!("waited {} s for it", PATIENCE.as_secs()))
                .hint("try again when the machine is less busy"));
        }
        sleep(GLANCE).await;
    }
    Ok(())
}
