//! What the control plane needs to put these types into maps.

use crate::{
    AllowedPair, BridgePort, Config, Counters, Endpoint, ErrorCount, FdbEntry, FdbSlot, Flow,
    FlowVisit, FragmentKey, Fragments, HeldFragment, Ipv4, LearnCount, NextHop, PortOwner,
    PublishEntry, Tuple, Uplink,
    bench::{Arrivals, Generator},
    maps::{MacKey, SubnetKey},
};

macro_rules! pod {
    ($($type:ty),+) => {
        $(
            // SAFETY: repr(C) or repr(transparent) over integers and arrays of
            // them, without implicit padding (sizes are asserted where the type
            // is defined), so every byte is initialised and every pattern valid.
            unsafe impl aya::Pod for $type {}
        )+
    };
}

pod!(
    AllowedPair,
    BridgePort,
    Arrivals,
    Config,
    Counters,
    Endpoint,
    ErrorCount,
    FdbEntry,
    FdbSlot,
    Flow,
    FlowVisit,
    FragmentKey,
    Fragments,
    Generator,
    HeldFragment,
    Ipv4,
    LearnCount,
    MacKey,
    NextHop,
    PortOwner,
    PublishEntry,
    SubnetKey,
    Tuple,
    Uplink
);
