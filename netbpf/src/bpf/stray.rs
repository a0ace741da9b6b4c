//! What is in the datapath's maps and pins that nobody has told it, in words and removed.

use std::{fmt, net::Ipv4Addr};

use netbpf_common::{
    AllowedPair, BridgePort, EndpointId, FdbSlot, MacAddr,
    maps::{
        Addresses, Allowed, BridgePorts, EndpointIds, Fdb, FdbSlots, MacKey, MapDef as _, Uplinks,
    },
};

use super::{Datapath, Hook, attach::interface};
use crate::error::Result;

/// An entry, a pin or an attachment that belongs to no network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stray {
    /// A row of `ENDPOINTS`, by its number.
    Endpoint(u16),
    /// An entry of `ENDPOINT_IDS`, by its interface index.
    Port(u32),
    /// An entry of `BRIDGE_PORTS`, by its slot.
    Slot(u32),
    /// An entry of `ADDRESSES`.
    Address(Ipv4Addr),
    /// An entry of `FDB`.
    Mac(MacAddr),
    /// An entry of `FDB_SLOTS`, by its slot.
    MacSlot(u32),
    /// An entry of `ALLOWED`.
    Pair(AllowedPair),
    /// An entry of `UPLINKS`, by its interface index.
    Uplink(u32),
    /// An entry of `SUBNETS`: address and bits of the prefix.
    Subnet(Ipv4Addr, u8),
    /// A program that is this datapath's, or the same, on a side of an interface besides.
    Copy {
        /// Its name.
        program: String,
        /// The interface's index.
        ifindex: u32,
        /// Whether on the way out.
        egress: bool,
        /// What holds it there.
        by: By,
    },
    /// The pin of an attachment to an interface, of that index, that is no network's.
    Pin(Hook, u32),
}

/// What holds a program on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// A TCX link of that number.
    Link(u32),
    /// TCX, without a link; the program's number.
    Program(u32),
    /// A filter of tc.
    Filter {
        /// Its priority.
        priority: u16,
        /// Its handle.
        handle: u32,
    },
}

impl Stray {
    /// The interface index that it is about, if it is about one.
    #[must_use]
    pub fn ifindex(&self) -> Option<u32> {
        match self {
            Self::Port(index) | Self::Uplink(index) | Self::Pin(_, index) => Some(*index),
            Self::Copy { ifindex, .. } => Some(*ifindex),
            _ => None,
        }
    }
}

/// What it is, by the names of maps.
impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(id) => write!(f, "endpoint {id} of no network"),
            Self::Port(index) => {
                write!(f, "an entry of {} for interface {index} of no network", EndpointIds::NAME)
            }
            Self::Slot(slot) => {
                write!(f, "an entry of {} in slot {slot} of no network", BridgePorts::NAME)
            }
            Self::Address(addr) => write!(f, "{addr} of no network in {}", Addresses::NAME),
            Self::Mac(mac) => write!(f, "{mac} of no network in {}", Fdb::NAME),
            Self::MacSlot(slot) => {
                write!(f, "an entry of {} in slot {slot} of no network", FdbSlots::NAME)
            }
            Self::Pair(pair) => {
                let [one, other] = pair.both();
                write!(f, "endpoints {} and {} of no network in {}", one.0, other.0, Allowed::NAME)
            }
            Self::Uplink(index) => write!(f, "uplink with ifindex {index} of no network"),
            Self::Subnet(addr, len) => write!(f, "subnet {addr}/{len} of no network"),
            Self::Copy { program, ifindex, egress, by } => {
                let device = interface(*ifindex).unwrap_or_default();
                let side = if *egress { "egress" } else { "ingress" };
                write!(f, "a second {program} on {side} of {device}, ")?;
                match by {
                    By::Link(number) => write!(f, "by link {number}"),
                    By::Program(_) => f.write_str("by TCX"),
                    By::Filter { priority, handle } => {
                        write!(f, "by filter {handle:#x} of priority {priority}")
                    }
                }
            }
            Self::Pin(hook, index) => {
                let (name, device) = (hook.program(), interface(*index));
                write!(f, "the pin of {name} on ")?;
                match device {
                    Some(device) => write!(f, "{device}, which no network has"),
                    None => write!(f, "an interface that is gone (ifindex {index})"),
                }
            }
        }
    }
}

impl Datapath {
    /// Removes what belongs to no network; returns how many flows ended with it. What is
    /// gone is no error.
    ///
    /// # Errors
    /// What the maps say, or the kernel refuses.
    pub fn clear_stray(&self, stray: &Stray) -> Result<u64> {
        match *stray {
            Stray::Endpoint(id) => return self.clear_endpoint(EndpointId(id)),
            Stray::Port(index) => drop(self.map::<EndpointIds>()?.remove(&index)?),
            Stray::Slot(slot) => self.map::<BridgePorts>()?.set(&slot, &BridgePort::default())?,
            Stray::Address(addr) => drop(self.map::<Addresses>()?.remove(&addr.into())?),
            Stray::Mac(mac) => drop(self.map::<Fdb>()?.remove(&MacKey::from(mac))?),
            Stray::MacSlot(slot) => self.map::<FdbSlots>()?.set(&slot, &FdbSlot::FREE)?,
            Stray::Pair(pair) => drop(self.map::<Allowed>()?.remove(&pair)?),
            Stray::Uplink(index) => {
                let is_there = self.map::<Uplinks>()?.get(&index)?.is_some();
                return if is_there { self.clear_uplink(index) } else { Ok(0) };
            }
            Stray::Subnet(addr, len) => self.clear_subnet(addr.into(), len)?,
            Stray::Copy { ifindex, egress, by, .. } => Self::remove_copy(ifindex, egress, by)?,
            Stray::Pin(hook, index) => Self::detach(self.pin_dir(), hook, index)?,
        }
        Ok(0)
    }
}
