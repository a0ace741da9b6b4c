//! The kernel behind the seam. All `unsafe` of the datapath is in here.

pub(crate) mod apart;
pub(crate) mod atomic;
pub(crate) mod env;
pub(crate) mod maps;
pub(crate) mod skb;
pub(crate) mod sweeper;
pub(crate) mod word;
