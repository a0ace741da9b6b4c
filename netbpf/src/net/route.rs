//! IPv4 routes.

use std::net::Ipv4Addr;

use futures_util::TryStreamExt as _;
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::route::{
        RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
        RouteType,
    },
};

use super::{Answer as _, Netlink};
use crate::{error::Result, topology::Subnet};

/// Number of the metric that is a route's MTU (`linux/rtnetlink.h`).
const RTAX_MTU: u32 = 2;

/// Number of the table that holds the kernel's routes to its own addresses.
const TABLE_LOCAL: u32 = 255;

/// An IPv4 route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Where it leads.
    pub destination: Subnet,
    /// The router that it goes by, if there is one.
    pub gateway: Option<Ipv4Addr>,
    /// Index of the interface that it goes by, if there is one.
    pub ifindex: Option<u32>,
    /// Its table.
    pub table: u32,
    /// Its metric: the lowest wins.
    pub metric: u32,
    /// Whether packets go somewhere by it, not into a hole.
    pub unicast: bool,
}

impl Route {
    /// Whether it is a default route.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }

    fn read(message: &RouteMessage) -> Self {
        let mut destination = Ipv4Addr::UNSPECIFIED;
        let mut route = Self {
            destination: Subnet::containing(destination, 0),
            gateway: None,
            ifindex: None,
            table: message.header.table.into(),
            metric: 0,
            unicast: message.header.kind == RouteType::Unicast,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(addr)) => destination = *addr,
                RouteAttribute::Gateway(RouteAddress::Inet(addr)) => route.gateway = Some(*addr),
                RouteAttribute::Oif(index) => route.ifindex = Some(*index),
                RouteAttribute::Table(table) => route.table = *table,
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::MultiPath(hops) => {
                    route.ifindex = hops.first().map(|hop| hop.interface_index);
                }
                _ => {}
            }
        }
        route.destination =
            Subnet::containing(destination, message.header.destination_prefix_length);
        route
    }
}

/// The default route by a gateway on an interface.
fn default_route(gateway: Ipv4Addr, ifindex: u32, metric: u32) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(gateway)
        .output_interface(ifindex)
        .priority(metric)
        .build()
}

impl Netlink {
    /// The IPv4 routes of all tables but the local one.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        let all: Vec<RouteMessage> = self
            .handle
            .route()
            .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
            .execute()
            .try_collect()
            .await
            .or_failed(|| "cannot list the routes".into())?;
        Ok(all.iter().map(Route::read).filter(|route| route.table != TABLE_LOCAL).collect())
    }

    /// Adds the route to an interface's own subnet, as the kernel does when the
    /// interface gets its address.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_subnet_route(
        &self,
        subnet: Subnet,
        source: Ipv4Addr,
        ifindex: u32,
    ) -> Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(subnet.addr(), subnet.prefix_len())
            .pref_source(source)
            .output_interface(ifindex)
            .scope(RouteScope::Link)
            .protocol(RouteProtocol::Kernel)
            .build();
        let added = self.handle.route().add(route).replace().execute().await;
        added.or_failed(|| format!("cannot add the route to {subnet}"))
    }

    /// Adds the default route, with a metric: in place of one that has the same, unless that
    /// is none of those that come first.
    ///
    /// # Errors
    /// The kernel's; that there is one of that metric, other than 0.
    pub async fn add_default_route(
        &self,
        gateway: Ipv4Addr,
        ifindex: u32,
        metric: u32,
    ) -> Result<()> {
        let route = default_route(gateway, ifindex, metric);
        let request = self.handle.route().add(route);
        let request = if metric == 0 { request.replace() } else { request };
        let added = request.execute().await;
        added.or_failed(|| format!("cannot add the default route by {gateway}"))
    }

    /// Removes the default route by that gateway.
    ///
    /// # Errors
    /// The kernel's; that there is none is not one.
    pub async fn delete_default_route(
        &self,
        gateway: Ipv4Addr,
        ifindex: u32,
        metric: u32,
    ) -> Result<()> {
        let route = default_route(gateway, ifindex, metric);
        let removed = self.handle.route().del(route).execute().await;
        removed.if_any(|| format!("cannot remove the default route by {gateway}")).map(drop)
    }

    /// Adds a route on which packets may be no longer than `mtu` bytes, whatever
    /// somebody on the way says.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_narrow_route(
        &self,
        subnet: Subnet,
        gateway: Ipv4Addr,
        ifindex: u32,
        mtu: u32,
    ) -> Result<()> {
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(subnet.addr(), subnet.prefix_len())
            .gateway(gateway)
            .output_interface(ifindex)
            .build();
        // A bit for each metric that nothing changes, by its number.
        let lock = RouteMetric::Lock(1 << RTAX_MTU);
        route.attributes.push(RouteAttribute::Metrics(vec![lock, RouteMetric::Mtu(mtu)]));
        let added = self.handle.route().add(route).replace().execute().await;
        added.or_failed(|| format!("cannot add the route to {subnet} by {gateway}"))
    }

    /// Adds a route by which packets silently go nowhere.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_blackhole(&self, subnet: Subnet) -> Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(subnet.addr(), subnet.prefix_len())
            .kind(RouteType::BlackHole)
            .build();
        let added = self.handle.route().add(route).replace().execute().await;
        added.or_failed(|| format!("cannot add a route to nowhere for {subnet}"))
    }
}
