//! What moves the packets of a host's networks, behind one trait: the plan and
//! its execution do not know how it does so.

mod ebpf;

use std::net::Ipv4Addr;

use netbpf_common::{Endpoint, EndpointId, MacAddr, PublishEntry, Uplink};

use crate::{
    bpf::{Hook, LoadOptions},
    error::Result,
    observe::DatapathSeen,
    topology::Subnet,
};

pub use ebpf::Ebpf;

/// The datapath of one host.
///
/// Setting a row that is set and clearing one that is not are no errors.
pub trait Datapath {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// Finds out whether it can run here; changes nothing.
    ///
    /// # Errors
    /// What is lacking.
    fn probe(&self) -> Result<()>;

    /// What there is of it, with those of the given hooks that are attached.
    ///
    /// # Errors
    /// It is there, but not one that this netbpf can use.
    fn observe(&self, hooks: &[(Hook, u32)]) -> Result<Option<DatapathSeen>>;

    /// Loads it: no packet passes by it yet.
    ///
    /// # Errors
    /// The kernel's.
    fn load(&mut self, options: &LoadOptions) -> Result<()>;

    /// Takes all of it away.
    ///
    /// # Errors
    /// The kernel's.
    fn unload(&mut self) -> Result<()>;

    /// Tells it of a namespace.
    ///
    /// # Errors
    /// The kernel's.
    fn set_endpoint(&self, id: EndpointId, endpoint: &Endpoint) -> Result<()>;

    /// Makes it forget a namespace and its flows.
    ///
    /// # Errors
    /// The kernel's.
    fn clear_endpoint(&self, id: EndpointId) -> Result<()>;

    /// Tells it of a gateway.
    ///
    /// # Errors
    /// The kernel's.
    fn set_gateway(&self, addr: Ipv4Addr, mac: MacAddr) -> Result<()>;

    /// Makes it forget a gateway.
    ///
    /// # Errors
    /// The kernel's.
    fn clear_gateway(&self, addr: Ipv4Addr, mac: MacAddr) -> Result<()>;

    /// Tells it of a network's subnet.
    ///
    /// # Errors
    /// The kernel's.
    fn set_subnet(&self, subnet: Subnet) -> Result<()>;

    /// Makes it forget a network's subnet.
    ///
    /// # Errors
    /// The kernel's.
    fn clear_subnet(&self, subnet: Subnet) -> Result<()>;

    /// Tells it of an uplink.
    ///
    /// # Errors
    /// The kernel's.
    fn set_uplink(&self, ifindex: u32, uplink: &Uplink) -> Result<()>;

    /// Makes it forget an uplink.
    ///
    /// # Errors
    /// The kernel's.
    fn clear_uplink(&self, ifindex: u32) -> Result<()>;

    /// Replaces the published ports of all networks.
    ///
    /// # Errors
    /// The kernel's.
    fn set_published(&self, all: &[PublishEntry]) -> Result<()>;

    /// The same with fewer than there were; nothing is to be done if it is not loaded.
    ///
    /// # Errors
    /// The kernel's.
    fn withdraw(&self, left: &[PublishEntry]) -> Result<()>;

    /// From now on packets of the interface pass by it.
    ///
    /// # Errors
    /// The kernel's.
    fn attach(&self, hook: Hook, ifindex: u32) -> Result<()>;

    /// Packets of the interface, which may be gone, pass by it no longer.
    ///
    /// # Errors
    /// The kernel's.
    fn detach(&self, hook: Hook, ifindex: u32) -> Result<()>;
}
